"""The same forest on rows that split evenly everywhere, and on rows that nearly all take one path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..contestants import AUTO
from ..report import ABSENT, number, table
from ..shapes import Pool
from ..stats import median
from ..worker import Reply
from .generate import balanced_rows, forest, skewed_rows
from .runner import Cell, Settings, timed, with_notes
from .timing import compile_all, reference_check, strategy_names, take_turns

SHAPES: dict[str, dict[str, Any]] = {
    "perfect-500x8-28": {"trees": 500, "leaves": 256, "features": 28, "leaf_wise": False},
    "leaf-wise-500x255-28": {"trees": 500, "leaves": 255, "features": 28},
}
QUICK: dict[str, dict[str, Any]] = {"perfect-4x3-6": {"trees": 4, "leaves": 8, "features": 6, "leaf_wise": False}}
KINDS = {"balanced": balanced_rows, "skewed": skewed_rows}
BATCHES = (1, 64, 1024)
POOL = 16_384
CHECKED = 100


def cells(shapes: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    return [Cell(name, dict(made), "routing", {"made": dict(made)}) for name, made in shapes.items()]


def measure(output: str, settings: dict[str, Any], made: dict[str, Any]) -> Reply:
    """One forest: compile every strategy, compare, and time each on both kinds of rows in turns.

    Returns:
        `Compiled.outcome`; "batches": rows of a call -> kind of rows -> strategy -> one number a round.
    """
    limits, model = Settings(**settings), forest(**made)
    pools = {kind: Pool(make(POOL, made["features"], 2)) for kind, make in KINDS.items()}
    checks = [reference_check(model, pool.X[:CHECKED]) for pool in pools.values()]
    compiled = compile_all(
        model, strategy_names(limits), lambda one: next((found for check in checks if (found := check(one))), None)
    )
    batches = {}
    for batch in limits.batches:
        programs = {
            f"{name}/{kind}": (one.predict_raw, pool)
            for name, one in compiled.programs.items()
            for kind, pool in pools.items()
        }
        times = take_turns(programs, batch, limits, [f"{AUTO}/{kind}" for kind in pools])
        batches[str(batch)] = {
            kind: {name: times[f"{name}/{kind}"] for name in compiled.programs if f"{name}/{kind}" in times}
            for kind in pools
        }
    return {**compiled.outcome(), "batches": batches}


def render(results: Mapping[str, Any]) -> list[str]:
    """ns/row of each strategy on both kinds of rows."""
    rows = []
    done, notes = timed(results["cells"])
    for key, cell in done.items():
        for batch, kinds in cell["batches"].items():
            for name, even in kinds["balanced"].items():
                skewed = kinds["skewed"].get(name)
                if skewed is None:
                    continue
                balanced, taken = median(even), median(skewed)
                # Not the median of the rounds' ratios: one row takes one of two times, from call to call.
                factor = f"{balanced / taken:.2f}x" if balanced and taken else ABSENT
                rows.append((key, f"{int(batch):,}", name, number(balanced), number(taken), factor))
        notes += [
            f"- {key}: {name}: {one['status']}: {one['reason']}"
            for name, one in cell["strategies"].items()
            if one["status"] != "ok"
        ]
    lines = [
        "Generated forests. `balanced`: every split sends half of the rows to either side. `skewed`: 99 % of the "
        "values are those of one row, so that nearly all rows take one path. ns/row of whole calls, one thread.",
        "",
        *table(("forest", "rows", "strategy", "balanced", "skewed", "balanced over skewed"), rows),
    ]
    return with_notes(lines, notes)
