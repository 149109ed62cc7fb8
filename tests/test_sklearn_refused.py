"""What the scikit-learn frontend refuses, and that damaged models end in a typed error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import base, calibration, ensemble, linear_model, model_selection, multioutput, pipeline, tree
from sklearn.dummy import DummyClassifier

from woodpecker import reference
from woodpecker.errors import InvalidModelError, UnsupportedModelError
from woodpecker.frontend.sklearn import from_model, matches

from .support import assert_bits_equal
from .zoo_sklearn_models import ESTIMATORS, columns, train, train_categories


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
