"""The column stage of CPU kernels: rows of X -> column values in V.

Where V keeps the rows of a column side by side, the numeric columns are filled by *squares*: as many rows as a vector
has lanes, of as many neighbouring features, are read as vectors, transposed in registers by log2(lanes) rounds of
exchanges between pairs of vectors (Eklundh, "A fast computer method for matrix transposing", 1972), and stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout
from ..predicates import Canonical
from ..relay_ops import predicate
from ..relay_ops.predicate import Expr
from .tir import Frame, const, register, vector_register

ROWS_AT_ONCE = 16
"""Rows of a part of a column: their values of neighbouring features share cache lines, and so do their places in V."""

TILE = 64
"""Columns whose values a prologue makes and uses before the next: they stay in the second-level cache."""

LEAST_WIDTH = 8
"""Of a square. Of rows of fewer features, values one by one are as fast."""
MIN_OCCUPANCY = 3
"""Columns of a square, on average, from which on squares are faster than values one by one."""


def squares(canonical: Canonical, layout: Layout, tile: int, features: Collection[str]) -> Layout:
    """The squares of the numeric columns; nothing where one by one is faster.

    Args:
        canonical: The forest.
        layout: Its tables.
        tile: Columns that are filled together: no square holds columns of two tiles.
        features: CPU features of the target.
    """
    nothing = Layout({}, {}, {}, frozenset())
    width = 16 if "avx512f" in features and canonical.forest.n_features >= 16 else LEAST_WIDTH
    if canonical.forest.n_features < width or "zero_missing" in layout.flags:
        return nothing
    n_columns, fills = layout.scalars["n_numeric"], layout.tables["column_fill"]
    feature, fill = layout.tables["column_feature"][:n_columns], fills[:n_columns].view(np.uint32)
    firsts: list[int] = []
    members: list[np.ndarray] = []
    offsets = [0]
    begin = 0
    while begin < n_columns:
        if begin // tile == len(offsets):
            offsets.append(len(firsts))
        end = min((begin // tile + 1) * tile, begin + width, n_columns)
        alike = (feature[begin:end] < feature[begin] + width) & (fill[begin:end] == fill[begin])
        alike &= np.diff(feature[begin:end], prepend=-1) > 0  # columns that were categorical start anew
        end = begin + (int(np.argmin(alike)) if not alike.all() else end - begin)
        first = min(int(feature[begin]), canonical.forest.n_features - width)
        member = np.full(width, -1, np.int32)
        member[feature[begin:end] - first] = np.arange(begin, end)
        firsts.append(first)
        members.append(member)
        begin = end
    if n_columns < MIN_OCCUPANCY * max(len(firsts), 1):
        return nothing
    tables = {
        "square_offset": np.array([*offsets, len(firsts)], np.int32),
        "square_feature": np.array(firsts, np.int32),
        "square_column": np.concatenate(members),
        "square_fill": fills[[int(m.max()) for m in members]],
    }
    return Layout({}, tables, {"square": width}, frozenset({"squares"}))


def round_rows(count: Expr) -> Expr:
    return tirx.truncdiv(count + const(ROWS_AT_ONCE - 1), const(ROWS_AT_ONCE)) * const(ROWS_AT_ONCE)


def all_columns(frame: Frame, row: Callable[[Expr], Expr], rows: Expr) -> None:
    """Fill V with all columns for ``rows`` places of the block."""
    n_columns, n_numeric = frame.scalar("n_columns"), frame.scalar("n_numeric")
    if "runs" in frame.signature.flags and frame.lanes == 1:
        _runs_of_columns(frame, row, rows)
    elif "squares" in frame.signature.flags:
        fill_squares(frame, row, rows, const(0), const(0), n_columns)
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

            wide = f"{dtype}x{width}" if width > 1 else dtype
            offset = tirx.Cast("int64", at)
            x = tirx.Cast(wide, frame.arguments.X[source, some(feature + offset)])
            fill = tirx.Cast(wide, tables["column_fill"][some(begin + at)])
            TB.buffer_store(frame.V, _filled(frame, x, fill, width), [some(place + offset)])

        whole = register(tirx.truncdiv(end - begin, const(lanes)))
        with TB.serial(0, whole) as i:
            store(i * const(lanes), lanes)
        with TB.serial(whole * const(lanes), end - begin) as i:
            store(i, 1)


def fill_squares(frame: Frame, row: Callable[[Expr], Expr], rows: Expr, tile: Expr, origin: Expr, spare: Expr) -> None:
    """Fill V with the numeric columns of a tile, that of column ``origin`` being the first.

    for each `width` rows, for each square:
        v[i] = X[row i, feature .. feature + width], missing values filled in   # for each row i
        transpose v
        V[column[j], rows] = v[j]               # for each feature j; one without a column goes to ``spare``
    """
    tables, dtype = frame.tables, frame.value_dtype
    width = frame.signature.constant("square")
    parts = const(frame.lanes // width)
    with TB.serial(0, tirx.truncdiv(rows + const(width - 1), const(width))) as part:
        group, first = register(tirx.truncdiv(part, parts)), register(tirx.truncmod(part, parts) * const(width))
        with TB.serial(tables["square_offset"][tile], tables["square_offset"][tile + const(1)]) as s:
            at = tirx.Ramp(register(tirx.Cast("int64", tables["square_feature"][s])), const(1, "int64"), width)
            fill = tirx.Broadcast(register(tirx.Cast(dtype, tables["square_fill"][s])), width)
            vectors = []
            for i in range(width):
                x = tirx.Cast(f"{dtype}x{width}", frame.arguments.X[row(part * const(width) + const(i)), at])
                vectors.append(vector_register(_filled(frame, vector_register(x), fill, width)))
            for j, vector in enumerate(transposed(vectors)):
                column = register(tables["square_column"][s * const(width) + const(j)])
                place = register(frame.place(tirx.Select(column < const(0), spare, column - origin), group, first))
                TB.buffer_store(frame.V, vector, [tirx.Ramp(place, const(1, "int64"), width)])


def _filled(frame: Frame, x: Expr, fill: Expr, width: int) -> Expr:
    """``x`` with missing values filled in."""

    def every(value: Expr) -> Expr:
        return tirx.Broadcast(value, width) if width > 1 else value

    # Every number is at most infinity; NaN is not.
    kept = tirx.Select(x <= every(tirx.const(float("inf"), frame.value_dtype)), x, fill)
    if "sentinel" in frame.signature.flags:
        compared = frame.signature.input_dtype
        sentinel = tirx.Cast(compared, frame.tables["sentinel"][0])
        wide = f"{compared}x{width}" if width > 1 else compared
        kept = tirx.Select(tirx.Cast(wide, x) == every(sentinel), fill, kept)
    return kept


def transposed(vectors: Sequence[Expr]) -> list[Expr]:
    """n vectors of n lanes -> the vectors of their first lanes, of their second lanes, ..."""
    width, found = len(vectors), list(vectors)
    step = 1
    while step < width:
        for i in (i for i in range(width) if not i & step):
            a, b = found[i], found[i + step]
            upper = [lane if not lane & step else width + lane - step for lane in range(width)]
            lower = [lane + step if not lane & step else width + lane for lane in range(width)]
            found[i], found[i + step] = (
                vector_register(tirx.Shuffle([a, b], [const(k) for k in order])) for order in (upper, lower)
            )
        step *= 2
    return found


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
