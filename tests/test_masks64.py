"""float64 rows in the search of float32 images, `woodpecker.schedules.cpu_masks64`: the rule itself, and compiled."""

from __future__ import annotations

import numpy as np
import pytest

from woodpecker import reference
from woodpecker.layout import Layout
from woodpecker.nested import from_nested
from woodpecker.predicates import canonicalise, round_down
from woodpecker.runtime import machine
from woodpecker.schedules.cpu_masks64 import same_images

from .gallery import FORESTS, assert_agrees, compiled, leaf, rows, split
from .kernels import prepared
from .support import assert_bits_equal

TINY, LARGE = 5e-324, 1.7976931348623157e308
HARD = [0.0, TINY, 1e-300, 1e-46, 2.0**-149, 2.0**-150, 1e-40, 2.0**-126, 1e-35, 1.0, 16777217.0]
HARD += [3.4028234663852886e38, 3.4028235e38, 3.5e38, 1e300, LARGE, np.inf]
HARD += [-v for v in HARD]


def near(points):
    """Points, their neighbours among float64 numbers, and those of the nearest float32 numbers."""
    points = np.asarray(points, np.float64)
    with np.errstate(over="ignore"):
        single = points.astype(np.float32)
        some = [v for p in (points, single) for v in (p, np.nextafter(p, -p.dtype.type(np.inf)))]
        some += [np.nextafter(p, p.dtype.type(np.inf)) for p in (points, single)]
    return np.concatenate(some).astype(np.float64)


def bounds_of(rng, kind):
    if kind == "bits":
        values = rng.integers(0, 2**64, 255, dtype=np.uint64).view(np.float64)
        return np.unique(values[np.isfinite(values)] + 0.0)
    if kind == "hard":
        return np.unique(near(HARD) + 0.0)
    if kind == "one apart":
        return 1 + 2.0**-52 * np.arange(100)
    if kind == "clock":
        return 1.7e9 + np.sort(rng.random(200)) * 20_000
    return np.unique(rng.normal(size=250))


def ranks(bounds, x):
    """What the kernel does, by numpy: (whether a row met its own image, its rank)."""
    image, f = round_down(bounds), round_down(x)
    k = np.searchsorted(image, f, side="left")
    met = (k < len(bounds)) & (np.append(image, 0)[k] == f)
    bits = int(np.unique(image, return_counts=True)[1].max()).bit_length()
    settled = k.copy()
    for step in range(bits)[::-1]:
        at = settled + 2**step - 1
        settled += np.where((at < len(bounds)) & (bounds[np.minimum(at, len(bounds) - 1)] < x), 2**step, 0)
    return met, k, settled


@pytest.mark.parametrize("kind", ["bits", "hard", "one apart", "clock", "normal"])
def test_ranks_among_images_and_what_settles_them(kind):
    rng = np.random.default_rng(3)
    for _ in range(20):
        bounds = bounds_of(rng, kind)
        x = np.concatenate([near(bounds), near(HARD), rng.normal(size=500), rng.uniform(1.7e9, 1.70002e9, 500)])
        want = np.searchsorted(bounds, x, side="left")
        met, k, settled = ranks(bounds, x)
        np.testing.assert_array_equal(settled[met], want[met])
        np.testing.assert_array_equal(k[~met], want[~met])
        assert (k[met] != want[met]).any() and not met.all()


def test_how_many_bounds_share_an_image():
    bounds = np.concatenate([np.arange(12.0), 20 + 2.0**-46 * np.arange(7), [30.0], 1 + 2.0**-50 * np.arange(16)])
    tables = {"piece_bound": np.array([0, 12, 20, 36]), "bound32": round_down(bounds)}
    made = same_images(Layout({}, tables, {}, frozenset()), np.array([True, False, True]))
    assert made.tables["same_bits"].tolist() == [1, 0, 5]


def test_who_needs_which_tables():
    for name, features, added in (
        ("ranked64", machine.X86_FLAGS, {"same_bits"}),
        ("ranked64", {"neon"}, {"heap64"}),
        ("ranked64", {"simd128"}, {"heap64"}),
        ("ranked64", {"avx2"}, set()),
        ("ranked", machine.X86_FLAGS, set()),
        ("ranked", {"neon"}, set()),
    ):
        (layout,) = prepared(FORESTS[name](), "bitslice", features=features, min_rows=1).layouts
        assert layout.tables.keys() & {"same_bits", "heap64"} == added
        assert ("heaps" in layout.flags) == (features != {"avx2"})


def test_float64_heaps_are_in_order():
    (layout,) = prepared(FORESTS["ranked64"](), "bitslice", features={"neon"}, min_rows=1).layouts
    tables = layout.tables
    for piece, number in enumerate(tables["heap_number"]):
        own = tables["bound64"][tables["piece_bound"][piece] : tables["piece_bound"][piece + 1]]
        heap, found = tables["heap64"][256 * number : 256 * (number + 1)], []

        def visit(i, depth, heap=heap, found=found):
            if depth:
                visit(2 * i, depth - 1)
                found.append(heap[i])
                visit(2 * i + 1, depth - 1)

        if number >= 0:
            visit(1, tables["heap_levels"][piece])
            np.testing.assert_array_equal(found[: len(own)], own)
            assert np.isinf(found[len(own) :]).all()
    assert len(tables["heap64"]) == len(tables["heap"]) > 0


def of_columns(columns):
    stumps = [
        split(f, float(t), leaf(2.0**-i + f), leaf(0.1 * f), op="<=", missing=("left", "right")[f % 2])
        for f, bounds in enumerate(columns)
        for i, t in enumerate(bounds)
    ]
    return from_nested(stumps, len(columns), input_dtype="float64")


@pytest.mark.full
@pytest.mark.parametrize("block", [512, 128])
def test_predictions(block):
    """Rows beside every bound, those that meet no image, and blocks of both sorts."""
    rng = np.random.default_rng(8)
    kinds = ("bits", "hard", "one apart", "clock", "normal")
    columns = [bounds_of(rng, kind)[:n] for kind in kinds for n in (10, 255)] + [rng.normal(size=256 + 9)]
    model = of_columns(columns)
    predictor = compiled(model, "bitslice", rows=block)
    beside = [near(np.concatenate([b, HARD])) for b in columns]
    n = max(map(len, beside))
    X = np.stack([np.resize(rng.permutation(b), n) for b in beside], 1)
    apart = rng.normal(size=(600, len(columns))) * 1e6
    mixed = np.where(rng.random((n, 1)) < 0.02, X, np.resize(apart, X.shape))
    mixed[rng.random(mixed.shape) < 0.01] = np.nan
    with np.errstate(over="ignore"):
        single = X.astype(np.float32)
    for given in (X, apart, mixed, X[:70], single):
        assert_bits_equal(predictor.predict_raw(given), reference.predict_raw(model, given))
        np.testing.assert_array_equal(predictor.apply(given), reference.apply(model, given))


def test_sentinels():
    model = of_columns([np.random.default_rng(f).normal(size=30) for f in range(20)]).replace(missing_value=-999.25)
    X = rows(model, 700, 4)
    X[::3, ::2] = -999.25
    assert_agrees(compiled(model, "bitslice"), model, X)
    assert (canonicalise(model).columns.fill != 0).any()
