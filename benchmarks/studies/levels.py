"""One artifact with code for several CPU levels: each strategy on each level, and what a level costs."""

from __future__ import annotations

import functools
import importlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..contestants import AUTO, NO_LOGS, own_model, woodpecker
from ..report import number, seconds, size, table
from ..shapes import Info, Pool, Shape, open_pool, pool_rows
from ..stats import median
from ..worker import Reply
from .generate import balanced_rows, forest
from .runner import Cell, Settings, with_notes
from .timing import library_check, reference_check, take_turns

LEVELS = ("x86-64-v2", "x86-64-v3", "x86-64-v4", "llvm")
TARGETS: Mapping[str, Sequence[str]] = {
    **{name: (name,) for name in LEVELS},
    "x86-64 (v2, v3, v4)": LEVELS[:-1],
    "x86-64, llvm": LEVELS,
}
"""What artifacts are made for where their costs are measured."""
MODELS = ("xgb-500x8-28", "lgb-500x255-28", "lgb-100x31-28")
"""Of the suite."""
GENERATED: Mapping[str, dict[str, Any]] = {
    "perfect-5000x5-500": {"trees": 5000, "leaves": 32, "features": 500, "leaf_wise": False}
}
STRATEGIES: Mapping[str, Mapping[str, int]] = {
    "bitslice": {"min_rows": 1},
    "scan": {"min_rows": 1},
    "tree_traversal": {},
    "perfect_tree_traversal": {},
}
"""Options with which a strategy serves every row count by itself."""
COST = "cost"
BATCHES = (64, 1024, 16_384)
CHECKED = 100
LOADS = 5


def cells(shapes: Sequence[Shape], generated: Sequence[str], names: Sequence[str], settings: Settings) -> list[Cell]:
    """For each model one of each strategy, and one of what levels cost, with `auto`."""
    rows = max(*settings.batches, settings.check_rows)
    found = []
    for what in (*names, COST):
        about: dict[str, Any] = {"strategy": AUTO if what == COST else what}
        of = functools.partial(Cell, module="levels")
        for one in shapes:
            title = about | {"model": one.name, "title": one.title}
            found.append(of(f"{one.name}/{what}", title, arguments=about, shape=one, pool=pool_rows(one, rows)))
        found += [
            of(f"{name}/{what}", about | {"model": name}, arguments=about | {"made": GENERATED[name]})
            for name in generated
        ]
    order = [*(one.name for one in shapes), *generated]
    return sorted(found, key=lambda cell: order.index(cell.about["model"]))


def measure(
    output: str,
    settings: dict[str, Any],
    strategy: str,
    info: dict[str, Any] | None = None,
    made: dict[str, Any] | None = None,
) -> Reply:
    """One model and strategy, or, with `auto`, what levels cost.

    Returns:
        "batches": rows -> "ns_per_row": CPU level -> one number a round. With `auto`: "targets": what an artifact is
        made for -> "compile_seconds", "save_seconds", "artifact_bytes", "load_seconds".
    """
    import woodpecker as wp

    limits = Settings(**settings)
    if info is not None:
        about = Info.from_json(info)
        pool, model = open_pool(about), wp.from_model(own_model(about))
        check = functools.partial(library_check, about, model, pool, limits)
    else:
        model = forest(**(made or {}))
        pool = Pool(balanced_rows(max(2 * max(limits.batches), 16_384), model.n_features, 2))
        check = functools.partial(reference_check, model, pool.X[:CHECKED])
    with tempfile.TemporaryDirectory(dir=output) as folder:
        path = Path(folder) / "model.so"
        if strategy == AUTO:
            return {"targets": _costs(model, path, limits)}
        return _times(model, strategy, path, pool, check(), limits)


def _times(
    model: Any, strategy: str, path: Path, pool: Pool, differs: Callable[[Any], str | None], limits: Settings
) -> Reply:
    import woodpecker as wp
    from woodpecker.targets import resolve_levels

    native = [level.name for level in resolve_levels(LEVELS) if level.native]
    if limits.points:  # the ends of the range
        native = [native[0], native[-1]]
    options: dict[str, Any] = dict(STRATEGIES[strategy])
    wp.compile(model, strategy=strategy, target=native, tuning_logs=NO_LOGS, **options).save(path)
    loaded = {}
    for name in native:
        with _level(name):
            loaded[name] = wp.load(path, num_threads=1)
        if found := differs(loaded[name]):
            return {"status": "wrong", "reason": f"{name}: {found}"}
    programs = {name: (one.predict_raw, pool) for name, one in loaded.items()}
    return {"batches": {str(b): {"ns_per_row": take_turns(programs, b, limits, native)} for b in limits.batches}}


@contextmanager
def _level(name: str) -> Iterator[None]:
    """`load` takes this level, not the best one."""
    from woodpecker.runtime.machine import LEVEL_VARIABLE

    os.environ[LEVEL_VARIABLE] = name
    try:
        yield
    finally:
        del os.environ[LEVEL_VARIABLE]


def _costs(model: Any, path: Path, limits: Settings) -> Reply:
    import woodpecker as wp

    for module in woodpecker(AUTO).requires:  # what compiling imports is no part of what it takes
        importlib.import_module(module)
    wp.compile(forest(1, 2, 1), tuning_logs=NO_LOGS)
    found = {}
    for name in list(TARGETS)[: limits.points or None]:
        begin = time.perf_counter()
        compiled = wp.compile(model, target=list(TARGETS[name]), tuning_logs=NO_LOGS)
        made = time.perf_counter()
        compiled.save(path)
        saved, loads = time.perf_counter(), []
        record = {"compile_seconds": made - begin, "save_seconds": saved - made, "artifact_bytes": path.stat().st_size}
        if hasattr(compiled, "predict_raw"):  # else this machine can't run it
            for _ in range(LOADS):
                begin = time.perf_counter()
                wp.load(path)
                loads.append(time.perf_counter() - begin)
            record["load_seconds"] = float(np.median(loads))
        found[name] = record
        path.unlink()
    return found


def render(results: Mapping[str, Any]) -> list[str]:
    """ns/row of each strategy on each level, and what levels cost."""
    done = results["cells"]
    figures = [one["ns_per_row"] for cell in done.values() for one in cell.get("batches", {}).values()]
    names = list(dict.fromkeys(name for times in figures for name in times))
    rows, costs, notes = [], [], []
    for key, cell in done.items():
        about = cell["about"]
        if cell["status"] != "ok":
            notes.append(f"- {key}: {cell['status']}: {cell['reason']}")
        for batch, one in cell.get("batches", {}).items():
            shown = (number(median(one["ns_per_row"].get(name, []))) for name in names)
            rows.append((about["model"], about["strategy"], f"{int(batch):,}", *shown))
        for target, one in cell.get("targets", {}).items():
            taken = (one["compile_seconds"], one["save_seconds"])
            last = (size(one["artifact_bytes"]), seconds(one.get("load_seconds")))
            costs.append((about["model"], target, *map(seconds, taken), *last))
    lines = [
        "One artifact with code for all levels, each level loaded into one process, one thread, ns/row of whole calls. "
        "`bitslice` and `scan` serve every row by themselves (`min_rows=1`). `llvm` is this machine's CPU.",
        "",
        *table(("model", "strategy", "rows", *names), rows),
        "",
        "What a level costs, with `auto`: artifacts for one level and for several.",
        "",
        *table(("model", "target", "compile", "save", "artifact", "load"), costs),
    ]
    return with_notes(lines, notes)
