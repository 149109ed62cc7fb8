"""perfect_tree_traversal on a GPU: `cuda_by_row` with `cuda_ranks.walk` or `cuda_walks.heap_walk`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..layout import Layout
from ..predicates import Canonical
from ..relay_ops import perfect_tree_traversal
from . import cuda_by_row, cuda_cost
from .cuda_by_row import OPTIONS as OPTIONS
from .cuda_by_row import emit as emit
from .cuda_by_row import launch as launch
from .cuda_by_row import wrong_options as wrong_options

NAME = perfect_tree_traversal.NAME
FEW = NAME


def space(canonical: Canonical) -> dict[str, tuple[int, ...]]:
    return cuda_by_row.space(canonical, NAME)


def refusal(canonical: Canonical, options: Mapping[str, int]) -> str | None:
    return cuda_by_row.refusal(canonical, NAME, options)


def lay_out(canonical: Canonical, options: Mapping[str, int]) -> Layout:
    return cuda_by_row.lay_out(canonical, NAME, options)


def cycles(canonical: Canonical, options: Mapping[str, int]) -> float:
    n_trees, depth = canonical.forest.n_trees, canonical.max_depth
    steps, places = np.full(n_trees, float(depth)), np.full(n_trees, 2.0**depth)
    by_ranks = cuda_by_row.ranked(canonical, NAME, options)
    return cuda_cost.walk(canonical, steps, places, np.maximum(places, 1), by_ranks=by_ranks)
