"""``woodpecker tune --list``, ``--export``, ``--merge`` and ``--prune``: what is done with records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .common import note

if TYPE_CHECKING:
    from ..tuning.records import Entry


def _tvm_version() -> str:
    from ..targets import import_tvm

    return str(import_tvm().__version__)


def _folder(tuning_logs: Path | None) -> Path:
    from ..tuning.job import log_folder

    folder = log_folder(tuning_logs)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder} of tuning records")
    return folder


def _warn(refused: Sequence[Entry]) -> None:
    for entry in refused:
        note(f"{entry.path}, line {entry.line}: {entry.refused}")


def show_list(tuning_logs: Path | None, as_json: bool) -> None:
    """All records, in the order in which compile looks into their folders."""
    from ..tuning import logs, records
    from ..tuning.report import plan_text

    version = _tvm_version()
    for kind, folder in logs.find(tuning_logs):
        for entry in records.read(folder, version):
            if as_json:
                record = None if entry.record is None else entry.record.to_json()
                facts = {"logs": kind, "path": str(entry.path), "line": entry.line, "refused": entry.refused}
                typer.echo(json.dumps({**facts, "record": record}, sort_keys=True))
            elif entry.record is None:
                typer.echo(f"{entry.path}:{entry.line}: refused: {entry.refused}")
            else:
                r = entry.record
                typer.echo(
                    f"{entry.path}:{entry.line}: {r.model}, {r.dtype}, {r.target.name}: gain {r.gain:.2f}, "
                    f"{plan_text(r.plan)} ({r.trials} trials, {r.date})"
                )


def show_export(tuning_logs: Path | None, output: Path) -> None:
    """The best records as one file."""
    from ..tuning import records

    count, refused = records.export(_folder(tuning_logs), output, _tvm_version())
    _warn(refused)
    typer.echo(f"{output}: {count} records")


def show_merge(tuning_logs: Path | None, sources: Sequence[Path]) -> None:
    """Records of others into a folder."""
    from ..tuning import records
    from ..tuning.job import log_folder

    folder = log_folder(tuning_logs)
    added, refused = records.merge(folder, sources, _tvm_version())
    _warn(refused)
    typer.echo(f"{folder}: {added} records added")


def show_prune(tuning_logs: Path | None) -> None:
    """The best records stay."""
    from ..tuning import records

    folder = _folder(tuning_logs)
    stay, gone = records.prune(folder, _tvm_version())
    typer.echo(f"{folder}: {stay} records stay, {gone} lines dropped")
