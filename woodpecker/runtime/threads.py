"""How many threads a call uses."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from ..errors import InputError

VARIABLE = "WOODPECKER_NUM_THREADS"
MAX_THREADS = 256
NS_PER_TASK = 100_000
"""Work below which another thread is not worth waking."""
NS_PER_SHARE = 25_000
"""The same where the user names the number of threads, and trees rather than rows are shared out."""


@functools.cache
def available_cpus() -> int:
    """CPUs that this process may use: its affinity, and the quota of its control group, rounded up."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cpus, _cgroup_quota() or cpus, MAX_THREADS))


def _cgroup_quota() -> int | None:
    for quota_file, period_file in (
        ("/sys/fs/cgroup/cpu.max", None),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        try:
            fields = Path(quota_file).read_text().split()
            quota = fields[0]
            period = Path(period_file).read_text() if period_file else fields[1]
            if quota != "max" and int(quota) > 0:
                return -(-int(quota) // int(period))
        except (OSError, ValueError, IndexError):
            continue
    return None


def resolve(num_threads: int | None) -> int | None:
    """A checked thread count; None means to decide by the amount of work.

    Raises:
        InputError: it, or the environment variable WOODPECKER_NUM_THREADS, is no integer from 1 to 256.
    """
    source = "num_threads"
    if num_threads is None:
        text = os.environ.get(VARIABLE)
        if text is None or not text.strip():
            return None
        source = VARIABLE
        try:
            num_threads = int(text)
        except ValueError:
            num_threads = -1
    if isinstance(num_threads, bool) or not isinstance(num_threads, int) or not 1 <= num_threads <= MAX_THREADS:
        raise InputError(f"{source} must be an integer from 1 to {MAX_THREADS}, or not be set")
    return num_threads


def tasks(num_threads: int | None, rows: int, ns_per_row: float, row_block: int) -> int:
    """Into how many tasks a call over ``rows`` is split: at most one a row block, and by default at most one for
    every 100 µs of estimated work."""
    limit = num_threads or min(available_cpus(), int(rows * ns_per_row / NS_PER_TASK))
    return max(1, min(limit, -(-rows // row_block)))


def tree_tasks(num_threads: int | None, rows: int, ns_per_row: float, groups: int) -> int:
    """Into how many tasks a call over few ``rows`` is split that shares out ``groups`` of trees."""
    limit = num_threads or available_cpus()
    return max(1, min(limit, groups, int(rows * ns_per_row / (NS_PER_SHARE if num_threads else NS_PER_TASK))))
