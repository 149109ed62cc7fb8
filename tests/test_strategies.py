"""Strategies against the interpreter: every feature of the IR, any number of rows, options, guards, the plan."""

from __future__ import annotations

import resource
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import reference
from woodpecker.errors import StrategyError
from woodpecker.forest import Forest, select_trees
from woodpecker.nested import from_nested
from woodpecker.predicates import canonicalise
from woodpecker.relay_ops import gemm, perfect_tree_traversal, scan
from woodpecker.relay_ops.options import FEW_COLUMNS, SQUARE
from woodpecker.relay_ops.plan import STRATEGIES, make_plan, plan_of
from woodpecker.runtime import measure
from woodpecker.runtime.machine import X86_FLAGS
from woodpecker.targets import resolve
from woodpecker.tuning.candidate import SYMBOL, build, code_of

from .gallery import (
    ALONE,
    FORESTS,
    NAMES,
    UNFIT,
    assert_agrees,
    chain,
    compiled,
    grown,
    leaf,
    neighbours,
    rows,
    split,
    strategies,
)
from .kernels import prepared
from .support import assert_bits_equal


@pytest.mark.full
@pytest.mark.parametrize("name", FORESTS)
def test_every_feature_leaf_ids_and_float32_rows(name):
    forest = FORESTS[name]()
    for strategy in strategies(forest):
        for dtype in ("float32", "float64"):
            assert_agrees(compiled(forest, strategy), forest, rows(forest, 1500, 2, dtype), f"{strategy} {dtype}")


FOR_BATCHES = {"wide64", "wide_sentinel", "deep", "deeper", "padded", "ranked", "ranked64"}
"""Forests that reach corners of bitslice and scan, which take them in the fast tier, and the others do not."""
WALKS = ("gemm", "perfect_tree_traversal", "tree_traversal")
ALL = [(name, strategy) for name in FORESTS for strategy in NAMES]
# Of the rest, each forest gets one in turn: what reads rows and adds leaves up is common to all strategies.
FAST = {
    (name, ("bitslice", "scan")[i % 2] if name in FOR_BATCHES else NAMES[i % len(NAMES)])
    for i, name in enumerate(FORESTS)
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("name", "strategy"), [pytest.param(*p, marks=[] if p in FAST else [pytest.mark.full]) for p in ALL]
)
def test_every_feature_of_the_ir(name, strategy):
    forest = FORESTS[name]()
    if strategy not in strategies(forest):
        with pytest.raises(StrategyError, match=UNFIT[name, strategy]):
            wp.compile(forest, strategy=strategy)
        return
    predictor = compiled(forest, strategy)
    for dtype in ("float32", "float64") if strategy == "tree_traversal" else ("float64",):
        X = rows(forest, 700, 1, dtype)
        assert_bits_equal(predictor.predict_raw(X), reference.predict_raw(forest, X), dtype)
    if forest.input_dtype == "float64" or strategy in ("bitslice", "scan"):
        np.testing.assert_array_equal(predictor.apply(X), reference.apply(forest, X))
    assert_bits_equal(predictor.predict_raw(np.zeros((0, forest.n_features))), forest.base_score[None][:0])


def test_infinite_terms_of_linear_leaves():
    forest = FORESTS["linear"]()
    X = np.array([[np.inf, 0, 0], [0.1, np.inf, 1], [np.inf, np.inf, -np.inf], [0, -np.inf, np.nan], [1, 1, np.inf]])
    with np.errstate(invalid="ignore"):
        want = reference.predict_raw(forest, X)
    assert np.isnan(want).any() and np.isinf(want).any()
    for strategy in NAMES:
        np.testing.assert_array_equal(compiled(forest, strategy).predict_raw(X), want)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("strategy", NAMES)
@pytest.mark.parametrize("name", ["float32", "vector", "truncate"])
def test_any_number_of_rows(name, strategy):
    forest = FORESTS[name]()
    predictor = compiled(forest, strategy)
    block = prepared(forest, strategy, **ALONE.get(strategy, {})).layouts[-1].scalars["row_block"]
    X = rows(forest, 2 * block + 65, 3, "float32")
    raw, ids = reference.predict_raw(forest, X), reference.apply(forest, X)
    for n in (0, 1, 2, 7, 8, 9, 15, 63, 64, 65, block - 1, block, block + 1, 2 * block, 2 * block + 65):
        assert_bits_equal(predictor.predict_raw(X[:n]), raw[:n], f"{n} rows")
        np.testing.assert_array_equal(predictor.apply(X[:n]), ids[:n])
    assert_bits_equal(predictor.predict_raw(X[5::3]), raw[5::3], "every third row")
    wide = np.full((len(X), X.shape[1] + 3), np.nan, np.float32)
    wide[:, 2:-1] = X
    assert_bits_equal(predictor.predict_raw(wide[:, 2:-1]), raw, "a slice of columns")
    assert_bits_equal(predictor.predict_raw(np.asfortranarray(X)), raw, "columns in memory order")


@pytest.mark.parametrize("strategy", NAMES)
def test_nothing_is_written_beyond_the_rows(strategy):
    forest = FORESTS["outputs"]()
    predictor = compiled(forest, strategy)
    X = rows(forest, 70, 4, "float32")
    memory = np.full((72, forest.n_outputs), 7.5, np.float32)
    got = predictor.predict_raw(X, out=memory[1:71])
    assert got is not None and np.shares_memory(got, memory)
    assert_bits_equal(memory[1:71], reference.predict_raw(forest, X))
    assert (memory[[0, 71]] == 7.5).all()
    places = np.full((72, forest.n_trees), -9, np.int32)
    predictor.apply(X, out=places[1:71])
    np.testing.assert_array_equal(places[1:71], reference.apply(forest, X))
    assert (places[[0, 71]] == -9).all()


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("gemm", {"lanes": 16}),
        ("tree_traversal", {"unroll": 3}),
        ("tree_traversal", {"unroll": True, "interleave": 5}),
        ("tree_traversal", {"trees": 7, "interleave": 3}),
        ("perfect_tree_traversal", {"trees": 5, "interleave": 2}),
        ("bitslice", {"min_rows": 0}),
        ("scan", {"min_rows": 0}),
        pytest.param("gemm", {"lanes": 32}, marks=pytest.mark.full),
        pytest.param("tree_traversal", {"unroll": 16, "interleave": 1}, marks=pytest.mark.full),
        pytest.param("tree_traversal", {"trees": 32}, marks=pytest.mark.full),
        pytest.param("perfect_tree_traversal", {"interleave": 1}, marks=pytest.mark.full),
        pytest.param("perfect_tree_traversal", {"interleave": 32}, marks=pytest.mark.full),
        pytest.param("perfect_tree_traversal", {"trees": 16}, marks=pytest.mark.full),
        pytest.param("bitslice", {"min_rows": 512}, marks=pytest.mark.full),
        pytest.param("scan", {"min_rows": 64}, marks=pytest.mark.full),
    ],
)
def test_options_change_no_bit(strategy, options):
    forest = FORESTS["float32"]()
    predictor = wp.compile(forest, strategy=strategy, **options)
    assert predictor.inspect()["plan"][-1]["options"].items() >= options.items()
    for n in (333, 1100):
        assert_agrees(predictor, forest, rows(forest, n, 5, "float32"))


@pytest.mark.full
def test_plans_at_the_borders_of_their_steps():
    forest = chain(30, trees=20)
    predictor = wp.compile(forest, strategy="bitslice", min_rows=100)
    steps = [(step["min_rows"], step["strategy"]) for step in predictor.inspect()["plan"]]
    assert steps[-1] == (100, "bitslice")
    assert [name for _, name in steps[1:]] in (["scan", "bitslice"], ["bitslice", "bitslice"])
    X = rows(forest, 1700, 5)
    raw, ids = reference.predict_raw(forest, X), reference.apply(forest, X)
    counts = {1, 99, 100, 101, 511, 512, 513, 611, 612, 613, 1024, 1123, 1124, 1700}
    for n in sorted(counts | {least + i for least, _ in steps for i in (-1, 0, 1) if least}):
        assert_bits_equal(predictor.predict_raw(X[:n]), raw[:n], f"{n} rows")
        np.testing.assert_array_equal(predictor.apply(X[:n]), ids[:n])


@pytest.mark.full
@pytest.mark.parametrize("strategy", ["bitslice", "scan"])
def test_few_rows_have_entries_of_their_own(strategy, monkeypatch):
    """Beside blocks of rows, which would slow down a walk in the same function."""
    forest = chain(30, trees=40)
    predictor = wp.compile(forest, strategy=strategy, min_rows=60, num_threads=1)
    plan = predictor.inspect()["plan"]
    least = next(step["min_rows"] for step in plan if step["strategy"] in ("bitslice", "scan"))
    assert predictor._program.manifest["few_rows"] == least > 1
    called = []
    entry = predictor._program.entry
    monkeypatch.setattr(
        predictor, "_program", replace(predictor._program, entry=lambda n: called.append(n) or entry(n))
    )
    for dtype, width in (("float32", "f32"), ("float64", "f64")):
        X = rows(forest, 700, 5, dtype)
        raw = reference.predict_raw(forest, X)
        for n in (1, least - 1, least, 513, 700):
            called.clear()
            assert_bits_equal(predictor.predict_raw(X[:n]), raw[:n], f"{n} rows")
            assert called == [f"few_{width}" if n < least else f"raw_{width}"]
    for alone, options in (("tree_traversal", {}), (strategy, {"min_rows": 1})):
        assert wp.compile(forest, strategy=alone, **options)._program.manifest["few_rows"] == 0


@pytest.mark.sampled(2)
@pytest.mark.parametrize("strategy", ["bitslice", "scan"])
def test_plans_of_an_empty_forest(strategy):
    forest = FORESTS["empty"]()
    predictor = wp.compile(forest, strategy=strategy)
    assert [step["strategy"] for step in predictor.inspect()["plan"]] == [strategy]
    assert_agrees(predictor, forest, rows(forest, 70, 5))


def test_reasons_of_steps():
    given = make_plan(canonicalise(chain(30, trees=20)), "bitslice", {"min_rows": 100}, X86_FLAGS)
    assert given[-2].reason == "fewer than 100 rows, where bitslice was told to begin"
    chosen = make_plan(canonicalise(chain(30, trees=20)), "bitslice", {}, X86_FLAGS)
    least = chosen[-1].min_rows
    assert chosen[-2].reason == f"fewer than {least} rows cost less than a block of 512 of bitslice"


def test_a_step_that_begins_beyond_its_block():
    """As measured plans may. Fewer rows are the earlier step's, and no row before the first is touched."""
    forest = grown(17, 60, 5, n_features=300, dtype=np.float32)
    canonical = canonicalise(forest)
    walk = {"unroll": 2, "trees": 1, "interleave": 8}
    steps = [{"min_rows": least, "strategy": "tree_traversal", "options": walk} for least in (0, 512)]
    where = resolve("llvm")
    code = code_of(canonical, plan_of(canonical, steps, "a test"), where)
    X = rows(forest, 1400, 3, "float32")
    want = reference.predict_raw(forest, X)
    for first, n in ((700, 1), (700, 511), (700, 512), (0, 1400)):
        out = np.full((1400, 1), -7.0, np.float32)
        entry = build(code, where, "raw_f32")[SYMBOL]
        measure.bind(entry, X[first : first + n], out[first : first + n], code.scratch_bytes, code.blob)(0, n)
        assert_bits_equal(out[first : first + n], want[first : first + n])
        assert (out[:first] == -7).all() and (out[first + n :] == -7).all()


@pytest.mark.sampled(3)
@pytest.mark.parametrize("n_trees", [32, 33, 64])
@pytest.mark.parametrize(
    ("strategy", "trees"), [("tree_traversal", 3), ("tree_traversal", 31), ("perfect_tree_traversal", 20)]
)
def test_groups_that_reach_past_the_last_tree(strategy, trees, n_trees):
    """Several outputs and a divisor: what lies behind the tables of the trees is read by no one."""
    nodes = [split(t % 3, t / 7 - 2, leaf(t + 0.1), leaf(-t - 0.3)) for t in range(n_trees)]
    outputs = [t % 3 for t in range(n_trees)]
    forest = from_nested(nodes, 3, dtype="float32", tree_output=outputs, n_outputs=3, divisor=3)
    assert_agrees(wp.compile(forest, strategy=strategy, trees=trees), forest, rows(forest, 1000, 3, "float32"))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("strategy", ["tree_traversal", "perfect_tree_traversal"])
@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": "float32"},
        {"input_dtype": "float64", "missing_value": 0.1},
        {"dtype": "float32", "missing_value": -0.0},
    ],
    ids=["float32", "float64", "sentinel"],
)
def test_rows_that_walk_alone_read_runs_of_columns(strategy, fields):
    forest = neighbours(**fields)
    options = {"trees": 3, "interleave": 1}
    assert "runs" in prepared(forest, strategy, **options).signatures[0].flags
    predictor = wp.compile(forest, strategy=strategy, **options)
    for dtype in ("float32", "float64"):
        X = rows(forest, 300, 4, dtype)
        X[::7, ::3] = fields.get("missing_value", np.nan)
        assert_agrees(predictor, forest, X, dtype)
        assert_agrees(predictor, forest, np.asfortranarray(X)[1:], dtype)
        assert_agrees(predictor, forest, np.concatenate([X, X], 1)[:, 3:43], dtype)


@pytest.mark.full
@pytest.mark.parametrize("strategy", ["tree_traversal", "perfect_tree_traversal"])
def test_rows_of_many_columns_walk_together(strategy):
    """So that their columns are transposed in registers, which is most of the work; a few rows walk alone."""
    n = FEW_COLUMNS + 1
    forest = from_nested([split(t, 0.1 * (t % 7), leaf(t + 0.1), leaf(-t)) for t in range(n)], n, dtype="float32")
    made = prepared(forest, strategy)
    assert dict(made.signatures[-1].constants)["interleave"] == SQUARE
    assert "squares" in made.signatures[-1].flags and "squares" not in made.signatures[0].flags
    predictor = wp.compile(forest, strategy=strategy)
    assert [step["options"]["interleave"] for step in predictor.inspect()["plan"]] == [1, SQUARE]
    for dtype in ("float32", "float64"):
        for count in (1, 8, 9, 17, 70):
            assert_agrees(predictor, forest, rows(forest, count, 4, dtype), dtype)
    fewer = from_nested([split(t, 0.0, leaf(1.0), leaf(2.0)) for t in range(n - 1)], n, dtype="float32")
    for given, interleave in (({}, 1), ({"trees": 4}, 4)):
        assert prepared(fewer, strategy, **given).layouts[-1].constants["interleave"] == interleave
    for given, interleave in (({"trees": 4}, 4), ({"interleave": 3}, 3)):
        assert prepared(forest, strategy, **given).layouts[-1].constants["interleave"] == interleave


@pytest.mark.sampled(6)
@pytest.mark.parametrize("n_features", [7, 8, 11, 15, 16])
@pytest.mark.parametrize("fields", [{"dtype": "float32"}, {"input_dtype": "float64", "missing_value": 0.1}])
def test_columns_of_narrow_rows_are_transposed(n_features, fields):
    """By squares of 8, of which the last begins where it ends with the row; of 16, where rows have as many."""
    ways = ("left", "right", "left")
    nodes = [
        split(f, f / 4 - 1, leaf(f + 0.1), leaf(-f), missing=ways[(f + i) % 3])
        for i in (0, 1)
        for f in range(n_features)
    ]
    forest = from_nested(nodes, n_features, **fields)
    made = prepared(forest, "bitslice", features=X86_FLAGS, min_rows=1).layouts[-1]
    assert made.constants.get("square") == {7: None, 16: 16}.get(n_features, 8)
    predictor = wp.compile(forest, strategy="bitslice", min_rows=1)
    for dtype in ("float32", "float64"):
        X = rows(forest, 600, 4, dtype)
        X[::7, ::3] = fields.get("missing_value", np.nan)
        assert_agrees(predictor, forest, X, dtype)
        assert_agrees(predictor, forest, np.concatenate([X, X], 1)[:, 3 : 3 + n_features], dtype)


@pytest.mark.full
def test_nodes_too_many_for_packed_links():
    """40,000 features and 120,000 nodes take more than the 32 bits of a packed link."""
    n = 40_000
    forest = from_nested([split(t, 0.0, leaf(1.0), leaf(2.0)) for t in range(n)], n, dtype="float32")
    assert "link" in dict(prepared(forest, "tree_traversal", trees=2).signatures[0].tables)
    X = np.random.default_rng(0).normal(size=(3, n)).astype(np.float32)
    assert_agrees(wp.compile(forest, strategy="tree_traversal", trees=2), forest, X)


@pytest.mark.full
@pytest.mark.parametrize("strategy", ["auto", "depth_rule", *NAMES])
def test_a_chain_of_a_thousand_splits(strategy):
    forest = chain(1100)
    if strategy in ("gemm", "perfect_tree_traversal", "scan"):
        with pytest.raises(StrategyError, match="strategy='auto' avoids it"):
            wp.compile(forest, strategy=strategy)
    else:
        assert_agrees(wp.compile(forest, strategy=strategy), forest, rows(forest, 20, 1))


@pytest.mark.parametrize("cover", [float("inf"), float("-inf"), float("nan"), -1.0, 0.0, 1e308])
def test_any_cover_is_survived(cover):
    forest = FORESTS["float32"]().replace(cover=np.full(FORESTS["float32"]().n_nodes, cover))
    assert_agrees(wp.compile(forest), forest, rows(forest, 30, 5, "float32"))


def test_wrong_options():
    forest = FORESTS["float32"]()
    cases = [
        ("gemm", {"lanes": 48}, "power of two, found 48"),
        ("gemm", {"lanes": 128}, "lanes.*16 to 64, found 128"),
        ("gemm", {"unroll": 2}, "has no option 'unroll'; its options: lanes"),
        ("tree_traversal", {"unroll": 0}, "unroll.*1 to 16, found 0"),
        ("tree_traversal", {"unroll": 2.0}, "unroll.*integer.*found 2.0"),
        ("tree_traversal", {"interleave": "8"}, "interleave.*integer.*'8'"),
        ("tree_traversal", {"trees": 33}, "trees.*0 to 32, found 33"),
        ("tree_traversal", {"trees": 32, "interleave": 4}, "interleave \\* trees is 128; at most 64 walks"),
        ("perfect_tree_traversal", {"trees": 8, "interleave": 9}, "interleave \\* trees is 72; at most 64 walks"),
        ("tree_traversal", {"trees": 32, "unroll": 16}, "interleave \\* trees \\* unroll is"),
        ("perfect_tree_traversal", {"depth": 3}, "has no option 'depth'"),
        ("auto", {"unroll": 2}, "'auto' takes no options, found unroll"),
        ("depth_rule", {"low": -1}, "option low .*>= 0, found -1"),
        ("depth_rule", {"high": True}, "option high .*found True"),
        ("depth_rule", {"middle": 1}, "has no option 'middle'"),
        ("quickscorer", {}, "unknown strategy 'quickscorer'; known: gemm, tree_traversal"),
    ]
    for strategy, options, message in cases:
        with pytest.raises(StrategyError, match=message):
            wp.compile(forest, strategy=strategy, **options)


def test_depth_rule():
    def chosen(depth: int, **options: int) -> str:
        return make_plan(canonicalise(chain(depth)), "depth_rule", options, X86_FLAGS)[0].strategy

    assert [chosen(d) for d in (0, 3, 4, 10, 11)] == [
        "gemm",
        "gemm",
        "perfect_tree_traversal",
        "perfect_tree_traversal",
        "tree_traversal",
    ]
    assert chosen(3, low=2) == "perfect_tree_traversal"
    assert chosen(12, high=12) == "perfect_tree_traversal"
    assert make_plan(canonicalise(chain(2)), "depth_rule", {"lanes": 32}, X86_FLAGS)[0].options == {"lanes": 32}
    with pytest.raises(StrategyError, match=r"depth 30 .*; the limit is depth 20"):
        chosen(30, high=40)


def test_auto_names_its_reasons():
    step = wp.compile(grown(21, 4, 3, dtype=np.float32), strategy="auto").inspect()["plan"][-1]
    assert set(step["considered"]) == set(STRATEGIES)
    costs = {name: cost for name, cost in step["considered"].items() if not isinstance(cost, str)}
    assert step["strategy"] == min(costs, key=costs.get)
    assert "lowest estimate" in step["reason"]


def big_tree(leaves: int) -> Forest:
    """A bushy tree of this many leaves."""
    level = [leaf(float(i)) for i in range(leaves)]
    while len(level) > 1:
        pairs = [split(0, float(i), *level[2 * i : 2 * i + 2]) for i in range(len(level) // 2)]
        level = pairs + level[2 * len(pairs) :]
    return from_nested(level, 1, dtype=np.float32)


def repeated(forest: Forest, times: int) -> Forest:
    return select_trees(forest, [0] * times)


@pytest.mark.parametrize(
    ("make", "strategy", "reason"),
    [
        (lambda: chain(30), "perfect_tree_traversal", r"depth 30 would be padded to 2\*\*30 leaves"),
        (lambda: big_tree(3000), "gemm", r"3,000 leaves needs 9,000,000 matrix entries"),
        (lambda: big_tree(257), "scan", r"257 leaves; a leaf number has 8 bits"),
        (lambda: repeated(chain(18), 60), "perfect_tree_traversal", r"60 trees padded to depth 18 need 0\.3 GiB"),
        (lambda: repeated(big_tree(1024), 300), "gemm", r"300 trees of 1024 leaves need 0\.3 GiB"),
    ],
    ids=["perfect-depth-30", "gemm-3000-leaves", "scan-257-leaves", "perfect-many", "gemm-many"],
)
def test_guards_refuse_before_they_allocate(make, strategy, reason):
    forest = make()
    canonical = canonicalise(forest)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    try:
        with pytest.raises(StrategyError, match=reason):
            make_plan(canonical, strategy, {}, X86_FLAGS)
        plan = make_plan(canonical, "auto", {}, X86_FLAGS)[-1]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2**21 + 16 * forest.n_nodes
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 2**25 + 64 * forest.n_nodes
    assert plan.strategy != strategy
    assert plan.considered[strategy] == STRATEGIES[strategy].applicable(canonical, {})
    with pytest.raises(StrategyError, match="strategy='auto' avoids it"):
        wp.compile(forest, strategy=strategy)


def test_guards_sit_at_their_limits():
    fits, beyond = canonicalise(chain(20)), canonicalise(chain(21))
    assert perfect_tree_traversal.applicable(fits, {}) is None and perfect_tree_traversal.applicable(beyond, {})
    fits, beyond = canonicalise(big_tree(1024)), canonicalise(big_tree(1025))
    assert gemm.applicable(fits, {}) is None and gemm.applicable(beyond, {})
    fits, beyond = canonicalise(big_tree(256)), canonicalise(big_tree(257))
    assert scan.applicable(fits, {}) is None and scan.applicable(beyond, {})


@pytest.mark.full
def test_deep_and_large_models_are_served_by_what_auto_takes():
    for forest, unfit in ((chain(300), "perfect_tree_traversal"), (big_tree(3000), "gemm")):
        predictor = wp.compile(forest)
        assert predictor.strategy in strategies(forest) and unfit not in strategies(forest)
        assert_agrees(predictor, forest, rows(forest, 200, 6, "float32"))


def test_path_sums_of_more_than_127_tests():
    # gemm's path sums need 16 bits there.
    forest = chain(140)
    for dtype in ("float32", "float64"):
        assert_agrees(wp.compile(forest, strategy="gemm"), forest, rows(forest, 150, 7, dtype))


def test_precision_fast_sums_in_float32():
    forest = FORESTS["float64"]()
    predictor = wp.compile(forest, precision="fast", strategy="tree_traversal")
    X = rows(forest, 400, 8)
    narrow = forest.replace(values=forest.values.astype("float32"), base_score=forest.base_score.astype("float32"))
    assert_agrees(predictor, narrow, X)
    total = np.abs(forest.values).max() * forest.n_trees
    bound = (forest.n_trees + 1) * 2**-24 * total
    assert np.abs(predictor.predict_raw(X) - reference.predict_raw(forest, X)).max() <= bound
    with pytest.raises(wp.errors.UnsupportedModelError, match="linear"):
        wp.compile(FORESTS["linear"](), precision="fast")
    with pytest.raises(wp.errors.InputError, match="precision must be 'exact' or 'fast', found 'half'"):
        wp.compile(forest, precision="half")
