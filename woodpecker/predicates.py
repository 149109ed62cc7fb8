"""Canonical form: every split of every source library as one of two exact tests.

For float32 or float64 rows alike, a numeric split becomes ``goes right iff not (v <= bound)`` on a *column*: a
(feature, missing rule, fill) whose missing values were replaced, so that the test needs no case for them: by 0.0 where
every split of the feature sends them where it sends 0.0 (LightGBM's missing type "none"), else by -inf where they go
left and by NaN where they go right. ``rank(v) = #{bound < v}`` over the sorted distinct bounds of
a column turns the same test into ``rank > k``.

A categorical column is ranked the same way: a category is an interval of values (all that truncate to it), so its
bounds are ends of such intervals, and a split is a set of ranks, a bit per rank, with one rank more for missing.

Bounds are exact: for a float32 row, ``x <= t`` with a float64 ``t`` is ``x <= round_down_to_float32(t)``; rounding to
nearest misroutes half of the splits between adjacent floats (treelite #98 and #115, m2cgen #188).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import UnsupportedModelError
from .forest import IN, LEAF, LT, MISSING_ZERO, Forest, leaf_depth, tree_depth, tree_leaves

MAX_BITSET_WORDS = 2**26
PIECE_BITS = 2**26


@dataclass(frozen=True)
class Columns:
    """C columns: the numeric ones first, then the categorical ones.

    Args:
        feature: (C,) int32.
        zero_missing: (C,) bool: |x| <= ZERO_BAND is missing too.
        fill: (C,) float32: what a missing value is replaced by: 0.0, -inf or NaN; unused for categorical columns,
            whose bitsets say where it goes.
        n_numeric: How many columns are numeric.
        bound_offset: (C + 1,) int64 into the bounds.
        bound64, bound32: Ascending bounds of each column, for float64 and for float32 rows.
    """

    feature: np.ndarray
    zero_missing: np.ndarray
    fill: np.ndarray
    n_numeric: int
    bound_offset: np.ndarray
    bound64: np.ndarray
    bound32: np.ndarray

    def __len__(self) -> int:
        return len(self.feature)


@dataclass(frozen=True)
class Canonical:
    """A forest whose splits are tests on columns.

    Args:
        forest: Where it comes from; topology and leaves are unchanged.
        columns: See `Columns`.
        node_column: (N,) int32; -1 at leaves.
        node_bound: (N,) int64, index into the bounds of a numeric node; -1 elsewhere.
        node_bitset: (N,) int32, first word of a categorical node's bitset; -1 elsewhere.
        bitset: uint32 words; bit r of a node's bitset: rank r goes right. A missing value has rank n_bounds + 1.
        n_predicates: Distinct tests in the forest.
        depth: (T,) int32 depth of each tree.
        leaf_depth: Mean and standard deviation of the depth that rows reach; see `woodpecker.forest.leaf_depth`.
    """

    forest: Forest
    columns: Columns
    node_column: np.ndarray
    node_bound: np.ndarray
    node_bitset: np.ndarray
    bitset: np.ndarray
    n_predicates: int
    depth: np.ndarray
    leaf_depth: tuple[np.ndarray, np.ndarray]

    @property
    def max_depth(self) -> int:
        return int(self.depth.max(initial=0))

    @property
    def leaf_bits(self) -> int:
        """Bits that number the leaves of any tree."""
        return max(1, int(tree_leaves(self.forest).max(initial=1) - 1).bit_length())

    @property
    def has_categories(self) -> bool:
        return self.columns.n_numeric < len(self.columns)


def round_down(bound: np.ndarray) -> np.ndarray:
    """The largest float32 not above each float64: ``x <= bound`` is ``x <= round_down(bound)`` for every float32 x."""
    with np.errstate(over="ignore"):
        nearest = bound.astype(np.float32)
        return np.where(nearest > bound, np.nextafter(nearest, np.float32(-np.inf)), nearest)


def canonicalise(forest: Forest) -> Canonical:
    """Bring a verified forest into canonical form.

    Raises:
        UnsupportedModelError: its category sets need more than 256 MiB of bitsets.
    """
    inner = forest.kind != LEAF
    # `v < -inf` sends every value right, -inf too, which no bound expresses; an empty category set does.
    never = (forest.kind == LT) & (forest.threshold == -np.inf)
    categorical = (forest.kind == IN) | never
    numeric = inner & ~categorical
    zero = forest.missing == MISSING_ZERO

    nodes = np.flatnonzero(numeric)
    with np.errstate(over="ignore"):  # below the smallest float64 lies -inf
        bound = np.where(forest.kind == LT, np.nextafter(forest.threshold, -np.inf), forest.threshold)[nodes]
    bound = _fold_zero_band(bound, forest.zero_band) + 0.0  # -0.0 and 0.0 are one bound

    # (categorical, zero rule, fill, feature) as one number: its order is that of the columns, so that columns of
    # neighbouring features are neighbours.
    group = forest.feature.astype(np.int64) * 2 + zero
    rule = categorical * 8 + zero * 4
    rule[nodes] += _fills(group[nodes], forest.default_left[nodes], bound)
    key = rule * forest.n_features + forest.feature
    keys, inverse = np.unique(key[inner], return_inverse=True)
    node_column = np.full(forest.n_nodes, -1, np.int32)
    node_column[inner] = inverse.reshape(-1)
    n_numeric = int((keys < 8 * forest.n_features).sum())
    rule, feature = np.divmod(keys, max(forest.n_features, 1))

    bounds: list[np.ndarray] = []
    node_bound = np.full(forest.n_nodes, -1, np.int64)
    if n_numeric:
        order = np.lexsort((bound, node_column[nodes]))
        column, bound = node_column[nodes][order], bound[order]
        first = np.ones(len(nodes), bool)
        first[1:] = (column[1:] != column[:-1]) | (bound[1:] != bound[:-1])
        node_bound[nodes[order]] = np.cumsum(first) - 1
        counts = np.bincount(column[first], minlength=n_numeric)
        bounds = np.split(bound[first], np.cumsum(counts)[:-1])
    node_bitset = np.full(forest.n_nodes, -1, np.int32)
    words: list[np.ndarray] = [np.zeros(1, np.uint32)]  # word 0 is read, and ignored, at numeric nodes
    n_words = 1
    n_sets = 0
    by_column = np.argsort(node_column, kind="stable")
    starts = np.searchsorted(node_column[by_column], np.arange(n_numeric, len(keys) + 1))
    for c, begin, end in zip(range(n_numeric, len(keys)), starts[:-1], starts[1:], strict=True):
        nodes = by_column[begin:end]
        edges, part = _bitsets(forest, int(feature[c]), nodes, never[nodes])
        bounds.append(edges)
        distinct, row = np.unique(part, axis=0, return_inverse=True)
        if n_words + distinct.size > MAX_BITSET_WORDS:
            raise _too_many_categories(int(feature[c]))
        node_bitset[nodes] = n_words + row.reshape(-1) * part.shape[1]
        words.append(distinct.reshape(-1))
        n_words += distinct.size
        n_sets += len(distinct)
    bound64 = np.concatenate([*bounds, np.zeros(0)])
    columns = Columns(
        feature=feature.astype(np.int32),
        zero_missing=(rule & 4) != 0,
        fill=_FILLS[rule & 3],
        n_numeric=n_numeric,
        bound_offset=np.cumsum([0] + [len(b) for b in bounds], dtype=np.int64),
        bound64=bound64,
        bound32=round_down(bound64),
    )
    return Canonical(
        forest=forest,
        columns=columns,
        node_column=node_column,
        node_bound=node_bound,
        node_bitset=node_bitset,
        bitset=np.concatenate(words),
        n_predicates=int(columns.bound_offset[n_numeric]) + n_sets,
        depth=tree_depth(forest),
        leaf_depth=leaf_depth(forest),
    )


_FILLS = np.array([np.nan, -np.inf, 0.0], np.float32)


def _fills(group: np.ndarray, default_left: np.ndarray, bound: np.ndarray) -> np.ndarray:
    """The index in `_FILLS` for each numeric node, nodes of a (feature, zero rule) being one group."""
    groups, of = np.unique(group, return_inverse=True)
    unlike_zero = np.bincount(of, default_left != (bound >= 0), minlength=len(groups)) > 0
    return np.where(unlike_zero[of], default_left, 2)


def _fold_zero_band(bound: np.ndarray, band: float) -> np.ndarray:
    """Bounds for unchanged rows that decide as ``bound`` does on rows whose ``|v| <= band`` were set to 0.0."""
    if band == 0.0:
        return bound
    bound = np.where((bound >= -band) & (bound < 0), np.nextafter(-band, -np.inf), bound)
    return np.where((bound >= 0) & (bound < band), band, bound)


def _intervals(values: np.ndarray, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """(below, last): category v is every x with ``below < x <= last``."""
    if rule == "exact":
        return np.nextafter(values, -np.inf), values
    below = np.nextafter(values, -np.inf)
    if rule == "truncate":  # (-1, 1) truncates to 0
        below = np.where(values == 0, -1.0, below)
    return below, np.nextafter(values + 1, -np.inf)


def _bitsets(forest: Forest, feature: int, nodes: np.ndarray, never: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of a categorical column, and a (len(nodes), words) uint32 row of bits per node."""
    sets = forest.category_set[nodes]
    start = np.where(never, 0, forest.set_offset[sets])
    size = np.where(never, 0, forest.set_offset[sets + 1] - forest.set_offset[sets])
    owner = np.repeat(np.arange(len(nodes)), size)
    member = forest.set_values[np.repeat(start - np.cumsum(size) + size, size) + np.arange(size.sum())]
    exact = forest.category_rule == "exact" and feature in forest.known_categories
    known = forest.known_categories[feature] if exact else np.unique(member)
    below, last = (_fold_zero_band(b, forest.zero_band) + 0.0 for b in _intervals(known, forest.category_rule))
    edges = np.unique(np.concatenate([below, last]))
    rank = np.searchsorted(edges, below, side="right")
    occurs = below < last  # not so for a category within the zero band, whose values are all read as 0.0
    missing = len(edges) + 1
    n_words = missing // 32 + 1
    if len(nodes) * n_words > MAX_BITSET_WORDS:
        raise _too_many_categories(feature)
    default_right = ~forest.default_left[nodes]
    which = np.searchsorted(known, member)
    owner, left_rank = owner[occurs[which]], rank[which[occurs[which]]]
    bits = np.empty((len(nodes), n_words), np.uint32)
    piece = max(1, PIECE_BITS // (32 * n_words))  # while it is built, a bit takes a byte
    for begin in range(0, len(nodes), piece):
        end = min(begin + piece, len(nodes))
        right = np.ones((end - begin, n_words * 32), bool)
        if exact:  # a value that is no known category is missing, unless never < it
            right[:] = (default_right | never)[begin:end, None]
            right[:, rank[occurs]] = True
        right[:, missing] = default_right[begin:end]
        a, b = np.searchsorted(owner, [begin, end])
        right[owner[a:b] - begin, left_rank[a:b]] = False
        bits[begin:end] = np.packbits(right, axis=1, bitorder="little").view("<u4")
    return edges, bits


def _too_many_categories(feature: int) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the category sets of feature {feature} need more than 256 MiB of bitsets; train with fewer categories"
    )
