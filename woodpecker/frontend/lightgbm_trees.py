"""The tables of a LightGBM model text as node arrays of the Forest IR.

A tree of L leaves becomes L - 1 inner nodes, numbered as LightGBM numbers them, followed by its L leaves. How
LightGBM's ``Tree::NumericalDecision`` and ``Tree::CategoricalDecision`` (include/LightGBM/tree.h) map to the IR, with
``missing type = (decision_type >> 2) & 3``:

====================  ==============  =====================================================================
decision              IR missing      goes by default
====================  ==============  =====================================================================
numerical, Zero (1)   MISSING_ZERO    bit 1 of decision_type
numerical, NaN (2)    MISSING_NAN     bit 1 of decision_type
numerical, other      MISSING_NAN     left if 0.0 <= threshold, for LightGBM replaces NaN by 0.0 and compares
categorical           MISSING_NAN     right, whatever decision_type says
====================  ==============  =====================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..forest import IN, LE, LEAF, MISSING_NAN, MISSING_ZERO
from .lightgbm_text import Tree

_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_ZERO, _NAN = 1, 2


def node_arrays(trees: Sequence[Tree]) -> dict[str, Any]:
    """The per-node, per-leaf and category fields of a `Forest`."""
    n_leaves = np.array([len(tree.leaf_value) for tree in trees], np.int64)
    n_inner = n_leaves - 1
    tree_offset = _offsets(n_leaves + n_inner)
    inner = _positions(tree_offset[:-1], n_inner)
    leaf = _positions(tree_offset[:-1] + n_inner, n_leaves)
    n_nodes = int(tree_offset[-1])

    def at(where: np.ndarray, values: np.ndarray, dtype: Any, fill: Any = 0) -> np.ndarray:
        out = np.full(n_nodes, fill, dtype)
        out[where] = values
        return out

    threshold = _concatenate([tree.threshold for tree in trees], np.float64)
    decision = _concatenate([tree.decision_type for tree in trees], np.int64)
    # Tree::GetLeaf looks at the categorical bit in trees with category sets only.
    has_sets = np.repeat(np.array([len(tree.cat_boundaries) > 1 for tree in trees], bool), n_inner)
    categorical = has_sets & (decision & _CATEGORICAL != 0)
    missing_type = (decision >> 2) & 3
    default_left = np.where(
        (missing_type == _ZERO) | (missing_type == _NAN), decision & _DEFAULT_LEFT != 0, threshold >= 0.0
    )
    set_offset, set_values, first_set = _category_sets(trees)
    named = np.repeat(first_set, n_inner) + np.where(categorical, np.trunc(threshold), 0).astype(np.int64)
    is_zero = (missing_type == _ZERO) & ~categorical
    first_leaf = np.repeat(n_inner, n_inner)

    def child(side: Sequence[np.ndarray]) -> np.ndarray:
        c = _concatenate(side, np.int64)
        return at(inner, np.where(c < 0, first_leaf + ~c, c), np.int32)

    return dict(
        tree_offset=tree_offset,
        kind=at(inner, np.where(categorical, IN, LE), np.uint8, LEAF),
        feature=at(inner, _concatenate([tree.feature for tree in trees], np.int64), np.int32),
        threshold=at(inner, np.where(categorical, 0.0, threshold), np.float64),
        missing=at(inner, np.where(is_zero, MISSING_ZERO, MISSING_NAN), np.uint8),
        default_left=at(inner, default_left & ~categorical, np.bool_),
        left=child([tree.left for tree in trees]),
        right=child([tree.right for tree in trees]),
        category_set=at(inner, np.where(categorical, named, -1), np.int32, -1),
        set_offset=set_offset,
        set_values=set_values,
        leaf=at(leaf, np.arange(len(leaf)), np.int32, -1),
        leaf_id=at(leaf, _positions(np.zeros(len(trees), np.int64), n_leaves), np.int32, -1),
        cover=_cover(trees, inner, leaf, n_nodes),
        **_leaf_values(trees),
    )


def _leaf_values(trees: Sequence[Tree]) -> dict[str, Any]:
    values = [tree.leaf_value for tree in trees]
    if all(tree.linear is None for tree in trees):
        return dict(values=_concatenate(values, np.float64).reshape(-1, 1))
    const, count, feature, coef = [], [], [], []
    for t, tree in enumerate(trees):
        linear = tree.linear
        if linear is None:
            const.append(tree.leaf_value)
            count.append(np.zeros(len(tree.leaf_value), np.int64))
            continue
        # Tree::Predict starts a linear leaf at leaf_const even if it has no terms; leaf_value is for NaN alone.
        values[t] = np.where(linear.count == 0, linear.const, tree.leaf_value)
        const.append(linear.const)
        count.append(linear.count)
        feature.append(linear.feature)
        coef.append(linear.coef)
    return dict(
        values=_concatenate(values, np.float64).reshape(-1, 1),
        linear_offset=_offsets(_concatenate(count, np.int64)),
        linear_feature=_concatenate(feature, np.int32),
        linear_coef=_concatenate(coef, np.float64),
        linear_const=_concatenate(const, np.float64),
    )


def _category_sets(trees: Sequence[Tree]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(set_offset, set_values, the first set of each tree), expanded from LightGBM's bitsets of 32-bit words."""
    n_sets = np.array([len(tree.cat_boundaries) - 1 for tree in trees], np.int64)
    n_words = _concatenate([np.diff(tree.cat_boundaries) for tree in trees], np.int64)
    words = _concatenate([tree.cat_words for tree in trees], np.int64)
    used = np.flatnonzero(words)
    in_set = np.repeat(np.arange(len(n_words)), n_words)[used]
    first_code = 32 * _positions(np.zeros(len(n_words), np.int64), n_words)[used]
    bits = np.unpackbits(words[used].astype("<u4").view(np.uint8), bitorder="little").reshape(-1, 32)
    word, bit = np.nonzero(bits)
    sizes = np.bincount(in_set[word], minlength=len(n_words))
    return _offsets(sizes), (first_code[word] + bit).astype(np.float64), _offsets(n_sets)[:-1]


def _cover(trees: Sequence[Tree], inner: np.ndarray, leaf: np.ndarray, n_nodes: int) -> np.ndarray | None:
    """Training rows per node, the weight that LightGBM's own SHAP values use (``Tree::data_count``)."""
    cover = np.zeros(n_nodes, np.float64)
    inner_counts = [tree.internal_count for tree in trees if tree.internal_count is not None]
    leaf_counts = [tree.leaf_count for tree in trees if tree.leaf_count is not None]
    if len(inner_counts) < len(trees) or len(leaf_counts) < len(trees):
        return None
    cover[inner] = _concatenate(inner_counts, np.float64)
    cover[leaf] = _concatenate(leaf_counts, np.float64)
    return cover


def _offsets(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def _positions(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """``start, start + 1, ... start + size - 1`` for each pair, concatenated."""
    ends = np.cumsum(sizes)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - sizes), sizes) + np.arange(total)


def _concatenate(parts: Sequence[np.ndarray], dtype: Any) -> np.ndarray:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype)
