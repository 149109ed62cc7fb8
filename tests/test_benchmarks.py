"""The benchmark suite itself: figures, resuming, and that a wrong answer never gets a time.

The contestants here are toys of a few lines, in processes of their own like the real ones; no peer is needed.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as command_line
from benchmarks import run as suite
from benchmarks.cell import Settings
from benchmarks.contestants import LIBRARY, LINK, PEER, WOODPECKER, Contestant, Predict, resolve
from benchmarks.driver import Failed, worker
from benchmarks.report import render
from benchmarks.run import failures, run_suite
from benchmarks.shapes import Info, Shape, make_rows
from benchmarks.state import State, StateMismatch
from woodpecker.errors import StrategyError

TOY = Shape("toy", "A toy", "toy", "regression", 3, 1, {})
FAST = Settings(
    batches=(1, 8),
    rounds=2,
    min_rounds=2,
    cell_seconds=0.002,
    build_seconds=5.0,
    memory_gb=4.0,
    threshold_rows=16,
)


def toy_scores(X: np.ndarray) -> np.ndarray:
    return (X[:, :1] - X[:, 1:2]) + X[:, 2:]


def toy_leaves(X: np.ndarray) -> np.ndarray:
    return (X > 0).astype(np.int32)


def load(info: Info, model: Any, folder: Path) -> Predict:
    return toy_scores


def leaves(info: Info, model: Any, folder: Path) -> Predict:
    return toy_leaves


def scores_but(change: Any) -> Any:
    return lambda info, model, folder: lambda X: change(toy_scores(X))


def one_bit(scores: np.ndarray) -> np.ndarray:
    scores[-1, 0] = np.nextafter(scores[-1, 0], np.float32(np.inf))
    return scores


def one_bit_in_large_batches(scores: np.ndarray) -> np.ndarray:
    return one_bit(scores) if len(scores) == 8 else scores


def other_leaf(info: Info, model: Any, folder: Path) -> Predict:
    return lambda X: np.where(X == 0, 1, toy_leaves(X))


def sleep(info: Info, model: Any, folder: Path) -> None:
    (folder / "half").write_bytes(b"x")
    time.sleep(60)


def refuse(info: Info, model: Any, folder: Path) -> None:
    raise StrategyError("a toy reason")


def crash(info: Info, model: Any, folder: Path) -> Predict:
    return lambda X: os.kill(os.getpid(), signal.SIGSEGV)


def zeros(model: Any, n: int, seed: int) -> np.ndarray:
    return np.zeros((n, 3), np.float32)


LIB = Contestant("library", LIBRARY, load, leaves=leaves, load_link=load)
SOUND = Contestant("woodpecker:sound", WOODPECKER, load, leaves=leaves, probe=zeros)
ONE_BIT = dataclasses.replace(SOUND, name="woodpecker:one-bit", load=scores_but(one_bit))
ONE_LEAF = dataclasses.replace(SOUND, name="woodpecker:one-leaf", leaves=other_leaf)
ONE_BATCH = dataclasses.replace(SOUND, name="woodpecker:one-batch", load=scores_but(one_bit_in_large_batches))
REFUSED = dataclasses.replace(SOUND, name="woodpecker:refused", build=refuse)
INEXACT = Contestant("inexact", PEER, scores_but(lambda s: s + np.float32(1e-6)), form=lambda info: LINK)
BAD = Contestant("bad", PEER, scores_but(lambda s: s + 1))
CRASHING = Contestant("crashing", PEER, crash)
SLOW = Contestant("slow", PEER, load, build=sleep)
ABSENT = Contestant("absent", PEER, load, requires=("no_such_package_anywhere.module",))
UNFIT = Contestant("unfit", PEER, load, refuses=lambda info: "it takes no toys")


def train(shape: Shape, n_rows: int, threads: int, output: Path) -> Info:
    path = output / "rows.f32"
    make_rows(shape, n_rows, seed=2).tofile(path)
    return Info(shape, output / "model", path, n_rows)


def toys(*names: str) -> dict[str, Contestant]:
    return {f"tests.test_benchmarks:{name}": globals()[name] for name in names}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    names = ("LIB", "SOUND", "ONE_BIT", "ONE_LEAF", "ONE_BATCH", "REFUSED", "INEXACT", "BAD", "CRASHING", "SLOW")
    contestants = toys(*names, "ABSENT", "UNFIT")
    settings = dataclasses.replace(FAST, build_seconds=1.5, build_jobs=2)
    found = run_suite([TOY], contestants, settings, tmp_path_factory.mktemp("suite"), train=train, say=lambda _: None)
    return json.loads(json.dumps(found))


def cell(results: dict[str, Any], name: str, batch: int) -> dict[str, Any] | None:
    return results["shapes"][0]["cells"][str(batch)]["contestants"].get(f"tests.test_benchmarks:{name}")


def build(results: dict[str, Any], name: str) -> dict[str, Any]:
    return results["shapes"][0]["builds"][f"tests.test_benchmarks:{name}"]


def test_sound_contestants_are_timed_in_every_round(results: dict[str, Any]) -> None:
    for name in ("LIB", "SOUND", "INEXACT"):
        for batch in (1, 8):
            one = cell(results, name, batch)
            assert one is not None and one["status"] == "ok"
            assert len(one["ns_per_row"]) == 2 and all(0 < ns < 1e7 for ns in one["ns_per_row"])
    assert results["complete"] is True
    assert results["shapes"][0]["rows_compared"] == 4096 + 16


def test_error_of_an_inexact_peer_is_reported(results: dict[str, Any]) -> None:
    one = cell(results, "INEXACT", 8)
    assert one is not None and one["exact"] is False
    assert 1e-7 < one["max_abs"] < 1e-5 and one["max_ulp"] > 1
    sound = cell(results, "SOUND", 8)
    assert sound is not None and (sound["exact"], sound["max_abs"], sound["max_ulp"]) == (True, 0.0, 0)


@pytest.mark.parametrize(
    ("name", "reason"), [("ONE_BIT", "raw scores: 4 of 4,096 differ"), ("ONE_LEAF", "threshold rows: leaf ids")]
)
def test_woodpecker_that_differs_gets_no_time_and_fails_the_run(
    results: dict[str, Any], name: str, reason: str
) -> None:
    assert build(results, name)["status"] == "wrong"
    assert reason in build(results, name)["reason"]
    assert cell(results, name, 1) is None and cell(results, name, 8) is None
    assert any(name in failure and reason in failure for failure in failures(results))


def test_woodpecker_that_differs_in_one_batch_size_gets_no_time_there(results: dict[str, Any]) -> None:
    fine, off = cell(results, "ONE_BATCH", 1), cell(results, "ONE_BATCH", 8)
    assert fine is not None and fine["status"] == "ok"
    assert off is not None and off["status"] == "wrong" and "ns_per_row" not in off
    assert "128 of 1,024 differ" in off["reason"]
    assert any("batch 8" in failure and "ONE_BATCH" in failure for failure in failures(results))


def test_only_woodpecker_fails_the_run(results: dict[str, Any]) -> None:
    assert len(failures(results)) == 3


def test_wrong_peer_gets_no_time(results: dict[str, Any]) -> None:
    one = cell(results, "BAD", 8)
    assert one is not None and one["status"] == "wrong" and "ns_per_row" not in one
    assert "1,024 of 1,024 rows are off" in one["reason"]


@pytest.mark.parametrize(
    ("name", "status", "reason"),
    [
        ("REFUSED", "refused", "a toy reason"),
        ("SLOW", "failed", "it took more than 2 s"),
        ("ABSENT", "unavailable", "package no_such_package_anywhere is not installed"),
        ("UNFIT", "refused", "it takes no toys"),
    ],
)
def test_who_does_not_run_says_why(results: dict[str, Any], name: str, status: str, reason: str) -> None:
    assert (build(results, name)["status"], build(results, name)["reason"]) == (status, reason)
    assert cell(results, name, 8) is None
    assert reason in render(results)


def test_crash_of_a_contestant_is_a_result(results: dict[str, Any]) -> None:
    one = cell(results, "CRASHING", 1)
    assert one is not None and one["status"] == "failed"
    assert one["reason"] == "the process was ended by signal SIGSEGV"


def test_report_shows_all_of_it(results: dict[str, Any]) -> None:
    text = render(results)
    assert "## 8 rows a call" in text and "## A toy" in text
    line = next(line for line in text.splitlines() if line.startswith("| tests.test_benchmarks:BAD"))
    assert line.count("wrong") == 2


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    run = {"train": train, "say": told.append}
    first = run_suite([TOY], toys("LIB", "SOUND"), FAST, tmp_path, **run)
    state = tmp_path / "state.jsonl"
    lines = state.read_bytes().splitlines(keepends=True)
    assert json.loads(lines[-1])["key"] == "cell/toy/8"
    state.write_bytes(b"".join(lines[:-1]) + lines[-1][:40])
    again = run_suite([TOY], toys("LIB", "SOUND"), FAST, tmp_path, **run)
    assert again["shapes"][0]["cells"]["1"] == first["shapes"][0]["cells"]["1"]
    assert again["shapes"][0]["cells"]["8"] != first["shapes"][0]["cells"]["8"]
    assert told.count("  batch 1") == 1 and told.count("  batch 8") == 2

    def no_training(*_: Any) -> Info:
        raise AssertionError("a finished shape is trained again")

    assert run_suite([TOY], toys("LIB", "SOUND"), FAST, tmp_path, train=no_training, say=told.append) == again
    with pytest.raises(StateMismatch, match=r"another settings\.rounds;"):
        run_suite([TOY], toys("LIB", "SOUND"), dataclasses.replace(FAST, rounds=3), tmp_path, **run)
    monkeypatch.setattr(suite.machine, "source_digest", lambda: "other sources")
    with pytest.raises(StateMismatch, match=r"another machine\.woodpecker_sources;"):
        run_suite([TOY], toys("LIB", "SOUND"), FAST, tmp_path, **run)


def test_state_survives_a_cut_line(tmp_path: Path) -> None:
    path = tmp_path / "state.jsonl"
    State(path, {"a": 1}).put("cell", "shape", 64, {"x": 1.5})
    path.write_bytes(path.read_bytes() + b'{"key": "cell/shape/1')
    state = State(path, {"a": 1})
    assert state.get("cell", "shape", 64) == {"x": 1.5} and state.get("cell", "shape", 1) is None
    state.put("cell", "shape", 1, {"x": 2})
    assert State(path, {"a": 1}).get("cell", "shape", 1) == {"x": 2}
    with pytest.raises(StateMismatch, match="another a, b;"):
        State(path, {"a": 2, "b": 3})


def test_a_worker_has_one_thread_and_a_memory_limit(tmp_path: Path) -> None:
    info = train(TOY, 16, 1, tmp_path)
    name = "tests.test_benchmarks:GREEDY"
    with worker(name, info, tmp_path / "made", tmp_path / "log", 2 * 2**30) as one:
        assert one.order("build", limit=20.0)["seconds"] >= 0
        with pytest.raises(Failed, match="ran out of the memory"):
            one.order("load", limit=20.0)
        with pytest.raises(Failed, match="LookupError"):
            one.order("answer", limit=20.0, form="raw", batch=1, rows=1, to=str(tmp_path / "to.npy"))
    assert (tmp_path / "made" / "threads").read_text() == "1"


def note_threads(info: Info, model: Any, folder: Path) -> None:
    (folder / "threads").write_text(os.environ["OMP_NUM_THREADS"])


def allocate(info: Info, model: Any, folder: Path) -> Predict:
    np.ones(2**29)
    return toy_scores


GREEDY = Contestant("greedy", PEER, allocate, build=note_threads)


def test_contestants_are_found_by_name() -> None:
    assert resolve("library").kind == LIBRARY
    assert resolve("woodpecker:gemm").kind == WOODPECKER
    with pytest.raises(LookupError, match="unknown contestant 'nobody'; known: library"):
        resolve("nobody")
    with pytest.raises(LookupError, match="is a Shape"):
        resolve("tests.test_benchmarks:TOY")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--shape", "none"], "unknown model 'none'"),
        (["run", "--contestant", "nobody"], "unknown contestant 'nobody'"),
        (["run", "--contestant", "onedal", "--without", "nobody"], "there is no such contestant"),
        (["report", "no-such-file.json"], "no-such-file.json"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


def test_report_redraws(results: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    assert command_line.main(["report", str(path)]) == 0
    assert capsys.readouterr().out == render(results) + "\n"
