"""The space of a search: plans of one strategy with its options, and plans joined from those.

Every strategy declares the values of its options beside them (``space``). Which row counts a step serves follows from
times: a joined plan changes from one step to the next where their measured times cross.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import StrategyError
from ..predicates import Canonical
from ..relay_ops.plan import MAX_MIN_ROWS, MAX_STEPS_OF_PLAN, STRATEGIES, TYPICAL_ROWS, Step, plan_of, steps_of
from ..relay_ops.vectors import vectors_of
from .records import PlanSteps

Space = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Strategy -> option -> candidates."""
FEW = 4
"""Plans of one strategy that are all tried before its neighbours are: a search by chance would take longer."""


@dataclass(frozen=True)
class Kind:
    """What is different about plans for CPUs and for GPUs.

    Args:
        plan_of: (forest, steps, reason) -> the plan, every option filled in, or a StrategyError.
        by_estimate: (forest, space, CPU features) -> the strategies of a space, the cheapest first.
        joins: Whether a plan has several steps, so that plans are joined from others.
    """

    plan_of: Callable[[Canonical, Sequence[Mapping[str, Any]], str], tuple[Step, ...]]
    by_estimate: Callable[[Canonical, Space, Collection[str]], list[str]]
    joins: bool


def space_of(canonical: Canonical) -> dict[str, dict[str, tuple[int, ...]]]:
    """The space of the strategies that serve this forest."""
    serving = {name: m for name, m in STRATEGIES.items() if resolved(canonical, single(name, {})) is not None}
    return {name: dict(module.space(canonical)) for name, module in serving.items()}


def few(space: Space, strategy: str) -> list[PlanSteps]:
    """All plans of one strategy, where there are at most FEW of them."""
    options = space[strategy]
    if not options or math.prod(len(values) for values in options.values()) > FEW:
        return []
    return [single(strategy, dict(zip(options, v, strict=True))) for v in itertools.product(*options.values())]


def by_estimate(canonical: Canonical, space: Space, features: Collection[str]) -> list[str]:
    """The strategies of a space, the cheapest by estimate first."""
    vectors = vectors_of(features)
    return sorted(space, key=lambda name: float(STRATEGIES[name].cost(canonical, TYPICAL_ROWS, vectors)))


CPU = Kind(plan_of, by_estimate, joins=True)


def single(strategy: str, options: Mapping[str, int]) -> PlanSteps:
    """The plan in which one strategy serves every row count."""
    return ({"min_rows": 0, "strategy": strategy, "options": dict(options)},)


def resolved(canonical: Canonical, steps: Sequence[Mapping[str, Any]], kind: Kind = CPU) -> PlanSteps | None:
    """A plan with every option that was left to the forest filled in, or None where it can't serve the forest."""
    try:
        return steps_of(kind.plan_of(canonical, steps, ""))
    except StrategyError:
        return None


def size(space: Space) -> int:
    """How many plans of one strategy there are, those that a strategy refuses included."""
    return sum(math.prod(len(values) for values in options.values()) for options in space.values())


def neighbour(
    rng: np.random.Generator, space: Space, step: Mapping[str, Any], canonical: Canonical, kind: Kind = CPU
) -> PlanSteps | None:
    """The plan with one option moved to a value beside its own, or now and then to any."""
    options = {name: values for name, values in space[step["strategy"]].items() if len(values) > 1}
    if not options:
        return None
    name = str(rng.choice(sorted(options)))
    values, now = options[name], step["options"][name]
    if now in values and rng.random() < 0.7:
        at = values.index(now) + int(rng.choice([-1, 1]))
        value = values[min(max(at, 0), len(values) - 1)]
    else:
        value = int(rng.choice(values))
    return resolved(canonical, single(step["strategy"], {**step["options"], name: value}), kind)


def moved(
    rng: np.random.Generator,
    space: Space,
    plan: PlanSteps,
    canonical: Canonical,
    shifts: Sequence[float],
    kind: Kind = CPU,
) -> PlanSteps | None:
    """A plan of several steps with one of them changed: an option of it, or the row count from which it serves."""
    i = int(rng.integers(len(plan)))
    step = plan[i]
    if i and rng.random() < 0.5:
        start = round(step["min_rows"] * float(rng.choice(shifts)))
        step = {**step, "min_rows": max(1, min(MAX_MIN_ROWS, start))}
    elif step["strategy"] in space and (other := neighbour(rng, space, step, canonical, kind)) is not None:
        step = {**other[0], "min_rows": step["min_rows"]}
    return resolved(canonical, (*plan[:i], step, *plan[i + 1 :]), kind)


def anywhere(
    rng: np.random.Generator, space: Space, strategy: str, canonical: Canonical, kind: Kind = CPU
) -> PlanSteps | None:
    """A plan of one strategy with options drawn from its space."""
    options = {name: int(rng.choice(values)) for name, values in sorted(space[strategy].items())}
    return resolved(canonical, single(strategy, options), kind)


def every(rng: np.random.Generator, space: Space, canonical: Canonical, kind: Kind = CPU) -> Iterator[PlanSteps]:
    """All plans of one strategy, in a random order."""
    plans = [
        single(strategy, dict(zip(options, values, strict=True)))
        for strategy, options in sorted(space.items())
        for values in itertools.product(*options.values())
    ]
    for i in rng.permutation(len(plans)):
        if (plan := resolved(canonical, plans[i], kind)) is not None:
            yield plan


def joined(plans: Sequence[tuple[PlanSteps, Mapping[int, float]]], shift: float, worth: float) -> PlanSteps:
    """The plan that takes, for each row count, the fastest of several single-step plans.

    Args:
        plans: (single-step plan, rows per call -> measured ns per row); times between are interpolated.
        shift: The row counts at which steps change are multiplied by this.
        worth: A step must take no more than this share of its neighbour's time somewhere: each has tables of its own,
            which compete for the caches.
    """
    largest = max(plans[0][1])
    rows = np.arange(1, min(MAX_MIN_ROWS, largest) + 1)
    calls = np.stack([_call_ns(times, rows) for _, times in plans])
    last = int(np.argmin([times[largest] for _, times in plans]))
    # From the most rows down: a step gives way to another where that one is enough faster.
    starts: list[tuple[int, int]] = []
    current, n = last, len(rows)
    while n > 0 and len(starts) < MAX_STEPS_OF_PLAN - 1:
        below = np.flatnonzero(calls[:, :n].min(0) < worth * calls[current, :n])
        if len(below) == 0:
            break
        n = int(below[-1]) + 1
        # The other step serves from there down as long as it stays the faster of the two.
        other = int(np.argmin(calls[:, n - 1]))
        while n < len(rows) and calls[other, n] < calls[current, n]:
            n += 1
        starts.append((max(1, min(MAX_MIN_ROWS, round((n + 1) * shift))), current))
        current = other
    steps = [{**plans[current][0][0], "min_rows": 0}]
    for start, which in reversed(starts):
        if steps[-1]["min_rows"] == MAX_MIN_ROWS:  # no row count is left for the step before
            steps.pop()
        least = max(start, steps[-1]["min_rows"] + 1)
        steps.append({**plans[which][0][0], "min_rows": least})
    return tuple(steps)


def _call_ns(times: Mapping[int, float], rows: np.ndarray) -> np.ndarray:
    """ns of a call, interpolated between the measured batches in logarithms."""
    batches = np.array(sorted(times), np.float64)
    calls = np.array([times[int(b)] * b for b in batches])
    return np.exp(np.interp(np.log(rows), np.log(batches), np.log(np.maximum(calls, 1e-3))))
