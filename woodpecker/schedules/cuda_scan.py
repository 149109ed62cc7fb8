"""scan on a GPU: each node of a tree is applied to four rows at once, the bytes of a word.

    number[..] = 0, of four rows each
    for each inner node in preorder:                    # (q, K, A, D), K, A and D four copies of a byte
        right = V[q, rows] - K                          # bit 7 of a byte: its row would go right, see `cuda_bytes`
        here  = number == A                             # bit 7 of a byte: its row has come to the node
        number = number ^ (D where right and here)      # D = a ^ m, so that a becomes m

The method is that of `relay_ops.scan`. All threads of a warp are at the same node: its record is one load of 16 bytes
for all of them, and the words of V are neighbours. A node costs 4 instructions, and 7 or 8 for each word.
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
    "cuda_words": Option(2, 1, 4, "words of four rows that a thread has"),
    "cuda_unroll": Option(
        0, 0, 8, "nodes that are applied between two branches, to which trees are padded; 0: by the forest"
    ),
}
OF_CPUS: tuple[str, ...] = ("node_offset", "node_column", "node_test", "heap_offset", "heap_levels")
OF_CPUS += ("member_offset", "member", "set_flip", "code")
"""Tables that only CPUs read."""
NODE, WORD_NODE, WIDE_NUMBERS, BRANCH = 4.0, 7.0, 1.0, 5.0
TREE, ROW_TREE = 30.0, 6.0
"""Instructions, counted in the code for sm_90: of a node, for each word of it, what a word costs more where leaf
numbers have eight bits, and of a branch; of a tree, and for each row of it."""


def space(canonical: Canonical) -> dict[str, tuple[int, ...]]:
    """option -> candidates, for tuning."""
    return {"cuda_threads": (32, 64, 128), "cuda_words": (1, 2, 4), "cuda_unroll": (1, 2, 4, 8)}


def refusal(canonical: Canonical, options: Mapping[str, int]) -> str | None:
    """Why it can't serve a forest, if it can't."""
    return scan.applicable(canonical, {})


def cycles(canonical: Canonical, options: Mapping[str, int]) -> float:
    """Estimated cycles of a multiprocessor for a row."""
    forest, words = canonical.forest, options["cuda_words"]
    nodes = _cost(canonical, words, options["cuda_unroll"] or _unroll(canonical, words))
    value = ROW_TREE * (forest.n_outputs if forest.vector_leaves else 1)
    instructions = nodes + forest.n_trees * (TREE + 4 * words * value)
    of_row = instructions / (4 * words) + cuda_bytes.instructions(canonical)
    return of_row / cuda_cost.ISSUED / cuda_cost.WARP


def lay_out(canonical: Canonical, options: Mapping[str, int]) -> Layout:
    """All tables, the threads of a block, and where it keeps what.

    Raises:
        StrategyError: a block of rows would not fit into memory that 32 bits reach.
    """
    _, layout = cuda_many.tables(canonical, NAME, OF_CPUS)
    words, threads = options["cuda_words"], options["cuda_threads"]
    sizes = (threads,) if threads else cuda_many.THREADS
    shape, places = cuda_many.place(canonical, layout, [Shape(n, 4 * words, 4 * words * n) for n in sizes])
    unroll = options["cuda_unroll"] or _unroll(canonical, words)
    constants = {"words": words, "wide": int(canonical.leaf_bits > 7), "unroll": unroll}
    return layout | places | Layout({}, _records(canonical, shape.pitch, unroll), constants, frozenset())


def _nodes(canonical: Canonical, unroll: int) -> np.ndarray:
    """(T,) the nodes of each tree, with padding."""
    return -(-(tree_leaves(canonical.forest) - 1) // unroll) * unroll


def _cost(canonical: Canonical, words: int, unroll: int) -> float:
    """Estimated instructions of all nodes of a forest, for a thread."""
    node = NODE + words * (WORD_NODE + (WIDE_NUMBERS if canonical.leaf_bits > 7 else 0.0)) + BRANCH / unroll
    return float(_nodes(canonical, unroll).sum()) * node


def _unroll(canonical: Canonical, words: int) -> int:
    return min((1, 2, 4, 8), key=lambda n: _cost(canonical, words, n))


def _records(canonical: Canonical, pitch: int, unroll: int) -> dict[str, np.ndarray]:
    """The nodes in preorder, four words each: where its byte column begins, K, A and D; and where trees begin. Padding
    changes no number: its D is 0."""
    nodes = scan.in_preorder(canonical)
    at = nodes.preorder
    offset = np.concatenate([[0], np.cumsum(_nodes(canonical, unroll))])
    tree = np.repeat(np.arange(canonical.forest.n_trees), np.diff(nodes.offset))
    column, least = cuda_bytes.tests(canonical, at)
    first, middle = nodes.number[at], nodes.middle[at]
    record = np.zeros((offset[-1], 4), np.uint32)
    place = np.arange(len(at)) + (offset[:-1] - nodes.offset[:-1])[tree]
    record[place] = np.stack([column * pitch, least * COPIES, first * COPIES, (first ^ middle) * COPIES], 1)
    return {"record": record.reshape(-1), "record_offset": offset.astype(np.int32)}


def emit(frame: Frame, kind: str) -> None:
    """The code of a kernel; ``kind`` is "raw" or "apply"."""
    words = frame.signature.constant("words")
    first = [(frame.thread + const(j * frame.threads)) * const(4) for j in range(words)]
    rows = [start + const(b) for start in first for b in range(4)]

    def fill(opened: Open, row: cuda_many.RowOf) -> None:
        pitch = frame.signature.constant("pitch")
        cuda_bytes.fill(frame, opened("uint8", "values_offset"), row, len(rows) * frame.threads, pitch)

    cuda_many.emit(frame, kind, rows, fill, lambda opened, sink: _leaves(frame, opened, sink))


def _leaves(frame: Frame, opened: Open, sink: Sink) -> None:
    V, offset = opened("uint8", "values_offset"), frame.tables["record_offset"]
    words, unroll = (frame.signature.constant(name) for name in ("words", "unroll"))
    with TB.serial(0, frame.scalar("n_trees")) as t:
        numbers = [variable(const(0, "uint32")) for _ in range(words)]
        begin = register(offset[t])
        with TB.serial(0, tirx.truncdiv(offset[t + const(1)] - begin, const(unroll))) as some:
            for i in range(unroll):
                node = load4(frame.tables["record"], (begin + some * const(unroll) + const(i)) * const(4))
                start = register(tirx.Cast("int32", node[0]) + frame.thread * const(4))
                for j, number in enumerate(numbers):
                    right = register(word(V, start + const(4 * j * frame.threads)) - node[1])
                    both = register(right & _here(number[0], node[2], frame.signature.constant("wide") == 1))
                    below = number[0] ^ (permute(both, both, 0x3210 | SIGN) & node[3])
                    TB.buffer_store(number, below, [0])
        base = register(t << const(frame.signature.constant("bits")))
        for j, number in enumerate(numbers):
            for b in range(4):
                leaf = tirx.Cast("int32", permute(number[0], const(0, "uint32"), 0x4440 | b))
                sink(t, 4 * j + b, register(base + leaf))


def _here(number: Expr, a: Expr, wide: bool) -> Expr:
    """Bit 7 of a byte: it is that of a. Numbers have seven bits, or eight, ``wide``."""
    other, high = register(number ^ a), const(0x80 * COPIES, "uint32")
    if not wide:
        return high - other  # no byte borrows
    low = const(0x7F * COPIES, "uint32")
    return (((other & low) + low) | other) ^ const(0xFFFFFFFF, "uint32")
