"""The models of the suite, the data that they are trained on, and the rows that they are asked about.

Everything is synthetic and seeded. A target mixes sines, products and noise, so that trees fill up to their limits and
the rows of one batch spread over all leaves. Rows to predict come from another random stream than training rows.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import mmap
import os
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MAX_POOL_BYTES = 2**30
CATEGORIES = {0: 40, 1: 8, 2: 200}
"""Column -> number of categories, in the shape that has some."""
CALLS_PER_POOL = 2
"""A pool of rows serves this many calls of the largest batch with rows of their own."""


@dataclass(frozen=True)
class Shape:
    """One model of the suite.

    Args:
        name: Short and unique; part of file names.
        title: For people.
        library: "xgboost", "lightgbm" or "sklearn"; the name of an entry of `TRAINERS`.
        task: "regression", "binary" or "multiclass".
        features: Columns of X.
        rounds: Boosting rounds, or trees of a forest.
        params: The library's own parameters; for scikit-learn also "estimator", the name of a class of
            `sklearn.ensemble` (RandomForestClassifier).
        train_rows: Rows to train on.
        classes: Classes of a classifier, else 0.
        columns: "normal", "indicators" (10 numeric columns, the others 0 or 1) or "categories" (see CATEGORIES).
        missing: Share of values that are missing, in numeric columns.
        dtype: Of the rows, to train on and to predict: "float32" or "float64".
    """

    name: str
    title: str
    library: str
    task: str
    features: int
    rounds: int
    params: Mapping[str, Any]
    train_rows: int = 20_000
    classes: int = 0
    columns: str = "normal"
    missing: float = 0.0
    dtype: str = "float32"


@dataclass(frozen=True)
class Info:
    """A trained model as contestants get it.

    Args:
        shape: What was trained.
        model: Its file: .ubj of XGBoost, .txt of LightGBM, .pkl of scikit-learn.
        rows: Raw file of rows to predict, of the shape's dtype.
        n_rows: Their number.
    """

    shape: Shape
    model: Path
    rows: Path
    n_rows: int

    def to_json(self) -> dict[str, Any]:
        shape = dataclasses.asdict(self.shape)
        return {"shape": shape, "model": str(self.model), "rows": str(self.rows), "n_rows": self.n_rows}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Info:
        return Info(Shape(**data["shape"]), Path(data["model"]), Path(data["rows"]), data["n_rows"])


_XGB = {"tree_method": "hist", "max_bin": 256, "seed": 1}
_LGB = {"verbose": -1, "seed": 1, "deterministic": True, "force_row_wise": True}


def _xgboost(name: str, title: str, task: str, features: int, rounds: int, depth: int, **more: Any) -> Shape:
    objective = {"regression": "reg:squarederror", "binary": "binary:logistic", "multiclass": "multi:softprob"}[task]
    params = {**_XGB, "objective": objective, "max_depth": depth, "eta": 0.1}
    if task == "multiclass":
        params["num_class"] = more["classes"]
    return Shape(name, title, "xgboost", task, features, rounds, params, **more)


def _lightgbm(name: str, title: str, task: str, features: int, rounds: int, leaves: int, **more: Any) -> Shape:
    params = {**_LGB, "objective": task, "num_leaves": leaves, "learning_rate": 0.1}
    return Shape(name, title, "lightgbm", task, features, rounds, params, **more)


SHAPES = (
    _xgboost("xgb-500x8-28", "XGBoost, 500 trees x depth 8, 28 features", "binary", 28, 500, 8),
    _lightgbm("lgb-500x255-28", "LightGBM, 500 trees x 255 leaves, 28 features", "binary", 28, 500, 255),
    _lightgbm(
        "lgb-100x31-6-cat",
        "LightGBM, 100 trees x 31 leaves, 6 features, 3 of them categories, missing values",
        "binary",
        6,
        100,
        31,
        columns="categories",
        missing=0.03,
    ),
    _lightgbm("lgb-100x31-28", "LightGBM, 100 trees x 31 leaves, 28 features", "regression", 28, 100, 31),
    Shape(
        "skl-forest-100",
        "scikit-learn RandomForestClassifier, 100 unbounded trees, 28 features",
        "sklearn",
        "binary",
        28,
        100,
        {"max_features": "sqrt", "random_state": 1},
        classes=2,
    ),
    _xgboost("xgb-1000x6-90", "XGBoost, 1,000 trees x depth 6, 90 features", "regression", 90, 1000, 6),
    _xgboost(
        "xgb-8class-100x6-54",
        "XGBoost, 8 classes, 100 rounds x depth 6, 54 features",
        "multiclass",
        54,
        100,
        6,
        classes=8,
        columns="indicators",
    ),
    _xgboost("xgb-100-stumps", "XGBoost, 100 stumps, 28 features", "regression", 28, 100, 1),
    _xgboost(
        "xgb-wide-100x8-2000",
        "XGBoost, 100 trees x depth 8, 2,000 features",
        "regression",
        2000,
        100,
        8,
        train_rows=8_000,
    ),
)

QUICK = tuple(
    dataclasses.replace(shape, rounds=2, train_rows=200, features=min(shape.features, 40))
    for shape in SHAPES
    if shape.name in ("lgb-100x31-6-cat", "skl-forest-100", "xgb-8class-100x6-54")
)


def make_rows(shape: Shape, n: int, seed: int) -> np.ndarray:
    """(n, features) rows of the shape's dtype."""
    rng = np.random.default_rng([seed, 1])
    X = rng.standard_normal((n, shape.features), np.dtype(shape.dtype).type)
    if shape.columns == "indicators":
        shares = np.random.default_rng(7).uniform(0.02, 0.5, shape.features).astype(np.float32)
        X[:, 10:] = rng.random((n, shape.features - 10), np.float32) < shares[10:]
    if shape.missing:
        X[rng.random(X.shape, np.float32) < shape.missing] = np.nan
    if shape.columns == "categories":
        for column, count in CATEGORIES.items():
            X[:, column] = rng.integers(0, count, n)
    return X


def make_target(shape: Shape, X: np.ndarray, seed: int) -> np.ndarray:
    """(n,) what a model is trained to predict from X: values, or class numbers."""
    concept = np.random.default_rng(11)
    V = np.nan_to_num(X.astype(np.float64))
    if shape.columns == "categories":
        for column, count in CATEGORIES.items():
            V[:, column] = concept.standard_normal(count)[X[:, column].astype(np.int64)]
    y = np.zeros(len(V))
    for _ in range(12):
        a, b, c = concept.integers(0, min(shape.features, 60), 3)
        y += np.sin(2.0 * V[:, a] + concept.normal()) * V[:, b] + 0.5 * V[:, c]
    y += np.random.default_rng([seed, 2]).normal(0, 0.7 * y.std(), len(y))
    if shape.task == "regression":
        return y
    classes = max(shape.classes, 2)
    return np.digitize(y, np.quantile(y, np.arange(1, classes) / classes))


def _train_xgboost(shape: Shape, X: np.ndarray, y: np.ndarray, threads: int, path: Path) -> None:
    import xgboost

    types = ["c" if column in CATEGORIES else "float" for column in range(shape.features)]
    categories = {"feature_types": types} if shape.columns == "categories" else {}
    data = xgboost.DMatrix(X, y, nthread=threads, **categories)
    xgboost.train({**shape.params, "nthread": threads}, data, shape.rounds).save_model(path)


def _train_lightgbm(shape: Shape, X: np.ndarray, y: np.ndarray, threads: int, path: Path) -> None:
    import lightgbm

    columns = list(CATEGORIES) if shape.columns == "categories" else []
    data = lightgbm.Dataset(X, y, categorical_feature=columns, params={"verbose": -1})
    lightgbm.train({**shape.params, "num_threads": threads}, data, shape.rounds).save_model(path)


def _train_sklearn(shape: Shape, X: np.ndarray, y: np.ndarray, threads: int, path: Path) -> None:
    import sklearn.ensemble

    params = dict(shape.params)
    estimator = getattr(sklearn.ensemble, params.pop("estimator", "RandomForestClassifier"))
    known = estimator().get_params()
    params["max_iter" if "max_iter" in known else "n_estimators"] = shape.rounds
    model = estimator(**params)
    if "n_jobs" in known:
        model.set_params(n_jobs=threads)
    model.fit(X, y)
    if "n_jobs" in known:
        model.set_params(n_jobs=1)
    path.write_bytes(pickle.dumps(model))


Trainer = Callable[[Shape, np.ndarray, np.ndarray, int, Path], None]

TRAINERS: dict[str, tuple[str, str, Trainer]] = {
    "xgboost": ("xgboost", ".ubj", _train_xgboost),
    "lightgbm": ("lightgbm", ".txt", _train_lightgbm),
    "sklearn": ("scikit-learn", ".pkl", _train_sklearn),
}
"""Library -> (distribution, suffix of the model's file, trainer)."""


def version(distribution: str) -> str | None:
    """The installed version of a distribution; xgboost also comes as xgboost-cpu."""
    for name in (distribution, f"{distribution}-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def pool_rows(shape: Shape, largest_batch: int) -> int:
    """Rows of the pool that batches are taken from: fresh ones for each call, as far as MAX_POOL_BYTES allows."""
    most = MAX_POOL_BYTES // (np.dtype(shape.dtype).itemsize * shape.features)
    return max(min(CALLS_PER_POOL * largest_batch, most), largest_batch, 16_384)


def prepare(shape: Shape, cache: Path, n_rows: int, threads: int) -> Info:
    """Train the model and draw the rows, unless the cache has them.

    Raises:
        ImportError: the library is not installed.
    """
    distribution, suffix, train = TRAINERS[shape.library]
    cache.mkdir(parents=True, exist_ok=True)
    stem = cache / f"{shape.name}-{_digest(shape, version(distribution))}"
    model = stem.with_name(stem.name + suffix)
    rows = stem.with_name(f"{stem.name}-{n_rows}.{shape.dtype.replace('loat', '')}")
    if not model.exists():
        X = make_rows(shape, shape.train_rows, seed=1)
        partial = model.with_name(f"partial-{model.name}")
        train(shape, X, make_target(shape, X, seed=1), threads, partial)
        os.replace(partial, model)
    if not rows.exists() or rows.stat().st_size != n_rows * shape.features * np.dtype(shape.dtype).itemsize:
        partial = rows.with_name(f"partial-{rows.name}")
        make_rows(shape, n_rows, seed=2).tofile(partial)
        os.replace(partial, rows)
    return Info(shape, model, rows, n_rows)


def _digest(shape: Shape, library_version: str | None) -> str:
    # What is left out at its default does not rename the models that older caches hold.
    fields = {k: v for k, v in dataclasses.asdict(shape).items() if (k, v) != ("dtype", "float32")}
    text = json.dumps([fields, library_version], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Pool:
    """Rows in memory that all processes share, page tables filled in advance.

    A process that faults pages in while it is timed would pay several nanoseconds a row for the file, not the model.
    """

    X: np.ndarray
    mapped: mmap.mmap | None = field(default=None, repr=False)

    def batches(self, size: int, count: int, first: int) -> list[np.ndarray]:
        """``count`` views of ``size`` consecutive rows, from batch number ``first`` on, around the pool's end."""
        whole = max(len(self.X) // size, 1)
        starts = [(first + i) % whole * size for i in range(count)]
        return [self.X[s : s + size] for s in starts]


def open_pool(info: Info) -> Pool:
    with info.rows.open("r+b") as file:
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        mapped = mmap.mmap(file.fileno(), 0, flags=flags)
    return Pool(np.frombuffer(mapped, info.shape.dtype).reshape(info.n_rows, info.shape.features), mapped)
