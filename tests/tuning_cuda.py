"""A worker of tuning jobs for the emulated GPU, run by tests in the place of `woodpecker.tuning.worker`; some of its
candidates fail, each by an option of its plan, where WOODPECKER_TEST_FAULTS is set."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

from tests.cuda_support import emulated_build
from woodpecker.runtime import cuda_driver, measure_cuda
from woodpecker.tuning import worker

original = measure_cuda.bind


def wrong(*arguments):
    compute, clock = original(*arguments)

    def differently(calls, entry=None):
        out = compute(calls, entry)
        if entry is None:  # in a batch, by the kernel that serves it
            out[-1, 0] = np.nextafter(out[-1, 0], 9)
        return out

    return differently, clock


def lost(*_):
    """The driver fails; twice, in another process each."""
    marks = Path(os.environ["WOODPECKER_TEST_FAULTS"])
    with marks.open("a") as file:
        file.write("lost\n")
    if len(marks.read_text().splitlines()) <= 2:
        raise cuda_driver.DriverError("the GPU has fallen off the bus")
    return original(*_)


FAULTS = {1: wrong, 8: lambda *_: time.sleep(100), 32: lambda *_: os._exit(3), 512: lost}
"""By `cuda_few_rows`."""


def bind(model, *arguments):
    return FAULTS.get(model.few_rows, original)(model, *arguments)


if __name__ == "__main__":
    if os.environ.get("WOODPECKER_TEST_FAULTS"):
        measure_cuda.bind = bind
    cuda_driver.LIBRARY = os.environ["WOODPECKER_TEST_CUDA"]
    with emulated_build(Path(os.environ["WOODPECKER_TEST_CUDA"]).parent):
        worker.main(sys.argv[1:])
