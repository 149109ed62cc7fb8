"""The tree stage of `bitslice` on a GPU: from masks to the leaf numbers of a tree, a byte a row, for a word of rows.

    bits(node) = [right ^ (mask & (left ^ right)) for each bit of bits(left child), bits(right child)], mask

Trees deeper than UNROLLED levels are done by a loop over their lowest subtrees, which keeps code and registers few:

    for subtree s:
        reached = and, over the nodes above it, of mask or ~mask: the rows that get there
        plane |= reached & bit, for each bit of bits(root of s), and for each bit of s

The trees are padded to perfect ones, as in `relay_ops.bitslice`: mask rows are all that differs between threads of a
warp. They stand in the order in which they are needed, left child, right child, node, four 16-bit row numbers
to a word, 32 trees beside each other, so that a warp reads whole lines.

The planes of 32 rows become bytes in three steps of swaps between registers (Warren, Hacker's Delight, 7-3, on the four
8 x 8 bit matrices that eight registers hold at once): byte b of register k is the leaf number of row 8 b + k.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout
from ..relay_ops.predicate import Expr
from .cuda_masks import WARP
from .cuda_tir import Frame, register, variable
from .tir import const

UNROLLED = 5
"""Levels of the subtrees whose planes stay in registers; those of deeper trees are done in a loop over subtrees."""
NODES = 4
"""Mask rows in a word of the table of trees."""
BYTES = 4
"""Leaf numbers in a word."""


def prepare(row: np.ndarray, depth: int) -> Layout:
    """The table of this stage.

    Args:
        row: (T, 2**depth - 1) mask rows of the nodes of perfect trees, as heaps.
        depth: Levels of the trees.
    """
    order = _order(depth)
    row = np.pad(row[:, order - 1], ((0, -len(row) % WARP), (0, 0), (0, -order.shape[1] % NODES)))
    row = row.astype(np.uint16).reshape(-1, WARP, row.shape[1] * row.shape[2] // NODES, NODES)
    trees = np.ascontiguousarray(row.transpose(0, 2, 1, 3)).reshape(-1).view(np.uint64)
    # Not in the code, because NVRTC would unroll the loop over them.
    return Layout({"n_subtrees": len(order)}, {"tree": trees}, {}, frozenset())


def _order(depth: int) -> np.ndarray:
    """(subtrees, numbers) int64: heap places of a tree in the order in which its code needs them: of each subtree of
    UNROLLED levels, by its number, children before their node; then of the nodes above it, from its parent up."""
    low = min(depth, UNROLLED)

    def below(node: int, height: int) -> list[int]:
        if height == 0:
            return []
        return [*below(2 * node, height - 1), *below(2 * node + 1, height - 1), node]

    # The leftmost one has the highest number, so that a bit of it is 1 where the way goes left.
    roots = range(2 ** (depth - low + 1) - 1, 2 ** (depth - low) - 1, -1)
    return np.array([[*below(root, low), *(root >> up for up in range(1, depth - low + 1))] for root in roots])


def leaf_numbers(frame: Frame, start: Expr, word: Expr, M: Any, N: Any) -> None:
    """The leaf numbers of a word of rows in tree ``start`` + thread, which are stored to N."""
    signature = frame.signature
    depth, bits = signature.constant("bits"), signature.constant("word_bits")
    low, dtype = min(depth, UNROLLED), f"uint{bits}"
    words = -(-(2**low - 1 + depth - low) // NODES)
    n_subtrees = frame.scalar("n_subtrees")
    t = register(start + frame.thread)
    base = register((t >> const(5)) * (n_subtrees * const(words * WARP)) + (t & const(WARP - 1)))
    masks = register(word * frame.scalar("n_mask_rows"))

    def subtree(first: Expr) -> tuple[list[Expr], list[Expr]]:
        """The planes of a subtree, and the masks of the nodes above it."""
        loaded: list[Expr] = []
        taken = 0

        def mask() -> Expr:
            nonlocal taken
            if taken % NODES == 0:
                loaded.append(register(frame.tables["tree"][first + const(taken // NODES * WARP)]))
            number = (loaded[-1] >> const(16 * (taken % NODES), "uint64")) & const(2**16 - 1, "uint64")
            taken += 1
            return register(M[masks + tirx.Cast("int32", number)])

        def planes(height: int) -> list[Expr]:
            below = [planes(height - 1) for _ in (0, 1)] if height > 1 else [[], []]
            m = mask()
            return [*(register(right ^ (m & (left ^ right))) for left, right in zip(*below, strict=True)), m]

        return planes(low), [mask() for _ in range(depth - low)]

    if depth == low:
        found, _ = subtree(base)
    else:
        zero = const(0, dtype)
        gathered = [variable(zero) for _ in range(depth)]
        with TB.serial(0, n_subtrees) as which:
            planes, above = subtree(register(base + which * const(words * WARP)))
            lefts = [register(zero - tirx.Cast(dtype, (which >> const(up)) & const(1))) for up in range(depth - low)]
            reached: Expr = ~zero
            for m, left in zip(above, lefts, strict=True):
                reached = register(reached & ~(m ^ left))
            for plane, bit in zip(gathered, [*planes, *lefts], strict=True):
                TB.buffer_store(plane, plane[0] | (reached & bit), [0])
        found = [plane[0] for plane in gathered]
    for half in range(bits // WARP):
        parts = [register(tirx.Cast("uint32", plane >> const(WARP * half, f"uint{bits}"))) for plane in found]
        for k, value in enumerate(_bytes(parts)):
            at = (word * const(bits // WARP) + const(half)) * const(8) + const(k)
            TB.buffer_store(N, value, [at * const(frame.threads + 1) + frame.thread])


_STEPS = ((4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555))


def _bytes(planes: list[Expr]) -> list[Expr]:
    """Eight registers of four bytes from up to eight planes of 32 rows: see the docstring of this module."""
    rows: list[Expr | None] = [*planes, *[None] * (8 - len(planes))]
    for step, low in _STEPS:
        keep, upper, by = const(low, "uint32"), const(low << step, "uint32"), const(step, "uint32")
        for i in range(8):
            if i & step:
                continue
            a, b = rows[i], rows[i + step]
            if a is None:
                continue  # planes are the first ones, so b is none either
            here = a & keep if b is None else (a & keep) | ((b << by) & upper)
            there = (a >> by) & keep if b is None else ((a >> by) & keep) | (b & upper)
            rows[i], rows[i + step] = register(here), register(there)
    return rows
