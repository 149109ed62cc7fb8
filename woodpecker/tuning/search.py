"""What to try next, and what to believe: functions of the journal alone, so that a job resumes where it was.

the default plan, each strategy with its defaults, every value of a strategy that has few,
then neighbours of the leaders at each batch size, now and then anything,
then the leaders once more, in turn, and in the last quarter plans that are joined from them;
then a paired run of the finalists against the default, which stays unless one of them is faster beyond noise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..predicates import Canonical
from ..runtime.candidates import faster, key, succeeded
from ..runtime.on_device import FINALISTS
from . import space as spaces
from .records import PlanSteps
from .space import Kind, Space, joined

LEADERS = 3
MAX_LEADERS = 10
JOINED_SHARE = 0.25
PARTNERS = 2
"""Leaders at each batch size that plans are joined from."""
A_STEP, A_SHIFT = 1.03, 1.01
SHIFTS = (1.0, 0.7, 1.4)
WORTHS = (0.8, 0.95)
OFF_THE_TRACK = 0.2
"""Share of trials that are drawn anywhere in the space of a strategy that is not hopeless."""
DRAWS = 60

NOISE = 0.02
"""A plan must be faster than the default by this in the geometric mean over the batch sizes, and"""
WINS = 0.8
"""in this share of the rounds of the paired run, and"""
WORSE = 1.05
"""at no batch size slower than this."""

Trial = Mapping[str, Any]
"""{"plan", "status", "ns": {rows per call: ns per row}, "message"}."""


@dataclass(frozen=True)
class Search:
    """What a search is over.

    Args:
        canonical: The forest.
        space: See `woodpecker.tuning.space`.
        features: CPU features of the target.
        default: The plan of `auto` without records.
        batches: Rows per call.
        trials: How many to make.
        seed: Of all that is drawn.
        kind: Of plans, for CPUs or for GPUs.
    """

    canonical: Canonical
    space: Space
    features: tuple[str, ...]
    default: PlanSteps
    batches: tuple[int, ...]
    trials: int
    seed: int
    kind: Kind = spaces.CPU


def plan_in(trial: Trial) -> PlanSteps:
    return tuple(trial["plan"])


def best_times(trials: Sequence[Trial]) -> dict[str, float]:
    """Rows per call -> the best time so far."""
    best: dict[str, float] = {}
    for trial in succeeded(trials):
        for batch, ns in trial["ns"].items():
            best[batch] = min(ns, best.get(batch, math.inf))
    return best


def next_plan(
    search: Search, trials: Sequence[Trial], pending: Sequence[PlanSteps], join: bool = False
) -> PlanSteps | None:
    """The next plan to measure, or None where there are enough, or no more in the space.

    Args:
        search: What the search is over.
        trials: Those that were made.
        pending: Those that are being made.
        join: Plans are joined from what was found, as soon as the space has no others too.
    """
    number = len(trials) + len(pending)
    if number >= search.trials:
        return None
    join = join or number >= explored(search)
    seen = {key(plan_in(t)) for t in trials} | {key(plan) for plan in pending}
    names = search.kind.by_estimate(search.canonical, search.space, search.features)
    first = [search.default] + [spaces.single(name, {}) for name in names]
    if not join:
        failed = {t["plan"][0]["strategy"] for t in trials if len(t["plan"]) == 1 and t["status"] != "ok"}
        first += [plan for name in names if name not in failed for plan in spaces.few(search.space, name)]
    for plan in first:
        full = spaces.resolved(search.canonical, plan, search.kind)
        if full is not None and key(full) not in seen:
            return full
    rng = np.random.default_rng([search.seed, 4, number])
    if join:
        for plan in _joined(search, trials):
            if key(plan) not in seen:
                return plan
        best = faster(trials, search.default)[:LEADERS] or [{"plan": search.default}]
        for _ in range(DRAWS):
            one = best[int(rng.integers(len(best)))]
            drawn = spaces.moved(rng, search.space, plan_in(one), search.canonical, SHIFTS, search.kind)
            if drawn is not None and key(drawn) not in seen:
                return drawn
    for _ in range(DRAWS):
        drawn = _draw(search, trials, rng)
        if drawn is not None and key(drawn) not in seen:
            return drawn
    return next((p for p in spaces.every(rng, search.space, search.canonical, search.kind) if key(p) not in seen), None)


def explored(search: Search) -> int:
    """How many trials explore; in the others, plans are joined from what they found."""
    return search.trials - max(1, int(JOINED_SHARE * search.trials))


def leaders(search: Search, trials: Sequence[Trial]) -> list[PlanSteps]:
    """The default plan and the fastest plans of one strategy at each batch size, which are measured again, in turn,
    before plans are joined from them: until then each was measured in a moment of its own."""
    ranked = [[plan_in(t) for t in _leaders(trials, batch)] for batch in search.batches]
    found = {key(search.default): search.default} if any(plan_in(t) == search.default for t in trials) else {}
    for place in range(LEADERS):
        for plans in ranked:
            if place < len(plans) and len(found) < MAX_LEADERS:
                found.setdefault(key(plans[place]), plans[place])
    return list(found.values())


def remeasured(trials: Sequence[Trial]) -> list[Trial]:
    """A journal with the times that leaders had when they were measured again in the place of their first ones."""
    again = {key(t["plan"]): t["ns"] for t in trials if t.get("again")}
    return [{**t, "ns": again.get(key(t["plan"]), t["ns"])} if "ns" in t else t for t in trials if not t.get("again")]


def _singles(trials: Sequence[Trial]) -> list[Trial]:
    return [t for t in succeeded(trials) if len(t["plan"]) == 1]


def _leaders(trials: Sequence[Trial], batch: int) -> list[Trial]:
    return sorted(_singles(trials), key=lambda t: float(t["ns"][str(batch)]))[:LEADERS]


def _draw(search: Search, trials: Sequence[Trial], rng: np.random.Generator) -> PlanSteps | None:
    best = best_times(trials)
    if not best or rng.random() < OFF_THE_TRACK:
        near = {t["plan"][0]["strategy"] for t in _singles(trials) if any(t["ns"][b] < 3 * best[b] for b in best)}
        names = sorted(near & search.space.keys()) or sorted(search.space)
        return spaces.anywhere(rng, search.space, str(rng.choice(names)), search.canonical, search.kind)
    leaders = _leaders(trials, int(rng.choice(search.batches)))
    leaders = [t for t in leaders if t["plan"][0]["strategy"] in search.space]
    if not leaders:
        return None
    chosen = leaders[min(int(rng.geometric(0.6)) - 1, len(leaders) - 1)]
    return spaces.neighbour(rng, search.space, chosen["plan"][0], search.canonical, search.kind)


def _joined(search: Search, trials: Sequence[Trial]) -> list[PlanSteps]:
    """Plans joined from the leaders at each batch size: of all of them, and of every two or three; the most promising
    first, by the times of their parts, those last that would be slower than the default somewhere."""
    if not search.kind.joins:
        return []
    leaders = [_leaders(trials, batch)[:PARTNERS] for batch in search.batches]
    known = {key(t["plan"]): t for found in leaders for t in found}
    if not known:
        return []
    names = sorted(known)
    sets = [*itertools.combinations(names, 2), *itertools.combinations(names, 3)]
    sets += [tuple(sorted({key(found[0]["plan"]) for found in leaders if found}))]
    times = {name: {int(b): float(ns) for b, ns in t["ns"].items()} for name, t in known.items()}
    default: Mapping[str, float] = next((t["ns"] for t in succeeded(trials) if plan_in(t) == search.default), {})
    expected: dict[str, tuple[bool, float, PlanSteps]] = {}
    for parts, shift, worth in itertools.product(sets, SHIFTS, WORTHS):
        plan = joined([(plan_in(known[name]), times[name]) for name in parts], shift, worth)
        if len(plan) < 2 or key(plan) in expected:
            continue
        ns = {batch: _expected(plan, times, batch) for batch in search.batches}
        slower = any(ns[batch] > WORSE * default.get(str(batch), math.inf) for batch in ns)
        # Small reasons to try one before another: each step has tables of its own, and times were crossed for 1.0.
        doubt = A_STEP ** len(plan) * (1.0 if shift == 1.0 else A_SHIFT)
        expected[key(plan)] = (slower, doubt * float(np.exp(np.log(list(ns.values())).mean())), plan)
    return [plan for _, _, plan in sorted(expected.values(), key=lambda entry: entry[:2])]


def _expected(plan: PlanSteps, times: Mapping[str, Mapping[int, float]], batch: int) -> float:
    """ns per row of the step that serves a batch, as it was measured alone."""
    step = [s for s in plan if s["min_rows"] <= batch][-1]
    return times[key([{**step, "min_rows": 0}])][batch]


def finalists(search: Search, trials: Sequence[Trial]) -> list[PlanSteps]:
    """The default plan, and those that look faster over all batch sizes, the best first."""
    return [search.default, *(plan_in(t) for t in faster(trials, search.default)[:FINALISTS])]


@dataclass(frozen=True)
class Verdict:
    """The outcome of a paired run.

    Args:
        winner: Index of the plan to use; 0 is the default.
        gain: Geometric mean over the batch sizes of the default's time over the winner's.
        ns: For each plan, rows per call -> median ns per row.
        reason: Why, for people.
    """

    winner: int
    gain: float
    ns: tuple[Mapping[str, float], ...]
    reason: str


def serving(plan: PlanSteps, rows: int) -> list[Mapping[str, Any]]:
    """The steps that take part in a call of so many rows."""
    return [step for step in plan if step["min_rows"] <= rows]


def judge(plans: Sequence[PlanSteps], times: Sequence[Mapping[str, Sequence[float]]]) -> Verdict:
    """The verdict on a paired run: all samples of each plan, the default's first.

    At a batch size that a plan serves in the very steps of the default, what was measured differs by noise alone, and
    counts as equal.
    """
    batches = list(times[0])
    samples = np.array([[plan[b] for b in batches] for plan in times])  # plans, batches, rounds
    medians = np.median(samples, 2)
    ns = tuple({b: round(float(m), 3) for b, m in zip(batches, row, strict=True)} for row in medians)
    for i, plan in enumerate(plans):
        for j, batch in enumerate(batches):
            if serving(plan, int(batch)) == serving(plans[0], int(batch)):
                samples[i, j] = samples[0, j]
    ratio = np.exp(np.log(samples / samples[0]).mean(1))  # plans, rounds
    reasons = []
    for i in np.argsort(np.median(ratio, 1), kind="stable"):
        middle, wins = float(np.median(ratio[i])), float((ratio[i] < 1).mean())
        worst = float(np.median(samples[i] / samples[0], 1).max())
        if i == 0:
            break
        if middle > 1 - NOISE or wins < WINS or worst > WORSE:
            at_worst = f"{worst:.2f} of the default's time at the worst batch size"
            reasons.append(f"{1 / middle:.2f} times as fast, in {wins:.0%} of the rounds, {at_worst}")
            continue
        return Verdict(int(i), round(1 / middle, 4), ns, f"faster in {wins:.0%} of {ratio.shape[1]} paired rounds")
    return Verdict(0, 1.0, ns, "; ".join(["no plan was faster beyond noise", *reasons]))
