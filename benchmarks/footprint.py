"""Size and memory of a program with a model and nothing else: python -m benchmarks.footprint MODEL [MODEL ...]

Programs are linked statically with musl and stripped, for x86-64-v2; they run on an x86-64 Linux machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import woodpecker as wp
from woodpecker.errors import WoodpeckerError
from woodpecker.runtime.loader import read_header

from . import programs
from .report import table

TARGET = {"kind": "llvm", "mtriple": "x86_64-linux-musl", "mcpu": "x86-64-v2"}
ROWS = (1, 1000)


@dataclass(frozen=True)
class Footprint:
    """All in bytes.

    Args:
        program: The file.
        model: The model in it, without its code.
        scratch: Of one thread.
        peaks: Peak of the resident memory of the whole process, after one call of so many rows.
    """

    program: int
    model: int
    scratch: int
    peaks: tuple[int, ...]


def measure(forest: wp.Forest, folder: Path, rows: Sequence[int] = ROWS) -> Footprint:
    """What a program with a model, compiled with `auto`, takes.

    Args:
        forest: The model.
        folder: For the program.
        rows: Rows a call, for each of the peaks.

    Raises:
        TargetError, MissingExtraError: see `woodpecker.compile`. OSError: the program can't run here.
        RuntimeError: the program fails.
    """
    program, said = programs.build(forest, TARGET, folder, max(rows)), []
    for n in rows:
        command = [str(program), str(n), programs.ROWS, "report"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{program.name} {n}: exit code {done.returncode}")
        said.append(dict(line.split(":") for line in done.stdout.splitlines()))
    model = read_header(folder / programs.LIBRARY).length
    peaks = tuple(int(one["VmHWM"].removesuffix("kB")) * 1024 for one in said)
    return Footprint(program.stat().st_size, model, int(said[0]["scratch"]), peaks)


def main(given: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="+", help="a model file")
    asked = parser.parse_args(given)
    if importlib.util.find_spec("ziglang") is None:
        parser.error("a linker is missing: pip install 'woodpecker[cross]'")
    rows = []
    try:
        for path in asked.model:
            with tempfile.TemporaryDirectory() as folder:
                found = measure(programs.read(path), Path(folder))
            figures = (found.program, found.model, found.scratch, *found.peaks)
            rows.append((path.name, *(f"{round(size / 1000):,}" for size in figures)))
    except (WoodpeckerError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    peaks = (f"peak, {n:,} row{'s' if n > 1 else ''}" for n in ROWS)
    print("\n".join(table(("KB", "program", "model", "scratch", *peaks), rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
