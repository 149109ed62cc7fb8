"""Frames (pandas, polars, pyarrow and what else narwhals reads) as dense blocks: columns found by name, nulls as NaN,
categories as their codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError, MissingExtraError
from .rows import FLOAT32, FLOAT64, InputSpec, Rows, block_rows, check_shape


@dataclass(frozen=True)
class Column:
    """How a column is read.

    Args:
        read: (begin, end) -> the values of those rows, of any dtype that casts to float.
        memory: The array that all of them are read from; None where the frame's library reads them.
    """

    read: Callable[[int, int], np.ndarray]
    memory: np.ndarray | None = None


Lookup = Callable[[Any, str], float]
"""(value, where it stands) -> the number it is to the model."""

_INTEGERS = {"Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"}
_FLOATS = {"Float16", "Float32", "Float64"}
_CATEGORIES = {"Categorical", "Enum", "String", "Object"}
_SHOWN = 5


def frame_rows(X: Any, spec: InputSpec) -> Rows:
    """A frame as dense blocks of ``spec.input_dtype``; float32 where float64 is expected and all columns are float32.

    Raises:
        InputError: not an eager frame; missing, extra or duplicate columns; a dtype without a number's meaning; a
            categorical column where the model has none, or the reverse.
        MissingExtraError: narwhals is not installed.
    """
    frame = _open(X)
    columns = [frame.get_column(frame.columns[i]) for i in _positions(frame.columns, frame.shape, spec)]
    floats32 = all(str(c.dtype) in ("Float32", "Float16") for c in columns)
    dtype = FLOAT32 if spec.input_dtype == "float32" or floats32 else FLOAT64
    via = FLOAT64 if _interleaves(columns, spec) else dtype
    read_columns = [_column(c, f, spec, dtype, via) for f, c in enumerate(columns)]

    def read(begin: int, end: int) -> np.ndarray:
        block = np.empty((end - begin, spec.n_features), dtype)
        with np.errstate(all="ignore"):
            for f, column in enumerate(read_columns):
                block[:, f] = column.read(begin, end)
        return block

    known = tuple(column.memory for column in read_columns if column.memory is not None)
    memory = known if len(known) == len(read_columns) else None
    return Rows(int(frame.shape[0]), dtype, block_rows(spec.n_features, dtype.itemsize), read, memory=memory)


def _open(X: Any) -> Any:
    try:
        import narwhals as nw
    except ImportError as error:
        raise MissingExtraError(
            f"reading a {type(X).__module__.partition('.')[0]} frame needs narwhals: pip install 'woodpecker[frames]'"
        ) from error
    if type(X).__name__ == "RecordBatch":
        import pyarrow as pa

        X = pa.Table.from_batches([X])
    labels = [str(c) for c in getattr(X, "columns", ())] if type(X).__module__.startswith("pandas") else []
    if repeated := sorted({c for c in labels if labels.count(c) > 1}):
        raise InputError(f"X has more than one column called {_list(repeated)}")
    try:
        return nw.from_native(X, eager_only=True)
    except TypeError as error:
        hint = "collect() it first" if hasattr(X, "collect") else "pass a two-dimensional frame or array"
        kind = f"{type(X).__module__.partition('.')[0]}.{type(X).__name__}"
        raise InputError(f"X is a {kind}, which is not a frame in memory: {hint}") from error
    except nw.exceptions.NarwhalsError as error:
        raise InputError(f"X cannot be read as a frame: {error}") from error


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_SHOWN])
    return shown + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _positions(labels: Sequence[Any], shape: tuple[int, int], spec: InputSpec) -> Sequence[int]:
    """For each feature, the column of the frame that holds it."""
    if spec.feature_names is None:
        check_shape(shape, spec)
        return range(spec.n_features)
    # LightGBM stores names with underscores for spaces.
    names = [str(c).replace(" ", "_") if spec.library == "lightgbm" else str(c) for c in labels]
    at = {name: i for i, name in enumerate(names)}
    if len(at) != len(names):
        raise InputError(f"X has more than one column called {_list(sorted({n for n in names if names.count(n) > 1}))}")
    missing = [name for name in spec.feature_names if name not in at]
    known = set(spec.feature_names)
    extra = [str(labels[i]) for name, i in at.items() if name not in known]
    if missing or extra:
        parts = [f"it lacks {_list(missing)}"] * bool(missing)
        parts += [f"it has {_list(extra)}, unknown to the model"] * bool(extra)
        raise InputError(f"the columns of X are not the model's {spec.n_features} features: {'; '.join(parts)}")
    return [at[name] for name in spec.feature_names]


def _interleaves(columns: Sequence[Any], spec: InputSpec) -> bool:
    """Whether the source library first makes one float64 array of the frame, so that integers are rounded twice.

    scikit-learn does, for polars and for pandas' numpy columns without a bool among them; XGBoost casts each column
    by itself (measured on integers beyond 2**53).
    """
    if spec.library != "scikit-learn" or not any(str(c.dtype) in _FLOATS for c in columns):
        return False
    native = [c.to_native() for c in columns]
    root = type(native[0]).__module__.partition(".")[0]
    numpy_columns = all(isinstance(s.dtype, np.dtype) and s.dtype.kind != "b" for s in native if hasattr(s, "dtype"))
    return root == "polars" or (root == "pandas" and numpy_columns)


def _column(series: Any, f: int, spec: InputSpec, dtype: np.dtype[Any], via: np.dtype[Any]) -> Column:
    """How the values of feature ``f`` are read from its column."""
    name, kind = series.name, str(series.dtype).partition("(")[0]
    numeric = kind in _INTEGERS or kind in _FLOATS or kind == "Boolean"
    if f in spec.frame_categories:
        # scikit-learn encodes numeric columns by value too; XGBoost and LightGBM refuse them.
        if numeric and spec.library in ("xgboost", "lightgbm"):
            raise InputError(
                f"column {name!r} is categorical in the model and {kind} in X: make it categorical, or pass an array "
                "of codes"
            )
        if numeric or kind in _CATEGORIES:
            return _decode(series, kind, _encoder(name, tuple(spec.frame_categories[f]), spec.unknown_category))
    elif kind in _CATEGORIES and spec.library == "scikit-learn":
        return _decode(series, kind, _number(name))
    elif kind in _CATEGORIES and int(series.null_count()) != len(series):
        raise InputError(f"column {name!r} is {kind} in X and the model has no categories for it: encode it as numbers")
    if kind in _FLOATS:
        return _zero_copy(series) or Column(lambda begin, end: series[begin:end].to_numpy())
    if numeric:
        if int(series.null_count()) == 0:
            return _cast(_zero_copy(series) or Column(lambda begin, end: series[begin:end].to_numpy()), dtype, via)
        return _cast(_nullable(series, kind), dtype, via)
    if int(series.null_count()) == len(series):
        return Column(lambda begin, end: np.full(end - begin, np.nan), np.empty(0))
    raise InputError(f"column {name!r} has dtype {series.dtype}, which is not supported: cast it to Float64")


def _cast(column: Column, dtype: np.dtype[Any], via: np.dtype[Any]) -> Column:
    return column if via == dtype else Column(lambda begin, end: column.read(begin, end).astype(via), column.memory)


def _zero_copy(series: Any) -> Column | None:
    """The whole column as a numpy view of the frame's own memory, where there is one."""
    native = series.to_native()
    root = type(native).__module__.partition(".")[0]
    values: np.ndarray | None = None
    if root == "pandas":
        values = native.to_numpy() if isinstance(native.dtype, np.dtype) else None
    elif str(series.dtype) == "Boolean":  # bits, in both of the others
        values = None
    elif root == "polars":
        values = native.to_numpy() if native.null_count() == 0 and native.n_chunks() == 1 else None
    elif root == "pyarrow":
        # Not to_numpy, which imports pandas where that is installed: seconds, for a first row.
        values = np.from_dlpack(native.chunk(0)) if native.null_count == 0 and native.num_chunks == 1 else None
    if values is None:
        return None
    whole = values
    return Column(lambda begin, end: whole[begin:end], whole)


def _nullable(series: Any, kind: str) -> Column:
    """Integers with nulls, without the detour over float64 that a plain ``to_numpy`` makes."""
    filler = False if kind == "Boolean" else 0

    def read(begin: int, end: int) -> np.ndarray:
        part = series[begin:end]
        values = part.fill_null(filler).to_numpy()
        null = part.is_null().to_numpy().astype(bool)
        if not null.any():
            return np.asarray(values)
        # longdouble holds every 64-bit integer, so the one rounding is the last cast.
        wide = values.astype(np.longdouble)
        wide[null] = np.nan
        return np.asarray(wide)

    return Column(read)


def _key(value: Any) -> tuple[str, Any]:
    """What two equal categories share: True is not 1, and 1 is not "1"."""
    kind = "bool" if isinstance(value, (bool, np.bool_)) else "text" if isinstance(value, str) else "value"
    return kind, value


def _encoder(name: Any, categories: tuple[Any, ...], unknown: str) -> Lookup:
    """A category's code; NaN for an unknown one where the library has it so."""
    code = {_key(category): float(i) for i, category in enumerate(categories)}

    def lookup(value: Any, where: str) -> float:
        try:
            found = code.get(_key(value))
        except TypeError:  # not hashable, so not a category
            found = None
        if found is None and unknown == "error":
            raise InputError(
                f"column {name!r} holds {value!r}{where}, which is not among the model's {len(code)} categories"
            )
        return float("nan") if found is None else found

    return lookup


def _number(name: Any) -> Lookup:
    """A numeric category is its own value, as it is to scikit-learn."""

    def lookup(value: Any, where: str) -> float:
        if isinstance(value, (bool, int, float, np.number, np.bool_)):
            return float(value)
        raise InputError(f"column {name!r} holds {value!r}{where} and the model has no categories for it")

    return lookup


def _decode(series: Any, kind: str, lookup: Lookup) -> Column:
    """A column read value by value; null and NaN are NaN."""
    native = series.to_native()
    if kind == "Categorical" and type(native).__module__.startswith("pandas") and hasattr(native, "cat"):
        # Only categories that occur count: pandas keeps those of rows that were filtered out.
        codes = native.cat.codes.to_numpy()
        used = np.unique(codes[codes >= 0])
        table = np.full(len(native.cat.categories) + 1, np.nan)
        table[used] = [lookup(native.cat.categories[i], "") for i in used]
        return Column(lambda begin, end: table[codes[begin:end]], codes)

    def read(begin: int, end: int) -> np.ndarray:
        part = series[begin:end]
        null = part.is_null().to_numpy().astype(bool)
        values = enumerate(zip(part.to_list(), null, strict=True), begin)
        found = [np.nan if absent or v != v else lookup(v, f" in row {row}") for row, (v, absent) in values]
        return np.array(found, np.float64)

    return Column(read)
