"""What missing values and categories cost: a forest, and the same trees without what it takes to handle them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..contestants import NO_LOGS
from ..report import number, table
from ..shapes import Pool
from ..stats import median, ratio
from ..worker import Reply
from .generate import balanced_rows, both_ways, forest, with_categories
from .routing import CHECKED, POOL
from .runner import Cell, Settings, timed, with_notes
from .timing import reference_check, take_turns

STRIPPED = "stripped"
KINDS: Mapping[str, str] = {
    STRIPPED: "a missing value always goes right, as a comparison with NaN does",
    "missing": "each node says which way a missing value goes",
    "categories": "the same, and a seventh of the features are categorical, with 32 categories",
}
MISSING = 0.1
"""Share of the values."""
BATCHES = (64, 1024, 16_384)


def cells(shapes: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    return [Cell(name, dict(made), "missing", {"made": dict(made)}) for name, made in shapes.items()]


def measure(output: str, settings: dict[str, Any], made: dict[str, Any]) -> Reply:
    """One forest: `auto` on each kind of it, in turns, on rows with missing values.

    Returns:
        "batches": rows of a call -> kind of forest -> one number a round.
    """
    import woodpecker as wp

    limits, rows = Settings(**settings), max(POOL, 2 * max(Settings(**settings).batches))
    plain = forest(**made)
    either = both_ways(plain, 3)
    mixed, X = with_categories(either, balanced_rows(rows, made["features"], 2), 4)
    absent = np.random.default_rng(5).random(X.shape) < MISSING
    programs = {}
    for kind, model in zip(KINDS, (plain, either, mixed), strict=True):
        pool = Pool(np.where(absent, np.float32(np.nan), X))
        one = wp.compile(model, num_threads=1, tuning_logs=NO_LOGS)
        if found := reference_check(model, pool.X[:CHECKED])(one):
            return {"status": "wrong", "reason": f"{kind}: {found}"}
        programs[kind] = (one.predict_raw, pool)
    return {"batches": {str(batch): take_turns(programs, batch, limits, tuple(KINDS)) for batch in limits.batches}}


def render(results: Mapping[str, Any]) -> list[str]:
    """ns/row of each kind, and what it takes beside the stripped one."""
    rows = []
    done, notes = timed(results["cells"])
    for key, cell in done.items():
        for batch, times in cell["batches"].items():
            stripped = times[STRIPPED]
            more = (f"{(ratio(times[kind], stripped) or 0):.2f}x" for kind in KINDS if kind != STRIPPED)
            rows.append((key, f"{int(batch):,}", *(number(median(times[kind])) for kind in KINDS), *more))
    heads = [f"{kind} over {STRIPPED}" for kind in KINDS if kind != STRIPPED]
    lines = [
        "Generated forests, `auto`, one thread, ns/row of whole calls; a tenth of all values is missing. "
        + " ".join(f"`{kind}`: {what}." for kind, what in KINDS.items()),
        "",
        *table(("forest", "rows", *KINDS, *heads), rows),
    ]
    return with_notes(lines, notes)
