"""The CPU kernel of `scan`: byte columns of a row block, leaf numbers of all its rows, and their values.

Where the target can look up numbers among those of a register, ranks are found so, for as many rows as it has numbers,
and leaf values byte by byte. Else both are loads for each row.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Set
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout
from ..relay_ops import scan
from ..relay_ops.predicate import Expr
from ..relay_ops.scan import HEIGHTS
from ..relay_ops.vectors import AVX512
from . import cpu_bytes, cpu_columns
from .cpu_bytes import BYTE_PLANES
from .tir import Fill, Frame, Sink, const, register, scratch_view, vector_register

LANES = scan.LEAST_ROWS
"""Rows of a vector of bytes; where vectors are narrower, LLVM makes several of it."""
TOGETHER = 8
"""Rows that are ranked together where vectors can't look up bounds."""
SEARCHES: tuple[tuple[Set[str], int], ...] = ((AVX512, 16), ({"avx2"}, 8))
"""Features, and how many float32 bounds a register has, among which they look one up for each of as many rows."""


def target_stages(layout: Layout, features: Collection[str]) -> Layout:
    """The tables of the stages that need features of the target, where it has them and the forest allows them."""
    widths = [width for needed, width in SEARCHES if set(features) >= needed]
    stages = Layout({}, {}, {"search": widths[0]} if widths else {}, frozenset())
    return stages | cpu_bytes.byte_planes(layout, features)


def scratch_bytes(layout: Layout) -> int:
    """The byte columns, the leaf numbers, and the codes of categorical columns."""
    return (layout.scalars["n_bytes"] + 1 + layout.scalars.get("n_codes", 0)) * layout.constants["rows"]


def _bytes(frame: Frame, dtype: str = "int8") -> Any:
    """A view of all byte columns and what follows them."""
    return scratch_view(frame, dtype, frame.extra)


def _numbers_at(frame: Frame) -> Expr:
    """Where the leaf numbers are among the bytes."""
    return register(frame.scalar("n_bytes") * const(frame.lanes))


def _vectors(frame: Frame, width: int) -> Expr:
    """Vectors of ``width`` rows that hold the rows of the block."""
    return register(tirx.truncdiv(frame.rows + const(width - 1), const(width)))


def byte_columns(frame: Frame, fill: Fill) -> None:
    """
    for a few columns at a time:
        V = their values
        for each of them, for each of its pieces q:     Q[q] = rank(V[column]) among the bounds of the piece
    V = the ranks of the categorical columns
    for each category set q:                            Q[q] = is V[column] a member?
    """
    tables, n_numeric = frame.tables, frame.scalar("n_numeric")
    width = dict(frame.signature.constants).get("search", 0) if frame.value_dtype == "float32" else 0
    with TB.serial(0, tirx.truncdiv(n_numeric + const(cpu_columns.TILE - 1), const(cpu_columns.TILE))) as some:
        begin = register(some * const(cpu_columns.TILE))
        end = register(tirx.min(begin + const(cpu_columns.TILE), n_numeric))
        fill(begin, end, False)
        with TB.serial(begin, end) as column:
            place = register(frame.place(column - begin, const(0), const(0)))
            # From 0: TVM 0.27 does not shift the start of a loop within one that does not start at 0 itself.
            first = register(tables["piece"][column])
            with TB.serial(0, tables["piece"][column + const(1)] - first) as i:
                q = register(first + i)
                levels = register(tables["heap_levels"][q])
                for height in HEIGHTS if width else ():
                    with TB.If(levels == const(height)), TB.Then():
                        _search_registers(frame, place, q, height, width)
                if not width:
                    _search(frame, place, q, levels)
    if "member" in tables:
        fill(n_numeric, frame.scalar("n_columns"), True)
        _codes(frame)
        _sets(frame)


def _search(frame: Frame, place: Expr, q: Expr, levels: Expr) -> None:
    """
    i = 1                                               # for a few rows at once
    repeat `levels` times:      i = 2 i + not (V <= heap[i])
    Q[q] = i - 2**levels - 128
    """
    Q, heap = _bytes(frame), register(frame.tables["heap_offset"][q])
    start = register(q * const(frame.lanes))
    first = register((const(1) << levels) + const(128))
    with TB.serial(0, _vectors(frame, TOGETHER)) as some:
        values = [
            register(frame.V[place + tirx.Cast("int64", some * const(TOGETHER) + const(j))]) for j in range(TOGETHER)
        ]
        places = [TB.alloc_buffer((1,), "int32", scope="global") for _ in values]
        for i in places:
            TB.buffer_store(i, const(1), [0])
        with TB.serial(0, levels):
            for i, value in zip(places, values, strict=True):
                bound = frame.tables["bound"][heap + i[0]]
                right = tirx.Select(value <= bound, const(0), const(1))
                TB.buffer_store(i, i[0] * const(2) + right, [0])
        for j, i in enumerate(places):
            TB.buffer_store(Q, tirx.Cast("int8", i[0] - first), [start + some * const(TOGETHER) + const(j)])


def _search_registers(frame: Frame, place: Expr, q: Expr, height: int, width: int) -> None:
    """`_search` for ``width`` rows at once, with the heap in registers."""
    Q, heap = _bytes(frame), register(frame.tables["heap_offset"][q])
    table = [
        vector_register(frame.tables["bound"][tirx.Ramp(heap + const(at), const(1), width)])
        for at in range(0, 2**height, width)
    ]
    start = register(q * const(frame.lanes))
    zeros, ones = (tirx.Broadcast(const(v), width) for v in (0, 1))
    with TB.serial(0, _vectors(frame, width)) as some:
        row = place + tirx.Cast("int64", some * const(width))
        x = vector_register(frame.V[tirx.Ramp(row, const(1, "int64"), width)])
        at = vector_register(ones)
        left: list[Expr] = []
        for level in range(height):
            # The bounds of a level follow those of all levels before.
            parts = table[2**level // width : max(2 ** (level + 1) // width, 1)]
            left.append(x <= vector_register(_bound(parts, at, left)))
            at = vector_register(at + at + tirx.Select(left[level], zeros, ones))
        rank = tirx.Cast(f"int8x{width}", at - tirx.Broadcast(const(2**height + 128), width))
        TB.buffer_store(Q, rank, [tirx.Ramp(start + some * const(width), const(1), width)])


def _bound(parts: list[Expr], at: Expr, left: list[Expr]) -> Expr:
    """The bounds at places ``at`` of a heap's level, which ``parts`` hold; ``left``: the turns taken so far."""
    if len(parts) == 1:
        lanes = int(str(at.ty.dtype).rsplit("x", 1)[1])
        name = {16: "llvm.x86.avx512.permvar.sf.512", 8: "llvm.x86.avx2.permps"}[lanes]
        return tirx.call_llvm_pure_intrin(f"float32x{lanes}", name, parts[0], at)
    if len(parts) == 2 and str(at.ty.dtype) == "int32x16":
        name = "llvm.x86.avx512.vpermi2var.ps.512"
        return tirx.call_llvm_pure_intrin("float32x16", name, parts[0], at, parts[1])
    half = len(parts) // 2
    return tirx.Select(left[0], _bound(parts[:half], at, left[1:]), _bound(parts[half:], at, left[1:]))


def _codes(frame: Frame) -> None:
    """code[p] = rank - RANKS * (p's place among the pieces of its column), where that is below RANKS, else RANKS"""
    tables, Q = frame.tables, _bytes(frame, "uint8")
    whole = "int32" if frame.value_dtype == "float32" else "int64"
    codes = register(_numbers_at(frame) + const(frame.lanes))
    with TB.serial(0, frame.scalar("n_columns") - frame.scalar("n_numeric")) as column:
        first, end = register(tables["code"][column]), register(tables["code"][column + const(1)])
        place = register(frame.place(column, const(0), const(0)))
        with TB.serial(first, end) as p, TB.serial(0, _vectors(frame, 16)) as some:
            values = frame.V[tirx.Ramp(place + tirx.Cast("int64", some * const(16)), const(1, "int64"), 16)]
            rank = tirx.Cast("int32x16", tirx.reinterpret(f"{whole}x16", values))
            code = vector_register(rank - tirx.Broadcast((p - first) * const(scan.RANKS), 16))
            inside = tirx.And(code >= tirx.Broadcast(const(0), 16), code < tirx.Broadcast(const(scan.RANKS), 16))
            code = tirx.Select(inside, code, tirx.Broadcast(const(scan.RANKS), 16))
            at = codes + p * const(frame.lanes) + some * const(16)
            TB.buffer_store(Q, tirx.Cast("uint8x16", code), [tirx.Ramp(at, const(1), 16)])


def _sets(frame: Frame) -> None:
    """Q[first + s] = is a row's code a member of set s? 1 or 0, or the other way round"""
    tables, Q = frame.tables, _bytes(frame)
    codes = register(_numbers_at(frame) + const(frame.lanes))
    first = register(frame.scalar("n_bytes") - frame.scalar("n_sets"))

    def each(vectors: int) -> None:
        with TB.serial(0, frame.scalar("n_sets")) as s:
            found = _accumulators(vectors, tables["set_flip"][s])
            other = register(const(1, "int8") - tables["set_flip"][s])
            with TB.serial(tables["member_offset"][s], tables["member_offset"][s + const(1)]) as m:
                member = register(tables["member"][m])
                code = tirx.Broadcast(register(tirx.Cast("int8", member & const(255))), LANES)
                start = register(codes + (member >> const(8)) * const(frame.lanes))
                for v in range(vectors):
                    hit = Q[tirx.Ramp(start + const(v * LANES), const(1), LANES)] == code
                    chosen = tirx.Select(hit, tirx.Broadcast(other, LANES), found[v][EVERY])
                    TB.buffer_store(found[v], chosen, [EVERY])
            start = register((first + s) * const(frame.lanes))
            for v in range(vectors):
                TB.buffer_store(Q, found[v][EVERY], [tirx.Ramp(start + const(v * LANES), const(1), LANES)])

    _by_width(frame, each)


EVERY = tirx.Ramp(const(0), const(1), LANES)


def _accumulators(vectors: int, value: Expr) -> list[Any]:
    """Vectors of bytes that stay in registers."""
    found = [TB.alloc_buffer((LANES,), "int8", scope="global") for _ in range(vectors)]
    for buffer in found:
        TB.buffer_store(buffer, tirx.Broadcast(value, LANES), [EVERY])
    return found


def _by_width(frame: Frame, emit: Callable[[int], None]) -> None:
    """The code for as few vectors as hold the rows of the block."""
    widths = [2**i for i in range((frame.lanes // LANES).bit_length())]
    for narrower, vectors in zip((0, *widths), widths, strict=False):
        inside = frame.rows <= const(vectors * LANES)
        if narrower:
            inside = tirx.And(inside, frame.rows > const(narrower * LANES))
        with TB.If(inside), TB.Then():
            emit(vectors)


def _apply_nodes(frame: Frame, t: Expr) -> None:
    """
    number[..] = 0
    for each inner node of tree t in preorder:      number = number == a ? (Q[q] > k ? m : a) : number
    """
    tables, Q = frame.tables, _bytes(frame)
    numbers = _numbers_at(frame)

    def each(vectors: int) -> None:
        number = _accumulators(vectors, const(0, "int8"))
        with TB.serial(tables["node_offset"][t], tables["node_offset"][t + const(1)]) as i:
            start = register(tables["node_column"][i] * const(frame.lanes))
            k, a, m = (tirx.Broadcast(register(tables["node_test"][i * const(4) + const(j)]), LANES) for j in range(3))
            for v in range(vectors):
                right = Q[tirx.Ramp(start + const(v * LANES), const(1), LANES)] > k
                here = number[v][EVERY] == a
                # A choice of its own, which waits for no earlier node, keeps the chain from node to node short.
                below = vector_register(tirx.Select(right, m, a))
                TB.buffer_store(number[v], tirx.Select(here, below, number[v][EVERY]), [EVERY])
        for v in range(vectors):
            TB.buffer_store(Q, number[v][EVERY], [tirx.Ramp(numbers + const(v * LANES), const(1), LANES)])

    _by_width(frame, each)


def leaves(frame: Frame, t: Expr, group: Expr, sink: Sink) -> None:
    """The leaf number of each row, applied node by node, then row by row to the sink."""
    _apply_nodes(frame, t)
    numbers, at = _bytes(frame, "uint8"), _numbers_at(frame)
    base = register(t << const(frame.signature.constant("bits")))
    with TB.serial(0, frame.rows) as r:
        sink(t, r, register(base + tirx.Cast("int32", numbers[at + r])))


def add(frame: Frame, t: Expr, sums: Any) -> None:
    """sums[output[t], rows] += value[t, number[rows]]"""
    _apply_nodes(frame, t)
    numbers, at = _bytes(frame, "uint8"), _numbers_at(frame)
    if BYTE_PLANES in frame.signature.flags:
        with TB.serial(0, _vectors(frame, 64)) as g:
            first = register(g * const(64))
            cpu_bytes.add_values(frame, t, sums, [(first, numbers[tirx.Ramp(at + first, const(1), 64)])])
        return
    column = register(frame.by_column(frame.tables["tree_output"][t], const(0)))
    base = register(t << const(frame.signature.constant("bits")))
    with TB.serial(0, _vectors(frame, TOGETHER)) as some:
        for j in range(TOGETHER):
            r = some * const(TOGETHER) + const(j)
            value = frame.tables["value"][base + tirx.Cast("int32", numbers[at + r])]
            TB.buffer_store(sums, sums[column + r] + value, [column + r])
