"""The scikit-learn frontend against scikit-learn, bit for bit, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.special import expit
from sklearn import ensemble

from woodpecker import reference
from woodpecker.errors import InputError, UnsupportedModelError
from woodpecker.forest import IN, Forest
from woodpecker.frontend.sklearn import from_model
from woodpecker.runtime.outputs import KINDS, leaves_onehot

from .support import FULL_ROWS, assert_bits_equal, bits, boundary_rows
from .zoo import Case
from .zoo_sklearn import CASES
from .zoo_sklearn_models import ESTIMATORS, STRINGS, columns, frame, train, train_categories

METHODS = ("predict", "predict_proba", "decision_function", "score_samples", "transform")


def ids(cases: list[Case]) -> list[str]:
    return [case.name for case in cases]


def check_scores(case: Case, n: int, seed: int) -> None:
    """Leaf ids and raw scores on boundary rows and on rows like those of training, `n` of each dtype in all."""
    model = case.make()
    forest = from_model(model, **dict(case.options))
    if (forest.kind == IN).any():
        # The interpreter looks up categories one row after the other.
        n = min(n, 10_000)
    for dtype in case.dtypes:
        ordinary = columns(seed, n // 8, "nan", dtype)[:, : forest.n_features]
        for X in (boundary_rows(forest, n - n // 8, seed, dtype, case.infinities), ordinary):
            leaves = case.leaves(model, X)
            if leaves is not None:
                np.testing.assert_array_equal(reference.apply(forest, X), leaves)
            assert_bits_equal(reference.predict_raw(forest, X), case.raw(model, X))


@pytest.mark.parametrize("case", CASES[::12], ids=ids(CASES[::12]))
def test_scores(case: Case) -> None:
    check_scores(case, 500, seed=1)


@pytest.mark.full
@pytest.mark.parametrize("case", CASES, ids=ids(CASES))
def test_scores_full(case: Case) -> None:
    check_scores(case, FULL_ROWS // 2, seed=2)


def test_zoo_is_wide() -> None:
    assert len(CASES) == len(set(ids(CASES))) >= 300
    assert {case.name.split("-")[0] for case in CASES} == set(ESTIMATORS)


# ---- methods


def link(name: str, raw: np.ndarray, args: Any, model: Any) -> np.ndarray:
    """scikit-learn's links, each in the library's dtype and order of operations."""
    if name == "identity":
        return raw
    if name == "sigmoid":
        return expit(raw)
    if name == "sk_sigmoid2":
        return expit(2 * raw)
    if name == "exp":
        return np.exp(raw)
    if name == "isolation_score":
        return -(2 ** -(raw / args["denominator"]))
    assert name == "sk_softmax"
    # HistGradientBoosting's raw scores are in Fortran order, which makes numpy add the classes one by one.
    shifted = np.array(raw, order="F" if hasattr(model, "_predictors") else "C")
    shifted -= shifted.max(axis=1).reshape(-1, 1)
    np.exp(shifted, out=shifted)
    return shifted / shifted.sum(axis=1).reshape(-1, 1)


def call(forest: Forest, name: str, X: np.ndarray, model: Any) -> Any:
    method = forest.methods[name]
    if method.kind == "leaves_onehot":
        return leaves_onehot(reference.apply(forest, X), method.args)
    z = link(method.link, reference.predict_raw(forest, X), method.args, model)
    return KINDS[method.kind](z, forest.classes, method.args)


def assert_same(got: Any, want: Any) -> None:
    if isinstance(want, list):
        assert isinstance(got, list) and len(got) == len(want)
        for g, w in zip(got, want, strict=True):
            assert_same(g, w)
        return
    assert type(got) is type(want)
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    if sparse.issparse(want):
        for part in ("indptr", "indices", "data"):
            np.testing.assert_array_equal(getattr(got, part), getattr(want, part))
    elif want.dtype.kind == "f":
        assert_bits_equal(got, want)
    else:
        np.testing.assert_array_equal(got, want)


def check_methods(case: Case, n: int) -> None:
    model = case.make()
    forest = from_model(model, **dict(case.options))
    assert set(forest.methods) == {name for name in METHODS if hasattr(model, name)}
    X = boundary_rows(forest, n, 3, "float64", infinities=False)
    X = X[~np.isnan(X).any(1)]
    for name in forest.methods:
        want = getattr(model, name)(frame(X) if "strings" in case.name else X)
        assert_same(call(forest, name, X, model), want)


LABELS = [c for c in CASES if c.name.split("-")[1] in ("c1", "multi", "str", "bool", "object", "float", "negative")]
ISOLATION = [c for c in CASES if c.name.startswith("IsolationForest")]
WHOLE = [c for c in CASES if not c.options]
SAMPLE = [*LABELS[::2], *ISOLATION, *WHOLE[5::15]]


@pytest.mark.parametrize("case", SAMPLE, ids=ids(SAMPLE))
def test_methods(case: Case) -> None:
    check_methods(case, 400)


@pytest.mark.full
@pytest.mark.parametrize("case", WHOLE, ids=ids(WHOLE))
def test_methods_full(case: Case) -> None:
    check_methods(case, 5_000)


def test_ties_follow_the_library() -> None:
    """A raw score of exactly 0.0: the second class in GradientBoosting, the first in HistGradientBoosting."""
    X, y = np.zeros((40, 1)), np.arange(40) % 2
    for model, label in (
        (ensemble.GradientBoostingClassifier(n_estimators=2, init="zero", random_state=0), 1),
        (ensemble.HistGradientBoostingClassifier(max_iter=2, random_state=0), 0),
    ):
        forest = from_model(model.fit(X, y))
        assert reference.predict_raw(forest, X[:1]).item() == 0.0
        assert call(forest, "predict", X[:1], model).tolist() == model.predict(X[:1]).tolist() == [label]


def test_negative_zero_leaf_survives() -> None:
    model = next(c for c in CASES if "negative_zero" in c.name).make()
    X = np.arange(40.0)[:, None]
    raw = reference.predict_raw(from_model(model), X)
    assert (np.signbit(raw) & (raw == 0)).any()
    assert_bits_equal(raw[:, 0], model.predict(X))
    # A forest adds its leaves to +0.0 instead.
    bagged = ensemble.RandomForestRegressor(2, criterion="absolute_error", random_state=0).fit(X, np.full(40, -0.0))
    assert np.signbit(bagged.estimators_[0].predict(X)).all()
    assert_bits_equal(reference.predict_raw(from_model(bagged), X)[:, 0], bagged.predict(X))


# ---- rows and frames


@pytest.mark.parametrize("name", ["RandomForestRegressor", "HistGradientBoostingRegressor"])
def test_integer_rows(name: str) -> None:
    """Integers that float32 rounds (forests) or not (HistGradientBoosting)."""
    X = 2**24 + np.arange(400).reshape(-1, 1)
    kwargs = {"n_estimators": 5} if name == "RandomForestRegressor" else {"max_iter": 5, "max_bins": 255}
    model = ESTIMATORS[name](random_state=0, **kwargs).fit(X, np.arange(400.0) % 7)
    forest = from_model(model)
    for dtype in (np.int64, np.int32, np.uint32):
        assert_bits_equal(reference.predict_raw(forest, X.astype(dtype))[:, 0], model.predict(X.astype(dtype)))


def test_infinite_rows_in_numeric_columns_beside_categories() -> None:
    model = train_categories(ESTIMATORS["HistGradientBoostingRegressor"], "real", 5, values=np.arange(6.0), max_iter=6)
    forest = from_model(model)
    X = boundary_rows(forest, 600, 1, "float64", infinities=True)
    X[:, [1, 4]] = np.where(np.isinf(X[:, [1, 4]]), 3.0, X[:, [1, 4]])
    assert np.isinf(X).any()
    assert_bits_equal(reference.predict_raw(forest, X), model._raw_predict(X))


def test_string_categories_are_codes_of_the_encoder() -> None:
    model = train_categories(
        ESTIMATORS["HistGradientBoostingClassifier"], "c2", 7, values=np.arange(6.0), strings=True, max_iter=5
    )
    forest = from_model(model)
    assert forest.feature_names == ("c0", "c1", "c2", "c3", "c4", "c5")
    assert forest.frame_categories == {1: list(STRINGS), 4: list(STRINGS[:3])}
    assert forest.unknown_category == "nan"
    assert (forest.kind == IN).any()
    assert set(forest.feature[forest.kind == IN].tolist()) <= {1, 4}


def test_numeric_categories_of_a_frame_are_values() -> None:
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    data = pd.DataFrame({"a": rng.normal(size=300), "k": pd.Categorical(rng.choice([30, 10, 20], 300))})
    data["b"] = rng.random(300) < 0.5
    y = data["a"] + data["k"].astype(float) * np.where(data["b"], 1, -1)
    options = {"categorical_features": ["k", "b"], "max_iter": 4, "random_state": 0}
    model = ensemble.HistGradientBoostingRegressor(**options).fit(data, y)
    forest = from_model(model)
    assert forest.frame_categories == {}
    assert {f: known.tolist() for f, known in forest.known_categories.items()} == {1: [10, 20, 30], 2: [0, 1]}
    X = np.stack([data["a"], data["k"].astype(float), data["b"].astype(float)], axis=1)
    assert_bits_equal(reference.predict_raw(forest, X)[:, 0], model.predict(data))


@pytest.mark.parametrize("bad", ["none", "huge"])
def test_categories_that_no_float64_holds(bad: str) -> None:
    X = np.empty((60, 2), object)
    X[:, 0] = np.arange(60.0)
    X[:, 1] = np.array(["a", "b", None] if bad == "none" else [1, 2, 2**60 + 1], object)[np.arange(60) % 3]
    model = ensemble.HistGradientBoostingRegressor(max_iter=2, categorical_features=[1]).fit(X, np.arange(60.0))
    with pytest.raises(UnsupportedModelError, match="column 1"):
        from_model(model)


# ---- options


def test_iteration_range_and_missing() -> None:
    boosted = train(ensemble.GradientBoostingRegressor, "real", 0, n_estimators=4)
    forest = train(ensemble.RandomForestRegressor, "real", 0, n_estimators=4)
    assert from_model(boosted, iteration_range=(0, 2)).n_trees == 2
    for bad in ((0, 5), (1, 3), (0, 0), (-1, 2)):
        with pytest.raises(InputError, match="iteration_range"):
            from_model(boosted, iteration_range=bad)
    with pytest.raises(InputError, match="iteration_range"):
        from_model(forest, iteration_range=(0, 2))
    with pytest.raises(InputError, match="missing=0"):
        from_model(forest, missing=0)
    assert from_model(forest, missing=np.float32("nan")).n_trees == 4


def test_source_and_names() -> None:
    forest = from_model(train(ensemble.RandomForestClassifier, "str", 0, n_estimators=3))
    assert forest.source["library"] == "scikit-learn"
    assert forest.source["estimator"] == "RandomForestClassifier"
    assert forest.feature_names is None
    assert [c.tolist() for c in forest.classes] == [["low", "mid", "very high"]]
    assert forest.cover is not None
    assert forest.cover[0] == 240


# ---- cost


def test_importing_the_frontend_does_not_import_sklearn() -> None:
    code = "import sys, woodpecker.frontend.sklearn; sys.exit('sklearn' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.full
def test_converting_a_large_forest_is_quick() -> None:
    """600,000 nodes take 0.15 s; a loop over nodes would take many times the bound."""
    X = columns(0, 20_000)
    y = np.random.default_rng(0).integers(0, 2, 20_000)
    model = ensemble.RandomForestClassifier(50, random_state=0).fit(X, y)
    start = time.perf_counter()
    forest = from_model(model)
    assert forest.n_nodes > 300_000
    assert time.perf_counter() - start < 1.0
    assert_bits_equal(reference.predict_raw(forest, X[:500]), model.predict_proba(X[:500]))
    assert bits(forest.values).shape == (forest.n_leaves, 2)
