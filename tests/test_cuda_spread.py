"""CUDA kernels of which several blocks share the trees of a row, without a GPU: bits, fences and counters."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from woodpecker import reference
from woodpecker.schedules import cuda_spread

from .cuda_support import IN_TURN, LAST_BLOCK_FIRST, ORDERS, UP_TO_THE_COUNT, Prepared, cuda_c, prepared, run
from .gallery import FORESTS, grown, rows
from .support import assert_bits_equal, bits

BLOCK_ORDERS = (0, LAST_BLOCK_FIRST, IN_TURN, LAST_BLOCK_FIRST | IN_TURN, UP_TO_THE_COUNT)


def assert_exact(made: Prepared, n: int, blocks: int) -> None:
    """Fail unless the interpreter's bits come out, whichever thread and block comes first."""
    for width, dtype in (("f32", "float32"), ("f64", "float64")):
        X = rows(made.forest, n, 1, dtype)
        want = reference.predict_raw(made.forest, X)
        for backwards, order in product(ORDERS, BLOCK_ORDERS):
            got = run(made, f"spread_{width}", X, blocks=blocks, backwards=backwards, order=order)
            assert_bits_equal(got, want, f"{width} {n} rows, {blocks} blocks each, order {order}")


KINDS = [
    ("float32", "tree_traversal", 0),
    ("float64", "tree_traversal", 0),
    ("outputs", "perfect_tree_traversal", 1),
    ("vector", "tree_traversal", 0),
    ("zero_rule", "perfect_tree_traversal", 0),
    ("truncate", "tree_traversal", 0),
    ("linear", "perfect_tree_traversal", 1),
    ("narrow", "perfect_tree_traversal", 1),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("name", "strategy", "ranks"),
    [pytest.param(*k, marks=() if k[0] in ("outputs", "float64") else pytest.mark.full) for k in KINDS],
)
def test_exact(name, strategy, ranks, monkeypatch):
    """Runs of trees that are equal, that are not, and some without a tree."""
    forest = FORESTS[name]()
    monkeypatch.setattr(cuda_spread, "ROUNDS", 0)
    made = prepared(forest, strategy, threads=32, ranks=ranks, spread_trees=1)
    assert made.launches["spread_f32"].row_blocks == forest.n_trees
    for n, blocks in ((1, 2), (2, 3), (3, forest.n_trees + 2), (7, 2)):
        assert_exact(made, n, blocks)


@pytest.mark.parametrize("trees", [40, pytest.param(1100, marks=pytest.mark.full)])
@pytest.mark.parametrize("outputs", [1, pytest.param(40, marks=pytest.mark.full)])
def test_many_trees(trees, outputs):
    """More trees than threads, than a sum reads ahead, and than are staged; more outputs than threads."""
    more = dict(n_outputs=outputs, tree_output=np.arange(trees) * 7 % outputs) if outputs > 1 else {}
    forest = grown(21, trees, 2, dtype=np.float32, **more)
    made = prepared(forest, "tree_traversal", threads=32, spread_trees=7)
    X = rows(forest, 2, 1, "float32")
    want = reference.predict_raw(forest, X)
    for backwards, blocks in product(ORDERS, (1, 3)):
        assert_bits_equal(run(made, "spread_f32", X, blocks=blocks, backwards=backwards, order=IN_TURN), want)


@pytest.mark.full
@pytest.mark.parametrize(("what", "times"), [("__syncthreads();", 5), ("__threadfence();", 2)])
def test_the_emulation_notices_what_is_missing(what, times):
    """Each barrier and each fence is needed: without it bits differ, or threads wait for one another for ever."""
    forest = grown(22, 1100, 1, dtype=np.float32)
    made = prepared(forest, "tree_traversal", threads=32, spread_trees=1)
    X = rows(forest, 2, 2, "float32")
    want = reference.predict_raw(forest, X)
    parts = cuda_c(made.signatures, ("spread_f32",)).split(what)
    assert len(parts) == times + 1
    for i in range(times):
        text = what.join([*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]])

        def right(backwards, order, text=text):
            try:
                got = run(made, "spread_f32", X, blocks=3, backwards=backwards, order=order, text=text)
            except AssertionError:
                return False
            return bits(got).tobytes() == bits(want).tobytes()

        assert not all(right(*how) for how in product(ORDERS, BLOCK_ORDERS)), f"{what} {i}"


def test_the_emulation_notices_a_counter_that_stays():
    made = prepared(FORESTS["float32"](), "tree_traversal", threads=32, spread_trees=1)
    text = "#define atomicInc(at, most) atomicInc(at, (most) + 1)\n" + cuda_c(made.signatures, ("spread_f32",))
    X = rows(made.forest, 2, 2, "float32")
    with pytest.raises(AssertionError, match="leaves counters behind"):
        run(made, "spread_f32", X, text=text)


def test_rows_that_do_not_fit(monkeypatch):
    """Without the kernel's entry, a row has one block."""
    how = prepared(FORESTS["float32"](), "tree_traversal", threads=32, spread_trees=1).launches["spread_f32"]
    for most, served in ((how.shared_bytes, True), (how.shared_bytes - 1, False)):
        monkeypatch.setattr(cuda_spread, "SHARED_BYTES", most)
        launches = prepared(FORESTS["float32"](), "tree_traversal", threads=32, spread_trees=1).launches
        assert ("spread_f32" in launches) is served and "few_f32" in launches
