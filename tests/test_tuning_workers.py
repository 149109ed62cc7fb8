"""The processes that measure candidates: how they time and check, and how they end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker.errors import TargetError
from woodpecker.runtime import measure
from woodpecker.tuning import pool, store


def test_samples_alternate_and_hopeless_candidates_are_timed_once():
    calls = []

    def clock(name, ns):
        def timed(batch, starts):
            calls.append((name, batch))
            assert all(0 <= start <= 100 - batch for start in starts)
            return ns * batch * len(starts)

        return timed

    good, bad = measure.sample([clock("a", 1e6), clock("b", 2e7)], 100, (1, 40), 3, {1: 1e6, 40: 1e7})
    assert good == {1: [1e6] * 3, 40: [1e6] * 3}
    assert bad == {1: [2e7], 40: [2e7] * 3}
    assert calls[:8] == [("a", 1)] * 2 + [("b", 1)] * 2 + [("a", 40)] * 2 + [("b", 40)] * 2
    a, b, one = [("a", 40)] * 2, [("b", 40)] * 2, [("a", 1)] * 2  # a call to warm up, then the sample
    assert calls[8:] == one + a + b + one + b + a + one + a + b
    assert measure.medians(good) == {"1": 1e6, "40": 1e6}


def test_calls_are_timed_when_caches_are_warm():
    made = []

    def clock(batch, starts):
        taken = sum(100.0 if len(made) + k > 30 else 10_000.0 for k in range(len(starts)))
        made.extend(starts)
        return taken

    assert measure.call_ns(clock, 50, 7) == pytest.approx(100.0)
    assert len(set(made)) > 40


def test_a_candidate_that_is_slow_everywhere_is_given_up():
    def clock(rows, starts):
        return (1e6 * rows if rows > 1 else 2e7) * len(starts)

    slow = {"1": 2e7, "40": 1e6, "50": 1e6}
    assert measure.too_slow(clock, 99, (1, 40, 50, 60), {1: 1e6, 40: 6e4, 50: 6e4, 60: 1e6}) == slow
    assert measure.too_slow(clock, 99, (1, 40, 50), {1: 1e6, 40: 6e4, 50: 1e5}) is None
    assert measure.too_slow(clock, 99, (1, 40), {}) is None


def test_a_check_sees_every_kind_of_difference():
    wanted = np.arange(3000.0).reshape(-1, 2)
    out = np.zeros_like(wanted)

    def computes(values):
        def run(begin, end):
            out[begin:end] = values[begin:end]

        return measure.compute_of(run, out)

    assert measure.first_difference(computes(wanted), wanted) is None
    for change in ((700, 1, np.nextafter(1401.0, 0)), (0, 0, -0.0), (1499, 1, np.nan)):
        values = wanted.copy()
        values[change[0], change[1]] = change[2]
        assert f"row {change[0]}, output {change[1]}" in measure.first_difference(computes(values), wanted)
    assert "differ" in measure.first_difference(measure.compute_of(lambda begin, end: None, out), wanted)
    assert measure.pieces(1500)[-1][1] == 1500
    assert measure.difference(wanted, wanted[:, :1]) is not None


def test_temporary_files_go_with_their_worker(tmp_path):
    program = (
        "import json, sys, tempfile, time\nprint('{}', flush=True)\n"
        "for line in sys.stdin:\n"
        "    open('made', 'a').write(tempfile.mkdtemp() + '\\n'); time.sleep(60)"
    )
    command = [sys.executable, "-c", program.replace("'made'", repr(str(tmp_path / "made")))]
    with pool.Pool(command, tmp_path / "log", lambda job: 0.3) as workers:
        ((_, result),) = workers.run(iter([{"n": 1}, None]).__next__)
    assert result["status"] == "timeout"
    made = Path((tmp_path / "made").read_text().strip())
    assert made.is_relative_to(tmp_path / store.TEMPORARY)
    assert not (tmp_path / store.TEMPORARY).exists()


@pytest.mark.full
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have nothing like it")
def test_a_process_that_hangs_ends_with_the_one_that_started_it(tmp_path):
    hanging = (
        "import ctypes; from woodpecker.tuning import worker\n"
        "def serve(folder, memory, channel, device):\n"
        "    channel.write('here\\n'); channel.flush(); ctypes.PyDLL(None).sleep(60)\n"
        "worker.serve = serve; worker.main(['folder', '1'])"
    )
    parent = (
        "import os, subprocess, sys\n"
        "command = [sys.executable, '-c', sys.argv[1]]\n"
        "child = subprocess.Popen(command, stdout=-1, stderr=-3, start_new_session=True)\n"
        "print(child.stdout.readline() == b'here\\n', child.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(wp.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", parent, hanging], capture_output=True, text=True, check=False, env=environment
    )
    started, child = done.stdout.split()
    assert started == "True"
    state = Path(f"/proc/{child}/stat")
    for _ in range(50):
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.1)
    os.kill(int(child), 9)
    raise AssertionError("it goes on")


def test_a_worker_that_does_not_start_says_why(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    with pool.Pool(command, tmp_path / "log", lambda job: 5.0) as workers, pytest.raises(TargetError, match="no such"):
        list(workers.run(lambda: {"do": "x"}))


def test_several_workers_share_the_jobs(tmp_path):
    program = (
        "import json, sys, time\nprint('{}', flush=True)\n"
        "for line in sys.stdin:\n"
        "    time.sleep(0.2); print(json.dumps({'status': 'ok', 'of': json.loads(line)}), flush=True)"
    )
    left = [{"n": n} for n in range(6)]
    with pool.Pool([sys.executable, "-c", program], tmp_path / "log", lambda job: 9.0) as workers:
        done = list(workers.run(lambda: left.pop() if left else None, 3))
        assert list(workers.run(iter([{"n": 7}, None]).__next__)) == [({"n": 7}, {"status": "ok", "of": {"n": 7}})]
    assert all(result["of"] == job for job, result in done)
    assert sorted(job["n"] for job, _ in done) == list(range(6))
