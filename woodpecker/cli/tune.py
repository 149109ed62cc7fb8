"""``woodpecker tune``: find the fastest plan for a model by measuring, and keep what was found."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from ..errors import InputError
from .common import Drop, Header, IterationRange, Missing, check_input, command, note, parse_range
from .tune_logs import show_export, show_list, show_merge, show_prune

if TYPE_CHECKING:
    from ..tuning.offline import TuningRecords

MAX_ROWS = 500_000
"""Rows that are read of a file: what is measured is a draw of them."""
RECORDS = {
    "listing": ("tuning_logs", "as_json"),
    "export": ("tuning_logs",),
    "merge": ("tuning_logs",),
    "prune": ("tuning_logs",),
    "imported": ("tuning_logs", "report", "quiet", "as_json"),
}
"""What is done without a MODEL, and the options that go with it."""
MEASURING = ("tracker", "device_key", "work_dir", "tuning_logs", "report", "as_json", "timeout", "memory")
"""The options that do not go with --build."""


def _check_usage(context: typer.Context) -> None:
    """Refuse options that would be ignored.

    Raises:
        InputError: there are some, or it is not said what to do.
    """
    flags = {
        p.name: "MODEL" if p.param_type_name == "argument" else "/".join([*p.opts, *p.secondary_opts])
        for p in context.command.params
    }
    sources = {name: context.get_parameter_source(name) for name in flags if name}
    given = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    modes = [name for name in RECORDS if name in given]
    if len(modes) > 1:
        raise InputError(f"{' and '.join(flags[mode] for mode in modes)} can't be given together")
    for mode in modes:
        if ignored := [flags[name] for name in given if name not in (mode, *RECORDS[mode])]:
            raise InputError(f"{flags[mode]} takes no {' or '.join(ignored)}")
    if not modes and "model" not in given:
        raise InputError("name a MODEL to tune, or give one of " + ", ".join(flags[name] for name in RECORDS))
    if "build" in given and (ignored := [flags[name] for name in MEASURING if name in given]):
        raise InputError(f"--build takes no {' or '.join(ignored)}: it measures nothing and leaves no record")


@command
def main(
    context: typer.Context,
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL]", help="XGBoost .json or .ubj, or LightGBM .txt file.", show_default=False),
    ] = None,
    target: Annotated[str, typer.Option(help="As for compile.")] = "llvm",
    trials: Annotated[int, typer.Option(min=2, help="How many candidates to measure.")] = 64,
    data: Annotated[
        Path | None, typer.Option(help="Rows as will be predicted: .csv, .tsv, .parquet or .npy.", show_default=False)
    ] = None,
    header: Header = True,
    drop: Drop = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            help="Rows per call that matter; may be repeated. [default: 1 to 8192, of a GPU 1 to 1048576]",
        ),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write an HTML page of the search.", show_default=False)] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but errors.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="A line of JSON for each trial, and one for the record.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
    timeout: Annotated[float, typer.Option(help="Seconds that a candidate may take.")] = 60.0,
    memory: Annotated[float, typer.Option(help="GiB that a candidate may take.")] = 4.0,
    work_dir: Annotated[
        Path | None, typer.Option(help="Where trials are kept. [default: in the user's cache]", show_default=False)
    ] = None,
    tuning_logs: Annotated[
        Path | None, typer.Option(help="Folder of records. [default: the user's]", show_default=False)
    ] = None,
    tracker: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="TVM RPC tracker of devices.", show_default=False)
    ] = None,
    device_key: Annotated[str | None, typer.Option(help="Key of the devices.", show_default=False)] = None,
    build: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write candidates, for woodpecker measure elsewhere.", show_default=False),
    ] = None,
    imported: Annotated[
        Path | None, typer.Option("--import", metavar="DIR", help="Take what was measured in DIR.", show_default=False)
    ] = None,
    listing: Annotated[bool, typer.Option("--list", help="Show all records that compile looks into.")] = False,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the best records to one file.", show_default=False)
    ] = None,
    merge: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Add the records of a folder or file; may be repeated.", show_default=False),
    ] = None,
    prune: Annotated[bool, typer.Option("--prune", help="Keep the best records, drop those that are refused.")] = False,
    missing: Missing = math.nan,
    iteration_range: IterationRange = None,
) -> None:
    """Measure many ways to run MODEL, and leave a record that later compilations use.

    Each candidate is compiled and timed in a process of its own, and its scores are compared to the bit. Interrupt the
    job, and the same command goes on where it was. The plan that compile would choose stays, unless another one is
    faster in a paired run at the end.

    \b
    Examples:
      woodpecker tune model.ubj --trials 100
      woodpecker tune model.txt --data rows.parquet --drop target --report report.html
      woodpecker tune model.ubj --tracker 10.0.0.7:9190 --device-key board
      woodpecker tune model.ubj --target cuda
      woodpecker tune model.ubj --build candidates --target aarch64
      woodpecker tune --import candidates
      woodpecker tune --list
    """
    _check_usage(context)
    if listing:
        return show_list(tuning_logs, as_json)
    if export:
        return show_export(tuning_logs, export)
    if merge:
        return show_merge(tuning_logs, merge)
    if prune:
        return show_prune(tuning_logs)
    if imported is not None:
        from ..tuning.halves import take

        if report is not None:
            from ..runtime.files import check_output

            check_output(report)
        return _show(take(imported, tuning_logs=tuning_logs), report, quiet, as_json)
    assert model is not None  # else one of the others was given
    check_input(model)
    if report is not None:
        from ..runtime.files import check_output

        check_output(report, model)
    from ..frontend import to_forest
    from ..tuning import offline

    forest = to_forest(model, missing=missing, iteration_range=parse_range(iteration_range))
    X = None if data is None else _rows(data, forest, header, drop or [])
    common: dict[str, Any] = {
        "target": target,
        "trials": trials,
        "data": X,
        "batches": tuple(batch) if batch else None,
        "seed": seed,
    }
    if build is not None:
        from ..runtime import candidates
        from ..tuning.halves import READ_ME, make

        with _shown(trials, quiet, "building") as seen:
            count = make(forest, build, progress=seen, **common)
        if not quiet:
            where = candidates.needs(candidates.read_list(build)["resolved"])
            typer.echo(f"{build}: {count} candidates, to be measured on {where}")
            typer.echo(
                f"copy {build} to the device and run `woodpecker measure {build}` there; {READ_ME} in it says more"
            )
        return None
    try:
        with _shown(trials, quiet or as_json, "tuning") as seen:
            result = offline.tune(
                forest,
                **common,
                tracker=tracker,
                device_key=device_key,
                timeout=timeout,
                memory=memory,
                work_dir=work_dir,
                tuning_logs=tuning_logs,
                progress=_line if as_json else seen,
            )
    except KeyboardInterrupt:
        note("what was measured is kept; the same command goes on from there")
        raise
    return _show(result, report, quiet, as_json)


def _rows(path: Path, forest: Any, header: bool, drop: list[str]) -> np.ndarray:
    from ..runtime.rows import InputSpec, read_rows
    from .tables import open_table

    check_input(path)
    spec = InputSpec.of_forest(forest)
    blocks: list[np.ndarray] = []
    for chunk in open_table(path, spec, header=header, drop=drop).chunks():
        blocks += [np.array(block) for _, _, block in read_rows(chunk, spec).blocks()]
        if sum(map(len, blocks)) >= MAX_ROWS:
            note(f"of {path} the first {sum(map(len, blocks)):,} rows are used")
            break
    if not blocks:
        raise InputError(f"{path} holds no rows")
    return np.concatenate(blocks)


def _line(trial: Mapping[str, Any]) -> None:
    typer.echo(json.dumps(trial, sort_keys=True))


@contextlib.contextmanager
def _shown(trials: int, quiet: bool, what: str) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A bar on stderr with the best times so far."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from ..tuning.report import progress_text

    seen: list[Mapping[str, Any]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=trials)

        def advance(trial: Mapping[str, Any]) -> None:
            seen.append(trial)
            bar.update(task, advance=1, description=f"{what}: {progress_text(seen)}")

        yield advance


def _show(result: TuningRecords, report: Path | None, quiet: bool, as_json: bool) -> None:
    from ..runtime.files import atomic_path
    from ..tuning.report import failures, page, plan_text, ranking

    if report is not None:
        with atomic_path(report) as staged:
            staged.write_text(page(result))
    if as_json:
        typer.echo(result.record.line.rstrip("\n"))
    if quiet or as_json:
        return
    from rich.console import Console
    from rich.table import Table

    sizes = sorted(result.record.ns_per_row, key=int)
    table = Table(title=f"{result.record.model}: ns per row, by rows per call")
    table.add_column("plan", overflow="fold")
    for name in (*(f"{int(b):,}" for b in sizes), "gain"):
        table.add_column(name, justify="right")
    for trial, gain in ranking(result)[:8]:
        table.add_row(plan_text(trial["plan"]), *(f"{trial['ns'][b]:,.1f}" for b in sizes), f"{gain:.2f}")
    console = Console(markup=False, highlight=False)
    console.print(table)
    for status, count in sorted(failures(result).items()):
        typer.echo(f"{count} of {len(result.trials)} candidates: {status}")
    typer.echo(f"chosen: {plan_text(result.record.plan)}")
    typer.echo(f"gain over the default in the paired run: {result.record.gain:.2f} ({result.verdict})")
    typer.echo(f"record: {result.path}")
