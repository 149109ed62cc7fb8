"""Tuning jobs: rows, the space, the search, what a bad candidate costs, resuming, and what the record is worth."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import reference
from woodpecker.errors import InputError, TargetError, UnsupportedModelError
from woodpecker.nested import from_nested
from woodpecker.predicates import canonicalise
from woodpecker.relay_ops.plan import STRATEGIES, make_plan, plan_of
from woodpecker.runtime import candidates, measure
from woodpecker.tuning import offline, pool, records, report, rows, search, space, store
from woodpecker.tuning.shape import digest

from .gallery import FORESTS, grown, leaf, split
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
    monkeypatch.setattr(search, "next_plan", lambda what, trials, pending: ([what.default, *plans, None])[len(trials)])
    result = quick(forest, tmp_path, trials=8, timeout=8.0, memory=2.0)
    found = {t["plan"][0]["options"]["interleave"]: t for t in result.trials[1:]}
    expected = {16: "wrong", 1: "timeout", 2: "crashed", 4: "memory", 8: "error", 32: "ok"}
    assert {n: t["status"] for n, t in found.items()} == expected
    assert "1 of 17,408 scores differ, the first at row 5" in found[16]["message"]
    assert "SIGSEGV" in found[2]["message"]
    assert "ZeroDivisionError: division by zero" in found[8]["message"]
    chosen = {step["options"].get("interleave") for step in result.record.plan}
    assert chosen.isdisjoint({1, 4, 8, 16}) or result.record.plan == result.record.default


def test_a_wrong_candidate_is_never_chosen(forest):
    default = {"plan": list(space.single("gemm", {"lanes": 64})), "status": "ok", "ns": {"1": 10.0}}
    wrong = {"plan": list(space.single("gemm", {"lanes": 16})), "status": "wrong", "ns": {"1": 1.0}}
    what = search.Search(canonicalise(forest), {}, tuple(default["plan"]), (1,), 9, 0)
    assert search.finalists(what, [default, wrong]) == [tuple(default["plan"])]
    assert search.best_times([default, wrong]) == {"1": 10.0}
    later = [default, {**wrong, "status": "ok"}, {**wrong, "status": "wrong"}]  # by the check of all entries at the end
    assert search.finalists(what, later) == [tuple(default["plan"])]
    assert search.finalists(what, later[:2]) != [tuple(default["plan"])]


def test_leaders_are_measured_again(forest):
    def trial(strategy, first, last, **more):
        plan = space.resolved(canonical, space.single(strategy, {}))
        return {"plan": list(plan), "status": "ok", "ns": {"1": first, "64": last}, **more}

    canonical = canonicalise(forest)
    names = ("gemm", "tree_traversal", "perfect_tree_traversal", "bitslice")
    trials = [trial(name, 10.0 + i, 20.0 - i) for i, name in enumerate(names)]
    default = tuple(trials[1]["plan"])
    what = search.Search(canonical, {}, default, (1, 64), 20, 0)
    assert search.explored(what) == 15
    chosen = [plan[0]["strategy"] for plan in search.leaders(what, trials)]
    assert chosen == ["tree_traversal", "gemm", "bitslice", "perfect_tree_traversal"]
    assert search.leaders(what, [{**t, "status": "wrong"} for t in trials[2:]]) == []
    journal = [*trials, trial("gemm", 99.0, 98.0, again=True), {"plan": [], "status": "crashed"}]
    merged = search.remeasured(journal)
    assert len(merged) == 5
    assert merged[0]["ns"] == {"1": 99.0, "64": 98.0}
    assert merged[1:4] == trials[1:]


def test_a_plan_that_is_slow_at_one_batch_size_comes_last():
    def trial(name, *ns):
        return {"plan": [name], "status": "ok", "ns": dict(zip("12", ns, strict=True))}

    base, uneven, even, same = trial("d", 10, 10), trial("u", 2, 12), trial("e", 8, 9), trial("s", 10.2, 10.2)
    slow = trial("x", 11, 11)
    assert candidates.faster([slow, same, uneven, base, even], ["d"]) == [even, same, uneven]


def paired(*ratios, rounds=15, noise=0.0):
    """Samples of plans whose times are these multiples of the default's."""
    rng = np.random.default_rng(0)
    return [
        {b: (100.0 * r * (1 + noise * rng.normal(size=rounds))).tolist() for b, r in zip("12", ratio, strict=True)}
        for ratio in ((1.0, 1.0), *ratios)
    ]


@pytest.mark.parametrize(
    ("times", "winner"),
    [
        (paired((0.5, 0.9)), 1),
        (paired((0.9, 0.9), (0.5, 0.5)), 2),
        (paired((0.99, 0.995)), 0),
        (paired((0.97, 0.97), noise=0.2), 0),
        (paired((0.3, 1.2)), 0),
        (paired((0.3, 1.2), (0.8, 1.0)), 2),
        (paired((1.5, 1.5)), 0),
        (paired(), 0),
    ],
)
def test_the_default_stays_unless_a_plan_is_faster_beyond_noise(times, winner):
    verdict = search.judge(times)
    assert verdict.winner == winner
    assert (verdict.gain > 1.0) == (winner > 0)
    assert verdict.reason


@pytest.mark.parametrize("name", FORESTS)
def test_sampled_rows_follow_the_trees(name):
    forest = FORESTS[name]()
    canonical = canonicalise(forest)
    for dtype in ("float32", "float64"):
        X = rows.sampled(canonical, 500, 0, dtype)
        assert X.shape == (500, forest.n_features)
        assert X.dtype == dtype
        assert np.isfinite(X).all()
        assert_bits_equal(X, rows.sampled(canonical, 500, 0, dtype))
        check = rows.boundary(canonical, X, 3000, 0)
        assert check.shape == (3000, forest.n_features)
        assert len(canonical.columns) == 0 or np.isnan(check).any()
    assert name != "float32" or not np.array_equal(X, rows.sampled(canonical, 500, 1, dtype))


@pytest.mark.parametrize("covered", [True, False])
def test_sampled_rows_reach_leaves_as_often_as_their_cover_says(covered):
    def tree(n, depth):
        """Node n of a heap, on a feature of its own; the leaf of the last level has the number below."""
        return split(n, n / 3, tree(2 * n + 1, depth - 1), tree(2 * n + 2, depth - 1)) if depth else leaf(float(n))

    forest = from_nested([split(7, 0.5, tree(0, 3), leaf(0.5))], 8)
    cover = np.ones(forest.n_nodes)
    leaves = np.flatnonzero(forest.leaf >= 0)
    cover[leaves] = 2.0 ** (np.arange(len(leaves)) % 5)
    for node in range(forest.n_nodes - 1, -1, -1):
        if forest.leaf[node] < 0:
            cover[node] = cover[forest.left[node]] + cover[forest.right[node]]
    weight = cover[leaves] if covered else np.ones(len(leaves))
    X = rows.sampled(canonicalise(forest.replace(cover=cover) if covered else forest), 20_000, 0, "float64")
    reached = np.bincount(reference.apply(forest, X)[:, 0], minlength=forest.n_nodes)[forest.leaf_id[leaves]]
    assert reached / len(X) == pytest.approx(weight / weight.sum(), abs=0.01)


def test_given_rows_are_drawn_or_repeated(forest):
    data = np.arange(50, dtype=np.float32).reshape(10, 5)
    drawn = rows.given(forest, data, 4, 0)
    assert {tuple(row) for row in drawn} <= {tuple(row) for row in data}
    assert len({tuple(row) for row in drawn}) == 4
    repeated = rows.given(forest, data.astype(np.float64), 25, 0)
    assert repeated.dtype == np.float64
    assert_bits_equal(repeated, data[np.arange(25) % 10].astype(np.float64))
    for wrong, message in ((data[:0], "are empty"), (data[:, :3], "has 3 columns")):
        with pytest.raises(InputError, match=message):
            rows.given(forest, wrong, 4, 0)


@pytest.mark.parametrize("name", FORESTS)
def test_a_work_folder_keeps_the_forest(name, tmp_path):
    forest = FORESTS[name]()
    store.save_forest(tmp_path / "forest.npz", forest)
    kept = store.load_forest(tmp_path / "forest.npz")
    assert digest(kept) == digest(forest)
    X = rows.boundary(canonicalise(forest), np.zeros((9, forest.n_features)), 200, 0)
    assert_bits_equal(reference.predict_raw(kept, X), reference.predict_raw(forest, X))


@pytest.mark.parametrize("name", ["float32", "exact", "chain"])
def test_every_plan_of_the_space_serves_the_forest(name):
    canonical = canonicalise(FORESTS[name]())
    found = space.space_of(canonical)
    assert ("perfect_tree_traversal" in found) == (name != "chain")
    plans = list(space.every(np.random.default_rng(0), found, canonical))
    assert len({candidates.key(plan) for plan in plans}) == len(plans) <= space.size(found)
    assert {plan[0]["strategy"] for plan in plans} == set(found)
    for plan in plans:
        assert space.resolved(canonical, plan) == plan
    for name, options in found.items():
        assert set(options) <= set(STRATEGIES[name].OPTIONS)


def test_the_search_covers_its_space_without_repeating_itself(forest):
    canonical = canonicalise(forest)
    small = {"gemm": {"lanes": (16, 32, 64)}, "tree_traversal": {"trees": (1, 2), "interleave": (1, 2)}}
    default = space.resolved(canonical, [vars(s) for s in make_plan(canonical, "auto", {})])
    what = search.Search(canonical, small, default, (1, 64), 50, 0)
    trials = []
    while (plan := search.next_plan(what, trials, [])) is not None:
        ns = {"1": 10.0 + len(trials) % 5, "64": 9.0 - len(trials) % 3}
        trials.append({"plan": list(plan), "status": "ok" if len(trials) % 4 else "crashed", "ns": ns})
    keys = [candidates.key(search.plan_in(t)) for t in trials]
    assert keys[0] == candidates.key(default)
    assert len(set(keys)) == len(keys)
    everything = {candidates.key(p) for p in space.every(np.random.default_rng(0), small, canonical)}
    assert everything <= set(keys)
    again = [search.next_plan(what, trials[:i], []) for i in range(len(trials))]
    assert [candidates.key(plan) for plan in again] == keys


def test_plans_are_joined_where_their_times_cross(forest):
    def at(strategy, fixed, per_row):
        times = {n: (fixed + per_row * n) / n for n in (1, 16, 64, 256, 1024)}
        return space.single(strategy, {}), times

    walk, block = at("tree_traversal", 10.0, 10.0), at("bitslice", 1000.0, 1.0)
    few, many = space.joined([block, walk], 1.0, 0.95)
    assert (few["strategy"], many["strategy"]) == ("tree_traversal", "bitslice")
    assert 80 < many["min_rows"] < 150  # 110 but for the interpolation
    assert space.joined([block, walk], 0.5, 0.95)[1]["min_rows"] == pytest.approx(many["min_rows"] / 2, abs=1)
    assert len(space.joined([walk, at("gemm", 10.0, 10.0)], 1.0, 0.95)) == 1
    three = space.joined([block, walk, at("gemm", 200.0, 3.0)], 1.0, 0.95)
    assert [s["strategy"] for s in three] == ["tree_traversal", "gemm", "bitslice"]
    assert space.resolved(canonicalise(forest), three) is not None
    shifted = space.joined([block, walk, at("gemm", 200.0, 3.0)], 99.0, 0.95)
    assert [(s["min_rows"], s["strategy"]) for s in shifted] == [(0, "tree_traversal"), (512, "bitslice")]
    between = [block, walk, at("gemm", 28.0, 9.0)]
    assert [s["strategy"] for s in space.joined(between, 1.0, 0.95)] == ["tree_traversal", "gemm", "bitslice"]
    assert [s["strategy"] for s in space.joined(between, 1.0, 0.5)] == ["gemm", "bitslice"]


def test_joined_plans_leave_middle_row_counts_to_scan(forest):
    """Ten rows and more of a block of 64, a hundred of one of 512: what many models' times are like."""

    def trial(strategy, options, *ns):
        plan = space.resolved(canonical, space.single(strategy, options))
        return {"plan": list(plan), "status": "ok", "ns": dict(zip(map(str, batches), ns, strict=True))}

    canonical = canonicalise(forest)
    batches = (1, 16, 64, 256, 1024)
    trials = [
        trial("bitslice", {}, 2000.0, 125.0, 31.2, 7.8, 4.0),
        trial("scan", {}, 640.0, 40.0, 10.0, 7.0, 7.0),
        trial("tree_traversal", {"trees": 4, "interleave": 1}, 60.0, 60.0, 60.0, 60.0, 60.0),
        trial("tree_traversal", {"trees": 1, "interleave": 8}, 200.0, 30.0, 30.0, 30.0, 30.0),
    ]
    options = {name: {} for name in ("bitslice", "scan", "tree_traversal")}
    default = tuple(trials[0]["plan"])
    first = search.Search(canonical, options, default, batches, len(trials) + 1, 0)
    trials.append({"plan": list(search.next_plan(first, trials, [])), "status": "crashed"})  # a walk with its defaults
    what = search.Search(canonical, options, default, batches, len(trials) + 1, 0)
    plan = search.next_plan(what, trials, [])
    assert [step["strategy"] for step in plan] == ["tree_traversal", "tree_traversal", "scan", "bitslice"]
    assert plan[1]["options"]["interleave"] == 8
    assert 1 < plan[1]["min_rows"] < 16 < plan[2]["min_rows"] < 64 <= 256 < plan[3]["min_rows"] <= 512
    assert space.resolved(canonical, plan) == plan


def test_joined_plans_are_tried_the_most_promising_first(forest):
    def trial(strategy, options, *ns):
        plan = space.resolved(canonical, space.single(strategy, options))
        return {"plan": list(plan), "status": "ok", "ns": dict(zip(("1", "16", "64", "1024"), ns, strict=True))}

    canonical = canonicalise(forest)
    trials = [
        trial("bitslice", {}, 1000.0, 80.0, 20.0, 5.0),
        trial("tree_traversal", {}, 10.0, 12.0, 12.0, 12.0),
        trial("perfect_tree_traversal", {}, 15.0, 11.8, 11.9, 12.0),
        trial("gemm", {}, 100.0, 50.0, 40.0, 40.0),
    ]
    default = tuple(trials[0]["plan"])
    measured = {t["plan"][0]["strategy"] for t in trials}
    options = {name: tried for name, tried in space.space_of(canonical).items() if name in measured}
    what = search.Search(canonical, options, default, (1, 16, 64, 1024), len(trials) + 1, 0)
    plan = search.next_plan(what, trials, [])
    # Not from all three leaders: what perfect trees gain at 16 rows is not worth another step.
    assert [step["strategy"] for step in plan] == ["tree_traversal", "bitslice"]
    assert 64 < plan[1]["min_rows"] < 512
    more = search.Search(canonical, what.space, default, what.batches, len(trials) + 8, 0)
    first = search.next_plan(more, [*trials, *trials[:3]], [plan])
    assert first is not None
    assert candidates.key(first) != candidates.key(plan)


def test_a_plan_of_several_steps_is_moved_one_step_at_a_time(forest):
    canonical = canonicalise(forest)
    options = space.space_of(canonical)
    plan = space.resolved(
        canonical, ({**space.single("tree_traversal", {})[0]}, {**space.single("gemm", {})[0], "min_rows": 40})
    )
    rng = np.random.default_rng(0)
    seen = [space.moved(rng, options, plan, canonical, (0.5, 2.0)) for _ in range(60)]
    assert {found[1]["min_rows"] for found in seen if found} == {20, 40, 80}
    high = (plan[0], {**plan[1], "min_rows": 400})
    far = [space.moved(rng, options, high, canonical, (2.0,)) for _ in range(20)]
    assert {found[1]["min_rows"] for found in far if found} == {400, 512}
    for found in filter(None, seen):
        changed = [a != b for a, b in zip(found, plan, strict=True)]
        assert sum(changed) <= 1
        assert [s["strategy"] for s in found] == ["tree_traversal", "gemm"]


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


def test_what_a_killed_job_left_half_written_goes_away(tmp_path):
    half = tmp_path / ".woodpecker-0123456789ab"
    (tmp_path / ".lock").touch()
    for begun in (False, True):
        half.write_text("{")
        if begun:
            (tmp_path / store.TEMPORARY / "x").mkdir(parents=True)
        assert store.begin(tmp_path, {"seed": 0}) is begun
        assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", store.TASK]


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


def test_tuning_is_imported_only_when_it_is_used():
    code = (
        "import sys, woodpecker.tuning.lookup; print(*sorted(m for m in sys.modules if m.startswith('woodpecker.t')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "offline" not in done.stdout
    assert json.dumps("woodpecker.tuning.records") in json.dumps(done.stdout.split())


def test_a_default_plan_is_a_plan(forest):
    canonical = canonicalise(forest)
    default = make_plan(canonical, "auto", {})
    assert [s.options for s in plan_of(canonical, [vars(s) for s in default], "")] == [s.options for s in default]
