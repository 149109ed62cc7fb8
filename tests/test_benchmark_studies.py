"""The studies of the benchmark suite: how they resume, and that a wrong answer never gets a time."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import pytest

from benchmarks.driver import Failed
from benchmarks.state import StateMismatch
from benchmarks.studies import latency, runner, scaling
from benchmarks.studies.runner import Cell, Settings, Skipped, run_study
from tests import test_benchmarks as toys

FAST = Settings(batches=(1, 8), rounds=3, turn_seconds=0.0005, check_rows=40)


def cells(*keys: str) -> list[Cell]:
    return [Cell(key, {"title": key}, "none") for key in keys]


def test_a_study_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    told: list[str] = []

    def measure(cell: Cell, settings: Settings, output: Path) -> dict[str, Any]:
        asked.append(cell.key)
        if cell.key == "b" and asked.count("b") == 1:
            raise KeyboardInterrupt
        return {"figure": len(asked)}

    run: dict[str, Any] = {"budget": 100.0, "say": told.append, "measure": measure}
    with pytest.raises(KeyboardInterrupt):
        run_study("toy", cells("a", "b"), FAST, tmp_path, **run)
    results = run_study("toy", cells("a", "b"), FAST, tmp_path, **run)
    assert asked == ["a", "b", "b"] and results["complete"] is True
    assert results["cells"]["a"]["figure"] == 1 and results["cells"]["b"]["about"] == {"title": "b"}
    assert results["study"] == "toy" and results["machine"]["cpu"]
    # Another selection of cells resumes too; other settings don't.
    assert run_study("toy", cells("a"), FAST, tmp_path, **run)["cells"].keys() == {"a"}
    with pytest.raises(StateMismatch, match=r"another settings\.rounds;"):
        run_study("toy", cells("a"), dataclasses.replace(FAST, rounds=4), tmp_path, **run)
    monkeypatch.setattr(runner.machine, "source_digest", lambda root=None: "other sources")
    with pytest.raises(StateMismatch, match=r"another benchmark_sources, machine\.woodpecker_sources;"):
        run_study("toy", cells("a"), FAST, tmp_path, **run)


def test_a_study_ends_with_its_budget(tmp_path: Path) -> None:
    told: list[str] = []
    run: dict[str, Any] = {"say": told.append, "measure": lambda *_: {}}
    results = run_study("toy", cells("a", "b"), FAST, tmp_path, budget=-1.0, **run)
    assert results["complete"] is False and results["cells"] == {}
    assert "2 of 2 are left" in told[-1]


def test_what_goes_wrong_is_a_result(tmp_path: Path) -> None:
    def measure(cell: Cell, settings: Settings, output: Path) -> dict[str, Any]:
        if cell.key == "skipped":
            raise Skipped("no model")
        if cell.key == "failed":
            raise Failed("it broke")
        return {"status": "wrong", "reason": "one bit"}

    results = run_study(
        "toy", cells("skipped", "failed", "wrong"), FAST, tmp_path, budget=9.0, say=lambda _: None, measure=measure
    )
    assert [cell["status"] for cell in results["cells"].values()] == ["skipped", "failed", "wrong"]
    assert runner.failures(results) == ["failed: it broke", "wrong: one bit"]


def test_a_worker_measures_a_cell(tmp_path: Path) -> None:
    made = {"trees": 3, "leaves": 4, "features": 2}
    (cell,) = scaling.cells(("batch",), dataclasses.replace(FAST, points=2))
    cell = dataclasses.replace(cell, arguments={"batches": [1, 10], "made": made})
    results = run_study("scaling", [cell], FAST, tmp_path, budget=60.0, say=lambda _: None)
    record = results["cells"]["batch"]
    assert record["status"] == "ok", record["reason"]
    assert list(record["batches"]) == ["1", "10"] and len(record["batches"]["10"]["ns_per_row"]) == 3
    assert 0 < record["artifact_bytes"] < 1e6 and record["peak_bytes"] > record["rss_before"] > 1e7
    assert not list(tmp_path.glob("tmp*")), "the artifact is gone"


LIB = dataclasses.replace(toys.LIB, load_predict=toys.load)
SOUND = dataclasses.replace(toys.SOUND, load_predict=toys.load)
ONE_BIT = dataclasses.replace(toys.ONE_BIT, load_predict=toys.load)
OTHER_PREDICT = dataclasses.replace(toys.SOUND, load_predict=toys.scores_but(lambda scores: scores + 1))
BAD, ABSENT = toys.BAD, toys.ABSENT


@pytest.mark.full
def test_latency_of_who_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("LIB", "SOUND", "ONE_BIT", "OTHER_PREDICT", "BAD", "ABSENT")
    contestants = {f"tests.test_benchmark_studies:{name}": globals()[name] for name in names}
    monkeypatch.setattr(latency, "train", lambda shape, n, settings, output: toys.train(shape, n, 1, output))
    settings = dataclasses.replace(FAST, fresh_processes=1, latency_calls=30)
    (cell,) = latency.cells([toys.TOY])
    record = latency.measure(cell, settings, tmp_path, contestants)
    found = {name.partition(":")[2]: one for name, one in record["contestants"].items()}
    statuses = {name: one["status"] for name, one in found.items()}
    assert statuses == dict(zip(names, ("ok", "ok", "wrong", "wrong", "wrong", "unavailable"), strict=True))
    assert record["status"] == "wrong" and "ONE_BIT" in record["reason"] and "BAD" not in record["reason"]
    assert "predict: 256 of 256 rows are off" in found["OTHER_PREDICT"]["reason"]
    for name in ("LIB", "SOUND"):
        calls = found[name]["calls"]
        assert calls.keys() == {"predict_raw", "predict"} and all(one["calls"] == 72 for one in calls.values())
        assert all(0 < one["p50_ns"] <= one["p99_ns"] < 1e8 and len(one["ns"]) == 3 for one in calls.values())
        cold = found[name]["cold"]
        assert cold.keys() == {*latency.STEPS, "warm_load", "warm_first"} and cold["numpy"] > 0.001
    assert all("calls" not in found[name] and "cold" not in found[name] for name in names[2:])


def test_results_name_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(command: list[str], **_: Any) -> Any:
        if command[0] == "git":
            return subprocess.CompletedProcess(command, 0, stdout="0123456789ab-dirty\n")
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(runner.machine.subprocess, "run", fake)
    assert runner.machine.commit() == "0123456789ab-dirty"
    monkeypatch.setattr(runner.machine.subprocess, "run", lambda *_, **__: fake(["no git"]))
    assert runner.machine.commit() is None
