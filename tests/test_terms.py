"""A few rows on several threads, which share the trees out: the same bits, and only where it pays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import levels, reference
from woodpecker.relay_ops.plan import WALKING
from woodpecker.runtime import threads

from .gallery import FORESTS, UNFIT, compiled, grown, rows
from .support import assert_bits_equal

ROOT = Path(__file__).parent.parent
FAST = ("float32", "vector", "linear", "outputs", "truncate", "leaves")
PAIRS = [
    pytest.param(name, strategy, marks=() if name in FAST and strategy == "tree_traversal" else pytest.mark.full)
    for name in FORESTS
    for strategy in WALKING
    if (name, strategy) not in UNFIT and name != "empty"
]


@pytest.fixture
def eager(monkeypatch):
    """Any work is worth sharing out."""
    for module in (levels, threads):
        monkeypatch.setattr(module, "NS_PER_SHARE", 1e-9)


def check(predictor: wp.Predictor, forest: wp.Forest, dtype: str) -> None:
    most = predictor._terms["max_rows"]
    shared = range(1, most + 1) if predictor._terms["groups"] > 1 else range(0)
    assert list(predictor._by_trees) == list(shared)
    X = rows(forest, most + 1, 5, dtype)
    raw = reference.predict_raw(forest, X)
    for n in (1, 2, 3, 17, most, most + 1):
        assert_bits_equal(predictor.predict_raw(X[:n]), raw[:n], f"{n} rows of {dtype}")
    assert_bits_equal(predictor.predict_raw(X[3:20:4]), raw[3:20:4], "every fourth row")
    memory = np.full((6, forest.n_outputs), 7.5, raw.dtype)
    predictor.predict_raw(X[:4], out=memory[1:5])
    assert_bits_equal(memory[1:5], raw[:4], "into a given array")
    assert (memory[[0, 5]] == 7.5).all()


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_bits(name, strategy, eager):
    forest = FORESTS[name]()
    for count in (2, 3):
        predictor = compiled(forest, strategy, num_threads=count)
        for dtype in ("float32", "float64"):
            check(predictor, forest, dtype)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["outputs", "linear"])
def test_bits_of_an_artifact(name, eager, tmp_path):
    forest = FORESTS[name]()
    compiled(forest, "tree_traversal").save(tmp_path / "model.so")
    for count in (2, 5):
        check(wp.load(tmp_path / "model.so", num_threads=count), forest, "float32")
    assert list(wp.load(tmp_path / "model.so", num_threads=1)._by_trees) == []


def test_rows_that_a_batch_strategy_serves_are_not_shared_so(eager):
    predictor = wp.compile(grown(21, 40, 6, dtype=np.float32), strategy="bitslice", num_threads=2)
    least = predictor.inspect()["plan"][-1]["min_rows"]
    assert predictor._by_trees.stop <= min(step["min_rows"] for step in predictor.inspect()["plan"][1:]) <= least
    assert wp.compile(FORESTS["float32"](), strategy="bitslice", min_rows=1)._terms is None


def test_only_where_it_pays():
    assert compiled(FORESTS["float32"](), "tree_traversal", num_threads=8)._terms is None
    forest = grown(23, 300, 6, dtype=np.float32)
    large = wp.compile(forest, strategy="tree_traversal", num_threads=16)
    assert large._terms["max_rows"] * large._terms["width"] * 4 <= levels.TERMS_BYTES
    ns = large._terms["ns_per_row"]
    assert large._by_trees.start == -(-2 * threads.NS_PER_SHARE // ns)
    for n in large._by_trees:
        assert 2 <= large._tree_tasks(large._terms, n) <= n * ns / threads.NS_PER_SHARE
    assert "terms" not in large.inspect()


PROGRAM = """
import os, sys
from woodpecker import levels, reference
from woodpecker.runtime import threads
levels.NS_PER_SHARE = threads.NS_PER_SHARE = 1e-9
from tests.gallery import FORESTS, compiled, rows
forest = FORESTS["outputs"]()
predictor = compiled(forest, "tree_traversal", num_threads=2)
X = rows(forest, 5, 6, "float32")
raw = reference.predict_raw(forest, X).tobytes()
assert predictor.predict_raw(X).tobytes() == raw
child = os.fork()
if child == 0:
    os._exit(0 if predictor.predict_raw(X).tobytes() == raw else 1)
sys.exit(os.waitpid(child, 0)[1])
"""


@pytest.mark.full
def test_in_a_forked_child():
    """The workers of the in-process pool do not survive a fork: the child computes alone."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    done = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
