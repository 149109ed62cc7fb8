"""Frames: columns by name, nulls, categories, and agreement with how each source library reads a frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from woodpecker.errors import InputError
from woodpecker.runtime import rows as rows_module
from woodpecker.runtime.rows import InputSpec, read_rows

from .test_rows import BEYOND, NAN, read, same

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")

NAMED = InputSpec(3, ("a", "b", "c"))
WIDE = InputSpec(3, ("a", "b", "c"), input_dtype="float64")

MAKERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "pandas": pd.DataFrame,
    "pandas nullable": lambda columns: pd.DataFrame(columns).convert_dtypes(),
    "pandas arrow": lambda columns: pd.DataFrame(columns).convert_dtypes(dtype_backend="pyarrow"),
    "polars": lambda columns: pl.DataFrame(columns, nan_to_null=False),
    "polars chunks": lambda columns: pl.concat([pl.DataFrame(columns)[:3], pl.DataFrame(columns)[3:]], rechunk=False),
    "pyarrow": pa.table,
    "pyarrow chunks": lambda columns: pa.concat_tables([pa.table(columns)[:3], pa.table(columns)[3:]]),
    "record batch": pa.record_batch,
}


@pytest.fixture(params=MAKERS)
def frame(request):
    return MAKERS[request.param]


@pytest.fixture(autouse=True, params=[4096, 4], ids=["one block", "blocks of 4"])
def _block_rows(request, monkeypatch):
    monkeypatch.setattr(rows_module, "BLOCK_ROWS", request.param)
    monkeypatch.setattr(rows_module, "BLOCK_BYTES", 3 * 8 * request.param * 512)


def columns(n: int = 11) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(n)
    return {
        "a": rng.normal(size=n) * 1e3,
        "b": rng.normal(size=n).astype(np.float32) + np.float32(0.1),
        "c": rng.integers(-(2**40), 2**40, n),
    }


def stacked(c: dict[str, Any], dtype: str) -> np.ndarray:
    return np.stack([c[name].astype(dtype) for name in "abc"], 1)


def test_columns_of_mixed_dtypes_in_any_order(frame):
    c = columns()
    for order in ("abc", "cab"):
        X = frame({name: c[name] for name in order})
        same(X, stacked(c, "float32"), NAMED)
        same(X, stacked(c, "float64"), WIDE)


def test_all_float32_columns_stay_float32(frame):
    c = {name: columns()["b"] for name in "abc"}
    assert read_rows(frame(c), WIDE).dtype == np.float32
    same(frame(c), stacked(c, "float32"), WIDE)


def test_by_position_where_the_model_has_no_names(frame):
    c = columns()
    same(frame({"z": c["a"], "y": c["b"], "x": c["c"]}), stacked(c, "float32"), InputSpec(3))
    with pytest.raises(InputError, match="2 columns; the model has 3"):
        read_rows(frame({"z": c["a"], "y": c["b"]}), InputSpec(3))


def test_missing_and_extra_columns_are_named(frame):
    c = columns()
    with pytest.raises(InputError, match="lacks 'b'; it has 'z', unknown"):
        read_rows(frame({"a": c["a"], "z": c["b"], "c": c["c"]}), NAMED)
    with pytest.raises(InputError, match=r"features: it has 'z', unknown"):
        read_rows(frame({**c, "z": c["b"]}), NAMED)
    with pytest.raises(InputError, match=r"lacks 'f0', 'f1', 'f2', 'f3', 'f4' and 4 more"):
        read_rows(frame(c), InputSpec(12, (*"abc", *(f"f{i}" for i in range(9)))))


def test_duplicate_columns():
    X = pd.DataFrame(np.zeros((2, 3)), columns=["a", "b", "a"])
    with pytest.raises(InputError, match="more than one column called 'a'"):
        read_rows(X, NAMED)
    with pytest.raises(InputError, match="more than one column called 'a'"):
        read_rows(X, InputSpec(3))
    with pytest.raises(InputError, match=r"unique|more than one"):
        read_rows(pa.table([[1], [2], [3]], names=["a", "b", "a"]), NAMED)


def test_pandas_labels_that_are_numbers():
    X = pd.DataFrame(np.arange(6.0).reshape(2, 3))
    same(X, np.arange(6, dtype=np.float32).reshape(2, 3))
    same(X[[2, 0, 1]], np.arange(6, dtype=np.float32).reshape(2, 3), InputSpec(3, ("0", "1", "2")))


def test_a_pandas_index_and_slices_do_not_matter():
    X = pd.DataFrame(columns(20)).set_index(np.arange(20)[::-1])
    same(X[::-2], stacked(columns(20), "float32")[::-2].copy(), NAMED)


@pytest.mark.parametrize("n", [0, 1])
def test_few_rows(frame, n):
    c = {name: column[:n] for name, column in columns().items()}
    same(frame(c), stacked(c, "float32"), NAMED)


def test_nulls_are_nan(frame):
    big = 2**62 + 1
    c = {
        "a": [1.5, None, NAN, 2.5, 0.0],
        "b": pa.array([big, None, 3, None, BEYOND]) if frame is not MAKERS["pandas"] else [1, None, 3, None, 4],
        "c": [True, None, False, None, True],
    }
    if "pandas" in (name for name, maker in MAKERS.items() if maker is frame):
        c["c"] = [1.0, None, 0.0, None, 1.0]
    b = [1, NAN, 3, NAN, 4] if frame is MAKERS["pandas"] else [np.int64(big).astype("f4"), NAN, 3, NAN, 0]
    if frame is not MAKERS["pandas"]:
        b[4] = np.int64(BEYOND).astype("f4")
    X = frame({k: v if not isinstance(v, pa.Array) else to_column(frame, v) for k, v in c.items()})
    want = np.array([[1.5, NAN, NAN, 2.5, 0], b, [1, NAN, 0, NAN, 1]], np.float32).T
    same(X, np.ascontiguousarray(want), NAMED)


def to_column(frame: Any, values: pa.Array) -> Any:
    if frame in (MAKERS["pandas nullable"], MAKERS["pandas arrow"]):
        return pd.array(values.to_pylist(), dtype="Int64")
    return values.to_pylist() if frame in (MAKERS["polars"], MAKERS["polars chunks"]) else values


def test_a_column_of_nothing_but_nulls():
    c = columns(5)
    want = stacked({**c, "b": np.full(5, NAN)}, "float32")
    for X in (
        pd.DataFrame({**c, "b": [None] * 5}),
        pl.DataFrame({**c, "b": [None] * 5}),
        pa.table({**c, "b": pa.nulls(5)}),
    ):
        same(X, want, NAMED)


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["x", "y"]),
        pd.Series(["x", "y"], dtype=object),
        pd.Series([1, "y"], dtype=object),
        pd.Series([[1], [2]]),
        pd.Categorical(["x", "y"]),
        pd.to_datetime(["2020-01-01", "2020-01-02"]),
        pd.Series([1 + 2j, 0]),
        np.zeros(2, np.longdouble),
        pd.Series([0.0, 1.0], dtype="Sparse[float]"),
    ],
    ids=lambda c: str(getattr(c, "dtype", "list")),
)
def test_columns_that_are_not_numbers(column):
    X = pd.DataFrame({"a": [1.0, 2.0], "b": column, "c": [0, 1]})
    with pytest.raises(InputError, match="column 'b'"):
        read_rows(X, NAMED)


def test_polars_and_pyarrow_columns_that_are_not_numbers():
    import datetime
    import decimal

    for values in (["x"], [datetime.date(2020, 1, 1)], [decimal.Decimal("1.5")], [[1.0]], [{"x": 1}]):
        for make in (pl.DataFrame, pa.table):
            with pytest.raises(InputError, match="column 'b'"):
                read_rows(make({"a": [1.0], "b": values, "c": [2.0]}), NAMED)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (pd.Series([1.0, 2, 3]), "pandas.Series, which is not a frame"),
        (pl.Series([1.0, 2, 3]), "polars.Series, which is not a frame"),
        (pa.array([1.0, 2, 3]), "pyarrow.DoubleArray, which is not a frame"),
        (pl.LazyFrame({"a": [1.0]}), r"polars.LazyFrame, which is not a frame in memory: collect\(\) it first"),
    ],
)
def test_what_is_not_a_frame(X, message):
    with pytest.raises(InputError, match=message):
        read_rows(X, NAMED)


def test_columns_with_names_that_arrays_have_as_attributes():
    X = pd.DataFrame({"tocsr": [1.0], "shape": [2.0], "__dlpack__": [3.0]})
    same(X, np.array([[1, 2, 3]], np.float32), InputSpec(3, ("tocsr", "shape", "__dlpack__")))


# Categories.

FRUIT = InputSpec(1, ("f",), frame_categories={0: ("pear", "apple", "fig")})
SIZES = InputSpec(1, ("f",), frame_categories={0: (10, 20, 30)})


def codes(X: Any, spec: InputSpec) -> list[float | None]:
    return [None if np.isnan(v) else v for v in read(X, spec)[:, 0].tolist()]


FRUITS = ["fig", None, "apple", "pear", "fig"]


@pytest.mark.parametrize(
    "X",
    [
        pd.DataFrame({"f": pd.Categorical(FRUITS)}),
        pd.DataFrame({"f": pd.Categorical(FRUITS, categories=["pear", "kiwi", "fig", "apple"])}),
        pd.DataFrame({"f": pd.Categorical(FRUITS, ordered=True)}),
        pd.DataFrame({"f": FRUITS}),
        pd.DataFrame({"f": pd.Series(FRUITS, dtype=object)}),
        pd.DataFrame({"f": pd.Series(FRUITS, dtype="string")}),
        pd.DataFrame({"f": pa.array(FRUITS).dictionary_encode().to_pandas()}),
        pl.DataFrame({"f": FRUITS}),
        pl.DataFrame({"f": pl.Series(FRUITS, dtype=pl.Categorical)}),
        pl.DataFrame({"f": pl.Series(FRUITS, dtype=pl.Enum(["apple", "fig", "pear", "kiwi"]))}),
        pa.table({"f": FRUITS}),
        pa.table({"f": pa.array(FRUITS).dictionary_encode()}),
        pa.table({"f": pa.chunked_array([pa.array(part).dictionary_encode() for part in (FRUITS[:2], FRUITS[2:])])}),
    ],
    ids=lambda X: f"{type(X).__module__.split('.')[0]}",
)
def test_categories_are_encoded_by_value(X):
    assert codes(X, FRUIT) == [2, None, 1, 0, 2]


@pytest.mark.parametrize(
    "X",
    [
        pd.DataFrame({"f": pd.Categorical([30, 10, None])}),
        pd.DataFrame({"f": pd.Categorical([30.0, 10.0, None])}),
        pa.table({"f": pa.array([30, 10, None]).dictionary_encode()}),
    ],
    ids=["pandas", "floats", "pyarrow"],
)
def test_integer_categories(X):
    assert codes(X, SIZES) == [2, 0, None]


def test_unknown_categories():
    import dataclasses

    lenient = dataclasses.replace(FRUIT, unknown_category="nan")
    values = ["fig", "pear", "fig", "fig", "fig", "kiwi"]
    for X in (
        pd.DataFrame({"f": pd.Categorical(values)}),
        pd.DataFrame({"f": values}),
        pl.DataFrame({"f": values}),
        pa.table({"f": values}),
    ):
        assert codes(X, lenient) == [2, 0, 2, 2, 2, None]
        with pytest.raises(InputError, match=r"column 'f' holds 'kiwi'.*not among the model's 3 categories"):
            read(X, FRUIT)
    with pytest.raises(InputError, match="in row 5"):
        read(pl.DataFrame({"f": values}), FRUIT)
    unused = pd.DataFrame({"f": pd.Categorical(["fig"], categories=["kiwi", "fig"])})
    assert codes(unused, FRUIT) == [2]


def test_what_looks_equal_is_not_the_same_category():
    spec = InputSpec(1, ("f",), frame_categories={0: (0, 1)}, unknown_category="nan")
    assert codes(pd.DataFrame({"f": pd.Categorical([True, False])}), spec) == [None, None]
    assert codes(pd.DataFrame({"f": pd.Categorical(["1", "0"])}), spec) == [None, None]
    flags = InputSpec(1, ("f",), frame_categories={0: (False, True)}, unknown_category="nan")
    assert codes(pd.DataFrame({"f": pd.Categorical([True, False])}), flags) == [1, 0]


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_a_numeric_column_for_a_categorical_feature(library):
    import dataclasses

    with pytest.raises(InputError, match="'f' is categorical in the model and Int64 in X"):
        read_rows(pd.DataFrame({"f": [10, 20]}), dataclasses.replace(SIZES, library=library))
