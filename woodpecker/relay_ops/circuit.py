"""The trees of `bitslice` as Boolean circuits: runs of multiplexers over rows of the mask matrix.

Leaf numbers are free, so they are chosen to make bits constant in subtrees: a node that owns a range of numbers cuts it
where the cut has the most trailing zeros (see `leaf_numbers`). A bit that is 1 in the whole left subtree and 0 in the
whole right one is the node's mask itself and costs nothing; a perfect tree of depth 8 needs 247 multiplexers for 255
nodes and 8 bits.

The trees are those that `rebalance` makes: of most tests the mask is that of a predicate, of others a few operations
compute it first.

Temporary rows: those masks; and bits of leaf numbers. A multiplexer reads bits of its node's children, one level
deeper, and nothing deeper than that; so two areas that levels use in turn are enough, and within a level all operations
are independent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import StrategyError
from ..forest import LEAF, tree_leaves, tree_of_node
from ..predicates import Canonical
from .rebalance import Cuts, rebalanced

ZEROS, ONES, FIRST = 0, 1, 2
"""Rows of the mask matrix: all zeros, all ones, then the bits of the leaf number, temporaries, and predicates."""
MAX_ROWS = 2**16


@dataclass(frozen=True)
class Circuit:
    """All trees as multiplexers, and where everything is.

    Args:
        offset: (T + 1,) int64 into ``operations``.
        operations: uint64: select | left << 16 | right << 32 | result << 48, as row numbers of the mask matrix.
        bits: Bits of a leaf number.
        n_temporary: Rows of temporaries.
        number: (N,) int64: see `leaf_numbers`.
    """

    offset: np.ndarray
    operations: np.ndarray
    bits: int
    n_temporary: int
    number: np.ndarray


def _levels(canonical: Canonical, cuts: Cuts) -> list[np.ndarray]:
    """Inner nodes by depth."""
    kind, levels = canonical.forest.kind, []
    level = cuts.root
    while len(level := level[kind[level] != LEAF]):
        # Tree by tree, as they come: places of temporaries are counted within a tree.
        levels.append(np.sort(level))
        level = np.concatenate([cuts.left[level], cuts.right[level]])
    return levels


def leaf_numbers(canonical: Canonical, cuts: Cuts, levels: list[np.ndarray]) -> np.ndarray:
    """(N,) the leaf's number, below 2**leaf_bits; -1 at inner nodes.

    From the root, which owns [0, 2**bits), every node cuts its range in two, anywhere that leaves each child at least
    as many numbers as it has leaves. The roundest cut is taken: below a cut that is a multiple of 2**k, k bits start
    afresh in both children. The left child gets the upper part, unless the other way round allows a rounder cut.
    """
    forest, bits, left, right = canonical.forest, canonical.leaf_bits, cuts.left, cuts.right
    count = (forest.kind == LEAF).astype(np.int64)
    for level in reversed(levels):
        count[level] = count[left[level]] + count[right[level]]
    first = np.zeros(forest.n_nodes, np.int64)
    end = np.full(forest.n_nodes, 2**bits, np.int64)
    for level in levels:
        l, r = left[level], right[level]
        cut, zeros = _roundest(first[level] + count[r], end[level] - count[l], bits)
        other_cut, other_zeros = _roundest(first[level] + count[l], end[level] - count[r], bits)
        swap = other_zeros > zeros
        cut = np.where(swap, other_cut, cut)
        lower, upper = np.where(swap, l, r), np.where(swap, r, l)
        first[lower], end[lower] = first[level], cut
        first[upper], end[upper] = cut, end[level]
    return np.where(forest.kind == LEAF, first, -1)


def _roundest(low: np.ndarray, high: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """The number of [low, high] with the most trailing zeros, and how many it has."""
    best, zeros = high.copy(), np.zeros(len(high), np.int64)
    for k in range(1, bits + 1):
        rounded = high >> k << k
        fits = rounded >= low
        best, zeros = np.where(fits, rounded, best), np.where(fits, k, zeros)
    return best, zeros


def operations(canonical: Canonical) -> float:
    """About how many multiplexers the circuits have: measured to be one a leaf where a tree is balanced, and more the
    deeper it is for its leaves."""
    leaves = tree_leaves(canonical.forest).astype(np.float64)
    unbalance = np.maximum(canonical.depth - np.log2(np.maximum(leaves, 1)), 0)
    return float((leaves * (1 + 0.18 * np.sqrt(unbalance))).sum())


def circuit(canonical: Canonical, predicate: np.ndarray, n_predicates: int) -> Circuit:
    """The circuits of all trees.

    Args:
        canonical: The forest.
        predicate: (N,) int64: of each inner node, which of ``n_predicates`` mask rows its test has.
        n_predicates: Mask rows of all tests.

    Raises:
        StrategyError: there are more rows than 16 bits number.
    """
    forest, bits = canonical.forest, canonical.leaf_bits
    tree, cuts = tree_of_node(forest), rebalanced(canonical)
    levels = _levels(canonical, cuts)
    number = leaf_numbers(canonical, cuts, levels)
    # Temporaries are numbered from 0 here and moved behind the bits once their count is known.
    temporary, predicate_row, made_row, output = 2**20, 2**21, 3 * 2**20, 2**22
    predicate = predicate + predicate_row
    select, n_made = _made_masks(cuts, tree, predicate, made_row)
    value = np.zeros((forest.n_nodes, bits), np.int64)
    leaf = number >= 0
    value[leaf] = (number[leaf, None] >> np.arange(bits)) & 1  # ZEROS or ONES
    # First the masks of all cuts, each step after the one that it builds on, and those of one place together.
    by_place = np.argsort(cuts.place, kind="stable")
    owner, test, made = cuts.owner[by_place], predicate[cuts.test[by_place]], select[cuts.owner[by_place]]
    so_far = np.where(cuts.place[by_place] == 0, predicate[owner], made)
    side, keeps_left = cuts.side[by_place], cuts.keeps_left[by_place]
    owners, selects, results = [tree[owner]], [test], [made]
    lefts, rights = [np.where(keeps_left, so_far, side)], [np.where(keeps_left, side, so_far)]
    widest = 0
    for d in range(len(levels) - 1, -1, -1):
        nodes = levels[d]
        left, right = value[cuts.left[nodes]], value[cuts.right[nodes]]
        mask = np.broadcast_to(select[nodes, None], left.shape)
        here = np.where(left == right, left, mask)
        needed = (left != right) & ~((left == ONES) & (right == ZEROS))
        at, bit = np.nonzero(needed)
        owner = tree[nodes[at]]
        within = np.arange(len(at)) - np.searchsorted(owner, owner)
        here[at, bit] = output + bit if d == 0 else temporary + 2 * within + d % 2
        widest = max(widest, int(within.max(initial=-1)) + 1)
        value[nodes] = here
        owners.append(owner)
        selects.append(mask[at, bit])
        lefts.append(left[at, bit])
        rights.append(right[at, bit])
        results.append(here[at, bit])
    rows_needed = FIRST + bits + 2 * widest + n_made + n_predicates
    if rows_needed > MAX_ROWS:
        raise StrategyError(
            f"strategy 'bitslice' needs {rows_needed:,} mask rows for this forest; the limit is {MAX_ROWS:,}. Use "
            "strategy='tree_traversal'"
        )
    # A bit of the root that no multiplexer made is copied: a constant, or a mask itself.
    at, bit = np.nonzero(value[cuts.root] < output)
    root = value[cuts.root][at, bit]
    owners.append(at)
    selects.append(np.full(len(root), ONES))
    lefts.append(root)
    rights.append(root)
    results.append(output + bit)
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")

    def rows(parts: list[np.ndarray]) -> np.ndarray:
        row = np.concatenate(parts)[order]
        row = np.where(row >= output, row - output + FIRST, row)
        row = np.where(row >= made_row, row - made_row + FIRST + bits + 2 * widest, row)
        row = np.where(row >= predicate_row, row - predicate_row + FIRST + bits + 2 * widest + n_made, row)
        return np.where(row >= temporary, row - temporary + FIRST + bits, row).astype(np.uint64)

    packed = (
        rows(selects) | rows(lefts) << np.uint64(16) | rows(rights) << np.uint64(32) | rows(results) << np.uint64(48)
    )
    offset = np.searchsorted(owner[order], np.arange(forest.n_trees + 1))
    return Circuit(offset, packed, bits, 2 * widest + n_made, number)


def _made_masks(cuts: Cuts, tree: np.ndarray, predicate: np.ndarray, first_row: int) -> tuple[np.ndarray, int]:
    """(N,) the mask row of each node's test: that of a predicate, or, from ``first_row`` on, of a mask that steps make;
    and how many of these a tree has at most."""
    made = np.unique(cuts.owner)
    within = np.arange(len(made)) - np.searchsorted(tree[made], tree[made])
    select = predicate.copy()
    select[made] = first_row + within
    return select, int(within.max(initial=-1)) + 1
