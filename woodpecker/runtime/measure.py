"""How a candidate of a tuning job is checked and timed; shared by the jobs and by `woodpecker measure`.

Times are of calls over different rows each time, taken in turn: samples of all batch sizes, and of all candidates that
are compared, alternate, so that a slow moment of the machine hits all of them.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tvm_ffi

from ..errors import InputError
from .format import aligned

Run = Callable[[int, int], None]
"""Computes the rows [begin, end)."""
Clock = Callable[[int, Sequence[int]], float]
"""(rows a call, first row of each call) -> ns of all these calls together."""

Compute = Callable[[Sequence[tuple[int, int]]], np.ndarray]
"""Computes rows by these calls, [begin, end) each, and returns all scores."""

Times = dict[int, list[float]]
"""Rows per call -> samples, in ns per row."""

MAX_SECONDS = 1e6
MAX_CALLS = 2000
HOPELESS = 4.0
"""A candidate that is this many times slower than the best one at a batch size is timed there once."""
TOO_SLOW = 16.0
"""One that is this many times slower at all of the smallest batch sizes is not even checked to the end: a candidate
may take a thousand times as long as another."""
PROBES = 3
CALIBRATION_NS = 3e5
SAMPLE_NS = 3e6
"""A sample repeats calls until they last about this long, so that the clock does not show."""


def bind(function: Any, X: np.ndarray, out: np.ndarray, scratch_bytes: int, blob: np.ndarray) -> Run:
    """An entry of the calling convention, over these rows."""
    tensors = [tvm_ffi.from_dlpack(a) for a in (X, out, aligned(scratch_bytes), _aligned_copy(blob))]

    def run(begin: int, end: int) -> None:
        function(*tensors, begin, end)

    return run


def _aligned_copy(blob: np.ndarray) -> np.ndarray:
    copy = aligned(len(blob))
    copy[:] = blob
    return copy


def clock_of(run: Run) -> Clock:
    """A clock around calls in this process: the CPU time of this thread, which is the only one that works on them, so
    that what other programs take of the CPU does not count."""

    def clock(rows: int, starts: Sequence[int]) -> float:
        calls = [(start, start + rows) for start in starts]
        begun = time.thread_time_ns()
        for begin, end in calls:
            run(begin, end)
        return float(time.thread_time_ns() - begun)

    return clock


def pieces(n: int) -> list[tuple[int, int]]:
    """[begin, end) of calls that cover n rows: of one row, a few, and more and more, so that every step of a plan,
    whole blocks and remainders occur."""
    widths = [1, 1, 3, 7, 18, 47, 123, 313, 512, 700, 1025]
    found, begin = [], 0
    while begin < n:
        end = min(n, begin + (widths.pop(0) if widths else n))
        found.append((begin, end))
        begin = end
    return found


def compute_of(run: Run, out: np.ndarray) -> Compute:
    """What a candidate in this process computes."""

    def compute(calls: Sequence[tuple[int, int]]) -> np.ndarray:
        unwritten(out)
        for begin, end in calls:
            run(begin, end)
        return out

    return compute


def unwritten(out: np.ndarray) -> np.ndarray:
    """Fill scores with what no candidate computes, so that a row that is left out is not taken for a right one."""
    out.view(np.uint8)[...] = 0xFF
    return out


def first_difference(compute: Compute, wanted: np.ndarray) -> str | None:
    """What differs from the wanted scores, to the bit, or None: over all rows piece by piece, then in one call."""
    n = len(wanted)
    for calls in (pieces(n), [(0, n)]):
        if text := difference(compute(calls), wanted):
            return text
    return None


def difference(found: np.ndarray, wanted: np.ndarray) -> str | None:
    """What differs, to the bit, or None."""
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return f"{found.dtype} {found.shape} instead of {wanted.dtype} {wanted.shape}"
    word = np.dtype(f"u{wanted.dtype.itemsize}")
    unequal = np.ascontiguousarray(found).view(word) != np.ascontiguousarray(wanted).view(word)
    if not unequal.any():
        return None
    row, column = (int(i[0]) for i in np.nonzero(unequal))
    return (
        f"{unequal.sum():,} of {unequal.size:,} scores differ, the first at row {row}, output {column}: "
        f"{found[row, column]!r} instead of {wanted[row, column]!r}"
    )


def sample(
    clocks: Sequence[Clock],
    n: int,
    batches: Sequence[int],
    rounds: int,
    best: Mapping[int, float] | None = None,
    sample_ns: float = SAMPLE_NS,
) -> list[Times]:
    """Samples of all clocks, batch sizes and rounds, in turn.

    Args:
        clocks: One a candidate.
        n: Rows that there are; no batch is larger.
        batches: Rows per call.
        rounds: Samples of each clock and batch size.
        best: Rows per call -> the best time so far, in ns per row; see HOPELESS.
        sample_ns: How long a sample should last.
    """
    times: list[Times] = [{batch: [] for batch in batches} for _ in clocks]
    calls: dict[tuple[int, int], int] = {}
    for batch in batches:
        for i, clock in enumerate(clocks):
            taken = call_ns(clock, n, batch)
            if best is not None and taken > HOPELESS * best.get(batch, float("inf")) * batch:
                times[i][batch].append(taken / batch)
            else:
                calls[i, batch] = int(max(1, min(MAX_CALLS, sample_ns / max(taken, 1.0))))
    for turn in range(rounds):
        for batch in batches:
            order = range(len(clocks)) if turn % 2 == 0 else reversed(range(len(clocks)))
            for i in order:
                if count := calls.get((i, batch)):
                    starts = [(turn * count + k) * batch % (n - batch + 1) for k in range(count)]
                    # What ran before has taken the caches.
                    clocks[i](batch, starts[: count // 4 + 1])
                    times[i][batch].append(clocks[i](batch, starts) / (count * batch))
    return times


def call_ns(clock: Clock, n: int, batch: int) -> float:
    """ns of a call, once caches are warm."""
    count = 1
    clock(batch, [0])
    while True:
        taken = clock(batch, [k * batch % (n - batch + 1) for k in range(count)])
        if taken >= CALIBRATION_NS or count >= MAX_CALLS:
            return taken / count
        count *= 4


def too_slow(clock: Clock, n: int, batches: Sequence[int], best: Mapping[int, float]) -> dict[str, float] | None:
    """The times of a candidate that is too slow to be measured, else None."""
    found: dict[str, float] = {}
    for batch in sorted(batches)[:PROBES]:
        found[str(batch)] = round(call_ns(clock, n, batch) / batch, 3)
        if found[str(batch)] <= TOO_SLOW * best.get(batch, float("inf")):
            return None
    return found


def medians(times: Times) -> dict[str, float]:
    """Rows per call -> median, as JSON wants its keys."""
    return {str(batch): round(float(np.median(samples)), 3) for batch, samples in times.items()}


def check_positive(name: str, value: Any, most: float, unit: str) -> None:
    """Refuse what is no amount.

    Raises:
        InputError: ``value`` is no number, or not in (0, ``most``].
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise InputError(f"{name} must be positive, a number of at most {most:,.0f} {unit}, found {str(value)[:40]!r}")


def end_with_parent() -> None:
    """Let the system end this process when the thread that started it has gone, even inside a candidate that hangs.
    Systems other than Linux have nothing like it."""
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_death_signal, int(signal.SIGKILL), 0, 0, 0)
