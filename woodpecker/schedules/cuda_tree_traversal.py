"""tree_traversal on a GPU: `cuda_by_row` with `cuda_walks.tree_walk`, whose steps are those of a warp's slowest row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..forest import tree_leaves
from ..layout import Layout
from ..predicates import Canonical
from ..relay_ops import tree_traversal
from . import cuda_by_row, cuda_cost
from .cuda_by_row import OPTIONS as OPTIONS
from .cuda_by_row import emit as emit
from .cuda_by_row import launch as launch
from .cuda_by_row import wrong_options as wrong_options

NAME = tree_traversal.NAME
FEW = NAME


def space(canonical: Canonical) -> dict[str, tuple[int, ...]]:
    return cuda_by_row.space(canonical, NAME)


def refusal(canonical: Canonical, options: Mapping[str, int]) -> str | None:
    return cuda_by_row.refusal(canonical, NAME, options)


def lay_out(canonical: Canonical, options: Mapping[str, int]) -> Layout:
    return cuda_by_row.lay_out(canonical, NAME, options)


def cycles(canonical: Canonical, options: Mapping[str, int]) -> float:
    mean, deviation = canonical.leaf_depth
    # The largest of 32 normal variables lies 2.1 deviations above their mean; one step more sees that all wait.
    steps = np.minimum(mean + 2.1 * deviation, canonical.depth) + 1.0
    places = np.diff(canonical.forest.tree_offset).astype(np.float64)
    return cuda_cost.walk(canonical, steps, places, np.maximum(tree_leaves(canonical.forest), 1), by_ranks=False)
