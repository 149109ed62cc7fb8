"""Time, memory, size and compile time over trees, leaves, features and batch.

The forests are generated (`benchmarks.studies.generate`), so there is no library in these figures.
"""

from __future__ import annotations

import importlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..contestants import AUTO, NO_LOGS, woodpecker
from ..report import ABSENT, number, seconds, size, table
from ..shapes import MAX_POOL_BYTES, Pool
from ..stats import median
from ..worker import Reply, memory
from .generate import balanced_rows, forest
from .runner import Cell, Settings, timed
from .timing import reference_check, take_turns

BASE = {"trees": 100, "leaves": 64, "features": 28}
AXES: dict[str, tuple[int, ...]] = {
    "trees": (10, 30, 100, 300, 1000, 3000, 10_000),
    "leaves": (4, 16, 64, 256, 1024, 4096),
    "features": (4, 16, 64, 256, 1024, 4000),
    "batch": (1, 10, 100, 1000, 10_000, 100_000, 1_000_000),
}
BATCHES = (1, 10_000)
"""Rows of a call on every axis but "batch"."""
CHECKED = 100
"""Rows whose answers are compared with the reference interpreter's, which takes a Python loop a tree."""


def cells(axes: Sequence[str], settings: Settings) -> list[Cell]:
    """A cell a forest; the axis "batch" is one cell."""
    found = []
    for axis in axes:
        points = AXES[axis][: settings.points or None]
        if axis == "batch":
            found.append(_cell("batch", points, BASE))
        else:
            found += [_cell(f"{axis}/{point}", settings.batches, BASE | {axis: point}) for point in points]
    return found


def _cell(key: str, batches: Sequence[int], made: Mapping[str, int]) -> Cell:
    return Cell(key, dict(made), "scaling", {"batches": list(batches), "made": dict(made)})


def measure(output: str, settings: dict[str, Any], batches: list[int], made: dict[str, int]) -> Reply:
    """One forest: compile, save, load, compare, time.

    Returns:
        "strategy"; "compile_seconds", with saving; "rss_before" and "peak_bytes" of this process while it compiled;
        "artifact_bytes"; "load_seconds"; "batches": rows -> "ns_per_row": one number a round.
    """
    import woodpecker as wp

    for module in woodpecker(AUTO).requires:  # what compiling imports is no part of what it takes
        importlib.import_module(module)
    limits = Settings(**settings)
    model = forest(made["trees"], made["leaves"], made["features"])
    with tempfile.TemporaryDirectory(dir=output) as folder:
        path = Path(folder) / "model.so"
        reset_peak()
        before, begin = memory("VmRSS"), time.perf_counter()
        wp.compile(model, tuning_logs=NO_LOGS).save(path)
        record: dict[str, Any] = {"compile_seconds": time.perf_counter() - begin}
        record |= {"rss_before": before, "peak_bytes": memory("VmHWM"), "artifact_bytes": path.stat().st_size}
        begin = time.perf_counter()
        loaded = wp.load(path, num_threads=1)
        record |= {"load_seconds": time.perf_counter() - begin, "strategy": loaded.strategy}
        width = 4 * made["features"]
        rows = max(min(max(2 * max(batches), 16_384), MAX_POOL_BYTES // width), *batches)
        pool = Pool(balanced_rows(rows, made["features"], 2))
        wrong = reference_check(model, pool.X[:CHECKED])(loaded)
        if wrong:
            return {**record, "status": "wrong", "reason": wrong}
        programs = {AUTO: (loaded.predict_raw, pool)}
        record["batches"] = {str(b): {"ns_per_row": take_turns(programs, b, limits)[AUTO]} for b in batches}
    return record


def reset_peak() -> None:
    """Let VmHWM begin anew, where Linux allows it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def render(results: Mapping[str, Any]) -> list[str]:
    """A table for each axis."""
    lines = [
        f"Generated forests of {BASE['trees']} trees x {BASE['leaves']} leaves, {BASE['features']} features, but for "
        "what a table varies; trees grow leaf by leaf, every split is even. `auto`, one thread, ns/row of whole calls. "
        "There is no library here: nobody trained these forests. `memory`: of the compiling process at its peak, above "
        "what it had before.",
        "",
    ]
    notes = []
    for axis in AXES:
        found = {key: cell for key, cell in results["cells"].items() if key.partition("/")[0] == axis}
        found, others = timed(found)
        notes += others
        if not found:
            continue
        if axis == "batch":
            (cell,) = found.values()
            rows = [(f"{int(batch):,}", number(median(one["ns_per_row"]))) for batch, one in cell["batches"].items()]
            lines += [f"## {axis}: {cell['strategy']}", "", *table((axis, "ns/row"), rows), ""]
            continue
        batches = list(dict.fromkeys(batch for cell in found.values() for batch in cell["batches"]))
        rows = []
        for key, cell in found.items():
            times = [median(cell["batches"][b]["ns_per_row"]) if b in cell["batches"] else None for b in batches]
            made = (seconds(cell["compile_seconds"]), size(cell["peak_bytes"] - cell["rss_before"]))
            rows.append(
                (
                    f"{int(key.partition('/')[2]):,}",
                    cell["strategy"],
                    *(ABSENT if ns is None else number(ns) for ns in times),
                    *made,
                    size(cell["artifact_bytes"]),
                    seconds(cell["load_seconds"]),
                )
            )
        head = (axis, "strategy", *(f"{int(b):,} rows" for b in batches), "compile", "memory", "artifact", "load")
        lines += [f"## {axis}", "", *table(head, rows), ""]
    return [*lines, *notes]
