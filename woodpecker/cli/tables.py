"""Rows from .npy, .csv, .tsv and .parquet files, a chunk at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, MissingExtraError
from ..runtime.rows import InputSpec
from .common import check_input

SUFFIXES = (".npy", ".csv", ".tsv", ".parquet")
CHUNK_ROWS = 65536

_SNIFFED = 1 << 20
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class Table:
    """A file of rows.

    Args:
        n: How many rows, or None where only reading tells.
        chunks: Yields what ``Predictor.predict`` accepts, in order.
    """

    n: int | None
    chunks: Callable[[], Iterator[Any]]


def open_table(
    path: Path, spec: InputSpec, *, header: bool = True, drop: Sequence[str] = (), rows: int = CHUNK_ROWS
) -> Table:
    """A file of rows for a model, told by its suffix.

    Columns that are categorical in the model are encoded by value. In .csv and .tsv files, empty fields and the usual
    spellings of "not available" are missing values, and whole numbers are read as float64.

    Args:
        path: The file.
        spec: What the model expects.
        header: Whether the first line of a .csv or .tsv file names the columns; without names, columns go by position.
        drop: Columns to leave out, such as an id or the target.
        rows: Rows per chunk, about.

    Raises:
        InputError: an unknown suffix, a damaged file, a column to drop that is not there.
        MissingExtraError: pyarrow is not installed, which .csv, .tsv and .parquet need.
        OSError: the file cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path} must end in one of {', '.join(SUFFIXES)}")
    check_input(path)
    if suffix == ".npy":
        if drop:
            raise InputError("--drop names columns, which a .npy file has not")
        return _npy(path, rows)
    if suffix == ".parquet":
        return _parquet(path, spec, drop, rows)
    return _csv(path, spec, "," if suffix == ".csv" else "\t", header, drop)


def map_npy(path: Path) -> np.ndarray:
    """The rows of a .npy file, (n, columns) of any dtype but object, mapped rather than read.

    Raises:
        InputError: it is damaged, holds Python objects, or has not two dimensions.
        OSError: it can't be read.
    """
    check_input(path)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # numpy evaluates the header: besides ValueError, TokenError, OverflowError, ...
        raise InputError(f"{path} cannot be read as a .npy file: {error}") from error
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path} cannot be read as a .npy file: it is an archive of several")
    if array.ndim != 2:
        raise InputError(f"{path} holds an array with {array.ndim} dimensions; rows need two")
    return array


def _npy(path: Path, rows: int) -> Table:
    array = map_npy(path)
    return Table(len(array), lambda: (array[i : i + rows] for i in range(0, len(array), rows)))


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingExtraError(
            f"reading {path.name} needs pyarrow, which is not installed: pip install 'woodpecker[frames]'"
        ) from error
    return pa


def _parquet(path: Path, spec: InputSpec, drop: Sequence[str], rows: int) -> Table:
    pa = _pyarrow(path)
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} cannot be read as a .parquet file: {error}") from error
    names = [name for name in file.schema_arrow.names if not _PANDAS_INDEX.fullmatch(name)]
    keep = _kept(names, drop, path)

    def chunks() -> Iterator[Any]:
        try:
            for batch in file.iter_batches(batch_size=rows, columns=keep):
                yield _by_value(pa, batch.select(keep), spec)
        except pa.ArrowInvalid as error:
            raise InputError(f"{path} is damaged: {error}") from error

    return Table(file.metadata.num_rows, chunks)


def _csv(path: Path, spec: InputSpec, delimiter: str, header: bool, drop: Sequence[str]) -> Table:
    pa = _pyarrow(path)
    from pyarrow import csv

    read = csv.ReadOptions(autogenerate_column_names=not header, block_size=_SNIFFED)
    parse = csv.ParseOptions(delimiter=delimiter)

    def reader(types: dict[str, Any] | None, columns: list[str] | None) -> Any:
        convert = csv.ConvertOptions(column_types=types, include_columns=columns, strings_can_be_null=True)
        return csv.open_csv(path, read_options=read, parse_options=parse, convert_options=convert)

    try:
        with reader(None, None) as first:
            schema = first.schema
    except pa.ArrowInvalid as error:
        raise InputError(f"{path} cannot be read as a {path.suffix} file: {error}") from error
    if header:
        _check_header(path, schema.names)
    keep = _kept(schema.names, drop, path)
    types = {name: _csv_type(pa, schema.field(name).type, f, spec) for name, f in _features(keep, spec).items()}

    def chunks() -> Iterator[Any]:
        try:
            with reader(types, keep) as batches:
                for batch in batches:
                    yield _by_value(pa, batch, spec)
        except pa.ArrowInvalid as error:
            raise InputError(f"{path}: {error}") from error

    return Table(None, chunks)


def _check_header(path: Path, names: Sequence[str]) -> None:
    """A first line of numbers is a row that would be lost, unless it counts the columns as pandas does."""
    try:
        numbers = [float(name) for name in names]
    except ValueError:
        numbers = []
    if numbers and numbers != list(range(len(names))):
        raise InputError(f"the first line of {path} holds numbers, not column names: pass --no-header")
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{path} has more than one column called {repeated[0]!r}")


def _kept(names: Sequence[str], drop: Sequence[str], path: Path) -> list[str]:
    if absent := [name for name in drop if name not in names]:
        raise InputError(f"--drop {absent[0]}: {path} has no such column")
    return [name for name in names if name not in drop]


def _features(names: Sequence[str], spec: InputSpec) -> dict[str, int]:
    """Column name -> the feature that it is, or -1."""
    if spec.feature_names is None:
        return {name: i for i, name in enumerate(names)}
    known = {name: i for i, name in enumerate(spec.feature_names)}
    spaces = spec.library == "lightgbm"
    return {name: known.get(name.replace(" ", "_") if spaces else name, -1) for name in names}


def _csv_type(pa: Any, inferred: Any, feature: int, spec: InputSpec) -> Any:
    """The type of a column in the whole file, from the type of its beginning and from what the model expects."""
    categories = spec.frame_categories.get(feature, ())
    if categories:
        for kind, arrow in ((str, pa.string()), (bool, pa.bool_()), (int, pa.int64()), ((int, float), pa.float64())):
            if all(isinstance(c, kind) for c in categories):
                return arrow
    if pa.types.is_integer(inferred) or pa.types.is_floating(inferred) or pa.types.is_null(inferred):
        return pa.float64()
    return inferred


def _by_value(pa: Any, batch: Any, spec: InputSpec) -> Any:
    """The batch as a table whose numeric columns are marked categorical where the model has categories for them."""
    columns = []
    for (_, f), column in zip(_features(batch.schema.names, spec).items(), batch.columns, strict=True):
        plain = f in spec.frame_categories and not pa.types.is_dictionary(column.type)
        columns.append(column.dictionary_encode() if plain else column)
    return pa.table(columns, names=batch.schema.names)
