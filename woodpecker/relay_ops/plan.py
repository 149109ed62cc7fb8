"""The plan: which strategy serves which row counts, with which options, and why.

A plan is a list of steps, the one for the fewest rows first. A later step takes whole blocks of rows, and the rest
where it has at least the step's ``min_rows``; what is left goes to the step before. A strategy that computes hundreds
of rows at once so leaves a handful to a walk, and a walk of several rows at once leaves a few to a walk of several
trees at once.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import StrategyError
from ..predicates import Canonical
from . import bitslice, gemm, perfect_tree_traversal, scan, tree_traversal
from .options import MANY_TREES, WALKS, no_power_of_two, resolve, too_many_walks
from .vectors import vectors_of

STRATEGIES: dict[str, ModuleType] = {m.NAME: m for m in (gemm, tree_traversal, perfect_tree_traversal, bitslice, scan)}
WALKING = {m.NAME: m for m in (perfect_tree_traversal, tree_traversal)}
TOGETHER: dict[str, Callable[[Mapping[str, int]], tuple[int, ...]]] = {
    bitslice.NAME: lambda options: (options["rows"],),
    scan.NAME: lambda options: tuple(n for v in scan.VECTORS if (n := v * scan.LEAST_ROWS) <= options["rows"]),
}
"""Strategies that compute many rows at once -> how many, by their options; fewer cost as much as the next of these."""

TYPICAL_ROWS = 1024
"""The batch that `auto` chooses for."""
MAX_STEPS_OF_PLAN = 4
"""Each step is code of its own in every entry."""
STEP_PAYS = 0.03
"""How much less, in the mean over row counts, a plan has to cost for each step more, which takes time to compile."""
MAX_MIN_ROWS = 512
"""Beyond the rows of the largest group no step loses to the one before it."""


@dataclass(frozen=True)
class Step:
    """A range of row counts and how it is served.

    Args:
        min_rows: The smallest row count of the range.
        strategy: Name of the strategy.
        options: All of its options.
        reason: Why it was chosen, for people.
        considered: Strategy -> its estimated ns per row, or why it can't serve the forest.
    """

    min_rows: int
    strategy: str
    options: Mapping[str, int]
    reason: str
    considered: Mapping[str, float | str]

    def manifest(self) -> dict[str, Any]:
        return {
            "min_rows": self.min_rows,
            "strategy": self.strategy,
            "options": dict(self.options),
            "reason": self.reason,
            "considered": dict(self.considered),
        }


def make_plan(
    canonical: Canonical, strategy: str, given: Mapping[str, Any], features: Collection[str]
) -> tuple[Step, ...]:
    """The plan for a forest and a target.

    Args:
        canonical: The forest.
        strategy: A name of STRATEGIES, "auto" (the cheapest by estimated cost), or "depth_rule" (Hummingbird's and
            Mockingjay's: depth <= ``low`` GEMM, <= ``high`` perfect trees, else tree traversal).
        given: Options of the strategy; for "depth_rule" also ``low`` (3) and ``high`` (10). "auto" takes none.
        features: CPU features of the target, by LLVM's names.

    Raises:
        StrategyError: the strategy or an option is unknown, or the strategy can't serve this forest.
    """
    vectors = vectors_of(features)
    if strategy == "auto":
        if given:
            raise StrategyError(
                f"strategy='auto' takes no options, found {', '.join(given)}; name a strategy to set its options"
            )
        return _with_few_rows(canonical, _cheapest(canonical, vectors), {}, vectors)
    if strategy == "depth_rule":
        name, rest, reason = by_depth(canonical, given)
        return _with_few_rows(canonical, _step(canonical, name, rest, reason, {}), given, vectors)
    if strategy not in STRATEGIES:
        raise StrategyError(f"unknown strategy {strategy!r}; known: {', '.join((*STRATEGIES, 'auto', 'depth_rule'))}")
    return _with_few_rows(canonical, _step(canonical, strategy, given, "chosen by the user", {}), given, vectors)


def plan_of(canonical: Canonical, steps: Sequence[Mapping[str, Any]], reason: str) -> tuple[Step, ...]:
    """The plan with these steps, which a tuning record or a tuning job wrote down.

    Args:
        canonical: The forest.
        steps: {"min_rows", "strategy", "options"} each; options that are absent or 0 are left to the forest.
        reason: Why this plan was chosen, for people.

    Raises:
        StrategyError: it is no plan, or a strategy of it can't serve this forest.
    """
    plan: list[Step] = []
    for step in steps:
        name, options, least = step["strategy"], step["options"], step["min_rows"]
        if not isinstance(name, str) or name not in STRATEGIES or not isinstance(options, Mapping):
            raise StrategyError(f"a plan's step must name a strategy and its options, found {name!r}, {options!r}")
        lowest = plan[-1].min_rows + 1 if plan else 0
        if type(least) is not int or not lowest <= least <= (MAX_MIN_ROWS if plan else 0):
            raise StrategyError(
                f"the min_rows of a plan's steps must ascend from 0 to at most {MAX_MIN_ROWS}, found {least!r}"
            )
        plan.append(replace(_step(canonical, name, options, reason, {}), min_rows=least))
    if not 1 <= len(plan) <= MAX_STEPS_OF_PLAN:
        raise StrategyError(f"a plan must have 1 to {MAX_STEPS_OF_PLAN} steps, found {len(plan)}")
    return tuple(plan)


def steps_of(plan: Sequence[Step]) -> tuple[dict[str, Any], ...]:
    """{"min_rows", "strategy", "options"} of each step: what `plan_of` makes the plan of again."""
    return tuple({"min_rows": s.min_rows, "strategy": s.strategy, "options": dict(s.options)} for s in plan)


def _step(
    canonical: Canonical, strategy: str, given: Mapping[str, Any], reason: str, considered: Mapping[str, float | str]
) -> Step:
    module = STRATEGIES[strategy]
    options = _options(canonical, module, given)
    wrong = too_many_walks(options) or no_power_of_two("rows", options) or no_power_of_two("lanes", options)
    if wrong:
        raise StrategyError(f"options of strategy {strategy!r}: {wrong}")
    refusal = module.applicable(canonical, options)
    if refusal:
        raise StrategyError(f"strategy {strategy!r} can't serve this forest: {refusal}. strategy='auto' avoids it")
    return Step(0, strategy, options, reason, considered)


def _options(canonical: Canonical, module: ModuleType, given: Mapping[str, Any]) -> dict[str, int]:
    chosen: dict[str, int] = module.choose(canonical, resolve(module.NAME, module.OPTIONS, given))
    return chosen


def _with_few_rows(canonical: Canonical, step: Step, given: Mapping[str, Any], vectors: str) -> tuple[Step, ...]:
    """The step, and before it those for the row counts at which others are cheaper, unless the user's options rule."""
    if step.strategy in WALKING:
        return (step,) if {"trees", "interleave"} & set(given) else _with_lone_rows(canonical, step, TYPICAL_ROWS)
    if step.strategy not in TOGETHER or step.options["min_rows"] == 1 or canonical.forest.n_trees == 0:
        return (step,)
    walks = [m for m in WALKING.values() if m.applicable(canonical, {}) is None]
    walk = min(walks, key=lambda m: float(m.cost(canonical, TYPICAL_ROWS, vectors))).NAME
    before = [Step(0, walk, _options(canonical, WALKING[walk], {}), "", {})]
    if step.strategy == bitslice.NAME:
        if scan.applicable(canonical, {}) is None:
            before.append(Step(0, scan.NAME, _options(canonical, scan, {}), "", {}))
        for block in (rows for rows in bitslice.BLOCKS if rows < step.options["rows"]):
            before.append(Step(0, bitslice.NAME, {**step.options, "min_rows": 0, "rows": block}, "", {}))
    plan = _cheapest_starts(canonical, before, step, vectors)
    steps: list[Step] = []
    for few, following in pairwise(plan):
        size, end = max(TOGETHER[following.strategy](following.options)), following.min_rows
        reason = f"fewer than {end} rows cost less than a block of {size} of {following.strategy}"
        if following is plan[-1] and following.options["min_rows"]:
            reason = f"fewer than {end} rows, where {following.strategy} was told to begin"
        some = replace(few, reason=reason)
        steps += _with_lone_rows(canonical, some, end) if some.strategy in WALKING else (some,)
    return *(s for s in steps if s.min_rows < plan[-1].min_rows), plan[-1]


def _cheapest_starts(canonical: Canonical, before: list[Step], last: Step, vectors: str) -> list[Step]:
    """The last step, and of those before it the ones that together cost least in the mean over row counts, each with
    the row count that it begins at."""
    most = max(TOGETHER[last.strategy](last.options))
    totals = [_totals(canonical, step, most, vectors) for step in (*before, last)]
    counts = np.unique(np.geomspace(1, max(most - 1, 1), 64).astype(np.int64))
    lone = len(_with_lone_rows(canonical, before[0], most)) - 1
    best, lowest = [last], np.inf
    for n_middle in range(min(len(before) - 1, MAX_STEPS_OF_PLAN - 2 - lone) + 1):
        for middle in combinations(range(1, len(before)), n_middle):
            picked = (0, *middle, len(before))
            starts = _starts([totals[i] for i in picked], last.options["min_rows"])
            if starts[-1] > 1 and any(a >= b for a, b in pairwise(starts)):
                continue  # one of them serves nothing
            used = np.searchsorted(starts, counts, side="right") - 1
            costs = np.log([totals[picked[which]][n] for which, n in zip(used, counts, strict=True)])
            if (mean := float(costs.mean()) + STEP_PAYS * n_middle) < lowest:
                lowest = mean
                best = [replace((*before, last)[i], min_rows=start) for i, start in zip(picked, starts, strict=True)]
    return best if best[-1].min_rows > 1 else [replace(last, min_rows=0)]


def _starts(totals: list[np.ndarray], given: int) -> list[int]:
    """The row count from which each of these serves: the first from 0, others where they first cost no more than all
    before them, the last where that is ``given``, unless this is 0."""
    end = len(totals[0])
    starts: list[int] = []
    for i in range(len(totals) - 1, 0, -1):
        cheaper = np.flatnonzero(totals[i][1:end] <= np.min([total[1:end] for total in totals[:i]], axis=0))
        end = given if given and not starts else int(cheaper[0]) + 1 if len(cheaper) else end
        starts.insert(0, end)
    return [0, *starts]


def _totals(canonical: Canonical, step: Step, end: int, vectors: str) -> np.ndarray:
    """Estimated ns of calls of 0, 1, .. ``end`` - 1 rows by a step."""
    cost, n = STRATEGIES[step.strategy].cost, np.arange(end)
    if step.strategy in WALKING:
        return n * float(cost(canonical, TYPICAL_ROWS, vectors))
    sizes = TOGETHER[step.strategy](step.options)
    more = {"block_rows": step.options["rows"]} if step.strategy == bitslice.NAME else {}
    blocks = np.array([0.0, *(float(cost(canonical, rows, vectors, **more)) * rows for rows in sizes)])
    return n // sizes[-1] * blocks[-1] + blocks[np.searchsorted((0, *sizes), n % sizes[-1])]


def _with_lone_rows(canonical: Canonical, step: Step, end: int) -> tuple[Step, ...]:
    """A walk of several rows at once, for fewer than ``end``, and before it one of more trees at once for a few."""
    rows = step.options["interleave"]
    least = rows // 2 + 1
    if rows == 1 or canonical.forest.n_trees < MANY_TREES or least >= end:
        return (step,)
    given = {**step.options, "interleave": 1, "trees": WALKS}
    reason = f"fewer than {least} rows: each walks {WALKS} trees at once"
    few = Step(0, step.strategy, _options(canonical, WALKING[step.strategy], given), reason, {})
    return few, replace(step, min_rows=least)


def _cheapest(canonical: Canonical, vectors: str) -> Step:
    considered: dict[str, float | str] = {}
    for name, module in STRATEGIES.items():
        refusal = module.applicable(canonical, _options(canonical, module, {}))
        considered[name] = refusal or round(module.cost(canonical, TYPICAL_ROWS, vectors), 1)
    costs = {name: c for name, c in considered.items() if not isinstance(c, str)}
    best = min(costs, key=lambda name: costs[name])
    reason = f"the lowest estimate at {TYPICAL_ROWS:,} rows: {costs[best]:,.0f} ns per row"
    return _step(canonical, best, {}, reason, considered)


def by_depth(canonical: Canonical, given: Mapping[str, Any]) -> tuple[str, dict[str, Any], str]:
    """The strategy that "depth_rule" names, the options that are left for it, and the reason.

    Raises:
        StrategyError: ``low`` or ``high`` is wrong.
    """
    rest = dict(given)
    limits = {}
    for name, default in (("low", 3), ("high", 10)):
        value = rest.pop(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise StrategyError(f"option {name} of strategy 'depth_rule' must be an integer >= 0, found {value!r}")
        limits[name] = value
    depth = canonical.max_depth
    names = (gemm.NAME, perfect_tree_traversal.NAME, tree_traversal.NAME)
    chosen = names[0] if depth <= limits["low"] else names[1] if depth <= limits["high"] else names[2]
    return chosen, rest, f"depth {depth} with low={limits['low']}, high={limits['high']}"
