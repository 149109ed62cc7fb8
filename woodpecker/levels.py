"""CPU levels: one model's code for several CPUs, of which `load` chooses. A lone target is one level.

Each level has a plan, tables and code of its own, because a target's features decide on all of them. Their
directories follow one another in the model blob, where tables that levels have in common are stored once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm

from .layout import Layout, Signature, directory, signature
from .predicates import Canonical
from .relay_ops.plan import Step, make_plan
from .runtime.format import Directory
from .schedules.cpu import lay_out, tables_of
from .targets import CpuTarget
from .tuning.lookup import tuned_plan


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
        tuning: Which tuning record the plan comes from, see `tuned_plan`; None: a strategy was named.
    """

    target: CpuTarget
    suffix: str
    first_directory: int
    plan: tuple[Step, ...]
    signatures: tuple[Signature, ...]
    row_block: int
    scratch_bytes: int
    tuning: Mapping[str, Any] | None


def make_levels(
    canonical: Canonical, targets: Sequence[CpuTarget], strategy: str, options: Mapping[str, Any], tuning_logs: Any
) -> tuple[tuple[Level, ...], list[Directory]]:
    """A level for each target, and the directories of all of them. "auto" takes the plan of a tuning record of the
    level's target, where there is one.

    Raises:
        StrategyError: see `make_plan`. InputError, OSError: see `tuned_plan`.
    """
    tables = tables_of(canonical)
    levels: list[Level] = []
    directories: list[Directory] = []
    for number, target in enumerate(targets):
        plan, tuning = None, None
        if strategy == "auto" and not options:
            plan, tuning = tuned_plan(canonical, target, tuning_logs, tvm.__version__)
        plan = plan or make_plan(canonical, strategy, options)
        suffix = f"_level{number}" if len(targets) > 1 else ""
        level, added = level_of(canonical, tables, plan, target, suffix, len(directories), tuning)
        levels.append(level)
        directories += added
    return tuple(levels), directories


def level_of(
    canonical: Canonical,
    tables: Callable[[Step], Layout],
    plan: tuple[Step, ...],
    target: CpuTarget,
    suffix: str = "",
    first_directory: int = 0,
    tuning: Mapping[str, Any] | None = None,
) -> tuple[Level, list[Directory]]:
    """The level of a plan, and its directories: tables, then what code depends on."""
    forest = canonical.forest
    layouts = lay_out(canonical, tables, plan, target.features)
    signatures = tuple(
        signature(layout, step.strategy, forest.input_dtype, str(forest.values.dtype))
        for layout, step in zip(layouts, plan, strict=True)
    )
    row_block, scratch_bytes = (layouts[-1].scalars[name] for name in ("row_block", "scratch_bytes"))
    level = Level(target, suffix, first_directory, plan, signatures, row_block, scratch_bytes, tuning)
    return level, list(map(directory, layouts, signatures))
