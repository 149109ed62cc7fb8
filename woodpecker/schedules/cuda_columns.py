"""The column stage of CUDA kernels: rows of X -> column values of a block, by all of its threads together."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..forest import ZERO_BAND
from ..relay_ops import predicate
from ..relay_ops.predicate import Expr
from . import cuda_ranks
from .cuda_ranks import RANKED
from .cuda_tir import Frame, literal, register
from .tir import const

TOGETHER = 4
"""Neighbouring columns that neighbouring threads read of a row: half a sector of device memory. Eight rows of a warp
then store to four places of each of eight banks of shared memory, instead of one row to 32 places of one bank."""


def fill(frame: Frame, row: Callable[[Expr], Expr]) -> None:
    """Fill V for all rows of the block: ``row`` maps its rows, `Frame.pitch` of them, to rows of X (int64)."""
    n_columns, n_numeric = frame.scalar("n_columns"), frame.scalar("n_numeric")
    if RANKED in frame.signature.flags:
        categories = "categories" in frame.signature.flags
        _columns(frame, row, const(0), n_numeric if categories else n_columns, _packed_rank)
        if categories:
            _columns(frame, row, n_numeric, n_columns - n_numeric, _packed_category)
        return
    _columns(frame, row, const(0), n_numeric, numeric)
    if "categories" in frame.signature.flags:
        _columns(frame, row, n_numeric, n_columns - n_numeric, _rank)
    always_left = tirx.const(float("-inf"), frame.value_dtype)
    with TB.If(frame.thread < const(frame.pitch)), TB.Then():
        TB.buffer_store(frame.V, always_left, [n_columns * const(frame.pitch) + frame.thread])


def _columns(
    frame: Frame,
    row: Callable[[Expr], Expr],
    begin: Expr,
    count: Expr,
    value: Callable[[Frame, Expr, Expr, Expr], Expr],
) -> None:
    """V of ``count`` columns from ``begin`` on."""
    rows = frame.pitch

    def keep(column: Expr, r: Expr, x: Expr, missing: Expr) -> None:
        ranked = RANKED in frame.signature.flags
        place = cuda_ranks.place(frame, column, r) if ranked else column * const(rows) + r
        TB.buffer_store(frame.V, value(frame, column, x, missing), [place])

    each_value(frame, row, rows, begin, count, keep)


def each_value(
    frame: Frame,
    row: Callable[[Expr], Expr],
    rows: int,
    begin: Expr,
    count: Expr,
    use: Callable[[Expr, Expr, Expr, Expr], None],
) -> None:
    """Emit ``use(column, row of the block, x, whether x is missing)`` for the values of ``count`` columns from
    ``begin`` on, of ``rows`` rows: one, or so many that a quarter of the threads divides them, by a power of two."""
    threads = frame.threads
    # A lone row has all threads beside each other; else the block has up to four threads for a row, or one for a few.
    width = threads if rows == 1 else TOGETHER
    turns = width * rows // threads
    steps = tirx.truncdiv(count + const(width - 1), const(width)) * const(turns)
    with TB.serial(0, steps) as i:
        if rows == 1:
            at, r = i * const(threads) + frame.thread, const(0)
        else:
            at = (i >> const(turns.bit_length() - 1)) * const(width) + (frame.thread & const(width - 1))
            r = (frame.thread >> const(2)) + (i & const(turns - 1)) * const(threads // width)
        with TB.If(at < count), TB.Then():
            column = register(begin + at)
            feature = tirx.Cast("int64", frame.tables["column_feature"][column])
            x = register(tirx.Cast(frame.value_dtype, frame.x(row(r), feature)))
            use(column, r, x, _missing(frame, column, x))


def _missing(frame: Frame, column: Expr, x: Expr) -> Expr:
    flags, tables = frame.signature.flags, frame.tables
    sentinel = None
    if "sentinel" in flags:
        sentinel = tirx.Cast(frame.signature.input_dtype, tables["sentinel"][0])
    missing = predicate.is_missing(x, flags - {"zero_missing"}, sentinel, None)
    if "zero_missing" in flags:
        zero = tables["column_zero"][column] != const(0, "uint8")
        inside = tirx.abs(tirx.Cast("float64", x)) <= literal(ZERO_BAND)
        missing = tirx.Or(missing, tirx.And(zero, inside))
    return missing


def numeric(frame: Frame, column: Expr, x: Expr, missing: Expr) -> Expr:
    """A value of a numeric column, or what stands for it where it is missing."""
    return tirx.Select(missing, tirx.Cast(frame.value_dtype, frame.tables["column_fill"][column]), x)


def _packed_rank(frame: Frame, column: Expr, x: Expr, missing: Expr) -> Expr:
    return cuda_ranks.rank(frame, column, register(numeric(frame, column, x, missing)))


def _packed_category(frame: Frame, column: Expr, x: Expr, missing: Expr) -> Expr:
    return tirx.Cast(cuda_ranks.dtype_of_ranks(frame), _category(frame, column, x, missing))


def _rank(frame: Frame, column: Expr, x: Expr, missing: Expr) -> Expr:
    """The bits of the rank of a category."""
    rank = _category(frame, column, x, missing)
    # A register, because the bits of a value are taken through its address.
    bits = register(tirx.Cast("int64", rank)) if frame.value_dtype == "float64" else rank
    return tirx.reinterpret(frame.value_dtype, bits)


def _category(frame: Frame, column: Expr, x: Expr, missing: Expr) -> Expr:
    """The rank of a category."""
    tables = frame.tables
    offset = tables["rank_offset"]
    bound = tables["rank_bound32" if frame.value_dtype == "float32" else "rank_bound64"]
    place = register(column - frame.scalar("n_numeric"))
    start = register(offset[place])
    size = register(offset[place + const(1)] - start)
    rank = cuda_ranks.below(frame, bound, start, size, x)
    return register(tirx.Select(missing, size + const(1), rank))
