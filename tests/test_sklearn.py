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
from sklearn import base, calibration, ensemble, linear_model, model_selection, multioutput, pipeline, tree
from sklearn.dummy import DummyClassifier

from woodpecker import reference
from woodpecker.errors import InvalidModelError, UnsupportedModelError
from woodpecker.forest import IN, Forest
from woodpecker.frontend.sklearn import from_model, matches
from woodpecker.runtime.outputs import KINDS, leaves_onehot

from .support import assert_bits_equal, bits, boundary_rows
from .zoo import Case
from .zoo_sklearn import CASES
from .zoo_sklearn_models import STRINGS, columns, frame, train, train_categories

METHODS = ("predict", "predict_proba", "decision_function", "score_samples", "transform")

ESTIMATORS = {
    **{name: getattr(tree, name) for name in tree.__all__ if name.endswith(("Classifier", "Regressor"))},
    **{
        f"{kind}{task}": getattr(ensemble, f"{kind}{task}")
        for kind in ("RandomForest", "ExtraTrees", "GradientBoosting", "HistGradientBoosting")
        for task in ("Classifier", "Regressor")
    },
    "IsolationForest": ensemble.IsolationForest,
    "RandomTreesEmbedding": ensemble.RandomTreesEmbedding,
}


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
    check_scores(case, 50_000, seed=2)


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
SAMPLE = [*LABELS[::2], *ISOLATION, *WHOLE[5::9]]


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
        with pytest.raises(UnsupportedModelError, match="iteration_range"):
            from_model(boosted, iteration_range=bad)
    with pytest.raises(UnsupportedModelError, match="iteration_range"):
        from_model(forest, iteration_range=(0, 2))
    with pytest.raises(UnsupportedModelError, match="missing=0"):
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


# ---- what is refused


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
def test_unfitted(name: str) -> None:
    assert matches(ESTIMATORS[name]())
    with pytest.raises(InvalidModelError, match="not fitted"):
        from_model(ESTIMATORS[name]())


STUMP = tree.DecisionTreeClassifier()


@pytest.mark.parametrize(
    "model",
    [
        ensemble.AdaBoostClassifier(STUMP),
        ensemble.BaggingRegressor(),
        ensemble.VotingClassifier([("a", STUMP)]),
        ensemble.StackingClassifier([("a", STUMP)]),
        pipeline.make_pipeline(STUMP),
        calibration.CalibratedClassifierCV(STUMP),
        multioutput.MultiOutputClassifier(STUMP),
        model_selection.GridSearchCV(STUMP, {}),
        linear_model.LogisticRegression(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_other_estimators(model: Any) -> None:
    assert matches(model)
    with pytest.raises(UnsupportedModelError, match=f"{type(model).__name__} is not supported yet"):
        from_model(model)


class Retrained(ensemble.RandomForestClassifier):
    """Overrides training only, and adds a method of its own."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Retrained:
        return super().fit(X, y, sample_weight)

    def tell(self) -> int:
        return 1


class Median(ensemble.RandomForestRegressor):
    def predict(self, X: Any) -> Any:
        return np.median([t.predict(X) for t in self.estimators_], axis=0)


class Shifting:
    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(X) * 0.5  # type: ignore[misc]


class Mixed(Shifting, ensemble.RandomForestClassifier):
    pass


class Hooked(ensemble.RandomForestClassifier):
    def __getattribute__(self, name: str) -> Any:
        return super().__getattribute__(name)


class Foreign(base.ClassifierMixin, base.BaseEstimator):
    """As other libraries' estimators inherit from scikit-learn."""


def test_subclasses() -> None:
    fitted = train(Retrained, "c3", 0, n_estimators=3)
    X = columns(1)
    assert_bits_equal(reference.predict_raw(from_model(fitted), X), fitted.predict_proba(X))
    for cls, task, name in (
        (Median, "real", "predict"),
        (Mixed, "c2", "predict_proba"),
        (Hooked, "c2", "getattribute"),
    ):
        with pytest.raises(UnsupportedModelError, match=name):
            from_model(train(cls, task, 0, n_estimators=3))
    fitted.predict_proba = lambda X: X
    with pytest.raises(UnsupportedModelError, match="predict_proba of this Retrained was replaced"):
        from_model(fitted)
    assert not matches(Foreign())
    assert not matches(3)


def test_members_that_may_predict_otherwise() -> None:
    class Odd(tree.DecisionTreeRegressor):
        pass

    model = train(ensemble.RandomForestRegressor, "real", 0, n_estimators=3)
    model.estimators_[1] = train(Odd, "real", 0)
    with pytest.raises(UnsupportedModelError, match="member 1"):
        from_model(model)


def test_init_estimators_that_depend_on_the_row() -> None:
    for init in (tree.DecisionTreeClassifier(max_depth=1), DummyClassifier(strategy="stratified")):
        model = train(ensemble.GradientBoostingClassifier, "c2", 0, n_estimators=2, init=init)
        with pytest.raises(UnsupportedModelError, match="init="):
            from_model(model)


# ---- damaged models: a typed error, whatever stands in the fitted state


def damaged(model: Any, **changes: Any) -> Any:
    """The decision tree with single fields of single nodes changed: field=(node, value)."""
    t = model.tree_
    state = t.__getstate__()
    state["nodes"], state["values"] = state["nodes"].copy(), state["values"].copy()
    for field, (node, value) in changes.items():
        (state["values"] if field == "values" else state["nodes"][field])[node] = value
    model.tree_ = type(t)(t.n_features, t.n_classes, t.n_outputs)
    model.tree_.__setstate__(state)
    return model


@pytest.mark.parametrize(
    "change",
    [
        {"left_child": (0, 0)},
        {"left_child": (1, 0)},
        {"right_child": (0, 1)},
        {"left_child": (1, 10**6)},
        {"right_child": (1, 2**32 + 2)},
        {"right_child": (0, -1)},
        {"left_child": (0, -5)},
        {"feature": (0, 6)},
        {"feature": (0, -3)},
        {"feature": (0, 2**32)},
        {"threshold": (0, np.nan)},
        {"values": (slice(None), np.inf)},
        {"values": (slice(None), np.nan)},
    ],
    ids=str,
)
def test_damaged_trees(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidModelError):
        from_model(damaged(train(tree.DecisionTreeRegressor, "real", 0, max_depth=4), **change))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("left", 0),
        ("right", 2**31 + 3),
        ("feature_idx", -1),
        ("feature_idx", 6),
        ("num_threshold", np.nan),
        ("bitset_idx", 10**6),
        ("is_leaf", 0),
        ("value", np.nan),
    ],
)
def test_damaged_histograms(field: str, value: Any) -> None:
    model = train_categories(ESTIMATORS["HistGradientBoostingRegressor"], "real", 3, values=np.arange(6.0), max_iter=3)
    nodes = model._predictors[1][0].nodes
    wanted = nodes["is_leaf"] != 0 if field in ("is_leaf", "value") else nodes["is_leaf"] == 0
    wanted &= nodes["is_categorical"] == (field == "bitset_idx")
    nodes[field][np.flatnonzero(wanted)[0]] = value
    with pytest.raises(InvalidModelError):
        from_model(model)


def test_damaged_state() -> None:
    hist = train_categories(ESTIMATORS["HistGradientBoostingRegressor"], "real", 3, values=np.arange(6.0), max_iter=3)
    next(p for (p,) in hist._predictors if len(p.raw_left_cat_bitsets)).raw_left_cat_bitsets[:] = 2**32 - 1
    with pytest.raises(InvalidModelError, match="category"):
        from_model(hist)
    hist = train(ensemble.HistGradientBoostingClassifier, "c3", 0, max_iter=2)
    hist._predictors[1].pop()
    with pytest.raises(InvalidModelError, match="trees per iteration"):
        from_model(hist)
    boosted = train(ensemble.GradientBoostingRegressor, "real", 0, n_estimators=2)
    boosted.estimators_ = boosted.estimators_[:, 0]
    with pytest.raises(InvalidModelError, match="axes"):
        from_model(boosted)
    isolation = train(ensemble.IsolationForest, "real", 0, n_estimators=3, max_features=2)
    isolation.estimators_features_[1] = np.array([4])
    with pytest.raises(InvalidModelError, match="tree 1"):
        from_model(isolation)
    isolation = train(ensemble.IsolationForest, "real", 0, n_estimators=3)
    isolation._decision_path_lengths = isolation._decision_path_lengths[:2]
    with pytest.raises(InvalidModelError, match="path lengths"):
        from_model(isolation)
    forest = train(ensemble.RandomForestClassifier, "c3", 0, n_estimators=3)
    forest.estimators_[2] = train(tree.DecisionTreeClassifier, "c2", 0)
    with pytest.raises(InvalidModelError, match="tree 2"):
        from_model(forest)
    forest.estimators_ = "none"
    with pytest.raises((InvalidModelError, UnsupportedModelError)):
        from_model(forest)
    forest.estimators_ = []
    with pytest.raises(InvalidModelError, match="no trees"):
        from_model(forest)
    forest.estimators_ = None
    with pytest.raises(InvalidModelError, match="damaged"):
        from_model(forest)


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
