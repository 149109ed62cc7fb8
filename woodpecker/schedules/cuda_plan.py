"""The plan for a GPU: which walk serves a forest there, with which options, and why.

The estimate counts, for a row, the cycles of a multiprocessor that issuing instructions takes, and those that the lines
of the cache that a warp asks for take; whichever is more bounds it, because the two overlap. No GPU has confirmed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import StrategyError
from ..forest import tree_leaves
from ..predicates import Canonical
from ..relay_ops import tree_traversal
from ..relay_ops.options import Option, resolve
from ..relay_ops.plan import STRATEGIES, WALKING, Step
from ..runtime.cuda import FEW_ROWS
from . import cuda, cuda_ranks

PREFIX = "cuda_"
TREES = 2
"""Of a thread: two walks hide a step's latency, about 90 cycles, where a multiprocessor has half of the threads that it
can hold."""
OPTIONS = {
    "cuda_trees": Option(TREES, 1, 8, "trees that a thread walks together"),
    "cuda_threads": Option(0, 0, 1024, "rows of a block, a power of two from 32 on; 0: as many as its memory holds"),
    "cuda_ranks": Option(1, 0, 1, "1: walk by ranks where that is possible; 0: by node records"),
    "cuda_few_rows": Option(FEW_ROWS, 0, 65536, "rows for each multiprocessor up to which a row gets a block, not a thread"),
}
"""Options of walks on a GPU, beside those of the walk on a CPU."""
SPACE = {
    "cuda_trees": (1, 2, 3, 4, 6, 8),
    "cuda_threads": (0, 64, 128, 256, 512),
    "cuda_ranks": (0, 1),
    "cuda_few_rows": (0, 1, 8, 32, 128, 512, 2048),
}
"""What tuning tries."""

ISSUED = 4
"""Instructions of a warp that a multiprocessor issues in a cycle."""
WARP, LINE = 32, 128
"""Rows that go together; bytes of a line of the first-level cache, which serves one a cycle."""
RANK_STEP, RECORD_STEP, CATEGORY_STEP = 10.5, 17.0, 12.0
"""Instructions of a step, counted in the code for sm_90: by ranks, by node records; what a test for categories adds."""
CACHE_BYTES, BEYOND = 2**16, 4.0
"""Bytes of a tree from which on the second-level cache serves it, and cycles of a line from there."""


def split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the CPU's strategy, and those of the GPU's."""
    gpu = {name: value for name, value in options.items() if name.startswith(PREFIX)}
    return {name: value for name, value in options.items() if name not in gpu}, gpu


def make_plan(canonical: Canonical, strategy: str, given: Mapping[str, Any]) -> Step:
    """The plan for a forest.

    Args:
        canonical: The forest.
        strategy: "auto", or a walking strategy.
        given: Options, of OPTIONS; "auto" takes none.

    Raises:
        StrategyError: the strategy is not there for CUDA, an option is wrong, or the strategy can't serve this forest.
    """
    if strategy != "auto" and strategy not in WALKING:
        known = ", ".join((*sorted(WALKING), "auto"))
        what = "is not there for CUDA yet" if strategy in (*STRATEGIES, "depth_rule") else "is unknown"
        raise StrategyError(f"strategy {strategy!r} {what}; for CUDA there are {known}")
    if strategy == "auto" and given:
        raise StrategyError(
            f"strategy='auto' takes no options, found {', '.join(given)}; name a strategy to set its options"
        )
    options = resolve(strategy, OPTIONS, given)
    threads = options["cuda_threads"]
    if threads and (threads < WARP or threads & (threads - 1)):
        raise StrategyError(f"option cuda_threads must be 0 or a power of two from {WARP} to 1024, found {threads}")
    if strategy != "auto":
        if refusal := _refusal(canonical, strategy, options):
            raise StrategyError(f"strategy {strategy!r} can't serve this forest: {refusal}. strategy='auto' avoids it")
        return Step(0, strategy, options, "chosen by the user", {})
    considered: dict[str, float | str] = {}
    for name in WALKING:
        considered[name] = _refusal(canonical, name, options) or round(cycles(canonical, name, options), 1)
    costs = {name: cost for name, cost in considered.items() if not isinstance(cost, str)}
    best = min(costs, key=lambda name: costs[name])
    reason = f"the lowest estimate: {costs[best]:,.0f} cycles of a multiprocessor per row"
    return Step(0, best, options, reason, considered)


def plan_of(canonical: Canonical, steps: Sequence[Mapping[str, Any]], reason: str) -> tuple[Step, ...]:
    """The plan with these steps, which a tuning record or a tuning job wrote down: a GPU's has one.

    Args:
        canonical: The forest.
        steps: {"min_rows", "strategy", "options"}; options that are absent have their defaults.
        reason: Why this plan was chosen, for people.

    Raises:
        StrategyError: it is no plan, or its strategy can't serve this forest.
    """
    if len(steps) != 1 or steps[0]["min_rows"] != 0:
        raise StrategyError(f"a plan for a GPU must have one step, from 0 rows on, found {len(steps)}")
    name, options = steps[0]["strategy"], steps[0]["options"]
    if not isinstance(name, str) or name == "auto" or not isinstance(options, Mapping):
        raise StrategyError(f"a plan's step must name a strategy and its options, found {name!r}, {options!r}")
    return (replace(make_plan(canonical, name, options), reason=reason),)


def space(canonical: Canonical) -> dict[str, dict[str, tuple[int, ...]]]:
    """strategy -> option -> candidates for tuning, of the strategies that serve this forest; the cheapest by estimate
    first."""
    found = []
    for name in WALKING:
        options = resolve(name, OPTIONS, {})
        if _refusal(canonical, name, options) is None:
            by_ranks = ranked(canonical, name, options)
            tried = {key: values for key, values in SPACE.items() if key != "cuda_ranks" or by_ranks}
            found.append((cycles(canonical, name, options), name, tried))
    return {name: tried for _, name, tried in sorted(found, key=lambda one: one[:2])}


def ranked(canonical: Canonical, strategy: str, options: Mapping[str, int]) -> bool:
    """Whether the forest is walked by ranks."""
    threads = options["cuda_threads"] or cuda.MAX_THREADS
    return bool(options["cuda_ranks"]) and cuda_ranks.rank_bytes(canonical, strategy, threads) > 0


def _refusal(canonical: Canonical, strategy: str, options: Mapping[str, int]) -> str | None:
    refusal: str | None = WALKING[strategy].applicable(canonical, {"trees": options["cuda_trees"]})
    return refusal


def cycles(canonical: Canonical, strategy: str, options: Mapping[str, int]) -> float:
    """Estimated cycles of a multiprocessor for a row.

    Args:
        canonical: The forest.
        strategy: "tree_traversal" or "perfect_tree_traversal".
        options: All of OPTIONS.
    """
    forest, deepest = canonical.forest, canonical.max_depth
    by_ranks = ranked(canonical, strategy, options)
    wide = 8 if forest.input_dtype == "float64" else 0
    record = 4 if by_ranks else 8 + wide + (4 if canonical.has_categories else 0)
    if strategy == tree_traversal.NAME:
        mean, deviation = canonical.leaf_depth
        # The largest of 32 normal variables lies 2.1 deviations above their mean; one step more sees that all wait.
        steps = np.minimum(mean + 2.1 * deviation, canonical.depth) + 1.0
        places = np.diff(forest.tree_offset).astype(np.float64)
    else:
        steps = np.full(forest.n_trees, float(deepest))
        places = np.full(forest.n_trees, 2.0**deepest)
    per_step = RANK_STEP if by_ranks else RECORD_STEP + (CATEGORY_STEP if canonical.has_categories else 0.0)
    leaves = np.maximum(tree_leaves(forest), 1) if strategy == tree_traversal.NAME else np.maximum(places, 1)
    value = forest.values.itemsize * (forest.n_outputs if forest.vector_leaves else 1)
    # Of each step its node's line, of which the upper levels have few; a column value takes a wavefront of its own.
    lines = sum(_lines(np.minimum(2.0**d, places) * record) * (steps > d) for d in range(deepest + 1))
    lines = lines + _lines(leaves * value)
    beyond = np.where(places * record > CACHE_BYTES, BEYOND, 1.0)
    issue = float((steps * per_step).sum()) / ISSUED
    waves = float((lines * beyond + steps).sum())
    return max(issue, waves) / WARP


def _lines(nbytes: np.ndarray) -> np.ndarray:
    """Lines that the rows of a warp ask for at places spread over so many bytes."""
    return np.clip(nbytes / LINE, 1.0, float(WARP))
