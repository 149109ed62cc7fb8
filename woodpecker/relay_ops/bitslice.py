"""bitslice: 512 rows at once, a bit each; every distinct test is computed once, and trees are Boolean circuits.

    for each distinct predicate q:   mask[q] = a bit per row: does the row go left there?
    for each tree, from the deepest level up, for each node and each bit of the leaf number:
        bit[node] = mask[q] ? bit[left] : bit[right]              # right ^ (mask & (left ^ right)), on all rows
    leaf number = the bits at the root

Equal predicates are shared between nodes and trees: a 500-tree model of 98,358 splits over 28 features has 7,104. A
tree's circuit is a run of multiplexers in a table, four 16-bit row numbers each (select, left, right, result), so
the code does not depend on the trees: see `circuit`.

Trees of at most PERFECT_DEPTH levels may be padded to perfect ones instead (`perfect`): then the multiplexers are the
same for every tree, only the masks differ, and what lies between the masks and the leaf number stays in registers, but
for the bits of subtrees of LOOPED_DEPTH levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..forest import LEAF, tree_leaves
from ..layout import Layout
from ..predicates import Canonical
from . import category_sets, numbered, set_masks
from .circuit import FIRST, MAX_ROWS, ZEROS, circuit, operations
from .options import Option, no_power_of_two
from .perfect_tree_traversal import heap
from .predicate import columns_ns
from .vectors import AVX2, NARROW, NONE, VBMI, WIDE

NAME = "bitslice"
OPTIONS = {
    "min_rows": Option(0, 0, 512, "fewest rows it serves, others serve fewer; 1: all; 0: by estimated cost"),
    "rows": Option(512, 128, 512, "rows of a block, a power of two"),
}
TABLE_OPTIONS: tuple[str, ...] = ()

ROWS = 512
RANKS = 255
"""Bounds that are searched at once: eight levels of a search tree."""
MIN_RANKED = 10
"""Fewer bounds than this are compared one by one faster than they are searched."""

CACHE_BYTES = 3 * 2**18
"""Beyond this the mask matrix does not stay in the second-level cache beside the rest."""
SET_NS, MEMBER_NS = 2.0, 0.09
"""Measured, per block: the mask of a category set, and the part of it that each rank of its column costs."""

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

BLOCKS = (128, 256)
"""Blocks of fewer rows, which cost more a row and less a call."""


@dataclass(frozen=True)
class Speed:
    """What was measured of a block, by the vectors that the target has.

    Args:
        trees, masks: Factors of the estimates for the best vectors.
        leaf: ns for a tree and a row: a bit of the leaf number; a byte of a leaf value that is looked up; a value that
            is loaded. None: 512-bit vectors look up all.
        narrow: What blocks of BLOCKS cost, as parts of what ROWS rows do: trees; leaf numbers and values; masks.
    """

    trees: float
    masks: float
    leaf: tuple[float, float, float] | None
    narrow: tuple[tuple[float, float, float], ...]


SPEEDS = {
    VBMI: Speed(1.0, 1.0, None, ((0.65, 0.2, 0.7), (0.7, 0.4, 0.95))),
    WIDE: Speed(1.2, 1.2, (0.026, 0.0, 0.16), ((0.5, 0.25, 0.6), (0.6, 0.5, 0.9))),
    AVX2: Speed(1.5, 1.3, (0.06, 0.04, 0.25), ((0.5, 0.26, 0.56), (0.75, 0.5, 0.77))),
    NARROW: Speed(2.9, 1.4, (0.106, 0.04, 0.38), ((0.3, 0.26, 0.5), (0.52, 0.5, 0.68))),
    NONE: Speed(9.0, 3.0, (0.3, 0.05, 1.0), ((0.26, 0.25, 0.4), (0.51, 0.5, 0.6))),
}
"""Measured with code for x86-64-v4, -v3 and -v2, which instruction counts of 64-bit ARM agree with; without vectors,
instruction counts of RISC-V."""
MAX_BITS = 12
MAX_RANKS = 2**20


def applicable(canonical: Canonical, options: Mapping[str, int]) -> str | None:
    if refusal := no_power_of_two("rows", options):
        return refusal
    leaves = int(tree_leaves(canonical.forest).max(initial=1))
    if leaves > 2**MAX_BITS:
        return f"a tree of {leaves:,} leaves needs more than {MAX_BITS} bits a leaf number"
    if refusal := numbered.too_large(canonical):
        return refusal
    rows = predicate_rows(canonical)
    if rows > MAX_ROWS // 2:
        return f"{canonical.n_predicates:,} distinct predicates need {rows:,} rows; the limit is {MAX_ROWS // 2:,}"
    if (ranks := _n_ranks(canonical)) > MAX_RANKS:
        return f"the categorical columns have {ranks:,} ranks; the limit is {MAX_RANKS:,}"
    return None


def choose(canonical: Canonical, options: Mapping[str, int]) -> dict[str, int]:
    return {**options}


def space(canonical: Canonical) -> dict[str, tuple[int, ...]]:
    return {"rows": (*BLOCKS, ROWS)}


def cost(canonical: Canonical, rows: int, vectors: str, block_rows: int = ROWS) -> float:
    """Estimated ns per row, of a whole block's cost."""
    speed, padded = SPEEDS[vectors], perfect(canonical)
    trees = PADDED_NS * canonical.forest.n_trees * 2.0**padded if padded else OPERATION_NS * operations(canonical)
    cut = _cut(canonical.columns.bound_offset.astype(np.int64))  # those of categories are searched too
    counts = np.diff(cut.bound)
    searched = counts[cut.ranked]
    masks = SEARCH_NS * float(np.ceil(np.log2(searched + 1)).sum()) + RANK_NS * int(searched.sum())
    masks += COMPARE_NS * int(counts[~cut.ranked].sum())
    if sets := _n_sets(canonical):
        ranks = np.diff(canonical.columns.bound_offset)[canonical.columns.n_numeric :]
        masks += sets * (SET_NS + MEMBER_NS * float(ranks.mean()))
    if predicate_rows(canonical) * 64 > CACHE_BYTES:
        masks *= 1.5
    of_trees, of_leaves, of_masks = dict(zip(BLOCKS, speed.narrow, strict=True)).get(block_rows, (1.0, 1.0, 1.0))
    leaves = canonical.forest.n_trees * _leaf_ns(canonical, speed)
    block = speed.trees * trees * of_trees + leaves * of_leaves + speed.masks * (masks + ROW_NS * ROWS) * of_masks
    return block / min(max(rows, 1), block_rows) + columns_ns(canonical, tiled=True)


def _leaf_ns(canonical: Canonical, speed: Speed) -> float:
    """Estimated ns of a tree's leaf numbers and values, for a block."""
    values, bits = canonical.forest.values, canonical.leaf_bits
    if bits > 8 or canonical.forest.vector_leaves:
        return ROWS * (0.4 + 0.2 * values.shape[1])
    if speed.leaf is None:
        return 10.0 + (9.0 if bits <= 6 else 13.0) * values.dtype.itemsize
    bit, byte, load = speed.leaf
    return ROWS * (bit * bits + (byte * values.dtype.itemsize if bits <= 6 else load))


def perfect(canonical: Canonical) -> int:
    """The depth that all trees are padded to, or 0: they are circuits."""
    depth = canonical.max_depth
    if not 0 < depth <= PERFECT_DEPTH:
        return 0
    return depth if PADDED_NS * canonical.forest.n_trees * 2.0**depth <= OPERATION_NS * operations(canonical) else 0


def _predicates(canonical: Canonical, places: set_masks.Slots) -> np.ndarray:
    """(N,) int64: the mask row, from the first predicate's, of each inner node's test; meaningless at leaves."""
    cut = pieces(canonical)
    # From a bound to its row: rows run ahead of bounds by one for each ranked piece before.
    ahead = np.repeat(cut.row[:-1] - cut.bound[:-1], np.diff(cut.bound))
    categorical = canonical.node_bitset >= 0
    words = np.unique(canonical.node_bitset[categorical])
    numeric = np.where(categorical, 0, canonical.node_bound)
    predicate = numeric + (ahead[numeric] if len(ahead) else 0)
    predicate[categorical] = cut.row[-1] + places.row[np.searchsorted(words, canonical.node_bitset[categorical])]
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
    return _cut(columns.bound_offset[: columns.n_numeric + 1].astype(np.int64))


def _cut(offset: np.ndarray) -> Pieces:
    """The pieces of columns by the first bound of each, and the end."""
    of_column = np.concatenate([[0], np.cumsum(-(-np.diff(offset) // RANKS))])
    column = np.repeat(np.arange(len(offset) - 1), np.diff(of_column))
    first = offset[column] + RANKS * (np.arange(of_column[-1]) - of_column[column])
    bound = np.append(first, offset[-1])
    ranked = np.diff(bound) >= MIN_RANKED
    row = np.concatenate([[0], np.cumsum(np.diff(bound) + ranked)])
    return Pieces(of_column, bound, row, ranked)


def predicate_rows(canonical: Canonical) -> int:
    """Mask rows of all predicates: those of the columns' bounds, and one for each distinct category set."""
    return int(pieces(canonical).row[-1]) + _n_sets(canonical)


def _n_ranks(canonical: Canonical) -> int:
    """Ranks of all categorical columns, of each of which a set may need the mask; the last is a missing value's."""
    return int(category_sets.rank_counts(canonical)[canonical.columns.n_numeric :].sum())


def _n_sets(canonical: Canonical) -> int:
    return canonical.n_predicates - int(canonical.columns.bound_offset[canonical.columns.n_numeric])


def prepare(canonical: Canonical, options: Mapping[str, int]) -> tuple[Layout, np.ndarray]:
    """Bounds of the predicates, and the circuits; positions (T * 2**bits,)."""
    columns = canonical.columns
    places = set_masks.slots(canonical)
    predicates = _predicates(canonical, places)
    depth = perfect(canonical)
    trees, positions = _padded(canonical, predicates, depth) if depth else _table(canonical, predicates)
    numeric, cut = int(columns.bound_offset[columns.n_numeric]), pieces(canonical)
    first = trees.scalars["first_predicate"]
    tables: dict[str, np.ndarray] = {
        "bound32": columns.bound32[:numeric],
        "column_piece": cut.of_column,
        "piece_bound": cut.bound,
        "piece_row": first + cut.row,
    }
    if canonical.forest.input_dtype == "float64":
        tables["bound64"] = columns.bound64[:numeric]
    scalars = {"n_mask_rows": first + int(cut.row[-1]) + places.count}
    made = Layout(scalars, tables, {}, frozenset())
    if canonical.has_categories:
        made |= _of_sets(canonical, places, made, first + int(cut.row[-1]))
    whole = {name: made.tables[name].astype(np.int32) for name in ("column_piece", "piece_bound", "piece_row")}
    return trees | made | Layout({}, whole, {}, frozenset()), positions


def _of_sets(canonical: Canonical, places: set_masks.Slots, numeric: Layout, first: int) -> Layout:
    """What category sets add to the tables of the numeric columns: the categorical columns are columns of bounds too,
    infinity the last of each, whose missing values exceed it; and what their masks are added up to."""
    columns, tables = canonical.columns, numeric.tables
    ranks = columns.bound_offset[columns.n_numeric :].astype(np.int64)
    cut = _cut(ranks - ranks[0] + np.arange(len(ranks)))
    begin = numeric.scalars["n_mask_rows"]
    rows = np.repeat(begin + cut.row[:-1] - cut.bound[:-1], np.diff(cut.bound)) + np.arange(cut.bound[-1])
    of_column = np.split(rows, cut.bound[cut.of_column[1:-1]])
    added = set_masks.sums(canonical, places, first, of_column, begin + int(cut.row[-1]))
    more = {
        "column_piece": np.append(tables["column_piece"][:-1], tables["column_piece"][-1] + cut.of_column),
        "piece_bound": np.append(tables["piece_bound"][:-1], tables["piece_bound"][-1] + cut.bound),
        "piece_row": np.append(tables["piece_row"][:-1], begin + cut.row),
        "column_fill": np.append(columns.fill[: columns.n_numeric], np.full(len(ranks) - 1, np.nan, np.float32)),
        "sum_offset": added.offset,
        "sum_run": added.run,
        "sum_term": added.term,
    }
    for name in ("bound32", "bound64"):
        if name in tables:
            own = getattr(columns, name)[ranks[0] : ranks[-1]]
            more[name] = np.append(tables[name], np.insert(own, ranks[1:] - ranks[0], np.inf))
    scalars = {"n_numeric": len(columns), "n_mask_rows": begin + int(cut.row[-1]) + added.rows}
    return Layout(scalars, more, {}, frozenset())


def _table(canonical: Canonical, predicates: np.ndarray) -> tuple[Layout, np.ndarray]:
    found = circuit(canonical, predicates, predicate_rows(canonical))
    tables = {"operation_offset": found.offset.astype(np.int32), "operation": found.operations}
    first = FIRST + found.bits + found.n_temporary
    layout = Layout({"first_predicate": first}, tables, {"bits": found.bits}, frozenset())
    return layout, numbered.positions(canonical, found.number)


def _padded(canonical: Canonical, predicates: np.ndarray, depth: int) -> tuple[Layout, np.ndarray]:
    """The trees as perfect heaps of mask rows: the root at 1, the children of i at 2 i and 2 i + 1."""
    first = FIRST + depth + (LOOPED_DEPTH * 2 ** (depth - LOOPED_DEPTH) if depth > LOOPED_DEPTH else 0)
    node, leaves = heap(canonical)
    rows = np.where(canonical.forest.kind[node] == LEAF, ZEROS, first + predicates[node])
    rows = np.pad(rows, ((0, 0), (1, 0))).astype(np.uint16)
    tables = {"heap_row": rows.reshape(-1)}
    layout = Layout({"first_predicate": first}, tables, {"bits": depth}, frozenset({"perfect"}))
    return layout, leaves[:, ::-1].reshape(-1)
