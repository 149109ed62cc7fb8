"""The column stage of CPU kernels: rows of X -> column values in V."""

from __future__ import annotations

import math
from collections.abc import Callable

from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..relay_ops import predicate
from ..relay_ops.predicate import Expr
from .tir import Frame, const, register

ROWS_AT_ONCE = 16
"""Rows of a part of a column: their values of neighbouring features share cache lines, and so do their places in V."""


def round_rows(count: Expr) -> Expr:
    return tirx.truncdiv(count + const(ROWS_AT_ONCE - 1), const(ROWS_AT_ONCE)) * const(ROWS_AT_ONCE)


def all_columns(frame: Frame, row: Callable[[Expr], Expr], rows: Expr) -> None:
    """Fill V with all columns for ``rows`` places of the block."""
    n_columns, n_numeric = frame.scalar("n_columns"), frame.scalar("n_numeric")
    if "runs" in frame.signature.flags and frame.lanes == 1:
        _runs_of_columns(frame, row, rows)
    else:
        columns(frame, row, rows, const(0), n_numeric, const(0), False)
    if "categories" in frame.signature.flags:
        columns(frame, row, rows, n_numeric, n_columns, const(0), True)
    with TB.serial(0, tirx.truncdiv(rows, const(frame.lanes))) as group, TB.serial(0, frame.lanes) as lane:
        always_left = tirx.const(float("-inf"), frame.value_dtype)
        TB.buffer_store(frame.V, always_left, [frame.place(n_columns, group, lane)])


def _runs_of_columns(frame: Frame, row: Callable[[Expr], Expr], rows: Expr) -> None:
    """Fill V with the numeric columns, a row at a time, in vectors of columns whose features are neighbours too."""
    tables, dtype, lanes = frame.tables, frame.value_dtype, ROWS_AT_ONCE
    with TB.serial(0, rows) as r, TB.serial(0, frame.scalar("n_runs")) as run:
        begin, end = register(tables["run"][run]), register(tables["run"][run + const(1)])
        feature = register(tirx.Cast("int64", tables["column_feature"][begin]))
        place = register(frame.place(begin, r, const(0)))
        source = register(row(r))

        def store(at: Expr, width: int) -> None:
            def some(start: Expr) -> Expr:
                return tirx.Ramp(start, tirx.const(1, str(start.ty.dtype)), width) if width > 1 else start

            def every(value: Expr) -> Expr:
                return tirx.Broadcast(value, width) if width > 1 else value

            wide = f"x{width}" if width > 1 else ""
            offset = tirx.Cast("int64", at)
            x = tirx.Cast(dtype + wide, frame.arguments.X[source, some(feature + offset)])
            fill = tirx.Cast(dtype + wide, tables["column_fill"][some(begin + at)])
            # Every number is at most infinity; NaN is not.
            kept = tirx.Select(x <= every(tirx.const(float("inf"), dtype)), x, fill)
            if "sentinel" in frame.signature.flags:
                compared = frame.signature.input_dtype
                sentinel = tirx.Cast(compared, tables["sentinel"][0])
                kept = tirx.Select(tirx.Cast(compared + wide, x) == every(sentinel), fill, kept)
            TB.buffer_store(frame.V, kept, [some(place + offset)])

        whole = register(tirx.truncdiv(end - begin, const(lanes)))
        with TB.serial(0, whole) as i:
            store(i * const(lanes), lanes)
        with TB.serial(whole * const(lanes), end - begin) as i:
            store(i, 1)


def columns(
    frame: Frame, row: Callable[[Expr], Expr], rows: Expr, begin: Expr, end: Expr, origin: Expr, categorical: bool
) -> None:
    """Fill V with the columns [begin, end), that of column ``origin`` being the first."""
    tables, flags, dtype = frame.tables, frame.signature.flags, frame.value_dtype
    n_numeric = frame.scalar("n_numeric")

    def numeric(column: Expr, place: Expr, x: Expr, missing: Expr) -> None:
        fill = tirx.Cast(dtype, tables["column_fill"][column])
        TB.buffer_store(frame.V, tirx.Select(missing, fill, x), [place])

    def ranked(column: Expr, place: Expr, x: Expr, missing: Expr) -> None:
        offset = tables["rank_offset"]
        bound = tables["rank_bound32" if dtype == "float32" else "rank_bound64"]
        start = register(offset[column - n_numeric])
        size = register(offset[column - n_numeric + const(1)] - start)
        rank = TB.alloc_buffer((1,), "int32", scope="global")
        TB.buffer_store(rank, const(0), [0])
        steps = frame.scalar("rank_steps")
        with TB.serial(0, steps) as i:  # binary search for #{bound < x}: no branch, the same steps for every row
            further = register(rank[0] + (const(1) << (steps - const(1) - i)))
            at = start + tirx.max(tirx.min(further, size) - const(1), const(0))
            below = tirx.And(further <= size, bound[at] < x)
            TB.buffer_store(rank, tirx.Select(below, further, rank[0]), [0])
        final = tirx.Select(missing, size + const(1), rank[0])
        TB.buffer_store(frame.V, predicate.rank_bits(final, dtype), [place])

    tile = math.gcd(frame.lanes, ROWS_AT_ONCE)
    parts = const(frame.lanes // tile)
    with TB.serial(0, tirx.truncdiv(rows, const(tile))) as part, TB.serial(begin, end) as column:
        feature = register(tables["column_feature"][column])
        within = tirx.truncmod(part, parts) * const(tile)
        place = register(frame.place(column - origin, tirx.truncdiv(part, parts), within))
        with TB.serial(0, tile) as at:
            r = part * const(tile) + at
            x = register(tirx.Cast(dtype, frame.arguments.X[row(r), tirx.Cast("int64", feature)]))
            sentinel = zero = None
            if "sentinel" in flags:
                sentinel = tirx.Cast(frame.signature.input_dtype, tables["sentinel"][0])
            if "zero_missing" in flags:
                zero = tables["column_zero"][column] != const(0, "uint8")
            store = ranked if categorical else numeric
            store(column, place + at, x, predicate.is_missing(x, flags, sentinel, zero))
