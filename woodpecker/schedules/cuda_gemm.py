"""gemm on a GPU: tests and leaves of 8 trees and the 32 rows of a warp, by products on tensor cores.

    for each matrix of a group of trees:                    # of several trees, where these are small
        S[r, i] = goes_right(r, node i) ? -1 : 0            # four rows an instruction: cuda_bytes; then transposed
        D = S M                                             # int8 by int8, summed in int32, which is exact
        W[r, l] = D[r, l] < 0 ? -1 : 0                      # 0 for the leaf that the row is in: cuda_gemm_tables
        N[r, t] += W number                                 # of the trees of the group
    number[r, t] = N[r, t] + the sum of all leaf numbers    # W is 0 for one leaf, and -1 for the others

These are the products of `relay_ops.gemm`: features are gathered, and the leaf's number looks its value up, so that a
row's sum stays in order. Products are `mma.sync` of PTX, 16 rows by 32 by 8 columns: eight groups of four threads, each
group two rows of a product, so four rows of the warp, which are the bytes of a word. What a thread holds of D is what
it has to hold of W, if leaves are taken in the order of `cuda_gemm_tables`; only the numbers go through memory, to the
thread that sums the row. Hummingbird's "GEMM" (Nakandala et al., OSDI 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..forest import tree_leaves
from ..layout import Layout
from ..predicates import Canonical
from ..relay_ops import gemm
from ..relay_ops.options import Option
from ..relay_ops.predicate import Expr
from . import cuda_bytes, cuda_cost, cuda_gemm_tables, cuda_many
from .cuda_gemm_tables import SIZE, TREES
from .cuda_many import Open, Shape, Sink
from .cuda_many import launch as launch
from .cuda_many import wrong_options as wrong_options
from .cuda_ptx import SIGN, load4, multiply, permute, synchronise_warp, word
from .cuda_tir import Frame, register
from .tir import const

NAME = gemm.NAME
FEW = None
OPTIONS = {
    "cuda_threads": Option(0, 0, 1024, "threads of a block, a power of two from 32 on; 0: as many as its memory holds"),
}
MAX_LEAVES = 128
"""Leaf numbers are signed bytes."""
PRODUCT, COLUMNS, GROUP = 65.0, 43.0, 75.0
"""Instructions of a warp, counted in the code for sm_90: tests of 32 nodes and their products with 32 leaves, what
these leaves cost besides, and what a group of trees does."""
VALUE = 6.0
"""What one more value of a leaf costs a row."""
PRODUCT_CYCLES = 2.0
"""Of a multiprocessor of sm_80 for `mma.sync`, by its peak of 2,048 products of bytes in a cycle."""


def space(canonical: Canonical) -> dict[str, tuple[int, ...]]:
    """option -> candidates, for tuning."""
    return {"cuda_threads": (32, 64, 128, 256)}


def refusal(canonical: Canonical, options: Mapping[str, int]) -> str | None:
    """Why it can't serve a forest, if it can't."""
    leaves = int(tree_leaves(canonical.forest).max(initial=1))
    if leaves > MAX_LEAVES:
        return f"a tree of {leaves:,} leaves; on a GPU the limit is {MAX_LEAVES} leaves"
    return gemm.applicable(canonical, {})


def cycles(canonical: Canonical, options: Mapping[str, int]) -> float:
    """Estimated cycles of a multiprocessor for a row."""
    forest, of = canonical.forest, cuda_gemm_tables.shape(canonical)
    groups, blocks = -(-forest.n_trees // TREES), of.units * of.tiles
    values = VALUE * TREES * (forest.n_outputs - 1 if forest.vector_leaves else 0)
    instructions = cuda_bytes.instructions(canonical) + groups * (
        blocks * (of.tiles * PRODUCT + COLUMNS) + GROUP + values
    )
    products = groups * blocks * (of.tiles * 8 + 2)
    return max(instructions / cuda_cost.ISSUED, products * PRODUCT_CYCLES) / cuda_cost.WARP


def lay_out(canonical: Canonical, options: Mapping[str, int]) -> Layout:
    """All tables, the threads of a block, and where it keeps what.

    Raises:
        StrategyError: a block of rows would not fit into memory that 32 bits reach.
    """
    known, layout = cuda_many.tables(canonical, NAME, ("test_column", "path", "rights", "node_bitset"))
    threads = options["cuda_threads"]
    sizes = (threads,) if threads else cuda_many.THREADS
    # Byte columns of eight words begin in four different quarters of the banks.
    shapes = [Shape(n, 1, n + SIZE * (n > SIZE), 2 * TREES * n) for n in sizes]
    shape, places = cuda_many.place(canonical, layout, shapes)
    layout |= places | cuda_gemm_tables.prepare(canonical, known, shape.pitch)
    return layout if {"vector", "linear"} & layout.flags else layout | _padding(layout)


def _padding(layout: Layout) -> Layout:
    """Values for the padding of the last group, -0.0, which changes no sum."""
    value, more = layout.tables["value"], (TREES - 1) * layout.scalars["n_leaves"]
    padded = np.append(value, np.full(more, -0.0, value.dtype))
    return Layout({}, {"value": padded}, {}, frozenset({"padded"}))


def emit(frame: Frame, kind: str) -> None:
    """The code of a kernel; ``kind`` is "raw" or "apply"."""

    def fill(opened: Open, row: cuda_many.RowOf) -> None:
        V, pitch = opened("uint8", "values_offset"), frame.signature.constant("pitch")
        cuda_bytes.fill(frame, V, row, frame.threads, pitch)
        TB.buffer_store(V, const(128, "uint8"), [frame.scalar("n_bytes") * const(pitch) + frame.thread])

    cuda_many.emit(frame, kind, [frame.thread], fill, lambda opened, sink: _leaves(frame, kind, opened, sink))


def _leaves(frame: Frame, kind: str, opened: Open, sink: Sink) -> None:
    V, n_trees = opened("uint8", "values_offset"), frame.scalar("n_trees")
    words, found = opened("uint32", "extra_offset"), opened("uint8", "extra_offset")
    lane = register(frame.thread & const(31))
    warp = register((frame.thread >> const(5)) * const(2 * TREES * SIZE))  # bytes: two buffers, in turn
    with TB.serial(0, tirx.truncdiv(n_trees + const(TREES - 1), const(TREES))) as group:
        numbers = _numbers(frame, V, group, lane)
        # What is read from one buffer has been read before the barrier after which it is written to again.
        buffer = register(warp + (group & const(1)) * const(TREES * SIZE))
        at = register((buffer >> const(2)) + (lane >> const(2)) + (lane & const(3)) * const(16))
        for i in range(2):
            first, second = (permute(n[i], n[i + 2], 0x0040) for n in numbers)
            TB.buffer_store(words, permute(first, second, 0x5410), [at + const(8 * i)])
        synchronise_warp()
        for i in range(TREES):
            t = register(group * const(TREES) + const(i))
            leaf = register(tirx.Cast("int32", found[buffer + const(SIZE * i) + lane]))
            if "padded" in frame.signature.flags and kind == "raw":
                sink(t, 0, t * frame.scalar("n_leaves") + leaf)
            else:
                with TB.If(t < n_trees), TB.Then():
                    sink(t, 0, t * frame.scalar("n_leaves") + leaf)


def _registers(n: int, dtype: str, value: Expr) -> Any:
    buffer = TB.alloc_buffer((n,), dtype, scope="local")
    for i in range(n):
        TB.buffer_store(buffer, value, [const(i)])
    return buffer


def _numbers(frame: Frame, V: Any, group: Expr, lane: Expr) -> list[Any]:
    """The fragments of N, of 16 rows each: the numbers of the leaves of a group of trees."""
    tables, units = frame.tables, const(frame.signature.constant("units"))
    tiles = frame.scalar("n_tiles") if "n_tiles" in frame.scalars else const(1)
    numbers = [_registers(4, "int32", frame.scalar("number_base")) for _ in range(2)]
    with TB.serial(0, units) as unit:
        matrix = register(group * units + unit)
        with TB.serial(0, tiles) as column:
            D = [[_registers(4, "int32", const(0)) for _ in range(SIZE // 8)] for _ in range(2)]
            with TB.serial(0, tiles) as row:
                S = _outcomes(frame, V, matrix * tiles + row, lane)
                block = (matrix * tiles + column) * tiles + row
                for pair in range(2):
                    at = ((block * const(2) + const(pair)) * const(32) + lane) * const(4)
                    both = load4(tables["path"], at)
                    for j in range(2):
                        b = TB.alloc_buffer((2,), "uint32", scope="local")
                        for i in range(2):
                            TB.buffer_store(b, both[2 * j + i], [const(i)])
                        for m in range(2):
                            multiply(D[m][2 * pair + j], S[m], b)
            b = TB.alloc_buffer((2,), "uint32", scope="local")
            at = register(((unit * tiles + column) * const(32) + lane) * const(2))
            for i in range(2):
                TB.buffer_store(b, tables["number"][at + const(i)], [const(i)])
            for m in range(2):
                multiply(numbers[m], _wrong(D[m]), b)
    return numbers


def _outcomes(frame: Frame, V: Any, part: Expr, lane: Expr) -> list[Any]:
    """The fragments of S, of 16 rows each, for 32 nodes: -1 or 0, a byte each."""
    S = [TB.alloc_buffer((4,), "uint32", scope="local") for _ in range(2)]
    own = register(frame.thread & const(-4))  # its group's four rows
    for half in range(2):
        at = register((part * const(32) + const(16 * half) + (lane & const(3)) * const(4)) * const(2))
        nodes = [load4(frame.tables["test"], at + const(4 * i)) for i in range(2)]
        right = []  # of a node for four rows: bit 7 of a byte
        for i in range(4):
            start, least = (nodes[i // 2][i % 2 * 2 + j] for j in range(2))
            right.append(register(word(V, tirx.Cast("int32", start) + own) - least))
        for m, selector in enumerate((0x5140, 0x7362)):
            # The bytes of two rows for two nodes each, then of one row for four nodes.
            low, high = (register(permute(right[i], right[i + 1], selector)) for i in (0, 2))
            TB.buffer_store(S[m], permute(low, high, 0x5410 | SIGN), [const(2 * half)])
            TB.buffer_store(S[m], permute(low, high, 0x7632 | SIGN), [const(2 * half + 1)])
    return S


def _wrong(D: list[Any]) -> Any:
    """The fragment of W from those of D, for 16 rows: the signs of its numbers, a byte each."""
    W = TB.alloc_buffer((4,), "uint32", scope="local")
    for half in range(2):
        for of_row in range(2):
            blocks = (D[2 * half], D[2 * half + 1])
            low, high = (register(permute(d[2 * of_row], d[2 * of_row + 1], 0x0073)) for d in blocks)
            TB.buffer_store(W, permute(low, high, 0x5410 | SIGN), [const(2 * half + of_row)])
    return W
