"""The studies on the command line: python -m benchmarks regret | latency | threads | scaling | routing."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import machine
from ..report import machine_lines
from ..run import say
from ..shapes import QUICK, SHAPES, Shape
from ..state import StateMismatch
from . import forests, regret
from .runner import Cell, Settings, failures, run_study

QUICK_SETTINGS = Settings(
    batches=(1, 64),
    rounds=2,
    turn_seconds=0.002,
    check_rows=256,
    threshold_rows=64,
    fresh_processes=1,
    latency_calls=20,
    largest=0.05,
    train_threads=1,
)

STUDIES: Mapping[str, str] = {
    "regret": "auto beside every strategy, for the suite's models and 20 that it was not calibrated with",
}
REPORTS: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {"regret": regret.render}


def add_parsers(commands: Any) -> None:
    for name, help_text in STUDIES.items():
        one = commands.add_parser(name, help=help_text)
        one.add_argument("--output", type=Path, default=Path("build/benchmarks"), help="folder of models, state, results")
        one.add_argument("--quick", action="store_true", help="tiny models, for CI: its times mean nothing")
        one.add_argument("--fresh", action="store_true", help="drop what an earlier run measured; models are kept")
        one.add_argument("--shape", action="append", default=[], metavar="NAME", help="only this model; several times")
        one.add_argument("--batch", action="append", type=int, metavar="ROWS", help="only this batch size; likewise")
        one.add_argument("--rounds", type=int, help="interleaved rounds (9)")
        one.add_argument("--budget", type=float, default=3600.0, metavar="SECONDS", help="stop after about this (3600)")
        one.add_argument("--clock", choices=("wall", "cpu"), help="cpu: CPU time instead, for a busy machine")
        if name == "regret":
            one.add_argument(
                "--forest", action="append", default=[], metavar="N", help="only this of the 20 (1 to 20); or all"
            )


def main(given: argparse.Namespace) -> int:
    """Run a study, write its results, print its report. The exit codes of `benchmarks.__main__.main`.

    Raises:
        LookupError: a name is unknown. StateMismatch: see `run_study`.
    """
    name = given.command
    settings = _settings(given)
    cells = _cells(given, settings)
    output = given.output / "quick" if given.quick else given.output
    if given.fresh:
        (output / f"{name}.jsonl").unlink(missing_ok=True)
    # Ended by a signal, it ends its workers first, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        results = run_study(name, cells, settings, output, budget=given.budget, say=say)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return 130
    text = render(results)
    path = output / f"{name}-{machine.slug(results['machine'])}.json"
    write(path, json.dumps(results, indent=1) + "\n")
    write(path.with_suffix(".md"), text + "\n")
    print(text)
    say(f"results: {path}")
    found = failures(results)
    for failure in found:
        say(f"FAILED: {failure}")
    return 1 if found else 0


def write(path: Path, content: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f"partial-{path.name}")
    partial.write_text(content)
    os.replace(partial, path)


def render(results: Mapping[str, Any]) -> str:
    """The report of a study.

    Args:
        results: As `benchmarks.studies.runner.run_study` returns them.
    """
    name = results["study"]
    lines = [f"# {name.capitalize()}: {STUDIES[name]}", "", *machine_lines(results["machine"])]
    lines += [f"Commit {results['commit'] or 'unknown'}.", ""]
    if results["settings"]["clock"] == "cpu":
        lines += ["Times are CPU time, not time on the wall: the machine was in use by others.", ""]
    if not results["complete"]:
        lines += ["**Incomplete: not every cell was measured.**", ""]
    if results["woodpecker_changed_meanwhile"]:
        lines += ["**woodpecker's sources changed during the run: its figures belong to no single version.**", ""]
    return "\n".join([*lines, *REPORTS[name](results)])


def _settings(given: argparse.Namespace) -> Settings:
    asked = {
        "batches": tuple(sorted(given.batch)) if given.batch else None,
        "rounds": given.rounds,
        "clock": given.clock,
    }
    base = QUICK_SETTINGS if given.quick else Settings()
    return dataclasses.replace(base, **{k: v for k, v in asked.items() if v is not None})


def _cells(given: argparse.Namespace, settings: Settings) -> list[Cell]:
    suite: Sequence[Shape] = QUICK[:1] if given.quick else SHAPES
    held = forests.quick() if given.quick else forests.held_out()
    return regret.cells(regret.selected(suite, held, given.shape, given.forest), settings)
