"""The plan for a GPU: which strategy serves a forest there, with which options, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import StrategyError
from ..predicates import Canonical
from ..relay_ops.options import Option, resolve
from ..relay_ops.plan import Step, by_depth
from ..runtime.cuda import FEW_ROWS, SPREAD_TREES
from .cuda_spread import ROUNDS
from .cuda_strategies import STRATEGIES, WALKING

PREFIX = "cuda_"
MARGIN = 1.5
"""How many times cheaper than the walks another strategy must be by the estimates, as long as no GPU has confirmed
them."""
COMMON = {
    "cuda_few_rows": Option(
        FEW_ROWS, 0, 65536, "rows for each multiprocessor up to which a row gets a block; beyond, a thread"
    ),
    "cuda_spread_trees": Option(
        SPREAD_TREES, 0, 65536, "trees of a block at most, where blocks share the trees of a row; 0: none do"
    ),
}
"""Options that every strategy has beside its own."""
COMMON_SPACE = {"cuda_few_rows": (0, 1, 8, 32, 128, 512, 2048), "cuda_spread_trees": (0, 32, 64, 128, 256)}
"""What tuning tries of them."""


def split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the CPU's strategy, and those of the GPU's."""
    gpu = {name: value for name, value in options.items() if name.startswith(PREFIX)}
    return {name: value for name, value in options.items() if name not in gpu}, gpu


def make_plan(
    canonical: Canonical, strategy: str, given: Mapping[str, Any], of_cpu: Mapping[str, Any] | None = None
) -> Step:
    """The plan for a forest.

    Args:
        canonical: The forest.
        strategy: "auto", "depth_rule", or one of STRATEGIES.
        given: Its options, and those of COMMON; "auto" takes none.
        of_cpu: Those of the CPU's strategy, of which "depth_rule" reads ``low`` and ``high``.

    Raises:
        StrategyError: the strategy is unknown, an option is wrong, or the strategy can't serve this forest.
    """
    reason = "chosen by the user"
    if strategy == "auto":
        if given:
            raise StrategyError(
                f"strategy='auto' takes no options, found {', '.join(given)}; name a strategy to set its options"
            )
        return _cheapest(canonical)
    if strategy == "depth_rule":
        strategy, _, reason = by_depth(canonical, of_cpu or {})
    if strategy not in STRATEGIES:
        raise StrategyError(f"unknown strategy {strategy!r}; known: {', '.join((*STRATEGIES, 'auto', 'depth_rule'))}")
    module = STRATEGIES[strategy]
    options = resolve(strategy, module.OPTIONS | COMMON, given)
    if wrong := module.wrong_options(options):
        raise StrategyError(wrong)
    if refusal := module.refusal(canonical, options):
        raise StrategyError(f"strategy {strategy!r} can't serve this forest: {refusal}. strategy='auto' avoids it")
    return Step(0, strategy, options, reason, {})


def _cheapest(canonical: Canonical) -> Step:
    considered: dict[str, float | str] = {}
    options = {name: resolve(name, module.OPTIONS | COMMON, {}) for name, module in STRATEGIES.items()}
    for name, module in STRATEGIES.items():
        refusal = module.refusal(canonical, options[name])
        considered[name] = refusal or round(module.cycles(canonical, options[name]), 1)
    costs = {name: cost for name, cost in considered.items() if not isinstance(cost, str)}
    best = min(costs, key=lambda name: costs[name] * (1.0 if name in WALKING else MARGIN))
    reason = f"the lowest estimate: {costs[best]:,.0f} cycles of a multiprocessor per row"
    return Step(0, best, options[best], reason, considered)


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
    """strategy -> option -> candidates for tuning, of the strategies that serve this forest."""
    defaults = {name: resolve(name, module.OPTIONS | COMMON, {}) for name, module in STRATEGIES.items()}
    return {
        name: module.space(canonical) | _common_space(canonical)
        for name, module in STRATEGIES.items()
        if module.refusal(canonical, defaults[name]) is None
    }


def _common_space(canonical: Canonical) -> dict[str, tuple[int, ...]]:
    found = dict(COMMON_SPACE)
    spread = [n for n in found.pop("cuda_spread_trees") if canonical.forest.n_trees > ROUNDS * n]
    return {**found, "cuda_spread_trees": tuple(spread)} if len(spread) > 1 else found


def by_estimate(canonical: Canonical, names: Iterable[str]) -> list[str]:
    """Strategies that serve this forest, the cheapest first."""

    def cost(name: str) -> float:
        module = STRATEGIES[name]
        return float(module.cycles(canonical, resolve(name, module.OPTIONS | COMMON, {})))

    return sorted(names, key=cost)
