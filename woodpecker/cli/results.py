"""Predictions to .npy, .csv and .parquet files, a chunk at a time."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import InputError, MissingExtraError

SUFFIXES = (".npy", ".csv", ".parquet")


class Sink(Protocol):
    """Where chunks of predictions go, in order."""

    def write(self, chunk: np.ndarray) -> None: ...

    def close(self) -> None: ...


@contextlib.contextmanager
def open_results(path: Path, names: Sequence[str]) -> Iterator[Sink]:
    """A sink that becomes the file ``path`` when the block succeeds; ``-`` is CSV on the standard output.

    Args:
        path: Its suffix says the format.
        names: Of the columns, for .csv and .parquet.

    Raises:
        InputError: an unknown suffix, or values that the format cannot hold.
        MissingExtraError: pyarrow is not installed, which .csv and .parquet need.
        OSError: the file cannot be written.
    """
    suffix = ".csv" if str(path) == "-" else path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{path} must end in one of {', '.join(SUFFIXES)}, or be - for CSV on the standard output")
    if str(path) == "-" and sys.stdout is None:
        raise OSError("the standard output is closed: name a file to write")
    from ..runtime.files import atomic_path

    with contextlib.ExitStack() as stack:
        where: Any = sys.stdout.buffer if str(path) == "-" else stack.enter_context(atomic_path(path))
        sink: Sink = _NpySink(where) if suffix == ".npy" else _ArrowSink(where, suffix, names)
        try:
            yield sink
        except BaseException:
            with contextlib.suppress(Exception):
                sink.close()
            raise
        sink.close()


class _NpySink:
    """An array that grows by rows. numpy leaves room in the header for a longer shape."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._dtype: np.dtype[Any] | None = None
        self._shape: tuple[int, ...] = ()
        self._rows = 0

    def write(self, chunk: np.ndarray) -> None:
        if chunk.dtype.kind == "O":
            raise InputError("labels of mixed types do not fit into a .npy file: write .csv, or use Python")
        if self._dtype is None:
            self._dtype, self._shape = chunk.dtype, chunk.shape[1:]
            self._file.write(self._header())
        self._rows += len(chunk)
        self._file.write(chunk.astype(self._dtype, copy=False).tobytes())

    def close(self) -> None:
        if self._dtype is not None:
            self._file.seek(0)
            self._file.write(self._header())
        self._file.close()

    def _header(self) -> bytes:
        assert self._dtype is not None
        header = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(self._dtype)
        fields = {"descr": descr, "fortran_order": False, "shape": (self._rows, *self._shape)}
        np.lib.format.write_array_header_1_0(header, fields)
        return header.getvalue()


class _ArrowSink:
    def __init__(self, where: Any, suffix: str, names: Sequence[str]) -> None:
        try:
            import pyarrow as pa
            import pyarrow.csv
            import pyarrow.parquet
        except ImportError as error:
            raise MissingExtraError(
                f"writing {suffix} needs pyarrow, which is not installed: pip install 'woodpecker[frames]'"
            ) from error
        self._pa, self._where, self._names = pa, where, list(names)
        self._open = pa.csv.CSVWriter if suffix == ".csv" else pa.parquet.ParquetWriter
        self._writer: Any = None

    def write(self, chunk: np.ndarray) -> None:
        columns = [chunk] if chunk.ndim == 1 else list(np.ascontiguousarray(chunk.T))
        try:
            table = self._pa.table([self._pa.array(c) for c in columns], names=self._names)
        except (self._pa.ArrowInvalid, self._pa.ArrowTypeError, self._pa.ArrowNotImplementedError) as error:
            raise InputError(f"these predictions do not fit into a table: {error}") from error
        if self._writer is None:
            self._writer = self._open(self._where, table.schema)
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
