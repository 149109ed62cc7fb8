"""The kernels of a forest, without a predictor: for tests that read code instead of running it."""

from __future__ import annotations

from typing import Any

from woodpecker.forest import Forest
from woodpecker.layout import Layout, Signature, signature
from woodpecker.predicates import Canonical, canonicalise
from woodpecker.relay_ops import aggregate, predicate
from woodpecker.relay_ops.plan import STRATEGIES, make_plan
from woodpecker.schedules.cpu import plan_scratch


def prepared(forest: Forest, strategy: str, **options: Any) -> tuple[Canonical, Layout, Signature]:
    """What `woodpecker.compile` derives from a forest before it makes code."""
    canonical = canonicalise(forest)
    module = STRATEGIES[strategy]
    step = make_plan(canonical, strategy, options)[0]
    layout = predicate.prepare(canonical) | module.prepare(canonical, step.options)
    layout |= aggregate.prepare(canonical, module.positions(canonical, layout))
    layout = plan_scratch(layout, strategy)
    return canonical, layout, signature(layout, strategy, forest.input_dtype, str(forest.values.dtype))
