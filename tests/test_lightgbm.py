"""The LightGBM frontend against lightgbm itself: leaf ids and the bits of raw scores."""

from __future__ import annotations

import dataclasses
import math
import pickle
from typing import Any

import numpy as np
import pytest

lgb = pytest.importorskip("lightgbm")

import pandas as pd  # noqa: E402

from tests import zoo_lightgbm as zoo  # noqa: E402
from tests.support import FULL_ROWS, assert_bits_equal, boundary_rows  # noqa: E402
from tests.zoo import Case  # noqa: E402
from woodpecker import reference  # noqa: E402
from woodpecker.errors import InputError, InvalidModelError, UnsupportedModelError  # noqa: E402
from woodpecker.forest import IN, LEAF, MISSING_NAN, MISSING_ZERO, Forest  # noqa: E402
from woodpecker.frontend.lightgbm import from_file, from_model, matches  # noqa: E402
from woodpecker.frontend.lightgbm_objective import atof  # noqa: E402
from woodpecker.runtime.outputs import KINDS  # noqa: E402

SAMPLE = zoo.CASES[::12]


def make(name: str) -> Any:
    return next(case for case in zoo.CASES if case.name == name).make()


def interpret(forest: Forest, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with np.errstate(invalid="ignore", over="ignore"):
        return reference.apply(forest, X), reference.predict_raw(forest, X)


def check(case: Case, n: int) -> None:
    model = case.make()
    forest = from_model(model)
    for seed, dtype in enumerate(case.dtypes):
        for begin in range(0, n, 25_000):
            X = boundary_rows(forest, min(25_000, n - begin), 1000 * begin + seed, dtype, case.infinities)
            X[: len(X) // 4] = np.resize(zoo.rows(seed)[:, : X.shape[1]], X[: len(X) // 4].shape)
            leaves, raw = interpret(forest, X)
            np.testing.assert_array_equal(leaves, case.leaves(model, X).reshape(leaves.shape))
            assert_bits_equal(raw, case.raw(model, X), f"raw scores of {dtype} rows")


@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: case.name)
def test_interpreter_equals_library(case: Case) -> None:
    check(case, 500)


@pytest.mark.full
@pytest.mark.parametrize("case", zoo.CASES, ids=lambda case: case.name)
def test_interpreter_equals_library_on_all(case: Case) -> None:
    check(case, FULL_ROWS // 2)


def test_the_zoo_is_wide() -> None:
    names = [case.name for case in zoo.CASES]
    assert len(names) == len(set(names)) >= 300
    forests = {name: from_model(make(name)) for name in ("category-binary", "zero_as_missing-binary", "linear-binary")}
    assert (forests["category-binary"].kind == IN).any()
    assert (forests["zero_as_missing-binary"].missing == MISSING_ZERO).any()
    assert len(forests["linear-binary"].linear_coef) > 0
    inner = from_model(make("no_missing-binary")).kind != LEAF
    assert (from_model(make("no_missing-binary")).missing[inner] == MISSING_NAN).all()


# One model, read in two ways ----------------------------------------------------------------------------------------


def assert_same_forest(a: Forest, b: Forest, ignore: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    for field in dataclasses.fields(Forest):
        if field.name in {"source", *ignore}:
            continue
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype, field.name
            np.testing.assert_array_equal(x, y, err_msg=field.name)
        elif isinstance(x, float) and math.isnan(x):
            assert math.isnan(y)
        else:
            assert x == y, field.name


@pytest.mark.parametrize("case", SAMPLE[::2], ids=lambda case: case.name)
def test_text_and_live_model_are_one_forest(case: Case, tmp_path: Any) -> None:
    booster = zoo.booster_of(case.make())
    path = tmp_path / "model.txt"
    booster.save_model(path)
    live, read = from_model(booster), from_file(path)
    # A booster that kept its training data knows its sigmoid exactly; the text has six digits of it.
    rounded = case.name in ("kept-sigmoid", "kept-ova", "kept-rf-sigmoid")
    assert_same_forest(live, read, {"methods"} if rounded else set())
    assert_same_forest(read, from_file(str(path)))
    assert_same_forest(read, from_file(path.read_bytes().replace(b"\n", b"\r\n")))
    assert live.source["version"] == lgb.__version__ and "version" not in read.source


# What the methods of the source return ------------------------------------------------------------------------------


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


LINKS = {
    "identity": lambda z, a: z,
    "lgb_sigmoid": lambda z, a: 1 / (1 + np.exp(-a["sigmoid"] * z)),
    "lgb_ova": lambda z, a: 1 / (1 + np.exp(-a["sigmoid"] * z)),
    "lgb_softmax": lambda z, a: (
        np.exp(z - z.max(1, keepdims=True)) / np.exp(z - z.max(1, keepdims=True)).sum(1)[:, None]
    ),
    "lgb_cross_entropy_lambda": lambda z, a: np.log1p(np.exp(z)),
    "exp": lambda z, a: np.exp(z),
    "lgb_sqrt": lambda z, a: np.sign(z) * z * z,
}


def call(forest: Forest, method: str, X: np.ndarray) -> np.ndarray:
    rule = forest.methods[method]
    _, z = interpret(forest, X)
    if "divide" in rule.args:
        z = z / rule.args["divide"]
    return KINDS[rule.kind](LINKS[rule.link](z, rule.args), forest.classes, rule.args)


@pytest.mark.parametrize("case", zoo.CASES[:40] + zoo.SPECIAL_CASES, ids=lambda case: case.name)
def test_methods_return_what_the_model_returns(case: Case) -> None:
    model = case.make()
    forest, X = from_model(model), zoo.rows(3)
    X = np.resize(X, (60, forest.n_features)) if forest.n_features != X.shape[1] else X[:60]
    assert set(forest.methods) == {m for m in ("predict", "predict_proba", "decision_function") if hasattr(model, m)}
    for method in forest.methods:
        source = zoo.booster_of(model) if "Classifier" not in type(model).__name__ else model
        want = getattr(source, method)(X)
        got = call(forest, method, X)
        assert got.shape == want.shape and got.dtype == want.dtype
        if want.dtype.kind == "f":
            # numpy's exp and libm's are within a unit of each other; 17 digits of sigmoid are far more than this.
            np.testing.assert_allclose(got, want, rtol=4e-15, atol=0)
        else:
            np.testing.assert_array_equal(got, want)


def test_sigmoid_is_the_one_that_the_booster_computes_with() -> None:
    """The text keeps 6 digits; a booster kept from training has them all, and loses them in a pickle."""
    kept = make("kept-sigmoid")
    assert from_model(kept).methods["predict"].args == {"sigmoid": atof("0.7312345678")}
    assert from_model(pickle.loads(pickle.dumps(kept))).methods["predict"].args == {"sigmoid": atof("0.731235")}
    assert from_model(make("kept-rf-sigmoid")).methods["predict"].args["sigmoid"] == atof("0.7312345678")
    assert from_model(make("kept-ova")).methods["predict"].args == {"sigmoid": atof("0.123456789")}
    assert from_model(make("gbdt-sigmoid")).methods["predict"].args == {"sigmoid": atof("0.731235")}


# Iterations ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["early-stopped-kept", "gbdt-multiclass", "wide-rf", "continued"])
def test_iteration_range(name: str) -> None:
    booster = make(name)
    total, k = booster.current_iteration(), booster.num_model_per_iteration()
    X = boundary_rows(from_model(booster), 100, 1)
    for start, stop in [(0, total), (0, 1), (2, total), (1, 4)]:
        forest = from_model(booster, iteration_range=(start, stop))
        leaves, raw = interpret(forest, X)
        chosen: dict[str, Any] = dict(start_iteration=start, num_iteration=stop - start)
        assert_bits_equal(raw, booster.predict(X, raw_score=True, **chosen).reshape(-1, k))
        np.testing.assert_array_equal(leaves, booster.predict(X, pred_leaf=True, **chosen).reshape(100, -1))
        np.testing.assert_allclose(call(forest, "predict", X), booster.predict(X, **chosen), rtol=4e-15, atol=0)
    for wrong in [(0, total + 1), (-1, 2), (2, 2), (3, 1)]:
        with pytest.raises(InputError, match="iteration_range"):
            from_model(booster, iteration_range=wrong)


def test_best_iteration_is_the_default() -> None:
    kept = make("early-stopped-kept")
    assert from_model(kept).n_trees == kept.best_iteration < kept.num_trees()
    assert from_file(kept.model_to_string(num_iteration=-1).encode()).n_trees == kept.num_trees()


# Frames and names ---------------------------------------------------------------------------------------------------


def test_frame_categories_are_the_training_frames() -> None:
    model = make("regressor-frame")
    forest = from_model(model)
    assert list(forest.frame_categories) == [4, 5] and forest.unknown_category == "nan"
    assert forest.frame_categories[4][:2] == ["c00", "c01"] and forest.frame_categories[5] == [0.0, 1.0, 2.0, 3.0]
    assert forest.feature_names == tuple(f"f{i}" for i in range(8))
    X = zoo.rows(2)
    frame = pd.DataFrame(X, columns=list(forest.feature_names))
    frame["f4"] = pd.Categorical([f"c{int(c) + 3:02d}" for c in X[:, 4]])
    frame["f5"] = pd.Categorical(X[:, 5])
    codes = X.copy()
    for f in (4, 5):
        code = {c: i for i, c in enumerate(forest.frame_categories[f])}
        codes[:, f] = [code.get(v, np.nan) for v in frame[f"f{f}"]]
    assert_bits_equal(interpret(forest, codes)[1][:, 0], model.predict(frame))


def test_ordered_categories_cannot_be_told_apart() -> None:
    """They are numbers to LightGBM, and the text does not name their column."""
    X = zoo.rows()
    frame = pd.DataFrame({"a": X[:, 0], "b": pd.Categorical(X[:, 5], ordered=True), "c": pd.Categorical(X[:, 4])})
    booster = lgb.train({**zoo.QUIET, "min_data_per_group": 5}, lgb.Dataset(frame, zoo.signal(X)), 3)
    assert len(booster.pandas_categorical) == 2
    assert from_model(booster).frame_categories == {}


def test_names_of_unnamed_columns_are_not_kept() -> None:
    assert from_model(make("gbdt-binary")).feature_names is None


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [0.0, -999, None, "nan"])
def test_missing_other_than_nan(missing: Any) -> None:
    with pytest.raises(InputError, match="missing"):
        from_model(make("gbdt-binary"), missing=missing)


def test_refused_models() -> None:
    with pytest.raises(InvalidModelError, match="not fitted"):
        from_model(lgb.LGBMClassifier())
    with pytest.raises(UnsupportedModelError, match="CVBooster"):
        from_model(lgb.CVBooster())
    with pytest.raises(UnsupportedModelError, match="no single LightGBM model"):
        from_model(object())
    X = zoo.rows()
    y = zoo.target("binary", X, 2)
    small = dict(n_estimators=2, n_jobs=1, verbosity=-1)
    with pytest.raises(UnsupportedModelError, match="pred_early_stop"):
        from_model(lgb.LGBMClassifier(**small, pred_early_stop=True).fit(X, y))
    assert from_model(lgb.LGBMClassifier(**small, pred_early_stop=False).fit(X, y)).n_trees == 2
    three = lgb.LGBMClassifier(**small, objective="multiclass", num_class=3).fit(X, y)
    with pytest.raises(UnsupportedModelError, match="2 classes"):
        from_model(three)


def test_a_custom_objective_returns_raw_scores() -> None:
    model = lgb.LGBMClassifier(n_estimators=2, n_jobs=1, verbosity=-1, objective=lambda y, p: (p - y, np.ones_like(p)))
    X = zoo.rows()
    model.fit(X, zoo.target("binary", X, 2))
    forest = from_model(model)
    assert {forest.methods[m].kind for m in ("predict", "predict_proba")} == {"value"}
    assert_bits_equal(call(forest, "predict", X), zoo.raw(model, X)[:, 0])


def test_matches() -> None:
    class Mine(lgb.LGBMRegressor):
        pass

    for model in (lgb.LGBMClassifier(), lgb.LGBMRegressor(), lgb.LGBMRanker(), Mine(), lgb.CVBooster()):
        assert matches(model)
    assert matches(make("gbdt-binary"))
    for other in (object(), lgb.Dataset(zoo.rows()), lgb, 3):
        assert not matches(other)
    X = zoo.rows()
    assert (
        from_model(Mine(n_estimators=2, verbosity=-1, n_jobs=1).fit(X, X[:, 0])).source["estimator"] == "LGBMRegressor"
    )
