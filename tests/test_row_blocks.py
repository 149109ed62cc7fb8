"""The option ``rows`` of bitslice and scan: row blocks of every width, in every stage, and side by side in a plan."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import reference
from woodpecker.errors import StrategyError
from woodpecker.predicates import canonicalise
from woodpecker.relay_ops.plan import plan_of
from woodpecker.runtime import measure
from woodpecker.targets import resolve
from woodpecker.tuning.candidate import SYMBOL, build, code_of

from .gallery import FORESTS, assert_agrees, rows, strategies
from .support import assert_bits_equal, in_turn

WIDTHS = {"bitslice": (128, 256, 512), "scan": (64, 128, 256, 512)}
FAST = {
    ("float32", "bitslice", 128, "llvm"),
    ("exact", "bitslice", 256, "llvm"),
    ("deep", "bitslice", 128, "llvm"),
    ("outputs", "bitslice", 256, "x86-64-v3"),
    ("padded", "bitslice", 256, "llvm"),
    ("float32", "scan", 512, "llvm"),
    ("exact", "scan", 64, "llvm"),
    ("vector", "scan", 512, "x86-64-v2"),
}
CASES = [
    pytest.param(*case, marks=() if case in FAST else pytest.mark.full)
    for case in (
        (name, strategy, width, target)
        for name in FORESTS
        for strategy, widths in WIDTHS.items()
        for width, target in in_turn([*product(widths, ("llvm", "x86-64-v3", "x86-64-v2"))], name + strategy)
    )
]


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("name", "strategy", "width", "target"), CASES)
def test_row_blocks_change_no_bit(name, strategy, width, target):
    forest = FORESTS[name]()
    if strategy not in strategies(forest):
        with pytest.raises(StrategyError):
            wp.compile(forest, strategy=strategy, rows=width)
        return
    predictor = wp.compile(forest, strategy=strategy, rows=width, min_rows=1, target=target)
    (step,) = predictor.inspect()["plan"]
    assert step["options"]["rows"] == width
    for dtype in ("float32", "float64"):
        assert_agrees(predictor, forest, rows(forest, 600, 7, dtype), dtype)


def step(least: int, strategy: str, **options: int) -> dict[str, Any]:
    return {"min_rows": least, "strategy": strategy, "options": options}


@pytest.mark.full
def test_blocks_of_several_widths_in_a_plan():
    """Each step takes its own blocks and leaves the rest to the one before, whose blocks are narrower, or wider."""
    forest, where = FORESTS["float32"](), resolve("llvm")
    canonical = canonicalise(forest)
    X = rows(forest, 1800, 3, "float32")
    want = reference.predict_raw(forest, X)
    for steps in (
        [step(0, "tree_traversal"), step(9, "scan", rows=64), step(70, "bitslice", rows=128), step(300, "bitslice")],
        [step(0, "scan", rows=512), step(90, "bitslice", rows=512), step(100, "scan", rows=128)],
    ):
        code = code_of(canonical, plan_of(canonical, steps, ""), where)
        entry = build(code, where, "raw_f32")[SYMBOL]
        for n in (1, 8, 9, 64, 69, 70, 99, 100, 129, 198, 299, 300, 511, 512, 513, 811, 1023, 1024, 1800):
            out = np.full((n + 1, 1), -7.0, np.float32)
            measure.bind(entry, X[:n], out[:n], code.scratch_bytes, code.blob)(0, n)
            assert_bits_equal(out[:n], want[:n], f"{n} rows")
            assert out[n, 0] == -7.0


@pytest.mark.parametrize("strategy", WIDTHS)
def test_widths_that_are_none(strategy):
    forest = FORESTS["float32"]()
    with pytest.raises(StrategyError, match="rows must be a power of two, found 384"):
        wp.compile(forest, strategy=strategy, rows=384)
    for wrong in (32, 1024, 0):
        with pytest.raises(StrategyError, match=f"rows of strategy '{strategy}' must be an integer from"):
            wp.compile(forest, strategy=strategy, rows=wrong)
