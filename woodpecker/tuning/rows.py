"""Representative rows: the user's, or rows that go through the trees as training rows did; and rows to check with."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from ..forest import LEAF, Forest, node_depth, tree_of_node
from ..predicates import Canonical
from ..runtime.rows import InputSpec, read_rows

MAX_BYTES = 2**28
"""Rows beyond this do not fit beside a large model; there are fewer of them then."""
CHUNK = 1024
TREES_A_CHUNK = 24
"""Trees whose paths a chunk of rows is drawn to follow: beyond, the intervals hold one gap between bounds each."""

LARGEST = 1e37
"""Sampled values stay below, which a float32 holds, whatever a bound is."""
SPECIAL = np.array([0.0, -0.0, np.nan, 5e-324, -5e-324, 1e-40, 1e-35, -1e-35, 1.0, -1.0, -0.5, 1e30, -1e30])


def rows_that_fit(n: int, n_features: int) -> int:
    return int(max(16, min(n, MAX_BYTES // (8 * n_features))))


def sampled(canonical: Canonical, n: int, seed: int, dtype: str) -> np.ndarray:
    """(n, n_features) rows: each is drawn along root-to-leaf paths of several trees.

    At a node, a row takes the left child with the child's share of the training cover, or of the leaves below where
    the model has no cover, unless a path before has decided that test already. What the paths leave open is drawn
    evenly from the gaps between the feature's bounds.
    """
    rng = np.random.default_rng([seed, 1])
    share = _left_share(canonical)
    X = np.zeros((n, canonical.forest.n_features), dtype)
    for begin in range(0, n, CHUNK):
        end = min(begin + CHUNK, n)
        _fill(canonical, share, X[begin:end], rng)
    return X


def _left_share(canonical: Canonical) -> np.ndarray:
    """(N,) the probability of the left child; meaningless at leaves."""
    forest = canonical.forest
    base = forest.tree_offset[:-1][tree_of_node(forest)]
    left, right = base + forest.left, base + forest.right
    if forest.cover is not None:
        weight = np.clip(np.nan_to_num(forest.cover), 1e-9, 1e18)
    else:
        depth = node_depth(forest)
        weight = (forest.kind == LEAF).astype(np.float64)
        for d in range(canonical.max_depth - 1, -1, -1):
            level = np.flatnonzero((depth == d) & (forest.kind != LEAF))
            weight[level] = weight[left[level]] + weight[right[level]]
    return weight[left] / (weight[left] + weight[right])


def _fill(canonical: Canonical, share: np.ndarray, X: np.ndarray, rng: np.random.Generator) -> None:
    forest, columns = canonical.forest, canonical.columns
    used, index = np.unique(columns.feature, return_inverse=True)
    n, every = len(X), np.arange(len(X))
    low, high = np.full((n, len(used)), -np.inf), np.full((n, len(used)), np.inf)
    rank = np.zeros((n, len(columns)), np.int64)
    for c in range(columns.n_numeric, len(columns)):
        bounds = columns.bound64[columns.bound_offset[c] : columns.bound_offset[c + 1]]
        rank[:, c] = rng.integers(0, len(bounds) + 1, n)
        value = np.append(bounds, bounds[-1:] + 1 if len(bounds) else [0.0])[rank[:, c]]
        low[:, index[c]], high[:, index[c]] = np.nextafter(value, -np.inf), value
    for t in rng.permutation(forest.n_trees)[:TREES_A_CHUNK]:
        base = int(forest.tree_offset[t])
        node = np.full(n, base)
        while len(at := every[forest.kind[node] != LEAF]):
            i = node[at]
            column = canonical.node_column[i]
            numeric = column < columns.n_numeric
            bound = columns.bound64[np.where(numeric, canonical.node_bound[i], 0)] if len(columns.bound64) else 0.0
            f = index[column]
            lo, hi = low[at, f], high[at, f]
            left = np.where(hi <= bound, True, np.where(lo >= bound, False, rng.random(len(at)) < share[i]))
            word = np.maximum(canonical.node_bitset[i], 0) + (rank[at, column] >> 5)
            bit = canonical.bitset[np.where(numeric, 0, word)] >> (rank[at, column] & 31).astype(np.uint32) & 1
            left = np.where(numeric, left, bit == 0)
            high[at, f] = np.where(numeric & left, np.minimum(hi, bound), hi)
            low[at, f] = np.where(numeric & ~left, np.maximum(lo, bound), lo)
            node[at] = base + np.where(left, forest.left[i], forest.right[i])
    for k, feature in enumerate(used):
        X[:, feature] = _within(_bounds(canonical, int(feature)), low[:, k], high[:, k], rng)


def _bounds(canonical: Canonical, feature: int) -> np.ndarray:
    """Ascending, finite bounds of all columns of a feature."""
    columns = canonical.columns
    parts = [
        columns.bound64[columns.bound_offset[c] : columns.bound_offset[c + 1]]
        for c in np.flatnonzero(columns.feature == feature)
    ]
    bounds = np.unique(np.concatenate(parts))
    return bounds[np.isfinite(bounds)]


def _within(bounds: np.ndarray, low: np.ndarray, high: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A value of each interval (low, high], from the middle of one of the gaps between bounds in it."""
    if len(bounds) == 0:
        return np.zeros(len(low))
    bounds = np.clip(bounds, -LARGEST, LARGEST)
    span = max(float(bounds[-1] - bounds[0]), abs(float(bounds[0])), 1e-3) * 0.1
    edges = np.concatenate([[bounds[0] - span], bounds, [bounds[-1] + span]])
    first = np.searchsorted(bounds, low, "right")
    last = np.maximum(np.searchsorted(bounds, high, "left"), first)
    gap = first + (rng.random(len(low)) * (last - first + 1)).astype(np.int64)
    value = (edges[gap] + edges[gap + 1]) / 2
    return np.where(np.nextafter(low, np.inf) >= high, high, value)


def boundary(canonical: Canonical, X: np.ndarray, n: int, seed: int) -> np.ndarray:
    """(n, n_features) rows of X in which half of the values lie at a bound of their feature or next to it, and a tenth
    are special: signed zeros, NaN, denormals, huge numbers."""
    rng = np.random.default_rng([seed, 2])
    made = X[rng.integers(0, len(X), n)]
    scalar = made.dtype.type
    with np.errstate(over="ignore"):
        for feature in np.unique(canonical.columns.feature):
            bounds = _bounds(canonical, int(feature))
            if len(bounds) == 0:
                continue
            value = rng.choice(bounds, n).astype(made.dtype)
            step = rng.integers(0, 3, n)
            value = np.where(step == 1, np.nextafter(value, scalar(np.inf)), value)
            value = np.where(step == 2, np.nextafter(value, scalar(-np.inf)), value)
            made[:, feature] = np.where(rng.random(n) < 0.5, value, made[:, feature])
        made = np.where(rng.random(made.shape) < 0.1, rng.choice(SPECIAL, made.shape).astype(made.dtype), made)
    return np.ascontiguousarray(made)


def given(forest: Forest, data: Any, n: int, seed: int) -> np.ndarray:
    """Rows of the user: n of them, drawn without repetition where there are more, repeated where there are fewer.

    Args:
        forest: What the rows are for.
        data: Any kind of table that ``predict`` takes.
        n: How many.
        seed: Of the draw.

    Raises:
        InputError: they are no rows of this model, or there are none.
    """
    rows = read_rows(data, InputSpec.of_forest(forest))
    if rows.n == 0:
        raise InputError("the rows to tune with are empty")
    rng = np.random.default_rng([seed, 3])
    wanted = np.sort(rng.choice(rows.n, min(n, rows.n), replace=False))
    taken = [block[wanted[(wanted >= begin) & (wanted < end)] - begin] for begin, end, block in rows.blocks()]
    X = np.concatenate([np.array(part) for part in taken])
    return np.ascontiguousarray(X[np.arange(n) % len(X)])
