"""The scikit-learn zoo: over 300 small models of every supported estimator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from sklearn import ensemble, tree
from sklearn.dummy import DummyClassifier, DummyRegressor

from .zoo import Case
from .zoo_sklearn_models import (
    SKLEARN,
    leaves,
    leaves_boosting,
    leaves_isolation,
    no_leaves,
    raw_average,
    raw_boosting,
    raw_embedding,
    raw_hist,
    raw_hist_strings,
    raw_isolation,
    train,
    train_categories,
)


def _tree_cases() -> Iterator[Case]:
    make = partial(_case, raw=raw_average, leaves=leaves)
    for cls in (tree.DecisionTreeClassifier, tree.ExtraTreeClassifier):
        options: list[dict[str, Any]] = [
            {"criterion": c, "max_depth": d, "splitter": s}
            for c in ("gini", "entropy", "log_loss")
            for d in (None, 1, 4)
            for s in ("best", "random")
        ]
        options += [
            {"max_leaf_nodes": 9},
            {"max_leaf_nodes": 30, "criterion": "entropy"},
            {"ccp_alpha": 0.01},
            {"ccp_alpha": 10.0},
            {"min_impurity_decrease": 0.02},
            {"min_samples_leaf": 7, "min_samples_split": 20},
            {"min_weight_fraction_leaf": 0.05, "weights": True},
            {"class_weight": "balanced"},
            {"class_weight": {0: 1.0, 1: 3.5, 2: 0.25}},
            {"max_features": 2},
            {"max_features": "sqrt", "weights": True},
        ]
        for seed, params in enumerate(options):
            yield make(cls, "c3", seed, **params)
        yield make(cls, "c2", 31, monotonic_cst=[1, 0, -1, 0, 0, 0], max_depth=6)
        for seed, task in enumerate(("c1", "c2", "c12", "multi", "str", "bool", "object", "float", "negative"), 40):
            yield make(cls, task, seed, max_depth=5)
    for cls in (tree.DecisionTreeRegressor, tree.ExtraTreeRegressor):
        options = [
            {"criterion": c, "max_depth": d, "splitter": s}
            for c in ("squared_error", "absolute_error")
            for d in (None, 1, 5)
            for s in ("best", "random")
        ]
        options += [
            {"max_leaf_nodes": 12},
            {"ccp_alpha": 0.05},
            {"min_impurity_decrease": 0.1},
            {"min_samples_leaf": 0.03},
            {"monotonic_cst": [1, 0, 0, 0, -1, 0]},
            {"max_features": 0.5, "weights": True},
        ]
        for seed, params in enumerate(options, 60):
            yield make(cls, "real", seed, **params)
        yield make(cls, "count", 84, criterion="poisson", max_depth=6)
        yield make(cls, "real3", 85, max_depth=6)
        yield make(cls, "real3", 86, criterion="absolute_error", max_leaf_nodes=8)
        for seed, kind in enumerate(("ties", "adjacent", "wide", "signed_zero"), 87):
            yield make(cls, "real", seed, kind=kind)
            yield make(cls, "real", seed, kind=kind, dtype="float32", max_depth=8)
    yield make(tree.DecisionTreeClassifier, "c3", 95, kind="nan")
    yield make(tree.DecisionTreeClassifier, "multi", 96, kind="nan", max_leaf_nodes=20)
    yield make(tree.DecisionTreeRegressor, "real", 97, kind="nan")
    if SKLEARN >= (1, 6):
        yield make(tree.ExtraTreeClassifier, "c3", 98, kind="nan")
        yield make(tree.ExtraTreeRegressor, "real", 99, kind="nan", max_depth=7)
    for name, make_model in (("chain", _chain), ("negative_zero", _negative_zero)):
        yield Case(f"DecisionTreeRegressor-{name}", make_model, raw_average, leaves, infinities=False)


def _chain() -> Any:
    """A tree that is one chain of 70 nodes."""
    x = np.arange(71.0)
    return tree.DecisionTreeRegressor(random_state=0).fit(x[:, None] * [1.0, 0.5], 4.0**x)


def _negative_zero() -> Any:
    """Leaves of -0.0: the median of negative zeros."""
    x = np.arange(40.0)[:, None]
    y = np.where(x[:, 0] % 4 < 2, -0.0, x[:, 0])
    return tree.DecisionTreeRegressor(criterion="absolute_error", random_state=0).fit(x, y)


def _forest_cases() -> Iterator[Case]:
    make = partial(_case, raw=raw_average, leaves=leaves, n_jobs=1)
    classifiers = (ensemble.RandomForestClassifier, ensemble.ExtraTreesClassifier)
    regressors = (ensemble.RandomForestRegressor, ensemble.ExtraTreesRegressor)
    shared: list[dict[str, Any]] = [
        {"n_estimators": 1},
        {"n_estimators": 3, "max_depth": 2},
        {"n_estimators": 7},
        {"n_estimators": 13, "max_depth": 6},
        {"n_estimators": 10, "bootstrap": False, "max_features": 3},
        {"n_estimators": 10, "bootstrap": True, "max_samples": 0.4},
        {"n_estimators": 6, "max_leaf_nodes": 11},
        {"n_estimators": 6, "ccp_alpha": 0.01},
        {"n_estimators": 6, "min_impurity_decrease": 0.01, "weights": True},
        {"n_estimators": 5, "min_samples_leaf": 4, "max_features": None},
        {"n_estimators": 3, "warm_start": True, "again": {"n_estimators": 8}},
        {"n_estimators": 31, "max_depth": 1},
        {"n_estimators": 9, "kind": "adjacent"},
        {"n_estimators": 9, "kind": "ties", "dtype": "float32"},
        {"n_estimators": 5, "kind": "wide", "max_depth": 9},
        {"n_estimators": 5, "kind": "signed_zero"},
    ]
    for cls in classifiers:
        for seed, params in enumerate(shared, 100):
            yield make(cls, ("c3", "c2", "c7")[seed % 3], seed, **params)
        for seed, task in enumerate(("c1", "c12", "multi", "str", "bool", "object", "float", "negative"), 120):
            yield make(cls, task, seed, n_estimators=6, max_depth=5)
        for seed, criterion in enumerate(("entropy", "log_loss"), 130):
            yield make(cls, "c3", seed, n_estimators=5, criterion=criterion)
        for seed, weight in enumerate(("balanced", "balanced_subsample", {0: 0.3, 1: 2.0, 2: 1.1}), 134):
            yield make(cls, "c3", seed, n_estimators=5, max_depth=7, class_weight=weight, bootstrap=True)
        yield make(cls, "c2", 138, n_estimators=5, monotonic_cst=[1, -1, 0, 0, 0, 0])
    for cls in regressors:
        for seed, params in enumerate(shared, 140):
            yield make(cls, "real", seed, **params)
        yield make(cls, "real3", 160, n_estimators=7, max_depth=6)
        yield make(cls, "real", 161, n_estimators=4, criterion="absolute_error", max_depth=5)
        yield make(cls, "count", 162, n_estimators=5, criterion="poisson", max_depth=5)
        yield make(cls, "real", 163, n_estimators=5, monotonic_cst=[1, 0, 0, 0, 0, -1])
    for seed, kind in enumerate(("nan", "plain"), 170):
        yield make(ensemble.RandomForestClassifier, "c3", seed, n_estimators=8, kind=kind)
        yield make(ensemble.RandomForestRegressor, "real", seed, n_estimators=8, kind=kind)
        if SKLEARN >= (1, 6):
            yield make(ensemble.ExtraTreesClassifier, "multi", seed, n_estimators=8, kind=kind)
            yield make(ensemble.ExtraTreesRegressor, "real3", seed, n_estimators=8, kind=kind)


def _boosting_cases() -> Iterator[Case]:
    make = partial(_case, raw=raw_boosting, leaves=leaves)
    classifier, regressor = ensemble.GradientBoostingClassifier, ensemble.GradientBoostingRegressor
    shared: list[dict[str, Any]] = [
        {"n_estimators": 1},
        {"n_estimators": 12, "max_depth": 3},
        {"n_estimators": 9, "learning_rate": 1.0},
        {"n_estimators": 9, "learning_rate": 1 / 3, "max_depth": 5},
        {"n_estimators": 10, "subsample": 0.5, "max_features": 2},
        {"n_estimators": 8, "init": "zero"},
        {"n_estimators": 8, "max_leaf_nodes": 6, "max_depth": None},
        {"n_estimators": 8, "ccp_alpha": 0.005},
        {"n_estimators": 8, "weights": True, "min_samples_leaf": 3},
        {"n_estimators": 40, "n_iter_no_change": 2, "tol": 0.05},
        {"n_estimators": 4, "warm_start": True, "again": {"n_estimators": 9}},
        {"n_estimators": 6, "kind": "adjacent"},
        {"n_estimators": 6, "kind": "ties", "dtype": "float32"},
        {"n_estimators": 6, "kind": "wide"},
        {"n_estimators": 6, "kind": "signed_zero", "max_depth": 1},
        {"n_estimators": 30, "max_depth": 1, "learning_rate": 0.7},
    ]
    for i, params in enumerate(shared):
        yield make(classifier, "c2", 200 + i, **params)
        yield make(classifier, ("c3", "c4", "c6")[i % 3], 220 + i, **params)
        yield make(classifier, "c2", 240 + i, loss="exponential", **params)
        loss = ("squared_error", "absolute_error", "huber", "quantile")[i % 4]
        yield make(regressor, "real", 260 + i, loss=loss, **params)
    for seed, task in enumerate(("str", "bool", "object", "float", "negative"), 280):
        yield make(classifier, task, seed, n_estimators=5)
    for seed, loss in enumerate(("squared_error", "absolute_error", "huber", "quantile"), 286):
        yield make(regressor, "real", seed, n_estimators=10, loss=loss, alpha=0.35)
    for seed, strategy in enumerate(("prior", "most_frequent", "uniform"), 290):
        for task in ("c2", "c3"):
            yield make(classifier, task, seed, n_estimators=5, init=DummyClassifier(strategy=strategy))
    for seed, dummy in enumerate(
        (
            DummyRegressor(strategy="median"),
            DummyRegressor(strategy="quantile", quantile=0.2),
            DummyRegressor(strategy="constant", constant=-0.0),
        ),
        294,
    ):
        yield make(regressor, "real", seed, n_estimators=5, init=dummy)
    for stages in (1, 4, 9):
        part = partial(
            make,
            raw=partial(raw_boosting, stages=stages),
            leaves=partial(leaves_boosting, stages=stages),
            options=(("iteration_range", (0, stages)),),
            n_estimators=9,
        )
        yield part(classifier, "c2", 298)
        yield part(classifier, "c4", 298)
        yield part(regressor, "real", 298)


def _hist_cases() -> Iterator[Case]:
    make = partial(_case, raw=raw_hist, leaves=no_leaves, infinities=True)
    classifier, regressor = ensemble.HistGradientBoostingClassifier, ensemble.HistGradientBoostingRegressor
    shared: list[dict[str, Any]] = [
        {"max_iter": 1},
        {"max_iter": 12},
        {"max_iter": 8, "kind": "nan"},
        {"max_iter": 8, "kind": "nan", "max_bins": 16, "max_leaf_nodes": 7},
        {"max_iter": 8, "kind": "ties", "min_samples_leaf": 3},
        {"max_iter": 8, "kind": "adjacent", "max_depth": 4},
        {"max_iter": 8, "kind": "wide", "learning_rate": 1.0},
        {"max_iter": 8, "kind": "signed_zero", "l2_regularization": 0.5},
        {"max_iter": 8, "max_leaf_nodes": None, "min_samples_leaf": 5},
        {"max_iter": 8, "max_depth": 1, "learning_rate": 1 / 3},
        {"max_iter": 8, "interaction_cst": "no_interactions"},
        {"max_iter": 40, "early_stopping": True, "n_iter_no_change": 2, "tol": 0.05},
        {"max_iter": 4, "warm_start": True, "again": {"max_iter": 9}},
        {"max_iter": 8, "weights": True, "dtype": "float32"},
        {"max_iter": 6, "max_features": 0.5, "kind": "nan", "dtype": "float32"},
    ]
    losses = ("squared_error", "absolute_error", "gamma", "poisson", "quantile")
    tasks = {"gamma": "positive", "poisson": "count"}
    for i, params in enumerate(shared):
        yield make(classifier, "c2", 300 + i, **params)
        yield make(classifier, ("c3", "c5")[i % 2], 320 + i, **params)
        for loss in (losses[i % 5], losses[(i + 2) % 5]):
            quantile = {"quantile": 0.3} if loss == "quantile" else {}
            yield make(regressor, tasks.get(loss, "real"), 340 + i, loss=loss, **quantile, **params)
    for seed, task in enumerate(("c1", "str", "bool", "object", "float", "negative", "c12"), 360):
        yield make(classifier, task, seed, max_iter=4, min_samples_leaf=5)
    yield make(classifier, "c3", 368, max_iter=6, class_weight="balanced")
    yield make(classifier, "c2", 369, max_iter=6, monotonic_cst=[1, 0, -1, 0, 0, 0])
    yield make(regressor, "real", 370, max_iter=6, monotonic_cst=[1, 0, -1, 0, 0, 0], kind="nan")
    yield make(regressor, "real", 371, max_iter=6, interaction_cst="pairwise")
    for stages in (1, 5):
        part = partial(
            make,
            raw=partial(raw_hist, stages=stages),
            options=(("iteration_range", (0, stages)),),
            max_iter=7,
            kind="nan",
        )
        yield part(classifier, "c2", 372)
        yield part(classifier, "c3", 372)
        yield part(regressor, "real", 372)
    values = {
        "codes": np.arange(6.0),
        "many": np.arange(200.0),
        "negative": np.array([-7.0, -1.0, 0.0, 3.0, 1000.0]),
        "fractions": np.array([-2.5, 0.1, 0.25, 1 / 3, 7.75]),
    }
    categorical = partial(_case, raw=raw_hist, leaves=no_leaves, infinities=False, train=train_categories)
    # Before version 2, numpy rounded float64 scalars to compare them with float32 arrays, and with it np.isin, by which
    # the encoder knows a category: a float32 0.1 became the category after 0.1.
    both = ("float32", "float64")
    dtypes = {"fractions": both if np.lib.NumpyVersion(np.__version__) >= "2.0.0" else ("float64",)}
    for i, (name, cats) in enumerate(values.items()):
        for j, params in enumerate(({"max_iter": 3}, {"max_iter": 8, "min_samples_leaf": 4, "max_leaf_nodes": 12})):
            seed = 380 + 2 * i + j
            part = partial(categorical, values=cats, tag=name, dtypes=dtypes.get(name, both), **params)
            yield part(classifier, "c2", seed)
            yield part(classifier, "c3", seed)
            yield part(regressor, "real", seed)
    yield categorical(regressor, "real", 390, values=values["codes"], tag="all", categorical_features=None, max_iter=4)
    yield categorical(
        classifier,
        "c2",
        391,
        values=values["codes"],
        tag="mask",
        max_iter=5,
        categorical_features=[False, True] + [False] * 4,
    )
    text = partial(categorical, raw=raw_hist_strings, values=np.arange(6.0), strings=True, tag="strings")
    for seed, params in enumerate(({"max_iter": 3}, {"max_iter": 8, "min_samples_leaf": 4}), 392):
        yield text(classifier, "c2", seed, **params)
        yield text(classifier, "c4", seed, **params)
        yield text(regressor, "real", seed, **params)
        yield text(regressor, "count", seed, loss="poisson", **params)


def _isolation_cases() -> Iterator[Case]:
    make = partial(
        _case, ensemble.IsolationForest, "real", raw=raw_isolation, leaves=leaves_isolation, infinities=True, n_jobs=1
    )
    options: list[dict[str, Any]] = [
        {"n_estimators": 1},
        {"n_estimators": 10},
        {"n_estimators": 25, "max_samples": 64},
        {"n_estimators": 10, "max_samples": 0.5, "max_features": 3},
        {"n_estimators": 10, "max_features": 1},
        {"n_estimators": 10, "max_features": 0.5, "bootstrap": True},
        {"n_estimators": 10, "bootstrap": True, "contamination": 0.1},
        {"n_estimators": 10, "contamination": 0.3, "max_features": 5},
        {"n_estimators": 10, "max_samples": 1},
        {"n_estimators": 10, "max_samples": 2},
        {"n_estimators": 10, "kind": "adjacent"},
        {"n_estimators": 10, "kind": "ties", "dtype": "float32"},
        {"n_estimators": 10, "kind": "wide"},
        {"n_estimators": 10, "kind": "signed_zero", "max_features": 4},
        {"n_estimators": 5, "warm_start": True, "again": {"n_estimators": 9}},
    ]
    if SKLEARN >= (1, 6):
        options += [{"n_estimators": 10, "kind": "nan"}, {"n_estimators": 10, "kind": "nan", "max_features": 2}]
    for seed, params in enumerate(options, 400):
        yield make(seed, **params)


def _embedding_cases() -> Iterator[Case]:
    make = partial(_case, ensemble.RandomTreesEmbedding, "real", raw=raw_embedding, leaves=leaves, n_jobs=1)
    options: list[dict[str, Any]] = [
        {"n_estimators": 1, "max_depth": 1},
        {"n_estimators": 8},
        {"n_estimators": 8, "max_depth": 2, "sparse_output": False},
        {"n_estimators": 5, "max_depth": None},
        {"n_estimators": 5, "max_leaf_nodes": 9},
        {"n_estimators": 5, "min_samples_leaf": 12},
        {"n_estimators": 5, "kind": "adjacent"},
        {"n_estimators": 5, "kind": "wide", "dtype": "float32"},
    ]
    for seed, params in enumerate(options, 420):
        yield make(seed, **params)


def _case(
    cls: Any,
    task: str,
    seed: int,
    *,
    raw: Any,
    leaves: Any,
    infinities: bool = False,
    options: tuple[tuple[str, Any], ...] = (),
    train: Callable[..., Any] = train,
    tag: str = "",
    dtypes: tuple[str, ...] = ("float32", "float64"),
    **params: Any,
) -> Case:
    """A case named after what sets it apart."""
    parts = [cls.__name__, task, tag, str(seed)]
    parts += [f"{key}={_short(value)}" for key, value in params.items() if key not in ("n_jobs", "values", "strings")]
    parts += [f"{key}={value[1]}" for key, value in options]
    name = "-".join(part for part in parts if part)
    return Case(name, partial(train, cls, task, seed, **params), raw, leaves, dtypes, infinities, options)


def _short(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return "".join(c for c in text if c.isalnum() or c in "._")[:32]


CASES = [
    *_tree_cases(),
    *_forest_cases(),
    *_boosting_cases(),
    *_hist_cases(),
    *_isolation_cases(),
    *_embedding_cases(),
]
