"""The CPU kernel of `bitslice`: masks of a row block, circuits, leaf numbers, and leaf values by byte permutations.

Leaf values are looked up a row at a time; or, with AVX-512 VBMI and up to 256 scalar leaves a tree, for 64 rows. Then
a tree's leaf values are stored as byte planes (all first bytes, all second bytes, ...), one `vpermi2b` looks up 64
bytes among 128, and unpacking interleaves the planes to 64 floats. Unpacking works within 128-bit lanes, so the floats
come out in another order, `shuffled`, in which they are summed and which is undone once a block.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout
from ..relay_ops import bitslice
from ..relay_ops.predicate import Expr
from .tir import ITEMSIZE, Frame, Sink, const, register, scratch_view, vector_register

WORDS = bitslice.ROWS // 64
BYTE_PLANES = "byte_planes"
"""The flag of layouts whose leaf values are byte planes."""

NEEDED = ("avx512f", "avx512bw", "avx512vl", "avx512vbmi")


def leaf_stage(layout: Layout, features: Collection[str]) -> Layout:
    """The byte planes of the leaf values, where the target and the forest allow them; else nothing more."""
    bits = layout.constants["bits"]
    if bits > 8 or {"vector", "linear"} & layout.flags or not set(NEEDED) <= set(features):
        return Layout({}, {}, {}, frozenset())
    value = layout.tables["value"]
    by_byte = value.reshape(-1, 2**bits).view(np.uint8).reshape(-1, 2**bits, value.itemsize).transpose(0, 2, 1)
    planes = np.zeros((len(by_byte), value.itemsize, max(64, 2**bits)), np.uint8)
    planes[:, :, : 2**bits] = by_byte
    return Layout({}, {"value_bytes": planes.reshape(-1)}, {}, frozenset({BYTE_PLANES}))


def scratch_bytes(layout: Layout) -> int:
    """The mask matrix, and two bytes of leaf number a row."""
    return layout.scalars["n_mask_rows"] * WORDS * 8 + 2 * bitslice.ROWS


def masks(frame: Frame) -> None:
    """
    M[ZEROS] = 0; M[ONES] = ~0
    for each column, for each of its bounds q:      M[q] = V[column] <= bound[q], 64 rows a comparison
    for each category set q:                        M[q] = not bitset[rank], a row at a time
    """
    tables = frame.tables
    M = scratch_view(frame, "uint64", frame.extra)
    for row, fill in ((bitslice.ZEROS, 0), (bitslice.ONES, 2**64 - 1)):
        word = tirx.Broadcast(tirx.const(fill, "uint64"), WORDS)
        TB.buffer_store(M, word, [tirx.Ramp(const(row * WORDS), const(1), WORDS)])
    first = frame.scalar("first_predicate")
    with TB.serial(0, frame.scalar("n_numeric")) as column:
        place = register(frame.place(column, const(0)))
        offset = tables["predicate_offset"]
        with TB.serial(offset[column], offset[column + const(1)]) as q:
            bound = tirx.Broadcast(register(tables["bound"][q]), 64)
            for g in range(WORDS):
                values = frame.V[tirx.Ramp(place + const(64 * g), const(1), 64)]
                word = tirx.call_intrin("uint64", "tirx.reinterpret", values <= bound)
                TB.buffer_store(M, word, [(first + q) * const(WORDS) + const(g)])
    if "set_word" not in tables:
        return
    start = register(first + frame.scalar("n_numeric_predicates"))
    with TB.serial(0, frame.scalar("n_sets")) as s, TB.serial(0, WORDS) as g:
        place = register(frame.place(tables["set_column"][s], g * const(64)))
        word = TB.alloc_buffer((1,), "uint64", scope="global")
        TB.buffer_store(word, const(0, "uint64"), [0])
        with TB.serial(0, 64) as r:
            rank = register(bitslice.rank_of(frame.V[place + r]))
            bits = tables["bitset"][tables["set_word"][s] + (rank >> const(5))]
            right = (bits >> tirx.Cast("uint32", rank & const(31))) & const(1, "uint32")
            left = tirx.Cast("uint64", const(1, "uint32") - right)
            TB.buffer_store(word, word[0] | (left << tirx.Cast("uint64", r)), [0])
        TB.buffer_store(M, word[0], [(start + s) * const(WORDS) + g])


def _run(frame: Frame, t: Expr) -> None:
    """for each operation of tree t:   M[result] = M[right] ^ (M[select] & (M[left] ^ M[right]))"""
    M = scratch_view(frame, "uint64", frame.extra)
    offset = frame.tables["operation_offset"]

    def row(number: Expr) -> Expr:
        return tirx.Ramp(number * const(WORDS), const(1), WORDS)

    with TB.serial(offset[t], offset[t + const(1)]) as i:
        operation = register(frame.tables["operation"][i])
        fields = [tirx.Cast("int32", (operation >> const(16 * k, "uint64")) & const(65535, "uint64")) for k in range(4)]
        select, left, right, result = fields
        a, b = M[row(left)], M[row(right)]
        TB.buffer_store(M, b ^ (M[row(select)] & (a ^ b)), [row(result)])


def _numbers(frame: Frame, g: Expr, byte: int) -> Expr:
    """One byte of the leaf numbers of 64 rows, uint8x64: bit planes to bytes."""
    M = scratch_view(frame, "uint64", frame.extra)
    bits = frame.signature.constant("bits")
    total = None
    for bit in range(8 * byte, min(bits, 8 * byte + 8)):
        plane = M[const((bitslice.FIRST + bit) * WORDS) + g]
        chosen = tirx.call_intrin("boolx64", "tirx.reinterpret", plane)
        one, zero = (tirx.Broadcast(const(v, "uint8"), 64) for v in (1 << (bit - 8 * byte), 0))
        part = tirx.Select(chosen, one, zero)
        total = part if total is None else total | part
    return total


def circuits(frame: Frame, t: Expr, group: Expr, sink: Sink) -> None:
    """
    for each operation of tree t:   M[result] = M[right] ^ (M[select] & (M[left] ^ M[right]))
    number[0..512] = the bits at M[FIRST] .. as one or two bytes a row
    """
    bits = frame.signature.constant("bits")
    _run(frame, t)
    matrix_bytes = frame.scalar64("n_mask_rows") * const(WORDS * 8, "int64")
    numbers = scratch_view(frame, "uint8", frame.extra + matrix_bytes)
    for byte in range((bits + 7) // 8):
        with TB.serial(0, WORDS) as g:
            at = const(byte * bitslice.ROWS) + g * const(64)
            TB.buffer_store(numbers, _numbers(frame, g, byte), [tirx.Ramp(at, const(1), 64)])
    first = register(group * const(bitslice.ROWS))
    base = register(t << const(bits))
    with TB.serial(0, bitslice.ROWS) as r:
        number = tirx.Cast("int32", numbers[r])
        if bits > 8:
            number = number + tirx.Cast("int32", numbers[r + const(bitslice.ROWS)]) * const(256)
        sink(t, first + r, register(base + number))


def add_by_byte_planes(frame: Frame, t: Expr, sums: Any) -> None:
    """
    run the circuit of tree t
    for each 64 rows:
        byte[b] = planes[t, b][number[0..64]]                       # for each byte b of a leaf value
        sums[output[t], shuffled rows] += the bytes, interleaved
    """
    _run(frame, t)
    dtype = frame.signature.acc_dtype
    size, entries = ITEMSIZE[dtype], max(64, 2 ** frame.signature.constant("bits"))
    lanes = 64 // size
    planes = frame.tables["value_bytes"]
    table = register(t * const(size * entries))
    parts = [
        [planes[tirx.Ramp(table + const(b * entries + i), const(1), 64)] for i in range(0, entries, 64)]
        for b in range(size)
    ]
    column = register(frame.place(frame.tables["tree_output"][t], const(0)))
    with TB.serial(0, WORDS) as g:
        number = vector_register(_numbers(frame, g, 0))
        looked_up = [vector_register(_look_up(part, number)) for part in parts]
        for j, vector in enumerate(_interleave(looked_up)):
            at = tirx.Ramp(column + g * const(64) + const(j * lanes), const(1), lanes)
            value = tirx.reinterpret(f"{dtype}x{lanes}", vector)
            TB.buffer_store(sums, sums[at] + value, [at])


def _look_up(parts: Sequence[Expr], number: Expr) -> Expr:
    """64 bytes at 64 numbers, from a table of 64, 128 or 256 bytes."""
    if len(parts) == 1:
        return tirx.call_llvm_pure_intrin("uint8x64", "llvm.x86.avx512.permvar.qi.512", parts[0], number)
    halves = [
        tirx.call_llvm_pure_intrin("uint8x64", "llvm.x86.avx512.vpermi2var.qi.512", low, number, high)
        for low, high in zip(parts[::2], parts[1::2], strict=True)
    ]
    if len(halves) == 1:
        return halves[0]
    upper = tirx.reinterpret("int8x64", number) < tirx.Broadcast(const(0, "int8"), 64)
    return tirx.Select(upper, halves[1], halves[0])


def _interleave(planes: Sequence[Expr]) -> list[Expr]:
    """Byte planes of 64 values -> the values, as vectors of 64 bytes in `shuffled` order."""
    groups, width = [[plane] for plane in planes], 1
    while len(groups) > 1:
        groups = [
            [vector_register(_unpack(a, b, width, half)) for a, b in zip(low, high, strict=True) for half in (0, 1)]
            for low, high in zip(groups[::2], groups[1::2], strict=True)
        ]
        width *= 2
    return groups[0]


def _unpack(a: Expr, b: Expr, width: int, half: int) -> Expr:
    """x86's punpckl (half 0) and punpckh (half 1): elements of ``width`` bytes of a and b in turn, in each 16 bytes."""
    indices = []
    for lane in range(0, 64, 16):
        for i in range(0, 8, width):
            at = lane + 8 * half + i
            indices += [*range(at, at + width), *range(64 + at, 64 + at + width)]
    return tirx.Shuffle([a, b], [const(i) for i in indices])


def shuffled(r: Expr, size: int) -> Expr:
    """Where the sum of row r of a block stands after `_interleave` of values of ``size`` bytes.

    Within 64 rows, row 16 * q + (16 / size) * j + e comes out in vector j, there in 128-bit lane q, element e.
    """
    run = 16 // size
    within = r & const(63)
    q, j, e = within >> const(4), (within & const(15)) >> const(run.bit_length() - 1), r & const(run - 1)
    return (r - within) + j * const(64 // size) + q * const(run) + e
