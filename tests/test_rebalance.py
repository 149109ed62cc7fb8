"""Trees cut in halves: rows come to the same leaves, halves are halves, and circuits shrink."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from woodpecker.forest import LEAF, Forest, tree_leaves, tree_of_node
from woodpecker.nested import from_nested
from woodpecker.predicates import canonicalise
from woodpecker.relay_ops import rebalance
from woodpecker.relay_ops.circuit import circuit
from woodpecker.relay_ops.rebalance import Cuts, rebalanced

from .gallery import FORESTS, chain, grown, leaf, split

ROWS = 200


def leaf_of(forest: Forest, tests: np.ndarray, t: int) -> np.ndarray:
    """(rows,) the leaf of tree t, where ``tests`` (N, rows) says which nodes send a row to the left."""
    base = int(forest.tree_offset[t])
    at = np.full(tests.shape[1], base)
    each = np.arange(len(at))
    while (inner := forest.kind[at] != LEAF).any():
        below = base + np.where(tests[at, each], forest.left[at], forest.right[at])
        at = np.where(inner, below, at)
    return at


def leaf_of_cuts(forest: Forest, cuts: Cuts, tests: np.ndarray, t: int) -> np.ndarray:
    masks = tests.copy()
    for i in np.argsort(cuts.place, kind="stable"):
        kept = tests[cuts.test[i]] == cuts.keeps_left[i]
        masks[cuts.owner[i]] = np.where(kept, masks[cuts.owner[i]], bool(cuts.side[i]))
    at = np.full(tests.shape[1], cuts.root[t])
    each = np.arange(len(at))
    while (inner := forest.kind[at] != LEAF).any():
        at = np.where(inner, np.where(masks[at, each], cuts.left[at], cuts.right[at]), at)
    return at


def path(rng: np.random.Generator, length: int) -> dict[str, Any]:
    """A path that turns at random, with some bushes at its sides."""
    node = leaf(0.5)
    for i in range(length):
        side = leaf(float(i)) if rng.random() < 0.7 else split(2, 0.1 * i, leaf(1.0 + i), leaf(2.0 + i))
        node = split(i % 3, float(rng.normal()), *((node, side) if rng.random() < 0.5 else (side, node)))
    return node


def caterpillars(*lengths: int) -> Forest:
    rng = np.random.default_rng(3)
    return from_nested([path(rng, n) for n in lengths], 3)


BUILT = {
    **{name: FORESTS[name] for name in ("float32", "deep", "deeper", "leaves", "stumps", "mixed_depth", "empty")},
    "caterpillars": lambda: caterpillars(*range(1, 41)),
    "chain": lambda: chain(60, trees=2),
    "bushy": lambda: grown(31, 12, 9, dtype=np.float32),
}


@pytest.mark.parametrize("chunk", [2**20, 64])
@pytest.mark.parametrize("name", BUILT)
def test_rows_come_to_the_same_leaves(name, chunk, monkeypatch):
    monkeypatch.setattr(rebalance, "CHUNK", chunk)
    forest = BUILT[name]()
    canonical = canonicalise(forest)
    cuts = rebalanced(canonical)
    tests = np.random.default_rng(1).random((forest.n_nodes, ROWS)) < 0.5
    for t in range(forest.n_trees):
        np.testing.assert_array_equal(leaf_of_cuts(forest, cuts, tests, t), leaf_of(forest, tests, t))


@pytest.mark.parametrize("name", BUILT)
def test_halves(name):
    forest = BUILT[name]()
    canonical = canonicalise(forest)
    cuts = rebalanced(canonical)
    tree = tree_of_node(forest)
    inner = forest.kind != LEAF
    # Every node but the top hangs below one other node of its tree, and no mask has another's steps.
    hung = np.concatenate([cuts.root, cuts.left[inner], cuts.right[inner]])
    assert sorted(hung) == list(range(forest.n_nodes))
    assert (tree[cuts.left[inner]] == tree[inner]).all() and (tree[cuts.right[inner]] == tree[inner]).all()
    assert (tree[cuts.owner] == tree[cuts.test]).all()
    level, depth = cuts.root, 0
    while len(level := level[inner[level]]):
        level, depth = np.concatenate([cuts.left[level], cuts.right[level]]), depth + 1
    leaves = tree_leaves(forest)
    assert depth == int(leaves.max(initial=1) - 1).bit_length()
    numbers = circuit(canonical, np.arange(forest.n_nodes), forest.n_nodes).number
    for t in range(forest.n_trees):
        mine = numbers[(tree == t) & ~inner]
        assert len(set(mine)) == len(mine) and mine.min() >= 0 and mine.max() < 2**canonical.leaf_bits


def test_trees_that_take_too_many_steps_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(rebalance, "MAX_STEPS", 6)
    forest = caterpillars(3, 40, 4)
    cuts = rebalanced(canonicalise(forest))
    first, end = forest.tree_offset[1:3]
    middle = np.arange(first, end)[forest.kind[first:end] != LEAF]
    assert cuts.root[1] == first and not np.isin(cuts.owner, middle).any()
    assert (cuts.left[middle] == first + forest.left[middle]).all()
    assert (cuts.right[middle] == first + forest.right[middle]).all()
    tests = np.random.default_rng(1).random((forest.n_nodes, ROWS)) < 0.5
    for t in range(3):
        np.testing.assert_array_equal(leaf_of_cuts(forest, cuts, tests, t), leaf_of(forest, tests, t))


def test_circuits_shrink():
    """The figures of the module: a perfect tree needs 247 operations, a path far fewer than bits times nodes."""

    def operations(forest: Forest) -> int:
        canonical = canonicalise(forest)
        predicate = np.arange(forest.n_nodes)
        return len(circuit(canonical, predicate, forest.n_nodes).operations)

    def perfect(depth: int, i: int = 1) -> dict:
        return split(i % 5, i / 7, perfect(depth - 1, 2 * i), perfect(depth - 1, 2 * i + 1)) if depth else leaf(i / 3)

    assert operations(from_nested([perfect(8)], 5)) == 247 + 8 - 7
    assert operations(chain(60)) < 3 * 60
