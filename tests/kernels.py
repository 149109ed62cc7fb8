"""The kernels of a forest, without a predictor: for tests that read code instead of running it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from woodpecker.forest import Forest
from woodpecker.layout import Layout, Signature, signature
from woodpecker.predicates import Canonical, canonicalise
from woodpecker.relay_ops.plan import Step, make_plan
from woodpecker.schedules.cpu import lay_out, tables_of


@dataclass(frozen=True)
class Prepared:
    """What `woodpecker.compile` derives from a forest before it makes code; a layout and a signature per step."""

    canonical: Canonical
    plan: tuple[Step, ...]
    layouts: tuple[Layout, ...]
    signatures: tuple[Signature, ...]


def prepared(forest: Forest, strategy: str, *, features: Collection[str] = (), **options: Any) -> Prepared:
    canonical = canonicalise(forest)
    plan = make_plan(canonical, strategy, options, features)
    layouts = lay_out(canonical, tables_of(canonical), plan, features)
    signatures = tuple(
        signature(layout, step.strategy, forest.input_dtype, str(forest.values.dtype))
        for layout, step in zip(layouts, plan, strict=True)
    )
    return Prepared(canonical, plan, layouts, signatures)
