"""The canonical form: bounds, columns and bitsets decide every value as the IR does."""

from __future__ import annotations

import numpy as np
import pytest

from woodpecker import predicates, reference
from woodpecker.errors import UnsupportedModelError
from woodpecker.forest import LEAF, ZERO_BAND, Forest
from woodpecker.nested import from_nested
from woodpecker.predicates import Canonical, canonicalise, round_down
from woodpecker.relay_ops import aggregate

from .gallery import FORESTS, leaf, member, rows, split
from .support import assert_bits_equal

TINY = 5e-324
INFINITY = float("inf")


def goes_right(canonical: Canonical, X: np.ndarray, node: int) -> np.ndarray:
    """(n,) bool: the outcome of a node's test by the canonical form alone, in plain numpy."""
    forest, columns = canonical.forest, canonical.columns
    with np.errstate(over="ignore"):
        v = X.astype(forest.input_dtype if X.dtype == np.float64 else np.float32)
    c = canonical.node_column[node]
    x = v[:, columns.feature[c]]
    missing = np.isnan(x) | (x.astype(forest.input_dtype) == np.dtype(forest.input_dtype).type(forest.missing_value))
    if columns.zero_missing[c]:
        missing |= np.abs(x.astype(np.float64)) <= ZERO_BAND
    bounds = columns.bound64 if v.dtype == np.float64 else columns.bound32
    if c < columns.n_numeric:
        x = np.where(missing, columns.fill[c], x)
        return ~(x <= bounds[canonical.node_bound[node]])
    own = bounds[columns.bound_offset[c] : columns.bound_offset[c + 1]]
    rank = np.where(missing, len(own) + 1, (own[:, None] < x).sum(0))
    word = canonical.bitset[canonical.node_bitset[node] + (rank >> 5)]
    return (word >> (rank & 31).astype(np.uint32) & 1).astype(bool)


def walk(canonical: Canonical, X: np.ndarray) -> np.ndarray:
    """(n, T) leaf ids by the canonical form."""
    forest = canonical.forest
    out = np.empty((len(X), forest.n_trees), np.int32)
    for t, base in enumerate(forest.tree_offset[:-1]):
        node = np.full(len(X), base)
        for _ in range(int(canonical.depth[t])):
            for i in np.unique(node[forest.kind[node] != LEAF]):
                at = np.flatnonzero(node == i)
                right = goes_right(canonical, X[at], i)
                node[at] = base + np.where(right, forest.right[i], forest.left[i])
        out[:, t] = forest.leaf_id[node]
    return out


@pytest.mark.parametrize("name", FORESTS)
def test_canonical_tests_decide_as_the_ir(name):
    forest = FORESTS[name]()
    canonical = canonicalise(forest)
    for dtype in ("float32", "float64"):
        X = rows(forest, 400, 11, dtype)
        np.testing.assert_array_equal(walk(canonical, X), reference.apply(forest, X), dtype)


def one_split(op: str, threshold: float, input_dtype: str, missing: str, **fields: object) -> Forest:
    tree = split(0, threshold, leaf(0.0, id=0), leaf(1.0, id=1), op=op, missing=missing)
    return from_nested([tree], 1, input_dtype=input_dtype, **fields)


HARD = [0.0, -0.0, TINY, -TINY, 1e-45, 1e-40, -1e-40, ZERO_BAND, -ZERO_BAND, 0.1, 1 / 3, 1.0, 1 + 2**-30, 16777217.0]
HARD += [3.4028234663852886e38, 3.5e38, -3.5e38, 1e300, 1.7976931348623157e308, INFINITY]
HARD += [-v for v in HARD]


@pytest.mark.parametrize("band", [0.0, ZERO_BAND, 0.5])
@pytest.mark.parametrize("input_dtype", ["float32", "float64"])
@pytest.mark.parametrize("op", ["<", "<="])
def test_bounds_at_hard_thresholds(op, input_dtype, band):
    points = np.array([*HARD, np.nan, band, -band])
    with np.errstate(over="ignore"):
        near = [points, np.nextafter(points, np.inf), np.nextafter(points, -np.inf)]
        narrow = points.astype(np.float32)
        near += [narrow, np.nextafter(narrow, np.float32(np.inf)), np.nextafter(narrow, np.float32(-np.inf))]
        single = [v.astype(np.float32) for v in near]
    for threshold in HARD:
        for missing in ("left", "right"):
            forest = one_split(op, threshold, input_dtype, missing, zero_band=band)
            canonical = canonicalise(forest)
            for X in (np.concatenate(near)[:, None].astype(np.float64), np.concatenate(single)[:, None]):
                got, want = goes_right(canonical, X, 0), reference.apply(forest, X)[:, 0] == 1
                wrong = np.flatnonzero(got != want)
                assert len(wrong) == 0, (
                    f"v={X[wrong[0], 0]!r} {op} {threshold!r}, missing {missing}: right={got[wrong[0]]}"
                )


def test_round_down_is_the_largest_float32_below():
    rng = np.random.default_rng(0)
    bound = np.concatenate(
        [HARD, rng.normal(size=2000), np.exp(rng.normal(size=500) * 40), -np.exp(rng.normal(size=500) * 40)]
    )
    got = round_down(bound)
    assert got.dtype == np.float32
    assert (got.astype(np.float64) <= bound).all()
    with np.errstate(over="ignore"):
        above = np.nextafter(got, np.float32(np.inf)).astype(np.float64)
    # Rounding to nearest would have misrouted values: the test must be able to tell.
    with np.errstate(over="ignore"):
        assert (bound.astype(np.float32) > bound).sum() > 500
    assert ((above > bound) | np.isinf(bound)).all()


def test_equal_tests_are_one_predicate():
    tree = split(0, 0.5, leaf(1.0), split(0, 0.5, leaf(2.0), split(0, -0.0, leaf(3.0), leaf(4.0), op="<="), op="<="))
    canonical = canonicalise(from_nested([tree, split(0, 0.0, leaf(1.0), leaf(2.0), op="<=")], 2))
    assert canonical.n_predicates == 3  # < 0.5, <= 0.5, <= 0
    assert len(canonical.columns) == 1
    assert canonical.columns.bound64.tolist() == [0.0, np.nextafter(0.5, 0), 0.5]
    assert not np.signbit(canonical.columns.bound64[0])


def test_columns_differ_by_missing_rule_and_direction():
    trees = [
        split(1, 0.5, leaf(1.0), leaf(2.0), missing=missing, missing_rule=rule)
        for missing in ("left", "right")
        for rule in ("nan", "zero")
    ]
    trees.append(member(1, [2], leaf(1.0), leaf(2.0)))
    columns = canonicalise(from_nested(trees, 2)).columns
    assert columns.feature.tolist() == [1] * 5 and columns.n_numeric == 4
    assert columns.zero_missing.tolist() == [False, False, True, True, False]
    np.testing.assert_array_equal(columns.fill[:4], np.float32([np.nan, -np.inf, np.nan, -np.inf]))


def test_missing_values_that_go_where_zero_goes_are_read_as_zero():
    trees = [
        split(0, t, leaf(1.0), leaf(2.0), op="<=", missing="left" if t >= 0 else "right") for t in (-1.0, 0.0, 2.0)
    ]
    columns = canonicalise(from_nested(trees, 1)).columns
    assert columns.fill.tolist() == [0.0]
    trees.append(split(0, 3.0, leaf(1.0), leaf(2.0), op="<=", missing="right"))
    np.testing.assert_array_equal(canonicalise(from_nested(trees, 1)).columns.fill, np.float32([np.nan, -np.inf]))


@pytest.mark.parametrize("rule", ["truncate", "truncate_nonnegative", "exact"])
@pytest.mark.parametrize("input_dtype", ["float32", "float64"])
def test_categories_at_the_ends_of_their_intervals(rule, input_dtype):
    codes = [0, 1, 5, 31, 32, 33, 63, 64, 16777215, 16777216, 2**31 - 1]
    known = {0: np.array([0, 1, 2, 5, 31, 32, 33, 63, 64, 16777215, 16777216, 2**31 - 1], np.float64)}
    trees = [member(0, codes[i::3], leaf(0.0), leaf(1.0), missing=m) for i in range(3) for m in ("left", "right")]
    forest = from_nested(
        trees, 1, input_dtype=input_dtype, category_rule=rule, known_categories=known if rule == "exact" else {}
    )
    points = np.array(
        [*codes, *(c + 1 for c in codes), *(-c for c in codes), 0.5, -0.5, -0.999, 1e300, INFINITY, np.nan]
    )
    points = np.concatenate([points, np.nextafter(points, np.inf), np.nextafter(points, -np.inf)])
    canonical = canonicalise(forest)
    with np.errstate(over="ignore"):
        for X in (points[:, None], points.astype(np.float32)[:, None]):
            np.testing.assert_array_equal(walk(canonical, X), reference.apply(forest, X))


@pytest.mark.parametrize("rule", ["truncate", "truncate_nonnegative", "exact"])
def test_thresholds_of_minus_infinity_beside_categories(rule):
    # `v < -inf` is told by an empty set, on a feature that has categories as well.
    trees = [split(0, -INFINITY, leaf(0.0), leaf(1.0), missing=missing) for missing in ("left", "right")]
    trees.append(member(0, [1, 3], leaf(0.0), leaf(1.0), missing="left"))
    known = {0: np.array([0.0, 1, 3])} if rule == "exact" else {}
    forest = from_nested(trees, 1, input_dtype="float64", category_rule=rule, known_categories=known)
    X = np.array([[0.0], [1], [2], [3], [-INFINITY], [INFINITY], [np.nan], [-5], [0.5]])
    np.testing.assert_array_equal(walk(canonicalise(forest), X), reference.apply(forest, X))


def test_category_within_the_zero_band():
    known = {0: np.array([0.0, 1e-40, 2e-35, 1.0])}
    trees = [member(0, [c], leaf(0.0), leaf(1.0), missing=m) for c in known[0] for m in ("left", "right")]
    forest = from_nested(
        trees, 1, input_dtype="float64", category_rule="exact", known_categories=known, zero_band=ZERO_BAND
    )
    points = np.array([0.0, 1e-40, 1.5e-35, 2e-35, 1.0, ZERO_BAND, -ZERO_BAND, np.nan])
    X = np.concatenate([points, np.nextafter(points, 1), np.nextafter(points, -1)])[:, None]
    np.testing.assert_array_equal(walk(canonicalise(forest), X), reference.apply(forest, X))


def test_bitsets_beyond_their_limit_are_refused(monkeypatch):
    monkeypatch.setattr(predicates, "MAX_BITSET_WORDS", 20)
    trees = [member(1, range(i, 200, 2), leaf(0.0), leaf(1.0)) for i in range(3)]
    with pytest.raises(UnsupportedModelError, match="feature 1 need more than 256 MiB of bitsets"):
        canonicalise(from_nested(trees, 2))


def test_equal_leaf_values_are_stored_once():
    """By their bits: 0.0 and -0.0 differ; in the order of their first occurrence; also where digests collide."""
    values = np.array([[0.5, -0.0], [0.0, 1.0], [0.5, 0.0], [0.0, 1.0], [0.5, -0.0], [-0.0, -0.0]])
    rows, of = aggregate._distinct(values)
    assert of.tolist() == [0, 1, 2, 1, 0, 3]
    assert_bits_equal(rows, values[[0, 1, 2, 5]])
    many = np.random.default_rng(0).integers(0, 50, (4000, 3)).astype(np.float32)
    rows, of = aggregate._distinct(many)
    assert len(rows) == len(np.unique(many, axis=0)) < len(many)
    assert_bits_equal(rows[of], many)


def test_leaf_values_whose_digests_collide(monkeypatch):
    class Ones:
        def integers(self, *given):
            return np.zeros(given[2], given[3])  # the digest is the plain sum of the words

    monkeypatch.setattr(aggregate.np.random, "default_rng", lambda seed: Ones())
    values = np.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0]], np.float32)
    rows, of = aggregate._distinct(values)
    assert_bits_equal(rows[of], values)
