"""A slow, obvious numpy interpreter of the Forest IR: the oracle that every kernel is compared with.

It follows the pseudo-code of `woodpecker.forest` and shares nothing with the compiler: no canonical form, no ranks.
Rows are vectorised, trees and levels are Python loops.
"""

from __future__ import annotations

import numpy as np

from .forest import IN, LEAF, LT, MISSING_ZERO, ZERO_BAND, Forest, tree_slice


def cast(forest: Forest, X: np.ndarray) -> np.ndarray:
    """X as the source compares it: (n, n_features) of ``input_dtype``, missing values as NaN."""
    X = np.asarray(X)
    if X.dtype not in (np.float32, np.float64):
        X = X.astype(forest.integer_dtype)
    with np.errstate(over="ignore"):
        V = X.astype(forest.input_dtype)
    if not np.isnan(forest.missing_value):
        V[V.dtype.type(forest.missing_value) == V] = np.nan
    if forest.zero_band:
        V[np.abs(V.astype(np.float64)) <= forest.zero_band] = 0.0
    return V


def apply(forest: Forest, X: np.ndarray) -> np.ndarray:
    """(n, T) int32: the leaf of each row in each tree, numbered as the source library numbers it."""
    return forest.leaf_id[_leaf_nodes(forest, cast(forest, X))]


def predict_raw(forest: Forest, X: np.ndarray) -> np.ndarray:
    """(n, K) raw scores in the accumulator's dtype, summed one tree after the other."""
    V = cast(forest, X)
    nodes = _leaf_nodes(forest, V)
    with np.errstate(over="ignore", invalid="ignore"):  # infinite rows make infinite linear leaves
        return _sum(forest, V, nodes)


def _sum(forest: Forest, V: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    acc = np.tile(forest.base_score, (len(V), 1))
    for t in range(forest.n_trees):
        rows = forest.leaf[nodes[:, t]]
        if forest.vector_leaves:
            acc += forest.values[rows]
        else:
            acc[:, forest.tree_output[t]] += _scalar_leaves(forest, V, rows)
    return acc / acc.dtype.type(forest.divisor) if forest.divisor != 1 else acc


def _leaf_nodes(forest: Forest, V: np.ndarray) -> np.ndarray:
    """(n, T) int64: global node numbers of the leaves."""
    out = np.empty((len(V), forest.n_trees), np.int64)
    for t in range(forest.n_trees):
        base = tree_slice(forest, t).start
        node = np.full(len(V), base, np.int64)
        active = np.flatnonzero(forest.kind[node] != LEAF)
        while len(active):
            i = node[active]
            left = _goes_left(forest, V, active, i)
            node[active] = base + np.where(left, forest.left[i], forest.right[i])
            active = active[forest.kind[node[active]] != LEAF]
        out[:, t] = node
    return out


def _goes_left(forest: Forest, V: np.ndarray, rows: np.ndarray, i: np.ndarray) -> np.ndarray:
    """Whether each row goes left at its node ``i``."""
    v = V[rows, forest.feature[i]]
    v64 = v.astype(np.float64)
    missing = np.isnan(v) | ((forest.missing[i] == MISSING_ZERO) & (np.abs(v64) <= ZERO_BAND))
    t = forest.threshold[i]
    left = np.where(forest.kind[i] == LT, v64 < t, v64 <= t)
    categorical = forest.kind[i] == IN
    for s in np.unique(forest.category_set[i[categorical]]):
        at = np.flatnonzero(categorical & (forest.category_set[i] == s))
        members = forest.set_values[forest.set_offset[s] : forest.set_offset[s + 1]]
        x = v64[at]
        if forest.category_rule == "exact":
            for f in np.unique(forest.feature[i[at]]):
                of = at[forest.feature[i[at]] == f]
                missing[of] |= ~np.isin(v64[of], forest.known_categories[int(f)])
            left[at] = np.isin(x, members)
        else:
            named = np.isfinite(x) & ~((forest.category_rule == "truncate_nonnegative") & (x < 0))
            left[at] = named & np.isin(np.trunc(x), members)
    return np.where(missing, forest.default_left[i], left)


def _scalar_leaves(forest: Forest, V: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(n,): the value of each row's leaf, evaluated where it is linear."""
    value = forest.values[rows, 0].copy()
    if forest.linear_offset is None:
        return value
    assert forest.linear_feature is not None and forest.linear_coef is not None and forest.linear_const is not None
    for leaf in np.unique(rows):
        terms = slice(int(forest.linear_offset[leaf]), int(forest.linear_offset[leaf + 1]))
        if terms.start == terms.stop:
            continue
        at = np.flatnonzero(rows == leaf)
        x = V[np.ix_(at, forest.linear_feature[terms])].astype(np.float64)
        acc = np.full(len(at), forest.linear_const[leaf])
        for j, coef in enumerate(forest.linear_coef[terms]):
            acc = acc + coef * x[:, j]
        value[at] = np.where(np.isnan(x).any(1), value[at], acc)
    return value
