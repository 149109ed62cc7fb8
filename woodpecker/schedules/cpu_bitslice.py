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
from .tir import ITEMSIZE, Fill, Frame, Sink, const, register, scratch_view, vector_register

WORDS = bitslice.ROWS // 64
COLUMNS = 64
"""Columns whose values are made and used before the next: they stay in the second-level cache."""
CIRCUIT_WORDS = 4
"""Words at a time of a circuit: what is stored is soon read again, and Zen 4 does that faster by 256 bits than 512."""
AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}
BYTE_PLANES = "byte_planes"
"""The flag of layouts whose leaf values are byte planes."""
BIT_MATRICES = "bit_matrices"
"""The flag of layouts whose leaf numbers come from their bit planes by GFNI."""


def target_stages(layout: Layout, features: Collection[str]) -> Layout:
    """The tables of the stages that need features of the target, where it has them and the forest allows them."""
    wide = set(features) >= AVX512
    stages = _heaps(layout) if wide else Layout({}, {}, {}, frozenset())
    if "perfect" in layout.flags:
        words = 8 if wide else 4 if "avx2" in features else 2
        stages |= Layout({}, {}, {"mask_words": words}, frozenset())
    if set(features) >= {*AVX512, "gfni"}:
        stages |= Layout({}, {}, {}, frozenset({BIT_MATRICES}))
    vbmi = set(features) >= {*AVX512, "avx512vbmi", "gfni"}
    n_trees, bits = layout.scalars["n_trees"], layout.constants["bits"]
    fits = bits <= 8 and n_trees * 8 * max(64, 2**bits) <= bitslice.MAX_BYTES
    if vbmi and fits and not {"vector", "linear"} & layout.flags:
        stages |= _byte_planes(layout)
    return stages


def _byte_planes(layout: Layout) -> Layout:
    """The leaf values as byte planes."""
    bits, value = layout.constants["bits"], layout.tables["value"]
    by_byte = value.reshape(-1, 2**bits).view(np.uint8).reshape(-1, 2**bits, value.itemsize).transpose(0, 2, 1)
    planes = np.zeros((len(by_byte), value.itemsize, max(64, 2**bits)), np.uint8)
    planes[:, :, : 2**bits] = by_byte
    return Layout({}, {"value_bytes": planes.reshape(-1)}, {}, frozenset({BYTE_PLANES}))


def _heaps(layout: Layout) -> Layout:
    """The float32 bounds of each ranked piece as a search heap of as few levels as hold them: 1 is the root, 2 i and
    2 i + 1 the children of i. What is left of the last level is infinity, which only NaN exceeds."""
    rows, offset, bound = (layout.tables[name] for name in ("piece_row", "piece_bound", "bound32"))
    ranked = np.diff(rows) > np.diff(offset)
    if not ranked.any():
        return Layout({}, {}, {}, frozenset())
    heaps = np.full((int(ranked.sum()), 256), np.float32(np.inf))
    levels = np.zeros(len(ranked), np.int32)
    for heap, piece in zip(heaps, np.flatnonzero(ranked), strict=True):
        own = bound[offset[piece] : offset[piece + 1]]
        levels[piece] = len(own).bit_length()
        padded = np.full(2 ** levels[piece] - 1, np.float32(np.inf))
        padded[: len(own)] = own
        for level in range(levels[piece]):
            step = 2 ** (levels[piece] - 1 - level)
            heap[2**level : 2 ** (level + 1)] = padded[step - 1 :: 2 * step]
    number = np.where(ranked, np.cumsum(ranked) - 1, -1).astype(np.int32)
    tables = {"heap": heaps.reshape(-1), "heap_number": number, "heap_levels": levels}
    return Layout({}, tables, {}, frozenset({"heaps"}))


def scratch_bytes(layout: Layout) -> int:
    """The mask matrix, and eight bit planes of a rank or two bytes of leaf number a row."""
    return layout.scalars["n_mask_rows"] * WORDS * 8 + 2 * bitslice.ROWS


def _spare_rows(frame: Frame) -> Expr:
    """Where in scratch the mask matrix ends: room for 16 more rows."""
    return frame.extra + frame.scalar64("n_mask_rows") * const(WORDS * 8, "int64")


def _row(number: Expr) -> Expr:
    """The index of a row of the mask matrix."""
    return tirx.Ramp(number * const(WORDS), const(1), WORDS)


def masks(frame: Frame, fill: Fill) -> None:
    """
    M[ZEROS] = 0; M[ONES] = ~0
    for a few columns at a time:
        V = their values
        for each of them, for each of its bounds q: M[q] = V[column] <= bound[q]
    V = the ranks of the categorical columns
    for each category set q:                        M[q] = the union of the masks of its ranks
    """
    tables = frame.tables
    M = scratch_view(frame, "uint64", frame.extra)
    for row, bits in ((bitslice.ZEROS, 0), (bitslice.ONES, 2**64 - 1)):
        TB.buffer_store(M, tirx.Broadcast(tirx.const(bits, "uint64"), WORDS), [_row(const(row))])
    first, n_numeric = frame.scalar("first_predicate"), frame.scalar("n_numeric")
    searched = "heaps" in frame.signature.flags and frame.value_dtype == "float32"
    with TB.serial(0, tirx.truncdiv(n_numeric + const(COLUMNS - 1), const(COLUMNS))) as some:
        begin = register(some * const(COLUMNS))
        end = register(tirx.min(begin + const(COLUMNS), n_numeric))
        fill(begin, end, False)
        with TB.serial(begin, end) as column:
            bounds = tables["column_piece"]
            # Within a loop that does not start at 0, TVM 0.27 starts one from a loaded number at the wrong place.
            first_piece = register(bounds[column])
            with TB.serial(0, bounds[column + const(1)] - first_piece) as at:
                piece = register(first_piece + at)
                row = register(first + tables["piece_row"][piece])
                start = register(tables["piece_bound"][piece])
                count = register(tables["piece_bound"][piece + const(1)] - start)
                if searched:
                    heap, levels = register(tables["heap_number"][piece]), register(tables["heap_levels"][piece])
                    with TB.If(heap >= const(0)):
                        with TB.Then():
                            _rank_planes(frame, column - begin, heap, levels)
                            _masks_of_ranks(frame, M, row, count, levels)
                        with TB.Else():
                            _compare(frame, M, column - begin, row, start, count)
                else:
                    _compare(frame, M, column - begin, row, start, count)
    if "member" in tables:
        fill(n_numeric, frame.scalar("n_columns"), True)
        _category_masks(frame, M, first + tables["piece_row"][tables["column_piece"][n_numeric]])


def _compare(frame: Frame, M: Any, column: Expr, row: Expr, begin: Expr, count: Expr) -> None:
    """One by one: 64 rows a comparison."""
    place = register(frame.place(column, const(0), const(0)))
    with TB.serial(0, count) as i:
        bound = tirx.Broadcast(register(frame.tables["bound"][begin + i]), 64)
        for g in range(WORDS):
            values = frame.V[tirx.Ramp(place + const(64 * g, "int64"), const(1, "int64"), 64)]
            word = tirx.call_intrin("uint64", "tirx.reinterpret", values <= bound)
            TB.buffer_store(M, word, [(row + i) * const(WORDS) + const(g)])


def _rank_planes(frame: Frame, column: Expr, heap: Expr, levels: Expr) -> None:
    """The ranks of a column within a piece as bit planes, the highest bit first, in the spare rows.

    i = 1                                               # 16 rows at once, the heap in 16 registers
    repeat `levels` times:  c = not (V <= heap[i]);  next plane = c;  i = 2 i + c
    """
    planes = scratch_view(frame, "uint16", _spare_rows(frame))
    table = [
        vector_register(frame.tables["heap"][tirx.Ramp(heap * const(256) + const(16 * i), const(1), 16)])
        for i in range(16)
    ]

    def pair(low: int, at: Expr) -> Expr:
        name = "llvm.x86.avx512.vpermi2var.ps.512"
        return tirx.call_llvm_pure_intrin("float32x16", name, table[low], at, table[low + 1])

    def one(which: int, at: Expr) -> Expr:
        return tirx.call_llvm_pure_intrin("float32x16", "llvm.x86.avx512.permvar.sf.512", table[which], at)

    with TB.serial(0, bitslice.ROWS // 16) as g:
        place = frame.place(column, const(0), g * const(16))
        x = vector_register(frame.V[tirx.Ramp(place, const(1, "int64"), 16)])
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
            left.append(x <= vector_register(bound))
            word = tirx.call_intrin("uint16", "tirx.reinterpret", left[level])
            TB.buffer_store(planes, word ^ const(65535, "uint16"), [const(level * (bitslice.ROWS // 16)) + g])
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


MAX_LEVELS, MIN_LEVELS = bitslice.RANKS.bit_length(), bitslice.MIN_RANKED.bit_length()


def _masks_of_ranks(frame: Frame, M: Any, row: Expr, count: Expr, levels: Expr) -> None:
    """All masks L[k], "rank <= k", of a piece of ``count`` bounds from the bit planes of the rank, an operation each.

    k = (2 j + 1) * s - 1 is decided by the bit of weight s where the higher bits have not:
        L[k] = L[k + s] & (L[k - s] | ~bit)
    L[count] stands for every k from there on: "some bit is 0", which leaves out NaN. Where the tree is full, so are the
    bits of a value beyond the last bound; the operation is right all the same.
    """
    planes = scratch_view(frame, "uint64", _spare_rows(frame))
    ones = tirx.Broadcast(tirx.const(2**64 - 1, "uint64"), WORDS)
    every = tirx.Ramp(const(0), const(1), WORDS)
    common = TB.alloc_buffer((WORDS,), "uint64", scope="global")
    TB.buffer_store(common, ones, [every])
    with TB.serial(0, levels) as level:
        TB.buffer_store(common, common[every] & planes[_row(level)], [every])
    TB.buffer_store(M, common[every] ^ ones, [_row(row + count)])
    with TB.serial(0, levels) as level:
        step = register(const(1) << (levels - const(1) - level))
        clear = vector_register(planes[_row(level)] ^ ones)

        def above(k: Expr, step: Expr = step) -> Expr:
            return M[_row(row + tirx.min(k + step, count))]

        first = step - const(1)
        TB.buffer_store(M, above(first) & clear, [_row(row + first)])
        with TB.serial(1, (count + step) >> (levels - level)) as j:
            k = register((j * const(2) + const(1)) * step - const(1))
            TB.buffer_store(M, above(k) & (M[_row(row + k - step)] | clear), [_row(row + k)])


def _category_masks(frame: Frame, M: Any, first: Expr) -> None:
    """
    for each rank i that is in a set:       M[first_rank + i] = V[column] == rank
    for each category set s:                M[first + s] = the union of its members, or its complement
    """
    tables = frame.tables
    whole = "int32" if frame.value_dtype == "float32" else "int64"
    first_rank, first_set = frame.scalar("first_rank"), register(first)
    with TB.serial(0, frame.scalar("n_ranks")) as i:
        column = register(tables["rank_column"][i] - frame.scalar("n_numeric"))
        number = tirx.Broadcast(register(tirx.Cast(whole, tables["rank_number"][i])), 64)
        for g in range(WORDS):
            values = frame.V[tirx.Ramp(frame.place(column, const(0), const(64 * g)), const(1, "int64"), 64)]
            word = tirx.call_intrin("uint64", "tirx.reinterpret", tirx.reinterpret(f"{whole}x64", values) == number)
            TB.buffer_store(M, word, [(first_rank + i) * const(WORDS) + const(g)])
    every = tirx.Ramp(const(0), const(1), WORDS)
    union = TB.alloc_buffer((WORDS,), "uint64", scope="global")
    with TB.serial(0, frame.scalar("n_sets")) as s:
        TB.buffer_store(union, tirx.Broadcast(const(0, "uint64"), WORDS), [every])
        with TB.serial(tables["member_offset"][s], tables["member_offset"][s + const(1)]) as m:
            TB.buffer_store(union, union[every] | M[_row(first_rank + tables["member"][m])], [every])
        TB.buffer_store(M, union[every] ^ tirx.Broadcast(tables["set_flip"][s], WORDS), [_row(first_set + s)])


def _run(frame: Frame, t: Expr) -> None:
    """The bits of the leaf numbers in tree t at M[FIRST] ..

    for each operation of tree t:   M[result] = M[right] ^ (M[select] & (M[left] ^ M[right]))
    """
    M = scratch_view(frame, "uint64", frame.extra)
    offset = frame.tables["operation_offset"]
    with TB.serial(offset[t], offset[t + const(1)]) as i:
        operation = register(frame.tables["operation"][i])
        fields = [tirx.Cast("int32", (operation >> const(16 * k, "uint64")) & const(65535, "uint64")) for k in range(4)]
        parts = []
        for word in range(0, WORDS, CIRCUIT_WORDS):
            at = [tirx.Ramp(row * const(WORDS) + const(word), const(1), CIRCUIT_WORDS) for row in fields]
            a, b = M[at[1]], M[at[2]]
            parts.append((vector_register(b ^ (M[at[0]] & (a ^ b))), at[3]))
        for part, result in parts:
            TB.buffer_store(M, part, [result])


def _perfect(frame: Frame, t: Expr) -> list[Expr] | None:
    """The bits of the leaf numbers in padded tree t, the lowest first, for all rows.

    bits(i) = M[row of i]                                                           at the last level
            = (bits(2 i + 1) ^ (M & (bits(2 i) ^ bits(2 i + 1))), M)                above, M = M[row of i]

    They stay in registers for GFNI; else they are stored, as many words at a time as a register holds.
    """
    depth, words = frame.signature.constant("bits"), frame.signature.constant("mask_words")
    M = scratch_view(frame, "uint64", frame.extra)
    heap = register(t << const(depth))

    def bits(i: int, height: int, word: Expr) -> list[Expr]:
        below = list(zip(*(bits(2 * i + side, height - 1, word) for side in (0, 1)), strict=True)) if height > 1 else []
        row = tirx.Cast("int32", frame.tables["heap_row"][heap + const(i)])
        mask = vector_register(M[tirx.Ramp(row * const(WORDS) + word, const(1), words)])
        return [*(vector_register(right ^ (mask & (left ^ right))) for left, right in below), mask]

    if BIT_MATRICES in frame.signature.flags:
        return bits(1, depth, const(0))
    with TB.serial(0, WORDS // words) as part:
        word = register(part * const(words))
        for bit, value in enumerate(bits(1, depth, word)):
            at = tirx.Ramp(const((bitslice.FIRST + bit) * WORDS) + word, const(1), words)
            TB.buffer_store(M, value, [at])
    return None


def _expanded(frame: Frame, byte: int, g: int) -> Expr:
    """One byte of the leaf numbers of 64 rows, uint8x64, from the bits at M[FIRST] .."""
    M, total = scratch_view(frame, "uint64", frame.extra), None
    for bit in range(8 * byte, min(frame.signature.constant("bits"), 8 * byte + 8)):
        plane = M[const((bitslice.FIRST + bit) * WORDS + g)]
        chosen = tirx.call_intrin("boolx64", "tirx.reinterpret", plane)
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
    planes = None
    if "perfect" in frame.signature.flags:
        planes = _perfect(frame, t)
    else:
        _run(frame, t)
    if BIT_MATRICES not in frame.signature.flags:
        return [[_expanded(frame, byte, g) for g in range(WORDS)] for byte in range((bits + 7) // 8)]
    if planes is None:
        M = scratch_view(frame, "uint64", frame.extra)
        planes = [M[_row(const(bitslice.FIRST + bit))] for bit in range(bits)]
    rows = [vector_register(tirx.reinterpret("uint8x64", plane)) for plane in planes]
    zeros = tirx.Broadcast(const(0, "uint8"), 64)
    identity = tirx.reinterpret("uint8x64", tirx.Broadcast(tirx.const(0x8040201008040201, "uint64"), 8))

    def transposed(matrix: Expr) -> Expr:
        name = "llvm.x86.vgf2p8affineqb.512"
        return tirx.call_llvm_pure_intrin("uint8x64", name, identity, matrix, const(0, "int8"))

    bytes_of = (rows[i : i + 8] for i in range(0, bits, 8))
    return [[transposed(m) for m in _interleave([*some, *[zeros] * (8 - len(some))][::-1])] for some in bytes_of]


def _numbered(frame: Frame, r: Expr) -> Expr:
    """Where the leaf number of row r stands among `_numbers`."""
    if BIT_MATRICES not in frame.signature.flags:
        return r
    return shuffled(r >> const(3), 8) * const(8) + (r & const(7))


def circuits(frame: Frame, t: Expr, group: Expr, sink: Sink) -> None:
    """
    number[0..512] = the leaf numbers in tree t                     # one or two bytes a row
    each row goes to the sink with its number
    """
    bits = frame.signature.constant("bits")
    numbers = scratch_view(frame, "uint8", _spare_rows(frame))
    for byte, parts in enumerate(_numbers(frame, t)):
        for g, some in enumerate(parts):
            TB.buffer_store(numbers, some, [tirx.Ramp(const(byte * bitslice.ROWS + g * 64), const(1), 64)])
    first = register(group * const(bitslice.ROWS))
    base = register(t << const(bits))
    with TB.serial(0, bitslice.ROWS) as r:
        at = register(_numbered(frame, r))
        number = tirx.Cast("int32", numbers[at])
        if bits > 8:
            number = number + tirx.Cast("int32", numbers[at + const(bitslice.ROWS)]) * const(256)
        sink(t, first + r, register(base + number))


def add_by_byte_planes(frame: Frame, t: Expr, sums: Any) -> None:
    """
    for each 64 rows:
        byte[b] = planes[t, b][number[0..64]]                       # for each byte b of a leaf value
        sums[output[t], shuffled rows] += the bytes, interleaved
    """
    dtype = frame.signature.acc_dtype
    size, entries = ITEMSIZE[dtype], max(64, 2 ** frame.signature.constant("bits"))
    lanes = 64 // size
    planes = frame.tables["value_bytes"]
    table = register(t * const(size * entries))
    parts = [
        [planes[tirx.Ramp(table + const(b * entries + i), const(1), 64)] for i in range(0, entries, 64)]
        for b in range(size)
    ]
    column = register(frame.by_column(frame.tables["tree_output"][t], const(0)))
    for g, numbers in enumerate(_numbers(frame, t)[0]):
        number = vector_register(numbers)
        looked_up = [vector_register(_look_up(part, number)) for part in parts]
        for j, vector in enumerate(_interleave(looked_up)):
            at = tirx.Ramp(column + const(g * 64 + j * lanes), const(1), lanes)
            value = tirx.reinterpret(f"{dtype}x{lanes}", vector)
            TB.buffer_store(sums, sums[at] + value, [at])


def sum_place(frame: Frame, r: Expr) -> Expr:
    """Where the sum of row r of a block stands after `add_by_byte_planes`."""
    return shuffled(_numbered(frame, r), ITEMSIZE[frame.signature.acc_dtype])


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
