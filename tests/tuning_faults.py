"""A worker some of whose candidates hang, crash, take all memory, fail, or score wrongly: each by an option of its
plan. Run by tests/test_tuning.py in the place of `woodpecker.tuning.worker`."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np

from woodpecker.tuning import worker

original = worker.in_process


def wrong(task, code):
    check, clock = original(task, code)
    wanted = task.wanted
    wanted[5, 0] = np.nextafter(wanted[5, 0], 9)
    np.save(task.folder / "wrong.npy", wanted)
    right = worker.candidates.WANTED
    worker.candidates.WANTED = "wrong.npy"
    found = check()
    worker.candidates.WANTED = right
    return lambda: found, clock


FAULTS = {
    1: lambda task, code: time.sleep(100),
    2: lambda task, code: os.kill(os.getpid(), signal.SIGSEGV),
    4: lambda task, code: np.ones(2**34, np.uint8),
    8: lambda task, code: 1 / 0,
    16: wrong,
}


def opened(task, code):
    """What goes wrong with perfect trees alone is decided by how many rows walk together."""
    rows = dict(code.signatures[0].constants).get("interleave")
    if len(code.signatures) == 1 and code.signatures[0].strategy == "perfect_tree_traversal" and rows in FAULTS:
        return FAULTS[rows](task, code)
    return original(task, code)


if __name__ == "__main__":
    worker.in_process = opened
    worker.main(sys.argv[1:])
