"""Runs on the device, where neither the compiler nor pytest is: see `tests.qemu_support.results`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

import woodpecker.runtime
from woodpecker.errors import WoodpeckerError


def main(folder: Path) -> None:
    rows = dict(np.load(folder / "rows.npz"))
    loaded, found, errors = {}, {}, {}
    for i, call in enumerate(json.loads((folder / "calls.json").read_text())):
        key = call["artifact"], call["threads"]
        try:
            if key not in loaded:
                loaded[key] = woodpecker.runtime.load(folder / key[0], num_threads=key[1], verify=True)
            found[str(i)] = getattr(loaded[key], call["method"])(rows[call["rows"]])
        except WoodpeckerError as error:
            errors[i] = f"{type(error).__name__}: {error}"
    np.savez(folder / "results.npz", **found)
    sys.stdout.write(json.dumps(errors))


main(Path(sys.argv[1]))
