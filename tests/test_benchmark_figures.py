"""The benchmark suite's rows, clocks, comparisons and figures, each by itself."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

import numpy as np
import pytest

from benchmarks.cell import Running, Settings, _take_turns
from benchmarks.check import error, ulps, unequal_bits, unequal_leaves
from benchmarks.contestants import LIBRARY, PEER, WOODPECKER, threshold_rows
from benchmarks.report import number, size, table
from benchmarks.shapes import QUICK, SHAPES, Pool, Shape, make_rows, make_target, pool_rows
from benchmarks.stats import geometric_mean, ratio, rounds_to_join, summarise
from benchmarks.worker import time_calls
from tests.test_benchmarks import FAST, SOUND


class FakeWorker:
    """Replies to "time" orders from a list."""

    def __init__(self, replies: list[dict[str, Any]]) -> None:
        self.replies = replies
        self.firsts: list[int] = []

    def order(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert do == "time"
        self.firsts.append(arguments["first"])
        return self.replies.pop(0)


def turns(contestants: dict[str, tuple[float, list[dict[str, Any]]]], settings: Settings) -> dict[str, Any]:
    running = [Running(name, SOUND, FakeWorker(replies)) for name, (_, replies) in contestants.items()]  # type: ignore[arg-type]
    records: dict[str, dict[str, Any]] = {name: {"status": "ok"} for name in contestants}
    _take_turns(running, records, {name: ns for name, (ns, _) in contestants.items()}, 10, settings)
    return records


def reply(*ns: float, cpus: float = 1.0) -> dict[str, Any]:
    return {"ns": list(ns), "wall_ns": sum(ns), "cpu_ns": cpus * sum(ns)}


def test_a_round_counts_as_the_median_of_its_calls() -> None:
    records = turns({"a": (1.0, [reply(100, 200, 9000), reply(50)])}, FAST)
    assert records["a"]["ns_per_row"] == [20.0, 5.0] and records["a"]["cpu_share"] == 1.0


def test_slow_contestants_sit_rounds_out() -> None:
    settings = dataclasses.replace(FAST, rounds=9, min_rounds=3, cell_seconds=0.9)
    records = turns({"fast": (1e6, [reply(10)] * 9), "slow": (1e9, [reply(30)] * 3)}, settings)
    assert None not in records["fast"]["ns_per_row"]
    assert records["slow"]["ns_per_row"] == [3.0, None, None, None, 3.0, None, None, None, 3.0]


def test_more_than_one_thread_is_found_out() -> None:
    records = turns({"a": (1.0, [reply(100, cpus=1.9), reply(100, cpus=1.9)])}, FAST)
    assert records["a"]["status"] == "failed" and "1.9 CPUs" in records["a"]["reason"]
    assert "ns_per_row" not in records["a"]


def test_ratios_are_taken_within_rounds() -> None:
    assert ratio([10.0, 100.0, 10.0], [5.0, 50.0, 1.0]) == 2.0
    assert ratio([10.0, None, 30.0], [5.0, 1.0, None]) == 2.0
    assert ratio([None, 10.0], [5.0, None]) is None


def test_rounds_are_joined_evenly() -> None:
    assert rounds_to_join(9, 3) == {0, 4, 8}
    assert rounds_to_join(9, 20) == set(range(9))
    assert rounds_to_join(9, 1) == {0}
    assert all(len(rounds_to_join(9, k)) == k for k in range(1, 10))


def test_summary_names_the_best() -> None:
    def one(kind: str, *ns: float | None) -> dict[str, Any]:
        return {"kind": kind, "status": "ok", "ns_per_row": list(ns)}

    contestants = {
        "library": one(LIBRARY, 60.0, 60.0, 60.0),
        "peer": one(PEER, 20.0, 40.0, 20.0),
        "wrong": {"kind": PEER, "status": "wrong"},
        "woodpecker:a": one(WOODPECKER, 10.0, 10.0, 10.0),
        "woodpecker:b": one(WOODPECKER, 8.0, 8.0, None),
        "woodpecker:auto": one(WOODPECKER, 10.0, 10.0, 10.0),
    }
    found = summarise({"contestants": contestants})
    assert (found["library"], found["best_peer"], found["best"]) == ("library", "peer", "woodpecker:b")
    assert found["figures"]["woodpecker:auto"]["vs_peer"] == 2.0
    assert found["figures"]["woodpecker:auto"]["vs_library"] == 6.0
    assert found["regret"] == pytest.approx(0.25)
    del contestants["peer"]
    assert summarise({"contestants": contestants})["best_peer"] == "library"
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0) and geometric_mean([]) is None


def test_comparison_sees_every_bit() -> None:
    a = np.array([[0.0, 1.0], [np.nan, 2.0]], np.float32)
    assert unequal_bits(a, a.copy(), "x") is None
    b = a.copy()
    b[0, 0] = -0.0
    assert "1 of 4 differ, first at (0, 0)" in str(unequal_bits(b, a, "x"))
    assert "float64" in str(unequal_bits(a.astype(np.float64), a, "x"))
    assert unequal_leaves(np.array([[1], [2]], np.int32), np.array([1.0, 2.0], np.float32)) is None
    assert unequal_leaves(np.array([[1], [3]], np.int32), np.array([1, 2])) is not None


def test_errors_are_counted_in_floats_between() -> None:
    a = np.array([1.0, -1.0, 0.0, 1e-45, 3e38], np.float32)
    b = np.array([np.nextafter(np.float32(1), np.float32(2)), -1.0, -0.0, -1e-45, -3e38], np.float32)
    assert ulps(a, b)[:4].tolist() == [1, 0, 0, 2] and ulps(a, b)[4] > 2**31
    assert ulps(np.array([2.0]), np.array([np.nextafter(2.0, 0.0)])).tolist() == [1]


def test_few_wrong_rows_are_inexact_and_many_are_wrong() -> None:
    want = np.zeros((10_000, 1))
    got = want.copy()
    got[:10] = 1.0
    assert error(got, want)["reason"] is None and error(got, want)["wrong_rows"] == 10
    got[:11] = 1.0
    assert "11 of 10,000 rows" in error(got, want)["reason"]
    assert "shape" in error(want[:5], want)["reason"]
    got[:] = math.nan
    assert error(got, want)["reason"] == "answers are not finite"


def test_calls_get_rows_of_their_own() -> None:
    pool = Pool(np.arange(20, dtype=np.float32).reshape(10, 2), None)  # type: ignore[arg-type]
    assert [view[0, 0] for view in pool.batches(3, 4, first=1)] == [6.0, 12.0, 0.0, 6.0]
    seen: list[float] = []

    def predict(X: np.ndarray) -> None:
        seen.append(float(X[0, 0]))
        time.sleep(0.001)

    timed = time_calls(predict, pool, 1, seconds=2.0, first=0, expected_ns=4e8)
    assert len(seen) == 6 and len(timed["ns"]) == 5, "one call to warm up, five that count"
    assert len(set(seen)) == 6
    assert min(timed["ns"]) >= 1e6 and timed["wall_ns"] >= sum(timed["ns"])


def test_cpu_time_leaves_out_what_others_take() -> None:
    pool = Pool(np.zeros((10, 2), np.float32), None)  # type: ignore[arg-type]
    arguments = {"batch": 1, "seconds": 2.0, "first": 0, "expected_ns": 4e8}
    wall = time_calls(lambda X: time.sleep(0.005), pool, **arguments)
    cpu = time_calls(lambda X: time.sleep(0.005), pool, **arguments, clock="cpu")
    assert min(wall["ns"]) >= 5e6 and np.median(cpu["ns"]) < 2.5e6
    assert cpu["wall_ns"] >= 2.5e7


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_rows_are_seeded_and_new(shape: Shape) -> None:
    X, again, others = make_rows(shape, 300, 1), make_rows(shape, 300, 1), make_rows(shape, 300, 2)
    assert X.dtype == np.float32 and X.shape == (300, shape.features)
    assert unequal_bits(X, again, "") is None
    assert len(np.unique(np.concatenate([X, others]), axis=0)) == 600
    assert bool(np.isnan(X).any()) == bool(shape.missing)
    y = make_target(shape, X, 1)
    assert np.isfinite(y).all()
    counts = np.unique(y, return_counts=True)[1]
    classes = {"regression": 300, "binary": 2, "multiclass": shape.classes}[shape.task]
    assert len(counts) == classes and counts.max() <= counts.min() + 1


def test_the_suite_has_every_shape_and_a_bounded_pool() -> None:
    assert len({shape.name for shape in SHAPES}) == len(SHAPES) == 9
    assert {shape.library for shape in QUICK} == {"xgboost", "lightgbm", "sklearn"}
    for shape in SHAPES:
        rows = pool_rows(shape, 100_000)
        assert rows >= 100_000 and (rows == 100_000 or rows * shape.features * 4 <= 2**30)


def test_threshold_rows_hit_the_thresholds() -> None:
    from woodpecker import Forest

    tree = dict(feature=0, op="<=", threshold=0.1, left=dict(value=1.0), right=dict(value=2.0))
    X = threshold_rows(Forest.from_nested([tree], n_features=2), 400, seed=0)
    near = np.float32(0.1)
    wanted = {float(np.nextafter(near, np.float32(-1))), float(near), float(np.nextafter(near, np.float32(1)))}
    assert X.shape == (400, 2) and X.dtype == np.float32
    assert wanted <= set(X[:, 0].tolist())


def test_tables_are_aligned() -> None:
    assert table(("a", "b"), [("xyzw", "1")]) == ["| a    |   b |", "| ---- | --: |", "| xyzw |   1 |"]
    assert [number(v) for v in (None, 0.123, 12.34, 123.4, 12345.6)] == ["-", "0.12", "12.3", "123", "12,346"]
    assert [size(v) for v in (None, 12, 1234, 1.5e9)] == ["-", "12 B", "1.23 KB", "1.50 GB"]
