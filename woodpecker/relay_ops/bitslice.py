"""bitslice: 512 rows at once, a bit each; every distinct test is computed once, and trees are Boolean circuits.

    for each distinct predicate q:   mask[q] = a bit per row: does the row go left there?
    for each tree, from the deepest level up, for each node and each bit of the leaf number:
        bit[node] = mask[q] ? bit[left] : bit[right]              # right ^ (mask & (left ^ right)), on all rows
    leaf number = the bits at the root

Equal predicates are shared between nodes and trees: a 500-tree model of 98,358 splits over 28 features has 7,104. A
tree's circuit is a run of multiplexers in a table, four 16-bit row numbers each (select, left, right, result), so
the code does not depend on the trees. Leaf numbers are free, so they are chosen to make bits constant in subtrees: a
node that owns a range of numbers cuts it where the cut has the most trailing zeros (see `_leaf_numbers`). A bit that
is 1 in the whole left subtree and 0 in the whole right one is the node's mask itself and costs nothing; a perfect tree
of depth 8 needs 247 multiplexers for 255 nodes and 8 bits.

Trees of at most PERFECT_DEPTH levels may be padded to perfect ones instead (`perfect`): then the multiplexers are the
same for every tree, only the masks differ, and what lies between the masks and the leaf number stays in registers, but
for the bits of subtrees of LOOPED_DEPTH levels.

Temporary rows: a multiplexer reads bits of its node's children, one level deeper, and nothing deeper than that; so two
areas that levels use in turn are enough, and within a level all operations are independent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..errors import StrategyError
from ..forest import LEAF, node_depth, tree_leaves, tree_of_node
from ..layout import Layout
from ..predicates import Canonical
from .options import Option, no_power_of_two
from .perfect_tree_traversal import heap
from .predicate import columns_ns

NAME = "bitslice"
OPTIONS = {
    "min_rows": Option(0, 0, 512, "fewest rows it serves, scan or a walk serves fewer; 1: all; 0: by estimated cost"),
    "rows": Option(512, 128, 512, "rows of a block, a power of two"),
}
TABLE_OPTIONS: tuple[str, ...] = ()

ROWS = 512
ZEROS, ONES, FIRST = 0, 1, 2
"""Rows of the mask matrix: all zeros, all ones, then the bits of the leaf number, temporaries, and predicates."""

RANKS = 255
"""Bounds that are searched at once: eight levels of a search tree."""
MIN_RANKED = 10
"""Fewer bounds than this are compared one by one faster than they are searched."""

CACHE_BYTES = 3 * 2**18
"""Beyond this the mask matrix does not stay in the second-level cache beside the rest."""
SET_NS, MEMBER_NS = 10.0, 0.3
"""Measured, per block: the mask of a category set, and that of each rank in its column, of which a part are members."""

ROW_NS = 5.0
"""Measured: what a row costs beside all this, such as its place in the output."""
COMPARE_NS, SEARCH_NS, RANK_NS = 10.0, 40.0, 1.0
"""Measured, per block: the mask of a bound by comparison; a level of the search in a piece; a mask of its bounds."""

PERFECT_DEPTH = 8
"""Beyond this, a padded tree has too many leaves for a byte."""
LOOPED_DEPTH = 6
"""Levels of the subtrees that deeper ones are put together from, one by one."""
OPERATION_NS, PADDED_NS = 1.4, 0.55
"""Measured, per block: a multiplexer of a circuit, and a node of a padded tree."""

MAX_ROWS = 2**16
MAX_BITS = 12
MAX_BYTES = 2**28
MAX_SET_BITS = 2**27
MAX_RANKS = 2**20


def applicable(canonical: Canonical, options: Mapping[str, int]) -> str | None:
    if refusal := no_power_of_two("rows", options):
        return refusal
    leaves = int(tree_leaves(canonical.forest).max(initial=1))
    if leaves > 2**MAX_BITS:
        return f"a tree of {leaves:,} leaves needs more than {MAX_BITS} bits a leaf number"
    numbers = canonical.forest.n_trees << max(1, (leaves - 1).bit_length())
    if numbers * 24 > MAX_BYTES:
        return f"{canonical.forest.n_trees:,} trees with tables for {leaves:,} leaves each need more than 256 MiB"
    set_bits = _set_bits(canonical)
    if set_bits > MAX_SET_BITS:
        return f"the category sets hold {set_bits:,} bits; the limit is {MAX_SET_BITS:,}"
    rows = predicate_rows(canonical)
    if rows > MAX_ROWS // 2:
        return f"{canonical.n_predicates:,} distinct predicates need {rows:,} rows; the limit is {MAX_ROWS // 2:,}"
    if (ranks := _n_ranks(canonical)) > MAX_RANKS:
        return f"the categorical columns have {ranks:,} ranks; the limit is {MAX_RANKS:,}"
    return None


def choose(canonical: Canonical, options: Mapping[str, int]) -> dict[str, int]:
    return {**options}


def space(canonical: Canonical) -> dict[str, tuple[int, ...]]:
    return {"rows": (128, 256, 512)}


def cost(canonical: Canonical, rows: int) -> float:
    """Estimated ns per row, of a whole block's cost."""
    leaves = tree_leaves(canonical.forest).astype(np.float64)
    padded = perfect(canonical)
    circuit = PADDED_NS * canonical.forest.n_trees * 2.0**padded if padded else OPERATION_NS * _operations(canonical)
    cut = pieces(canonical)
    counts = np.diff(cut.bound)
    ranks = np.diff(canonical.columns.bound_offset)[canonical.columns.n_numeric :]
    per_set = SET_NS + MEMBER_NS * float(ranks.mean()) if len(ranks) else 0.0
    searched = counts[cut.ranked]
    masks = SEARCH_NS * float(np.ceil(np.log2(searched + 1)).sum()) + RANK_NS * int(searched.sum())
    masks += COMPARE_NS * int(counts[~cut.ranked].sum() + ranks.sum()) + per_set * _n_sets(canonical)
    by_byte = leaves.max(initial=1) <= 256 and not canonical.forest.vector_leaves
    leaf_stage = (
        10.0 + (9.0 if leaves.max(initial=1) <= 64 else 13.0) * canonical.forest.values.dtype.itemsize
        if by_byte
        else ROWS * (1.5 + 0.3 * canonical.forest.values.shape[1])
    )
    if predicate_rows(canonical) * 64 > CACHE_BYTES:
        masks *= 1.5
    block = circuit + masks + canonical.forest.n_trees * leaf_stage + ROW_NS * ROWS
    return block / min(max(rows, 1), ROWS) + columns_ns(canonical, tiled=True)


def _operations(canonical: Canonical) -> float:
    """About how many multiplexers the circuits have: measured to be one a leaf where a tree is balanced, and more the
    deeper it is for its leaves."""
    leaves = tree_leaves(canonical.forest).astype(np.float64)
    unbalance = np.maximum(canonical.depth - np.log2(np.maximum(leaves, 1)), 0)
    return float((leaves * (1 + 0.14 * unbalance)).sum())


def perfect(canonical: Canonical) -> int:
    """The depth that all trees are padded to, or 0: they are circuits."""
    depth = canonical.max_depth
    if not 0 < depth <= PERFECT_DEPTH:
        return 0
    return depth if PADDED_NS * canonical.forest.n_trees * 2.0**depth <= OPERATION_NS * _operations(canonical) else 0


@dataclass(frozen=True)
class _Circuit:
    """All trees as multiplexers, and where everything is.

    Args:
        offset: (T + 1,) int64 into ``operations``.
        operations: uint64: select | left << 16 | right << 32 | result << 48, as row numbers of the mask matrix.
        bits: Bits of a leaf number.
        n_temporary: Rows of one of the two temporary areas.
    """

    offset: np.ndarray
    operations: np.ndarray
    bits: int
    n_temporary: int


def _leaf_numbers(canonical: Canonical, levels: list[np.ndarray], bits: int) -> np.ndarray:
    """(N,) the leaf's number, below 2**bits; -1 at inner nodes.

    From the root, which owns [0, 2**bits), every node cuts its range in two, anywhere that leaves each child at least
    as many numbers as it has leaves. The roundest cut is taken: below a cut that is a multiple of 2**k, k bits start
    afresh in both children. The left child gets the upper part, unless the other way round allows a rounder cut.
    """
    forest = canonical.forest
    base = forest.tree_offset[:-1][tree_of_node(forest)]
    left, right = base + forest.left, base + forest.right
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


def _predicates(canonical: Canonical) -> np.ndarray:
    """(N,) int64: the mask row, from the first predicate's, of each inner node's test; meaningless at leaves."""
    cut = pieces(canonical)
    # From a bound to its row: rows run ahead of bounds by one for each ranked piece before.
    ahead = np.repeat(cut.row[:-1] - cut.bound[:-1], np.diff(cut.bound))
    categorical = canonical.node_bitset >= 0
    words = np.unique(canonical.node_bitset[categorical])
    numeric = np.where(categorical, 0, canonical.node_bound)
    predicate = numeric + (ahead[numeric] if len(ahead) else 0)
    predicate[categorical] = cut.row[-1] + np.searchsorted(words, canonical.node_bitset[categorical])
    return predicate


@dataclass(frozen=True)
class Pieces:
    """The bounds of each numeric column, in order, in pieces of at most RANKS.

    Args:
        of_column: (numeric columns + 1,) int64: the first piece of each column, and the end.
        bound: (P + 1,) int64: the first bound of each piece, and the end.
        row: (P + 1,) int64: the first mask row of each piece, and the end. A ranked piece has a row more than bounds.
        ranked: (P,) bool: searched, rather than compared bound by bound.
    """

    of_column: np.ndarray
    bound: np.ndarray
    row: np.ndarray
    ranked: np.ndarray


def pieces(canonical: Canonical) -> Pieces:
    columns = canonical.columns
    offset = columns.bound_offset[: columns.n_numeric + 1].astype(np.int64)
    of_column = np.concatenate([[0], np.cumsum(-(-np.diff(offset) // RANKS))])
    column = np.repeat(np.arange(columns.n_numeric), np.diff(of_column))
    first = offset[column] + RANKS * (np.arange(of_column[-1]) - of_column[column])
    bound = np.append(first, offset[-1])
    ranked = np.diff(bound) >= MIN_RANKED
    row = np.concatenate([[0], np.cumsum(np.diff(bound) + ranked)])
    return Pieces(of_column, bound, row, ranked)


def _set_bits(canonical: Canonical) -> int:
    """Ranks of its column, summed over the distinct category sets."""
    at = np.flatnonzero(canonical.node_bitset >= 0)
    _, index = np.unique(canonical.node_bitset[at], return_index=True)
    return int((np.diff(canonical.columns.bound_offset) + 2)[canonical.node_column[at[index]]].sum())


def predicate_rows(canonical: Canonical) -> int:
    """Mask rows of all predicates: those of the columns' bounds, and one for each distinct category set."""
    return int(pieces(canonical).row[-1]) + _n_sets(canonical)


def _n_ranks(canonical: Canonical) -> int:
    """Ranks of all categorical columns, of each of which a set may need the mask; the last is a missing value's."""
    counts = np.diff(canonical.columns.bound_offset)[canonical.columns.n_numeric :]
    return int((counts + 2).sum())


def _n_sets(canonical: Canonical) -> int:
    return canonical.n_predicates - int(canonical.columns.bound_offset[canonical.columns.n_numeric])


def _circuit(canonical: Canonical) -> _Circuit:
    forest = canonical.forest
    tree = tree_of_node(forest)
    base = forest.tree_offset[:-1][tree]
    depth = node_depth(forest)
    levels = [np.flatnonzero((depth == d) & (forest.kind != LEAF)) for d in range(canonical.max_depth)]
    bits = max(1, int(tree_leaves(forest).max(initial=1) - 1).bit_length())
    number = _leaf_numbers(canonical, levels, bits)
    # Temporaries are numbered from 0 here and moved behind the bits once their count is known.
    temporary, predicate_row, output = 2**20, 2**21, 2**22
    predicate = _predicates(canonical) + predicate_row
    value = np.zeros((forest.n_nodes, bits), np.int64)
    leaf = number >= 0
    value[leaf] = (number[leaf, None] >> np.arange(bits)) & 1  # ZEROS or ONES
    owners, selects, lefts, rights, results = [], [], [], [], []
    widest = 0
    for d in range(len(levels) - 1, -1, -1):
        nodes = levels[d]
        left, right = value[base[nodes] + forest.left[nodes]], value[base[nodes] + forest.right[nodes]]
        mask = np.broadcast_to(predicate[nodes, None], left.shape)
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
    roots = forest.tree_offset[:-1]
    rows_needed = FIRST + bits + 2 * widest + predicate_rows(canonical)
    if rows_needed > MAX_ROWS:
        raise StrategyError(
            f"strategy {NAME!r} needs {rows_needed:,} mask rows for this forest; the limit is {MAX_ROWS:,}. Use "
            "strategy='tree_traversal'"
        )
    # A bit of the root that no multiplexer made is copied: a constant, or a mask itself.
    at, bit = np.nonzero(value[roots] < output)
    root = value[roots][at, bit]
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
        row = np.where(row >= predicate_row, row - predicate_row + FIRST + bits + 2 * widest, row)
        return np.where(row >= temporary, row - temporary + FIRST + bits, row).astype(np.uint64)

    packed = (
        rows(selects) | rows(lefts) << np.uint64(16) | rows(rights) << np.uint64(32) | rows(results) << np.uint64(48)
    )
    offset = np.searchsorted(owner[order], np.arange(forest.n_trees + 1))
    return _Circuit(offset, packed, bits, widest)


def prepare(canonical: Canonical, options: Mapping[str, int]) -> Layout:
    """Bounds of the predicates, and the circuits."""
    columns = canonical.columns
    numeric = int(columns.bound_offset[columns.n_numeric])
    cut = pieces(canonical)
    trees = _padded(canonical, depth) if (depth := perfect(canonical)) else _table(_circuit(canonical))
    first_predicate = trees.scalars["first_predicate"]
    tables: dict[str, np.ndarray] = {
        "bound32": columns.bound32[:numeric],
        "column_piece": cut.of_column.astype(np.int32),
        "piece_bound": cut.bound.astype(np.int32),
        "piece_row": cut.row.astype(np.int32),
    }
    if canonical.forest.input_dtype == "float64":
        tables["bound64"] = columns.bound64[:numeric]
    scalars = {
        "first_predicate": first_predicate,
        "n_mask_rows": first_predicate + predicate_rows(canonical),
    }
    if canonical.has_categories:
        sets = _category_sets(canonical)
        tables |= {
            "rank_column": sets.rank_column,
            "rank_number": sets.rank_number,
            "member_offset": sets.member_offset,
            "member": sets.member,
            "set_flip": np.where(sets.of_right, np.uint64(2**64 - 1), np.uint64(0)),
        }
        scalars |= {"n_sets": len(sets.of_right), "n_ranks": len(sets.rank_column)}
        scalars["first_rank"] = scalars["n_mask_rows"]
        scalars["n_mask_rows"] += len(sets.rank_column)
    return trees | Layout(scalars, tables, {}, frozenset())


def _table(circuit: _Circuit) -> Layout:
    tables = {"operation_offset": circuit.offset.astype(np.int32), "operation": circuit.operations}
    first = FIRST + circuit.bits + 2 * circuit.n_temporary
    return Layout({"first_predicate": first}, tables, {"bits": circuit.bits}, frozenset())


def _padded(canonical: Canonical, depth: int) -> Layout:
    """The trees as perfect heaps of mask rows: the root at 1, the children of i at 2 i and 2 i + 1."""
    first = FIRST + depth + (LOOPED_DEPTH * 2 ** (depth - LOOPED_DEPTH) if depth > LOOPED_DEPTH else 0)
    node = heap(canonical)[0]
    rows = np.where(canonical.forest.kind[node] == LEAF, ZEROS, first + _predicates(canonical)[node])
    rows = np.pad(rows, ((0, 0), (1, 0))).astype(np.uint16)
    return Layout({"first_predicate": first}, {"heap_row": rows.reshape(-1)}, {"bits": depth}, frozenset({"perfect"}))


@dataclass(frozen=True)
class _CategorySets:
    """Distinct category sets, each as the ranks on one side of it: those that go right, or those that go left,
    whichever are fewer.

    Args:
        rank_column, rank_number: int32: the ranks that occur in a set.
        member_offset: (S + 1,) int32 into ``member``.
        member: int32 indices of such ranks.
        of_right: (S,) bool: the members go right.
    """

    rank_column: np.ndarray
    rank_number: np.ndarray
    member_offset: np.ndarray
    member: np.ndarray
    of_right: np.ndarray


def _category_sets(canonical: Canonical) -> _CategorySets:
    columns = canonical.columns
    at = np.flatnonzero(canonical.node_bitset >= 0)
    words, index = np.unique(canonical.node_bitset[at], return_index=True)
    column = canonical.node_column[at[index]].astype(np.int64)
    n_ranks = np.diff(columns.bound_offset)[column] + 2  # the last one is a missing value's
    owners, ranks = [], []
    of_right = np.zeros(len(words), bool)
    for c in np.unique(column):
        sets = np.flatnonzero(column == c)
        n = int(n_ranks[sets[0]])
        bits = canonical.bitset[words[sets, None] + np.arange(-(-n // 32))].astype("<u4")
        right = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")[:, :n].view(bool)
        of_right[sets] = right.sum(1) * 2 < n
        owner, rank = np.nonzero(right == of_right[sets, None])
        owners.append(sets[owner])
        ranks.append(rank)
    owner, rank = np.concatenate(owners), np.concatenate(ranks)
    order = np.argsort(owner, kind="stable")
    owner, rank = owner[order], rank[order]
    used, member = np.unique((column[owner] << 32) + rank, return_inverse=True)
    return _CategorySets(
        rank_column=(used >> 32).astype(np.int32),
        rank_number=(used & (2**32 - 1)).astype(np.int32),
        member_offset=np.searchsorted(owner, np.arange(len(words) + 1)).astype(np.int32),
        member=member.reshape(-1).astype(np.int32),
        of_right=of_right,
    )


def positions(canonical: Canonical, layout: Layout) -> np.ndarray:
    """(T * 2**bits,) int64: the IR's leaf with each leaf number; -1: none."""
    forest, bits = canonical.forest, layout.constants["bits"]
    if "perfect" in layout.flags:
        return heap(canonical)[1][:, ::-1].reshape(-1)
    depth = node_depth(forest)
    levels = [np.flatnonzero((depth == d) & (forest.kind != LEAF)) for d in range(canonical.max_depth)]
    number = _leaf_numbers(canonical, levels, bits)
    out = np.full(forest.n_trees << bits, -1, np.int64)
    leaves = np.flatnonzero(forest.kind == LEAF)
    out[(tree_of_node(forest)[leaves] << bits) + number[leaves]] = leaves
    return out
