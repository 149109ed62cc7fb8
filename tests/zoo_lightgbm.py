"""LightGBM's zoo: objectives times variants of training, and models with something of their own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import lightgbm as lgb
import numpy as np
import pandas as pd

from .zoo import Case

ROWS, ROUNDS = 320, 6
QUIET = dict(verbosity=-1, num_threads=1, deterministic=True, force_col_wise=True, seed=1)


@functools.cache
def rows(seed: int = 0) -> np.ndarray:
    """(ROWS, 8) float64: a smooth column, ties, NaN, zeros with values near them, two of categories (one with unknown
    values), integers, and a constant."""
    rng = np.random.default_rng(seed)
    X = np.empty((ROWS, 8))
    X[:, 0] = rng.normal(size=ROWS)
    X[:, 1] = rng.normal(size=ROWS).round(1)
    X[:, 2] = np.where(rng.random(ROWS) < 0.15, np.nan, rng.exponential(size=ROWS))
    X[:, 3] = np.where(rng.random(ROWS) < 0.5, 0.0, rng.normal(size=ROWS))
    X[:, 4] = rng.integers(0, 45, ROWS)
    X[:, 5] = np.where(rng.random(ROWS) < 0.1, np.nan, rng.integers(0, 4, ROWS))
    X[:, 6] = rng.integers(-5, 20, ROWS)
    X[:, 7] = 3.0
    return X


def signal(X: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(9).normal(size=len(X))
    parts = (X[:, 0], 0.7 * X[:, 1] ** 2, np.nan_to_num(X[:, 2], nan=2.5), X[:, 3], np.isin(X[:, 4] % 7, [1, 2, 5]))
    return sum(parts) + np.nan_to_num(X[:, 5], nan=-1) + 0.1 * X[:, 6] + 0.3 * noise


def target(objective: str, X: np.ndarray, k: int) -> np.ndarray:
    z = signal(X)
    rank = np.argsort(np.argsort(z))
    if objective in ("binary", "custom"):
        return (z > np.median(z)).astype(float)
    if objective in ("cross_entropy", "cross_entropy_lambda"):
        return 1 / (1 + np.exp(-(z - z.mean())))
    if objective.startswith("multiclass"):
        return rank * k // len(z)
    if objective in ("lambdarank", "rank_xendcg"):
        return rank * 4 // len(z)
    if objective in ("poisson", "gamma", "tweedie", "mape"):
        return np.exp(z / 4) + 0.1
    return z


def gradients(preds: np.ndarray, data: lgb.Dataset) -> tuple[np.ndarray, np.ndarray]:
    p = 1 / (1 + np.exp(-preds))
    return p - data.get_label(), p * (1 - p)


OBJECTIVES: dict[str, dict[str, Any]] = {
    "regression": {},
    "sqrt": dict(objective="regression", reg_sqrt=True),
    "regression_l1": {},
    "huber": dict(alpha=0.5),
    "fair": dict(fair_c=0.7, reg_sqrt=True),
    "poisson": {},
    "quantile": dict(alpha=0.3),
    "mape": {},
    "gamma": {},
    "tweedie": dict(tweedie_variance_power=1.2),
    "binary": {},
    "sigmoid": dict(objective="binary", sigmoid=0.7312345678),
    "unbalance": dict(objective="binary", is_unbalance=True),
    "cross_entropy": {},
    "cross_entropy_lambda": {},
    "multiclass": dict(num_class=3),
    "multiclassova": dict(num_class=4, sigmoid=1.3),
    "lambdarank": dict(label_gain=[0, 1, 3, 7]),
    "rank_xendcg": {},
    "custom": dict(objective=gradients),
}

VARIANTS: dict[str, dict[str, Any]] = {
    "gbdt": {},
    "dart": dict(boosting="dart", drop_rate=0.5, skip_drop=0.0),
    "rf": dict(boosting="rf", bagging_freq=1, bagging_fraction=0.6),
    "goss": dict(data_sample_strategy="goss", learning_rate=0.5),
    "leaves": dict(num_leaves=40, min_data_in_leaf=1, min_sum_hessian_in_leaf=0),
    "depth": dict(num_leaves=64, max_depth=4, min_data_in_leaf=2),
    "stumps": dict(num_leaves=2),
    "zero_as_missing": dict(zero_as_missing=True, num_leaves=15, min_data_in_leaf=3),
    "no_missing": dict(use_missing=False, num_leaves=15, min_data_in_leaf=3),
    "category": dict(categorical_feature=[4, 5], min_data_per_group=5, cat_smooth=1, num_leaves=12, min_data_in_leaf=3),
    "onehot": dict(categorical_feature=[4, 5], max_cat_to_onehot=64, min_data_in_leaf=3, num_leaves=12),
    "linear": dict(linear_tree=True, linear_lambda=0.01, num_leaves=6),
    "extra": dict(extra_trees=True, num_leaves=16, min_data_in_leaf=2),
    "from_zero": dict(boost_from_average=False),
    "bins": dict(max_bin=6, min_data_in_bin=1, num_leaves=20, min_data_in_leaf=2),
    "bagging": dict(bagging_freq=1, bagging_fraction=0.5, feature_fraction=0.6, feature_fraction_bynode=0.7),
    "monotone": dict(monotone_constraints=[1, 0, -1, 1, 0, 0, 1, 0], monotone_constraints_method="intermediate"),
    "regularised": dict(lambda_l1=0.3, lambda_l2=2.0, max_delta_step=0.4, path_smooth=1.5, min_gain_to_split=0.01),
    "quantized": dict(use_quantized_grad=True, num_grad_quant_bins=8),
    "no_split": dict(min_data_in_leaf=10_000),
}

# LightGBM itself refuses to train these.
EXCLUDED = {(v, o) for v in ("linear", "monotone") for o in ("regression_l1", "quantile", "mape")}
EXCLUDED |= {("rf", "custom"), ("no_split", "custom")}
# LightGBM 4.0 crashes while it trains this one, and now and then its quantized training fails a check of its own.
EXCLUDED |= {("quantized", "custom")}
if lgb.__version__.startswith("4.0."):
    EXCLUDED |= {("quantized", o) for o in OBJECTIVES}


def booster_of(model: Any) -> lgb.Booster:
    return model if isinstance(model, lgb.Booster) else model.booster_


def raw(model: Any, X: np.ndarray) -> np.ndarray:
    booster = booster_of(model)
    scores = booster.predict(X, raw_score=True, num_threads=1)
    return np.asarray(scores).reshape(len(X), booster.num_model_per_iteration())


def leaves(model: Any, X: np.ndarray) -> np.ndarray:
    return np.asarray(booster_of(model).predict(X, pred_leaf=True, num_threads=1)).reshape(X.shape[0], -1)


def train(objective: str, variant: dict[str, Any], rounds: int = ROUNDS, **options: Any) -> lgb.Booster:
    params = {**QUIET, "objective": objective, "num_leaves": 8, "min_data_in_leaf": 8, **OBJECTIVES.get(objective, {})}
    params |= variant
    X = rows()
    categorical = params.pop("categorical_feature", "auto")
    name = objective if callable(params["objective"]) else params["objective"]
    ranking = name in ("lambdarank", "rank_xendcg")
    data = lgb.Dataset(
        X,
        target(name, X, params.get("num_class", 1)),
        group=[20] * (ROWS // 20) if ranking else None,
        categorical_feature=categorical,
        params=params,
        free_raw_data=False,
    )
    return lgb.train(params, data, rounds, **options)


def early_stopped(keep: bool) -> lgb.Booster:
    X = rows()
    y = target("binary", X, 1)
    params = {**QUIET, "objective": "binary", "num_leaves": 30, "min_data_in_leaf": 1, "learning_rate": 0.5}
    data = lgb.Dataset(X[:200], y[:200], params=params)
    stop = lgb.early_stopping(3, verbose=False)
    valid = [lgb.Dataset(X[200:], y[200:], reference=data)]
    booster = lgb.train(params, data, 60, valid_sets=valid, callbacks=[stop], keep_training_booster=keep)
    assert 0 < booster.best_iteration < 57
    return booster


def continued() -> lgb.Booster:
    return train("binary", {}, init_model=train("binary", {"num_leaves": 4}), keep_training_booster=True)


def refitted(linear: bool) -> lgb.Booster:
    X = rows(5)
    return train("regression", {"linear_tree": linear}).refit(X, signal(X), decay_rate=0.3)


def chain() -> lgb.Booster:
    """Each split takes the largest value off: a path 60 deep."""
    x = np.arange(64.0)
    params = {**QUIET, "objective": "regression", "num_leaves": 61, "min_data_in_leaf": 1, "min_data_in_bin": 1}
    params |= {"min_sum_hessian_in_leaf": 0, "learning_rate": 1.0}
    return lgb.train(params, lgb.Dataset(x[:, None], 3.0**x, params=params), 2)


def wide(boosting: str) -> lgb.Booster:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(200, 150)).astype(np.float32)
    params = {**QUIET, "objective": "regression", "boosting": boosting, "bagging_freq": 1, "bagging_fraction": 0.5}
    return lgb.train(params, lgb.Dataset(X, X[:, 3] * X[:, 140], params=params), 5)


def untrained() -> lgb.Booster:
    X = rows()
    return lgb.Booster({**QUIET, "objective": "binary"}, lgb.Dataset(X, target("binary", X, 1)))


def regressor() -> lgb.LGBMRegressor:
    X = rows()
    model = lgb.LGBMRegressor(n_estimators=ROUNDS, n_jobs=1, num_leaves=9, **QUIET)
    return model.fit(X, signal(X), sample_weight=1 + (X[:, 6] > 3))


def frame_regressor() -> lgb.LGBMRegressor:
    """Trained on a frame: category columns of strings and of numbers."""
    X = rows()
    frame = pd.DataFrame(X, columns=[f"f{i}" for i in range(X.shape[1])])
    frame["f4"] = pd.Categorical([f"c{int(c):02d}" for c in X[:, 4]])
    frame["f5"] = pd.Categorical(X[:, 5])
    model = lgb.LGBMRegressor(n_estimators=ROUNDS, n_jobs=1, num_leaves=9, min_data_per_group=5, **QUIET)
    return model.fit(frame, signal(X))


def ranker() -> lgb.LGBMRanker:
    X = rows()
    model = lgb.LGBMRanker(n_estimators=ROUNDS, n_jobs=1, num_leaves=9, **QUIET)
    return model.fit(X, target("lambdarank", X, 1), group=[20] * (ROWS // 20))


def classifier(k: int, **params: Any) -> Any:
    X = rows()
    labels = np.array(["no", "yes", "maybe", "never"])[target("multiclass", X, k).astype(int)]
    return lgb.LGBMClassifier(n_estimators=ROUNDS, n_jobs=1, **{"num_leaves": 9, **QUIET, **params}).fit(X, labels)


def _special() -> dict[str, Callable[[], Any]]:
    models: dict[str, Callable[[], Any]] = {
        "early-stopped": functools.partial(early_stopped, False),
        "early-stopped-kept": functools.partial(early_stopped, True),
        "continued": continued,
        "refitted": functools.partial(refitted, False),
        "refitted-linear": functools.partial(refitted, True),
        "chain": chain,
        "wide": functools.partial(wide, "gbdt"),
        "wide-rf": functools.partial(wide, "rf"),
        "untrained": untrained,
        "one-tree": functools.partial(train, "regression", {"num_leaves": 31, "min_data_in_leaf": 1}, 1),
        "thousand-stumps": functools.partial(train, "regression", {"num_leaves": 2, "learning_rate": 0.01}, 1000),
        "ten-classes": functools.partial(train, "multiclass", {"num_class": 10, "num_leaves": 4}),
        "kept-sigmoid": functools.partial(train, "sigmoid", {}, keep_training_booster=True),
        "kept-ova": functools.partial(train, "multiclassova", {"sigmoid": 0.123456789}, keep_training_booster=True),
        "kept-rf-sigmoid": functools.partial(train, "sigmoid", VARIANTS["rf"], keep_training_booster=True),
        "kept-linear": functools.partial(train, "binary", {"linear_tree": True}, keep_training_booster=True),
        "linear-dart": functools.partial(train, "regression", {"linear_tree": True, "boosting": "dart"}),
        "linear-category": functools.partial(
            train, "regression", {"linear_tree": True, "categorical_feature": [4], "min_data_per_group": 5}
        ),
        "zero-category": functools.partial(
            train, "binary", {**VARIANTS["category"], "zero_as_missing": True, "boosting": "dart"}
        ),
        "interaction": functools.partial(train, "regression", {"interaction_constraints": [[0, 1, 2], [3, 4, 6]]}),
        "cegb": functools.partial(train, "regression", {"cegb_tradeoff": 0.5, "cegb_penalty_split": 0.01}),
        "classifier-2": functools.partial(classifier, 2),
        "classifier-4": functools.partial(classifier, 4),
        "classifier-ova": functools.partial(classifier, 3, objective="multiclassova"),
        "classifier-rf": functools.partial(classifier, 3, boosting_type="rf", subsample=0.5, subsample_freq=1),
        "regressor": regressor,
        "regressor-frame": frame_regressor,
        "ranker": ranker,
    }
    return models


CASES: list[Case] = [
    Case(f"{variant}-{objective}", functools.partial(train, objective, VARIANTS[variant]), raw, leaves)
    for variant in VARIANTS
    for objective in OBJECTIVES
    if (variant, objective) not in EXCLUDED
]
SPECIAL_CASES = [Case(name, make, raw, leaves) for name, make in _special().items()]
CASES += SPECIAL_CASES
