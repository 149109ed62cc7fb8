"""What tuning finds for every model of the suite: the default plan, the tuned one, the best peer, and what it took."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import cell as suite
from ..contestants import PEER, WOODPECKER, Contestant, own_model, woodpecker
from ..driver import Failed
from ..report import ABSENT, number, seconds, table
from ..report import times as factor
from ..run import Run, contest, say
from ..shapes import Info, Shape, open_pool, pool_rows
from ..state import State
from ..stats import geometric_mean, median, ratio
from .runner import Cell, Settings, timed, train

BATCHES = (1, 64, 1024, 100_000)
PEERS = ("library", "onedal", "onnxruntime", "lleaves")
RECORDS = "records"
"""The folder of the records, beside the artifacts of the contestants."""


def _build(logs: bool) -> Any:
    def build(info: Info, model: Any, folder: Path) -> None:
        import woodpecker as wp

        # folder: PLACE / artifacts / model / contestant
        wp.compile(model, tuning_logs=folder.parents[2] / RECORDS if logs else []).save(folder / "model.so")

    return build


DEFAULT = replace(woodpecker("auto"), name=f"{__name__}:DEFAULT", build=_build(False))
TUNED = replace(woodpecker("auto"), name=f"{__name__}:TUNED", build=_build(True))


def cells(shapes: Iterable[Shape], settings: Settings) -> list[Cell]:
    rows = max(*settings.batches, settings.check_rows, 16_384)
    return [Cell(s.name, {"title": s.title}, "tuning", shape=s, pool=pool_rows(s, rows)) for s in shapes]


def measure(cell: Cell, settings: Settings, output: Path, contestants: Mapping[str, Contestant]) -> dict[str, Any]:
    """One model: tune it, then time its default plan, its tuned plan and the peers in turns, checked as in the suite.

    Args:
        cell, settings, output: See `benchmarks.studies.runner`; a job that was interrupted goes on.
        contestants: The library and the peers.

    Returns:
        "tuning": the record, "verdict", "seconds", "trials" made in these and "to_95": how many of all of them reached
        95 % of the gain that the search saw; "batches": rows -> "ns_per_row": name -> one number a round; "kinds":
        name -> kind. "status": "wrong" where woodpecker differs.

    Raises:
        Skipped: see `benchmarks.studies.runner.train`. Refused, Failed: see `benchmarks.run.contest`.
    """
    if cell.shape is None:
        raise Failed("there is no model")
    trained = train(cell.shape, cell.pool, settings, output)
    place = output / "tuning"
    tuned = _tune(trained, settings, place)
    limits = suite.Settings(
        batches=settings.batches,
        rounds=settings.rounds,
        cell_seconds=settings.rounds * settings.turn_seconds,
        threshold_rows=settings.threshold_rows,
        memory_gb=settings.memory_gb,
        clock=settings.clock,
    )
    given = {**contestants, DEFAULT.name: DEFAULT, TUNED.name: TUNED}
    shutil.rmtree(place / "artifacts" / cell.shape.name, ignore_errors=True)  # of a record before this one
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        builds = State(Path(scratch) / "builds.jsonl", {})
        run = Run(given, limits, place, builds, lambda *_: trained, say)
        with contest(cell.shape, run) as (info, running, library):
            answers, rows = place / "answers", max(suite.checked_rows(batch) for batch in limits.batches)
            wanted = suite.wanted_answers(library, running, info, rows, answers)
            batches, wrong, previous = {}, [], dict[str, float]()
            for batch in limits.batches:
                found = suite.measure(running, wanted, info, batch, limits, answers, previous)
                previous |= suite.medians(found)
                right = {n: one for n, one in found["contestants"].items() if one["status"] == "ok"}
                batches[str(batch)] = {"ns_per_row": {n: one["ns_per_row"] for n, one in right.items()}}
                ours = (one for one in found["contestants"].values() if one["kind"] == WOODPECKER)
                wrong += [f"{batch:,} rows: {one['reason']}" for one in ours if one["status"] in ("wrong", "failed")]
        for name in (DEFAULT.name, TUNED.name):
            if (build := builds.get("build", cell.shape.name, name) or {}).get("status") != "ok":
                wrong.append(f"{name}: {build.get('reason')}")
    kinds = {name: one.kind for name, one in given.items()}
    status = "wrong" if wrong else "ok"
    return {"status": status, "reason": "; ".join(wrong) or None, "tuning": tuned, "batches": batches, "kinds": kinds}


def _tune(info: Info, settings: Settings, place: Path) -> dict[str, Any]:
    """Run, or finish, the tuning job of a model."""
    import woodpecker as wp
    from woodpecker.tuning.report import plan_text, trials_to

    (place / RECORDS).mkdir(parents=True, exist_ok=True)
    fresh: list[Mapping[str, Any]] = []
    begin = time.monotonic()
    result = wp.tune(
        own_model(info),
        trials=settings.trials,
        data=open_pool(info).X[:16_384],
        work_dir=place / "work" / info.shape.name,
        tuning_logs=place / RECORDS,
        progress=fresh.append,
    )
    return {
        "record": result.record.to_json(),
        "plan": plan_text(result.record.plan),
        "verdict": result.verdict,
        "seconds": round(time.monotonic() - begin, 1),
        "trials": len(fresh),
        "to_95": trials_to(result, 0.95),
    }


def gain(cell: Mapping[str, Any], batch: str) -> float | None:
    """How many times as fast as the default the tuned plan was, as the median over rounds; 1.0 for the same plan."""
    times = cell["batches"].get(batch, {}).get("ns_per_row", {})
    if not {DEFAULT.name, TUNED.name} <= times.keys():
        return None
    record = cell["tuning"]["record"]
    return 1.0 if record["plan"] == record["default"] else ratio(times[DEFAULT.name], times[TUNED.name])


def render(results: Mapping[str, Any]) -> list[str]:
    """Per model and batch size: default, tuned, best peer; then what tuning took and what it chose."""
    rows, jobs, plans = [], [], []
    gains: dict[str, list[float]] = {}
    done, notes = timed(results["cells"], "tuning")
    for key, cell in done.items():
        tuned = cell["tuning"]
        record = tuned["record"]
        jobs.append(
            (
                key,
                str(record["trials"]),
                seconds(tuned["seconds"]) if tuned["trials"] == record["trials"] else ABSENT,
                str(tuned["to_95"] or ABSENT),
                f"{record['gain']:.3f}",
            )
        )
        plans.append(f"- {key}: {tuned['plan']}" + (" (the default)" if record["plan"] == record["default"] else ""))
        for batch, one in cell["batches"].items():
            times, found = one["ns_per_row"], gain(cell, batch)
            if found is None:
                continue
            gains.setdefault(batch, []).append(found)
            best = min((n for n in times if cell["kinds"][n] != WOODPECKER), key=lambda n: median(times[n]) or 0.0)
            same = record["plan"] == record["default"]
            rows.append(
                (
                    key,
                    f"{int(batch):,}",
                    number(median(times[DEFAULT.name])),
                    number(median(times[TUNED.name])),
                    factor(ratio(times[DEFAULT.name], times[TUNED.name])) + (" =" if same else ""),
                    best + ("~" if cell["kinds"][best] == PEER else ""),
                    number(median(times[best])),
                    factor(ratio(times[best], times[TUNED.name])),
                )
            )
    means = [
        f"Gain, geometric mean over {len(found)} models: {geometric_mean(found):.3f} at {int(batch):,} rows"
        for batch, found in gains.items()
    ]
    every = geometric_mean(one for found in gains.values() for one in found)
    job_gains = geometric_mean(float(job[-1]) for job in jobs)
    return [
        "ns/row of whole calls, one thread each, in turns. Gain: the median, over the rounds, of the default's time by "
        "the tuned one's in the round; =: the same plan, so that what it is off 1 is noise, and it counts as 1. "
        "~ marks peers, whose answers need not be the library's bits.",
        "",
        *table(("model", "rows", "default", "tuned", "gain", "best peer", "", "tuned vs peer"), rows),
        "",
        *(f"{line}." for line in means),
        *([f"Over all of these cells: {every:.3f}."] if every else []),
        "",
        "The jobs: time, trials until 95 % of the gain that the search saw, and the gain in the job's own paired run, "
        "the geometric mean over its batch sizes (1.000: the default stays).",
        "",
        *table(("model", "trials", "time", "to 95 %", "gain"), jobs),
        "",
        *([f"Geometric mean of these gains: {job_gains:.3f}.", ""] if job_gains else []),
        *plans,
        *notes,
    ]
