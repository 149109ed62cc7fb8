"""A first prediction, from nothing: one contestant, one model, one row, in the process that this module is run in.

Argument: JSON with "contestant", "info", "folder". Prints JSON: seconds of each step.
"""

import time

begin = time.perf_counter()
import numpy as np  # noqa: E402

numpy_seconds = time.perf_counter() - begin

import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ..contestants import LIBRARY, Contestant, resolve  # noqa: E402
from ..shapes import Info  # noqa: E402

MODULES = {"xgboost": "xgboost", "lightgbm": "lightgbm", "sklearn": "sklearn.ensemble"}


def first_prediction(contestant: Contestant, info: Info, folder: Path) -> dict[str, float]:
    """Seconds: "import" of what it needs, "load" of the model, the "first" call with one row; then, in a process that
    has done all that once, "warm_load" and "warm_first"."""
    for hidden in contestant.hides:
        sys.modules[hidden] = None  # type: ignore[assignment]
    needed = contestant.requires if contestant.build is None else contestant.runs_with
    if contestant.kind == LIBRARY:
        needed = (*needed, MODULES.get(info.shape.library, "numpy"))
    start = time.perf_counter()
    for module in needed:
        importlib.import_module(module)
    found = {"numpy": numpy_seconds, "import": time.perf_counter() - start}
    width = info.shape.features
    rows = np.fromfile(info.rows, info.shape.dtype, 2 * width).reshape(2, width)
    for i, names in enumerate((("load", "first"), ("warm_load", "warm_first"))):
        row = rows[i : i + 1]
        start = time.perf_counter()
        model: Any = contestant.read(info) if contestant.build is None else None
        predict = contestant.load(info, model, folder)
        loaded = time.perf_counter()
        predict(row)
        found |= {names[0]: loaded - start, names[1]: time.perf_counter() - loaded}
    return found


def main() -> None:
    asked = json.loads(sys.argv[1])
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    found = first_prediction(resolve(asked["contestant"]), Info.from_json(asked["info"]), Path(asked["folder"]))
    reply.write(json.dumps(found) + "\n")
    reply.close()


if __name__ == "__main__":
    main()
