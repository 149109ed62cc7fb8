"""The forests of the benchmark suite's studies: generated ones, and those that nothing was calibrated with."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.shapes import SHAPES, make_rows, make_target
from benchmarks.studies import forests, generate
from benchmarks.studies.generate import balanced_rows, forest, skewed_rows
from woodpecker import reference
from woodpecker.forest import IN, LEAF, leaf_depth, tree_depth, tree_leaves


def test_generated_forests_are_of_the_size_asked_for() -> None:
    made = forest(5, 21, 6)
    assert (made.n_trees, made.n_features, made.values.dtype) == (5, 6, np.float32)
    assert tree_leaves(made).tolist() == [21] * 5
    assert len(set(map(tuple, made.feature.reshape(5, -1).tolist()))) == 5, "trees differ"
    assert tree_depth(forest(3, 16, 6, leaf_wise=False)).tolist() == [4, 4, 4]
    assert (tree_depth(forest(3, 64, 6)) > 7).all()
    assert forest(300, 4, 3).n_trees == 300, "more than grow together"


def test_generated_forests_are_seeded() -> None:
    one, same, other = forest(4, 8, 3), forest(4, 8, 3), forest(4, 8, 3, seed=2)
    assert (one.threshold == same.threshold).all() and (one.values == same.values).all()
    assert (one.threshold != other.threshold).any()


def test_balanced_rows_reach_every_leaf_and_skewed_ones_few() -> None:
    made = forest(20, 16, 12, leaf_wise=False)

    def most_common(X: np.ndarray) -> float:
        ids = reference.apply(made, X)
        return float(np.mean([np.unique(tree, return_counts=True)[1].max() for tree in ids.T]) / len(X))

    even, skewed = (make(4000, 12, 3) for make in (balanced_rows, skewed_rows))
    assert even.dtype == skewed.dtype == np.float32
    assert 1 / 16 <= most_common(even) < 2.5 / 16
    assert most_common(skewed) > 0.9
    assert len(np.unique(skewed, axis=0)) > 100, "rows are fresh"


def test_covers_are_what_rows_do() -> None:
    made = forest(10, 32, 8)
    ids = reference.apply(made, balanced_rows(4000, 8, 3))
    depth = np.zeros((10, 63))
    for t in range(10):
        for node in range(63):
            if made.kind[t * 63 + node] != LEAF:
                left = made.left[t * 63 + node]
                depth[t, left] = depth[t, left + 1] = depth[t, node] + 1
    walked = np.mean([depth[t][ids[:, t]].mean() for t in range(10)])
    assert leaf_depth(made)[0].mean() == pytest.approx(walked, rel=0.1)


def test_held_out_forests_are_varied_and_fixed() -> None:
    drawn = forests.held_out()
    assert [shape.name for shape in drawn] == [f"forest-{i}" for i in range(1, 21)]
    assert drawn[:7] == forests.held_out(7)
    assert not {shape.name for shape in drawn} & {shape.name for shape in SHAPES}
    assert {shape.library for shape in drawn} == {"xgboost", "lightgbm", "sklearn"}
    assert {shape.task for shape in drawn} == {"regression", "binary", "multiclass"}
    assert {shape.columns for shape in drawn} == {"normal", "indicators", "categories"}
    assert {shape.dtype for shape in drawn} == {"float32", "float64"}
    assert {bool(shape.missing) for shape in drawn} == {False, True}
    assert min(s.features for s in drawn) <= 5 and max(s.features for s in drawn) >= 200
    trees = [s.rounds * (s.classes if s.task == "multiclass" else 1) for s in drawn]
    assert 10 <= min(trees) <= 20 and 500 <= max(trees) <= 1000


@pytest.mark.parametrize("i", range(20))
def test_held_out_rows_are_of_their_dtype(i: int) -> None:
    shape = forests.held_out()[i]
    X = make_rows(shape, 50, 1)
    assert X.shape == (50, shape.features) and X.dtype == shape.dtype
    assert np.isfinite(make_target(shape, X, 1)).all()
    if shape.dtype == "float64" and shape.columns == "normal":
        assert (X.astype(np.float32) != X)[np.isfinite(X)].all(), "values between float32 neighbours"


def test_missing_values_and_categories_change_nothing_else() -> None:
    plain = generate.forest(5, 16, 15)
    either = generate.both_ways(plain, 1)
    inner = plain.kind != LEAF
    assert 0 < either.default_left.sum() < inner.sum() and not either.default_left[~inner].any()
    mixed, X = generate.with_categories(either, generate.balanced_rows(300, 15, 2), 1)
    chosen = mixed.kind == IN
    assert set(mixed.feature[chosen]) <= {0, 7, 14} and not set(mixed.feature[inner & ~chosen]) & {0, 7, 14}
    assert np.array_equal(mixed.left, plain.left) and np.array_equal(mixed.threshold[~chosen], plain.threshold[~chosen])
    assert set(np.unique(X[:, ::7])) == set(range(generate.CATEGORIES)) and (X[:, 1:7] < 1).all()
    assert (np.diff(mixed.set_offset) == generate.CATEGORIES // 2).all()
