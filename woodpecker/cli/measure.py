"""``woodpecker measure``: time the candidates that ``woodpecker tune --build`` made, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import command, progress


@command
def main(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What tune --build wrote.", show_default=False)],
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a candidate may take.")] = 60.0,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
) -> None:
    """Check and time the candidates in DIR on this machine, and keep what was measured in DIR.

    Neither the compiler nor the model's library is needed: numpy and apache-tvm-ffi are enough. Interrupt it, and the
    same command goes on where it was.

    \b
    Examples:
      woodpecker measure candidates
      woodpecker measure candidates --timeout 10
    """
    from ..runtime import candidates, on_device

    listed = candidates.read_list(folder)
    done = {candidates.key(trial["plan"]) for trial in candidates.results(folder, listed)}
    left = sum(candidates.key(c["plan"]) not in done for c in listed["candidates"])
    with progress("measuring", left) as advance:
        trials = on_device.measure_all(folder, timeout=timeout, progress=lambda _: advance(1))
    if not quiet:
        failed = sum(trial["status"] != "ok" for trial in trials)
        typer.echo(f"{folder}: {len(trials)} candidates measured, {failed} of them not to the end")
        typer.echo(f"bring the folder home: woodpecker tune --import {folder}")
