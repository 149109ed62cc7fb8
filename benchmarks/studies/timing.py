"""Inside of a worker: compile, check, and time several programs in turns on the same fresh rows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..check import unequal_bits, unequal_leaves
from ..contestants import Predict, threshold_rows
from ..peers import LIBRARY_ITSELF
from ..shapes import Info, Pool
from ..worker import time_calls

CHUNK = 1024
"""Rows of one call where answers are compared: what most strategies take at once, and a rest."""


def calibrate(predict: Predict, pool: Pool, batch: int) -> float:
    """ns of one call after a first one, roughly."""
    views = pool.batches(batch, 3, 0)
    predict(views[0])
    begin = time.perf_counter_ns()
    for view in views[1:]:
        predict(view)
    return (time.perf_counter_ns() - begin) / 2


def take_turns(
    programs: Mapping[str, Predict],
    pool: Pool,
    batch: int,
    rounds: int,
    turn_seconds: float,
    clock: str,
    expected_ns: Mapping[str, float],
) -> dict[str, list[float]]:
    """ns per row of each program in each round: A B C, B C A, C A B, ... on the same rows within a round.

    Who begins changes, because what ran before leaves its tables in the caches.
    """
    names = list(programs)
    expected = dict(expected_ns)
    found: dict[str, list[float]] = {name: [] for name in names}
    for r in range(rounds):
        for name in names[r % len(names) :] + names[: r % len(names)]:
            reply = time_calls(programs[name], pool, batch, turn_seconds, r * 101, expected[name], clock)
            expected[name] = float(np.median(reply["ns"]))
            found[name].append(expected[name] / batch)
    return found


def library_answers(info: Info, rows: Mapping[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """name of rows -> "raw" and, where the library has them, "leaves": the library's own."""
    model = LIBRARY_ITSELF.read(info)
    raw = LIBRARY_ITSELF.load(info, model, Path())
    leaves = None
    if info.shape.library != "sklearn" or hasattr(model, "apply"):
        leaves = LIBRARY_ITSELF.leaves and LIBRARY_ITSELF.leaves(info, model, Path())
    return {
        name: {"raw": np.asarray(raw(X)), **({} if leaves is None else {"leaves": np.asarray(leaves(X))})}
        for name, X in rows.items()
    }


def rows_to_check(info: Info, model: Any, pool: Pool, ordinary: int, at_thresholds: int) -> dict[str, np.ndarray]:
    """Ordinary rows of the pool, and rows at and next to the model's own thresholds."""
    return {
        "rows": pool.X[:ordinary],
        "threshold rows": threshold_rows(model, at_thresholds, 3, info.shape.dtype),
    }


def difference(
    predictor: Any, rows: Mapping[str, np.ndarray], wanted: Mapping[str, Mapping[str, np.ndarray]]
) -> str | None:
    """Where a predictor differs from the library's raw scores or leaf ids, or None: single rows, and chunks."""
    for name, X in rows.items():
        lone = min(16, len(X))
        calls = [X[i : i + 1] for i in range(lone)] + [X[i : i + CHUNK] for i in range(lone, len(X), CHUNK)]
        raw = np.concatenate([predictor.predict_raw(call) for call in calls])
        theirs = wanted[name]["raw"].reshape(len(X), -1)
        found = unequal_bits(raw, theirs, "raw scores")
        if found is None and "leaves" in wanted[name]:
            leaves = np.concatenate([predictor.apply(call) for call in calls])
            found = unequal_leaves(leaves, wanted[name]["leaves"])
        if found is not None:
            return f"{name}: {found}"
    return None
