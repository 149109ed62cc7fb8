"""Rows that a tuning job measures and checks with, and the work folder that keeps them."""

from __future__ import annotations

import numpy as np
import pytest

from woodpecker import reference
from woodpecker.errors import InputError
from woodpecker.nested import from_nested
from woodpecker.predicates import canonicalise
from woodpecker.tuning import rows, store
from woodpecker.tuning.shape import digest

from .gallery import FORESTS, grown, leaf, split
from .support import assert_bits_equal


@pytest.fixture(scope="module")
def forest():
    return grown(1, 6, 4, dtype=np.float32)


@pytest.mark.parametrize("name", FORESTS)
def test_sampled_rows_follow_the_trees(name):
    forest = FORESTS[name]()
    canonical = canonicalise(forest)
    for dtype in ("float32", "float64"):
        X = rows.sampled(canonical, 500, 0, dtype)
        assert X.shape == (500, forest.n_features)
        assert X.dtype == dtype
        assert np.isfinite(X).all()
        assert_bits_equal(X, rows.sampled(canonical, 500, 0, dtype))
        check = rows.boundary(canonical, X, 3000, 0)
        assert check.shape == (3000, forest.n_features)
        assert len(canonical.columns) == 0 or np.isnan(check).any()
    assert name != "float32" or not np.array_equal(X, rows.sampled(canonical, 500, 1, dtype))


@pytest.mark.parametrize("covered", [True, False])
def test_sampled_rows_reach_leaves_as_often_as_their_cover_says(covered):
    def tree(n, depth):
        """Node n of a heap, on a feature of its own; the leaf of the last level has the number below."""
        return split(n, n / 3, tree(2 * n + 1, depth - 1), tree(2 * n + 2, depth - 1)) if depth else leaf(float(n))

    forest = from_nested([split(7, 0.5, tree(0, 3), leaf(0.5))], 8)
    cover = np.ones(forest.n_nodes)
    leaves = np.flatnonzero(forest.leaf >= 0)
    cover[leaves] = 2.0 ** (np.arange(len(leaves)) % 5)
    for node in range(forest.n_nodes - 1, -1, -1):
        if forest.leaf[node] < 0:
            cover[node] = cover[forest.left[node]] + cover[forest.right[node]]
    weight = cover[leaves] if covered else np.ones(len(leaves))
    X = rows.sampled(canonicalise(forest.replace(cover=cover) if covered else forest), 20_000, 0, "float64")
    reached = np.bincount(reference.apply(forest, X)[:, 0], minlength=forest.n_nodes)[forest.leaf_id[leaves]]
    assert reached / len(X) == pytest.approx(weight / weight.sum(), abs=0.01)


def test_given_rows_are_drawn_or_repeated(forest):
    data = np.arange(50, dtype=np.float32).reshape(10, 5)
    drawn = rows.given(forest, data, 4, 0)
    assert {tuple(row) for row in drawn} <= {tuple(row) for row in data}
    assert len({tuple(row) for row in drawn}) == 4
    repeated = rows.given(forest, data.astype(np.float64), 25, 0)
    assert repeated.dtype == np.float64
    assert_bits_equal(repeated, data[np.arange(25) % 10].astype(np.float64))
    for wrong, message in ((data[:0], "are empty"), (data[:, :3], "has 3 columns")):
        with pytest.raises(InputError, match=message):
            rows.given(forest, wrong, 4, 0)


@pytest.mark.parametrize("name", FORESTS)
def test_a_work_folder_keeps_the_forest(name, tmp_path):
    forest = FORESTS[name]()
    store.save_forest(tmp_path / "forest.npz", forest)
    kept = store.load_forest(tmp_path / "forest.npz")
    assert digest(kept) == digest(forest)
    X = rows.boundary(canonicalise(forest), np.zeros((9, forest.n_features)), 200, 0)
    assert_bits_equal(reference.predict_raw(kept, X), reference.predict_raw(forest, X))


def test_what_a_killed_job_left_half_written_goes_away(tmp_path):
    half = tmp_path / ".woodpecker-0123456789ab"
    (tmp_path / ".lock").touch()
    for begun in (False, True):
        half.write_text("{")
        if begun:
            (tmp_path / store.TEMPORARY / "x").mkdir(parents=True)
        assert store.begin(tmp_path, {"seed": 0}) is begun
        assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", store.TASK]
