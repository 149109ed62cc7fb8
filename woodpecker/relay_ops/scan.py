"""scan: every node of a tree is applied to all rows of a block, a byte each, whatever the tree's shape.

    for each distinct byte column q:  Q[q] = ranks of a column's values, or 0 / 1 for a category set
    for each tree:
        number[all rows] = 0
        for each inner node in preorder:                # (q, k, a, m)
            number = number == a ? (Q[q] > k ? m : a) : number

Leaves are numbered from left to right; a is the node's leftmost leaf and m the leftmost one of its right subtree. A
row that has come as far as the node has the number a, and no other row has: one that went left above it has a lower
number, one that went right a higher one. So no row needs to know where it is in the tree, and there is nothing to
gather: a node costs two comparisons and two choices for as many rows as a vector has bytes.

A rank has a byte: a column of more than 255 bounds has several columns of ranks, one for every 255 bounds in order,
each clamped to its own, and a node reads the one that its bound is in. Hence the cost of a forest depends on the
number of its nodes, and little on how many distinct tests they make.

The numbering is that of QuickScorer (Lucchese et al., SIGIR 2015), whose bit vectors of leaves are replaced by the
first leaf in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..forest import LEAF, node_depth, tree_leaves, tree_of_node
from ..layout import Layout
from ..predicates import Canonical
from . import category_sets, numbered
from .options import Option, no_power_of_two
from .predicate import columns_ns
from .vectors import AVX2, NARROW, NONE, VBMI, WIDE

NAME = "scan"
OPTIONS = {
    "min_rows": Option(0, 0, 64, "fewest rows it serves, a walk serves fewer; 1: all; 0: by estimated cost"),
    "rows": Option(256, 64, 512, "rows of a block, a power of two"),
}
TABLE_OPTIONS: tuple[str, ...] = ()

ROWS = 256
"""Rows of a block, the widest vector of rows that a node is applied to at once."""
LEAST_ROWS = 64
"""Fewer rows cost as much as these."""
RANKS = 255
"""Bounds that a byte ranks, and ranks of a categorical column that a byte tells apart."""
HEIGHTS = (4, 6, 8)
"""Levels of search heaps."""
MAX_BITS = 8
VECTORS = (1, 2, 4)
"""Vectors of LEAST_ROWS that a node is applied to: the fewest that hold the rows of a block. With several, their
comparisons hide each other's latency."""
NODE_NS, NODE_VECTOR_NS = 1.15, 0.55
MEMBER_NS, MEMBER_VECTOR_NS, MEMBERS = 0.45, 0.47, 0.17
TREE_NS, LEAF_BYTE_NS, RANK_NS = 20.0, 0.025, 50.0
"""Measured: a node, and a member of a category set, of which a set has that part of its ranks; for each vector of
rows more. A tree, a byte of a leaf value, and the rank of a category."""
SPEEDS = {
    VBMI: ((1.0, 1.0, 1.0), 1.0),
    WIDE: ((1.13, 1.08, 1.13), 1.1),
    AVX2: ((0.7, 0.93, 1.1), 1.3),
    NARROW: ((1.65, 2.6, 2.95), 3.0),
    NONE: ((30.0, 40.0, 45.0), 6.0),
}
"""Vectors of the target -> factors, measured as those of `bitslice`: of nodes and members, by VECTORS, and of all else.
Two halves of 256 bits wait less for each other than 512 bits for themselves."""


def applicable(canonical: Canonical, options: Mapping[str, int]) -> str | None:
    if refusal := no_power_of_two("rows", options):
        return refusal
    leaves = int(tree_leaves(canonical.forest).max(initial=1))
    if leaves > 2**MAX_BITS:
        return f"a tree of {leaves:,} leaves; a leaf number has {MAX_BITS} bits"
    if refusal := numbered.too_large(canonical):
        return refusal
    need = byte_columns(canonical) * options.get("rows", ROWS)
    if need > numbered.MAX_BYTES:
        return f"{canonical.n_predicates:,} distinct predicates need {need / 2**30:.1f} GiB of ranks; the limit is 0.25"
    return None


def choose(canonical: Canonical, options: Mapping[str, int]) -> dict[str, int]:
    return {**options}


def space(canonical: Canonical) -> dict[str, tuple[int, ...]]:
    return {"rows": (64, 128, 256, 512)}


def cost(canonical: Canonical, rows: int, vectors: str) -> float:
    """Estimated ns per row, of a whole block's cost."""
    forest = canonical.forest
    rows = min(max(rows, 1), ROWS)
    wide = min(v for v in VECTORS if v * LEAST_ROWS >= rows)
    nodes = float((tree_leaves(forest) - 1).sum()) * (NODE_NS + NODE_VECTOR_NS * wide)
    sets = MEMBERS * category_sets.total_bits(canonical) * (MEMBER_NS + MEMBER_VECTOR_NS * wide)
    alone = forest.vector_leaves or forest.linear_offset is not None
    leaf = 0.4 + 0.2 * forest.values.shape[1] if alone else LEAF_BYTE_NS * forest.values.dtype.itemsize
    counts = _numeric_counts(canonical)
    ranks = np.where(counts < 2 ** HEIGHTS[1], 0.5, 0.9 * -(-counts // RANKS)).sum()
    per_row = float(ranks) + forest.n_trees * leaf + columns_ns(canonical, tiled=True)
    per_row += RANK_NS * (len(canonical.columns) - canonical.columns.n_numeric)
    of_nodes, of_rest = SPEEDS[vectors]
    rest = TREE_NS * forest.n_trees + per_row * wide * LEAST_ROWS
    return ((nodes + sets) * of_nodes[VECTORS.index(wide)] + rest * of_rest) / rows


def _pieces(counts: np.ndarray, size: int) -> np.ndarray:
    """(len(counts) + 1,) int64: the first piece of each run of ``counts``, cut in pieces of ``size``; and the end."""
    return np.cumsum(np.concatenate([[0], -(-counts // size)]))


def _numeric_counts(canonical: Canonical) -> np.ndarray:
    return np.diff(canonical.columns.bound_offset)[: canonical.columns.n_numeric]


def byte_columns(canonical: Canonical) -> int:
    """Byte columns that nodes read: ranks, and one for each distinct category set."""
    counts = _numeric_counts(canonical)
    return int(_pieces(counts, RANKS)[-1]) + canonical.n_predicates - int(counts.sum())


@dataclass(frozen=True)
class _Nodes:
    """Leaf numbers, and inner nodes in the order in which they are applied.

    Args:
        number: (N,) the number of a leaf within its tree; at inner nodes, that of their leftmost leaf.
        middle: (N,) the leftmost leaf of the right subtree of an inner node.
        preorder: Inner nodes, tree by tree.
        offset: (T + 1,) int64 into ``preorder``.
    """

    number: np.ndarray
    middle: np.ndarray
    preorder: np.ndarray
    offset: np.ndarray


def in_preorder(canonical: Canonical) -> _Nodes:
    forest = canonical.forest
    tree = tree_of_node(forest)
    base = forest.tree_offset[:-1][tree]
    left, right = base + forest.left, base + forest.right
    inner = forest.kind != LEAF
    depth = node_depth(forest)
    levels = [np.flatnonzero((depth == d) & inner) for d in range(canonical.max_depth)]
    leaves = (~inner).astype(np.int64)
    for level in reversed(levels):
        leaves[level] = leaves[left[level]] + leaves[right[level]]
    number, before = np.zeros(forest.n_nodes, np.int64), np.zeros(forest.n_nodes, np.int64)
    middle = np.zeros(forest.n_nodes, np.int64)
    for level in levels:
        l, r = left[level], right[level]
        number[l], before[l] = number[level], before[level] + 1
        middle[level] = number[level] + leaves[l]
        # A subtree of n leaves has n - 1 inner nodes.
        number[r], before[r] = middle[level], before[level] + leaves[l]
    nodes = np.flatnonzero(inner)
    nodes = nodes[np.lexsort((before[nodes], tree[nodes]))]
    offset = np.searchsorted(tree[nodes], np.arange(forest.n_trees + 1))
    return _Nodes(number, middle, nodes, offset)


def prepare(canonical: Canonical, options: Mapping[str, int]) -> tuple[Layout, np.ndarray]:
    """The nodes in preorder, and the bounds of each byte column as a search heap; positions (T * 2**bits,)."""
    columns, nodes = canonical.columns, in_preorder(canonical)
    counts = _numeric_counts(canonical)
    first = _pieces(counts, RANKS)
    at = nodes.preorder
    word = canonical.node_bitset[at]
    column = np.where(word >= 0, columns.n_numeric, canonical.node_column[at])  # of a set: behind all ranks
    within = canonical.node_bound[at] - columns.bound_offset[column]
    sets = np.unique(word[word >= 0])
    q = first[column] + np.where(word >= 0, np.searchsorted(sets, word), within // RANKS)
    # Bytes are compared as signed numbers, which every vector unit can: ranks are less by 128.
    k = np.where(word >= 0, 0, within % RANKS - 128)
    test = np.stack([k, nodes.number[at], nodes.middle[at], np.zeros(len(at), np.int64)], 1)
    tables: dict[str, np.ndarray] = {
        "node_offset": nodes.offset.astype(np.int32),
        "node_column": q.astype(np.int32),
        "node_test": test.astype(np.uint8).view(np.int8).reshape(-1),
        "piece": first.astype(np.int32),
        **_heaps(canonical, first),
    }
    scalars = {"n_bytes": byte_columns(canonical)}
    constants = {"bits": canonical.leaf_bits}
    layout = Layout(scalars, tables, constants, frozenset())
    if canonical.has_categories:
        layout |= _members(canonical)
    return layout, numbered.positions(canonical, nodes.number)


def _heaps(canonical: Canonical, first: np.ndarray) -> dict[str, np.ndarray]:
    """The bounds of each piece as a search heap, of which 1 is the root and 2 i and 2 i + 1 are the children of i; all
    infinity beyond the bounds. Few bounds have a small heap."""
    columns = canonical.columns
    counts = _numeric_counts(canonical)
    owner = np.repeat(np.arange(len(counts)), np.diff(first))
    begin = columns.bound_offset[owner] + (np.arange(first[-1]) - first[owner]) * RANKS
    size = np.minimum(columns.bound_offset[owner + 1] - begin, RANKS)
    levels = np.select([size < 2**h for h in HEIGHTS], HEIGHTS)
    place = np.concatenate([[0], np.cumsum(2**levels)])
    heap = np.zeros(int(place[-1]), np.int64)  # of each place: an index into the bounds, or that of infinity
    nothing = len(columns.bound32)
    for height in HEIGHTS:
        these = np.flatnonzero(levels == height)
        for level in range(height):
            step = 2 ** (height - 1 - level)
            order = np.arange(2**level) * 2 * step + step - 1
            inside = order < size[these, None]
            heap[place[these, None] + 2**level + np.arange(2**level)] = np.where(
                inside, begin[these, None] + order, nothing
            )
    tables = {
        "heap_offset": place.astype(np.int32),
        "heap_levels": levels.astype(np.int32),
        "bound32": np.append(columns.bound32, np.float32(np.inf))[heap],
    }
    if canonical.forest.input_dtype == "float64":
        tables["bound64"] = np.append(columns.bound64, np.inf)[heap]
    return tables


def _members(canonical: Canonical) -> Layout:
    """The distinct category sets as ranks on one side of each.

    A rank is a code of a byte in one of the code columns of its categorical column, as bounds are ranked; code RANKS
    stands for a rank that another of them holds.
    """
    columns = canonical.columns
    first = _pieces(category_sets.rank_counts(canonical)[columns.n_numeric :], RANKS)
    sets = category_sets.members(canonical)
    tables: dict[str, np.ndarray] = {
        "member_offset": sets.offset.astype(np.int32),
        "member": (((first[sets.column - columns.n_numeric] + sets.rank // RANKS) << 8) + sets.rank % RANKS).astype(
            np.int32
        ),
        "set_flip": (~sets.of_right).astype(np.int8),
        "code": first.astype(np.int32),
    }
    return Layout({"n_sets": len(sets.of_right), "n_codes": int(first[-1])}, tables, {}, frozenset())
