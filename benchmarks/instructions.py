"""Instructions of a CPU that is not at hand: python -m benchmarks.instructions MODEL --target riscv64-linux-musl

Each strategy is linked into a static C program, which QEMU's user emulator runs an instruction at a time; what a call
of twice as many rows takes more is divided by these rows. Counts tell strategies, and versions of a kernel, apart; the
time that they take is another matter.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import woodpecker as wp
from woodpecker.errors import StrategyError, WoodpeckerError
from woodpecker.platforms import ARCHITECTURES
from woodpecker.targets import resolve

from . import programs
from .report import number, table
from .studies.levels import STRATEGIES

ROWS = 512
"""A block of `bitslice`: fewer rows cost it as much."""
EMULATORS = {name: f"qemu-{'arm' if name == 'armv7' else name}" for name in ARCHITECTURES if name != "wasm32"}


def count(program: Path, emulator: str, rows: int) -> int:
    """Instructions of the whole program, with so many rows.

    Raises:
        RuntimeError: the program fails.
    """
    command = [
        emulator,
        "-singlestep",
        "-d",
        "exec,nochain",
        "-D",
        "/dev/stderr",
        str(program),
        str(rows),
        programs.ROWS,
    ]
    with subprocess.Popen(command, cwd=program.parent, stderr=subprocess.PIPE) as running:
        lines = 0
        while running.stderr and (chunk := running.stderr.read(1 << 20)):
            lines += chunk.count(b"\n")
    if running.returncode:
        raise RuntimeError(f"{emulator} {program.name} {rows}: exit code {running.returncode}")
    return lines


def measure(forest: wp.Forest, target: Any, strategy: str, folder: Path, emulator: str, rows: int = ROWS) -> float:
    """Instructions a row of raw scores, all rows with one strategy.

    Args:
        forest: The model.
        target: A target whose programs the emulator runs; its C library should be musl, whose programs link statically.
        strategy: A key of `benchmarks.studies.levels.STRATEGIES`.
        folder: For the program.
        emulator: QEMU's user emulator.
        rows: Rows a call, and as many more.

    Raises:
        StrategyError: the strategy can't serve the forest. TargetError, MissingExtraError: see `woodpecker.compile`.
        RuntimeError: the program fails.
    """
    options: dict[str, Any] = dict(STRATEGIES[strategy])
    program = programs.build(forest, target, folder, 2 * rows, strategy=strategy, **options)
    return (count(program, emulator, 2 * rows) - count(program, emulator, rows)) / rows


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a model file")
    parser.add_argument("--target", default="aarch64-linux-musl", help="a triple with musl (aarch64-linux-musl)")
    parser.add_argument("--strategy", action="append", choices=STRATEGIES, help="only this; several times")
    parser.add_argument("--rows", type=int, default=ROWS, help=f"rows a call, and as many more ({ROWS})")
    asked = parser.parse_args(given)
    if importlib.util.find_spec("ziglang") is None:
        parser.error("a linker is missing: pip install 'woodpecker[cross]'")
    try:
        target = {"kind": "llvm", "mtriple": asked.target}
        emulator = EMULATORS.get(resolve(target).machine, "")
        if not shutil.which(emulator):
            parser.error(f"there is no {emulator or 'emulator for it'} (Debian: apt install qemu-user)")
        forest, rows = programs.read(asked.model), []
        for strategy in asked.strategy or STRATEGIES:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found = number(measure(forest, target, strategy, Path(folder), emulator, asked.rows))
                except StrategyError:
                    found = "refused"
            rows.append((strategy, found))
    except (WoodpeckerError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(table(("strategy", "instructions a row"), rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
