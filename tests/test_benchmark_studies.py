"""The studies of the benchmark suite: what they compute, how they resume, and that a wrong answer never gets a time."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as command_line
from benchmarks.driver import Failed
from benchmarks.shapes import SHAPES, Pool, make_rows, make_target
from benchmarks.state import StateMismatch
from benchmarks.studies import command, forests, latency, regret, routing, runner, scaling, threads, timing, tuning
from benchmarks.studies.generate import balanced_rows, forest, skewed_rows
from benchmarks.studies.runner import Cell, Settings, Skipped, run_study
from tests import test_benchmarks as toys
from woodpecker import reference
from woodpecker.forest import LEAF, Forest, leaf_depth, tree_depth, tree_leaves

FAST = Settings(batches=(1, 8), rounds=3, turn_seconds=0.0005, check_rows=40)


# Generated forests.


def test_generated_forests_are_of_the_size_asked_for() -> None:
    made = forest(5, 21, 6)
    assert (made.n_trees, made.n_features, made.values.dtype) == (5, 6, np.float32)
    assert tree_leaves(made).tolist() == [21] * 5
    assert len(set(map(tuple, made.feature.reshape(5, -1).tolist()))) == 5, "trees differ"
    assert tree_depth(forest(3, 16, 6, leaf_wise=False)).tolist() == [4, 4, 4]
    assert (tree_depth(forest(3, 64, 6)) > 7).all()
    assert forest(300, 4, 3).n_trees == 300, "more than grow together"


def test_generated_forests_are_seeded() -> None:
    one, same, other = forest(4, 8, 3), forest(4, 8, 3), forest(4, 8, 3, seed=2)
    assert (one.threshold == same.threshold).all() and (one.values == same.values).all()
    assert (one.threshold != other.threshold).any()


def test_balanced_rows_reach_every_leaf_and_skewed_ones_few() -> None:
    made = forest(20, 16, 12, leaf_wise=False)

    def most_common(X: np.ndarray) -> float:
        ids = reference.apply(made, X)
        return float(np.mean([np.unique(tree, return_counts=True)[1].max() for tree in ids.T]) / len(X))

    even, skewed = (make(4000, 12, 3) for make in (balanced_rows, skewed_rows))
    assert even.dtype == skewed.dtype == np.float32
    assert 1 / 16 <= most_common(even) < 2.5 / 16
    assert most_common(skewed) > 0.9
    assert len(np.unique(skewed, axis=0)) > 100, "rows are fresh"


def test_covers_are_what_rows_do() -> None:
    made = forest(10, 32, 8)
    ids = reference.apply(made, balanced_rows(4000, 8, 3))
    depth = np.zeros((10, 63))
    for t in range(10):
        for node in range(63):
            if made.kind[t * 63 + node] != LEAF:
                left = made.left[t * 63 + node]
                depth[t, left] = depth[t, left + 1] = depth[t, node] + 1
    walked = np.mean([depth[t][ids[:, t]].mean() for t in range(10)])
    assert leaf_depth(made)[0].mean() == pytest.approx(walked, rel=0.1)


# Forests that nothing was calibrated with.


def test_held_out_forests_are_varied_and_fixed() -> None:
    drawn = forests.held_out()
    assert [shape.name for shape in drawn] == [f"forest-{i}" for i in range(1, 21)]
    assert drawn[:7] == forests.held_out(7)
    assert not {shape.name for shape in drawn} & {shape.name for shape in SHAPES}
    assert {shape.library for shape in drawn} == {"xgboost", "lightgbm", "sklearn"}
    assert {shape.task for shape in drawn} == {"regression", "binary", "multiclass"}
    assert {shape.columns for shape in drawn} == {"normal", "indicators", "categories"}
    assert {shape.dtype for shape in drawn} == {"float32", "float64"}
    assert {bool(shape.missing) for shape in drawn} == {False, True}
    assert min(s.features for s in drawn) <= 5 and max(s.features for s in drawn) >= 200
    trees = [s.rounds * (s.classes if s.task == "multiclass" else 1) for s in drawn]
    assert 10 <= min(trees) <= 20 and 500 <= max(trees) <= 1000


@pytest.mark.parametrize("i", range(20))
def test_held_out_rows_are_of_their_dtype(i: int) -> None:
    shape = forests.held_out()[i]
    X = make_rows(shape, 50, 1)
    assert X.shape == (50, shape.features) and X.dtype == shape.dtype
    assert np.isfinite(make_target(shape, X, 1)).all()
    if shape.dtype == "float64" and shape.columns == "normal":
        assert (X.astype(np.float32) != X)[np.isfinite(X)].all(), "values between float32 neighbours"


# The runner.


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


def test_latency_of_who_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("LIB", "SOUND", "ONE_BIT", "OTHER_PREDICT", "BAD", "ABSENT")
    contestants = {f"tests.test_benchmark_studies:{name}": globals()[name] for name in names}
    monkeypatch.setattr(latency, "train", lambda shape, n, settings, output: toys.train(shape, n, toys.FAST, output))
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


# Inside of a worker.


class Toy:
    """A predictor of one tree's reference answers, changed somewhere."""

    def __init__(self, made: Forest, raw: Any = None, leaves: Any = None) -> None:
        self.made, self.raw, self.leaves = made, raw, leaves

    def predict_raw(self, X: np.ndarray) -> np.ndarray:
        scores = reference.predict_raw(self.made, X)
        return scores if self.raw is None else self.raw(scores)

    def apply(self, X: np.ndarray) -> np.ndarray:
        ids = reference.apply(self.made, X)
        return ids if self.leaves is None else self.leaves(ids)


def last_bit(scores: np.ndarray) -> np.ndarray:
    if len(scores) > 1:
        scores[-1] = np.nextafter(scores[-1], np.float32(np.inf))
    return scores


def test_one_wrong_bit_is_found() -> None:
    made = forest(2, 4, 3)
    check = timing.reference_check(made, balanced_rows(60, 3, 1))
    assert check(Toy(made)) is None
    assert "raw scores: 1 of 60 differ" in str(check(Toy(made, raw=last_bit)))
    assert "leaf ids: 120 of 120 differ" in str(check(Toy(made, leaves=lambda ids: ids + 1)))


def test_turns_are_taken_in_turn_on_the_same_rows() -> None:
    pool = Pool(np.arange(64, dtype=np.float32).reshape(-1, 1))
    calls: list[tuple[str, float]] = []

    def named(name: str) -> Any:
        return lambda X: calls.append((name, float(X[0, 0])))

    settings = dataclasses.replace(FAST, rounds=3, turn_seconds=1e-9)
    found = timing.take_turns({name: (named(name), pool) for name in "abc"}, 4, settings, ())
    assert {name: len(times) for name, times in found.items()} == {"a": 3, "b": 3, "c": 3}
    timed = calls[9:]
    assert [name for name, _ in timed] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert all(len({row for _, row in timed[i : i + 3]}) == 1 for i in (0, 3, 6)), "one round, one batch of rows"
    assert len({row for _, row in timed}) == 3, "the next round has others"


def test_who_takes_too_long_is_not_timed() -> None:
    pool = Pool(np.zeros((8, 1), np.float32))
    settings = dataclasses.replace(FAST, call_seconds=0.0)
    programs = {name: (lambda X: None, pool) for name in ("auto", "slow")}
    assert list(timing.take_turns(programs, 1, settings)) == ["auto"]
    assert timing.take_turns({"slow": programs["slow"]}, 1, settings) == {}


def test_only_a_hopeless_gemm_is_left_out() -> None:
    def step(**considered: Any) -> dict[str, Any]:
        return {"considered": considered}

    assert timing._absurd([step(gemm=3100.0, bitslice=100.0)]) == {"gemm": "its estimate is 31 times the lowest"}
    assert timing._absurd([step(gemm=3100.0, bitslice=100.0), step(gemm=9.0, bitslice=10.0)]) == {}
    assert timing._absurd([step(gemm="too many leaves", bitslice=100.0), step()]) == {}


# Figures and reports.

MACHINE: dict[str, Any] = {
    "cpu": "A CPU",
    "cpu_family": "x/1/2/3",
    "cpu_flags": ["avx2"],
    "cpus": 2,
    "caches": {"L2 unified": "1024K"},
    "python": "3.11",
    "system": "Linux",
    "libc": "glibc",
    "compiler": "cc",
    "versions": {"woodpecker": "0.1.0"},
}


def results(study: str, batches: tuple[int, ...], **records: Any) -> dict[str, Any]:
    return {
        "study": study,
        "machine": MACHINE,
        "settings": dataclasses.asdict(dataclasses.replace(FAST, batches=batches)),
        "commit": "abc",
        "complete": True,
        "woodpecker_changed_meanwhile": False,
        "cells": records,
    }


def regrets() -> dict[str, Any]:
    walk, slices = [0, "walk", {}], [100, "slices", {}]
    strategies: dict[str, Any] = {
        "auto": {"status": "ok", "reason": None, "steps": [walk, slices]},
        "walk": {"status": "ok", "reason": None, "steps": [walk]},
        "slices": {"status": "ok", "reason": None, "steps": [walk, slices]},
        "pure": {"status": "ok", "reason": None, "steps": [[0, "pure", {}]]},
        "gemm": {"status": "left out", "reason": "it is hopeless"},
    }
    times = {
        "1": {"auto": [11.0, 11.0], "walk": [9.0, 9.0], "slices": [11.0, 11.0], "pure": [99.0, 99.0]},
        "64": {"auto": [30.0, 60.0], "walk": [30.0, 60.0], "slices": [30.0, 60.0], "pure": [20.0, 40.0]},
        "200": {"auto": [5.5, 5.5], "walk": [30.0, 30.0], "slices": [5.0, 5.0], "pure": [6.0, 6.0]},
    }
    cell = {
        "status": "ok",
        "reason": None,
        "about": {"title": "M"},
        "plan": [{"min_rows": 0, "strategy": "walk"}, {"min_rows": 100, "strategy": "slices"}],
        "strategies": strategies,
        "batches": {batch: {"ns_per_row": one} for batch, one in times.items()},
    }
    skipped = {"status": "skipped", "reason": "no model: no such library", "about": {"title": "S"}}
    return results("regret", (1, 64, 200), one=cell, two=skipped)


def test_regret_is_taken_within_rounds_against_the_best_by_median() -> None:
    found = regrets()["cells"]["one"]["batches"]
    assert regret.regret(found["64"]["ns_per_row"]) == ("pure", pytest.approx(0.5))
    assert regret.regret({"auto": [5.0, 9.0], "walk": [6.0, 9.0]}) == ("walk", pytest.approx((5 / 6 + 1) / 2 - 1))
    assert regret.regret({"auto": [1.0]}) is None and regret.regret({"walk": [1.0]}) is None


def test_regret_report_tells_noise_from_a_wrong_choice() -> None:
    text = command.render(regrets())
    lines = {line.split("|")[2].strip(): line for line in text.splitlines() if line.startswith("| one")}
    assert lines["1"].rstrip(" |").endswith("22 % !")
    assert lines["64"].rstrip(" |").endswith("50 % !")
    assert lines["200"].rstrip(" |").endswith("10 % ="), "the same program by another name"
    assert "Worst: 50 %, one, 64 rows: pure was best, auto chose walk; mean 24.1 %; 2 of 3 above 15 %." in text
    assert "- 22 %: one, 1 rows: walk was best, auto chose the steps of walk" in text
    assert "the same program beside itself was off by up to 10 %" in text
    assert "- one: gemm: left out: it is hopeless" in text and "- two: skipped: no model" in text


def threads_results() -> dict[str, Any]:
    times = {"1": [10.0, 20.0], "2": [5.0, 10.0]}
    cell = {"status": "ok", "reason": None, "about": {}, "strategy": "walk", "batches": {"64": {"ns_per_row": times}}}
    cell |= {"cpus_used": {"1": 1.0, "2": 1.7}, "load_average": 3.0}
    return results("threads", (64,), one=cell)


def scaling_results() -> dict[str, Any]:
    def cell(batches: dict[str, float]) -> dict[str, Any]:
        return {
            "status": "ok",
            "reason": None,
            "about": {},
            "strategy": "walk",
            "compile_seconds": 1.5,
            "load_seconds": 0.001,
            "rss_before": 100_000_000,
            "peak_bytes": 150_000_000,
            "artifact_bytes": 2000,
            "batches": {batch: {"ns_per_row": [ns, ns]} for batch, ns in batches.items()},
        }

    broken = {"status": "failed", "reason": "out of memory", "about": {}}
    both = {"1": 20.0, "64": 10.0}
    records = {"trees/10": cell(both), "trees/30": cell(both), "trees/100": broken, "batch": cell({"1": 7.0})}
    return results("scaling", (1, 64), **records)


def routing_results() -> dict[str, Any]:
    strategies = {"auto": {"status": "ok", "reason": None}, "gemm": {"status": "left out", "reason": "it is hopeless"}}
    kinds = {"balanced": {"auto": [30.0, 30.0]}, "skewed": {"auto": [15.0, 10.0]}}
    cell = {"status": "ok", "reason": None, "about": {}, "strategies": strategies, "plan": [], "batches": {"8": kinds}}
    return results("routing", (8,), one=cell)


def latency_results() -> dict[str, Any]:
    steps = {"numpy": 0.1, "import": 0.2, "load": 0.3, "first": 0.4, "warm_load": 0.05, "warm_first": 0.025}
    call = {"p50_ns": 2500.0, "p99_ns": 9000.0, "calls": 10, "ns": [2500.0]}
    good = {"status": "ok", "reason": None, "cold": steps}
    contestants = {
        "woodpecker:auto": {"kind": "woodpecker", **good, "calls": {"predict_raw": call, "predict": call}},
        "onedal": {"kind": "peer", **good, "calls": {"predict": call}},
        "lleaves": {"kind": "peer", "status": "refused", "reason": "LightGBM only"},
    }
    cell = {"status": "ok", "reason": None, "about": {"title": "A model"}, "contestants": contestants}
    return results("latency", (1,), one=cell)


def tuning_results() -> dict[str, Any]:
    default, tuned = tuning.DEFAULT.name, tuning.TUNED.name
    kinds = {default: "woodpecker", tuned: "woodpecker", "library": "library", "onedal": "peer"}
    times = {default: [30.0, 20.0, None], tuned: [20.0, 16.0, None], "library": [90.0, 90.0, 90.0]}
    many = {default: [30.0], tuned: [33.0], "onedal": [60.0], "library": [90.0]}

    def cell(gain: float, plan: list[int]) -> dict[str, Any]:
        record = {"trials": 40, "gain": gain, "plan": plan, "default": [0]}
        made = {"record": record, "plan": "walk()", "verdict": "", "seconds": 100.0, "trials": 40, "to_95": 7}
        batches = {"1": {"ns_per_row": times}, "64": {"ns_per_row": many}}
        return {"status": "ok", "reason": None, "about": {}, "tuning": made, "batches": batches, "kinds": kinds}

    resumed = cell(1.0, [0])
    resumed["tuning"] |= {"trials": 3, "to_95": None}
    failed = {"status": "failed", "reason": "out of memory", "about": {}}
    return results("tuning", (1, 64), one=cell(1.21, [1]), same=resumed, none=failed)


def test_tuning_report_shows_gains_and_what_they_took() -> None:
    text = command.render(tuning_results())
    assert "| one   |    1 |    25.0 |  18.0 |   1.38x |   library | 90.0 |         5.06x |" in text
    assert "| one   |   64 |    30.0 |  33.0 |   0.91x |   onedal~ | 60.0 |         1.82x |" in text
    assert "| same  |    1 |    25.0 |  18.0 | 1.38x = |" in text
    assert f"Gain, geometric mean over 2 models: {1.375**0.5:.3f} at 1 rows." in text
    assert f"Gain, geometric mean over 2 models: {(30 / 33) ** 0.5:.3f} at 64 rows." in text
    assert f"Over all of these cells: {(1.375 * 30 / 33) ** 0.25:.3f}." in text
    assert "| one   |     40 | 100 s |       7 | 1.210 |" in text
    assert "| same  |     40 |     - |       - | 1.000 |" in text, "a part of a job has no time of its own"
    assert "Geometric mean of these gains: 1.100." in text
    assert "- one: walk()\n- same: walk() (the default)\n- none: failed: out of memory" in text


ALL = (regrets, threads_results, scaling_results, routing_results, latency_results, tuning_results)


def test_reports_show_the_figures() -> None:
    assert "| one   |     walk |   64 |               15.0 |     2.00x |" in command.render(threads_results())
    assert "CPUs used, by number of threads: 1.00 by 1, 1.70 by 2; load average 3.0" in command.render(
        threads_results()
    )
    text = command.render(scaling_results())
    assert "| 30    |     walk |   20.0 |    10.0 |   1.5 s | 50.0 MB |  2.00 KB | 0.001 s |" in text
    assert "- trees/100: failed: out of memory" in text and "## batch: walk" in text
    text = command.render(routing_results())
    assert "| one    |    8 |     auto |     30.0 |   12.5 |                2.50x |" in text
    assert "- one: gemm: left out" in text
    text = command.render(latency_results())
    assert "| woodpecker:auto  |  1 s | 0.1 s |  0.2 s | 0.3 s | 0.4 s |    0.05 s |    0.025 s |" in text
    assert "| onedal          |               - |      - |      2.5 µs | 9.0 µs |" in text
    assert "- one: lleaves: refused: LightGBM only" in text


def test_reports_say_what_is_missing() -> None:
    found = threads_results() | {"complete": False, "commit": None, "woodpecker_changed_meanwhile": True}
    text = command.render(found)
    assert "Incomplete" in text and "Commit unknown" in text and "sources changed" in text and "CPU time" not in text
    found = regrets()
    found["settings"]["clock"] = "cpu"
    assert "CPU time" in command.render(found)


# Plots.


def test_plots_say_what_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(threads_results()))
    assert command_line.main(["plot", str(path), "-o", str(tmp_path / "plots")]) == 2
    assert capsys.readouterr().err == "error: plots need matplotlib: pip install matplotlib, or the extra bench\n"
    assert not (tmp_path / "plots").exists()


DRAWN = {
    "regret": ["regret"],
    "threads": ["threads"],
    "scaling": ["scaling-trees", "scaling-batch"],
    "routing": ["routing-one"],
    "latency": ["latency-one"],
    "tuning": ["tuning"],
}


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("default")
def test_plots_are_drawn_and_reproducible(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    found = make()
    path = tmp_path / "results.json"
    path.write_text(json.dumps(found))
    names = [f"{name}.svg" for name in DRAWN[found["study"]]]
    for folder in ("a", "b"):
        assert command_line.main(["plot", str(path), "-o", str(tmp_path / folder)]) == 0
        assert capsys.readouterr().out.split() == [str(tmp_path / folder / name) for name in names]
    for name in names:
        content = (tmp_path / "a" / name).read_bytes()
        assert b"A CPU" not in content[:100] and content.startswith(b"<?xml") and len(content) > 5000
        assert content == (tmp_path / "b" / name).read_bytes()


# The command line.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["regret", "--shape", "none"], "unknown model 'none'"),
        (["regret", "--forest", "21"], "unknown forest '21'; known: 1, 2"),
        (["regret", "--batch", "0"], "--batch 0: it must be 1 or more"),
        (["latency", "--contestant", "nobody"], "unknown contestant 'nobody'"),
        (["threads", "--shape", "none"], "unknown model 'none'"),
        (["threads", "--most", "-1"], "--most -1: it must be 1 or more"),
        (["scaling", "--axis", "none"], "unknown axis 'none'; known: trees, leaves"),
        (["routing", "--shape", "none"], "unknown forest 'none'"),
        (["routing", "--rounds", "0"], "--rounds 0: it must be 1 or more"),
        (["plot", "no-such-file.json"], "no-such-file.json"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


@pytest.mark.parametrize("content", ["{}", '{"study": "none"}', "[]", "not json"])
@pytest.mark.parametrize("action", ["report", "plot"])
def test_other_files_are_no_results(
    action: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if action == "plot":
        pytest.importorskip("matplotlib")
    path = tmp_path / "results.json"
    path.write_text(content)
    assert command_line.main([action, str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_models_are_selected() -> None:
    held = forests.held_out(3)

    def names(shapes: list[str], numbers: list[str]) -> list[str]:
        return [shape.name for shape in regret.selected(SHAPES[:2], held, shapes, numbers)]

    first, second = SHAPES[0].name, SHAPES[1].name
    assert names([], []) == [first, second, "forest-1", "forest-2", "forest-3"]
    assert names([second], []) == [second] and names([], ["2"]) == ["forest-2"]
    assert names(["all"], ["3", "1"]) == [first, second, "forest-3", "forest-1"]


def test_a_study_has_cells_for_all_that_is_asked() -> None:
    default = Settings()
    assert len(scaling.cells(("trees", "batch"), default)) == len(scaling.AXES["trees"]) + 1
    assert scaling.AXES["trees"][-1] == 10_000 and scaling.AXES["batch"][-1] == 1_000_000
    assert scaling.AXES["leaves"][::5] == (4, 4096) and scaling.AXES["features"][::5] == (4, 4000)
    assert [cell.key for cell in routing.cells(routing.SHAPES)] == list(routing.SHAPES)
    assert [cell.pool >= 200_000 for cell in threads.cells(SHAPES[:1], Settings(batches=(100_000,)), 2)] == [True]
    assert [cell.shape for cell in latency.cells(SHAPES[:2])] == list(SHAPES[:2])
    assert [cell.pool >= 100_000 for cell in tuning.cells(SHAPES[:2], Settings(batches=(100_000,)))] == [True] * 2
