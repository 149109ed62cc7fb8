"""python -m benchmarks run | STUDY | report | plot: see docs/benchmarks.md."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
from pathlib import Path

from woodpecker.errors import MissingExtraError

from . import outcome
from .cell import Settings
from .contestants import Contestant, resolve, woodpecker_names
from .report import render
from .run import failures, run_suite
from .shapes import QUICK, SHAPES, Shape
from .state import StateMismatch
from .studies import command as studies
from .studies.plots import draw

QUICK_SETTINGS = Settings(
    batches=(1, 64),
    rounds=3,
    min_rounds=2,
    cell_seconds=0.03,
    call_seconds=5.0,
    build_seconds=60.0,
    threshold_rows=512,
    train_threads=1,
    build_jobs=2,
)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="python -m benchmarks", description="woodpecker beside its peers.")
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the suite, or what is left of it")
    outcome.add_options(run, "tiny models, for CI: checks answers, its times mean nothing")
    outcome.add_clock(run)
    run.add_argument("--shape", action="append", metavar="NAME", help="only this model (may be given several times)")
    run.add_argument("--batch", action="append", type=int, metavar="ROWS", help="only this batch size (likewise)")
    run.add_argument("--contestant", action="append", metavar="NAME", help="only these; or package.module:NAME")
    run.add_argument(
        "--without", action="append", default=[], metavar="NAME", help="all but this contestant (likewise)"
    )
    run.add_argument("--cell-seconds", type=float, help="time for each contestant in each cell (3)")
    run.add_argument("--build-seconds", type=float, help="limit for compiling one model (300)")
    run.add_argument("--memory-gb", type=float, help="limit of each worker's address space (12); 0: none")
    run.add_argument("--list", action="store_true", help="list models and contestants, and stop")
    studies.add_parsers(commands)
    report = commands.add_parser("report", help="draw the tables of results, of the suite or of a study")
    report.add_argument("results", type=Path)
    plot = commands.add_parser("plot", help="draw pictures of results, of the suite or of a study; needs matplotlib")
    plot.add_argument("results", type=Path)
    plot.add_argument("-o", "--output", type=Path, default=Path("build/benchmarks/plots"), help="folder of the files")
    return top


def main(arguments: list[str] | None = None) -> int:
    """0: done. 1: woodpecker differed from a library. 2: wrong usage."""
    given = parser().parse_args(arguments)
    if given.command in ("report", "plot"):
        return _from_results(given)
    if given.command in studies.STUDIES:
        try:
            return studies.main(given)
        except (LookupError, ValueError, StateMismatch) as problem:
            return _usage(str(problem.args[0]))
    try:
        shapes = _shapes(given)
        contestants = _contestants(given)
    except LookupError as problem:
        return _usage(str(problem.args[0]))
    if given.list:
        print("\n".join([*(f"{s.name}: {s.title}" for s in shapes), "", *contestants]))
        return 0
    return _run(given, shapes, contestants)


def _from_results(given: argparse.Namespace) -> int:
    """The commands that measure nothing."""
    try:
        results = json.loads(given.results.read_text())
        if given.command == "report":
            print(studies.render(results) if "study" in results else render(results))
        else:
            for path in draw(results, given.output):
                print(path)
    except MissingExtraError as problem:
        return _usage(str(problem))
    except (OSError, ValueError) as problem:
        return _usage(f"{given.results}: {problem}")
    except (AttributeError, KeyError, TypeError) as problem:
        return _usage(f"{given.results}: not results of this suite: {type(problem).__name__} {problem}")
    return 0


def _run(given: argparse.Namespace, shapes: list[Shape], contestants: dict[str, Contestant]) -> int:
    output = outcome.folder(given)
    if given.fresh:
        (output / "state.jsonl").unlink(missing_ok=True)
        shutil.rmtree(output / "artifacts", ignore_errors=True)
    try:
        return outcome.carry_out(
            lambda: run_suite(shapes, contestants, _settings(given), output), given, "", render, failures
        )
    except StateMismatch as problem:
        return _usage(str(problem))


def _settings(given: argparse.Namespace) -> Settings:
    asked = {
        "batches": tuple(sorted(given.batch)) if given.batch else None,
        "cell_seconds": given.cell_seconds,
        "rounds": given.rounds,
        "build_seconds": given.build_seconds,
        "memory_gb": given.memory_gb,
        "clock": given.clock,
    }
    return dataclasses.replace(
        QUICK_SETTINGS if given.quick else Settings(), **{k: v for k, v in asked.items() if v is not None}
    )


def _contestants(given: argparse.Namespace) -> dict[str, Contestant]:
    from .peers import ALL

    names = given.contestant or [*(c.name for c in ALL), *woodpecker_names()]
    if "library" not in names:
        names = ["library", *names]
    unknown = [name for name in given.without if name not in names]
    if unknown:
        raise LookupError(f"--without {unknown[0]}: there is no such contestant; known: {', '.join(names)}")
    return {name: resolve(name) for name in names if name not in given.without}


def _shapes(given: argparse.Namespace) -> list[Shape]:
    known = {shape.name: shape for shape in (QUICK if given.quick else SHAPES)}
    unknown = [name for name in given.shape or () if name not in known]
    if unknown:
        raise LookupError(f"unknown model {unknown[0]!r}; known: {', '.join(known)}")
    return [known[name] for name in given.shape or known]


def _usage(text: str) -> int:
    sys.stderr.write(f"error: {text}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
