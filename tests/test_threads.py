"""Threads: any number of them gives the same bits, and callers may share a predictor, also across forks."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import reference
from woodpecker.errors import InputError
from woodpecker.forest import Forest, Method
from woodpecker.runtime import threads

from . import c_support
from .gallery import FORESTS, NAMES, compiled, grown, rows
from .support import assert_bits_equal

N = 5_000


@pytest.fixture(scope="module")
def forest() -> Forest:
    methods = {"predict": Method("value", "softmax"), "predict_proba": Method("value", "sigmoid")}
    return grown(41, 9, 4, dtype=np.float32, tree_output=[0, 1, 2] * 3, base_score=[0.5, -0.5, 0.0], methods=methods)


@pytest.fixture(scope="module")
def saved(forest, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("threads") / "model.so"
    wp.compile(forest, strategy="tree_traversal").save(path)
    return path


@pytest.fixture(scope="module")
def expected(forest) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    X = rows(forest, N, 1, "float32")
    return X, reference.predict_raw(forest, X), reference.apply(forest, X)


@pytest.mark.parametrize("count", [1, 2, 3, 8, 256])
def test_artifact_with_any_number_of_threads(saved, expected, count):
    X, raw, ids = expected
    loaded = wp.load(saved, num_threads=count)
    one = wp.load(saved, num_threads=1)
    for n in (0, 1, 1023, 1024, 1025, 2 * 1024, N):
        assert_bits_equal(loaded.predict_raw(X[:n]), raw[:n], f"{n} rows, {count} threads")
        np.testing.assert_array_equal(loaded.apply(X[:n]), ids[:n])
    assert_bits_equal(loaded.predict(X), one.predict(X), "softmax")


@pytest.mark.sampled(4)
@pytest.mark.parametrize("strategy", NAMES)
def test_in_process_with_any_number_of_threads(strategy):
    forest = FORESTS["outputs"]()
    X = rows(forest, N, 2, "float32")
    raw = reference.predict_raw(forest, X)
    for count in (1, 2, 3, 7):
        predictor = compiled(forest, strategy, num_threads=count)
        assert_bits_equal(predictor.predict_raw(X), raw, f"{count} threads")
        assert_bits_equal(predictor.predict_raw(X[:1500]), raw[:1500], f"{count} threads")


def test_callers_share_a_predictor(saved, expected):
    """Many Python threads, each with its own slices, on one predictor that itself uses threads."""
    X, raw, ids = expected
    shared = wp.load(saved, num_threads=2)
    probabilities = wp.load(saved, num_threads=1).predict_proba(X)
    start = threading.Barrier(8)

    def caller(seed: int) -> None:
        rng = np.random.default_rng(seed)
        start.wait()
        for _ in range(40):
            begin, n = int(rng.integers(N - 1)), int(rng.integers(1, 2500))
            part = slice(begin, begin + n)
            match rng.integers(3):
                case 0:
                    assert_bits_equal(shared.predict_raw(X[part]), raw[part])
                case 1:
                    np.testing.assert_array_equal(shared.apply(X[part]), ids[part])
                case _:
                    assert_bits_equal(shared.predict_proba(X[part]), probabilities[part])

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(caller, seed) for seed in range(8)]:
            done.result()


def test_loading_in_several_threads(saved, expected):
    X, raw, _ = expected

    def load(_: int) -> np.ndarray:
        return wp.load(saved, num_threads=2).predict_raw(X)

    with ThreadPoolExecutor(6) as pool:
        for got in pool.map(load, range(18)):
            assert_bits_equal(got, raw)


def test_compiling_in_several_threads(expected):
    forests = [grown(50 + i % 2, 3 + i % 2, 3, dtype=np.float32) for i in range(4)]

    def run(forest: Forest) -> tuple[np.ndarray, np.ndarray]:
        X = rows(forest, 200, 3, "float32")
        return wp.compile(forest, strategy="tree_traversal").predict_raw(X), reference.predict_raw(forest, X)

    with ThreadPoolExecutor(4) as pool:
        for got, want in pool.map(run, forests):
            assert_bits_equal(got, want)


FORK = """
import multiprocessing, os, sys
import numpy as np
import woodpecker as wp

path, rows, want = sys.argv[1:4]
method = sys.argv[4]
X, raw = np.load(rows), np.load(want)

def child(predictor=None):
    own = predictor or wp.load(path, num_threads=3)
    for _ in range(5):
        if own.predict_raw(X).tobytes() != raw.tobytes():
            os._exit(3)

if __name__ == "__main__":
    loaded = wp.load(path, num_threads=3)
    assert loaded.predict_raw(X).tobytes() == raw.tobytes()  # starts the pool
    context = multiprocessing.get_context(method)
    workers = [context.Process(target=child, args=(loaded,) if method == "fork" else ()) for _ in range(3)]
    for w in workers:
        w.start()
    child(loaded)
    for w in workers:
        w.join(60)
    codes = [w.exitcode for w in workers]
    for w in workers:
        w.kill()
    sys.exit(0 if codes == [0, 0, 0] else f"exit codes {codes}")
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_a_process_that_loaded(saved, expected, method, tmp_path):
    """A child of fork has no workers, and starts its own."""
    assert method in multiprocessing.get_all_start_methods()
    X, raw, _ = expected
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "raw.npy", raw)
    (tmp_path / "program.py").write_text(FORK)
    command = [sys.executable, "-W", "ignore", "program.py", saved, "X.npy", "raw.npy", method]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_tasks_take_rows_until_none_is_left(tmp_path):
    program = c_support.make(c_support.SOURCES / "shares.c", tmp_path / "shares", "-DWP_SHARED", "-Wno-unused-function")
    done = subprocess.run([program], check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout == "ok\n", done.stdout


def test_threads_pay_only_for_work():
    assert threads.tasks(None, 1, 1000.0, 1024) == 1
    assert threads.tasks(None, 10, 1000.0, 1024) == 1
    assert threads.tasks(8, 10, 1000.0, 1024) == 1, "one row block is one task"
    assert threads.tasks(8, 8 * 1024, 1.0, 1024) == 8, "what the user says counts"
    assert threads.tasks(3, 10**6, 1000.0, 1024) == 3
    assert threads.tasks(None, 10**7, 1000.0, 1024) == threads.available_cpus()


def test_number_of_threads_by_argument_and_environment(saved, monkeypatch):
    for wrong in (0, -1, 257, 1.5, "2", True):
        with pytest.raises(InputError, match="num_threads must be an integer from 1 to 256"):
            wp.load(saved, num_threads=wrong)
    monkeypatch.setenv("WOODPECKER_NUM_THREADS", "3")
    assert threads.resolve(None) == 3 and threads.resolve(2) == 2
    monkeypatch.setenv("WOODPECKER_NUM_THREADS", " ")
    assert threads.resolve(None) is None
    for wrong in ("0", "many", "1.5"):
        monkeypatch.setenv("WOODPECKER_NUM_THREADS", wrong)
        with pytest.raises(InputError, match="WOODPECKER_NUM_THREADS must be an integer from 1 to 256"):
            wp.load(saved)


@pytest.mark.full
def test_stress(saved, expected):
    X, raw, _ = expected
    shared = [wp.load(saved, num_threads=n) for n in (1, 2, 5, 16)]

    def caller(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(400):
            begin, n = int(rng.integers(N - 1)), int(rng.integers(1, N))
            got = shared[int(rng.integers(4))].predict_raw(X[begin : begin + n])
            assert_bits_equal(got, raw[begin : begin + n])

    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(caller, seed) for seed in range(16)]:
            done.result()
