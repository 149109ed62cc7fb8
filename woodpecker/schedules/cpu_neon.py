"""Idioms for 64-bit ARM: bits to bytes and back, which take its 128-bit vectors several instructions, and look-ups."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..relay_ops.predicate import Expr
from .tir import Frame, const, register, scratch_view, vector_register

FEATURES = {"neon"}
NEON = "neon"
"""The flag of layouts for targets with these vectors, which code for 32-bit ARM does not use."""
LEAST_PLACES = 64
"""Bytes that an instruction looks one up among."""
TOGETHER = 8
"""Rows that are searched for together: their loads hide each other's latency."""


def _bit_of_byte(lanes: int) -> Expr:
    """1, 2, 4, .. 128, over and over."""
    words = tirx.Broadcast(tirx.const(0x8040201008040201, "uint64"), lanes // 8)
    return tirx.reinterpret(f"uint8x{lanes}", words)


def word_of(chosen: Expr) -> Expr:
    """64 comparisons, boolx64 -> a bit of each, uint64: the bits of eight rows are added up to a byte, by halves."""
    bits = tirx.Select(chosen, _bit_of_byte(64), tirx.Broadcast(const(0, "uint8"), 64))
    bits = vector_register(bits)
    parts = [tirx.Shuffle([bits], [const(at + i) for i in range(16)]) for at in range(0, 64, 16)]
    while len(parts) > 1:
        parts = [_pairs(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return tirx.Shuffle([tirx.reinterpret("uint64x2", _pairs(parts[0], parts[0]))], [const(0)])


def _pairs(a: Expr, b: Expr) -> Expr:
    """The sums of neighbours, of a and then of b."""
    return vector_register(tirx.call_llvm_pure_intrin("uint8x16", "llvm.aarch64.neon.addp.v16i8", a, b))


def chosen_by(word: Expr) -> Expr:
    """The inverse of `word_of`, uint64 -> boolx64."""
    octets = vector_register(tirx.reinterpret("uint8x64", tirx.Broadcast(word, 8)))
    spread = tirx.Shuffle([octets], [const(i // 8) for i in range(64)])
    return (spread & _bit_of_byte(64)) != tirx.Broadcast(const(0, "uint8"), 64)


def look_up(parts: Sequence[Expr], number: Expr) -> Expr:
    """64 bytes at 64 numbers among four vectors of 16 bytes."""
    found = []
    for at in range(0, 64, 16):
        numbers = tirx.Shuffle([number], [const(at + i) for i in range(16)])
        found.append(
            vector_register(tirx.call_llvm_pure_intrin("uint8x16", "llvm.aarch64.neon.tbl4.v16i8", *parts, numbers))
        )
    return vector_register(tirx.Shuffle(found, [const(i) for i in range(64)]))


def rank_planes(
    frame: Frame, place: Expr, heap: Expr, levels: Expr, spare: Expr, word_of: Callable[[Expr], Expr]
) -> None:
    """The ranks of a column within a piece as bit planes, the highest bit first, from byte ``spare`` of the scratch on.

    i = 1                                               # 8 rows at once, the heap in memory
    repeat `levels` times:  i = 2 i + not (V <= heap[i])
    rank[row] = i - 2**levels                           # a byte each
    for each level:         plane[level] = the bit of this weight in the ranks of all rows
    """
    ranks = scratch_view(frame, "uint8", spare + const(frame.lanes, "int64"))
    planes = scratch_view(frame, "uint64", spare)
    bounds, first = frame.tables["heap" if frame.value_dtype == "float32" else "heap64"], register(heap * const(256))
    with TB.serial(0, frame.lanes // TOGETHER) as some:
        rows = [some * const(TOGETHER) + const(j) for j in range(TOGETHER)]
        values = [register(frame.V[place + tirx.Cast("int64", r)]) for r in rows]
        nodes = [TB.alloc_buffer((1,), "int32", scope="global") for _ in rows]
        for i in nodes:
            TB.buffer_store(i, const(1), [0])
        with TB.serial(0, levels):
            for i, value in zip(nodes, values, strict=True):
                left = value <= bounds[first + i[0]]
                TB.buffer_store(i, i[0] * const(2) + tirx.Select(left, const(0), const(1)), [0])
        for r, i in zip(rows, nodes, strict=True):
            TB.buffer_store(ranks, tirx.Cast("uint8", i[0] & ((const(1) << levels) - const(1))), [r])
    zeros = tirx.Broadcast(const(0, "uint8"), 64)
    with TB.serial(0, levels) as level:
        weight = tirx.Broadcast(register(tirx.Cast("uint8", const(1) << (levels - const(1) - level))), 64)
        for g in range(frame.lanes // 64):
            some = ranks[tirx.Ramp(const(64 * g), const(1), 64)]
            TB.buffer_store(planes, word_of((some & weight) != zeros), [level * const(frame.lanes // 64) + const(g)])
