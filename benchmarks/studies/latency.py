"""The first prediction in a fresh process, and calls of one row, beside the library and the peers."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import cell as suite
from ..check import error
from ..contestants import AUTO, PEER, RAW, WOODPECKER, Contestant
from ..driver import Failed, Refused, environment
from ..report import ABSENT, seconds, table
from ..run import Run, contest, places, say
from ..shapes import Info, Shape
from ..state import State
from .runner import Cell, Settings, train

CONTESTANTS = ("library", "onnxruntime", "onedal", "treelite", "lleaves", f"{WOODPECKER}:{AUTO}")
QUICK = ("library", f"{WOODPECKER}:{AUTO}")
STEPS = ("numpy", "import", "load", "first")
ROUND_SECONDS = 0.5
COLD_SECONDS = 120.0


def cells(shapes: Iterable[Shape]) -> list[Cell]:
    return [Cell(shape.name, {"title": shape.title}, "latency", shape=shape) for shape in shapes]


def measure(cell: Cell, settings: Settings, output: Path, contestants: Mapping[str, Contestant]) -> dict[str, Any]:
    """One model: every contestant, checked as in the suite, then its first prediction and its calls of one row.

    Returns:
        "contestants": name -> "kind", "status", "reason"; "cold": step -> seconds, the median over fresh processes;
        "calls": "predict_raw" (what the suite times) and "predict", where it has that -> "p50_ns", "p99_ns", "calls",
        "ns": the median of each round. "status": "wrong" where woodpecker differs.

    Raises:
        Skipped: see `benchmarks.studies.runner.train`. Refused, Failed: see `benchmarks.run.contest`.
    """
    if cell.shape is None:
        raise Failed("there is no model")
    limits = suite.Settings(
        batches=(1,), threshold_rows=settings.threshold_rows, memory_gb=settings.memory_gb, build_seconds=120.0
    )
    place = output / "latency"
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        builds = State(Path(scratch) / "builds.jsonl", {})
        trained = train(cell.shape, 16_384, settings, output)
        run = Run(contestants, limits, place, builds, lambda *_: trained, say)
        with contest(cell.shape, run) as (info, running, library):
            found = _measure(running, library, info, settings, place)
        for name, one in contestants.items():
            build = builds.get("build", cell.shape.name, name)
            if name not in found and build is not None:
                found[name] = {"kind": one.kind, "status": build["status"], "reason": build["reason"]}
    wrong = [f"{n}: {one['reason']}" for n, one in found.items() if one["status"] == "wrong" and one["kind"] != PEER]
    status = "wrong" if wrong else "ok"
    return {"status": status, "reason": "; ".join(wrong) or None, "contestants": found}


def _measure(
    running: list[suite.Running], library: suite.Running, info: Info, settings: Settings, place: Path
) -> dict[str, dict[str, Any]]:
    """The records of those that are running."""
    answers = place / "answers"
    wanted = suite.wanted_answers(library, running, info, suite.checked_rows(1), answers)
    found: dict[str, dict[str, Any]] = {}
    timed: list[tuple[suite.Running, str, str, list[list[float]]]] = []
    for one in running:
        form = one.contestant.form(info)
        record: dict[str, Any] = {"kind": one.contestant.kind, "status": "ok", "reason": None}
        found[one.name] = record
        try:
            got, _ = suite.ask(one, form, 1, suite.checked_rows(1), answers)
            record |= suite.judge(one.contestant, got, wanted[form][: len(got)])
            if record["status"] == "ok" and one.contestant.load_predict is not None:
                record |= _judge_predict(one, library, answers)
            if record["status"] != "ok":
                continue
            record["cold"] = _cold(one.name, info, place, settings.fresh_processes)
        except (Refused, Failed) as problem:
            record |= {"status": "failed", "reason": str(problem)}
            continue
        names = {form: "predict_raw" if form == RAW else "predict"}
        if one.contestant.load_predict is not None:
            names["predict"] = "predict"
        timed += [(one, of, name, []) for of, name in names.items()]
    for r in range(settings.rounds):
        for one, of, _, rounds in timed:
            if found[one.name]["status"] != "ok":
                continue
            arguments: dict[str, Any] = {"form": of, "calls": settings.latency_calls, "first": r * 1013}
            try:
                reply = one.worker.order("latency", limit=60.0, seconds=ROUND_SECONDS, **arguments)
                rounds.append(reply["ns"])
            except (Refused, Failed) as problem:
                found[one.name] |= {"status": "failed", "reason": str(problem)}
    for one, _, name, rounds in timed:
        if found[one.name]["status"] == "ok":
            every = np.concatenate(rounds)
            found[one.name].setdefault("calls", {})[name] = {
                "p50_ns": float(np.percentile(every, 50)),
                "p99_ns": float(np.percentile(every, 99)),
                "calls": len(every),
                "ns": [float(np.median(r)) for r in rounds],
            }
    return found


def _judge_predict(one: suite.Running, library: suite.Running, answers: Path) -> dict[str, Any]:
    """ "status" and "reason" of what `predict` returns, beside the library's: link functions need not be bit-equal."""
    rows = suite.checked_rows(1)
    got, want = (suite.ask(each, "predict", 1, rows, answers)[0] for each in (one, library))
    reason = error(got, want)["reason"]
    return {"status": "wrong" if reason else "ok", "reason": reason and f"predict: {reason}"}


def _cold(name: str, info: Info, place: Path, processes: int) -> dict[str, float]:
    """Step -> seconds, the median over fresh processes. Files are in the system's cache.

    Raises:
        Failed: a process did not succeed.
    """
    folder, log = places(place, info.shape, name)
    asked = json.dumps({"contestant": name, "info": info.to_json(), "folder": str(folder)})
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.studies.cold", asked]
    runs = []
    for _ in range(processes + (processes > 1)):
        with log.open("ab") as errors:
            try:
                done = subprocess.run(
                    command, stdout=subprocess.PIPE, stderr=errors, env=environment(), timeout=COLD_SECONDS, check=True
                )
            except (subprocess.SubprocessError, OSError) as problem:
                raise Failed(f"the first prediction in a fresh process: {problem.__class__.__name__}") from None
        runs.append(json.loads(done.stdout))
    # The first one filled the system's cache.
    return {step: float(np.median([run[step] for run in runs[-processes:]])) for step in runs[0]}


def render(results: Mapping[str, Any]) -> list[str]:
    """Per model: first predictions, and calls of one row."""
    lines = [
        "One thread each. `first` is the first call, with one row, after imports and loading, in a fresh process; "
        "cold: all of it; warm: loading the model again in that process, and the first call on it. Medians over fresh "
        "processes, files in the system's cache. p50 and p99: whole calls with a row of its own each, with slicing.",
        "",
    ]
    for key, cell in results["cells"].items():
        lines += [f"## {cell['about']['title']}", ""]
        if "contestants" not in cell:
            lines += [f"{cell['status']}: {cell['reason']}", ""]
            continue
        first, calls, notes = [], [], []
        for name, one in cell["contestants"].items():
            if one["status"] != "ok":
                notes.append(f"- {key}: {name}: {one['status']}: {one['reason']}")
                continue
            cold = one["cold"]
            total = sum(cold[step] for step in STEPS)
            shown = (total, *(cold[step] for step in STEPS), cold["warm_load"], cold["warm_first"])
            first.append((name, *(seconds(value) for value in shown)))
            times = [one["calls"].get(method) for method in ("predict_raw", "predict")]
            calls.append((name, *(micro(t and t[q]) for t in times for q in ("p50_ns", "p99_ns"))))
        steps = ("cold", "numpy", "import", "load", "first", "warm load", "warm first")
        lines += [*table(("first prediction", *steps), first), ""]
        lines += [*table(("one row", "predict_raw p50", "p99", "predict p50", "p99"), calls), ""]
        lines += [*notes, ""] if notes else []
    return lines


def micro(ns: float | None) -> str:
    return ABSENT if ns is None else f"{ns / 1000:,.1f} µs"
