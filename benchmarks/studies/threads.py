"""Large batches on one thread, two, and so on, up to the CPUs that this process may use.

Beside n threads of one call there are n calls on one thread each, at the same time, with a share of the rows each: what
the machine gives to that many threads that have nothing to do with one another, other users and shared caches included.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..check import unequal_bits
from ..contestants import NO_LOGS, Predict, own_model
from ..report import ABSENT, number, table
from ..shapes import Info, Pool, Shape, open_pool, pool_rows
from ..stats import median, ratio
from ..worker import Reply, time_calls
from .runner import Cell, Settings, timed, with_notes
from .timing import library_check, take_turns

BATCHES = (1024, 10_000, 100_000)
APART = " calls"
"""After a number: so many calls at once."""


def cells(shapes: Iterable[Shape], settings: Settings, most: int) -> list[Cell]:
    """One a model; ``most``: the most threads."""
    rows = max(*settings.batches, settings.check_rows)
    return [
        Cell(
            shape.name,
            {"title": shape.title},
            "threads",
            {"most": most},
            shape=shape,
            pool=pool_rows(shape, rows),
        )
        for shape in shapes
    ]


def measure(output: str, settings: dict[str, Any], info: dict[str, Any], most: int) -> Reply:
    """One model: save it compiled with `auto`, load it once for each number of threads, and time them in turns.

    Returns:
        "batches": rows -> "ns_per_row": number of threads -> one number a round, "apart": the same for so many calls;
        "cpus_used": number of threads -> CPU seconds per second, at the largest batch; "load_average".
    """
    import woodpecker as wp

    about, limits = Info.from_json(info), Settings(**settings)
    pool, model = open_pool(about), wp.from_model(own_model(about))
    with tempfile.TemporaryDirectory(dir=output) as folder:
        path = Path(folder) / "model.so"
        wp.compile(model, tuning_logs=NO_LOGS).save(path)
        loaded = {str(n): wp.load(path, num_threads=n) for n in range(1, most + 1)}
        largest = pool.X[: max(limits.batches)]
        alone = loaded["1"].predict_raw(largest)
        found = library_check(about, model, pool, limits)(loaded["1"])
        for n, one in loaded.items():
            found = found or unequal_bits(one.predict_raw(largest), alone, f"raw scores on {n} threads")
        if found:
            return {"status": "wrong", "reason": found}
        programs: dict[str, tuple[Predict, Pool]] = {n: (one.predict_raw, pool) for n, one in loaded.items()}
        # CPU time adds threads up; what counts here is the time on the wall.
        wall = replace(limits, clock="wall")
        with ThreadPoolExecutor(most) as callers:
            own = [wp.load(path, num_threads=1).predict_raw for _ in range(most)]
            programs |= {n + APART: (_at_once(callers, own[: int(n)]), pool) for n in loaded if n != "1"}
            batches = {str(b): _split(take_turns(programs, b, wall, ("1",))) for b in limits.batches}
        used = {}
        for n, one in loaded.items():
            reply = time_calls(one.predict_raw, pool, max(limits.batches), limits.turn_seconds, 0, 1e6)
            used[n] = round(reply["cpu_ns"] / max(reply["wall_ns"], 1), 2)
    noise = {"cpus_used": used, "load_average": round(os.getloadavg()[0], 2)}
    return {"strategy": loaded["1"].strategy, "batches": batches, **noise}


def _at_once(callers: ThreadPoolExecutor, predict: Sequence[Predict]) -> Predict:
    """Calls at the same time, each with its share of the rows."""

    def call(X: Any) -> Any:
        shares = np.array_split(X, len(predict))
        return list(callers.map(lambda one, share: one(share), predict, shares))

    return call


def _split(times: Mapping[str, list[float]]) -> dict[str, dict[str, list[float]]]:
    apart = {n: values for n, values in times.items() if n.endswith(APART)}
    return {
        "ns_per_row": {n: values for n, values in times.items() if n not in apart},
        "apart": {n.removesuffix(APART): values for n, values in apart.items()},
    }


def speed_up(times: Mapping[str, list[float]], n: str) -> float | None:
    """How many times faster than one thread."""
    return ratio(times["1"], times[n]) if n in times else None


def render(results: Mapping[str, Any]) -> list[str]:
    """ns/row on one thread, and how many times faster more of them are."""
    rows = []
    done, notes = timed(results["cells"])
    counts = sorted(
        {n for cell in done.values() for one in cell["batches"].values() for n in one["ns_per_row"]}, key=int
    )
    for key, cell in done.items():
        for batch, one in cell["batches"].items():
            times = one["ns_per_row"]
            both = (times, {"1": times["1"], **one["apart"]})
            ups = [speed_up(some, n) for n in counts if n != "1" for some in both]
            shown = (ABSENT if up is None else f"{up:.2f}x" for up in ups)
            rows.append((key, cell["strategy"], f"{int(batch):,}", number(median(times["1"])), *shown))
        used = ", ".join(f"{cpus:.2f} by {n}" for n, cpus in cell["cpus_used"].items())
        notes.append(f"- {key}: CPUs used, by number of threads: {used}; load average {cell['load_average']:.1f}")
    more = [f"{n} {what}" for n in counts if n != "1" for what in ("threads", "calls at once")]
    head = ("model", "strategy", "rows", "ns/row on 1 thread", *more)
    about = (
        "Whole calls, time on the wall; speed-up against one thread. Calls at once: as many Python threads, each "
        "calling on one thread with its share of the rows; they cost some 100 µs to start, and at large batches show "
        "what the machine gives to that many threads. Where fewer CPUs were used than there were threads, others had "
        "them, and the speed-up tells of the machine's load."
    )
    lines = [about, "", *table(head, rows)]
    return with_notes(lines, notes)
