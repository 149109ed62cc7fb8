"""A worker of which one candidate crashes the session that runs it. Run by tests/test_tuning_remote.py in the place of
`woodpecker.tuning.worker`."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np

from woodpecker.tuning import remote, worker

original = remote._open


def opened(session, path, code, out, X):
    """Perfect trees of two rows that walk together read a model that is none, wherever its offsets point."""
    signature = code.signatures[0]
    if len(code.signatures) == 1 and dict(signature.constants).get("interleave") == 2:
        nonsense = np.full(len(code.blob), 0x3F, np.uint8)
        code = dataclasses.replace(code, blob=nonsense)
    return original(session, path, code, out, X)


if __name__ == "__main__":
    remote._open = opened
    worker.main(sys.argv[1:])
