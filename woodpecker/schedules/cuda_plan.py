"""The plan for a GPU: which strategy serves a forest there, with which options, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import StrategyError
from ..predicates import Canonical
from ..relay_ops.options import resolve
from ..relay_ops.plan import STRATEGIES as OF_CPUS
from ..relay_ops.plan import Step
from .cuda_strategies import STRATEGIES, WALKING

PREFIX = "cuda_"
MARGIN = 1.5
"""How many times cheaper than the walks another strategy must be by the estimates, as long as no GPU has confirmed
them."""


def split(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of the CPU's strategy, and those of the GPU's."""
    gpu = {name: value for name, value in options.items() if name.startswith(PREFIX)}
    return {name: value for name, value in options.items() if name not in gpu}, gpu


def make_plan(canonical: Canonical, strategy: str, given: Mapping[str, Any]) -> Step:
    """The plan for a forest.

    Args:
        canonical: The forest.
        strategy: "auto", or one of STRATEGIES.
        given: Its options; "auto" takes none.

    Raises:
        StrategyError: the strategy is not there for CUDA, an option is wrong, or the strategy can't serve this forest.
    """
    if strategy == "auto":
        if given:
            raise StrategyError(
                f"strategy='auto' takes no options, found {', '.join(given)}; name a strategy to set its options"
            )
        return _cheapest(canonical)
    if strategy not in STRATEGIES:
        known = ", ".join((*sorted(STRATEGIES), "auto"))
        what = "is not there for CUDA yet" if strategy in (*OF_CPUS, "depth_rule") else "is unknown"
        raise StrategyError(f"strategy {strategy!r} {what}; for CUDA there are {known}")
    module = STRATEGIES[strategy]
    options = resolve(strategy, module.OPTIONS, given)
    if wrong := module.wrong_options(options):
        raise StrategyError(wrong)
    if refusal := module.refusal(canonical, options):
        raise StrategyError(f"strategy {strategy!r} can't serve this forest: {refusal}. strategy='auto' avoids it")
    return Step(0, strategy, options, "chosen by the user", {})


def _cheapest(canonical: Canonical) -> Step:
    considered: dict[str, float | str] = {}
    options = {name: resolve(name, module.OPTIONS, {}) for name, module in STRATEGIES.items()}
    for name, module in STRATEGIES.items():
        refusal = module.refusal(canonical, options[name])
        considered[name] = refusal or round(module.cycles(canonical, options[name]), 1)
    costs = {name: cost for name, cost in considered.items() if not isinstance(cost, str)}
    best = min(costs, key=lambda name: costs[name] * (1.0 if name in WALKING else MARGIN))
    reason = f"the lowest estimate: {costs[best]:,.0f} cycles of a multiprocessor per row"
    return Step(0, best, options[best], reason, considered)
