"""Forests that are made, not trained: any number of trees, leaves and features in a moment.

Rows are uniform on [0, 1), and every split halves its region, so each goes either way with the same chance. There is no
library behind them; answers are compared with `woodpecker.reference`.
"""

from __future__ import annotations

import numpy as np

from woodpecker.forest import IN, LEAF, LT, Forest
from woodpecker.verify import verify

BINS = 256
"""Thresholds of a feature, as histograms of XGBoost and LightGBM have them."""
CHUNK = 256
"""Trees that grow together, so that no more memory is in use than the forest itself needs."""
CATEGORIES = 32
FREQUENT = 0.99
"""Share of the values of a skewed row that are those of the common row."""


def forest(trees: int, leaves: int, features: int, *, leaf_wise: bool = True, seed: int = 1) -> Forest:
    """A float32 regression forest in XGBoost's manner.

    Args:
        trees: Their number.
        leaves: Leaves of every tree, 2 or more.
        features: Columns of X.
        leaf_wise: True: any leaf may be split next, as in LightGBM, so that depths differ: twice the binary logarithm
            in the mean, and more. False: level by level, so that 2**d leaves make a perfect tree.
        seed: Of everything drawn.
    """
    rng = np.random.default_rng(seed)
    parts = [_grow(min(CHUNK, trees - t), leaves, features, leaf_wise, rng) for t in range(0, trees, CHUNK)]
    kind, feature, threshold, left, cover = (np.concatenate([p[i] for p in parts]).reshape(-1) for i in range(5))
    nodes = 2 * leaves - 1
    is_leaf = kind == LEAF
    leaf = np.where(is_leaf, np.cumsum(is_leaf) - 1, -1).astype(np.int32)
    n = len(kind)
    return verify(
        Forest(
            tree_offset=np.arange(trees + 1, dtype=np.int64) * nodes,
            tree_output=np.zeros(trees, np.int32),
            kind=kind,
            feature=feature,
            threshold=threshold,
            missing=np.zeros(n, np.uint8),
            default_left=np.zeros(n, bool),
            left=left,
            right=np.where(is_leaf, 0, left + 1).astype(np.int32),
            category_set=np.full(n, -1, np.int32),
            set_offset=np.zeros(1, np.int64),
            set_values=np.zeros(0),
            leaf=leaf,
            leaf_id=np.where(is_leaf, np.tile(np.arange(nodes), trees), -1).astype(np.int32),
            values=rng.normal(size=(trees * leaves, 1)).astype(np.float32),
            n_features=features,
            base_score=np.array([0.5], np.float32),
            cover=cover,
            source={"library": "generated"},
        )
    )


def _grow(trees: int, leaves: int, features: int, leaf_wise: bool, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """(kind, feature, threshold, left, cover), each (trees, nodes). Step k splits one leaf of every tree; its children
    are nodes 2k + 1 and 2k + 2."""
    nodes = 2 * leaves - 1
    each = np.arange(trees)
    kind = np.full((trees, nodes), LEAF, np.uint8)
    feature = np.zeros((trees, nodes), np.int32)
    threshold = np.zeros((trees, nodes))
    left = np.zeros((trees, nodes), np.int32)
    parent = np.zeros((trees, nodes), np.int32)
    cover = np.ones((trees, nodes))
    open_leaves = np.zeros((trees, leaves), np.int32)
    for k in range(leaves - 1):
        at = rng.integers(0, k + 1, trees) if leaf_wise else np.full(trees, k)
        node = open_leaves[each, at] if leaf_wise else at
        column = rng.integers(0, features, trees).astype(np.int32)
        low, high = _region(node, column, feature, threshold, left, parent)
        first = 2 * k + 1
        kind[each, node], feature[each, node], left[each, node] = LT, column, first
        # A threshold off the exact middle, for trees share few thresholds; and on the grid of the bins.
        middle = low + (high - low) * rng.uniform(0.45, 0.55, trees)
        threshold[each, node] = np.round(middle * BINS) / BINS
        parent[:, first], parent[:, first + 1] = node, node
        cover[:, first] = cover[:, first + 1] = cover[each, node] / 2
        open_leaves[each, at], open_leaves[:, k + 1] = first, first + 1
    return kind, feature, threshold, left, cover * 2.0**40


def _region(
    node: np.ndarray,
    column: np.ndarray,
    feature: np.ndarray,
    threshold: np.ndarray,
    left: np.ndarray,
    parent: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """(trees,) each: the bounds of a column at one node of every tree, by its splits above."""
    each = np.arange(len(node))
    low, high = np.zeros(len(node)), np.ones(len(node))
    below = node
    while (below > 0).any():
        above = parent[each, below]
        same = (below > 0) & (feature[each, above] == column)
        bound, is_left = threshold[each, above], left[each, above] == below
        high = np.where(same & is_left, np.minimum(high, bound), high)
        low = np.where(same & ~is_left, np.maximum(low, bound), low)
        below = np.where(below > 0, above, 0)
    return low, high


def both_ways(plain: Forest, seed: int) -> Forest:
    """The same trees, but each split draws the way of a missing value."""
    draws = np.random.default_rng([seed, 3]).random(plain.n_nodes) < 0.5
    return verify(plain.replace(default_left=draws & (plain.kind != LEAF)))


def with_categories(plain: Forest, X: np.ndarray, seed: int) -> tuple[Forest, np.ndarray]:
    """The same trees, and rows for them, but every seventh feature is categorical: each split on it draws half of
    CATEGORIES, which the rows' values become."""
    rng = np.random.default_rng([seed, 4])
    chosen = (plain.kind != LEAF) & (plain.feature % 7 == 0)
    n_sets, half = int(chosen.sum()), CATEGORIES // 2
    values = np.argsort(rng.random((n_sets, CATEGORIES)), axis=1)[:, :half]
    sets = np.full(plain.n_nodes, -1, np.int32)
    sets[chosen] = np.arange(n_sets)
    forest = plain.replace(
        kind=np.where(chosen, np.uint8(IN), plain.kind),
        threshold=np.where(chosen, 0.0, plain.threshold),
        category_set=sets,
        set_offset=np.arange(n_sets + 1, dtype=np.int64) * half,
        set_values=np.sort(values, axis=1).reshape(-1).astype(np.float64),
        category_rule="truncate_nonnegative",
    )
    rows = X.copy()
    rows[:, ::7] = np.floor(X[:, ::7] * CATEGORIES)
    return verify(forest), rows


def balanced_rows(n: int, features: int, seed: int) -> np.ndarray:
    """(n, features) float32: each split sends half of them to either side."""
    return np.random.default_rng([seed, 1]).random((n, features), np.float32)


def skewed_rows(n: int, features: int, seed: int) -> np.ndarray:
    """(n, features) float32: nearly all take one path in every tree, that of one common row."""
    rng = np.random.default_rng([seed, 2])
    common = rng.random(features, np.float32)
    X = rng.random((n, features), np.float32)
    return np.where(rng.random((n, features), np.float32) < FREQUENT, common, X)
