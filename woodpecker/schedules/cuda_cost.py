"""What estimates of a GPU's time are made of.

They count, for a row, the cycles of a multiprocessor that issuing instructions takes, and those that the lines of the
cache that a warp asks for take; whichever is more bounds it, because the two overlap. No GPU has confirmed it.
"""

from __future__ import annotations

import numpy as np

from ..predicates import Canonical

ISSUED = 4
"""Instructions of a warp that a multiprocessor issues in a cycle."""
WARP, LINE = 32, 128
"""Rows that go together; bytes of a line of the first-level cache, which serves one a cycle."""
RANK_STEP, RECORD_STEP, CATEGORY_STEP = 10.5, 17.0, 12.0
"""Instructions of a step, counted in the code for sm_90: by ranks, by node records; what a test for categories adds."""
CACHE_BYTES, BEYOND = 2**16, 4.0
"""Bytes of a tree from which on the second-level cache serves it, and cycles of a line from there."""


def lines(nbytes: np.ndarray) -> np.ndarray:
    """Lines that the rows of a warp ask for at places spread over so many bytes."""
    return np.clip(nbytes / LINE, 1.0, float(WARP))


def walk(canonical: Canonical, steps: np.ndarray, places: np.ndarray, leaves: np.ndarray, *, by_ranks: bool) -> float:
    """Estimated cycles of a multiprocessor for a row that walks.

    Args:
        canonical: The forest.
        steps: (T,) of each tree.
        places: (T,) its nodes' places.
        leaves: (T,) its leaves' places.
        by_ranks: Nodes are packed.
    """
    forest, deepest = canonical.forest, canonical.max_depth
    wide = 8 if forest.input_dtype == "float64" else 0
    record = 4 if by_ranks else 8 + wide + (4 if canonical.has_categories else 0)
    per_step = RANK_STEP if by_ranks else RECORD_STEP + (CATEGORY_STEP if canonical.has_categories else 0.0)
    value = forest.values.itemsize * (forest.n_outputs if forest.vector_leaves else 1)
    # Of each step its node's line, of which the upper levels have few; a column value takes a wavefront of its own.
    asked = sum(lines(np.minimum(2.0**d, places) * record) * (steps > d) for d in range(deepest + 1))
    asked = asked + lines(leaves * value)
    beyond = np.where(places * record > CACHE_BYTES, BEYOND, 1.0)
    issue = float((steps * per_step).sum()) / ISSUED
    waves = float((asked * beyond + steps).sum())
    return max(issue, waves) / WARP
