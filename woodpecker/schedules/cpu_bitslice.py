"""The CPU kernel of `bitslice`: circuits and padded trees over the masks of a row block, leaf numbers, leaf values.

The masks are made by `woodpecker.schedules.cpu_masks`. Leaf values are looked up a row at a time, or as bytes, see
`woodpecker.schedules.cpu_bytes`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout
from ..relay_ops import bitslice, circuit
from ..relay_ops.predicate import Expr
from ..relay_ops.vectors import AVX512
from . import cpu_bytes, cpu_narrow
from .cpu_bytes import interleave, shuffled
from .cpu_masks import category_sets, heaps, mask_row, spare_rows, words_of
from .tir import ITEMSIZE, Frame, Sink, const, register, scratch_view, vector_register

CIRCUIT_WORDS = 4
"""Words at a time of a circuit: what is stored is soon read again, and Zen 4 does that faster by 256 bits than 512."""
TOGETHER = 4
"""Rows whose leaf values are added one after the other without a loop, where vectors can't look them up."""
BIT_MATRICES = "bit_matrices"
"""The flag of layouts whose leaf numbers come from their bit planes by GFNI."""


def target_stages(layout: Layout, features: Collection[str]) -> Layout:
    """The tables of the stages that need features of the target, where it has them and the forest allows them."""
    wide, block = set(features) >= AVX512, layout.constants["rows"] // 64
    narrow = cpu_narrow.flags(features)
    stages = heaps(layout, bool(narrow)) if wide or narrow else Layout({}, {}, {}, frozenset())
    if "perfect" in layout.flags:
        words = min(block, 8 if wide else 4 if "avx2" in features else 2)
        stages |= Layout({}, {}, {"mask_words": words}, frozenset())
    if block == 8 and set(features) >= {*AVX512, "gfni"}:
        stages |= Layout({}, {}, {}, frozenset({BIT_MATRICES}))
    return stages | Layout({}, {}, {}, narrow) | cpu_bytes.byte_planes(layout, features)


def scratch_bytes(layout: Layout) -> int:
    """The mask matrix, and eight bit planes of a rank or two bytes of leaf number a row."""
    return (layout.scalars["n_mask_rows"] + 16) * layout.constants["rows"] // 8


def _run(frame: Frame, t: Expr) -> None:
    """The bits of the leaf numbers in tree t at M[FIRST] ..

    for each operation of tree t:   M[result] = M[right] ^ (M[select] & (M[left] ^ M[right]))
    """
    M = scratch_view(frame, "uint64", frame.extra)
    offset, words = frame.tables["operation_offset"], words_of(frame)
    some = min(words, CIRCUIT_WORDS)
    with TB.serial(offset[t], offset[t + const(1)]) as i:
        operation = register(frame.tables["operation"][i])
        fields = [tirx.Cast("int32", (operation >> const(16 * k, "uint64")) & const(65535, "uint64")) for k in range(4)]
        parts = []
        for word in range(0, words, some):
            at = [tirx.Ramp(row * const(words) + const(word), const(1), some) for row in fields]
            a, b = M[at[1]], M[at[2]]
            parts.append((vector_register(b ^ (M[at[0]] & (a ^ b))), at[3]))
        for part, result in parts:
            TB.buffer_store(M, part, [result])


def _perfect(frame: Frame, t: Expr) -> list[Expr] | None:
    """The bits of the leaf numbers in padded tree t, the lowest first, for all rows.

    bits(i) = M[row of i]                                                           at the last level
            = (bits(2 i + 1) ^ (M & (bits(2 i) ^ bits(2 i + 1))), M)                above, M = M[row of i]

    They stay in registers for GFNI; else they are stored, as many words at a time as a register holds. Of deep trees,
    the lower levels are done first, in a loop over their subtrees, so that code stays small.
    """
    depth, words = frame.signature.constant("bits"), frame.signature.constant("mask_words")
    M = scratch_view(frame, "uint64", frame.extra)
    heap = register(t << const(depth))
    low = min(depth, bitslice.LOOPED_DEPTH)

    def place(row: Expr, word: Expr) -> Expr:
        return tirx.Ramp(row * const(words_of(frame)) + word, const(1), words)

    def stored(subtree: Expr, bit: int) -> Expr:
        """The row of a bit of a subtree."""
        return const(circuit.FIRST + depth + bit) + subtree * const(low)

    def bits(first: Expr, within: int, height: int, word: Expr) -> list[Expr]:
        """Of the node at heap place ``first`` + ``within``, first being the leftmost of its level."""
        if depth > low == height:
            return [M[place(stored(const(within), bit), word)] for bit in range(low)]
        return merged(first, within, height, word)

    def merged(first: Expr, within: int, height: int, word: Expr) -> list[Expr]:
        below = []
        if height > 1:
            children = [bits(first * const(2), 2 * within + side, height - 1, word) for side in (0, 1)]
            below = list(zip(*children, strict=True))
        row = tirx.Cast("int32", frame.tables["heap_row"][heap + first + const(within)])
        mask = vector_register(M[place(row, word)])
        return [*(vector_register(right ^ (mask & (left ^ right))) for left, right in below), mask]

    def whole(word: Expr) -> list[Expr]:
        if depth > low:
            subtrees = 2 ** (depth - low)
            with TB.serial(0, subtrees) as subtree:
                root = register(const(subtrees) + subtree)
                for bit, value in enumerate(merged(root, 0, low, word)):
                    TB.buffer_store(M, value, [place(stored(subtree, bit), word)])
        return bits(const(1), 0, depth, word)

    if BIT_MATRICES in frame.signature.flags:
        return whole(const(0))
    with TB.serial(0, words_of(frame) // words) as part:
        word = register(part * const(words))
        for bit, value in enumerate(whole(word)):
            TB.buffer_store(M, value, [place(const(circuit.FIRST + bit), word)])
    return None


def _expanded(frame: Frame, byte: int, g: int) -> Expr:
    """One byte of the leaf numbers of 64 rows, uint8x64, from the bits at M[FIRST] .."""
    M, total = scratch_view(frame, "uint64", frame.extra), None
    narrow = cpu_narrow.idioms(frame.signature.flags)
    for bit in range(8 * byte, min(frame.signature.constant("bits"), 8 * byte + 8)):
        plane = M[const((circuit.FIRST + bit) * words_of(frame) + g)]
        chosen = narrow.chosen_by(plane) if narrow else tirx.call_intrin("boolx64", "tirx.reinterpret", plane)
        one, zero = (tirx.Broadcast(const(v, "uint8"), 64) for v in (1 << (bit - 8 * byte), 0))
        part = tirx.Select(chosen, one, zero)
        total = part if total is None else total | part
    return total


def _numbers(frame: Frame, t: Expr) -> list[list[Expr]]:
    """The bytes of the leaf numbers of all rows in tree t, the lowest first, each as eight uint8x64; row r stands at
    `_numbered`.

    With GFNI: eight planes' bytes, interleaved, are 8 x 8 bit matrices, one for eight rows, and
    GF2P8AFFINEQB with the identity transposes them.
    """
    bits = frame.signature.constant("bits")
    if "sum_run" in frame.tables:
        category_sets(frame, t)
    planes = None
    if "perfect" in frame.signature.flags:
        planes = _perfect(frame, t)
    else:
        _run(frame, t)
    if BIT_MATRICES not in frame.signature.flags:
        return [[_expanded(frame, byte, g) for g in range(words_of(frame))] for byte in range((bits + 7) // 8)]
    if planes is None:
        M = scratch_view(frame, "uint64", frame.extra)
        planes = [M[mask_row(frame, const(circuit.FIRST + bit))] for bit in range(bits)]
    rows = [vector_register(tirx.reinterpret("uint8x64", plane)) for plane in planes]
    zeros = tirx.Broadcast(const(0, "uint8"), 64)
    identity = tirx.reinterpret("uint8x64", tirx.Broadcast(tirx.const(0x8040201008040201, "uint64"), 8))

    def transposed(matrix: Expr) -> Expr:
        name = "llvm.x86.vgf2p8affineqb.512"
        return tirx.call_llvm_pure_intrin("uint8x64", name, identity, matrix, const(0, "int8"))

    bytes_of = (rows[i : i + 8] for i in range(0, bits, 8))
    return [[transposed(m) for m in interleave([*some, *[zeros] * (8 - len(some))][::-1])] for some in bytes_of]


def _numbered(frame: Frame, r: Expr) -> Expr:
    """Where the leaf number of row r stands among `_numbers`."""
    if BIT_MATRICES not in frame.signature.flags:
        return r
    return shuffled(r >> const(3), 8) * const(8) + (r & const(7))


def circuits(frame: Frame, t: Expr, group: Expr, sink: Sink) -> None:
    """
    number[..] = the leaf numbers in tree t                     # one or two bytes a row
    each row goes to the sink with its number
    """
    bits = frame.signature.constant("bits")
    numbers = scratch_view(frame, "uint8", spare_rows(frame))
    for byte, parts in enumerate(_numbers(frame, t)):
        for g, some in enumerate(parts):
            TB.buffer_store(numbers, some, [tirx.Ramp(const(byte * frame.lanes + g * 64), const(1), 64)])
    first = register(group * const(frame.lanes))
    base = register(t << const(bits))
    together = TOGETHER if cpu_narrow.idioms(frame.signature.flags) else 1
    with TB.serial(0, frame.lanes // together) as some:
        for j in range(together):
            r = some * const(together) + const(j)
            at = register(_numbered(frame, r))
            number = tirx.Cast("int32", numbers[at])
            if bits > 8:
                number = number + tirx.Cast("int32", numbers[at + const(frame.lanes)]) * const(256)
            sink(t, first + r, register(base + number))


def add_by_byte_planes(frame: Frame, t: Expr, sums: Any) -> None:
    """sums[output[t], rows] += value[t, leaf number of the rows]"""
    numbers = _numbers(frame, t)[0]
    cpu_bytes.add_values(frame, t, sums, ((const(64 * g), some) for g, some in enumerate(numbers)))


def sum_place(frame: Frame, r: Expr) -> Expr:
    """Where the sum of row r of a block stands after `add_by_byte_planes`."""
    return shuffled(_numbered(frame, r), ITEMSIZE[frame.signature.acc_dtype])
