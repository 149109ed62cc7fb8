"""The forest's answer over our blocks is the source library's answer over the frame, the array, the sparse matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from woodpecker import reference
from woodpecker.errors import InputError
from woodpecker.frontend import to_forest
from woodpecker.runtime.rows import InputSpec, read_rows

from .test_rows import BEYOND, read

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")


def agree(model: Any, frames: dict[str, Any], predict: Callable[[Any], Any]) -> None:
    forest = to_forest(model)
    spec = InputSpec.of_forest(forest)
    for name, X in frames.items():
        got = reference.predict_raw(forest, read(X, spec))[:, 0]
        want = np.asarray(predict(X))
        assert got.tolist() == want.astype(got.dtype).tolist(), name


def training_frame(categories: list[Any]) -> tuple[Any, np.ndarray]:
    rng = np.random.default_rng(0)
    c = rng.choice(len(categories), 200)
    X = pd.DataFrame({"x y": rng.normal(size=200), "c": pd.Categorical([categories[i] for i in c]), "i": c * 2})
    return X, c % 2 * 3.0 + c + X["x y"].to_numpy()


@pytest.mark.parametrize("categories", [["u", "v", "w"], [10, 20, 35]], ids=["text", "integers"])
def test_lightgbm_frames(categories):
    lgb = pytest.importorskip("lightgbm")
    X, y = training_frame(categories)
    options = {"num_threads": 1, "verbose": -1, "min_data_per_group": 1, "cat_smooth": 0}
    model = lgb.train(options, lgb.Dataset(X, y), 5)
    other = X.assign(c=X["c"].cat.rename_categories({categories[0]: "new" if categories[0] == "u" else 99}))
    frames = {
        "training": X,
        "fewer categories": X[X["c"] == categories[1]].assign(c=lambda d: d["c"].cat.remove_unused_categories()),
        "unknown": other,
        "nulls": X.assign(c=X["c"].where(X["x y"] > 0)),
        "float32": X.astype({"x y": "float32", "i": "int16"}),
    }
    agree(model, frames, lambda X: model.predict(X, raw_score=True))
    with pytest.raises(InputError, match="lacks 'x_y'"):
        read_rows(X.drop(columns="x y"), InputSpec.of_forest(to_forest(model)))


def test_lightgbm_integers_of_frames_and_arrays():
    lgb = pytest.importorskip("lightgbm")
    X = np.array([[2**24, 0.0], [2**24 + 1, 0]] * 50)
    model = lgb.train({"num_threads": 1, "verbose": -1, "min_data_in_leaf": 1}, lgb.Dataset(X, X[:, 0] - 2**24), 1)
    whole = X.astype(np.int64)
    frames = {
        "array": whole,
        "list": whole.tolist(),
        "pandas": pd.DataFrame(whole),
        "mixed": pd.DataFrame({"a": whole[:, 0], "b": X[:, 1]}),
        "nullable": pd.DataFrame({"a": pd.array(whole[:, 0], dtype="Int64"), "b": X[:, 1].astype("f4")}),
        "polars": pl.DataFrame(whole, schema=["a", "b"]),
        "pyarrow": pa.table({"a": whole[:, 0], "b": X[:, 1]}),
    }
    agree(model, frames, lambda X: model.predict(X, raw_score=True))


@pytest.mark.parametrize("categories", [["u", "v", "w"], [10, 20, 35]], ids=["text", "integers"])
def test_xgboost_frames(categories):
    xgb = pytest.importorskip("xgboost")
    X, y = training_frame(categories)
    model = xgb.XGBRegressor(n_estimators=5, max_depth=4, n_jobs=1, enable_categorical=True, max_cat_to_onehot=1)
    model.fit(X, y)
    if not to_forest(model).frame_categories:
        pytest.skip("this XGBoost does not save categories")
    frames = {
        "training": X,
        "fewer categories": X[X["c"] == categories[1]].assign(c=lambda d: d["c"].cat.remove_unused_categories()),
        "nulls": X.assign(c=X["c"].where(X["x y"] > 0)),
    }
    agree(model, frames, lambda X: model.predict(X, output_margin=True))
    unknown = X.assign(c=X["c"].cat.rename_categories({categories[0]: "new" if categories[0] == "u" else 99}))
    with pytest.raises(InputError, match="not among"):
        read(unknown, InputSpec.of_forest(to_forest(model)))


def frames_of_large_integers() -> dict[str, Any]:
    v = [BEYOND, BEYOND - 2]
    return {
        "all integers": pd.DataFrame({"a": v, "b": [0, 1]}),
        "mixed": pd.DataFrame({"a": v, "b": [0.0, 1]}),
        "with float32": pd.DataFrame({"a": v, "b": np.zeros(2, np.float32)}),
        "with bool": pd.DataFrame({"a": v, "b": [True, False]}),
        "nullable": pd.DataFrame({"a": pd.array(v, dtype="Int64"), "b": [0.5, 1]}),
        "polars mixed": pl.DataFrame({"a": v, "b": [0.0, 1]}),
        "polars integers": pl.DataFrame({"a": v, "b": [0, 1]}),
        "pyarrow mixed": pa.table({"a": v, "b": [0.0, 1]}),
    }


def large_integers() -> tuple[Any, np.ndarray]:
    once, twice = (float(np.float32(v)) for v in (np.int64(BEYOND).astype(np.float32), float(BEYOND)))
    assert once != twice
    X = pd.DataFrame({"a": [once, twice] * 20, "b": 0.0})
    return X, np.tile([1.0, 0.0], 20)


def test_xgboost_rounds_each_column_by_itself():
    xgb = pytest.importorskip("xgboost")
    X, y = large_integers()
    model = xgb.XGBRegressor(n_estimators=2, n_jobs=1, tree_method="exact", min_child_weight=0).fit(X, y)
    assert len(set(model.predict(X).tolist())) == 2
    agree(model, frames_of_large_integers(), model.predict)


@pytest.mark.filterwarnings("ignore:X has feature names")
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_scikit_learn_rounds_mixed_frames_twice():
    trees = pytest.importorskip("sklearn.tree")
    X, y = large_integers()
    model = trees.DecisionTreeRegressor().fit(X, y)
    agree(model, frames_of_large_integers(), model.predict)


def test_scikit_learn_categories():
    ensemble = pytest.importorskip("sklearn.ensemble")
    for categories in (["u", "v", "w"], [10, 20, 35]):
        X, y = training_frame(categories)
        model = ensemble.HistGradientBoostingRegressor(max_iter=5, categorical_features="from_dtype").fit(X, y)
        unknown = X.assign(c=X["c"].cat.rename_categories({categories[0]: "new" if categories[0] == "u" else 99}))
        frames = {"training": X, "unknown": unknown, "nulls": X.assign(c=X["c"].where(X["x y"] > 0))}
        agree(model, frames, model.predict)


def test_sparse_rows_against_the_libraries():
    sp = pytest.importorskip("scipy.sparse")
    rng = np.random.default_rng(0)
    dense = np.where(rng.random((200, 3)) < 0.6, 0, rng.normal(size=(200, 3)))
    y = dense[:, 0] + (dense[:, 1] == 0)
    X = sp.csr_matrix(dense)
    X.data[::5] = 0.0  # explicit zeros
    lgb, xgb, trees = (pytest.importorskip(name) for name in ("lightgbm", "xgboost", "sklearn.tree"))
    booster = lgb.train({"num_threads": 1, "verbose": -1, "min_data_in_leaf": 2}, lgb.Dataset(dense, y), 5)
    boosted = xgb.XGBRegressor(n_estimators=5, n_jobs=1).fit(X, y)
    tree = trees.DecisionTreeRegressor(max_depth=5).fit(dense, y)
    frames = {"csr": X, "csc": X.tocsc()}
    agree(booster, frames, lambda X: booster.predict(X, raw_score=True))
    frames["array"] = sp.csr_array(X)
    agree(boosted, frames, lambda X: boosted.predict(X, output_margin=True))
    agree(tree, frames, tree.predict)


def test_a_compiled_model_reads_every_kind_of_input(tmp_path):
    pytest.importorskip("tvm")
    lgb, sp = pytest.importorskip("lightgbm"), pytest.importorskip("scipy.sparse")
    import woodpecker as wp

    X, y = training_frame(["u", "v", "w"])
    model = lgb.train({"num_threads": 1, "verbose": -1, "min_data_per_group": 1}, lgb.Dataset(X, y), 5)
    want = model.predict(X, raw_score=True)
    array = np.stack([X["x y"], X["c"].cat.codes, X["i"]], 1).astype(np.float64)
    compiled = wp.compile(model, strategy="tree_traversal")
    compiled.save(tmp_path / "model.so")
    kinds = {
        "pandas": X[["i", "c", "x y"]],
        "polars": pl.from_pandas(X.astype({"c": str})),
        "pyarrow": pa.Table.from_pandas(X),
        "array": array,
        "fortran": np.asfortranarray(array),
        "big-endian": array.astype(">f8"),
        "read-only": np.frombuffer(array.tobytes()).reshape(array.shape),
        "list": array.tolist(),
        "csr": sp.csr_array(array),
        "csc": sp.csc_array(array),
    }
    for predictor in (compiled, wp.load(tmp_path / "model.so")):
        for name, rows in kinds.items():
            assert predictor.predict_raw(rows)[:, 0].tolist() == want.tolist(), name
            if name != "list":
                assert predictor.predict_raw(rows[:0]).shape == (0, 1), name
