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
from .relay_ops.plan import WALKING, Step, make_plan
from .relay_ops.vectors import vectors_of
from .runtime import machine
from .runtime.format import Directory
from .runtime.threads import NS_PER_SHARE
from .schedules.cpu import lay_out, shared_rows, tables_of
from .schedules.cpu_strategies import trees_of
from .targets import CpuTarget
from .tuning.lookup import tuned_plan

TERMS_BYTES = 2**20
"""Terms of a call should stay in the second-level cache."""
TERMS_ROWS = 64
"""Beyond this many rows walks share rows out, not trees."""


@dataclass(frozen=True)
class Terms:
    """Entries that share trees out, see `woodpecker.schedules.cpu_terms`.

    Args:
        groups: Groups of trees that there are.
        width: Terms of a row.
        max_rows: Rows that they serve at most.
        ns_per_row: Estimated.
    """

    groups: int
    width: int
    max_rows: int
    ns_per_row: float


@dataclass(frozen=True)
class Level:
    """What runs on the CPUs of one target. Holds no tables: it lives as long as the predictor.

    Args:
        target: The target.
        suffix: What the names of its entries end in; "" for a lone level.
        first_directory: The number of its first directory in the model blob; it has one a step of the plan.
        plan: Its plan.
        signatures: What the code of each step is specialised on.
        shared_rows: Rows that the threads of a call share out.
        scratch_bytes: Bytes of scratch that a task needs.
        tuning: Which tuning record the plan comes from, see `tuned_plan`; None: a strategy was named.
        terms: How the threads of a call over a few rows share the trees out, or None: they don't.
        few: How many steps have entries of their own, see `_few`.
    """

    target: CpuTarget
    suffix: str
    first_directory: int
    plan: tuple[Step, ...]
    signatures: tuple[Signature, ...]
    shared_rows: int
    scratch_bytes: int
    tuning: Mapping[str, Any] | None
    terms: Terms | None
    few: int

    @property
    def few_rows(self) -> int:
        """Calls of fewer rows than this are for the entries of `manifest.FEW`; 0: there are none."""
        return self.plan[self.few].min_rows if self.few else 0


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
        plan = plan or make_plan(canonical, strategy, options, target.features)
        suffix = f"_level{number}" if len(targets) > 1 else ""
        level, added = level_of(canonical, tables, plan, target, suffix, len(directories), tuning)
        levels.append(level)
        directories += added
    return tuple(levels), directories


def _terms(canonical: Canonical, plan: tuple[Step, ...], first: Signature, target: CpuTarget) -> Terms | None:
    """The entries that share trees out, where the rows for which nothing but walks is planned take long enough."""
    if plan[0].strategy not in WALKING or target.system == machine.WEBASSEMBLY:  # which has no threads
        return None
    forest = canonical.forest
    width = forest.n_trees * (forest.n_outputs if forest.vector_leaves else 1)
    fits = TERMS_BYTES // (max(width, 1) * forest.values.dtype.itemsize)
    later = (step.min_rows - 1 for step in plan if step.strategy not in WALKING)
    ns = round(float(WALKING[plan[0].strategy].cost(canonical, 1, vectors_of(target.features))), 1)
    max_rows = min(next(later, TERMS_ROWS), fits)
    if max_rows * ns < 2 * NS_PER_SHARE:
        return None
    return Terms(-(-forest.n_trees // trees_of(first)), width, max_rows, ns)


def _few(plan: tuple[Step, ...]) -> int:
    """The leading steps, walks, that have entries of their own beside those of the whole plan, or 0.

    Blocks of rows need hundreds of registers and a stack of kilobytes, and a walk in the same function was
    measured to take 1.2 to 2 times as long as by itself.
    """
    return next((i for i, step in enumerate(plan) if step.strategy not in WALKING), 0)


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
    level = Level(
        target,
        suffix,
        first_directory,
        plan,
        signatures,
        shared_rows(signatures[-1]),
        layouts[-1].scalars["scratch_bytes"],
        tuning,
        _terms(canonical, plan, signatures[0], target),
        _few(plan),
    )
    return level, list(map(directory, layouts, signatures))
