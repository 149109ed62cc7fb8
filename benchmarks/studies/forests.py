"""Twenty trained models that no estimate was calibrated with: drawn at random from a seed, and small to train.

What is drawn: the library, the estimator, trees (10 to 1,000), depth (2 to unbounded), leaves, features (4 to 300),
classes, categories, missing values, and the dtype of the rows.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from ..shapes import Shape

COUNT = 20
SEED = 3
FEWEST_TREES, MOST_TREES = 10, 1000
LEAF_LIMIT = 200_000
"""About the most leaves of one model, so that all of them are trained in about a minute."""


def held_out(count: int = COUNT, seed: int = SEED) -> tuple[Shape, ...]:
    """Their shapes, named "forest-1" and on. The first ones do not depend on how many there are."""
    makers = (_xgboost, _lightgbm, _sklearn)
    return tuple(makers[i % 3](i, random.Random(f"{seed}/{i}")) for i in range(count))


def quick() -> tuple[Shape, ...]:
    """One of them with next to no trees, for CI."""
    return tuple(dataclasses.replace(shape, rounds=4, train_rows=200) for shape in held_out(1))


def _between(rng: random.Random, low: float, high: float) -> int:
    """Evenly on a logarithmic scale."""
    return _scale(rng.random(), low, high)


def _scale(share: float, low: float, high: float) -> int:
    return round(low * (high / low) ** share)


def _common(i: int, rng: random.Random, categories: bool, missing: bool) -> dict[str, Any]:
    """The fields of a shape that do not depend on the library."""
    columns = rng.choice(["normal", "normal", "indicators", "categories"])
    if columns == "categories" and not categories:
        columns = "normal"
    task = rng.choice(["regression", "binary", "multiclass"])
    return {
        "name": f"forest-{i + 1}",
        "task": task,
        "features": _between(rng, {"normal": 4, "indicators": 20, "categories": 4}[columns], 300),
        "train_rows": _between(rng, 1000, 4000),
        "classes": {"regression": 0, "binary": 2, "multiclass": rng.randint(3, 6)}[task],
        "columns": columns,
        "missing": rng.choice([0.0, 0.05]) if missing else 0.0,
        "dtype": rng.choice(["float32", "float32", "float64"]),
    }


def _trees(i: int, leaves: int, groups: int) -> int:
    """Rounds of boosting, each of ``groups`` trees of up to ``leaves`` leaves. By the golden ratio, so that few forests
    already have few and many."""
    most = max(min(MOST_TREES, LEAF_LIMIT / leaves), 20)
    return max(_scale((0.3 + i * 0.6180339887) % 1, FEWEST_TREES, most) // groups, -(-FEWEST_TREES // groups))


def _title(kind: str, groups: int, rounds: int, trees: str, common: dict[str, Any]) -> str:
    parts = [f"{kind}, {rounds * groups:,} trees {trees}", f"{common['features']} features"]
    if groups > 1:
        parts.append(f"{groups} classes")
    if common["columns"] != "normal":
        parts.append(common["columns"])
    if common["missing"]:
        parts.append("missing values")
    if common["dtype"] != "float32":
        parts.append(f"{common['dtype']} rows")
    return ", ".join(parts)


def _xgboost(i: int, rng: random.Random) -> Shape:
    common = _common(i, rng, categories=True, missing=True)
    groups = common["classes"] if common["task"] == "multiclass" else 1
    objective = {"regression": "reg:squarederror", "binary": "binary:logistic", "multiclass": "multi:softprob"}
    params: dict[str, Any] = {"tree_method": "hist", "max_bin": rng.choice([64, 256]), "seed": 1, "eta": 0.1}
    params["objective"] = objective[common["task"]]
    if groups > 1:
        params["num_class"] = groups
    if rng.random() < 0.25:
        leaves = _between(rng, 8, 512)
        params |= {"max_depth": 0, "max_leaves": leaves, "grow_policy": "lossguide", "min_child_weight": 0.1}
        trees = f"of up to {leaves} leaves"
    else:
        depth = rng.randint(2, 11)
        leaves = min(2**depth, common["train_rows"] // 4)
        params["max_depth"] = depth
        trees = f"x depth {depth}"
    rounds = _trees(i, leaves, groups)
    title = _title("XGBoost", groups, rounds, trees, common)
    return Shape(title=title, library="xgboost", rounds=rounds, params=params, **common)


def _lightgbm(i: int, rng: random.Random) -> Shape:
    common = _common(i, rng, categories=True, missing=True)
    groups = common["classes"] if common["task"] == "multiclass" else 1
    leaves = _between(rng, 4, 512)
    params: dict[str, Any] = {"verbose": -1, "seed": 1, "deterministic": True, "force_row_wise": True}
    params |= {"objective": common["task"], "num_leaves": leaves, "learning_rate": 0.1, "min_data_in_leaf": 3}
    if groups > 1:
        params["num_class"] = groups
    rounds = _trees(i, leaves, groups)
    title = _title("LightGBM", groups, rounds, f"of up to {leaves} leaves", common)
    return Shape(title=title, library="lightgbm", rounds=rounds, params=params, **common)


def _sklearn(i: int, rng: random.Random) -> Shape:
    kind = rng.choice(["RandomForest", "ExtraTrees", "GradientBoosting", "HistGradientBoosting"])
    histograms = kind == "HistGradientBoosting"
    common = _common(i, rng, categories=histograms, missing=histograms or kind == "RandomForest")
    boosting = kind.endswith("Boosting")
    groups = common["classes"] if boosting and common["task"] == "multiclass" else 1
    estimator = kind + ("Regressor" if common["task"] == "regression" else "Classifier")
    params: dict[str, Any] = {"estimator": estimator, "random_state": 1}
    if histograms:
        leaves = _between(rng, 4, 256)
        params |= {"max_leaf_nodes": leaves, "early_stopping": False, "min_samples_leaf": 5}
        if common["columns"] == "categories":
            params["categorical_features"] = [0, 1, 2]
        trees = f"of up to {leaves} leaves"
    else:
        depth = rng.randint(2, 6) if boosting else rng.choice([None, None, rng.randint(4, 14)])
        params |= {"max_depth": depth, "max_features": "sqrt"}
        leaves = common["train_rows"] // 3 if depth is None else min(2**depth, common["train_rows"] // 3)
        trees = "of unbounded depth" if depth is None else f"x depth {depth}"
    rounds = _trees(i, leaves, groups)
    title = _title(estimator, groups, rounds, trees, common)
    return Shape(title=title, library="sklearn", rounds=rounds, params=params, **common)
