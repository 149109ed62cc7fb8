"""Tuning in two halves: candidates made here, measured where the runtime is all there is, and taken home."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import toolchain
from woodpecker.cli import main
from woodpecker.errors import ArtifactError, InputError, MissingExtraError, TargetError
from woodpecker.predicates import canonicalise
from woodpecker.relay_ops.plan import plan_of
from woodpecker.runtime import candidates, machine, on_device
from woodpecker.runtime.files import append_line
from woodpecker.targets import resolve
from woodpecker.tuning import candidate, halves, offline, records, space, store
from woodpecker.tuning.pool import Pool

from .gallery import grown, rows
from .qemu_support import needs_zig, on_qemu, python, results
from .support import assert_bits_equal

ROOT = Path(wp.__file__).parents[1]
BATCHES = (1, 64)


@pytest.fixture(scope="module")
def forest():
    return grown(1, 6, 4, dtype=np.float32)


@pytest.fixture(scope="module")
def made(forest, tmp_path_factory):
    """Candidates for this machine, not measured."""
    folder = tmp_path_factory.mktemp("halves") / "candidates"
    assert halves.make(forest, folder, trials=4, batches=BATCHES) == 4
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of them."""
    return Path(shutil.copytree(made, tmp_path / "the device's"))


def spoil(folder: Path, index: int, forest: wp.Forest, target: str) -> None:
    """Let a candidate compute scores that are one bit away from those of the model."""
    chosen = candidates.read_list(folder)["candidates"][index]
    values = np.nextafter(forest.values, np.float32(9))
    other = canonicalise(forest.replace(values=values))
    code = candidate.code_of(other, plan_of(other, chosen["plan"], ""), resolve(target))
    assert (folder / chosen["model"]).stat().st_size == code.blob.nbytes
    code.blob.tofile(folder / chosen["model"])
    seal(folder)


def seal(folder: Path) -> None:
    """Let the files of a folder count as those that were built."""
    listed = candidates.read_list(folder)
    listed["digests"] = {name: candidates.digest(folder / name) for name in listed["digests"]}
    (folder / candidates.LIST).write_text(json.dumps(listed))


def pretend(folder: Path, *ns: float, **paired: object) -> None:
    """The results of a device on which the candidates take these times."""
    listed = candidates.read_list(folder)
    plans = [c["plan"] for c in listed["candidates"]]
    for plan, each in zip(plans, ns, strict=False):
        times = {str(batch): each for batch in listed["batches"]}
        trial = {"plan": plan, "job": listed["job"], "status": "ok", "ns": times}
        append_line(folder / candidates.TRIALS, json.dumps(trial) + "\n")
    samples = [{str(batch): [each] * 15 for batch in listed["batches"]} for each in ns]
    found = {"job": listed["job"], "trials": len(ns), "plans": plans[: len(ns)], "times": samples, "cores": 4}
    (folder / candidates.PAIRED).write_text(json.dumps(found | paired))


@pytest.mark.full
def test_the_second_half_needs_the_runtime_alone(forest, folder, tmp_path):
    spoil(folder, 1, forest, "llvm")
    wrong = candidates.read_list(folder)["candidates"][1]["plan"]
    kept = (folder / "forest.npz").rename(tmp_path / "forest.npz")
    block = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('tvm', 'typer', 'rich', 'xgboost', 'lightgbm', 'sklearn'):\n"
        "            raise ImportError(name, name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    (tmp_path / "sitecustomize.py").write_text(block)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    measure = "import sys; from woodpecker.cli import main; sys.exit(main(['measure', sys.argv[1]]))"
    run = [sys.executable, "-c", measure, str(folder)]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 candidates measured" in done.stdout
    assert [t["status"] for t in candidates.read_trials(folder)] == ["ok", "wrong", "ok", "ok"]
    assert wrong not in json.loads((folder / candidates.PAIRED).read_text())["plans"]
    kept.rename(folder / "forest.npz")
    result = halves.take(folder, tuning_logs=tmp_path / "logs")
    assert result.record.trials == 4
    assert list(result.record.plan) != wrong
    assert records.read(tmp_path / "logs")[0].record == result.record
    tuning = wp.compile(forest, tuning_logs=tmp_path / "logs").inspect()["tuning"]
    assert tuning["from"] == "this model"


@pytest.mark.full
def test_a_second_round_joins_what_the_first_one_found(forest, folder):
    listed = candidates.read_list(folder)
    for i, each in enumerate(listed["candidates"]):
        ns = {"1": 10.0 + 90 * (i % 2), "64": 10.0 - 5 * (i % 2)}
        trial = {"plan": each["plan"], "job": listed["job"], "status": "ok", "ns": ns}
        append_line(folder / candidates.TRIALS, json.dumps(trial) + "\n")
    (folder / candidates.PAIRED).write_text(json.dumps({"job": listed["job"], "trials": 4}))
    assert halves.make(forest, folder, trials=3, batches=BATCHES) == 3
    after = candidates.read_list(folder)["candidates"]
    assert after[:4] == listed["candidates"]
    assert len({candidates.key(c["plan"]) for c in after}) == 7
    with pytest.raises(InputError, match="3 of 7 candidates are left"):
        halves.take(folder)
    with pytest.raises(InputError, match="belongs to another job"):
        halves.make(grown(2, 6, 4), folder, trials=3)


@pytest.mark.parametrize("name", [candidates.ROWS, candidates.WANTED, "code", "model"])
def test_a_folder_that_was_copied_in_part_is_not_measured(folder, name):
    path = folder / candidates.read_list(folder)["candidates"][1].get(name, name)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=r"cut short or of another build: copy all of that folder again"):
        on_device.measure_all(folder)
    assert not (folder / candidates.TRIALS).exists()


@pytest.mark.full
def test_measuring_finds_wrong_crashing_and_hanging_candidates(folder, tmp_path):
    wanted = np.load(folder / candidates.WANTED)
    wanted[3, 0] = np.nextafter(wanted[3, 0], 9)
    np.save(folder / candidates.WANTED, wanted)
    listed = candidates.read_list(folder)
    (folder / listed["candidates"][1]["code"]).write_bytes(b"no library")
    seal(folder)
    assert [t["status"] for t in on_device.measure_all(folder)] == ["wrong", "crashed", "wrong", "wrong"]
    assert json.loads((folder / candidates.PAIRED).read_text())["plans"] == []
    with pytest.raises(InputError, match=r"the default plan was not measured, .* it ended as wrong: .* scores differ"):
        halves.take(folder, tuning_logs=tmp_path / "logs")
    (folder / candidates.TRIALS).unlink()
    assert {t["status"] for t in on_device.measure_all(folder, timeout=0.05)} == {"timeout"}


def test_a_candidate_that_turns_out_wrong_in_the_paired_run_is_never_chosen(folder, tmp_path, monkeypatch):
    """As one would that reads what it has not written."""
    asked = []

    def apart(_folder, _timeout, what, indices, _best):
        asked.append(list(indices))
        if what == "one":
            return {"status": "ok", "ns": {"1": 10.0 - indices[0], "64": 10.0 - indices[0]}}
        if 3 in indices:
            return {"status": "wrong", "message": "it varies", "place": indices.index(3)}
        return {"status": "ok", "times": [{b: [10.0 - i] * 15 for b in ("1", "64")} for i in indices]}

    monkeypatch.setattr(on_device, "_apart", apart)
    trials = on_device.measure_all(folder)
    assert asked == [[0], [1], [2], [3], [0, 3, 2, 1], [0, 2, 1]]
    monkeypatch.setattr(machine, "runs", lambda target: False)  # as at home, where what the device has found must do
    plans = [c["plan"] for c in candidates.read_list(folder)["candidates"]]
    assert (trials[-1]["status"], trials[-1]["plan"]) == ("wrong", plans[3])
    assert list(halves.take(folder, tuning_logs=tmp_path / "logs").record.plan) == plans[2]
    first, *others = json.loads((folder / candidates.PAIRED).read_text())["plans"]
    for forged in ([first, plans[3]], others):
        paired = json.loads((folder / candidates.PAIRED).read_text()) | {"plans": forged}
        (folder / candidates.PAIRED).write_text(json.dumps(paired))
        with pytest.raises(InputError, match="is damaged"):
            halves.take(folder, tuning_logs=tmp_path / "logs")


def test_a_python_that_does_not_answer(folder, tmp_path, monkeypatch):
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\nexit 0\n")
    silent.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(silent))
    assert [t["status"] for t in on_device.measure_all(folder)] == ["crashed"] * 4
    (folder / candidates.TRIALS).unlink()
    silent.write_bytes(b"\x7fELF")
    with pytest.raises(TargetError, match=r"can't be started: .*python"):
        on_device.measure_all(folder)
    assert not (folder / candidates.TRIALS).exists()


def test_an_interrupted_command_goes_on(folder, monkeypatch, capsys):
    results = iter([{"status": "slow", "ns": {"1": 9.0}}, KeyboardInterrupt()])

    def apart(*_):
        result = next(results, {"status": "slow", "ns": {"1": 9.0}})
        if isinstance(result, KeyboardInterrupt):
            raise result
        return result

    monkeypatch.setattr(on_device, "_apart", apart)
    assert on_device.main([str(folder)]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert len(candidates.read_trials(folder)) == 1
    assert not (folder / candidates.PAIRED).exists()
    assert on_device.main([str(folder)]) == 0
    assert len(candidates.read_trials(folder)) == 4


def test_a_folder_is_measured_by_one_process_and_its_files_are_no_modules(folder):
    with candidates.locked(folder), pytest.raises(InputError, match="another tuning job is running"):
        on_device.measure_all(folder)
    for wrong in ("5", None, float("nan"), -1.0):
        with pytest.raises(InputError, match="timeout must be positive"):
            on_device.measure_all(folder, timeout=wrong)
    assert not (folder / candidates.TRIALS).exists()
    (folder / "json.py").write_text("raise SystemExit('this is no module')")
    listed = json.loads((folder / candidates.LIST).read_text())
    default = [c for c in listed["candidates"] if c["plan"] == listed["default"]]
    (folder / candidates.LIST).write_text(json.dumps({**listed, "candidates": default}))
    assert [t["status"] for t in on_device.measure_all(folder)] == ["ok"]


@pytest.mark.full
def test_a_winner_whose_entries_are_wrong_is_not_taken(folder, tmp_path, monkeypatch):
    listed = candidates.read_list(folder)
    plans = [list(space.single("perfect_tree_traversal", {"interleave": n, "trees": 1})) for n in (16, 32)]
    for each, plan in zip(listed["candidates"][1:], plans, strict=False):
        each["plan"] = plan
    (folder / candidates.LIST).write_text(json.dumps({**listed, "candidates": listed["candidates"][:3]}))
    pretend(folder, 10.0, 2.0, 5.0)
    monkeypatch.setattr(offline, "WORKER", (str(Path(__file__).with_name("tuning_faults.py")),))
    result = halves.take(folder, tuning_logs=tmp_path / "logs")
    assert list(result.record.plan) == plans[1]
    assert result.gain == pytest.approx(2.0)


def test_folders_that_cannot_be_measured(folder, made, tmp_path, capsys):
    listed = json.loads((folder / candidates.LIST).read_text())
    other = "are for vax on Linux with glibc; this is .* Measure them on such a device"
    for change, error, message in (
        ({"format": 9}, InputError, "has format 9"),
        ({"resolved": {**listed["resolved"], "machine": "vax"}}, ArtifactError, other),
        ({"resolved": {**listed["resolved"], "features": ["warp"]}}, ArtifactError, "needs warp, which this CPU has"),
        ({"batches": [1, 10**9]}, InputError, "is damaged"),
        ({"candidates": []}, InputError, "is damaged"),
        ({"n_rows": "9"}, InputError, "is damaged"),
        ({"resolved": 3}, InputError, "is damaged"),
        ({"default": None}, InputError, "is damaged"),
        ({"job": None}, InputError, "is damaged"),
    ):
        (folder / candidates.LIST).write_text(json.dumps({**listed, **change}))
        with pytest.raises(error, match=message):
            on_device.measure_all(folder)
    (folder / candidates.LIST).write_text("{")
    for wrong, message in ((tmp_path, "holds no candidates"), (folder, "is damaged")):
        assert main(["measure", str(wrong)]) == 2
        assert message in capsys.readouterr().err
    (folder / candidates.LIST).write_text(json.dumps(listed))
    (folder / candidates.ROWS).unlink()
    with pytest.raises(InputError, match=r"lacks rows.npy: copy all of the folder"):
        on_device.measure_all(folder)
    (folder / listed["candidates"][2]["code"]).unlink()
    with pytest.raises(InputError, match=r"lacks 0002.so and 1 other files"):
        on_device.measure_all(folder)


def test_results_that_cannot_be_taken(folder, tmp_path):
    logs = tmp_path / "logs"
    listed = candidates.read_list(folder)
    with pytest.raises(InputError, match=r"not measured to the end \(4 of 4 candidates are left\): run woodpecker mea"):
        halves.take(folder, tuning_logs=logs)
    pretend(folder, 3.0)
    with pytest.raises(InputError, match=r"\(3 of 4 candidates are left\)"):
        halves.take(folder, tuning_logs=logs)
    (folder / candidates.TRIALS).unlink()
    pretend(folder, 3.0, 3.0, 3.0, 3.0, trials=3)  # the paired run is that of fewer results
    with pytest.raises(InputError, match="not measured to the end: run"):
        halves.take(folder, tuning_logs=logs)
    whole = (folder / candidates.TRIALS).read_text()
    (folder / candidates.TRIALS).write_text(whole.replace('"64"', '"65"', 1))
    with pytest.raises(InputError, match=r"\(1 of 4 candidates are left\)"):
        halves.take(folder, tuning_logs=logs)
    for change in (
        {"plans": [3]},
        {"times": []},
        {"cores": "many"},
        {"cores": 2**40},
        {"times": [{"1": [0.0], "64": [0.0]}] * 4},
    ):
        (folder / candidates.TRIALS).unlink()
        pretend(folder, 3.0, 3.0, 3.0, 3.0, **change)
        with pytest.raises(InputError, match=r"is damaged|cores must be"):
            halves.take(folder, tuning_logs=logs)
    assert not logs.exists()
    (folder / candidates.TRIALS).unlink()
    pretend(folder, 3.0, 3.0, 3.0, 3.0, plans=[], times=[])
    assert halves.take(folder, tuning_logs=logs).gain == 1.0
    for name, text in ((candidates.TRIALS, "holds results of"), (candidates.PAIRED, "is of")):
        kept = (folder / name).read_text()
        (folder / name).write_text(kept.replace(listed["job"], "another"))
        with pytest.raises(InputError, match=f"{text} another build"):
            halves.take(folder, tuning_logs=logs)
        (folder / name).write_text(kept)
    (folder / candidates.TRIALS).write_text(whole.replace(listed["job"], "another"))
    with pytest.raises(InputError, match="of another build"):
        on_device.measure_all(folder)
    (folder / candidates.TRIALS).write_text(whole)
    task = json.loads((folder / "task.json").read_text())
    (folder / "task.json").write_text(json.dumps({**task, "seed": 1}))
    with pytest.raises(InputError, match=r"candidates.json and .*task.json are of different builds"):
        halves.take(folder, tuning_logs=logs)
    (folder / "task.json").write_text(json.dumps(task))
    forest = (folder / "forest.npz").read_bytes()
    for damaged in (b"no forest", b"", forest[:-30], forest[:-4] + b"\xff" * 4):
        (folder / "forest.npz").write_bytes(damaged)
        with pytest.raises(InputError, match="is damaged"):
            halves.take(folder, tuning_logs=logs)
    store.save_forest(folder / "forest.npz", grown(2, 6, 4, dtype=np.float32))
    with pytest.raises(InputError, match="is another model than candidates were made of"):
        halves.take(folder, tuning_logs=logs)
    (folder / "task.json").write_text(json.dumps({**task, "versions": {"tvm": "0"}}))
    with pytest.raises(InputError, match="make it again"):
        halves.take(folder, tuning_logs=logs)


def test_what_candidates_cannot_be_made_for(forest, tmp_path, monkeypatch):
    for target, name in (("arm64-apple-macosx", "macOS"), ("x86_64-windows-gnu", "Windows")):
        with pytest.raises(TargetError, match=f"is {name}, and candidates are made for Linux only"):
            halves.make(forest, tmp_path / "c", target=target)
    with pytest.raises(TargetError, match="3 CPU levels"):
        halves.make(forest, tmp_path / "c", target="x86-64")
    with monkeypatch.context() as patch:
        patch.setattr(toolchain, "_zig", lambda platform: None)
        patch.setenv("PATH", str(tmp_path))
        patch.delenv("CC", raising=False)
        with pytest.raises(MissingExtraError, match=r"woodpecker\[cross\]"):
            halves.make(forest, tmp_path / "c", target="riscv64")
    assert list(tmp_path.iterdir()) == []

    def run(self, next_job, workers=1):
        asked = next_job()
        if asked["do"] == "prepare":
            (tmp_path / "c" / candidates.WANTED).touch()
            yield asked, {"status": "ok"}
        else:
            yield asked, {"status": "refused", "message": "no such code"}

    monkeypatch.setattr(Pool, "run", run)
    with pytest.raises(TargetError, match="the default plan can't be made for 'llvm': no such code"):
        halves.make(forest, tmp_path / "c", batches=BATCHES)
    assert not (tmp_path / "c" / candidates.LIST).exists()


@pytest.mark.full
@needs_zig
def test_a_record_for_another_cpu(forest, tmp_path):
    """What a device measured decides what is compiled for it, on this machine and in this test by its own times."""
    folder = tmp_path / "c"
    assert halves.make(forest, folder, trials=2, batches=BATCHES, target="aarch64") == 2
    assert not [p for p in folder.iterdir() if p.is_dir()]
    text = (folder / halves.READ_ME).read_text()
    assert "measured on aarch64 on Linux with glibc, any CPU." in text
    assert "woodpecker measure c\n" in text and "woodpecker tune --import c\n" in text
    with pytest.raises(ArtifactError, match=r"c are for aarch64 on Linux with glibc; this is .*tune MODEL --build DIR"):
        on_device.measure_all(folder)
    assert not (folder / candidates.TRIALS).exists()
    pretend(folder, 30.0, 10.0)
    result = halves.take(folder, tuning_logs=tmp_path / "logs")
    assert (result.gain, result.record.target.machine, result.record.target.cores) == (pytest.approx(3.0), "aarch64", 4)
    steps = {
        target: [
            {name: step[name] for name in ("min_rows", "strategy", "options")}
            for step in wp.compile(forest, target=target, tuning_logs=tmp_path / "logs").inspect()["plan"]
        ]
        for target in ("aarch64", "x86-64-v2")
    }
    assert steps["aarch64"] == candidates.read_list(folder)["candidates"][1]["plan"]
    assert steps["x86-64-v2"] == candidates.read_list(folder)["default"]


@pytest.mark.full
@on_qemu
def test_candidates_for_aarch64_are_measured_there(forest, tmp_path):
    """Made here; checked and timed by an aarch64 Python that has the runtime alone; taken home, and used."""
    folder, logs = tmp_path / "c", tmp_path / "logs"
    assert halves.make(forest, folder, trials=3, batches=BATCHES, target="aarch64") == 3
    spoil(folder, 1, forest, "aarch64")
    out = python("-m", "woodpecker.runtime.on_device", folder)
    assert "3 candidates measured" in out
    trials = candidates.read_trials(folder)
    assert [t["status"] for t in trials] == ["ok", "wrong", "ok"]
    result = halves.take(folder, tuning_logs=logs)
    assert list(result.record.plan) in [trials[0]["plan"], trials[2]["plan"]]
    model = wp.compile(forest, target="aarch64", tuning_logs=logs)
    assert model.inspect()["tuning"]["from"] == "this model"
    model.save(tmp_path / "model.so")
    X = rows(forest, 300, dtype="float32")
    calls = [{"artifact": "model.so", "method": "predict_raw", "rows": "X", "threads": 1}]
    assert_bits_equal(results(tmp_path, calls, {"X": X})[0], wp.reference.predict_raw(forest, X))
