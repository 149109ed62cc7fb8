"""The masks of category sets that `bitslice` adds up: as they are planned, and in a compiled kernel."""

from __future__ import annotations

import numpy as np
import pytest

from woodpecker import reference
from woodpecker.nested import from_nested
from woodpecker.predicates import canonicalise
from woodpecker.relay_ops import category_sets, set_masks
from woodpecker.relay_ops.circuit import FIRST, ONES

from .gallery import compiled, leaf, member, split

ODD = (np.nan, -np.inf, np.inf, -0.5, -1.0, 0.5, 1e30, -1e30, 2**31, -0.0)


def forest(seed=1, trees=40, categories=40, again=0.3):
    """Trees whose sets are random, some of one category, of all, or of none; some occur again in later trees."""
    rng = np.random.default_rng(seed)
    known = [[], [0], list(range(categories)), list(range(1, categories)), [categories - 1]]

    def node(depth):
        if depth == 0:
            return leaf(float(rng.normal()))
        below, missing = (node(depth - 1), node(depth - 1)), str(rng.choice(["left", "right"]))
        f = int(rng.integers(3))
        if f == 2:
            return split(f, float(rng.integers(categories)), *below, missing=missing)
        if rng.random() >= again:
            some = rng.permutation(categories)[: rng.integers(categories)] if f else rng.permutation(categories)[:2]
            known.append(sorted(some.tolist()))
        return member(f, known[rng.integers(len(known))], *below, missing=missing)

    return from_nested([node(4) for _ in range(trees)], 3, category_rule="truncate_nonnegative", dtype=np.float32)


def values(n, categories=40):
    rng = np.random.default_rng(2)
    X = rng.integers(-2, categories + 3, (n, 3)).astype(np.float32)
    return np.where(rng.random(X.shape) < 0.2, rng.choice(np.array(ODD, np.float32), X.shape), X)


@pytest.mark.parametrize("tile", [7, 10**6])
@pytest.mark.parametrize("categories", [3, 40, 300])
def test_what_is_added_up_are_the_sets(monkeypatch, tile, categories):
    """Every sum is carried out in order, a rank a bit: before each tree its sets are in their rows."""
    monkeypatch.setattr(set_masks, "TILE", tile)
    canonical = canonicalise(forest(categories=categories))
    places, counts = set_masks.slots(canonical), category_sets.rank_counts(canonical)
    n_numeric, words = canonical.columns.n_numeric, category_sets.distinct(canonical)[0]
    first, widest = FIRST + 3, int(counts.max())
    rows, spare = [], first + places.count
    for n in counts[n_numeric:]:
        rows.append(spare + np.arange(n - 1))
        spare += int(n) - 1
    made = set_masks.sums(canonical, places, first, rows, spare)
    assert (len(places.first_tree) > 1) == (tile == 7)
    assert (places.count < len(words)) == (tile == 7 and categories > 3)
    # One matrix for each categorical column, as a set only ever adds up masks of its own.
    M = np.zeros((len(rows), spare + made.rows, widest), bool)
    M[:, ONES] = True
    for c, of_column in enumerate(rows):
        M[c, of_column] = np.arange(widest) <= np.arange(len(of_column))[:, None]
    runs = made.run.reshape(-1, 3)
    tree = np.repeat(np.arange(canonical.forest.n_trees), np.diff(canonical.forest.tree_offset))
    for t in range(canonical.forest.n_trees):
        for terms, n, at in runs[made.offset[t] : made.offset[t + 1]]:
            for row, *added in made.term[at : at + n * (terms + 1)].reshape(n, terms + 1):
                M[:, row] = np.bitwise_xor.reduce(M[:, added], axis=1)
        for node in np.flatnonzero((tree == t) & (canonical.node_bitset >= 0)):
            c, word = canonical.node_column[node] - n_numeric, canonical.node_bitset[node]
            n = int(counts[n_numeric + c])
            right = category_sets.right(canonical, np.array([word]), n)[0]
            row = first + places.row[np.searchsorted(words, word)]
            np.testing.assert_array_equal(M[c, row, :n], ~right)
    assert made.offset[-1] == len(runs)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("target", "rows"), [("llvm", 512), ("x86-64-v2", 128)])
def test_sets_made_in_tiles_predict_the_same_bits(monkeypatch, target, rows):
    monkeypatch.setattr(set_masks, "TILE", 20)
    model, X = forest(seed=3, trees=25), values(700)
    predictor = compiled(model, "bitslice", rows=rows, target=target)
    np.testing.assert_array_equal(predictor.predict_raw(X), reference.predict_raw(model, X))
    wide = X.astype(np.float64)
    np.testing.assert_array_equal(predictor.predict_raw(wide), reference.predict_raw(model, wide))
    np.testing.assert_array_equal(predictor.apply(X), reference.apply(model, X))


def test_a_categorical_column_beside_a_numeric_one_of_the_same_feature():
    """Squares hold a feature once: the columns that were categorical begin anew."""
    trees = [split(f, 3.5, member(f, [1, 3, 4], leaf(1.0 + f), leaf(2.0)), leaf(f / 3)) for f in range(20)]
    model = from_nested(trees, 20, category_rule="truncate_nonnegative", dtype=np.float32)
    X = np.random.default_rng(5).integers(-1, 7, (600, 20)).astype(np.float32)
    X[::3, ::2] = np.nan
    np.testing.assert_array_equal(compiled(model, "bitslice").predict_raw(X), reference.predict_raw(model, X))


def test_the_cost_of_many_groups_is_told_by_a_sample(monkeypatch):
    """A column may have a million categories: no size of group looks at all of them."""
    steps = np.tile(np.random.default_rng(3).random((20, 8)) < 0.5, (1, 5000))
    looked_at = []
    patterns = set_masks._patterns
    monkeypatch.setattr(set_masks, "_patterns", lambda *some: looked_at.append(some) or patterns(*some))
    sampled = set_masks._cost(steps, 8)
    assert 0 < len(looked_at) <= set_masks.SAMPLE
    monkeypatch.setattr(set_masks, "SAMPLE", 10**6)
    assert set_masks._cost(steps, 8) == pytest.approx(sampled)
    assert len(looked_at) > 5000
