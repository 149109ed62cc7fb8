"""Answers beside the library's: woodpecker's to the bit, a peer's by its error."""

from __future__ import annotations

from typing import Any

import numpy as np

TOLERANCE = 1e-4
"""Error, relative to the largest answer of the batch, above which a row counts as wrong."""
WRONG_SHARE = 1e-3
"""Share of wrong rows above which a contestant is wrong and gets no time.

Below it, they are rows that lie between a float64 threshold and its float32 rounding.
"""


def unequal_bits(got: np.ndarray, want: np.ndarray, what: str) -> str | None:
    """What differs between two arrays, or None where dtype, shape and every bit agree."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return f"{what}: {got.dtype} {got.shape}, the library has {want.dtype} {want.shape}"
    width = np.dtype(f"u{got.dtype.itemsize}")
    unequal = np.ascontiguousarray(got).view(width) != np.ascontiguousarray(want).view(width)
    if not unequal.any():
        return None
    at = tuple(int(i) for i in np.argwhere(unequal)[0])
    count = f"{unequal.sum():,} of {unequal.size:,} differ"
    return f"{what}: {count}, first at {at}: {got[at]!r}, the library has {want[at]!r}"


def unequal_leaves(got: np.ndarray, want: np.ndarray) -> str | None:
    """The same for leaf ids, of whatever dtype and shape the library gives them."""
    return unequal_bits(got.astype(np.int64), np.asarray(want).reshape(len(want), -1).astype(np.int64), "leaf ids")


def error(got: np.ndarray, want: np.ndarray) -> dict[str, Any]:
    """How far a contestant's answers are from the library's.

    Returns:
        "exact": bit-equal, in the library's dtype; "max_abs"; "max_ulp": in the library's dtype; "wrong_rows": rows
        with an error above TOLERANCE; "reason": why it is wrong, or None.
    """
    if got.size != want.size or len(got) != len(want):
        return {"exact": False, "reason": f"shape {got.shape}, the library has {want.shape}"}
    ours = got.reshape(len(want), -1).astype(want.dtype)
    theirs = want.reshape(len(want), -1)
    if not np.isfinite(ours).all():
        return {"exact": False, "reason": "answers are not finite"}
    distance = np.abs(ours.astype(np.float64) - theirs)
    wrong = int((distance > TOLERANCE * max(1.0, float(np.abs(theirs).max(initial=0)))).any(axis=1).sum())
    found: dict[str, Any] = {
        "exact": got.dtype == want.dtype and unequal_bits(ours, theirs, "") is None,
        "max_abs": float(distance.max(initial=0)),
        "max_ulp": int(ulps(ours, theirs).max(initial=0)),
        "wrong_rows": wrong,
        "reason": None,
    }
    if wrong > WRONG_SHARE * len(want):
        found["reason"] = (
            f"{wrong:,} of {len(want):,} rows are off by more than {TOLERANCE:g}, up to {distance.max():.3g}"
        )
    return found


def ulps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How many floats lie between finite a and b, of one dtype; 0 for equal values, so for 0.0 and -0.0."""
    signed = np.dtype(f"i{a.dtype.itemsize}")

    def ordered(x: np.ndarray) -> np.ndarray:
        raw = np.ascontiguousarray(x).view(signed)
        return np.where(raw < 0, np.iinfo(signed).min - raw, raw)

    # As unsigned, a distance of more than half of the range does not overflow.
    big, small = np.maximum(ordered(a), ordered(b)), np.minimum(ordered(a), ordered(b))
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    return big.view(unsigned) - small.view(unsigned)
