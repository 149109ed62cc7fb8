"""What strategies share that number the leaves of each tree: `bitslice` and `scan`."""

from __future__ import annotations

import numpy as np

from ..forest import LEAF, tree_leaves, tree_of_node
from ..predicates import Canonical
from . import category_sets

MAX_BYTES = 2**28
MAX_SET_BITS = 2**27


def too_large(canonical: Canonical) -> str | None:
    """Why the tables by leaf number, or those of the category sets, are too large, if they are."""
    forest = canonical.forest
    if (forest.n_trees << canonical.leaf_bits) * 24 > MAX_BYTES:
        leaves = int(tree_leaves(forest).max(initial=1))
        return f"{forest.n_trees:,} trees with tables for {leaves:,} leaves each need more than 256 MiB"
    set_bits = category_sets.total_bits(canonical)
    if set_bits > MAX_SET_BITS:
        return f"the category sets hold {set_bits:,} bits; the limit is {MAX_SET_BITS:,}"
    return None


def positions(canonical: Canonical, number: np.ndarray) -> np.ndarray:
    """(T * 2**leaf_bits,) int64: the IR's leaf with each number; -1: none. ``number`` is that of each node, (N,)."""
    forest, bits = canonical.forest, canonical.leaf_bits
    out = np.full(forest.n_trees << bits, -1, np.int64)
    leaves = np.flatnonzero(forest.kind == LEAF)
    out[(tree_of_node(forest)[leaves] << bits) + number[leaves]] = leaves
    return out
