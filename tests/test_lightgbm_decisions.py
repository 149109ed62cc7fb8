"""Hand-made LightGBM model texts: every decision, linear leaf and number, against lightgbm itself."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

lgb = pytest.importorskip("lightgbm")

import scipy.sparse as sp  # noqa: E402

from tests import zoo_lightgbm as zoo  # noqa: E402
from tests.lightgbm_texts import linear_text, model_text, stump, tree_text  # noqa: E402
from tests.support import SPECIAL, assert_bits_equal  # noqa: E402
from tests.test_lightgbm import assert_same_forest, call, interpret  # noqa: E402
from woodpecker import reference  # noqa: E402
from woodpecker.errors import UnsupportedModelError  # noqa: E402
from woodpecker.forest import IN, ZERO_BAND, Forest  # noqa: E402
from woodpecker.frontend.lightgbm import from_file  # noqa: E402
from woodpecker.frontend.lightgbm_objective import atof  # noqa: E402


def compare(text: str, X: np.ndarray) -> Forest:
    """The forest of a text, after it gave the library's leaves and raw scores on these rows."""
    booster = lgb.Booster(model_str=text)
    forest = from_file(text.encode())
    leaves, raw = interpret(forest, X)
    np.testing.assert_array_equal(leaves, zoo.leaves(booster, X))
    assert_bits_equal(raw, zoo.raw(booster, X))
    return forest


POINTS = [0.0, -0.0, ZERO_BAND, -ZERO_BAND, 1e-35, -1e-35, 5e-324, -5e-324, 1e-40, 0.5, -0.5, 2.0, 31.5, 1e300, -1e300]
POINTS += [np.nextafter(ZERO_BAND, 1), -np.nextafter(ZERO_BAND, 1), np.nextafter(ZERO_BAND, 0)]


def special_rows(dtype: str) -> np.ndarray:
    """(n, 1): everything at, below and above the special points, and category codes known and unknown."""
    codes = [-1, -0.999, -1.5, 1, 3, 4.999, 31, 32, 33, 63, 64, 95, 96, 2**24, 2**31 - 1, 2.0**31, 2.0**32 + 3, 1e18]
    points = np.concatenate([POINTS, SPECIAL, codes, np.negative(codes), [np.inf, -np.inf, np.nan, -np.nan]])
    with np.errstate(over="ignore", under="ignore"):
        values = points.astype(dtype)
        return np.concatenate(
            [values, np.nextafter(values, values.dtype.type(np.inf)), np.nextafter(values, values.dtype.type(-np.inf))]
        )[:, None]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("with_sets", [False, True])
def test_every_decision_type(with_sets: bool, dtype: str) -> None:
    """All 16 patterns of category bit, default-left bit and missing type, at each special threshold. Without category
    sets in the tree, the category bit means nothing."""
    trees: list[str] = []
    sets: dict[str, Any] = dict(num_cat=[2], cat_boundaries=[0, 1, 4], cat_threshold=[0b1011, 2**31, 1, 2**31 + 2])
    for decision_type in range(16):
        points = [0.0, 0.5, 1.0, 1.9] if with_sets and decision_type & 1 else POINTS
        trees += [stump(len(trees) + j, t, decision_type, **(sets if with_sets else {})) for j, t in enumerate(points)]
    forest = compare(model_text(trees), special_rows(dtype))
    kinds = forest.kind[forest.tree_offset[:-1]]
    assert (kinds == IN).sum() == (32 if with_sets else 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linear_leaves(dtype: str) -> None:
    """NaN in any feature of a leaf gives leaf_value, elsewhere it does not matter; a leaf without terms is leaf_const;
    terms are added in the order of the text."""
    points = [np.nan, 0.0, -0.0, 1e-35, 0.1, 1.0, -2.7, 1e16, 5e-324, np.inf]
    X = np.stack(np.meshgrid(points, points, points), -1).reshape(-1, 3).astype(dtype)
    forest = compare(linear_text(), X)
    assert forest.linear_offset.tolist() == [0, 3, 3, 5, 6, 6, 6]


def test_leaves_and_thresholds_are_read_as_lightgbm_reads_them() -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**64, 600, dtype=np.uint64).view(np.float64)
    values = np.concatenate([values, rng.integers(0, 2**52, 100).view(np.float64), [-0.0, 1e22, 1e23, 5e-324]])
    thresholds = np.unique(values[np.isfinite(values) & (np.abs(values) > 1e-30)])
    n = len(thresholds)
    leaves = [
        f"{v:.{d}g}" for v, d in zip(np.resize(values[np.isfinite(values)], n + 1), [17, 20, 9] * n, strict=False)
    ]
    text = tree_text(
        0,
        split_feature=["0"] * n,
        threshold=thresholds,
        decision_type=["10"] * n,
        left_child=[str(~i) for i in range(n)],
        right_child=[*map(str, range(1, n)), str(~n)],
        leaf_value=leaves,
    )
    X = np.concatenate([thresholds, np.nextafter(thresholds, np.inf), np.nextafter(thresholds, -np.inf)])[:, None]
    compare(model_text([text]), X)


def test_integers_and_half_floats_become_float32() -> None:
    text = model_text([stump(i, t, 10) for i, t in enumerate([0.5, 2.0**24, 2.0**24 + 1, 0.1])])
    X = np.array([[0], [1], [2**24], [2**24 + 1], [2**24 + 2], [-3]])
    for dtype in ("int64", "int32", "uint8", "bool", "float16"):
        with np.errstate(over="ignore"):
            compare(text, X.astype(dtype))


def test_csr_rows_have_no_zero_band() -> None:
    """LightGBM's CSR rows keep explicit values in the zero band, which dense and CSC rows read as 0.0: they take other
    branches where a threshold lies between such a value and 0.0, unless the node's missing type is Zero."""
    trees = [stump(i, t, d) for i, (t, d) in enumerate((t, d) for t in POINTS for d in (0, 2, 4, 6, 8, 10))]
    text = model_text(trees)
    X = special_rows("float64")
    csr = sp.csr_matrix((X[:, 0], np.zeros(len(X), int), np.arange(len(X) + 1)), shape=X.shape)
    booster, forest = lgb.Booster(model_str=text), compare(text, X)
    in_csr, _ = interpret(dataclasses.replace(forest, zero_band=0.0), X)
    np.testing.assert_array_equal(in_csr, zoo.leaves(booster, csr))
    np.testing.assert_array_equal(zoo.leaves(booster, sp.csc_matrix(csr)), zoo.leaves(booster, X))
    differ = (in_csr != reference.apply(forest, X)).any(axis=1)
    assert differ.any() and (np.abs(X[differ]) <= ZERO_BAND).all() and (X[differ] != 0).all()


def test_a_v3_text_is_the_same_forest() -> None:
    text = linear_text().encode()
    assert_same_forest(from_file(text), from_file(text.replace(b"version=v4", b"version=v3")))
    assert from_file(text.replace(b"version=v4", b"version=v3")).source["format"] == "v3"


@pytest.mark.parametrize(
    ("objective", "link", "args"),
    [
        ("binary sigmoid:1", "lgb_sigmoid", {"sigmoid": 1.0}),
        ("cross_entropy", "lgb_sigmoid", {"sigmoid": 1.0}),
        ("cross_entropy_lambda", "lgb_cross_entropy_lambda", {}),
        ("regression", "identity", {}),
        ("regression sqrt", "lgb_sqrt", {}),
        ("regression_l1 sqrt", "lgb_sqrt", {}),
        ("mape sqrt", "lgb_sqrt", {}),
        ("quantile sqrt", "lgb_sqrt", {}),
        ("fair sqrt", "lgb_sqrt", {}),
        ("huber sqrt", "identity", {}),
        ("poisson", "exp", {}),
        ("gamma sqrt", "exp", {}),
        ("tweedie", "exp", {}),
        ("lambdarank", "identity", {}),
        ("rank_xendcg", "identity", {}),
        ("custom", "identity", {}),
    ],
)
def test_links(objective: str, link: str, args: dict[str, Any]) -> None:
    text = model_text([stump(0, 0.5, 10), stump(1, 0.7, 10)], objective=objective)
    forest = from_file(text.encode())
    assert (forest.methods["predict"].link, forest.methods["predict"].args) == (link, args)
    X = np.array([[0.0], [0.6], [1.0]])
    want = lgb.Booster(model_str=text).predict(X)
    np.testing.assert_allclose(call(forest, "predict", X), want, rtol=4e-15, atol=0)


def test_atof_has_the_bits_of_lightgbms_own_parser() -> None:
    rng = np.random.default_rng(0)
    texts = [f"{v:.6g}" for v in 10 ** rng.uniform(-5, 5, 100)] + [f"{v:.17g}" for v in rng.uniform(0.1, 3, 100)]
    assert any(atof(text) != float(text) for text in texts)
    leaf = 0.77777
    for text in texts:
        model = model_text([tree_text(0, leaf_value=[leaf])], objective=f"binary sigmoid:{text}")
        want = lgb.Booster(model_str=model).predict(np.zeros((1, 1)))[0]
        z = -atof(text) * leaf
        assert want == 1 / (1 + (math.exp(z) if z > -745 else 0.0)), text


@pytest.mark.parametrize("objective", ["binary_logloss", "", "Regression", "lambda rank"])
def test_unknown_objective(objective: str) -> None:
    with pytest.raises(UnsupportedModelError, match="objective"):
        from_file(model_text([stump(0, 0.5, 10)], objective=objective).encode())


@pytest.mark.parametrize("version", ["v2", "v5", "4"])
def test_unknown_version(version: str) -> None:
    with pytest.raises(UnsupportedModelError, match="version"):
        from_file(model_text([stump(0, 0.5, 10)], version=version).encode())


def test_files_are_read_without_lightgbm(tmp_path: Any) -> None:
    path = tmp_path / "model.txt"
    path.write_text(linear_text())
    code = (
        "import sys, woodpecker.frontend.lightgbm as f\n"
        f"assert not f.matches(3) and f.from_file({str(path)!r}).n_trees == 3\n"
        "loaded = {'lightgbm', 'sklearn', 'scipy', 'pandas', 'xgboost', 'tvm'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
