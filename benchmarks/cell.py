"""One cell of the suite: one model, one batch size, all contestants, checked and then timed in turns."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .check import error, unequal_bits, unequal_leaves
from .contestants import LIBRARY, LINK, RAW, WOODPECKER, Contestant
from .driver import Failed, Refused, Worker
from .shapes import Info
from .stats import median, rounds_to_join

ONE_CPU = 1.15
"""CPU seconds per second of a call above which a contestant ran on more than one thread."""
ANSWER_SECONDS = 900.0


@dataclass(frozen=True)
class Settings:
    """How much is measured.

    Args:
        batches: Rows per call, ascending.
        rounds: Interleaved rounds per cell.
        min_rounds: Rounds that even the slowest contestant joins.
        cell_seconds: Time that each contestant gets per cell, shared out over its rounds.
        call_seconds: A contestant of which one call would take longer is skipped, unless it is the library.
        build_seconds: Limit of compiling, and of loading, one model.
        memory_gb: Limit of each worker's address space; 0: none.
        threshold_rows: Rows at the model's own thresholds, on which woodpecker is checked as well.
        train_threads: Threads that train the models.
        clock: What calls are timed by: "wall", or "cpu", CPU time, for a machine that others use meanwhile.
        build_jobs: Models that are compiled at once; their times count only where it is 1.
    """

    batches: tuple[int, ...] = (1, 64, 1024, 100_000)
    rounds: int = 9
    min_rounds: int = 3
    cell_seconds: float = 3.0
    call_seconds: float = 15.0
    build_seconds: float = 300.0
    memory_gb: float = 12.0
    threshold_rows: int = 4096
    train_threads: int = 2
    clock: str = "wall"
    build_jobs: int = 1


@dataclass(frozen=True)
class Running:
    """A contestant that has loaded the model of this shape."""

    name: str
    contestant: Contestant
    worker: Worker


def checked_rows(batch: int) -> int:
    """How many rows are compared before a batch size is timed: enough of them for a share of wrong rows."""
    return 256 if batch == 1 else max(batch, 1024)


def ask(running: Running, form: str, batch: int, rows: int, folder: Path, source: Path | None = None) -> Any:
    """(answers, ns per call) of a contestant.

    Raises:
        Refused, Failed: see `Worker.order`.
    """
    path = folder / "answers.npy"
    file = None if source is None else str(source)
    arguments: dict[str, Any] = {"form": form, "batch": batch, "rows": rows, "to": str(path), "source": file}
    reply = running.worker.order("answer", limit=ANSWER_SECONDS, **arguments)
    answers = np.load(path)
    path.unlink()
    return answers, reply["ns"]


def check_routing(
    ours: list[Running], library: Running, info: Info, settings: Settings, folder: Path
) -> tuple[dict[str, str], int]:
    """Compare leaf ids and raw scores of every strategy with the library's, on ordinary rows and on threshold rows.

    Returns:
        (name -> what differs, rows compared). A contestant that differs nowhere is absent.
    """
    wrong: dict[str, str] = {}
    rows = min(4096, info.n_rows)
    sources: list[tuple[str, Path | None]] = [("rows", None)]
    compared = rows
    for running in ours[:1]:
        to = folder / "thresholds.f32"
        arguments: dict[str, Any] = {"n": settings.threshold_rows, "seed": 3, "to": str(to)}
        try:
            made = running.worker.order("probe", limit=settings.build_seconds, **arguments)
        except (Refused, Failed) as problem:
            return {one.name: f"threshold rows can't be made: {problem}" for one in ours}, 0
        sources.append(("threshold rows", to))
        compared += made["rows"]
    for what, source in sources:
        wanted = {form: ask(library, form, 1024, rows, folder, source)[0] for form in (RAW, "leaves")}
        for running in ours:
            if running.name in wrong:
                continue
            try:
                raw, _ = ask(running, RAW, 1024, rows, folder, source)
                leaves, _ = ask(running, "leaves", 1024, rows, folder, source)
            except (Refused, Failed) as problem:
                wrong[running.name] = f"{what}: {problem}"
                continue
            difference = _raw_difference(raw, wanted[RAW]) or unequal_leaves(leaves, wanted["leaves"])
            if difference:
                wrong[running.name] = f"{what}: {difference}"
    return wrong, compared


def _raw_difference(got: np.ndarray, want: np.ndarray) -> str | None:
    return unequal_bits(got.reshape(len(got), -1), want.reshape(len(want), -1), "raw scores")


def judge(contestant: Contestant, got: np.ndarray, want: np.ndarray) -> dict[str, Any]:
    """The record of a checked answer: "status" is "ok" or "wrong", with the error beside it."""
    found = error(got, want)
    reason = found.pop("reason")
    if contestant.kind in (WOODPECKER, LIBRARY):
        reason = _raw_difference(got, want)
    return {"status": "wrong" if reason else "ok", "reason": reason, **found}


def measure(
    running: list[Running],
    wanted: Mapping[str, np.ndarray],
    info: Info,
    batch: int,
    settings: Settings,
    folder: Path,
    previous: Mapping[str, float],
) -> dict[str, Any]:
    """Check every contestant's answers at this batch size, then time those that are right, in turns.

    Args:
        running: The contestants, in the order of their turns.
        wanted: Form -> the library's answers to the pool's first rows.
        info: The model.
        batch: Rows per call.
        settings: See there.
        folder: For answers on their way here.
        previous: Name -> ns per row in the cell before, to foresee calls that take too long.

    Returns:
        "load_average" and "contestants": name -> "kind", "status" ("ok", "wrong", "skipped" or "failed"), "reason",
        "exact", "max_abs", "max_ulp", "wrong_rows", and where "ok": "ns_per_row", one per round, None where it sat the
        round out, and "cpu_share", CPU seconds per second while it was timed.
    """
    contestants: dict[str, dict[str, Any]] = {}
    call_ns: dict[str, float] = {}
    load_average = round(os.getloadavg()[0], 2)
    for one in running:
        foreseen = previous.get(one.name, 0.0) * batch / 1e9
        if foreseen > settings.call_seconds and one.contestant.kind != LIBRARY:
            record: dict[str, Any] = {"status": "skipped", "reason": f"one call would take about {foreseen:,.0f} s"}
        else:
            form, rows = one.contestant.form(info), checked_rows(batch)
            try:
                got, call_ns[one.name] = ask(one, form, batch, rows, folder)
                record = judge(one.contestant, got, wanted[form][:rows])
            except (Refused, Failed) as problem:
                record = {"status": "failed", "reason": str(problem)}
        contestants[one.name] = {"kind": one.contestant.kind, **record}
    right = [one for one in running if contestants[one.name]["status"] == "ok"]
    _take_turns(right, contestants, call_ns, batch, settings)
    return {"load_average": load_average, "contestants": contestants}


def _take_turns(
    right: list[Running],
    contestants: dict[str, dict[str, Any]],
    call_ns: dict[str, float],
    batch: int,
    settings: Settings,
) -> None:
    """Run the rounds: A B C, A B C, ... Each contestant times its own calls, on the same fresh rows as the others."""
    turn = settings.cell_seconds / settings.rounds
    joins, used = {}, {}
    for one in right:
        affordable = int(settings.cell_seconds / max(turn, call_ns[one.name] / 1e9) + 1e-9)
        joins[one.name] = rounds_to_join(settings.rounds, max(affordable, settings.min_rounds))
        used[one.name] = [0, 0]
        contestants[one.name]["ns_per_row"] = [None] * settings.rounds
    for r in range(settings.rounds):
        for one in right:
            record = contestants[one.name]
            if r not in joins[one.name] or record["status"] != "ok":
                continue
            arguments: dict[str, Any] = {
                "batch": batch,
                "seconds": turn,
                "first": r * 101,
                "expected_ns": call_ns[one.name],
                "clock": settings.clock,
            }
            try:
                reply = one.worker.order("time", limit=ANSWER_SECONDS, **arguments)
            except (Refused, Failed) as problem:
                record |= {"status": "failed", "reason": str(problem)}
                del record["ns_per_row"]
                continue
            call_ns[one.name] = float(np.median(reply["ns"]))
            record["ns_per_row"][r] = call_ns[one.name] / batch
            used[one.name][0] += reply["cpu_ns"]
            used[one.name][1] += reply["wall_ns"]
    for one in right:
        record = contestants[one.name]
        if record["status"] != "ok":
            continue
        cpu, wall = used[one.name]
        record["cpu_share"] = round(cpu / max(wall, 1), 3)
        if record["cpu_share"] > ONE_CPU:
            record |= {"status": "failed", "reason": f"it ran on {record['cpu_share']:.1f} CPUs, not on one"}
            del record["ns_per_row"]


def wanted_answers(library: Running, others: list[Running], info: Info, rows: int, folder: Path) -> Mapping[str, Any]:
    """Form -> the library's answers to the pool's first rows, for every form that a contestant answers in.

    Raises:
        Refused, Failed: see `Worker.order`.
    """
    forms: list[str] = sorted({RAW, *(one.contestant.form(info) for one in others)} & {RAW, LINK})
    return {form: ask(library, form, 1024, rows, folder)[0] for form in forms}


def medians(cell: Mapping[str, Any]) -> dict[str, float]:
    """Name -> ns per row of the contestants that were timed in a cell."""
    found = {}
    for name, record in cell["contestants"].items():
        time = median(record.get("ns_per_row", []))
        if time is not None:
            found[name] = time
    return found
