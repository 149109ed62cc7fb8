"""The plan: which strategy serves which row counts, with which options, and why.

A plan is a list of steps, the one for the fewest rows first. A later step takes whole blocks of rows, and the rest
where it has at least the step's ``min_rows``; what is left goes to the step before. A strategy that computes hundreds
of rows at once so leaves a handful to a walk, and a walk of several rows at once leaves a few to a walk of several
trees at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from ..errors import StrategyError
from ..predicates import Canonical
from . import bitslice, gemm, perfect_tree_traversal, scan, tree_traversal
from .options import MANY_TREES, WALKS, resolve

STRATEGIES: dict[str, ModuleType] = {m.NAME: m for m in (gemm, tree_traversal, perfect_tree_traversal, bitslice, scan)}
WALKING = {m.NAME: m for m in (perfect_tree_traversal, tree_traversal)}
TOGETHER = {
    bitslice.NAME: (bitslice.ROWS,),
    scan.NAME: tuple(vectors * scan.LEAST_ROWS for vectors in scan.VECTORS),
}
"""Strategies that compute many rows at once -> how many; fewer cost as much as the next of these."""

TYPICAL_ROWS = 1024
"""The batch that `auto` chooses for."""
MAX_STEPS_OF_PLAN = 4
"""Each step is code of its own in every entry."""
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


def make_plan(canonical: Canonical, strategy: str, given: Mapping[str, Any]) -> tuple[Step, ...]:
    """The plan for a forest.

    Args:
        canonical: The forest.
        strategy: A name of STRATEGIES, "auto" (the cheapest by estimated cost), or "depth_rule" (Hummingbird's and
            Mockingjay's: depth <= ``low`` GEMM, <= ``high`` perfect trees, else tree traversal).
        given: Options of the strategy; for "depth_rule" also ``low`` (3) and ``high`` (10). "auto" takes none.

    Raises:
        StrategyError: the strategy or an option is unknown, or the strategy can't serve this forest.
    """
    if strategy == "auto":
        if given:
            raise StrategyError(
                f"strategy='auto' takes no options, found {', '.join(given)}; name a strategy to set its options"
            )
        return _with_few_rows(canonical, _cheapest(canonical), {})
    if strategy == "depth_rule":
        return _with_few_rows(canonical, _by_depth(canonical, given), given)
    if strategy not in STRATEGIES:
        raise StrategyError(f"unknown strategy {strategy!r}; known: {', '.join((*STRATEGIES, 'auto', 'depth_rule'))}")
    return _with_few_rows(canonical, _step(canonical, strategy, given, "chosen by the user", {}), given)


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
    refusal = module.applicable(canonical, options)
    if refusal:
        raise StrategyError(f"strategy {strategy!r} can't serve this forest: {refusal}. strategy='auto' avoids it")
    return Step(0, strategy, options, reason, considered)


def _options(canonical: Canonical, module: ModuleType, given: Mapping[str, Any]) -> dict[str, int]:
    chosen: dict[str, int] = module.choose(canonical, resolve(module.NAME, module.OPTIONS, given))
    return chosen


def _with_few_rows(canonical: Canonical, step: Step, given: Mapping[str, Any]) -> tuple[Step, ...]:
    """The step, and before it those for the row counts at which another is cheaper, unless the user's options rule."""
    if step.strategy in WALKING:
        return (step,) if {"trees", "interleave"} & set(given) else _with_lone_rows(canonical, step, TYPICAL_ROWS)
    if step.strategy not in TOGETHER or step.options["min_rows"] == 1:
        return (step,)
    walks = [m for m in WALKING.values() if m.applicable(canonical, {}) is None]
    others = [min(walks, key=lambda m: float(m.cost(canonical, TYPICAL_ROWS))).NAME]
    if step.strategy == bitslice.NAME and scan.applicable(canonical, {}) is None:
        others.append(scan.NAME)
    most = min(TOGETHER[step.strategy][0], step.options["rows"])
    totals = {name: _totals(canonical, name, most) for name in (step.strategy, *others)}
    cheapest = [min(others, key=lambda name: totals[name][n]) for n in range(most)]
    dearer = (n for n in range(1, most) if totals[cheapest[n]][n] >= totals[step.strategy][n])
    least = step.options["min_rows"] or next(dearer, most)
    if least == 1:
        return (step,)
    name = cheapest[least - 1]
    reason = f"fewer than {least} rows cost less than a block of {most} of {step.strategy}"
    few = Step(0, name, _options(canonical, STRATEGIES[name], {}), reason, {})
    below = _with_lone_rows(canonical, few, least) if name in WALKING else _with_few_rows(canonical, few, {})
    # What serves fewer rows may itself begin where this step does.
    return *(s for s in below if s.min_rows < least), replace(step, min_rows=least)


def _totals(canonical: Canonical, name: str, end: int) -> list[float]:
    """Estimated ns of calls of 0, 1, .. ``end`` - 1 rows by a strategy."""
    cost = STRATEGIES[name].cost
    if name in WALKING:
        one = float(cost(canonical, TYPICAL_ROWS))
        return [n * one for n in range(end)]
    blocks = {rows: float(cost(canonical, rows)) * rows for rows in TOGETHER[name]}
    largest = max(blocks)

    def total(n: int) -> float:
        rest = n % largest
        return n // largest * blocks[largest] + (blocks[min(b for b in blocks if b >= rest)] if rest else 0.0)

    return [total(n) for n in range(end)]


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


def _cheapest(canonical: Canonical) -> Step:
    considered: dict[str, float | str] = {}
    for name, module in STRATEGIES.items():
        refusal = module.applicable(canonical, _options(canonical, module, {}))
        considered[name] = refusal or round(module.cost(canonical, TYPICAL_ROWS), 1)
    costs = {name: c for name, c in considered.items() if not isinstance(c, str)}
    best = min(costs, key=lambda name: costs[name])
    reason = f"the lowest estimate at {TYPICAL_ROWS:,} rows: {costs[best]:,.0f} ns per row"
    return _step(canonical, best, {}, reason, considered)


def _by_depth(canonical: Canonical, given: Mapping[str, Any]) -> Step:
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
    reason = f"depth {depth} with low={limits['low']}, high={limits['high']}"
    return _step(canonical, chosen, rest, reason, {})
