"""CUDA kernels without a GPU: their CUDA C, run on the CPU, against the interpreter, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from woodpecker import reference
from woodpecker.errors import StrategyError
from woodpecker.nested import from_nested
from woodpecker.schedules import cuda, cuda_blocks

from .cuda_support import ORDERS, Prepared, cuda_c, prepared, run
from .gallery import FORESTS, UNFIT, leaf, rows, split
from .support import assert_bits_equal, bits
from .test_kernel_lint import key, lint, nodes

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


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("name", "strategy"),
    [pytest.param(n, s, marks=() if n in SOME else pytest.mark.full) for n, s in PAIRS],
)
def test_exact(name, strategy):
    assert_exact(prepared(FORESTS[name](), strategy, threads=32), 150)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("strategy", WALKING)
@pytest.mark.parametrize("name", ["float64", pytest.param("vector", marks=pytest.mark.full), "linear"])
def test_trees_walked_together(name, strategy):
    """5 trees, 6 trees and 2, of which the last group of 4 has some of padding."""
    assert_exact(prepared(FORESTS[name](), strategy, trees=4, threads=32), 70)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("outputs", dict(strategy="perfect_tree_traversal", ranks=1, trees=2)),
        pytest.param("truncate", dict(strategy="tree_traversal"), marks=pytest.mark.full),
        pytest.param("float64", dict(strategy="perfect_tree_traversal"), marks=pytest.mark.full),
    ],
)
def test_what_does_not_fit_into_shared_memory(name, kind, monkeypatch):
    monkeypatch.setattr(cuda_blocks, "SHARED_BYTES", 0)
    made = prepared(FORESTS[name](), threads=32, **kind)
    assert {"rows_in_scratch", "row_in_scratch"} <= made.signature.flags
    assert made.launches["raw_f32"].shared_bytes == made.launches["few_f32"].shared_bytes == 0
    assert_exact(made, 150)


def test_rows_of_a_block():
    """As many as shared memory has room for: 128, 64 or 32; where it has none for 32, they lie in scratch."""
    for columns, threads, scratch in ((37, 128, False), (150, 64, False), (300, 32, False), (400, 128, True)):
        stumps = [split(f, 0.5, leaf(1.0), leaf(2.0)) for f in range(columns)]
        made = prepared(from_nested(stumps, columns, dtype=np.float32), "tree_traversal")
        how = made.launches["raw_f32"]
        assert (how.threads, how.rows) == (threads, threads)
        size = (columns + 1) * threads * 4
        assert (how.scratch_bytes if scratch else how.shared_bytes) == -(-size // 64) * 64
        assert (how.scratch_bytes == 0) is not scratch
        assert how.shared_bytes <= cuda_blocks.SHARED_BYTES


def test_blocks_that_are_too_large(monkeypatch):
    monkeypatch.setattr(cuda_blocks, "MAX_BLOCK_BYTES", 11 * 32 * 4 - 1)
    with pytest.raises(StrategyError, match=r"'tree_traversal' would keep 1,408 bytes .*; the limit is 1,407\."):
        prepared(FORESTS["float32"](), "tree_traversal", threads=32)


@pytest.mark.parametrize(("n", "blocks"), [(1, 1), (1, 5), (33, 1), (33, 64)])
def test_grids(n, blocks):
    """Grids of fewer blocks than the rows need, and of more."""
    assert_exact(prepared(FORESTS["float32"](), "tree_traversal", threads=32), n, blocks=blocks)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("entry", "barriers"), [("raw_f32", 2), ("few_f32", 2)])
def test_the_emulation_notices_a_missing_barrier(entry, barriers):
    made = prepared(FORESTS["float32"](), "tree_traversal", threads=32)
    X = rows(made.forest, 40, 2, "float32")
    want = reference.predict_raw(made.forest, X)
    parts = cuda_c(made.signatures, (entry,)).split("__syncthreads();")
    assert len(parts) == barriers + 1
    for i in range(barriers):
        parted = [*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]]
        text = "__syncthreads();".join(parted)
        got = [run(made, entry, X, blocks=1, backwards=backwards, text=text) for backwards in ORDERS]
        assert any(bits(scores).tobytes() != bits(want).tobytes() for scores in got), f"barrier {i}"


LINTED = ("zero_rule", "sentinel64", "truncate", "vector", "linear", "outputs", "empty")
"""The forests of the fast tier whose TIR is linted: each flag is that of one of them."""


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in LINTED else pytest.mark.full) for n in FORESTS])
def test_tir_of_kernels(name):
    kinds = [dict(strategy=s, trees=2) for n, s in PAIRS if n == name]
    kinds += [dict(strategy="perfect_tree_traversal", ranks=1, trees=2)] * (name in RANKED)
    for kind in kinds:
        made = prepared(FORESTS[name](), **kind)
        for entry in cuda.ENTRIES:
            function = cuda.kernel(made.signatures[cuda.serving(made.signatures, entry)], entry, entry)
            assert lint(function) == [], f"{kind} {entry}"
            # TVM 0.27 prints floats with so few places that only these keep their value.
            literals = {float(node.value) for node, _ in nodes(function.body) if key(node) == "ir.FloatImm"}
            assert literals <= {0.0, -np.inf}, f"{kind} {entry}"


CATEGORICAL = ("truncate", "truncate_nonnegative", "exact", "infinite", "ranked64")
"""Forests with categories, as which tests against -inf count too."""
RANKED = [n for n, s in PAIRS if s == "perfect_tree_traversal" and n not in CATEGORICAL]


@pytest.mark.parametrize(
    ("name", "walks"),
    [pytest.param(n, w, marks=() if (n, w) == ("linear", 3) else pytest.mark.full) for n in RANKED for w in (1, 3)],
)
def test_ranks(name, walks):
    made = prepared(FORESTS[name](), "perfect_tree_traversal", threads=32, ranks=1, trees=walks)
    assert "ranked" in made.signature.flags
    assert_exact(made, 150)
