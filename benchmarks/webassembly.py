"""Times of WebAssembly modules in Node.js: python -m benchmarks.webassembly MODEL

Strategies take turns in one process, on rows along the paths of the model; the engine's quick, slow form of the code is
left out (--no-liftoff). CPU time, whole calls, one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import woodpecker as wp
from woodpecker import reference
from woodpecker.errors import StrategyError, WoodpeckerError
from woodpecker.predicates import canonicalise
from woodpecker.tuning.rows import sampled

from .contestants import NO_LOGS
from .programs import read
from .report import ABSENT, number, table
from .stats import median
from .studies.levels import STRATEGIES

BATCHES = (1, 16, 64, 512, 4096)
N_ROWS, CHECKED = 16_384, 100
TURN_MS = 50.0
SCALAR = {"kind": "llvm", "mtriple": "wasm32-wasi", "mattr": ["-simd128"]}
SCRIPT = Path(__file__).with_suffix(".mjs")

Times = dict[str, dict[int, list[float]]]
"""Strategy -> rows a call -> ns per row, one a turn."""


def measure(
    forest: wp.Forest,
    folder: Path,
    strategies: Sequence[str] = tuple(STRATEGIES),
    batches: Sequence[int] = BATCHES,
    turn_ms: float = TURN_MS,
    target: Any = "wasm32",
) -> Times:
    """Time a model with each strategy that can serve it.

    Args:
        forest: The model.
        folder: For the modules.
        strategies: Keys of `benchmarks.studies.levels.STRATEGIES`; each serves every row by itself.
        batches: Rows a call.
        turn_ms: How long a turn lasts, at least one call.
        target: "wasm32", or SCALAR.

    Raises:
        StrategyError: no strategy can serve the forest. TargetError, MissingExtraError: see `woodpecker.compile`.
        RuntimeError: Node.js fails, or a module computes other bits than the reference interpreter.
    """
    X = sampled(canonicalise(forest), max(N_ROWS, *batches), 0, "float32").astype(np.float32)
    X.tofile(folder / "rows.f32")
    made: dict[str, Path] = {}
    for name in strategies:
        try:
            options: dict[str, Any] = dict(STRATEGIES[name])
            one = wp.compile(forest, target=target, strategy=name, tuning_logs=NO_LOGS, **options)
        except StrategyError:
            continue
        made[name] = folder / f"{name}.wasm"
        one.save(made[name])
    if not made:
        raise StrategyError(f"none of {', '.join(strategies)} can serve this model")
    numbers = (str(CHECKED), ",".join(map(str, batches)))
    command = ["node", "--no-liftoff", SCRIPT, str(turn_ms), folder / "rows.f32", *numbers, *made.values()]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"Node.js ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
    wanted = reference.predict_raw(forest, X[:CHECKED]).tobytes()
    for name, path in made.items():
        if path.with_name(f"{path.name}.raw").read_bytes() != wanted:
            raise RuntimeError(f"{name} computes other bits than the reference interpreter")
    found: list[Mapping[str, list[float]]] = json.loads(done.stdout)
    return {name: {int(batch): ns for batch, ns in times.items()} for name, times in zip(made, found, strict=True)}


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.webassembly", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a model file")
    parser.add_argument("--strategy", action="append", choices=STRATEGIES, help="only this; several times")
    parser.add_argument("--batch", action="append", type=int, metavar="ROWS", help="only this; several times")
    parser.add_argument("--scalar", action="store_true", help="code without simd128, for old engines")
    asked = parser.parse_args(given)
    if any(batch < 1 for batch in asked.batch or ()):
        parser.error(f"--batch {min(asked.batch)}: it must be 1 or more")
    if importlib.util.find_spec("ziglang") is None:
        parser.error("a linker is missing: pip install 'woodpecker[cross]'")
    if not shutil.which("node"):
        parser.error("there is no node (Debian: apt install nodejs)")
    batches, names = sorted(set(asked.batch or BATCHES)), asked.strategy or list(STRATEGIES)
    try:
        with tempfile.TemporaryDirectory() as folder:
            target = SCALAR if asked.scalar else "wasm32"
            found = measure(read(asked.model), Path(folder), names, batches, target=target)
    except (WoodpeckerError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = [(name, *(number(median(times[n])) for n in batches)) for name, times in found.items()]
    rows += [(name, *(ABSENT for _ in batches)) for name in names if name not in found]
    print("\n".join(table(("ns/row", *(f"{n:,} row{'s' if n > 1 else ''}" for n in batches)), rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
