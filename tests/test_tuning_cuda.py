"""Tuning jobs for GPUs, from the job to what compile makes of its record, on a driver that emulates a GPU."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import levels_cuda, reference
from woodpecker.cli import main
from woodpecker.errors import InputError, TargetError
from woodpecker.predicates import canonicalise
from woodpecker.runtime import candidates, cuda, cuda_driver, measure_cuda, on_device
from woodpecker.runtime.measure_cuda import Candidate, read
from woodpecker.schedules import cuda_plan
from woodpecker.targets_cuda import CudaTarget
from woodpecker.tuning import candidate_cuda, halves, job, lookup, offline, records, shape, space

from .cuda_support import emulated_build, fake_driver
from .gallery import grown, rows
from .support import assert_bits_equal

ROOT = Path(wp.__file__).parents[1]
TARGET = "cuda -arch=sm_90"
BATCHES = (1, 300)
EMULATED = {"name": "an emulated GPU", "arch": "sm_90", "multiprocessors": 2}


@pytest.fixture(scope="module")
def forest():
    return grown(1, 4, 3, dtype=np.float32)


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    """A driver as a loader finds it, and what candidates are compiled to beside it."""
    folder = tmp_path_factory.mktemp("cuda")
    return fake_driver(folder).rename(folder / "libcuda.so.1")


@pytest.fixture
def gpu(fake, monkeypatch):
    """Jobs and their workers have the emulated GPU, and few rows, because it is slow."""
    monkeypatch.setattr(cuda_driver, "LIBRARY", str(fake))
    monkeypatch.setattr(offline, "WORKER", (str(Path(__file__).with_name("tuning_cuda.py")),))
    monkeypatch.setattr(job, "N_ROWS", 200)
    monkeypatch.setattr(job, "LEAST_ROWS", 200)
    monkeypatch.setattr(job, "N_CHECK", 50)
    monkeypatch.setenv("WOODPECKER_TEST_CUDA", str(fake))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake.parent))  # of measuring processes, which have nothing but it
    return fake


def step(**options):
    return {"min_rows": 0, "strategy": "perfect_tree_traversal", "options": options}


def test_a_candidate_runs_before_it_is_timed(monkeypatch):
    """For a while, once: the clock of an idle GPU has to rise."""
    launched = []
    monkeypatch.setattr(measure_cuda, "WARM_SECONDS", 0.01)
    monkeypatch.setattr(measure_cuda, "Memory", lambda *_: SimpleNamespace(address=0))
    monkeypatch.setattr(measure_cuda, "Current", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(measure_cuda, "call", lambda *_: None)
    stubs = {
        "scratch_bytes": lambda *_: 0,
        "entry_for": lambda *_: "raw_f32",
        "launch": lambda *of: launched.append(of),
    }
    for name, stub in stubs.items():
        monkeypatch.setattr(cuda, name, stub)
    memory = SimpleNamespace(address=0)
    rows_there = measure_cuda.Rows(memory, 10, 2, np.dtype(np.float32))
    model = SimpleNamespace(device=SimpleNamespace(context=0), launches={})
    _, clock = measure_cuda.bind(model, rows_there, "raw", 1, np.float32)
    begun = time.perf_counter()
    assert clock(5, [0, 5]) > 0 and time.perf_counter() - begun > 0.01
    warm = len(launched)
    assert warm > 2 and warm % 2 == 0
    clock(5, [0, 5])
    assert len(launched) == warm + 2


@pytest.mark.full
def test_a_job_leaves_a_record_that_compile_takes(forest, gpu, tmp_path, monkeypatch):
    def plans(what, trials, *_):
        """The default, one that is wrong where it serves a batch, and one that is right."""
        tried = [what.default, (step(cuda_few_rows=1),), (step(cuda_few_rows=0),)]
        return space.resolved(what.canonical, tried[len(trials)], what.kind) if len(trials) < len(tried) else None

    def faster(plans, times):
        """What a paired run finds is by chance here."""
        return offline.Verdict(len(plans) - 1, 2.0, tuple({b: float(np.median(t[b])) for b in t} for t in times), "")

    monkeypatch.setattr(offline.search, "next_plan", plans)
    monkeypatch.setattr(offline.search, "judge", faster)
    monkeypatch.setattr(candidates, "HOPEFUL", 1e9)
    monkeypatch.setenv("WOODPECKER_TEST_FAULTS", str(tmp_path / "lost"))
    asked = dict(target=TARGET, trials=4, batches=BATCHES, work_dir=tmp_path / "work", tuning_logs=tmp_path / "logs")
    result = offline.tune(forest, **asked)
    assert [t["status"] for t in result.trials] == ["ok", "wrong", "ok"]
    assert "1 rows: 1 of 1 scores differ" in result.trials[1]["message"] or "300 rows" in result.trials[1]["message"]
    assert set(result.trials[0]["ns"]) == {"1", "300"}
    chosen = result.record.plan[0]["options"]
    assert chosen == {"cuda_trees": 2, "cuda_threads": 0, "cuda_ranks": 1, "cuda_few_rows": 0, "cuda_spread_trees": 128}
    key = result.record.target
    assert (key.kind, key.machine, key.cpu, key.cores) == ("cuda", "sm_90", "an-emulated-gpu", 2)
    assert result.path.parent.name == "cuda-sm_90-an-emulated-gpu-2c"
    assert records.read(tmp_path / "logs")[0].record == result.record
    given = dict(target=TARGET, tuning_logs=tmp_path / "logs")
    with emulated_build(gpu.parent):
        model = wp.compile(forest, **given)
        half = model.inspect()["cuda"]
        assert (half["plan"]["options"], half["tuning"]["from"], half["tuning"]["gain"]) == (chosen, "this model", 2.0)
        assert model.inspect()["tuning"]["from"] == "defaults"  # of the CPU
        model.save(tmp_path / "model.so")
        loaded = wp.load(tmp_path / "model.so", device="cuda")
        assert loaded._program.gpu.few_rows == 0
        X = rows(forest, 70, 1, "float32")
        assert_bits_equal(loaded.predict_raw(X), reference.predict_raw(forest, X))
        del model, loaded
    canonical, where = canonicalise(forest), CudaTarget(TARGET, ("sm_90",))
    _, named = levels_cuda.split_plan(canonical, where, "tree_traversal", {"trees": 1}, tmp_path / "logs")
    assert (named.step.options["cuda_few_rows"], named.tuning) == (128, None)


@pytest.mark.full
@pytest.mark.usefixtures("gpu")
def test_what_a_failing_candidate_costs(forest, tmp_path, monkeypatch):
    def plans(what, trials, *_):
        tried = [what.default, *((step(cuda_few_rows=n),) for n in (8, 32, 512))]
        return space.resolved(what.canonical, tried[len(trials)], what.kind) if len(trials) < len(tried) else None

    monkeypatch.setattr(offline.search, "next_plan", plans)
    monkeypatch.setattr(offline.search, "leaders", lambda *_: [])
    monkeypatch.setenv("WOODPECKER_TEST_FAULTS", str(tmp_path / "lost"))
    asked = dict(target=TARGET, trials=5, batches=BATCHES, work_dir=tmp_path / "work", tuning_logs=tmp_path / "logs")
    result = offline.tune(forest, **asked, timeout=20.0)
    assert [t["status"] for t in result.trials] == ["ok", "timeout", "crashed", "ok"]
    assert len((tmp_path / "lost").read_text().splitlines()) >= 3
    assert result.record.gain == 1.0 or result.record.plan[0]["options"]["cuda_few_rows"] == 512


def of_one_code(what):
    """Two plans whose code is that of the default, which takes seconds to compile for the emulator."""
    return [space.resolved(what.canonical, (step(cuda_few_rows=n),), what.search.kind) for n in (0, 2048)]


@pytest.fixture(scope="module")
def made(forest, fake, tmp_path_factory):
    """Candidates that were built on a machine without a GPU."""
    folder = tmp_path_factory.mktemp("halves") / "candidates"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offline, "WORKER", (str(Path(__file__).with_name("tuning_cuda.py")),))
        for name, value in (("N_ROWS", 200), ("LEAST_ROWS", 200), ("N_CHECK", 50)):
            patch.setattr(job, name, value)
        patch.setenv("WOODPECKER_TEST_CUDA", str(fake))
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setattr(cuda_driver, "LIBRARY", "libnonesuch.so.1")
        patch.setattr(halves, "_plans", lambda what, *_: [what.search.default, *of_one_code(what)])
        assert halves.make(forest, folder, target=TARGET, trials=3, batches=BATCHES) == 3
    return folder


@pytest.fixture
def folder(made, tmp_path):
    """A copy of them."""
    return Path(shutil.copytree(made, tmp_path / "the device's"))


def seal(folder):
    listed = candidates.read_list(folder)
    listed["digests"] = {name: candidates.digest(folder / name) for name in listed["digests"]}
    (folder / candidates.LIST).write_text(json.dumps(listed))


@pytest.mark.full
def test_candidates_are_measured_by_the_runtime_alone_and_taken_home(forest, folder, gpu, tmp_path, monkeypatch):
    listed = candidates.read_list(folder)
    text = (folder / halves.READ_ME).read_text()
    assert "They are to be measured on an NVIDIA GPU: sm_90, or a later one." in text
    assert len({c["model"] for c in listed["candidates"]}) == 1  # plans that differ in code alone share a model
    second = folder / listed["candidates"][1]["code"]
    spoilt = read(second)
    assert read(second) == spoilt and Candidate(**vars(spoilt)).to_text() == second.read_text()
    # What the second candidate's code reads are the tables of a model that scores one bit apart.
    other = grown(1, 4, 3, dtype=np.float32)
    values = np.nextafter(other.values, np.float32(9))
    canonical = canonicalise(other.replace(values=values))
    plan = cuda_plan.plan_of(canonical, listed["candidates"][1]["plan"], "")
    with emulated_build(gpu.parent):
        blob = candidate_cuda.code_of(canonical, plan, CudaTarget(TARGET, ("sm_90",))).blob
    blob.tofile(folder / "other.bin")
    listed["candidates"][1]["model"] = "other.bin"
    listed["digests"]["other.bin"] = ""
    (folder / candidates.LIST).write_text(json.dumps(listed))
    seal(folder)
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('tvm', 'typer', 'cuda', 'torch', 'xgboost'):\n"
        "            raise ImportError(name, name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "woodpecker.runtime.on_device", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    trials = candidates.read_trials(folder)
    assert [t["status"] for t in trials] == ["ok", "wrong", "ok"]
    paired = json.loads((folder / candidates.PAIRED).read_text())
    assert paired["gpu"] == EMULATED
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libnonesuch.so.1")  # at home there is no GPU
    plans = [c["plan"] for c in listed["candidates"]]
    samples = [{str(b): [ns] * 15 for b in BATCHES} for ns in (10.0, 5.0)]
    paired |= {"plans": [plans[0], plans[2]], "times": samples}
    (folder / candidates.PAIRED).write_text(json.dumps(paired))
    result = halves.take(folder, tuning_logs=tmp_path / "logs")
    assert (list(result.record.plan), result.gain) == (plans[2], pytest.approx(2.0))
    assert result.record.target.name == "cuda-sm_90-an-emulated-gpu-2c"
    for damaged in ({}, {"name": 3, "arch": "sm_90", "multiprocessors": 2}, {**EMULATED, "arch": "../up"}):
        (folder / candidates.PAIRED).write_text(json.dumps({**paired, "gpu": damaged}))
        with pytest.raises(InputError, match=r"is damaged|must be of letters"):
            halves.take(folder, tuning_logs=tmp_path / "logs")


def test_a_gpu_that_is_lost_ends_the_job_and_costs_no_candidate(folder, gpu, monkeypatch):
    answers = iter(
        [
            {"status": "slow", "ns": {"1": 9.0}},
            {"status": "crashed", "message": "the driver fails"},
            {"status": "crashed", "message": "there is no CUDA device 0"},
            {"status": "timeout", "message": "it hangs"},
            {"status": "ok"},
            {"status": "slow", "ns": {"1": 9.0}},
        ]
    )
    asked = []

    def apart(_folder, _timeout, what, indices, _best):
        asked.append((what, *indices))
        return next(answers)

    monkeypatch.setattr(on_device, "_apart", apart)
    with pytest.raises(TargetError, match=r"the GPU no longer answers .there is no CUDA device 0.*goes on from there"):
        on_device.measure_all(folder)
    assert [t["status"] for t in candidates.read_trials(folder)] == ["slow"]
    assert [t["status"] for t in on_device.measure_all(folder)] == ["slow", "timeout", "slow"]
    assert asked == [("one", 0), ("one", 1), ("gpu",), ("one", 1), ("gpu",), ("one", 2)]


def test_folders_that_cannot_be_measured_here(folder, gpu, monkeypatch, capsys):
    listed = candidates.read_list(folder)
    for change, message in (
        ({"resolved": {**listed["resolved"], "archs": ["sm_100"]}}, "no code for sm_90, which this GPU is"),
        ({"resolved": {**listed["resolved"], "archs": [3]}}, "is damaged"),
        ({"batches": [2**21]}, "is damaged"),
    ):
        (folder / candidates.LIST).write_text(json.dumps({**listed, **change}))
        with pytest.raises((TargetError, InputError), match=message):
            on_device.measure_all(folder)
    (folder / candidates.LIST).write_text(json.dumps(listed))
    first = folder / listed["candidates"][0]["code"]
    first.write_text("{}")
    with pytest.raises(InputError, match=r"is damaged .KeyError"):
        read(first)
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libnonesuch.so.1")
    assert main(["measure", str(folder)]) == 2
    assert "this machine has no CUDA driver" in capsys.readouterr().err
    assert not (folder / candidates.TRIALS).exists()


def test_jobs_that_cannot_be(forest, tmp_path, monkeypatch):
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libnonesuch.so.1")
    asked = dict(work_dir=tmp_path / "work", tuning_logs=tmp_path / "logs")
    with pytest.raises(TargetError, match="this machine has no CUDA driver"):
        offline.tune(forest, target="cuda", **asked)
    with pytest.raises(TargetError, match="target names CPUs beside 'cuda', and a tuning job is for one"):
        offline.tune(forest, target=["llvm", "cuda"], **asked)
    with pytest.raises(TargetError, match=r"not measured behind a tracker: .*in two halves"):
        offline.tune(forest, target="cuda", tracker="127.0.0.1:9", device_key="gpu", **asked)
    assert not (tmp_path / "work").exists() and not (tmp_path / "logs").exists()


@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_takes_none_of_the_code(forest, tmp_path):
    with pytest.raises(TargetError, match="there is no code for sm_90, which this GPU is"):
        offline.tune(forest, target="cuda -arch=sm_100", work_dir=tmp_path / "work", tuning_logs=tmp_path / "logs")


def record_of(forest, arch, gain, name="a GPU", **options):
    canonical = canonicalise(forest)
    plan = space.resolved(canonical, (step(**options),), space.Kind(cuda_plan.plan_of, None, False))
    gpu = {"name": name, "arch": arch, "multiprocessors": 100}
    ns = {"1": 2.0}
    return records.Record(
        shape.digest(forest), shape.shape_class(canonical), shape.gpu_key(gpu), plan, plan, ns, ns, gain, "a model",
        "float32", "sampled", 9, 0, "2026-01-01", {"woodpecker": "0", "tvm": "0"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("archs", "chosen"),
    [
        (("sm_80", "sm_86", "sm_90", "sm_100", "sm_120"), 100),  # of the newest, whatever its gain
        (("sm_90",), 90),  # that of sm_100 would take the PTX
        (("sm_80", "sm_86"), 89),
        (("sm_80",), 80),
        (("sm_120",), None),
    ],
)
def test_which_record_serves_several_architectures(forest, tmp_path, archs, chosen):
    for arch, gain in ((80, 9.0), (89, 2.0), (90, 1.5), (90, 1.2), (100, 1.1)):
        few = arch if gain != 1.2 else 7
        records.append(tmp_path, record_of(forest, f"sm_{arch}", gain, cuda_few_rows=few))
    damaged = record_of(forest, "sm_", 99.0)
    records.append(tmp_path, damaged)
    plan, told = lookup.tuned_plan(canonicalise(forest), CudaTarget("cuda", archs), tmp_path, "0")
    assert (plan and plan[0].options["cuda_few_rows"]) == (chosen and (89 if archs == ("sm_80",) else chosen))
    assert told["from"] == ("this model" if chosen else "defaults")


def test_records_of_gpus_that_are_no_plans(forest, tmp_path):
    good = record_of(forest, "sm_90", 2.0)
    for wrong in (
        (step(cuda_few_rows=-1),),
        (step(cuda_nonesuch=1),),
        ({**step(), "min_rows": 3},),
        (step(), step()),
        ({**step(), "strategy": "auto"},),
        ({**step(), "strategy": "bit_traversal"},),
    ):
        records.append(tmp_path, records.Record(**{**vars(good), "plan": wrong}))
    plan, told = lookup.tuned_plan(canonicalise(forest), CudaTarget("cuda", ("sm_90",)), tmp_path, "0")
    assert plan is None and len(told["skipped"]) == lookup.MAX_SKIPPED
    assert "cuda_few_rows" in told["skipped"][0] or "a plan for a GPU" in " ".join(told["skipped"])


@pytest.mark.full
def test_an_artifact_is_inspected_without_the_compiler(forest, tmp_path):
    """What `inspect` says of records needs no TVM."""
    with emulated_build(tmp_path):
        wp.compile(forest, target=TARGET, tuning_logs=[]).save(tmp_path / "model.so")
    inspect = "import sys; sys.modules['tvm'] = None; from woodpecker.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", inspect, "inspect", str(tmp_path / "model.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the default plan; no record applies") == 2
