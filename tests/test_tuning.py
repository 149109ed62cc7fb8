"""Tuning jobs: what a bad candidate costs, resuming, what is refused, and what the record is worth."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import reference
from woodpecker.errors import InputError, TargetError, UnsupportedModelError
from woodpecker.runtime import candidates
from woodpecker.tuning import offline, records, report, search, space, store

from .gallery import FORESTS, grown
from .support import assert_bits_equal

FAULTY = (str(Path(__file__).with_name("tuning_faults.py")),)


@pytest.fixture(scope="module")
def forest():
    return grown(1, 6, 4, dtype=np.float32)


def quick(model, folder, **options):
    """A job of a few seconds."""
    wanted = {"trials": 3, "batches": (1, 64), "work_dir": folder / "work", "tuning_logs": folder / "logs"}
    return wp.tune(model, **{**wanted, **options})


@pytest.fixture(scope="module")
def tuned(forest, tmp_path_factory):
    """(folder, result) of a job."""
    folder = tmp_path_factory.mktemp("tuned")
    return folder, quick(forest, folder, trials=5, data=np.random.default_rng(0).normal(size=(200, 5)))


def test_a_job_leaves_a_record_that_compile_uses(tuned, forest):
    folder, result = tuned
    assert len(result.trials) == 5
    assert {t["status"] for t in result.trials} == {"ok"}
    journal = candidates.read_trials(folder / "work")
    again = [t for t in journal if t.get("again")]
    assert journal[4:-1] == again  # after four of five trials
    assert {candidates.key(t["plan"]) for t in again} == {candidates.key(t["plan"]) for t in journal[:4]}
    assert result.trials[0]["ns"] == again[0]["ns"] != journal[0]["ns"]
    assert result.path == records.log_path(folder / "logs", result.record)
    (entry,) = records.read(folder / "logs")
    assert entry.record == result.record
    assert result.record.dtype == "float64"
    assert result.record.rows == "given"
    assert set(result.record.ns_per_row) == {"1", "64"}
    model = wp.compile(forest, tuning_logs=folder / "logs")
    found = model.inspect()
    assert found["tuning"]["from"] == "this model"
    plan = [{name: step[name] for name in ("min_rows", "strategy", "options")} for step in found["plan"]]
    assert plan == list(result.record.plan)
    X = np.random.default_rng(1).normal(size=(777, 5))
    assert_bits_equal(model.predict_raw(X), reference.predict_raw(forest, X))


def test_a_report_says_what_was_found(tuned):
    _, result = tuned
    default = {"plan": list(result.record.default), "status": "ok", "ns": {"1": 10.0, "64": 10.0}}
    others = [{"plan": [n], "status": "ok", "ns": {"1": ns, "64": ns}} for n, ns in enumerate((20.0, 5.1, 5.0))]
    failed = {"plan": [9], "status": "crashed", "message": "x"}
    made = dataclasses.replace(result, trials=(default, others[0], failed, *others[1:]))
    assert report.trials_to(made, 0.95) == 4
    assert report.trials_to(made, 1.0) == 5
    assert report.trials_to(dataclasses.replace(result, trials=(default, others[0])), 0.95) is None
    assert [round(gain, 2) for _, gain in report.ranking(made)] == [2.0, 1.96, 1.0, 0.5]
    assert report.failures(made) == {"crashed": 1}
    text = report.page(result)
    assert report.plan_text(result.record.plan) in text
    assert text.count("<svg") == 2
    assert report.plot([failed], "1") == "<p>nothing was measured</p>"


@pytest.mark.full
def test_the_same_command_goes_on_where_it_was(tuned, forest):
    folder, result = tuned
    data = np.random.default_rng(0).normal(size=(200, 5))
    fresh = []
    again = quick(forest, folder, trials=6, data=data, progress=fresh.append)
    assert list(again.trials[:5]) == list(result.trials)
    assert len(fresh) == 1
    assert sum(t.get("again", False) for t in candidates.read_trials(folder / "work")) == 4
    with pytest.raises(InputError, match="belongs to another job, which differs in seed"):
        quick(forest, folder, data=data, seed=1)
    with pytest.raises(InputError, match="differs in batches, rows"):
        quick(forest, folder, batches=(1, 32))
    with (
        store.locked(folder / "work"),
        pytest.raises(InputError, match="another tuning job is running"),
    ):
        quick(forest, folder, data=data)


@pytest.mark.full
def test_an_interrupted_job_keeps_what_was_measured(forest, tmp_path):
    def stop(trial):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick(forest, tmp_path, progress=stop)
    assert len(candidates.read_trials(tmp_path / "work")) == 1
    with (tmp_path / "work" / candidates.TRIALS).open("a") as file:
        file.write('{"plan": [')  # as a job leaves it that is killed while it writes
    fresh = []
    result = quick(forest, tmp_path, progress=fresh.append)
    assert len(fresh) == 2
    assert len(result.trials) == 3
    assert records.read(tmp_path / "logs")[0].record == result.record


@pytest.mark.full
def test_a_bad_candidate_costs_itself_only(forest, tmp_path, monkeypatch):
    monkeypatch.setattr(offline, "WORKER", FAULTY)
    plans = [space.single("perfect_tree_traversal", {"interleave": n, "trees": 1}) for n in (16, 1, 2, 4, 8, 32)]
    monkeypatch.setattr(search, "next_plan", lambda what, trials, *_: ([what.default, *plans, None])[len(trials)])
    result = quick(forest, tmp_path, trials=8, timeout=8.0, memory=2.0)
    found = {t["plan"][0]["options"]["interleave"]: t for t in result.trials[1:]}
    expected = {16: "wrong", 1: "timeout", 2: "crashed", 4: "memory", 8: "error", 32: "ok"}
    assert {n: t["status"] for n, t in found.items()} == expected
    assert "1 of 17,408 scores differ, the first at row 5" in found[16]["message"]
    assert "SIGSEGV" in found[2]["message"]
    assert "ZeroDivisionError: division by zero" in found[8]["message"]
    chosen = {step["options"].get("interleave") for step in result.record.plan}
    assert chosen.isdisjoint({1, 4, 8, 16}) or result.record.plan == result.record.default


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"trials": 1}, InputError, "trials must be an integer of at least 2"),
        ({"seed": -1}, InputError, "seed must be"),
        ({"batches": ()}, InputError, "batches must be integers"),
        ({"batches": (0,)}, InputError, "batches must be integers"),
        ({"timeout": 0.0}, InputError, "must be positive"),
        ({"memory": float("nan")}, InputError, "must be positive"),
        ({"memory": "4"}, InputError, "memory must be positive"),
        ({"timeout": "5"}, InputError, "timeout must be positive"),
        ({"timeout": None}, InputError, "timeout must be positive"),
        ({"timeout": float("inf")}, InputError, "timeout must be positive"),
        ({"timeout": 10**400}, InputError, "timeout must be positive"),
        ({"batches": np.array([1, 16])}, InputError, "batches must be integers"),
        ({"batches": 5}, InputError, "batches must be integers"),
        ({"batches": "16"}, InputError, "batches must be integers"),
        ({"tracker": 5, "device_key": "board"}, InputError, "must look like HOST:PORT"),
        ({"tracker": "host:1", "device_key": 5}, InputError, "device_key must be a str"),
        ({"tracker": "host:1"}, InputError, "go together"),
        ({"target": "x86-64-v9"}, TargetError, "unknown target"),
        (
            {"target": "x86-64"},
            TargetError,
            r"3 CPU levels \(.*-v3, x86-64-v4\), and a tuning job is for one",
        ),
        ({"target": ["x86-64-v3", "x86-64-v2"]}, TargetError, "2 CPU levels"),
        ({"target": []}, TargetError, "an empty list"),
        ({"data": np.zeros((3, 99))}, InputError, "99 columns"),
        ({"tuning_logs": ["a", "b"]}, InputError, "must be one folder"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(options, error, message, forest, tmp_path):
    with pytest.raises(error, match=message):
        quick(forest, tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_models_and_folders_that_cannot_be_tuned(forest, tmp_path):
    with pytest.raises(UnsupportedModelError, match="no trees"):
        quick(FORESTS["empty"](), tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "letter.txt").write_text("dear diary")
    with pytest.raises(InputError, match="no work folder of a tuning job, and not empty"):
        quick(forest, tmp_path)
    (tmp_path / "work" / "task.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        quick(forest, tmp_path)


def test_numbers_are_checked_before_the_model(tmp_path):
    for wrong in ({"timeout": -1.0}, {"memory": 0}, {"tracker": "host", "device_key": "k"}, {"batches": ()}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            wp.tune(object(), **wrong)


@pytest.mark.full
def test_tuning_is_imported_only_when_it_is_used():
    code = (
        "import sys, woodpecker.tuning.lookup; print(*sorted(m for m in sys.modules if m.startswith('woodpecker.t')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "offline" not in done.stdout
    assert json.dumps("woodpecker.tuning.records") in json.dumps(done.stdout.split())
