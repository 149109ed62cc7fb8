"""Rows in, rows out: every kind of table that ``predict`` accepts becomes blocks that native code may read.

`read_rows` decides what X is and how its blocks are made; frames are in `rows_frames`, sparse matrices in
`rows_sparse`. A C-ordered float32 or float64 matrix is handed on as it is, all else is converted one block of rows at
a time. This module needs numpy only: whatever else X belongs to is imported already, or X would not exist.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError, WoodpeckerError

BLOCK_ROWS = 4096
BLOCK_BYTES = 4 << 20

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)

# Devices of DLPack whose memory this process can read: CPU, pinned (CUDA, ROCm) and CUDA managed memory.
_HOST_DEVICES = {1, 3, 11, 13}
CUDA = 2
_DEVICE_NAMES = {CUDA: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 10: "rocm", 14: "oneapi", 15: "webgpu"}

_FRAME_LIBRARIES = {"pandas", "polars", "pyarrow", "modin", "cudf", "dask", "narwhals", "duckdb", "ibis", "pyspark"}


@dataclass(frozen=True)
class InputSpec:
    """What a model expects of its rows; part of an artifact's manifest.

    Args:
        n_features: Columns of X.
        feature_names: (n_features,) names, by which the columns of a frame are found; None: by position.
        input_dtype: "float32" or "float64": what the kernels cast values to before comparing.
        integer_dtype: What integers, bool and float16 in arrays are cast to first: "float32" or "float64".
        sparse_fill: What an absent entry of a sparse matrix is: NaN for XGBoost, else 0.0.
        frame_categories: feature -> its categories in the order of their codes.
        unknown_category: What another category is: "error" or "nan".
        zero_band: See `woodpecker.forest.Forest.zero_band`.
        library: "xgboost", "lightgbm", "scikit-learn", or another.
    """

    n_features: int
    feature_names: tuple[str, ...] | None = None
    input_dtype: str = "float32"
    integer_dtype: str = "float32"
    sparse_fill: float = 0.0
    frame_categories: Mapping[int, Sequence[Any]] = field(default_factory=dict)
    unknown_category: str = "error"
    zero_band: float = 0.0
    library: str = ""

    @staticmethod
    def of_forest(forest: Any) -> InputSpec:
        """The spec of a `woodpecker.forest.Forest`."""
        library = str(forest.source.get("library", ""))
        return InputSpec(
            n_features=int(forest.n_features),
            feature_names=None if forest.feature_names is None else tuple(map(str, forest.feature_names)),
            input_dtype=forest.input_dtype,
            integer_dtype=forest.integer_dtype,
            sparse_fill=float("nan") if library == "xgboost" else 0.0,
            frame_categories={int(f): tuple(values) for f, values in forest.frame_categories.items()},
            unknown_category=forest.unknown_category,
            zero_band=float(forest.zero_band),
            library=library,
        )

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON values; NaN as None."""
        return {
            "n_features": self.n_features,
            "feature_names": None if self.feature_names is None else list(self.feature_names),
            "input_dtype": self.input_dtype,
            "integer_dtype": self.integer_dtype,
            "sparse_fill": None if np.isnan(self.sparse_fill) else self.sparse_fill,
            "frame_categories": {
                str(f): [v.item() if isinstance(v, np.generic) else v for v in values]
                for f, values in self.frame_categories.items()
            },
            "unknown_category": self.unknown_category,
            "zero_band": self.zero_band,
            "library": self.library,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> InputSpec:
        """The inverse of `to_json`."""
        fields = dict(data)
        fields["feature_names"] = None if data["feature_names"] is None else tuple(data["feature_names"])
        fields["sparse_fill"] = float("nan") if data["sparse_fill"] is None else data["sparse_fill"]
        fields["frame_categories"] = {int(f): tuple(values) for f, values in data["frame_categories"].items()}
        return InputSpec(**fields)


def _as_numpy(result: Any) -> Any:
    return result


@dataclass(frozen=True)
class Rows:
    """Rows that are ready to be read, a block at a time.

    Args:
        n: How many rows.
        dtype: float32 or float64, of every block.
        block_rows: Rows per block, the last one may be shorter.
        read: (begin, end) -> the block of those rows.
        restore: Turns a numpy result (or a list of them) into the kind of tensor that X was.
        memory: All arrays that ``read`` reads from; None where they can't be known: some of it may be X's own memory,
            read anew for each block.
    """

    n: int
    dtype: np.dtype[Any]
    block_rows: int
    read: Callable[[int, int], np.ndarray]
    restore: Callable[[Any], Any] = _as_numpy
    memory: tuple[np.ndarray, ...] | None = None

    def blocks(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """(begin, end, block) over all rows in order; nothing for zero rows.

        A block is (end - begin, n_features), aligned, native float32 or float64, with unit column stride and a row
        stride that is a multiple of the item size and no shorter than a row. It may be read-only, and may be X's own
        memory.

        Raises:
            InputError: a block holds what only its values can tell, such as an unknown category.
        """
        for begin in range(0, self.n, self.block_rows):
            end = min(begin + self.block_rows, self.n)
            yield begin, end, self.read(begin, end)


def block_rows(n_features: int, itemsize: int) -> int:
    """Rows of one converted block: few enough for the cache, and a multiple of 512 where rows are not huge."""
    fit = BLOCK_BYTES // max(1, n_features * itemsize)
    return min(BLOCK_ROWS, fit // 512 * 512 if fit >= 512 else max(1, fit))


def direct(X: Any, n_features: int) -> bool:
    """Whether X is a numpy array that native code may read where it lies: the one fast test of a hot path."""
    if type(X) is not np.ndarray or X.ndim != 2 or X.shape[1] != n_features:
        return False
    dtype, flags = X.dtype, X.flags
    if not (dtype is FLOAT32 or dtype is FLOAT64 or dtype in (FLOAT32, FLOAT64)) or not flags.aligned:
        return False
    rows, columns = X.strides
    size = dtype.itemsize
    return bool(columns == size and rows >= n_features * size and rows % size == 0 and n_features)


def read_rows(X: Any, spec: InputSpec) -> Rows:
    """X as blocks of rows that native code may read.

    Args:
        X: (n, n_features): a numpy array of float32, float64, integers, bool or float16; a list of lists; a pandas,
            polars or pyarrow frame; a scipy sparse matrix; or anything with ``__dlpack__`` in CPU memory.
        spec: What the model expects.

    Raises:
        InputError: wrong number of dimensions or columns, a dtype without a number's meaning, unknown, missing or
            duplicate column names, memory of another device, an unknown category; X itself raised an error, which is
            the cause of this one.
        MissingExtraError: X is a frame and narwhals is not installed.
    """
    if direct(X, spec.n_features):
        return Rows(X.shape[0], X.dtype, max(1, X.shape[0]), lambda begin, end: X[begin:end], memory=(X,))
    if isinstance(X, np.ndarray):
        return _array_rows(_plain(X), spec)
    try:
        return _foreign_rows(X, spec)
    except (WoodpeckerError, MemoryError):
        raise
    except Exception as error:  # X may be of any class, and its attributes may raise whatever they like
        kind = f"{type(X).__module__}.{type(X).__qualname__}"
        raise InputError(f"X is a {kind} that cannot be read: {type(error).__name__}: {error}") from error


def _foreign_rows(X: Any, spec: InputSpec) -> Rows:
    if _is_frame(X):  # before the rest: a pandas column may be called "tocsr"
        from .rows_frames import frame_rows

        return frame_rows(X, spec)
    if hasattr(X, "tocsr") and hasattr(X, "shape"):
        from .rows_sparse import sparse_rows

        return sparse_rows(X, spec)
    if hasattr(X, "__dlpack__") and hasattr(X, "__dlpack_device__"):
        return _dlpack_rows(X, spec)
    return _array_rows(_coerce(X), spec)


def check_shape(shape: Sequence[int], spec: InputSpec) -> None:
    """Raise InputError unless ``shape`` is (n, n_features)."""
    if len(shape) == 1:
        hint = "X.reshape(1, -1) for one row" + (", X.reshape(-1, 1) for one feature" if spec.n_features == 1 else "")
        raise InputError(f"X has one dimension, {shape[0]} values; it must be (rows, {spec.n_features}): use {hint}")
    if len(shape) != 2:
        raise InputError(f"X has {len(shape)} dimensions; it must have two: (rows, {spec.n_features})")
    if shape[1] != spec.n_features:
        raise InputError(f"X has {shape[1]} columns; the model has {spec.n_features} features")


def number_dtype(dtype: np.dtype[Any], spec: InputSpec, what: str = "X") -> np.dtype[Any]:
    """The dtype that values of ``dtype`` are cast to before they are handed to a kernel.

    Raises:
        InputError: values of this dtype are not numbers, or a cast to float64 would change them.
    """
    native = dtype.newbyteorder("=")
    if native in (FLOAT32, FLOAT64):
        return FLOAT32 if native == FLOAT32 else FLOAT64
    if dtype.kind in "iub" or native == np.dtype(np.float16):
        return np.dtype(spec.integer_dtype)
    hint = {
        "f": "float64 is the widest that models compare: cast with .astype('float64')",
        "O": "an array of Python objects: cast with .astype('float64'), None as nan",
        "U": "text: encode it as numbers, or pass a frame with a categorical column",
        "S": "text: encode it as numbers, or pass a frame with a categorical column",
        "M": "dates: pass numbers",
        "m": "durations: pass numbers",
        "c": "complex numbers: pass real ones",
    }.get(dtype.kind, "pass float32 or float64")
    raise InputError(f"{what} has dtype {dtype}, which is not supported ({hint})")


def _plain(X: np.ndarray) -> np.ndarray:
    """X as a base-class array over the same memory."""
    if isinstance(X, np.ma.MaskedArray):
        # The source libraries read what lies under the mask, without a word.
        if np.ma.is_masked(X):
            raise InputError("X is a masked array with masked values: say what they are, e.g. X.filled(float('nan'))")
        return np.asarray(X.data)
    return np.asarray(X)


def _coerce(X: Any) -> np.ndarray:
    """Lists and whatever else numpy makes an array of."""
    if X is None or isinstance(X, (str, bytes, Mapping, set, frozenset)) or np.isscalar(X):
        raise InputError(f"X is a {type(X).__name__}; it must be a table of rows, such as a 2-D array")
    if not isinstance(X, (list, tuple)) and not hasattr(X, "__array__"):
        raise InputError(
            f"X is a {type(X).__module__}.{type(X).__qualname__}; supported are numpy arrays, lists of rows, "
            "pandas, polars and pyarrow frames, scipy sparse matrices, and tensors with __dlpack__"
        )
    try:
        return _plain(np.asarray(X))
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"X cannot be read as an array: {error}") from error


def _array_rows(X: np.ndarray, spec: InputSpec, restore: Callable[[Any], Any] = _as_numpy) -> Rows:
    check_shape(X.shape, spec)
    dtype = number_dtype(X.dtype, spec)
    if direct(X, spec.n_features):
        return Rows(len(X), dtype, max(1, len(X)), lambda begin, end: X[begin:end], restore, (X,))

    def read(begin: int, end: int) -> np.ndarray:
        block = np.empty((end - begin, spec.n_features), dtype)
        with np.errstate(all="ignore"):
            np.copyto(block, X[begin:end], casting="unsafe")
        return block

    return Rows(len(X), dtype, block_rows(spec.n_features, dtype.itemsize), read, restore, (X,))


def _is_frame(X: Any) -> bool:
    if any(c.__module__.partition(".")[0] in _FRAME_LIBRARIES for c in type(X).__mro__):
        return True
    return hasattr(X, "__narwhals_dataframe__") or hasattr(X, "__dataframe__")


def on_gpu(X: Any) -> bool:
    """Whether X lies in the memory of a GPU of CUDA."""
    if isinstance(X, np.ndarray):
        return False
    try:
        return hasattr(X, "__dlpack__") and int(X.__dlpack_device__()[0]) == CUDA
    except Exception:  # X may be of any class; `read_rows` says what is wrong with it
        return False


def _dlpack_rows(X: Any, spec: InputSpec) -> Rows:
    name = f"{type(X).__module__.partition('.')[0]} tensor"
    try:
        device, index = (int(v) for v in X.__dlpack_device__())
    except (ValueError, TypeError, BufferError, RuntimeError) as error:
        raise InputError(f"X is a {name} on a device whose memory cannot be read: {error}") from error
    if device not in _HOST_DEVICES:
        where = f"{_DEVICE_NAMES.get(device, f'DLPack device {device}')}:{index}"
        more = f", or load an artifact with CUDA code with device={where!r}" if device == CUDA else ""
        raise InputError(f"X is a {name} on {where}, and this artifact runs on the CPU: pass X.cpu(){more}")
    tensor = X
    if getattr(tensor, "requires_grad", False):
        tensor = tensor.detach()
    if callable(getattr(tensor, "is_neg", None)) and tensor.is_neg():
        # torch exports such a view without its pending sign: every value would be negated.
        tensor = tensor.resolve_neg()
    try:
        array = np.from_dlpack(tensor)
    except (ValueError, TypeError, BufferError, RuntimeError) as error:
        dtype = getattr(X, "dtype", "unknown")
        raise InputError(f"X is a {name} of dtype {dtype} that numpy cannot read: {error}; pass float32") from error
    return _array_rows(array, spec, to_torch if _is_torch(X) else _as_numpy)


def _is_torch(X: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(X, torch.Tensor)


def to_torch(result: Any) -> Any:
    """Numbers as torch tensors over the same memory; labels that torch has no dtype for stay numpy arrays."""
    if isinstance(result, (list, tuple)):
        return type(result)(to_torch(part) for part in result)
    if not isinstance(result, np.ndarray) or result.dtype.kind not in "fiub":
        return result
    array = np.require(result, requirements=["C", "A", "W"])
    try:
        return sys.modules["torch"].from_numpy(array)
    except TypeError:
        return result
