"""Tuning on devices behind a tracker: TVM's own tracker and servers, on this machine's loopback."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker.errors import InputError, TargetError
from woodpecker.runtime import candidates
from woodpecker.tuning import candidate, offline, records, remote, search, space, store, task, worker
from woodpecker.tuning import job as jobs

from .gallery import grown
from .qemu_support import FOLDER, PYTHON, on_qemu

for _name in ("psutil", "tornado", "cloudpickle"):
    pytest.importorskip(_name)

pytestmark = pytest.mark.full
ROOT = str(Path(wp.__file__).parents[1])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def running(*command: object, program: Sequence[object] = (sys.executable, "-m"), path: str | None = None):
    """A process group that is gone afterwards. ``path``: where it finds modules; None: where this process does."""
    search_path = os.pathsep.join([ROOT, os.environ.get("PYTHONPATH", "") if path is None else path])
    environment = {**os.environ, "PYTHONPATH": search_path}
    process = subprocess.Popen([str(part) for part in (*program, *command)], env=environment, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def until(what, seconds=60.0):
    """The first true value of a function."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(TargetError):
            if found := what():
                return found
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


@pytest.fixture(scope="module")
def tracker():
    """HOST:PORT of a tracker."""
    port = free_port()
    with running("tvm.exec.rpc_tracker", "--host", "127.0.0.1", "--port", port, "--port-end", port + 1, "--silent"):

        def answers():
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), 1).close()
                return True
            return False

        until(answers)
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def server(tracker, key, count):
    """A server; ends when it has registered as one of ``count``."""
    port = free_port()
    with running("woodpecker.tuning.remote", tracker, key, "127.0.0.1", port, port + 1) as process:
        until(lambda: remote.devices(tracker, key) == count)
        yield process


@pytest.fixture(scope="module")
def forest():
    return grown(1, 6, 4, dtype=np.float32)


def quick(model, folder, tracker, key, **options):
    wanted = {"batches": (1, 64), "work_dir": folder / "work", "tuning_logs": folder / "logs", "timeout": 30.0}
    return wp.tune(model, tracker=tracker, device_key=key, **{**wanted, **options})


def test_a_job_goes_on_when_a_server_is_killed(tracker, forest, tmp_path):
    with server(tracker, "board", 1) as first, server(tracker, "board", 2):
        seen = []

        def kill(trial):
            seen.append(trial)
            if len(seen) == 2:
                os.killpg(first.pid, signal.SIGKILL)

        result = quick(forest, tmp_path, tracker, "board", trials=7, progress=kill)
        assert [t["status"] for t in result.trials] == ["ok"] * 7, [t.get("message") for t in result.trials]
        assert len({candidates.key(t["plan"]) for t in result.trials}) == 7
        until(lambda: remote.devices(tracker, "board") == 1)
    assert result.record.target.cores == 0
    assert records.read(tmp_path / "logs")[0].record == result.record
    assert wp.compile(forest, tuning_logs=tmp_path / "logs").inspect()["tuning"]["from"] == "this model"
    assert not list(Path(ROOT).glob("*.so"))


def task_of(forest, folder):
    job = jobs.new_job(forest, "llvm", 3, None, (1, 64), 0, folder, float("nan"), None, remote=True)
    with store.locked(folder):
        jobs.prepare(job)
    return task.load_task(folder)


def test_a_candidate_is_checked_and_timed_on_the_device(tracker, forest, tmp_path):
    task = task_of(forest, tmp_path / "work")
    code = candidate.code_of(task.canonical, offline_plan(task), task.where)
    with server(tracker, "one", 1), remote.rpc_device(tracker, "one", 30.0)(1) as opened:
        compute, clock = opened(task, code, "raw_f32", task.X)
        want, local = worker.in_process(task, code, "raw_f32", task.X)
        assert compute([(0, 100)]).tobytes() == want([(0, 100)]).tobytes()
        ids, _ = opened(task, code, "apply_f64", task.X.astype(np.float64))
        assert ids([(0, len(task.X))]).dtype == np.int32
        there, here = clock(1024, [0, 1024, 2048]), local(1024, [0, 1024, 2048])
        assert 0.02 < there / here < 50


def offline_plan(task):
    from woodpecker.relay_ops.plan import plan_of

    return plan_of(task.canonical, space.single("tree_traversal", {}), "")


def test_a_candidate_that_crashes_its_session_costs_itself_only(tracker, forest, tmp_path, monkeypatch):
    """The server stops serving after a crash, and `woodpecker device serve` starts another one."""
    port = free_port()
    serve = ("device", "serve", "--tracker", tracker, "--key", "fragile", "--port", port, "--port-end", port + 3)
    fault = Path(__file__).with_name("tuning_crash.py")
    monkeypatch.setattr(offline, "WORKER", (str(fault),))
    plans = [space.single("perfect_tree_traversal", {"interleave": n, "trees": 1}) for n in (2, 4)]
    monkeypatch.setattr(search, "next_plan", lambda what, trials, *_: ([what.default, *plans, None])[len(trials)])
    with running("woodpecker.cli", *serve):
        until(lambda: remote.devices(tracker, "fragile"))
        result = quick(forest, tmp_path, tracker, "fragile", timeout=20.0)
    assert [t["status"] for t in result.trials] == ["ok", "crashed", "ok"]


def test_a_worker_tells_a_lost_device_from_a_wrong_candidate(forest, tmp_path):
    """As the process that it is in a job: its own module must not be another one than that which `remote` imports."""
    task_of(forest, tmp_path / "work")
    program = (
        "import runpy, sys; from woodpecker.tuning import remote, task\n"
        "def lost(*_): raise task.DeviceLostError('the session ended')\n"
        "remote.rpc_device = lambda *_: lambda plans: lost()\n"
        "sys.argv[1:] = [sys.argv[1], str(4 << 30), '127.0.0.1:9', 'board', '9']\n"
        "runpy.run_module('woodpecker.tuning.worker', run_name='__main__', alter_sys=False)\n"
    )
    asked = json.dumps({"do": "measure", "plan": [], "best": {}}) + "\n"
    command = [sys.executable, "-W", "ignore", "-c", program, tmp_path / "work"]
    done = subprocess.run(list(map(str, command)), input=asked, capture_output=True, text=True, check=False)
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"ready": True},
        {"status": "lost", "message": "the session ended"},
    ], done.stderr


@on_qemu
def test_an_aarch64_server(tracker, forest, tmp_path, monkeypatch):
    """What `woodpecker device serve` does, in an aarch64 Python: candidates are compiled here, and run there."""
    port = free_port()
    serve = f"from woodpecker.tuning import remote; remote.serve({tracker!r}, 'arm', '127.0.0.1', {port}, {port + 3})"
    # Few rows walk in both plans: emulation makes vectors so slow that others may rightly be given up as too slow.
    walk = space.single("tree_traversal", {"interleave": 2})
    monkeypatch.setattr(search, "next_plan", lambda what, trials, *_: (what.default, walk, None)[len(trials)])
    with running(serve, program=(PYTHON, "-c"), path=str(FOLDER / "tvm")):
        until(lambda: remote.devices(tracker, "arm"), 240.0)
        result = quick(forest, tmp_path, tracker, "arm", trials=2, target="aarch64", timeout=180.0)
    assert [t["status"] for t in result.trials] == ["ok"] * 2, [t.get("message") for t in result.trials]
    assert result.record.target.machine == "aarch64"
    model = wp.compile(forest, target="aarch64", tuning_logs=tmp_path / "logs")
    assert model.inspect()["tuning"]["from"] == "this model"


def test_trackers_and_keys_that_do_not_exist(tracker, forest, tmp_path):
    for wrong in ("host", "host:", ":9", "host:port", "host:99999"):
        with pytest.raises(InputError, match="must look like HOST:PORT"):
            quick(forest, tmp_path, wrong, "board")
    with pytest.raises(TargetError, match="no RPC tracker answers"):
        quick(forest, tmp_path, f"127.0.0.1:{free_port()}", "board")
    with pytest.raises(TargetError, match="has no server with key 'none'"):
        quick(forest, tmp_path, tracker, "none")
    with pytest.raises(TargetError, match="no RPC tracker answers"):
        remote.serve(f"127.0.0.1:{free_port()}", "board", "127.0.0.1", 9090, 9100)
