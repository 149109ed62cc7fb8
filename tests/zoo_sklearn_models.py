"""How the models of the scikit-learn zoo are trained, and scikit-learn's own answers.

Rows with NaN are part of every test. Where an estimator refuses them, only those rows are answered by the `tree_`
objects inside of it, all others by its public methods.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import sklearn
from sklearn import ensemble, tree

SKLEARN = tuple(int(part) for part in sklearn.__version__.split(".")[:2])


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
"""Every estimator that the frontend takes."""


# ---- training data


def columns(seed: int, n: int = 240, kind: str = "plain", dtype: str = "float64") -> np.ndarray:
    """(n, 6): "plain"; "ties", few distinct values; "nan", 15 % missing; "adjacent", neighbouring float32 values, whose
    split points no float32 holds; "wide", 12 orders of magnitude; "signed_zero", 0.0 and -0.0 among small numbers."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6))
    if kind == "ties":
        X = np.round(X * 2) / 2
    elif kind == "nan":
        X[rng.random(X.shape) < 0.15] = np.nan
    elif kind == "adjacent":
        base = np.float32(1.0).view(np.int32)
        X = (base + rng.integers(0, 40, X.shape)).astype(np.int32).view(np.float32).astype(np.float64)
    elif kind == "wide":
        X = X * 10.0 ** rng.integers(-6, 7, X.shape)
    elif kind == "signed_zero":
        X = rng.choice([0.0, -0.0, 5e-324, -1e-40, 1e-40, 1e-35, -1e-35, 1.0, -1.0], X.shape)
    return X.astype(dtype)


def target(X: np.ndarray, task: str, seed: int) -> np.ndarray:
    """ "real", "real3" (three outputs), "count", "positive", "c1" to "c12" (classes), "multi" (outputs of 2, 3 and 4
    classes), or labels of a dtype: "str", "bool", "object", "float", "negative"."""
    rng = np.random.default_rng(seed + 1000)
    Z = np.nan_to_num(X.astype(np.float64))
    Z = np.sign(Z) * np.log1p(np.abs(Z))
    signal = Z[:, 0] * 2 + Z[:, 1] ** 2 - Z[:, 2] * Z[:, 3] + rng.normal(size=len(X)) * 0.3
    ranks = np.argsort(np.argsort(signal))
    if task == "real":
        return signal
    if task == "real3":
        return np.stack([signal, -signal + Z[:, 4], Z[:, 5]], axis=1)
    if task == "count":
        return rng.poisson(np.exp(np.clip(signal / 3, -2, 2))).astype(float)
    if task == "positive":
        return np.exp(signal / 3) + 0.01
    if task == "multi":
        return np.stack([ranks * k // len(X) for k in (2, 3, 4)], axis=1)
    if task.startswith("c"):
        return ranks * int(task[1:]) // len(X)
    codes = ranks * (2 if task == "bool" else 3) // len(X)
    labels = {
        "str": np.array(["low", "mid", "very high"]),
        "bool": np.array([False, True]),
        "object": np.array(["a", "bb", "ccc"], object),
        "float": np.array([-1.0, 0.0, 7.0]),
        "negative": np.array([-3, 0, 12], np.int8),
    }
    return labels[task][codes]


def train(
    cls: Any,
    task: str,
    seed: int,
    *,
    kind: str = "plain",
    dtype: str = "float64",
    n: int = 240,
    weights: bool = False,
    again: dict[str, Any] | None = None,
    **params: Any,
) -> Any:
    """A fitted model; `again`: parameters of a second, warm-started fit."""
    X = columns(seed, n, kind, dtype)
    y = target(X, task, seed)
    w = np.random.default_rng(seed + 2000).integers(0, 4, n) * 0.37 if weights else None
    model = cls(random_state=seed, **params).fit(X, y, sample_weight=w)
    if again is not None:
        model.set_params(**again).fit(X, y, sample_weight=w)
    return model


# ---- the library's answers


def _answer(
    call: Callable[[np.ndarray], np.ndarray], by_trees: Callable[[np.ndarray], np.ndarray], X: np.ndarray
) -> Any:
    """call(X), and where the library refuses NaN, by_trees(X32) for the rows that hold one."""
    try:
        return call(X)
    except ValueError:
        nan = np.isnan(X).any(1)
        if not nan.any():
            raise
        out = by_trees(X.astype(np.float32))
        if not nan.all():
            out[~nan] = call(X[~nan])
        return out


def _members(model: Any) -> list[Any]:
    members = [model] if hasattr(model, "tree_") else np.asarray(model.estimators_, object).reshape(-1).tolist()
    return [member.tree_ for member in members]


def leaves(model: Any, X: np.ndarray) -> np.ndarray:
    def apply(X: np.ndarray) -> np.ndarray:
        return model.apply(X).reshape(len(X), -1).astype(np.int32)

    def by_trees(X: np.ndarray) -> np.ndarray:
        return np.stack([t.apply(X) for t in _members(model)], axis=1).astype(np.int32)

    return _answer(apply, by_trees, X)


def raw_average(model: Any, X: np.ndarray) -> np.ndarray:
    """Trees and forests: predict_proba of all outputs side by side, or predict."""
    classifier = hasattr(model, "classes_")
    widths = np.atleast_1d(model.n_classes_) if classifier else None

    def call(X: np.ndarray) -> np.ndarray:
        if classifier:
            proba = model.predict_proba(X)
            return np.concatenate(proba, axis=1) if isinstance(proba, list) else proba
        return model.predict(X).reshape(len(X), -1)

    def by_trees(X: np.ndarray) -> np.ndarray:
        members = _members(model)
        # A single tree's values are returned as they are; -0.0 + v is v, even for v = -0.0.
        start = -0.0 if hasattr(model, "tree_") else 0.0
        total = np.full(members[0].predict(X).reshape(len(X), members[0].n_outputs, -1).shape, start)
        for member in members:
            total += member.predict(X).reshape(total.shape)
        total /= len(members)
        if widths is None:
            return total[:, :, 0]
        return np.concatenate([total[:, k, :w] for k, w in enumerate(widths)], axis=1)

    return _answer(call, by_trees, X)


def raw_embedding(model: Any, X: np.ndarray) -> np.ndarray:
    """RandomTreesEmbedding has no scores; as in a forest, its trees' values are averaged."""
    total = np.zeros((len(X), 1))
    for member in model.estimators_:
        total += member.tree_.predict(X.astype(np.float32))
    return total / len(model.estimators_)


def raw_boosting(model: Any, X: np.ndarray, stages: int | None = None) -> np.ndarray:
    def call(X: np.ndarray) -> np.ndarray:
        if stages is not None:
            staged = model.staged_decision_function if hasattr(model, "classes_") else model.staged_predict
            return next(scores for i, scores in enumerate(staged(X), 1) if i == stages).reshape(len(X), -1)
        scores = model.decision_function(X) if hasattr(model, "classes_") else model.predict(X)
        return scores.reshape(len(X), -1)

    def by_trees(X: np.ndarray) -> np.ndarray:
        out = np.repeat(model._raw_predict_init(np.zeros_like(X[:1])), len(X), axis=0)
        for stage in model.estimators_[:stages]:
            for k, member in enumerate(stage):
                out[:, k] += model.learning_rate * member.tree_.predict(X)[:, 0]
        return out

    return _answer(call, by_trees, X)


def leaves_boosting(model: Any, X: np.ndarray, stages: int) -> np.ndarray:
    return leaves(model, X)[:, : stages * model.estimators_.shape[1]]


def raw_isolation(model: Any, X: np.ndarray) -> np.ndarray:
    """The sum of depths, added as `IsolationForest._compute_score_samples` adds it."""
    with np.errstate(over="ignore"):
        X = X.astype(np.float32)
    depths = np.zeros(len(X))
    for t, (member, features) in enumerate(zip(model.estimators_, model.estimators_features_, strict=True)):
        subset = X[:, features] if model._max_features != X.shape[1] else X
        leaf = member.apply(subset, check_input=False)
        depths += model._decision_path_lengths[t][leaf] + model._average_path_length_per_tree[t][leaf] - 1.0
    return depths[:, None]


def leaves_isolation(model: Any, X: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        X = X.astype(np.float32)
    used = model.estimators_features_ if model._max_features != X.shape[1] else [slice(None)] * len(model.estimators_)
    found = [m.apply(X[:, f], check_input=False) for m, f in zip(model.estimators_, used, strict=True)]
    return np.stack(found, axis=1).astype(np.int32)


def raw_hist(model: Any, X: np.ndarray, stages: int | None = None) -> np.ndarray:
    if stages is not None:
        staged = model._staged_raw_predict(X)
        return next(scores.copy() for i, scores in enumerate(staged, 1) if i == stages)
    return model._raw_predict(X, n_threads=1)


def raw_hist_strings(model: Any, X: np.ndarray) -> np.ndarray:
    return raw_hist(model, frame(X))


def no_leaves(model: Any, X: np.ndarray) -> None:
    """HistGradientBoosting has no apply."""


# ---- categories

STRINGS = ("blue", "green", "red", "violet", "white", "yellow")
"""The categories of the string columns, in the encoder's order, so that a code is an index into them."""


def frame(X: np.ndarray) -> Any:
    """A pandas frame whose columns c1 and c4 hold strings; a code that names none becomes a string never seen."""
    import pandas as pd

    data: dict[str, Any] = {f"c{f}": X[:, f].astype(np.float64) for f in range(X.shape[1])}
    for name in ("c1", "c4"):
        codes = data[name]
        known = np.isin(codes, np.arange(len(STRINGS)))
        words = np.full(len(codes), "never seen", object)
        words[known] = np.array(STRINGS, object)[codes[known].astype(int)]
        words[np.isnan(codes)] = np.nan
        data[name] = pd.Categorical(words)
    return pd.DataFrame(data)


def category_columns(seed: int, n: int, values: np.ndarray) -> np.ndarray:
    """`columns` with categories in columns 1 and 4, and 8 % of everything missing."""
    rng = np.random.default_rng(seed)
    X = columns(seed, n)
    X[:, 1] = rng.choice(values, n)
    X[:, 4] = rng.choice(values[: max(2, len(values) // 2)], n)
    X[rng.random(X.shape) < 0.08] = np.nan
    return X


def train_categories(
    cls: Any, task: str, seed: int, *, values: np.ndarray, strings: bool = False, n: int = 400, **params: Any
) -> Any:
    X = category_columns(seed, n, values)
    rng = np.random.default_rng(seed + 3000)
    effect = rng.normal(size=1000) * 2
    score = X.copy()
    for f in (1, 4):
        code = np.searchsorted(values, np.nan_to_num(X[:, f], nan=values[0]))
        score[:, f] = effect[code + f]
    y = target(score, task, seed)
    if strings:
        X = frame(X)
        params["categorical_features"] = "from_dtype"
    else:
        params.setdefault("categorical_features", [1, 4])
    return cls(random_state=seed, **params).fit(X, y)
