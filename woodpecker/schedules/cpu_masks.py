"""The predicate stage of `bitslice`: the masks of all distinct tests, for a row block."""

from __future__ import annotations

import functools
import operator
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout
from ..relay_ops import bitslice, circuit, set_masks
from ..relay_ops.predicate import Expr
from . import cpu_columns, cpu_masks64, cpu_narrow
from .tir import Fill, Frame, const, register, scratch_view, vector_register

MAX_LEVELS, MIN_LEVELS = bitslice.RANKS.bit_length(), bitslice.MIN_RANKED.bit_length()


def heaps(layout: Layout, narrow: bool) -> Layout:
    """The bounds of each ranked piece as a search heap: those of float32, and where ``narrow`` vectors leave the search
    to loads, those of float64 as well, where rows may have it; else what `cpu_masks64` needs."""
    counts = np.diff(layout.tables["piece_bound"])
    ranked = counts >= bitslice.MIN_RANKED
    if not ranked.any():
        return Layout({}, {}, {}, frozenset())
    number = np.where(ranked, np.cumsum(ranked) - 1, -1).astype(np.int32)
    levels = np.array([int(n).bit_length() for n in np.where(ranked, counts, 0)], np.int32)
    tables = {"heap": _heaps(layout, "bound32", ranked), "heap_number": number, "heap_levels": levels}
    stages = Layout({}, tables, {}, frozenset({"heaps"}))
    if "bound64" not in layout.tables:
        return stages
    if narrow:
        return stages | Layout({}, {"heap64": _heaps(layout, "bound64", ranked)}, {}, frozenset())
    return stages | cpu_masks64.same_images(layout, ranked)


def _heaps(layout: Layout, name: str, ranked: np.ndarray) -> np.ndarray:
    """Search heaps of as few levels as hold the bounds: 1 is the root, 2 i and 2 i + 1 the children of i. What is left
    of the last level is infinity, which only NaN exceeds."""
    offset, bound = layout.tables["piece_bound"], layout.tables[name]
    heaps = np.full((int(ranked.sum()), 256), np.inf, bound.dtype)
    for heap, piece in zip(heaps, np.flatnonzero(ranked), strict=True):
        own = bound[offset[piece] : offset[piece + 1]]
        levels = len(own).bit_length()
        padded = np.full(2**levels - 1, np.inf, bound.dtype)
        padded[: len(own)] = own
        for level in range(levels):
            step = 2 ** (levels - 1 - level)
            heap[2**level : 2 ** (level + 1)] = padded[step - 1 :: 2 * step]
    return heaps.reshape(-1)


def spare_rows(frame: Frame) -> Expr:
    """Where in scratch the mask matrix ends: room for 16 more rows."""
    return frame.extra + frame.scalar64("n_mask_rows") * const(words_of(frame) * 8, "int64")


def words_of(frame: Frame) -> int:
    """Words of a row of the mask matrix, a bit for each row of the block."""
    return frame.lanes // 64


def mask_row(frame: Frame, number: Expr) -> Expr:
    """The index of a row of the mask matrix."""
    return tirx.Ramp(number * const(words_of(frame)), const(1), words_of(frame))


def masks(frame: Frame, fill: Fill) -> None:
    """
    M[ZEROS] = 0; M[ONES] = ~0
    for a few columns at a time:
        V = their values
        for each of them, for each of its bounds q: M[q] = V[column] <= bound[q]
    """
    tables = frame.tables
    M = scratch_view(frame, "uint64", frame.extra)
    for row, bits in ((circuit.ZEROS, 0), (circuit.ONES, 2**64 - 1)):
        TB.buffer_store(M, tirx.Broadcast(tirx.const(bits, "uint64"), words_of(frame)), [mask_row(frame, const(row))])
    n_numeric = frame.scalar("n_numeric")
    narrow = cpu_narrow.idioms(frame.signature.flags)
    searched = "heaps" in frame.signature.flags
    with TB.serial(0, tirx.truncdiv(n_numeric + const(cpu_columns.TILE - 1), const(cpu_columns.TILE))) as some:
        begin = register(some * const(cpu_columns.TILE))
        end = register(tirx.min(begin + const(cpu_columns.TILE), n_numeric))
        fill(begin, end, False)
        with TB.serial(begin, end) as column:
            bounds = tables["column_piece"]
            # Within a loop that does not start at 0, TVM 0.27 starts one from a loaded number at the wrong place.
            first_piece = register(bounds[column])
            with TB.serial(0, bounds[column + const(1)] - first_piece) as at:
                piece = register(first_piece + at)
                row = register(tables["piece_row"][piece])
                start = register(tables["piece_bound"][piece])
                count = register(tables["piece_bound"][piece + const(1)] - start)
                if searched:
                    heap, levels = register(tables["heap_number"][piece]), register(tables["heap_levels"][piece])
                    with TB.If(heap >= const(0)):
                        with TB.Then():
                            if narrow:
                                place = register(frame.place(column - begin, const(0), const(0)))
                                narrow.rank_planes(frame, place, heap, levels, spare_rows(frame), narrow.word_of)
                            else:
                                settle = cpu_masks64.settling(frame, piece, levels, start, count)
                                _rank_planes(frame, column - begin, heap, levels, settle)
                            _masks_of_ranks(frame, M, row, count, levels)
                        with TB.Else():
                            _compare(frame, M, column - begin, row, start, count)
                else:
                    _compare(frame, M, column - begin, row, start, count)


def _word(frame: Frame, chosen: Expr) -> Expr:
    """64 comparisons as a word of the mask matrix."""
    if narrow := cpu_narrow.idioms(frame.signature.flags):
        return narrow.word_of(chosen)
    return tirx.call_intrin("uint64", "tirx.reinterpret", chosen)


def _compare(frame: Frame, M: Any, column: Expr, row: Expr, begin: Expr, count: Expr) -> None:
    """One by one: 64 rows a comparison."""
    place = register(frame.place(column, const(0), const(0)))
    with TB.serial(0, count) as i:
        bound = tirx.Broadcast(register(frame.tables["bound"][begin + i]), 64)
        for g in range(words_of(frame)):
            values = frame.V[tirx.Ramp(place + const(64 * g, "int64"), const(1, "int64"), 64)]
            word = _word(frame, values <= bound)
            TB.buffer_store(M, word, [(row + i) * const(words_of(frame)) + const(g)])


def _rank_planes(frame: Frame, column: Expr, heap: Expr, levels: Expr, settle: cpu_masks64.Settle | None) -> None:
    """The ranks of a column within a piece as bit planes, the highest bit first, in the spare rows.

    i = 1                                               # 16 rows at once, the heap in 16 registers
    repeat `levels` times:  c = not (V <= heap[i]);  next plane = c;  i = 2 i + c

    With ``settle`` float64 rows are searched for by their images, and ranks are settled where these meet a bound's.
    """
    planes = scratch_view(frame, "uint16", spare_rows(frame))
    table = [
        vector_register(frame.tables["heap"][tirx.Ramp(heap * const(256) + const(16 * i), const(1), 16)])
        for i in range(16)
    ]

    def pair(low: int, at: Expr) -> Expr:
        name = "llvm.x86.avx512.vpermi2var.ps.512"
        return tirx.call_llvm_pure_intrin("float32x16", name, table[low], at, table[low + 1])

    def one(which: int, at: Expr) -> Expr:
        return tirx.call_llvm_pure_intrin("float32x16", "llvm.x86.avx512.permvar.sf.512", table[which], at)

    with TB.serial(0, frame.lanes // 16) as g:
        place = frame.place(column, const(0), g * const(16))
        if settle:
            x, nearest = cpu_masks64.images(frame, place), cpu_masks64.nearest()
        else:
            x, nearest = vector_register(frame.V[tirx.Ramp(place, const(1, "int64"), 16)]), None
        left: list[Expr] = []

        def search(level: int, at: Expr) -> None:
            if level < 4:
                bound = one(0, at)
            elif level == 4:
                bound = one(1, at)
            elif level == 5:
                bound = pair(2, at)
            elif level == 6:
                bound = tirx.Select(left[0], pair(4, at), pair(6, at))
            else:
                lower = tirx.Select(left[1], pair(8, at), pair(10, at))
                upper = tirx.Select(left[1], pair(12, at), pair(14, at))
                bound = tirx.Select(left[0], lower, upper)
            bound = vector_register(bound)
            left.append(x <= bound)
            if settle:
                cpu_masks64.turn(nearest, bound, left)
            word = tirx.call_intrin("uint16", "tirx.reinterpret", left[level])
            TB.buffer_store(planes, word ^ const(65535, "uint16"), [const(level * (frame.lanes // 16)) + g])
            if level == MAX_LEVELS - 1:
                return
            zeros, ones = (tirx.Broadcast(const(v), 16) for v in (0, 1))
            below = vector_register(at + at + tirx.Select(left[level], zeros, ones))
            if level + 1 < MIN_LEVELS:
                search(level + 1, below)
            else:
                with TB.If(levels > const(level + 1)), TB.Then():
                    search(level + 1, below)

        search(0, vector_register(tirx.Broadcast(const(1), 16)))
        if settle:
            with TB.If(cpu_masks64.met(nearest, x)), TB.Then():
                settle(planes, place, g)


def _masks_of_ranks(frame: Frame, M: Any, row: Expr, count: Expr, levels: Expr) -> None:
    """All masks L[k], "rank <= k", of a piece of ``count`` bounds from the bit planes of the rank, an operation each.

    k = (2 j + 1) * s - 1 is decided by the bit of weight s where the higher bits have not:
        L[k] = L[k + s] & (L[k - s] | ~bit)
    L[count] stands for every k from there on: "some bit is 0", which leaves out NaN. Where the tree is full, so are the
    bits of a value beyond the last bound; the operation is right all the same.
    """
    planes = scratch_view(frame, "uint64", spare_rows(frame))
    ones = tirx.Broadcast(tirx.const(2**64 - 1, "uint64"), words_of(frame))
    every = tirx.Ramp(const(0), const(1), words_of(frame))
    common = TB.alloc_buffer((words_of(frame),), "uint64", scope="global")
    TB.buffer_store(common, ones, [every])
    with TB.serial(0, levels) as level:
        TB.buffer_store(common, common[every] & planes[mask_row(frame, level)], [every])
    TB.buffer_store(M, common[every] ^ ones, [mask_row(frame, row + count)])
    with TB.serial(0, levels) as level:
        step = register(const(1) << (levels - const(1) - level))
        clear = vector_register(planes[mask_row(frame, level)] ^ ones)

        def above(k: Expr, step: Expr = step) -> Expr:
            return M[mask_row(frame, row + tirx.min(k + step, count))]

        first = step - const(1)
        TB.buffer_store(M, above(first) & clear, [mask_row(frame, row + first)])
        with TB.serial(1, (count + step) >> (levels - level)) as j:
            k = register((j * const(2) + const(1)) * step - const(1))
            TB.buffer_store(M, above(k) & (M[mask_row(frame, row + k - step)] | clear), [mask_row(frame, row + k)])


def category_sets(frame: Frame, t: Expr) -> None:
    """The masks of category sets that are made before tree t.

    for each run of tree t, for each of its sums:       M[row] = M[a] ^ M[b] ^ ..
    """
    tables = frame.tables
    M = scratch_view(frame, "uint64", frame.extra)
    first = register(tables["sum_offset"][t])
    with TB.serial(0, tables["sum_offset"][t + const(1)] - first) as i:
        run = register((first + i) * const(3))
        terms, count = register(tables["sum_run"][run]), register(tables["sum_run"][run + const(1)])
        begin = register(tables["sum_run"][run + const(2)])
        for n in range(set_masks.LEAST_TERMS, set_masks.TERMS + 1):
            with TB.If(terms == const(n)), TB.Then(), TB.serial(0, count) as j:
                at = register(begin + j * const(n + 1))
                row, *added = (tirx.Cast("int32", tables["sum_term"][at + const(k)]) for k in range(n + 1))
                TB.buffer_store(
                    M, functools.reduce(operator.xor, [M[mask_row(frame, a)] for a in added]), [mask_row(frame, row)]
                )
