"""CUDA kernels without a GPU: their CUDA C, run on the CPU, against the interpreter, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from woodpecker import reference

from .cuda_support import ORDERS, Prepared, prepared, run
from .gallery import FORESTS, UNFIT, rows
from .support import assert_bits_equal

WALKING = ("tree_traversal", "perfect_tree_traversal")
PAIRS = [(name, strategy) for name in FORESTS for strategy in WALKING if (name, strategy) not in UNFIT]
SOME = ("float32", "outputs")
"""The forests of the fast tier."""


def assert_exact(made: Prepared, n: int, *, blocks: int = 3) -> None:
    """Fail unless every entry gives the interpreter's bits, whichever thread comes first."""
    forest = made.forest
    for width in ("f32", "f64"):
        X = rows(forest, n, 1, {"f32": "float32", "f64": "float64"}[width])
        wide = np.full((n, forest.n_features + 2), np.nan, X.dtype)
        wide[:, : forest.n_features] = X
        X = wide[:, : forest.n_features]
        scores, leaves = reference.predict_raw(forest, X), reference.apply(forest, X)
        for backwards in ORDERS:
            for kind in ("raw", "few"):
                got = run(made, f"{kind}_{width}", X, blocks=blocks, backwards=backwards)
                assert_bits_equal(got, scores, f"{kind}_{width}")
            got = run(made, f"apply_{width}", X, blocks=blocks, backwards=backwards)
            np.testing.assert_array_equal(got, leaves, f"apply_{width}")


@pytest.mark.parametrize(
    ("name", "strategy"),
    [pytest.param(n, s, marks=() if n in SOME else pytest.mark.full) for n, s in PAIRS],
)
def test_exact(name, strategy):
    assert_exact(prepared(FORESTS[name](), strategy, threads=32), 150)
