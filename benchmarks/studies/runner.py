"""Run the cells of a study that are not done yet, one after the other, and collect what they found."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .. import driver, machine
from ..contestants import NO_LOGS
from ..driver import Failed, Refused, worker
from ..shapes import Info, Shape
from ..state import State

SCHEMA = 1
CELL_SECONDS = 900.0
"""Limit of one cell, which compiles several programs and times them."""


class Skipped(Exception):
    """There is no model to measure."""


@dataclass(frozen=True)
class Settings:
    """How much a study measures.

    Args:
        batches: Rows per call, ascending.
        rounds: Interleaved rounds.
        turn_seconds: Time that each program gets per round and batch size.
        check_rows: Ordinary rows whose answers are compared before anything is timed.
        threshold_rows: Rows at the model's own thresholds, which are compared too.
        call_seconds: A program of which one call takes longer is not timed.
        clock: "wall", or "cpu", CPU time, for a machine that others use meanwhile.
        fresh_processes: Processes for each figure of a first prediction.
        latency_calls: Calls of one row in each round.
        strategies: Those that are compared; none: every one that is installed.
        points: The first so many of each axis of the scaling study; 0: all. Otherwise `levels` has fewer of them too.
        memory_gb: Limit of each worker's address space; 0: none.
        train_threads: Threads that train the models.
        trials: Candidates that a tuning job measures.
    """

    batches: tuple[int, ...] = (1, 64, 1024)
    rounds: int = 9
    turn_seconds: float = 0.02
    check_rows: int = 2048
    threshold_rows: int = 1024
    call_seconds: float = 3.0
    clock: str = "wall"
    fresh_processes: int = 5
    latency_calls: int = 1500
    strategies: tuple[str, ...] = ()
    points: int = 0
    memory_gb: float = 12.0
    train_threads: int = 2
    trials: int = 64


@dataclass(frozen=True)
class Cell:
    """One measurement in a process of its own.

    Args:
        key: What is measured, unique within the study.
        about: The same for readers of the results; JSON values.
        module: A module of this package, whose ``measure(output, settings, **arguments)`` runs in the worker and
            returns JSON values.
        arguments: See there; JSON values.
        shape: The model that is trained, or found, first; ``measure`` then gets its `Info` as the argument "info".
        pool: Rows of the pool of that model.
    """

    key: str
    about: Mapping[str, Any]
    module: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    shape: Shape | None = None
    pool: int = 0


Measure = Callable[[Cell, Settings, Path], dict[str, Any]]
Say = Callable[[str], None]


def in_worker(cell: Cell, settings: Settings, output: Path) -> dict[str, Any]:
    """Train the cell's model where there is one, and measure, in a fresh process each.

    Raises:
        Skipped: see `train`. Refused, Failed: see `benchmarks.driver.Worker.order`.
    """
    arguments: dict[str, Any] = {"output": str(output), "settings": dataclasses.asdict(settings), **cell.arguments}
    if cell.shape is not None:
        arguments["info"] = train(cell.shape, cell.pool, settings, output).to_json()
    log = output / "logs" / f"{cell.module}-{cell.key.replace('/', '-').replace(':', '-')}.log"
    with worker(None, None, output, log, int(settings.memory_gb * 2**30)) as one:
        return one.order("study", limit=CELL_SECONDS, module=cell.module, arguments=arguments)


def train(shape: Shape, n_rows: int, settings: Settings, output: Path) -> Info:
    """`benchmarks.driver.train`.

    Raises:
        Skipped: the library is not installed, or training failed.
    """
    try:
        return driver.train(shape, n_rows, settings.train_threads, output)
    except Failed as problem:
        raise Skipped(f"no model: {problem}") from None


def run_study(
    name: str,
    cells: Sequence[Cell],
    settings: Settings,
    output: Path,
    *,
    budget: float,
    say: Say,
    measure: Measure = in_worker,
) -> dict[str, Any]:
    """Measure what is not done yet, until it is done or ``budget`` seconds are over, and return the results.

    Returns:
        JSON values; docs/benchmarks.md has their schema.

    Raises:
        StateMismatch: the folder holds a run of this study on other sources, another machine or with other settings.
    """
    state = State(output / f"{name}.jsonl", header(name, settings))
    begin = time.monotonic()
    for i, cell in enumerate(cells):
        if state.get("cell", cell.key) is not None:
            continue
        if time.monotonic() - begin > budget:
            say(f"{len(cells) - i} of {len(cells)} are left, and {budget:,.0f} s are over; the same command goes on")
            break
        say(f"{name}: {cell.key}")
        start = time.monotonic()
        try:
            record = {"status": "ok", "reason": None, **measure(cell, settings, output)}
        except (Skipped, Refused) as problem:
            record = {"status": "skipped" if isinstance(problem, Skipped) else "refused", "reason": str(problem)}
        except Failed as problem:
            record = {"status": "failed", "reason": str(problem)}
        if record["status"] != "ok":
            say(f"  {record['status']}: {record['reason']}")
        record["took_seconds"] = round(time.monotonic() - start, 1)
        state.put("cell", cell.key, {**record, "about": dict(cell.about)})
    return collect(name, state, cells)


def header(name: str, settings: Settings) -> dict[str, Any]:
    """What results depend on; a run can be resumed only where all of it is the same."""
    return {
        "schema": SCHEMA,
        "study": name,
        "machine": machine.describe(),
        "tuning_logs": list(NO_LOGS),
        "benchmark_sources": machine.source_digest(Path(__file__).parents[1]),
        "settings": dataclasses.asdict(settings),
    }


def collect(name: str, state: State, cells: Sequence[Cell]) -> dict[str, Any]:
    """The results so far."""
    about = dict(state.get("header") or {})
    done = {cell.key: state.get("cell", cell.key) for cell in cells}
    about["commit"] = machine.commit()
    about["woodpecker_changed_meanwhile"] = about["machine"]["woodpecker_sources"] != machine.source_digest()
    about["cells"] = {key: record for key, record in done.items() if record is not None}
    about["complete"] = all(record is not None for record in done.values())
    return about


def failures(results: Mapping[str, Any]) -> list[str]:
    """What went wrong. A sound run has none."""
    return [
        f"{key}: {record['reason']}"
        for key, record in results["cells"].items()
        if record["status"] in ("failed", "wrong")
    ]


def timed(cells: Mapping[str, Any], figures: str = "batches") -> tuple[dict[str, Any], list[str]]:
    """The cells that have ``figures``, and a note of each other one that says why it has none."""
    done = {key: cell for key, cell in cells.items() if figures in cell}
    return done, [f"- {key}: {c['status']}: {c['reason']}" for key, c in cells.items() if key not in done]


def with_notes(lines: Sequence[str], notes: Sequence[str]) -> list[str]:
    """A report with its notes below, if there are any."""
    return [*lines, *([""] if notes else []), *notes]
