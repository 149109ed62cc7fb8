"""python -m benchmarks.gpu make|run|report FOLDER"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import gpu
from ..shapes import SHAPES
from . import making, running
from .reporting import read, report

FIGURES = "gpu.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 where a bit differs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=gpu.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make, run, show = (
        commands.add_parser(name, help=text)
        for name, text in (
            ("make", "compile the models, and write what `run` needs"),
            ("run", "check, tune and time on the GPU"),
            ("report", "what was found, as Markdown"),
        )
    )
    for command in (make, run, show):
        command.add_argument("folder", type=Path)
    for command in (make, run):
        names = [shape.name for shape in SHAPES]
        command.add_argument("--shape", "--models", nargs="*", default=names, help="models of the suite", dest="shape")
    make.add_argument("--cache", type=Path, default=Path("build/benchmarks/models"), help="trained models")
    make.add_argument("--arch", default="sm_90", help="the GPU's architecture, or several with commas between")
    make.add_argument("--cpu", default="x86-64-v3", help="the target of the CPU code beside it")
    make.add_argument("--every-way", action="store_true", help="all strategies and options, not only the default plan")
    make.add_argument("--trials", type=int, default=0, help="candidates of a tuning job for each model")
    run.add_argument("--batches", nargs="*", type=int, default=list(running.BATCHES))
    run.add_argument("--input-gib", type=float, default=running.INPUT_GIB, help="of the largest batch; 0: none")
    run.add_argument("--timeout", type=float, default=60.0, help="seconds that a candidate of tuning may take")
    for command in (run, show):
        command.add_argument("-o", "--output", type=Path, help=f"figures, a line each; by default FOLDER/{FIGURES}")
    given = parser.parse_args(arguments)
    if given.command == "make":
        shapes = [shape for shape in SHAPES if shape.name in given.shape]
        making.make(
            given.folder,
            shapes,
            given.cache,
            arch=given.arch,
            cpu=given.cpu,
            every=given.every_way,
            trials=given.trials,
        )
        return 0
    output = given.output or given.folder / FIGURES
    if given.command == "report":
        print(report(read(output)), end="")
        return 0
    shapes = [shape for shape in SHAPES if shape.name in given.shape]
    return running.run(
        given.folder, shapes, output, batches=given.batches, gibibytes=given.input_gib, timeout=given.timeout
    )


if __name__ == "__main__":
    sys.exit(main())
