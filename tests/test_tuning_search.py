"""The space of a tuning job, what it tries next, and what it believes."""

from __future__ import annotations

import numpy as np
import pytest

from woodpecker.predicates import canonicalise
from woodpecker.relay_ops.plan import STRATEGIES, make_plan, plan_of
from woodpecker.runtime import candidates
from woodpecker.targets import resolve
from woodpecker.tuning import search, space

from .gallery import FORESTS, grown

FEATURES = resolve("x86-64-v4").features


@pytest.fixture(scope="module")
def forest():
    return grown(1, 6, 4, dtype=np.float32)


def test_a_wrong_candidate_is_never_chosen(forest):
    default = {"plan": list(space.single("gemm", {"lanes": 64})), "status": "ok", "ns": {"1": 10.0}}
    wrong = {"plan": list(space.single("gemm", {"lanes": 16})), "status": "wrong", "ns": {"1": 1.0}}
    what = search.Search(canonicalise(forest), {}, FEATURES, tuple(default["plan"]), (1,), 9, 0)
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
    what = search.Search(canonical, {}, FEATURES, default, (1, 64), 20, 0)
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
    plans = [space.single("gemm", {"lanes": n}) for n in range(len(times))]
    verdict = search.judge(plans, times)
    assert verdict.winner == winner
    assert (verdict.gain > 1.0) == (winner > 0)
    assert verdict.reason


def test_equal_steps_count_as_equally_fast():
    """Noise at a batch size that both plans serve in the same steps neither makes a winner nor unmakes one."""
    walk = space.single("tree_traversal", {})
    many = (*walk, {"min_rows": 2, "strategy": "scan", "options": {}})
    assert [len(search.serving(many, n)) for n in (1, 2, 3)] == [1, 2, 2]
    noisy, lucky = paired((1.5, 0.5)), paired((0.5, 0.99))
    assert search.judge([walk, space.single("gemm", {})], noisy).winner == 0
    verdict = search.judge([walk, many], noisy)
    assert (verdict.winner, verdict.gain) == (1, pytest.approx(2**0.5, abs=1e-4))
    assert verdict.ns[1] == {"1": 150.0, "2": 50.0}
    assert search.judge([walk, many], lucky).winner == 0


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
    default = space.resolved(canonical, [vars(s) for s in make_plan(canonical, "auto", {}, FEATURES)])
    what = search.Search(canonical, small, FEATURES, default, (1, 64), 50, 0)
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


def test_plans_are_joined_where_the_space_ends_early(forest):
    """More trials than there are plans of one strategy: those end, and joined ones follow."""
    canonical = canonicalise(forest)
    small = {"tree_traversal": {"trees": (1, 2, 4), "interleave": (1, 2, 4)}, "scan": {"rows": (64, 128)}}
    what = search.Search(canonical, small, FEATURES, make_default(canonical), (1, 64), 100, 0)
    trials = []

    def take(join):
        while (plan := search.next_plan(what, trials, [], join)) is not None:
            number = len(trials)
            trials.append({"plan": list(plan), "status": "ok", "ns": {"1": 10.0 + number, "64": 100.0 - number}})
        return len(trials)

    alone = take(False)
    assert alone < search.explored(what)
    assert all(len(trial["plan"]) == 1 for trial in trials[1:])
    assert take(True) > alone
    assert all(len(trial["plan"]) > 1 for trial in trials[alone : alone + 6])


def test_a_search_goes_on_where_nothing_was_measured(forest):
    canonical = canonicalise(forest)
    what = search.Search(canonical, space.space_of(canonical), FEATURES, make_default(canonical), (1, 64), 40, 0)
    pending, failed = [], []
    while (plan := search.next_plan(what, [], pending)) is not None:
        pending.append(plan)
    while (plan := search.next_plan(what, failed, [])) is not None:
        failed.append({"plan": list(plan), "status": "crashed"})
    for plans in (pending, [search.plan_in(trial) for trial in failed]):
        assert len({candidates.key(plan) for plan in plans}) == len(plans) == 40


def test_strategies_of_few_plans_are_tried_whole_and_first(forest):
    canonical = canonicalise(forest)
    tried = space.space_of(canonical)
    assert tried["bitslice"]["rows"] == (128, 256, 512) and tried["scan"]["rows"] == (64, 128, 256, 512)
    what = search.Search(canonical, tried, FEATURES, make_default(canonical), (1, 64), 40, 0)
    trials = []
    for _ in range(14):
        plan = search.next_plan(what, trials, [])
        trials.append({"plan": list(plan), "status": "ok", "ns": {"1": 5.0, "64": 5.0}})
    found = [trial["plan"][0] for trial in trials if len(trial["plan"]) == 1]
    assert sorted(s["options"]["rows"] for s in found if s["strategy"] == "scan") == [64, 128, 256, 512]
    assert sorted(s["options"]["rows"] for s in found if s["strategy"] == "bitslice") == [128, 256, 512]
    assert sorted(s["options"]["lanes"] for s in found if s["strategy"] == "gemm") == [16, 32, 64]


def make_default(canonical):
    return space.resolved(canonical, [vars(s) for s in make_plan(canonical, "auto", {}, FEATURES)])


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
    first = search.Search(canonical, options, FEATURES, default, batches, len(trials) + 1, 0)
    trials.append({"plan": list(search.next_plan(first, trials, [])), "status": "crashed"})  # a walk with its defaults
    what = search.Search(canonical, options, FEATURES, default, batches, len(trials) + 1, 0)
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
    what = search.Search(canonical, options, FEATURES, default, (1, 16, 64, 1024), len(trials) + 1, 0)
    plan = search.next_plan(what, trials, [])
    # Not from all three leaders: what perfect trees gain at 16 rows is not worth another step.
    assert [step["strategy"] for step in plan] == ["tree_traversal", "bitslice"]
    assert 64 < plan[1]["min_rows"] < 512
    more = search.Search(canonical, what.space, FEATURES, default, what.batches, len(trials) + 8, 0)
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


def test_a_default_plan_is_a_plan(forest):
    canonical = canonicalise(forest)
    default = make_plan(canonical, "auto", {}, FEATURES)
    assert [s.options for s in plan_of(canonical, [vars(s) for s in default], "")] == [s.options for s in default]
