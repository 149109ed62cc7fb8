"""What the suite and every study share on the command line: options, and what happens to results."""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import machine
from .run import say


def add_options(command: argparse.ArgumentParser, quick: str) -> None:
    """--output, --quick, --fresh, --rounds and --date; ``quick``: the help text of --quick."""
    command.add_argument("--output", type=Path, default=Path("build/benchmarks"), help="folder of models and results")
    command.add_argument("--quick", action="store_true", help=quick)
    command.add_argument("--fresh", action="store_true", help="drop what an earlier run measured; models are kept")
    command.add_argument("--rounds", type=int, help="interleaved rounds (9)")
    command.add_argument("--date", action="store_true", help="write today's date into the results")


def add_clock(command: argparse.ArgumentParser) -> None:
    command.add_argument("--clock", choices=("wall", "cpu"), help="cpu: CPU time instead, for a busy machine")


def folder(given: argparse.Namespace) -> Path:
    """Where a run that was asked for keeps what it makes."""
    output: Path = given.output
    return output / "quick" if given.quick else output


def carry_out(
    measure: Callable[[], dict[str, Any]],
    given: argparse.Namespace,
    prefix: str,
    render: Callable[[Mapping[str, Any]], str],
    failures: Callable[[Mapping[str, Any]], Sequence[str]],
) -> int:
    """Measure, write the results and their tables, and print these.

    Args:
        measure: Returns results.
        given: The options of `add_options`.
        prefix: What the names of the files begin with, before the CPU's.
        render: Results as tables.
        failures: What went wrong in results.

    Returns:
        The exit code: 0; 1 where there are failures; 130 where it was interrupted.
    """
    # Ended by a signal, it ends its workers first, as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        results = measure()
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        return 130
    if given.date:
        results["date"] = machine.today()
    text = render(results)
    path = folder(given) / f"{prefix}{machine.slug(results['machine'])}.json"
    _write(path, json.dumps(results, indent=1) + "\n")
    _write(path.with_suffix(".md"), text + "\n")
    print(text)
    say(f"results: {path}")
    found = failures(results)
    for failure in found:
        say(f"FAILED: {failure}")
    return 1 if found else 0


def _write(path: Path, content: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f"partial-{path.name}")
    partial.write_text(content)
    os.replace(partial, path)
