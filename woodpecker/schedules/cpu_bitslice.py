"""The CPU kernel of `bitslice`: masks of a row block, circuits, and the leaf number of every row."""

from __future__ import annotations

from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout
from ..relay_ops import bitslice
from ..relay_ops.predicate import Expr
from .tir import Frame, Sink, const, register, scratch_view

WORDS = bitslice.ROWS // 64


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


def circuits(frame: Frame, t: Expr, group: Expr, sink: Sink) -> None:
    """
    for each operation of tree t:   M[result] = M[right] ^ (M[select] & (M[left] ^ M[right]))
    number[0..512] = the bits at M[FIRST] .. as one or two bytes a row
    """
    tables, bits = frame.tables, frame.signature.constant("bits")
    M = scratch_view(frame, "uint64", frame.extra)
    offset = tables["operation_offset"]

    def row(number: Expr) -> Expr:
        return tirx.Ramp(number * const(WORDS), const(1), WORDS)

    with TB.serial(offset[t], offset[t + const(1)]) as i:
        operation = register(tables["operation"][i])
        fields = [tirx.Cast("int32", (operation >> const(16 * k, "uint64")) & const(65535, "uint64")) for k in range(4)]
        select, left, right, result = fields
        a, b = M[row(left)], M[row(right)]
        TB.buffer_store(M, b ^ (M[row(select)] & (a ^ b)), [row(result)])
    numbers = scratch_view(
        frame, "uint8", frame.extra + tirx.Cast("int64", frame.scalar("n_mask_rows")) * const(WORDS * 8, "int64")
    )
    for byte in range((bits + 7) // 8):
        with TB.serial(0, WORDS) as g:
            total = None
            for bit in range(8 * byte, min(bits, 8 * byte + 8)):
                plane = M[const((bitslice.FIRST + bit) * WORDS) + g]
                chosen = tirx.call_intrin("boolx64", "tirx.reinterpret", plane)
                one, zero = (tirx.Broadcast(const(v, "uint8"), 64) for v in (1 << (bit - 8 * byte), 0))
                part = tirx.Select(chosen, one, zero)
                total = part if total is None else total | part
            at = const(byte * bitslice.ROWS) + g * const(64)
            TB.buffer_store(numbers, total, [tirx.Ramp(at, const(1), 64)])
    first = register(group * const(bitslice.ROWS))
    base = register(t << const(bits))
    with TB.serial(0, bitslice.ROWS) as r:
        number = tirx.Cast("int32", numbers[r])
        if bits > 8:
            number = number + tirx.Cast("int32", numbers[r + const(bitslice.ROWS)]) * const(256)
        sink(t, first + r, register(base + number))
