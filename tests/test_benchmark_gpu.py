"""benchmarks.gpu, as far as it goes without a GPU: made, run with a driver that emulates one, and reported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import checking, making, peers, reporting, running
from benchmarks.shapes import Shape
from woodpecker.errors import TargetError
from woodpecker.runtime import cuda_driver
from woodpecker.tuning import job, offline

from .cuda_support import emulated_build, fake_driver
from .gallery import ALONE

ROOT = Path(__file__).parents[1]
SHAPE = Shape(
    "toy", "toy", "xgboost", "binary", 4, 3, {"max_depth": 2, "objective": "binary:logistic"}, 200
)  # fmt: skip
RUN = """
import sys
sys.modules.update(tvm=None, xgboost=None, lightgbm=None, sklearn=None, torch=None, cupy=None)
from benchmarks.gpu import __main__ as gpu, limits, running
from benchmarks.shapes import Shape
from woodpecker.runtime import cuda_driver
cuda_driver.LIBRARY, folder = sys.argv[1:]
gpu.SHAPES = (Shape("toy", "toy", "xgboost", "binary", 4, 3, {}, 200),)
running.TURN_SECONDS, running.MAX_HOST_BYTES, limits.COPY_BYTES = 0.001, 16 * 300, 2**16
sys.exit(gpu.main(["run", folder, "--batches", "1", "300", "--input-gib", str(16 * 700 / 2**30)]))
"""


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cuda")
    return fake_driver(folder).rename(folder / "libcuda.so.1")


@pytest.mark.full
@pytest.mark.parametrize("broken", [False, True])
def test_make_run_and_report(broken, fake, tmp_path, monkeypatch, capsys):
    """The middle one without compiler and libraries; an artifact whose bits are wrong gets no time."""
    way = dict(strategy="perfect_tree_traversal", cuda_threads=32, **ALONE["perfect_tree_traversal"])
    monkeypatch.setattr(gpu, "SHAPES", (SHAPE,))
    monkeypatch.setattr(making, "NEAR", 50)
    monkeypatch.setattr(making, "ways", lambda *_: [("ranks", way), ("refused", dict(strategy="nonesuch"))])
    monkeypatch.setattr(offline, "WORKER", (str(Path(__file__).with_name("tuning_cuda.py")),))
    for name, value in (("N_ROWS", 200), ("LEAST_ROWS", 200), ("N_CHECK", 50)):
        monkeypatch.setattr(job, name, value)
    monkeypatch.setattr("woodpecker.tuning.gpu.BATCHES", (1, 300))
    monkeypatch.setenv("WOODPECKER_TEST_CUDA", str(fake))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    folder = tmp_path / "made"
    trials = [] if broken else ["--trials", "2"]
    with emulated_build(tmp_path, lambda text: text.replace(" <= ", " < ") if broken else text):
        assert gpu.main(["make", str(folder), "--cache", str(tmp_path / "models"), *trials]) == 0
    out = capsys.readouterr().out
    assert "toy, refused: unknown strategy 'nonesuch'; known: " in out
    assert f"{folder}: " in out and " MiB; --shape" in out
    monkeypatch.setenv("LD_LIBRARY_PATH", str(fake.parent))
    command = [sys.executable, "-c", RUN, str(fake), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == int(broken), done.stderr
    assert done.stdout.startswith("an emulated GPU, sm_90, 2 multiprocessors")
    lines = reporting.read(folder / gpu.FIGURES)
    assert lines[0]["machine"]["copy_GB_per_s"] > 0 and lines[0]["machine"]["GHz"] == 1.0
    (checked,) = [line for line in lines if "wrong" in line]
    assert (checked["wrong"] is None) is not broken
    times = [(line["rows"], line["kind"]) for line in lines if "kind" in line]
    want = [(1, "resident"), (300, "resident"), (700, "resident"), (1, "host"), (300, "host")]
    assert times == ([] if broken else want)
    assert all(line["ns_per_row"] > 0 for line in lines if "kind" in line)
    absent = {line["peer"]: line["absent"] for line in lines if "absent" in line}
    assert set(absent) == {peer.name for peer in peers.ALL}
    assert "PyTorch, which holds the rows, is not installed" in absent["XGBoost on CUDA"]
    assert "package nvforest does not import" in absent["nvForest"]
    if not broken:
        (tuning,) = [line["tuning"] for line in lines if "tuning" in line]
        assert (tuning["trials"], tuning["not_ok"]) == (2, []) and set(tuning["default"]) in (set(), {"1", "300"})
    assert gpu.main(["report", str(folder)]) == 0
    text = capsys.readouterr().out
    assert "# an emulated GPU" in text and "nvForest is absent: package nvforest does not import" in text
    assert ("**ranks is wrong**: " in text) is broken
    assert ("| ranks | 700 | resident |" in text) is not broken


def test_peers_are_compared_before_they_are_timed(monkeypatch, tmp_path):
    class Cpu:
        def predict_raw(self, X):
            return X[:, :1] * 2

        def predict_proba(self, X):
            return np.stack([1 - X[:, 0], X[:, 0]], 1)

    def fails(shape, place):
        raise RuntimeError("no such kernel\nmore")

    def absent(shape, place):
        raise peers.AbsentError("it is not here")

    every = (
        peers.Peer("raw", lambda *_: peers.Opened(lambda X: X[:, :1] * 2, "raw", "a call")),
        peers.Peer("near", lambda *_: peers.Opened(lambda X: X[:, 0] * np.float32(1 + 1e-6), "link", "a call")),
        peers.Peer("far", lambda *_: peers.Opened(lambda X: X[:, 0] + np.float32(0.1), "link", "a call")),
        peers.Peer("absent", absent),
        peers.Peer("fails", fails),
    )
    monkeypatch.setattr(peers, "ALL", every)
    monkeypatch.setattr(running, "TURN_SECONDS", 1e-4)
    X = np.random.default_rng(0).random((100, 4), np.float32)
    lines = list(running._peers(SHAPE, tmp_path, Cpu(), X, [1, 100, 250], None))
    told = {line["peer"]: line["differs"] for line in lines if "differs" in line}
    assert told["raw"]["exact"] and not told["near"]["exact"] and 0 < told["near"]["max_abs"] < 1e-5
    assert "rows are off" in told["far"]["reason"]
    timed = [(line["peer"], line["rows"]) for line in lines if "kind" in line]
    assert timed == [(name, n) for name in ("raw", "near") for n in (1, 100, 250)]
    assert {line["peer"]: line["absent"] for line in lines if "absent" in line} == {
        "absent": "it is not here",
        "fails": "RuntimeError: no such kernel",
    }


def test_xgboost_predicts_anew_each_time(monkeypatch, tmp_path):
    """A DMatrix keeps its predictions, so only inplace_predict is timed, for which XGBoost imports CuPy."""

    class Booster:
        def __init__(self, model_file):
            self.model_file = model_file

        def set_param(self, given):
            assert given == {"device": "cuda"}

        def inplace_predict(self, X, **given):
            return self.model_file, X, given["predict_type"]

    xgboost = SimpleNamespace(Booster=Booster, build_info=lambda: {"USE_CUDA": True})
    monkeypatch.setattr(peers, "_torch", lambda: None)
    monkeypatch.setitem(sys.modules, "xgboost", xgboost)
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(peers.AbsentError, match="package cupy does not import"):
        peers._xgboost(SHAPE, tmp_path)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace())
    opened = peers._xgboost(SHAPE, tmp_path)
    assert opened.predict("rows") == (str(tmp_path / "model.ubj"), "rows", "margin")


def test_peers_give_memory_back(monkeypatch, tmp_path):
    """One that took all of the GPU's must leave it to the next, and to the next model's rows."""
    given = []
    pool = SimpleNamespace(free_all_blocks=lambda: given.append("cupy"))
    cuda = SimpleNamespace(empty_cache=lambda: given.append("torch"))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(get_default_memory_pool=lambda: pool))

    def fails(X):
        assert given == []
        raise MemoryError("no room")

    monkeypatch.setattr(peers, "ALL", (peers.Peer("fails", lambda *_: peers.Opened(fails, "raw", "a call")),))
    (line,) = running._peers(SHAPE, tmp_path, None, np.zeros((2, 4), np.float32), [1], None)
    assert line["absent"] == "MemoryError: no room" and given == ["torch", "cupy"]


@pytest.mark.parametrize("change", [None, "label", "share", "dtype"])
def test_methods_are_compared(change):
    class Cpu:
        def predict(self, X):
            return np.arange(len(X)) % 2

        def predict_proba(self, X):
            return np.stack([X[:, 0], 1 - X[:, 0]], 1)

    class Gpu(Cpu):
        def predict(self, X):
            labels = super().predict(X)
            labels[:20] ^= change == "label"
            return labels

        def predict_proba(self, X):
            shares = super().predict_proba(X) * np.float32(1 + 1e-7)
            shares[7, 1] += np.float32(0.01 if change == "share" else 0)
            return shares.astype(np.float64) if change == "dtype" else shares

    X = np.random.default_rng(0).random((1000, 2), np.float32)
    told = {
        None: None,
        "label": "predict: 20 of 1,000 are not the CPU's",
        "share": "predict_proba: 1 of 2,000 are not the CPU's",
        "dtype": "predict_proba: float64 (1000, 2), the CPU has float32 (1000, 2)",
    }
    assert checking.methods_differ(Gpu(), Cpu(), X, X) == told[change]


def test_a_driver_that_fails_costs_one_artifact(monkeypatch, tmp_path):
    """The figures of the models after it are still measured."""

    class Model:
        _program = SimpleNamespace(gpu=None)

        def inspect(self):
            return {"cuda": {"plan": {"strategy": "s", "options": {}}}}

        def predict_raw(self, X):
            return X[:, :1]

    def resident(*_):
        yield 1, 10.0
        raise TargetError("out of memory")

    (tmp_path / making.WAYS).write_text(json.dumps({"0.so": {"way": "a"}, "1.so": {"way": "b"}}))
    monkeypatch.setattr(running.wp, "load", lambda *_, **__: Model())
    for name, stub in (("wrong", lambda *_: None), ("largest", lambda *_: 0), ("resident", resident)):
        monkeypatch.setattr(running, name, stub)
    monkeypatch.setattr(running, "_peers", lambda *_: iter(()))
    lines = list(running.measure(SHAPE, tmp_path, SimpleNamespace(number=0), [1, 10], 0.0))
    assert [(line["way"], line["wrong"]) for line in lines] == [("a", "out of memory"), ("b", "out of memory")]


def test_shares_of_limits():
    machine = {
        "gpu": "a GPU", "arch": "sm_90", "multiprocessors": 100, "GHz": 2.0, "copy_GB_per_s": 4000.0, "free_bytes": 1
    }  # fmt: skip
    own = {"model": "m", "way": "auto"}
    lines = [
        {"machine": machine},
        {**own, "wrong": None, "row_bytes": 120, "cycles": 100.0, "wavefronts": 40.0},
        {**own, **running.figures(1000, "resident", 1000.0, 120)},
        {**own, **running.figures(1000, "torch", 2500.0, 120)},
        {**own, **running.figures(1000, "host", 9000.0, 120)},
        {"model": "m", "peer": "nvForest", **running.figures(1000, "peer", 5000.0, 112)},
        {"model": "m", "tuning": "the GPU no longer answers"},
    ]
    text = reporting.report(lines)
    # 120 bytes at 4,000 bytes/ns; 100 and 40 cycles of 200 a ns
    assert "| auto | 1,000 | resident | 1.0 | 1.000 | 120.0 | 3.0% | 20.0% | 50.0% |" in text
    assert "| auto | 1,000 | host | 9.0 | 9.000 | 13.3 |  |  |  |" in text
    assert "| nvForest | m | 1,000 | 2.0 |" in text  # a call with a tensor, like a call with a tensor
    assert "- tuning: failed: the GPU no longer answers" in text
    assert "## Against peers" not in reporting.report(lines[:3])
    assert reporting.report([]) == "Nothing was run.\n"


def test_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libnonesuch.so.1")
    with pytest.raises(TargetError, match="this machine has no CUDA driver"):
        gpu.main(["run", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_a_cut_line_is_left_out(tmp_path):
    (tmp_path / "gpu.jsonl").write_text(json.dumps({"machine": {}}) + '\n{"model": "')
    assert reporting.read(tmp_path / "gpu.jsonl") == [{"machine": {}}]


@pytest.mark.parametrize("here", [False, True])
def test_calls_are_timed_as_far_as_rows_reach(here, monkeypatch):
    """Arrays do not repeat; tensors, as those of peers, do."""

    class Tensor(np.ndarray):
        def cuda(self):
            return self

        def repeat(self, times, _):
            return np.concatenate([self] * times)

    asked, given = [], []
    cuda = SimpleNamespace(synchronize=lambda: None)
    torch = SimpleNamespace(cuda=cuda, from_numpy=lambda X: X.view(Tensor)) if here else None
    monkeypatch.setattr(peers, "free_memory", lambda: given.append(True))
    monkeypatch.setattr(running, "TURN_SECONDS", 1e-6)
    model = SimpleNamespace(predict_raw=asked.append)
    X = np.arange(20, dtype=np.float32).reshape(10, 2)
    found = [(n, kind) for n, kind, _ in running._calls(model, X, [1, 10, 25], torch)]
    tensors = [(n, "torch") for n in (1, 10, 25)] if here else []
    assert sorted(found) == sorted([(1, "host"), (10, "host"), *tensors])
    assert given == [True]
    assert {len(rows) for rows in asked} == {1, 10, *([25] if here else [])}
    np.testing.assert_array_equal(running.repeated(X, 25, torch), np.concatenate([X, X, X[:5]]))
