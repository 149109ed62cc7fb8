"""Rows in the memory of the host, computed on a GPU.

They go there in chunks, by two streams in turn, through pinned memory, so that one chunk's copies overlap the other's
kernels; a few are read, and their answers written, in pinned memory.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from ..errors import InputError
from .cuda import Model, entry_for, launch, scratch_bytes, sharing, zeroed_bytes
from .cuda_driver import Current, call, settle
from .cuda_lanes import COUNTED, Lane, Pinned, abandon, finish, is_pinned, memory, pinned, zeroed
from .cuda_lanes import lanes as lanes_of
from .format import round_up

CHUNK_BYTES = 8 * 2**20
"""Rows of a chunk and their answers: a thread keeps pinned memory for two of them. By an estimate the host copies
10 GB/s, slower than the bus, so that smaller chunks would only cost more launches, and larger ones wait longer for the
first copy and the last."""
MAPPED_BYTES = 16 * 2**10
"""Rows and their answers up to which a kernel reads and writes memory of the host: an estimate, see `_few`."""
FEW_BYTES = MAPPED_BYTES + 256
"""With room between them."""
COMPARED = 256
"""The first rows of a kernel that may be compared with what the CPU makes of them."""

Check = Callable[[str, str, Callable[[], tuple[np.ndarray, np.ndarray]]], None]
"""Called with a kernel that ran, "raw" or "apply", and what gives up to COMPARED rows of the host and its answers."""


def run(model: Model, kind: str, X: np.ndarray, out: np.ndarray, check: Check | None = None) -> None:
    """Compute rows that are in the memory of the host, and wait for it.

    Args:
        model: The model.
        kind: "raw" or "apply".
        X: (n, F) float32 or float64.
        out: (n, K) of the accumulator's dtype, or (n, T) int32.
        check: Called with each kernel that ran.

    Raises:
        InputError: X and out have different numbers of rows. TargetError: the driver fails.
    """
    if len(X) != len(out):
        raise InputError(f"X has {len(X)} rows, and out {len(out)}")
    with _lanes(model) as lanes:
        few = model.rows_once and kind == "raw" and X.nbytes + out.nbytes <= MAPPED_BYTES
        kernel = entry_for(model, "raw", X.dtype, len(X)) if few else ""
        few = few and X.nbytes * sharing(model, kernel, len(X)) + out.nbytes <= MAPPED_BYTES  # each block reads the row
        if few and (block := pinned(lanes[0], "few", FEW_BYTES)) is not None:
            _few(model, kernel, lanes[0], block, X, out)
            if check is not None:
                head = slice(0, COMPARED)
                check(kernel, kind, lambda: (np.ascontiguousarray(X[head]), np.ascontiguousarray(out[head])))
            return
        _stream(model, kind, lanes, [X], len(X), out, check)


def run_blocks(
    model: Model, kind: str, blocks: Iterable[np.ndarray], out: np.ndarray, check: Check | None = None
) -> None:
    """The same of rows that are made a block at a time: while the GPU works on some, the next are made.

    Args:
        blocks: (., F) float32 or float64, all of one dtype, as many rows as ``out`` has.

    Raises:
        TargetError: the driver fails.
    """
    with _lanes(model) as lanes:
        _stream(model, kind, lanes, blocks, len(out), out, check)


@contextlib.contextmanager
def _lanes(model: Model) -> Iterator[list[Lane]]:
    """The lanes of the calling thread. Nothing runs on them afterwards, whatever happens."""
    if not hasattr(model._lanes, "lanes"):
        settle(model.device)
    with Current(model.device.context):
        lanes = lanes_of(model.device, model._lanes)
        try:
            yield lanes
        except BaseException:
            for lane in lanes:
                abandon(lane)
            raise


def _few(model: Model, entry: str, lane: Lane, block: Pinned, X: np.ndarray, out: np.ndarray) -> None:
    """A few rows: the kernel reads them in pinned memory of the host, and writes its answers there. By an estimate the
    two copies that this spares, each with a hand-over between the GPU's copy engine and its multiprocessors, take some
    10 us, and reading a few KiB over the bus some 2."""
    start = round_up(X.nbytes)
    np.copyto(np.ndarray(X.shape, X.dtype, block.bytes), X)
    lane.busy = True
    scratch = _scratch(model, entry, lane, len(X))
    x, y = (block.there, X.shape[1]), (block.there + start, out.shape[1])
    launch(model, entry, x, y, len(X), scratch, lane.stream)
    finish(lane)
    np.copyto(out, np.ndarray(out.shape, out.dtype, block.bytes, start))


def _scratch(model: Model, entry: str, lane: Lane, rows: int) -> int:
    nbytes, zeros = scratch_bytes(model, entry, rows), zeroed_bytes(model, entry)
    return zeroed(lane, COUNTED, nbytes, zeros) if zeros else memory(lane, "scratch", nbytes)


def _stream(
    model: Model,
    kind: str,
    lanes: list[Lane],
    blocks: Iterable[np.ndarray],
    rows: int,
    out: np.ndarray,
    check: Check | None,
) -> None:
    """Chunks of rows, on the lanes in turn: where a lane's pinned memory takes the rows, copies in and out, kernels,
    and what the host does with rows all overlap."""
    begin = 0
    heads: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for lane, chunk in _chunks(lanes, blocks, rows, out):
        entry = entry_for(model, kind, chunk.dtype, len(chunk))
        part = out[begin : begin + len(chunk)]
        if check is not None and entry not in heads:
            heads[entry] = chunk[:COMPARED].copy(), part[:COMPARED]
        _chunk(model, entry, lane, chunk, part)
        begin += len(chunk)
    for lane in lanes:
        finish(lane)
    if check is not None:
        for entry, (X, found) in heads.items():
            check(entry, kind, functools.partial(_contiguous, X, found))


def _contiguous(X: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return X, np.ascontiguousarray(out)


def _chunks(
    lanes: list[Lane], blocks: Iterable[np.ndarray], rows: int, out: np.ndarray
) -> Iterator[tuple[Lane, np.ndarray]]:
    """The rows of the blocks in chunks, C-ordered, each with its lane, on which nothing runs. A chunk lies in memory
    that lasts until the lane's next one: the lane's pinned memory, or X, where that is pinned already."""
    turns, filled, chunk = itertools.cycle(lanes), 0, None
    for block in blocks:
        size = max(1, min(CHUNK_BYTES // max(block[:1].nbytes + out[:1].nbytes, 1), rows))
        if len(block) == len(out) and block.flags.c_contiguous and is_pinned(block):
            for begin in range(0, rows, size):
                lane = next(turns)
                finish(lane)
                yield lane, block[begin : begin + size]
            return
        at = 0
        while at < len(block):
            if chunk is None:
                lane = next(turns)
                finish(lane)
                filled, chunk = 0, _staged(lane, "x", (min(size, rows), block.shape[1]), block.dtype)
            taken = min(len(chunk) - filled, len(block) - at)
            np.copyto(chunk[filled : filled + taken], block[at : at + taken])
            filled, at, rows = filled + taken, at + taken, rows - taken
            if filled == len(chunk):
                yield lane, chunk
                chunk = None


def _staged(lane: Lane, name: str, shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray:
    """An array in the lane's pinned memory; in other memory, where there is none."""
    nbytes = shape[0] * shape[1] * dtype.itemsize
    block = pinned(lane, name, nbytes) if nbytes else None
    return np.empty(shape, dtype) if block is None else np.ndarray(shape, dtype, block.bytes)


def _chunk(model: Model, entry: str, lane: Lane, X: np.ndarray, out: np.ndarray) -> None:
    if not out.size:
        return
    direct = out.flags.c_contiguous and is_pinned(out)
    result = out if direct else _staged(lane, "y", (out.shape[0], out.shape[1]), out.dtype)
    x, y = memory(lane, "x", X.nbytes), memory(lane, "out", result.nbytes)
    scratch = _scratch(model, entry, lane, len(X))
    lane.busy, lane.kept = True, [X, result]
    call("cuMemcpyHtoDAsync_v2", x, X.ctypes.data, X.nbytes, lane.stream)
    launch(model, entry, (x, X.shape[1]), (y, out.shape[1]), len(X), scratch, lane.stream)
    call("cuMemcpyDtoHAsync_v2", result.ctypes.data, y, result.nbytes, lane.stream)
    if not direct:
        lane.then = functools.partial(np.copyto, out, result)
