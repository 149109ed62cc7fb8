"""scan: bytes of ranks and of category sets at their limits, every width of a block, and the stages of each target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import reference
from woodpecker.errors import StrategyError
from woodpecker.forest import Forest
from woodpecker.nested import from_nested
from woodpecker.predicates import canonicalise
from woodpecker.relay_ops import bitslice, numbered, scan
from woodpecker.relay_ops.plan import make_plan
from woodpecker.runtime.machine import X86_FLAGS
from woodpecker.schedules import cpu_bytes

from .gallery import FORESTS, Node, assert_agrees, compiled, grown, leaf, member, rows, split
from .kernels import prepared
from .support import assert_bits_equal

TARGETS = ["llvm", "x86-64-v3", "x86-64-v2"]
"""With bounds and leaf values looked up in registers, as far as this machine can; with bounds only; with neither."""


def in_tiers(cases: list[Any], fast: list[int]) -> list[Any]:
    """All cases; only those of these places belong to the fast tier."""
    return [pytest.param(*c, marks=() if i in fast else pytest.mark.full) for i, c in enumerate(cases)]


def stumps(counts: list[int], **fields: Any) -> Forest:
    """A stump for each of so many bounds of each feature."""
    nodes = [
        split(f, i - n / 3, leaf(0.01 * i), leaf(-0.7 * f - i), missing="left" if i % 2 else "right")
        for f, n in enumerate(counts)
        for i in range(n)
    ]
    return from_nested(nodes, len(counts), **fields)


def random_tree(rng: np.random.Generator, leaves: int, n_features: int) -> Node:
    """A tree of exactly so many leaves, of a random shape."""
    if leaves == 1:
        return leaf(float(rng.normal()))
    right = int(rng.integers(1, leaves))
    below = [random_tree(rng, n, n_features) for n in (leaves - right, right)]
    return split(int(rng.integers(n_features)), float(rng.normal()), *below, missing=str(rng.choice(["left", "right"])))


@pytest.mark.full
@pytest.mark.parametrize(
    ("target", "dtype"), in_tiers([(t, d) for t in TARGETS for d in ("float32", "float64")], [0, 5])
)
def test_heaps_of_every_size(target, dtype):
    """Bounds that fill a heap, one fewer, one more; and columns of several pieces."""
    forest = stumps([1, 14, 15, 16, 62, 63, 64, 254, 255, 256, 511], input_dtype=dtype)
    assert scan.byte_columns(canonicalise(forest)) > 11 + 1 + 2
    predictor = compiled(forest, "scan", target=target)
    assert_agrees(predictor, forest, rows(forest, 600, 3, dtype))


def test_more_columns_than_are_made_at_a_time():
    forest = stumps([3] * 150, dtype="float32", base_score=0.5)
    assert_agrees(compiled(forest, "scan"), forest, rows(forest, 300, 1, "float32"))


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("target", "leaves"),
    in_tiers([(t, n) for t in TARGETS for n in (1, 2, 16, 17, 33, 64, 65, 128, 129, 256)], [9, 14, 19]),
)
def test_leaf_numbers_of_every_width(target, leaves):
    """Leaf tables of 16 to 256 places, and numbers beyond the sign of a byte."""
    rng = np.random.default_rng(leaves)
    for acc in ("float32", "float64"):
        trees = [random_tree(rng, n, 6) for n in (leaves, max(leaves // 2, 1), leaves)]
        forest = from_nested(trees, 6, dtype=acc, tree_output=[1, 0, 1], base_score=[-0.0, 0.1], divisor=3)
        assert_agrees(compiled(forest, "scan", target=target), forest, rows(forest, 400, 5, "float32"))


@pytest.mark.full
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["outputs", "linear", "vector", "vector32", "truncate", "zero_rule", "infinite"])
def test_every_stage_of_every_target(target, name):
    forest = FORESTS[name]()
    predictor = compiled(forest, "scan", target=target)
    for dtype in ("float32", "float64"):
        assert_agrees(predictor, forest, rows(forest, 333, 4, dtype), dtype)


def test_any_number_of_rows_of_a_block():
    forest = FORESTS["truncate"]()
    predictor = compiled(forest, "scan")
    X = rows(forest, 2 * scan.ROWS + 130, 6)
    raw, ids = reference.predict_raw(forest, X), reference.apply(forest, X)
    for n in (1, 8, 15, 17, 63, 64, 65, 127, 128, 129, 191, 192, 193, 255, 256, 257, 320, 321, 385, len(X)):
        assert_bits_equal(predictor.predict_raw(X[:n]), raw[:n], f"{n} rows")
        np.testing.assert_array_equal(predictor.apply(X[:n]), ids[:n])


def wide_categories(n: int, dtype: str) -> Forest:
    """Small sets, large ones, whose complements are stored, and one of the first and the last category."""
    rng = np.random.default_rng(n)
    sets = [rng.choice(n, size, replace=False) for size in (1, 2, n // 3, n - 2)] + [np.array([0, n - 1])]
    trees = [
        member(i % 2, s, leaf(i + 0.1), leaf(-i - 0.7), missing=("left", "right")[i % 2]) for i, s in enumerate(sets)
    ]
    trees.append(member(0, sets[2], split(2, 0.5, leaf(1.0), leaf(2.0)), member(1, sets[0], leaf(3.0), leaf(4.0))))
    return from_nested(trees, 3, input_dtype=dtype)


@pytest.mark.parametrize(
    ("n", "dtype"), in_tiers([(n, d) for n in (5, 126, 254, 300, 700) for d in ("float32", "float64")], [6, 9])
)
def test_categories_of_several_code_columns(n, dtype):
    forest = wide_categories(n, dtype)
    X = rows(forest, 500, 2, dtype)
    assert_agrees(compiled(forest, "scan"), forest, X)
    X[:, :2] = np.random.default_rng(1).integers(-1, n + 1, (len(X), 2))
    assert_agrees(compiled(forest, "scan"), forest, X)


def test_few_rows_walk():
    forest = grown(31, 20, 4, dtype=np.float32)
    few, many = wp.compile(forest, strategy="scan", min_rows=20).inspect()["plan"]
    assert (few["min_rows"], many["min_rows"], many["strategy"]) == (0, 20, "scan")
    assert len(make_plan(canonicalise(forest), "scan", {"min_rows": 1}, X86_FLAGS)) == 1
    predictor = wp.compile(forest, strategy="scan", min_rows=20)
    X = rows(forest, 300, 4, "float32")
    for n in (1, 19, 20, 21, 255, 256, 257, 275, 276, 277):
        assert_agrees(predictor, forest, X[:n], f"{n} rows")


@pytest.mark.full
def test_auto_takes_it_where_bitslice_refuses():
    rng = np.random.default_rng(2)
    n = 1200
    forest = from_nested([random_tree(rng, 32, 200) for _ in range(n)], 200, dtype="float32")
    canonical = canonicalise(forest)
    assert "distinct predicates" in str(bitslice.applicable(canonical, {}))
    step = make_plan(canonical, "auto", {}, X86_FLAGS)[-1]
    assert step.strategy == "scan" and step.considered["scan"] == min(
        c for c in step.considered.values() if not isinstance(c, str)
    )
    X = rng.normal(size=(70, 200)).astype(np.float32)
    assert_bits_equal(wp.compile(forest).predict_raw(X), reference.predict_raw(forest, X))


@pytest.mark.parametrize(
    ("make", "name", "value", "reason"),
    [
        (lambda: stumps([300]), "MAX_BYTES", 300 * 2 * 24 - 1, "300 trees with tables for 2 leaves each need more"),
        (lambda: stumps([1] * 60), "MAX_BYTES", 60 * scan.ROWS - 1, "60 distinct predicates need .* GiB of ranks"),
        (lambda: wide_categories(50, "float64"), "MAX_SET_BITS", 100, r"category sets hold \d+ bits; the limit is 100"),
    ],
)
def test_limits(make: Callable[[], Forest], name, value, reason, monkeypatch):
    forest = make()
    assert scan.applicable(canonicalise(forest), {}) is None
    monkeypatch.setattr(numbered, name, value)
    with pytest.raises(StrategyError, match=reason):
        wp.compile(forest, strategy="scan")


def test_tables_of_targets(monkeypatch):
    """Bounds in registers where there are lookups among registers, leaf values as bytes where bytes are looked up."""

    def stages(forest: Forest, *features: str) -> tuple[int | None, int | None]:
        signature = prepared(forest, "scan", features=features, min_rows=1).signatures[0]
        constants = dict(signature.constants)
        assert ("byte_planes" in signature.flags) == ("looked_up" in constants)
        return constants.get("search"), constants.get("looked_up")

    avx512 = ("avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl")
    few = FORESTS["float32"]()
    many = from_nested([random_tree(np.random.default_rng(0), 65, 3)], 3)
    for forest, by_16 in ((few, 16), (many, None), (FORESTS["vector"](), None), (FORESTS["linear"](), None)):
        by_64 = None if forest.vector_leaves or forest.linear_offset is not None else 64
        assert stages(forest) == (None, None)
        assert stages(forest, "avx2") == (8, by_16)
        assert stages(forest, *avx512) == (16, by_16)
        assert stages(forest, *avx512, "avx512vbmi") == (16, by_64)
    monkeypatch.setattr(cpu_bytes, "MAX_BYTES", few.n_trees * 64 * 8 - 1)
    assert stages(few, *avx512, "avx512vbmi") == (16, None)
