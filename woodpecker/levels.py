"""CPU levels: one model's code for several CPUs, of which `load` chooses. A lone target is one level.

Each level has a plan, tables and code of its own, because a target's features decide on all of them. Their
directories follow one another in the model blob, where tables that levels have in common are stored once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .layout import Signature, directory, signature
from .predicates import Canonical
from .relay_ops.plan import Step, make_plan
from .runtime.format import Directory
from .schedules.cpu import lay_out, tables_of
from .targets import CpuTarget


@dataclass(frozen=True)
class Level:
    """What runs on the CPUs of one target. Holds no tables: it lives as long as the predictor.

    Args:
        target: The target.
        suffix: What the names of its entries end in; "" for a lone level.
        first_directory: The number of its first directory in the model blob; it has one a step of the plan.
        plan: Its plan.
        signatures: What the code of each step is specialised on.
        row_block: Rows that are computed together.
        scratch_bytes: Bytes of scratch that a task needs.
    """

    target: CpuTarget
    suffix: str
    first_directory: int
    plan: tuple[Step, ...]
    signatures: tuple[Signature, ...]
    row_block: int
    scratch_bytes: int


def make_levels(
    canonical: Canonical, targets: Sequence[CpuTarget], strategy: str, options: Mapping[str, Any]
) -> tuple[tuple[Level, ...], list[Directory]]:
    """A level for each target, and the directories of all of them: plan, then tables, then what code depends on.

    Raises:
        StrategyError: see `make_plan`.
    """
    forest = canonical.forest
    tables = tables_of(canonical)
    levels: list[Level] = []
    directories: list[Directory] = []
    for number, target in enumerate(targets):
        plan = make_plan(canonical, strategy, options)
        layouts = lay_out(canonical, tables, plan, target.features)
        signatures = tuple(
            signature(layout, step.strategy, forest.input_dtype, str(forest.values.dtype))
            for layout, step in zip(layouts, plan, strict=True)
        )
        suffix = f"_level{number}" if len(targets) > 1 else ""
        row_block, scratch_bytes = (layouts[-1].scalars[name] for name in ("row_block", "scratch_bytes"))
        levels.append(Level(target, suffix, len(directories), plan, signatures, row_block, scratch_bytes))
        directories += map(directory, layouts, signatures)
    return tuple(levels), directories
