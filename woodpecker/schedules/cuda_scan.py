"""scan on a GPU: each node of a tree is applied to four rows at once, the bytes of a word.

    number[..] = 0, of four rows each
    for each inner node in preorder:                    # (q, K, A, D), K, A and D four copies of a byte
        right = V[q, rows] - K                          # bit 7 of a byte: its row would go right, see `cuda_bytes`
        here  = number == A                             # bit 7 of a byte: its row has come to the node
        number = number ^ (D where right and here)      # D = a ^ m, so that a becomes m

The method is that of `relay_ops.scan`. All threads of a warp are at the same node: its record is one load of 16 bytes
for all of them, and the words of V are neighbours. A node costs 8 or 9 instructions for four rows.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..forest import tree_leaves
from ..layout import Layout
from ..predicates import Canonical
from ..relay_ops import scan
from ..relay_ops.options import Option
from ..relay_ops.predicate import Expr
from . import cuda_bytes, cuda_cost, cuda_many
from .cuda_bytes import COPIES
from .cuda_many import Open, Shape, Sink
from .cuda_many import launch as launch
from .cuda_many import wrong_options as wrong_options
from .cuda_ptx import SIGN, load4, permute, word
from .cuda_tir import Frame, register, variable
from .tir import const

NAME = scan.NAME
FEW = None
OPTIONS = {
    "cuda_threads": Option(0, 0, 1024, "threads of a block, a power of two from 32 on; 0: as many as its memory holds"),
    "cuda_words": Option(1, 1, 4, "words of four rows that a thread has"),
}
NODE, WORD_NODE, TREE, ROW_TREE = 3.0, 8.0, 8.0, 6.0
"""Instructions, counted in the code for sm_90: a node, and for each word; a tree, and for each row."""
WIDE_NUMBERS = 1.0
"""What a node costs more where leaf numbers have eight bits."""


def space(canonical: Canonical) -> dict[str, tuple[int, ...]]:
    """option -> candidates, for tuning."""
    return {"cuda_threads": (32, 64, 128), "cuda_words": (1, 2, 4)}


def refusal(canonical: Canonical, options: Mapping[str, int]) -> str | None:
    """Why it can't serve a forest, if it can't."""
    return scan.applicable(canonical, {})


def cycles(canonical: Canonical, options: Mapping[str, int]) -> float:
    """Estimated cycles of a multiprocessor for a row."""
    words = options["cuda_words"]
    nodes = float((tree_leaves(canonical.forest) - 1).sum())
    node = NODE / words + WORD_NODE + (WIDE_NUMBERS if canonical.leaf_bits > 7 else 0.0)
    value = ROW_TREE * (canonical.forest.n_outputs if canonical.forest.vector_leaves else 1)
    of_word = nodes * node + canonical.forest.n_trees * (TREE / words + 4 * value)
    return of_word / 4 / cuda_cost.WARP / cuda_cost.ISSUED


def lay_out(canonical: Canonical, options: Mapping[str, int]) -> Layout:
    """All tables, the threads of a block, and where it keeps what.

    Raises:
        StrategyError: a block of rows would not fit into memory that 32 bits reach.
    """
    of_cpu = ("node_column", "node_test", "piece", "heap_offset", "heap_levels", "member_offset", "member")
    of_cpu = (*of_cpu, "set_flip", "code")
    _, layout = cuda_many.tables(canonical, NAME, of_cpu)
    words, threads = options["cuda_words"], options["cuda_threads"]
    sizes = (threads,) if threads else cuda_many.THREADS
    shape, places = cuda_many.place(canonical, layout, [Shape(n, 4 * words, 4 * words * n) for n in sizes])
    constants = {"words": words, "wide": int(canonical.leaf_bits > 7)}
    return layout | places | Layout({}, {"record": _records(canonical, shape.pitch)}, constants, frozenset())


def _records(canonical: Canonical, pitch: int) -> np.ndarray:
    """The nodes in preorder, four words each: where its byte column begins, K, A and D."""
    nodes = scan.in_preorder(canonical)
    at = nodes.preorder
    column, least = cuda_bytes.tests(canonical, at)
    first, middle = nodes.number[at], nodes.middle[at]
    record = [column * pitch, least * COPIES, first * COPIES, (first ^ middle) * COPIES]
    return np.stack(record, 1).astype(np.uint32).reshape(-1)


def emit(frame: Frame, kind: str) -> None:
    """The code of a kernel; ``kind`` is "raw" or "apply"."""
    words = frame.signature.constant("words")
    first = [(frame.thread + const(j * frame.threads)) * const(4) for j in range(words)]
    rows = [start + const(b) for start in first for b in range(4)]

    def fill(opened: Open, row: cuda_many.RowOf) -> None:
        pitch = frame.signature.constant("pitch")
        cuda_bytes.fill(frame, opened("uint8", "values_offset"), row, len(rows) * frame.threads, pitch)

    cuda_many.emit(frame, kind, rows, fill, lambda opened, sink: _leaves(frame, opened, words, sink))


def _leaves(frame: Frame, opened: Open, words: int, sink: Sink) -> None:
    V, offset = opened("uint8", "values_offset"), frame.tables["node_offset"]
    with TB.serial(0, frame.scalar("n_trees")) as t:
        numbers = [variable(const(0, "uint32")) for _ in range(words)]
        begin = register(offset[t])
        with TB.serial(0, offset[t + const(1)] - begin) as i:
            node = load4(frame.tables["record"], (begin + i) * const(4))
            start = register(tirx.Cast("int32", node[0]) + frame.thread * const(4))
            for j, number in enumerate(numbers):
                right = register(word(V, start + const(4 * j * frame.threads)) - node[1])
                both = register(right & _here(number[0], node[2], frame.signature.constant("wide") == 1))
                below = number[0] ^ (permute(both, both, 0x3210 | SIGN) & node[3])
                TB.buffer_store(number, below, [0])
        base = register(t << const(frame.signature.constant("bits")))
        for j, number in enumerate(numbers):
            for b in range(4):
                leaf = (number[0] >> const(8 * b, "uint32")) & const(255, "uint32")
                sink(t, 4 * j + b, register(base + tirx.Cast("int32", leaf)))


def _here(number: Expr, a: Expr, wide: bool) -> Expr:
    """Bit 7 of a byte: it is that of a. Numbers have seven bits, or eight, ``wide``."""
    other, high = register(number ^ a), const(0x80 * COPIES, "uint32")
    if not wide:
        return high - other  # no byte borrows
    low = const(0x7F * COPIES, "uint32")
    return (((other & low) + low) | other) ^ const(0xFFFFFFFF, "uint32")
