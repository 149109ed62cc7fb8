"""XGBoost models over a wide range of parameters, each trained in milliseconds."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import xgboost as xgb

from .zoo import Case

VERSION = tuple(int(part) for part in xgb.__version__.split(".")[:2])
ROWS, FEATURES = 300, 6
CATEGORIES = (3, 10, 40)
QUIET = {"verbosity": 0, "nthread": 1}


def features(kind: str, seed: int) -> np.ndarray:
    """(300, 6) float32 training rows."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    if kind in ("missing", "mostly_missing", "sentinel"):
        holes = rng.random(X.shape) < (0.9 if kind == "mostly_missing" else 0.3)
        X[holes] = -1.0 if kind == "sentinel" else np.nan
    elif kind == "integer":
        X = rng.integers(-3, 4, X.shape).astype(np.float32)
    elif kind == "constant":
        X[:, [1, 3]] = 2.5
    elif kind == "special":
        X = rng.choice(np.array([0.0, -0.0, 1e-40, -1e-40, 1e-35, 1.0, 3e38, -3e38], np.float32), X.shape)
    elif kind == "huge":
        X *= np.float32(1e30)
    elif kind in ("category", "category_missing"):
        for f, n in enumerate(CATEGORIES):
            X[:, f] = rng.integers(0, n, ROWS)
        if kind == "category_missing":
            X[rng.random(X.shape) < 0.2] = np.nan
    return X


def labels(kind: str, X: np.ndarray, seed: int) -> np.ndarray:
    """Labels that depend on X, in the range that the objective wants."""
    rng = np.random.default_rng(seed + 1)
    V = np.nan_to_num(X.astype(np.float64) / max(1.0, np.nanmax(np.abs(X)) / 10))
    score = V[:, 0] - V[:, 1] * V[:, 2] + np.sin(3 * V[:, 3]) + rng.normal(size=len(X)) / 2
    if kind == "binary":
        return (score > np.median(score)).astype(np.float64)
    if kind == "class":
        return np.digitize(score, np.quantile(score, [0.3, 0.6, 0.8])).astype(np.float64)
    if kind == "positive":
        return np.exp(np.clip(score / 3, -3, 3))
    if kind == "probability":
        return 1 / (1 + np.exp(-score))
    if kind == "time":
        return np.where(rng.random(len(X)) < 0.3, -1, 1) * np.exp(np.clip(score / 3, -3, 3))
    if kind == "targets":
        return np.stack([score, score**2 / 4, V[:, 4]], axis=1)
    if kind == "labels":
        return np.stack([score > 0, V[:, 4] > 0, V[:, 5] > score], axis=1).astype(np.int64)
    if kind == "grade":
        return np.digitize(score, np.quantile(score, [0.5, 0.8])).astype(np.float64)
    return score


OBJECTIVES = {
    "reg:squarederror": "value",
    "reg:squaredlogerror": "positive",
    "reg:logistic": "probability",
    "reg:pseudohubererror": "value",
    "reg:absoluteerror": "value",
    "reg:gamma": "positive",
    "reg:tweedie": "positive",
    "binary:logistic": "binary",
    "binary:logitraw": "binary",
    "binary:hinge": "binary",
    "multi:softprob": "class",
    "multi:softmax": "class",
    "count:poisson": "positive",
    "survival:cox": "time",
    "survival:aft": "positive",
    "rank:pairwise": "grade",
    "rank:ndcg": "grade",
    "rank:map": "binary",
}
if VERSION >= (2, 0):
    OBJECTIVES["reg:quantileerror"] = "value"


def matrix(X: np.ndarray, y: np.ndarray | None, kind: str = "", objective: str = "", missing: float = np.nan) -> Any:
    """A DMatrix with what the objective and the kind of columns need."""
    categorical = kind.startswith("category")
    types = ["c"] * len(CATEGORIES) + ["q"] * (FEATURES - len(CATEGORIES)) if categorical else None
    d = xgb.DMatrix(X, missing=missing, feature_types=types, enable_categorical=categorical)
    if y is None:
        return d
    if objective == "survival:aft":
        d.set_float_info("label_lower_bound", y)
        d.set_float_info("label_upper_bound", y * 1.5)
        return d
    d.set_label(y)
    if objective.startswith("rank:"):
        d.set_group([len(y) // 10] * 10)
    return d


@functools.cache
def train(items: tuple[tuple[str, Any], ...], rounds: int, kind: str, seed: int, weighted: bool) -> Any:
    """A Booster; parameters come as hashable items."""
    params = QUIET | dict(items) | {"seed": seed}
    objective = params.setdefault("objective", "reg:squarederror")
    label = params.pop("label", OBJECTIVES[objective])
    if OBJECTIVES[objective] == "class":
        params.setdefault("num_class", 4)
    if objective == "reg:quantileerror":
        params.setdefault("quantile_alpha", 0.7)
    X = features(kind, seed)
    d = matrix(X, labels(label, X, seed), kind, objective, -1.0 if kind == "sentinel" else np.nan)
    if weighted:
        d.set_weight(np.random.default_rng(seed + 2).random(ROWS))
    return xgb.train(params, d, rounds, verbose_eval=False)


def booster_raw(model: Any, X: np.ndarray, missing: float = np.nan, rounds: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Booster.predict; rows with infinities, which a DMatrix refuses, by the call that takes them."""
    if np.isinf(X).any():
        margin = model.inplace_predict(
            X, predict_type="margin", missing=missing, iteration_range=rounds, validate_features=False
        )
    else:
        d = xgb.DMatrix(X, missing=missing)
        margin = model.predict(d, output_margin=True, iteration_range=rounds, validate_features=False)
    return np.asarray(margin).reshape(len(X), -1)


def booster_leaves(model: Any, X: np.ndarray, missing: float = np.nan, rounds: tuple[int, int] = (0, 0)) -> np.ndarray:
    """(n, T) leaf ids. The largest finite values stand for infinities: every split sends both to the same side."""
    top = np.finfo(np.float32).max
    with np.errstate(over="ignore"):
        finite = np.clip(X.astype(np.float32), -top, top)
    d = xgb.DMatrix(finite, missing=missing)
    leaves = model.predict(d, pred_leaf=True, iteration_range=(0, rounds[1]), validate_features=False)
    leaves = np.asarray(leaves).reshape(len(X), -1)
    skipped = booster_leaves(model, X, missing, (0, rounds[0])).shape[1] if rounds[0] else 0
    return leaves[:, skipped:]


def estimator_raw(model: Any, X: np.ndarray) -> np.ndarray:
    return np.asarray(model.predict(X, output_margin=True)).reshape(len(X), -1)


def estimator_leaves(model: Any, X: np.ndarray) -> np.ndarray:
    missing = np.nan if model.missing is None else model.missing
    best = getattr(model, "best_iteration", None)
    return booster_leaves(model.get_booster(), X, missing, (0, 0 if best is None else best + 1))


def booster(name: str, rounds: int = 4, kind: str = "dense", weighted: bool = False, **params: Any) -> Case:
    """A case of `xgboost.train`."""
    seed = sum(map(ord, name)) % 1000
    missing = -1.0 if kind == "sentinel" else np.nan
    return Case(
        name=name,
        make=functools.partial(train, tuple(params.items()), rounds, kind, seed, weighted),
        raw=functools.partial(booster_raw, missing=missing),
        leaves=functools.partial(booster_leaves, missing=missing),
        infinities=params.get("booster") != "dart",
        options=(("missing", missing),) if kind == "sentinel" else (),
    )


def estimator(
    name: str, cls: Any, label: str, kind: str = "dense", fit: Callable[..., Any] | None = None, **params: Any
):
    """A case of a scikit-learn estimator."""
    seed = sum(map(ord, name)) % 1000

    def make() -> Any:
        X = features(kind, seed)
        y = labels(label, X, seed)
        model = cls(**{"n_jobs": 1, "verbosity": 0, "random_state": seed, "n_estimators": 4, "max_depth": 3} | params)
        if fit is not None:
            return fit(model, X, y)
        return model.fit(X, y.astype(np.int64) if issubclass(cls, xgb.XGBClassifier) else y)

    return Case(name=name, make=functools.cache(make), raw=estimator_raw, leaves=estimator_leaves)


def early_stopped(model: Any, X: np.ndarray, y: np.ndarray) -> Any:
    """Stopped by noise; `best_iteration` is then well below the number of rounds."""
    rng = np.random.default_rng(0)
    y = y.astype(np.int64) if isinstance(model, xgb.XGBClassifier) else y
    return model.fit(X, y, eval_set=[(X[:50], rng.permutation(y)[:50])], verbose=False)


def grouped(model: Any, X: np.ndarray, y: np.ndarray) -> Any:
    return model.fit(X, y, group=[ROWS // 10] * 10)


def cut(name: str, rounds: tuple[int, int], **params: Any) -> Case:
    """A Booster of ten rounds, of which some are used."""
    case = booster(name, 10, **params)
    return Case(
        name=name,
        make=case.make,
        raw=functools.partial(booster_raw, rounds=rounds),
        leaves=functools.partial(booster_leaves, rounds=rounds),
        infinities=case.infinities,
        options=(("iteration_range", rounds),),
    )


def _objectives() -> Iterator[Case]:
    for objective in OBJECTIVES:
        yield booster(f"{objective}/plain", objective=objective)
        yield booster(f"{objective}/missing", kind="missing", objective=objective, max_depth=5)
        if VERSION >= (3, 2) or objective not in ("reg:absoluteerror", "reg:quantileerror"):  # refused before
            yield booster(f"{objective}/forest", 2, objective=objective, num_parallel_tree=3, subsample=0.5)
        yield booster(f"{objective}/base", objective=objective, base_score=0.37, max_depth=2)
        yield booster(f"{objective}/dart", 6, objective=objective, booster="dart", rate_drop=0.5, one_drop=1)
    for score in (1e-7, 1e-6, 0.01, 0.25, 0.5, 0.9, 0.999999, 0.123456789):
        yield booster(f"base/logistic-{score}", objective="binary:logistic", base_score=score)
        yield booster(f"base/poisson-{score}", objective="count:poisson", base_score=score)
    for score in (-1e10, -0.1, 0.0, 3.0, 1e-30, 12345.678):
        yield booster(f"base/square-{score}", objective="reg:squarederror", base_score=score)
        yield booster(f"base/softprob-{score}", objective="multi:softprob", base_score=score)
    yield booster("aft/logistic", objective="survival:aft", aft_loss_distribution="logistic")
    yield booster("tweedie/1.1", objective="reg:tweedie", tweedie_variance_power=1.1)
    yield booster("huber/slope", objective="reg:pseudohubererror", huber_slope=2.0)
    yield booster("binary/scale_pos_weight", objective="binary:logistic", scale_pos_weight=7.5)
    yield booster("softprob/two", objective="multi:softprob", num_class=2, label="binary")
    yield booster("softprob/unused-classes", objective="multi:softprob", num_class=9)


def _shapes() -> Iterator[Case]:
    for method in ("exact", "hist", "approx"):
        for depth in (1, 2, 4, 6, 8):
            yield booster(f"{method}/depth{depth}", tree_method=method, max_depth=depth)
        for kind in ("missing", "mostly_missing", "integer", "constant", "special", "huge", "sentinel"):
            yield booster(f"{method}/{kind}", kind=kind, tree_method=method)
        for gamma in (0.1, 1.0, 5.0, 1e9):
            yield booster(f"{method}/gamma{gamma}", tree_method=method, gamma=gamma, max_depth=6)
    for leaves in (2, 3, 8, 31):
        for method in ("hist", "approx"):
            yield booster(
                f"{method}/leaves{leaves}", tree_method=method, grow_policy="lossguide", max_leaves=leaves, max_depth=0
            )
    for bins in (2, 3, 16, 512):
        yield booster(f"bins{bins}", tree_method="hist", max_bin=bins)
    for a, b in itertools.product((0.0, 5.0), (0.0, 10.0)):
        yield booster(f"alpha{a}/lambda{b}", alpha=a, reg_lambda=b)
    for step in (0.001, 0.3, 1.0):
        yield booster(f"eta{step}", eta=step)
        yield booster(f"delta{step}", max_delta_step=step, objective="binary:logistic")
    for weight in (0.0, 5.0, 1000.0):
        yield booster(f"min_child_weight{weight}", min_child_weight=weight)
    yield booster("monotone", monotone_constraints="(1,-1,0,0,1,0)")
    yield booster("interaction", interaction_constraints="[[0,1],[2,3,4]]", max_depth=5)
    yield booster("weights", weighted=True)
    yield booster("columns", colsample_bytree=0.5, colsample_bylevel=0.7, colsample_bynode=0.7, max_depth=6)
    yield booster("one-round", 1)
    yield booster("no-round", 0)
    yield booster("no-round/base", 0, objective="binary:logistic", base_score=0.3)
    yield booster("no-round/logistic", 0, objective="binary:logistic")
    yield booster("no-round/poisson", 0, objective="count:poisson")
    yield booster("no-round/classes", 0, objective="multi:softprob")
    yield booster("many-rounds", 300, max_depth=2)
    yield booster("stumps", 100, max_depth=1, eta=0.05)
    yield booster("unbounded", 2, tree_method="hist", max_depth=0, max_leaves=0, min_child_weight=0.0, reg_lambda=0.0)
    yield booster("pruned", tree_method="exact", gamma=2.0, max_depth=8, updater="grow_colmaker,prune")
    yield booster("refreshed", tree_method="exact", updater="grow_colmaker,prune,refresh", gamma=1.0)
    yield booster("forest/wide", 1, num_parallel_tree=30, subsample=0.6, eta=1.0)
    yield booster("forest/classes", 3, num_parallel_tree=2, objective="multi:softprob", subsample=0.5)


def _categories() -> Iterator[Case]:
    for method, onehot, kind in itertools.product(
        ("hist", "approx"), (1, 4, 11, 100), ("category", "category_missing")
    ):
        for depth in (2, 6):
            yield booster(
                f"category/{method}-{onehot}-{kind}-{depth}",
                kind=kind,
                tree_method=method,
                max_cat_to_onehot=onehot,
                max_depth=depth,
            )
    for objective in ("binary:logistic", "multi:softprob", "count:poisson"):
        yield booster(f"category/{objective}", kind="category_missing", tree_method="hist", objective=objective)
    for threshold in (2, 5, 64):
        yield booster(
            f"category/threshold{threshold}",
            kind="category",
            tree_method="hist",
            max_cat_threshold=threshold,
            max_cat_to_onehot=1,
        )
    yield booster("category/dart", 6, kind="category_missing", tree_method="hist", booster="dart", rate_drop=0.5)
    yield booster("category/pruned", kind="category", tree_method="approx", gamma=3.0, max_depth=6, max_cat_to_onehot=1)
    yield booster("category/forest", 2, kind="category", tree_method="hist", num_parallel_tree=3, subsample=0.5)


def _dart() -> Iterator[Case]:
    for sample, norm in itertools.product(("uniform", "weighted"), ("tree", "forest")):
        for rate, skip in ((0.1, 0.0), (0.5, 0.0), (0.5, 0.5), (1.0, 0.0)):
            yield booster(
                f"dart/{sample}-{norm}-{rate}-{skip}",
                8,
                booster="dart",
                sample_type=sample,
                normalize_type=norm,
                rate_drop=rate,
                skip_drop=skip,
                base_score=0.7,
            )
    for label, objective in (("binary", "binary:logistic"), ("class", "multi:softprob"), ("positive", "count:poisson")):
        cls = xgb.XGBRegressor if label == "positive" else xgb.XGBClassifier
        yield estimator(
            f"dart/wrapper-{label}",
            cls,
            label,
            n_estimators=8,
            booster="dart",
            objective=objective,
            rate_drop=0.4,
            one_drop=1,
            base_score=0.3,
        )
    yield estimator("dart/wrapper-missing", xgb.XGBRegressor, "value", "missing", booster="dart", rate_drop=0.9)
    yield booster("dart/forest", 4, booster="dart", num_parallel_tree=2, rate_drop=0.5, subsample=0.6)


def _outputs() -> Iterator[Case]:
    if VERSION < (2, 0):
        return
    for strategy in ("one_output_per_tree", "multi_output_tree"):
        method = {"multi_strategy": strategy, "tree_method": "hist"}
        for kind in ("dense", "missing"):
            for depth in (1, 3, 6):
                yield booster(
                    f"targets/{strategy}-{kind}-{depth}", kind=kind, label="targets", max_depth=depth, **method
                )
        yield booster(f"targets/{strategy}-forest", 2, label="targets", num_parallel_tree=3, subsample=0.5, **method)
        yield booster(f"targets/{strategy}-huber", label="targets", objective="reg:pseudohubererror", **method)
        yield booster(f"targets/{strategy}-labels", label="labels", objective="binary:logistic", **method)
        if VERSION >= (2, 1):
            yield booster(f"targets/{strategy}-hinge", label="labels", objective="binary:hinge", **method)
        yield booster(f"targets/{strategy}-base", label="targets", base_score=0.3, **method)
        yield estimator(f"targets/{strategy}-regressor", xgb.XGBRegressor, "targets", **method)
        yield estimator(f"targets/{strategy}-classifier", xgb.XGBClassifier, "labels", **method)
        yield booster(
            f"targets/{strategy}-lossguide",
            label="targets",
            grow_policy="lossguide",
            max_leaves=9,
            max_depth=0,
            **method,
        )
    yield booster("targets/softprob-vectors", objective="multi:softprob", multi_strategy="multi_output_tree")
    yield booster("quantile/three", objective="reg:quantileerror", quantile_alpha=(0.1, 0.5, 0.9))


def _estimators() -> Iterator[Case]:
    yield estimator("classifier/binary", xgb.XGBClassifier, "binary")
    yield estimator("classifier/binary-missing", xgb.XGBClassifier, "binary", "missing")
    yield estimator("classifier/classes", xgb.XGBClassifier, "class")
    yield estimator("classifier/softmax", xgb.XGBClassifier, "class", objective="multi:softmax")
    yield estimator("classifier/logitraw", xgb.XGBClassifier, "binary", objective="binary:logitraw")
    yield estimator("classifier/hinge", xgb.XGBClassifier, "binary", objective="binary:hinge")
    yield estimator("classifier/two-softprob", xgb.XGBClassifier, "binary", objective="multi:softprob", num_class=2)
    yield estimator("classifier/two-softmax", xgb.XGBClassifier, "binary", objective="multi:softmax", num_class=2)
    yield estimator("classifier/forest", xgb.XGBRFClassifier, "binary", n_estimators=10)
    yield estimator("classifier/forest-classes", xgb.XGBRFClassifier, "class", n_estimators=7)
    yield estimator("regressor/plain", xgb.XGBRegressor, "value")
    yield estimator("regressor/logistic", xgb.XGBRegressor, "probability", objective="reg:logistic")
    yield estimator("regressor/poisson", xgb.XGBRegressor, "positive", objective="count:poisson")
    yield estimator("regressor/forest", xgb.XGBRFRegressor, "value", n_estimators=10)
    for objective in ("rank:pairwise", "rank:ndcg"):
        yield estimator(f"ranker/{objective}", xgb.XGBRanker, "grade", fit=grouped, objective=objective)
    for sentinel in (-1.0, 0.0, 0.1, -999.0):
        yield estimator(f"sentinel/{sentinel}", xgb.XGBRegressor, "value", "sentinel", missing=sentinel)
        yield estimator(f"sentinel/{sentinel}-integer", xgb.XGBClassifier, "binary", "integer", missing=sentinel)
    for label, cls in (("binary", xgb.XGBClassifier), ("class", xgb.XGBClassifier), ("value", xgb.XGBRegressor)):
        for grower in ("gbtree", "dart"):
            yield estimator(
                f"early/{label}-{grower}",
                cls,
                label,
                fit=early_stopped,
                booster=grower,
                n_estimators=30,
                early_stopping_rounds=3,
                learning_rate=0.8,
            )
    yield estimator(
        "early/forest",
        xgb.XGBRegressor,
        "value",
        fit=early_stopped,
        num_parallel_tree=3,
        n_estimators=20,
        early_stopping_rounds=2,
        subsample=0.5,
    )


def _ranges() -> Iterator[Case]:
    for rounds in ((0, 1), (0, 10), (0, 4), (3, 7), (9, 10), (2, 0)):
        tag = f"{rounds[0]}-{rounds[1]}"
        yield cut(f"range/{tag}", rounds)
        yield cut(f"range/classes-{tag}", rounds, objective="multi:softprob")
        yield cut(f"range/forest-{tag}", rounds, num_parallel_tree=2, subsample=0.5)
    yield cut("range/dart", (0, 5), booster="dart", rate_drop=0.5)


CASES = [
    *_objectives(),
    *_shapes(),
    *_categories(),
    *_dart(),
    *_outputs(),
    *_estimators(),
    *_ranges(),
]
