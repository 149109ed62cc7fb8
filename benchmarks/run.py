"""The suite: train, build, check, time; shape after shape, from wherever the last run stopped."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import machine
from .cell import Running, Settings, check_routing, checked_rows, measure, medians, wanted_answers
from .contestants import LIBRARY, NO_LOGS, WOODPECKER, Contestant, missing_module
from .driver import Failed, Refused, train, worker
from .shapes import Info, Shape, pool_rows
from .state import State

SCHEMA = 1

Train = Callable[[Shape, int, int, Path], Info]
Say = Callable[[str], None]


def say(text: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stderr.flush()


@dataclass(frozen=True)
class Run:
    """What every shape of a run is given.

    Args:
        contestants: Name, as `benchmarks.contestants.resolve` takes it, -> contestant. One is of kind LIBRARY.
        settings: How much is measured.
        output: The folder of models, artifacts, logs and answers.
        state: What was measured so far.
        train: Makes the model of a shape, see `benchmarks.driver.train`.
        say: Told what is going on.
    """

    contestants: Mapping[str, Contestant]
    settings: Settings
    output: Path
    state: State
    train: Train
    say: Say


def header(shapes: Sequence[Shape], names: Sequence[str], settings: Settings) -> dict[str, Any]:
    """What results depend on; a run can be resumed only where all of it is the same."""
    return {
        "schema": SCHEMA,
        "machine": machine.describe(),
        "tuning_logs": list(NO_LOGS),
        "settings": dataclasses.asdict(settings),
        "shapes": [dataclasses.asdict(shape) for shape in shapes],
        "contestants": list(names),
    }


def run_suite(
    shapes: Sequence[Shape],
    contestants: Mapping[str, Contestant],
    settings: Settings,
    output: Path,
    *,
    train: Train = train,
    say: Say = say,
) -> dict[str, Any]:
    """Run what is not done yet, and return the results; docs/benchmarks.md has their schema.

    Args:
        shapes: The models.
        contestants: Name, as `benchmarks.contestants.resolve` takes it, -> contestant. One is of kind LIBRARY.
        settings: How much is measured.
        output: The folder of models, artifacts, logs and the state.
        train: Makes the model of a shape, see `benchmarks.driver.train`.
        say: Told what is going on.

    Raises:
        StateMismatch: the folder holds another run.
    """
    state = State(output / "state.jsonl", header(shapes, list(contestants), settings))
    run = Run(contestants, settings, output, state, train, say)
    for shape in shapes:
        try:
            _run_shape(shape, run)
        except (Refused, Failed) as problem:
            say(f"{shape.name}: skipped: {problem}")
            state.put("shape", shape.name, {"status": "skipped", "reason": str(problem)})
    return collect(state, shapes, contestants, settings)


def collect(
    state: State, shapes: Sequence[Shape], contestants: Mapping[str, Contestant], settings: Settings
) -> dict[str, Any]:
    """The results so far, as JSON values."""
    about = dict(state.get("header") or {})
    about["commit"] = machine.commit()
    about["woodpecker_changed_meanwhile"] = about["machine"]["woodpecker_sources"] != machine.source_digest()
    about["shapes"] = []
    complete = True
    for shape in shapes:
        cells = {str(batch): state.get("cell", shape.name, batch) for batch in settings.batches}
        complete = complete and all(cell is not None for cell in cells.values())
        about["shapes"].append(
            {
                **dataclasses.asdict(shape),
                **(state.get("shape", shape.name) or {"status": "unfinished"}),
                "builds": {name: state.get("build", shape.name, name) for name in contestants},
                "cells": {batch: cell for batch, cell in cells.items() if cell is not None},
            }
        )
    about["complete"] = complete
    return about


def failures(results: Mapping[str, Any]) -> list[str]:
    """Where woodpecker, or the library itself, differed from the library or broke. A sound run has none."""
    found = []
    for shape in results["shapes"]:
        for name, build in shape["builds"].items():
            if build and build["kind"] == WOODPECKER and build["status"] in ("wrong", "failed"):
                found.append(f"{shape['name']}: {name}: {build['reason']}")
        for batch, cell in shape["cells"].items():
            for name, one in cell["contestants"].items():
                if one["kind"] in (WOODPECKER, LIBRARY) and one["status"] in ("wrong", "failed"):
                    found.append(f"{shape['name']}, batch {batch}: {name}: {one['reason']}")
    return found


def _run_shape(shape: Shape, run: Run) -> None:
    state, settings, say = run.state, run.settings, run.say
    if all(state.get("cell", shape.name, batch) is not None for batch in settings.batches):
        say(f"{shape.name}: done before")
        return
    say(f"{shape.name}: {shape.title}")
    with contest(shape, run) as (info, running, library):
        folder, rows = run.output / "answers", max(checked_rows(batch) for batch in settings.batches)
        wanted = wanted_answers(library, running, info, rows, folder)
        previous: dict[str, float] = {}
        for batch in settings.batches:
            cell = state.get("cell", shape.name, batch)
            if cell is None:
                say(f"  batch {batch:,}")
                cell = measure(running, wanted, info, batch, settings, folder, previous)
                state.put("cell", shape.name, batch, cell)
            previous |= medians(cell)


@contextlib.contextmanager
def contest(shape: Shape, run: Run) -> Iterator[tuple[Info, list[Running], Running]]:
    """The model of a shape, every contestant that loaded it and is right, and the library, while the block lasts.

    The run's state gets the records "build" of each contestant and "shape".

    Raises:
        Failed: the model was not trained, or the library did not load it.
    """
    rows = max(checked_rows(batch) for batch in run.settings.batches)
    info = run.train(shape, pool_rows(shape, rows), run.settings.train_threads, run.output)
    _build_all(info, run)
    folder = run.output / "answers"
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        running = _start(info, run, stack)
        library = next((one for one in running if one.contestant.kind == LIBRARY), None)
        if library is None:
            raise Failed("the library itself did not load its model")
        ours = [one for one in running if one.contestant.kind == WOODPECKER]
        wrong, compared = check_routing(ours, library, info, run.settings, folder)
        for name, reason in wrong.items():
            run.say(f"  {name}: WRONG: {reason}")
            build = run.state.get("build", shape.name, name) or {}
            run.state.put("build", shape.name, name, {**build, "status": "wrong", "reason": reason})
        run.state.put("shape", shape.name, {"status": "ok", "reason": None, "rows_compared": compared})
        yield info, [one for one in running if one.name not in wrong], library


def _build_all(info: Info, run: Run) -> None:
    """Compile the model for every contestant that has not got it, and record how that went."""

    def build(name: str) -> dict[str, Any]:
        done = run.state.get("build", info.shape.name, name)
        if done is not None and (done["status"] != "ok" or places(run.output, info.shape, name)[0].exists()):
            return done
        record = _build(name, run.contestants[name], info, run.settings, run.output)
        note = f"{record['seconds']:.2f} s" if "seconds" in record else record["reason"] or "nothing to build"
        run.say(f"  {name}: {record['status']}: {note}")
        return record

    with contextlib.ExitStack() as stack:
        built: Iterable[dict[str, Any]] = map(build, run.contestants)
        if run.settings.build_jobs > 1:
            jobs = stack.enter_context(concurrent.futures.ThreadPoolExecutor(run.settings.build_jobs))
            built = jobs.map(build, run.contestants)
        for name, record in zip(run.contestants, built, strict=True):
            run.state.put("build", info.shape.name, name, record)


def _start(info: Info, run: Run, stack: contextlib.ExitStack) -> list[Running]:
    """Every contestant that was built, loaded in a process that lives as long as ``stack``."""
    started, running = [], []
    for name in run.contestants:
        record = run.state.get("build", info.shape.name, name)
        if record is not None and record["status"] == "ok":
            folder, log = places(run.output, info.shape, name)
            one = stack.enter_context(worker(name, info, folder, log, _memory(run.settings)))
            started.append((name, record, one))
    for name, old, one in started:
        record = dict(old)
        try:
            record["load_seconds"] = one.order("load", limit=run.settings.build_seconds)["seconds"]
            running.append(Running(name, run.contestants[name], one))
        except (Refused, Failed) as problem:
            record |= {"status": "refused" if isinstance(problem, Refused) else "failed", "reason": str(problem)}
            run.say(f"  {name}: {record['status']}: {problem}")
        run.state.put("build", info.shape.name, name, record)
    return running


def _build(name: str, contestant: Contestant, info: Info, settings: Settings, output: Path) -> dict[str, Any]:
    """Compile the model for one contestant in a fresh process."""
    folder, log = places(output, info.shape, name)
    record: dict[str, Any] = {"kind": contestant.kind, "status": "ok", "reason": None}
    absent = missing_module(contestant)
    reason = f"package {absent} is not installed" if absent else contestant.refuses(info)
    if reason:
        record |= {"status": "unavailable" if absent else "refused", "reason": reason}
    elif contestant.build is None:
        folder.mkdir(parents=True, exist_ok=True)
    else:
        with worker(name, info, folder, log, _memory(settings)) as one:
            try:
                reply = one.order("build", limit=settings.build_seconds, watch_memory=True)
                record |= {"seconds": reply["seconds"], "rss_before": reply["rss_before"]}
                record["peak_bytes"] = max(reply["peak_bytes"], one.peak_bytes)
                record["artifact_bytes"] = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            except Refused as problem:
                record |= {"status": "refused", "reason": str(problem)}
            except Failed as problem:
                record |= {"status": "failed", "reason": str(problem), "peak_bytes": one.peak_bytes}
    return record


def places(output: Path, shape: Shape, name: str) -> tuple[Path, Path]:
    """(folder of artifacts, log) of a contestant for a shape."""
    plain = name.replace(":", "-").replace("/", "-")
    return output / "artifacts" / shape.name / plain, output / "logs" / f"{shape.name}-{plain}.log"


def _memory(settings: Settings) -> int:
    return int(settings.memory_gb * 2**30)
