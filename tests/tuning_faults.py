"""A worker some of whose candidates hang, crash, take all memory, fail, or score wrongly: each by an option of its
plan. Run by tests in the place of `woodpecker.tuning.worker`."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

from woodpecker.tuning import worker

original = worker.in_process


def wrong(*arguments):
    compute, clock = original(*arguments)

    def differently(calls):
        out = compute(calls)
        out[5, 0] = np.nextafter(out[5, 0], 9)
        return out

    return differently, clock


FAULTS = {
    1: lambda *_: time.sleep(100),
    2: lambda *_: os.kill(os.getpid(), signal.SIGSEGV),
    4: lambda *_: np.ones(2**34, np.uint8),
    8: lambda *_: 1 / 0,
    16: wrong,
}


def opened(task, code, entry, X):
    """What goes wrong with perfect trees alone is decided by how many rows walk together."""
    rows = dict(code.signatures[0].constants).get("interleave")
    if len(code.signatures) == 1 and code.signatures[0].strategy == "perfect_tree_traversal" and rows in FAULTS:
        return FAULTS[rows](task, code, entry, X)
    return original(task, code, entry, X)


if __name__ == "__main__":
    worker.in_process = opened
    worker.main(sys.argv[1:])
