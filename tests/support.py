"""Rows and checks that the exactness tests share."""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from woodpecker.forest import IN, LEAF, Forest

DEFAULT_ROWS = 100_000
FULL_ROWS = int(os.environ.get("WOODPECKER_TEST_ROWS", DEFAULT_ROWS))
"""Rows per model of the zoos in the full tier."""
SHORT = FULL_ROWS < DEFAULT_ROWS
"""The full tier's short form: every model, forest and kernel, but one strategy or target of each, in turn."""

SPECIAL = np.array(
    [0.0, -0.0, np.nan, 5e-324, -5e-324, 1e-40, -1e-40, 1e-35, -1e-35, 1.0, -1.0, -0.5, 0.5, 1e30, -1e30]
)


def boundary_rows(forest: Forest, n: int, seed: int, dtype: str = "float32", infinities: bool = True) -> np.ndarray:
    """(n, n_features) rows of values at, just below and just above the forest's own thresholds and categories.

    A tenth of the values is special (signed zeros, NaN, denormals, the zero band of LightGBM, infinities); float64
    rows also hold values between two float32 neighbours.
    """
    rng = np.random.default_rng(seed)
    special = np.concatenate([SPECIAL, [np.inf, -np.inf]]) if infinities else SPECIAL
    X = np.empty((n, forest.n_features), dtype)
    for f in range(forest.n_features):
        at = (forest.feature == f) & (forest.kind != LEAF)
        pool = [forest.threshold[at & (forest.kind != IN)]]
        for s in np.unique(forest.category_set[at & (forest.kind == IN)]):
            members = forest.set_values[forest.set_offset[s] : forest.set_offset[s + 1]]
            pool += [members, members + 1, members - 1, members + 0.5]
        points = np.unique(np.concatenate(pool))
        if len(points) == 0:
            points = np.linspace(-2, 2, 9)
        if not infinities:
            points = points[np.isfinite(points)]
        with np.errstate(over="ignore", invalid="ignore"):
            values = rng.choice(points, n).astype(dtype)
            step = rng.integers(0, 3, n)
            t = values.dtype.type
            values = np.where(step == 1, np.nextafter(values, t(np.inf)), values)
            values = np.where(step == 2, np.nextafter(values, t(-np.inf)), values)
            if dtype == "float64":
                half = rng.random(n) < 0.2
                single = values.astype(np.float32)
                between = (single.astype(np.float64) + np.nextafter(single, np.float32(np.inf))) / 2
                values = np.where(half & np.isfinite(between), between, values)
            values = np.where(rng.random(n) < 0.1, rng.choice(special, n).astype(dtype), values)
        if not infinities:
            values = np.where(np.isinf(values), 0, values)
        X[:, f] = values
    return X


T = TypeVar("T")


def in_turn(items: Sequence[T], key: str) -> list[T]:
    """All items; in the short form of the full tier one of them, which depends on the key alone."""
    return [items[zlib.crc32(key.encode()) % len(items)]] if SHORT else list(items)


def bits(a: np.ndarray) -> np.ndarray:
    """The bit patterns of a float array, so that -0.0 differs from 0.0 and equal NaNs are equal."""
    a = np.ascontiguousarray(a)
    return a.view({4: np.uint32, 8: np.uint64}[a.dtype.itemsize])


def assert_bits_equal(got: np.ndarray, want: np.ndarray, what: str = "raw scores") -> None:
    """Fail unless both arrays have one dtype, one shape and the same bits."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == want.dtype, f"{what}: dtype {got.dtype}, expected {want.dtype}"
    assert got.shape == want.shape, f"{what}: shape {got.shape}, expected {want.shape}"
    unequal = bits(got) != bits(want)
    if unequal.any():
        at = tuple(int(i[0]) for i in np.nonzero(unequal))
        raise AssertionError(
            f"{what}: {unequal.sum()} of {unequal.size} differ, first at {at}: {got[at]!r}, {want[at]!r}"
        )
