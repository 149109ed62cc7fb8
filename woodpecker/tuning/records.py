"""Records of tuning jobs: JSON lines, one a finished job, in ``<folder>/<target>/<shape class>.jsonl``.

A record says which plan was the fastest for a forest on a device, by how much, and how that was measured. Records of
another format, or of another version of TVM, are refused, with the reason: their times are those of other code.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..runtime import strict_json
from ..runtime.files import append_line, atomic_path, check_output, check_path
from .shape import ShapeClass, TargetKey, shape_from_json, target_from_json, to_json

FORMAT = 1
LOCK = ".lock"
MAX_GAIN, MAX_NS = 1_000_000, 1e15
MAX_NAME = 200
"""Characters of a folder's or a file's name that is made of a record's strings; file systems take 255 bytes."""
MAX_SIZE = 2**31 - 1
"""Of all sizes that a record's shape class and target are made of."""

PlanSteps = tuple[Mapping[str, Any], ...]
"""A plan as JSON values: {"min_rows", "strategy", "options"} for each step."""


@dataclass(frozen=True)
class Record:
    """The result of one tuning job.

    Args:
        digest: Of the forest; see `woodpecker.tuning.shape.digest`.
        shape: Its shape class.
        target: Where it was measured.
        plan: The plan to use; the default one where no other was confirmed to be faster.
        default: What `auto` chose without records.
        ns_per_row, default_ns_per_row: Rows per call -> median time, from the paired run.
        gain: Geometric mean over the batches of default time / time; 1.0 where the default stays.
        model: What was tuned, for people.
        dtype: Dtype of the rows, "float32" or "float64".
        rows: "given" by the user or "sampled" from the forest.
        trials: Candidates that were measured.
        seed: Of the search.
        date: Day, as YYYY-MM-DD.
        versions: "woodpecker" and "tvm".
    """

    digest: str
    shape: ShapeClass
    target: TargetKey
    plan: PlanSteps
    default: PlanSteps
    ns_per_row: Mapping[str, float]
    default_ns_per_row: Mapping[str, float]
    gain: float
    model: str
    dtype: str
    rows: str
    trials: int
    seed: int
    date: str
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields |= {"shape": to_json(self.shape), "target": to_json(self.target)}
        return {"format": FORMAT, **fields}

    @property
    def line(self) -> str:
        """The record as a line of its file; equal records give equal lines."""
        return json.dumps(self.to_json(), sort_keys=True, allow_nan=False) + "\n"


@dataclass(frozen=True)
class Entry:
    """A line of a log.

    Args:
        path, line: Where it stands.
        record: What it says, or None where it is refused.
        refused: Why.
    """

    path: Path
    line: int
    record: Record | None
    refused: str = ""


_TYPES = {
    "digest": str, "plan": list, "default": list, "ns_per_row": dict, "default_ns_per_row": dict, "gain": float,
    "model": str, "dtype": str, "rows": str, "trials": int, "seed": int, "date": str, "versions": dict,
}  # fmt: skip


def from_json(data: Any, tvm_version: str | None = None) -> Record:
    """The record of a parsed line.

    Args:
        data: What the line holds.
        tvm_version: The version that its code would be made with; None: any.

    Raises:
        InputError: it is no record, is of another format, or was measured with another version of TVM.
    """
    if not isinstance(data, dict) or "format" not in data:
        raise InputError("this is no tuning record")
    if data["format"] != FORMAT:
        raise InputError(f"the record has format {data['format']!r}; this woodpecker reads format {FORMAT}")
    fields = {name: value for name, value in data.items() if name != "format"}
    for name in sorted(Record.__dataclass_fields__.keys() ^ fields.keys()):
        known = name in Record.__dataclass_fields__
        raise InputError(f"the record's field {name!r} is {'absent' if known else 'unknown'}")
    for name, kind in _TYPES.items():
        if type(fields[name]) is not kind:
            raise InputError(f"the record's {name} must be {kind.__name__}, found {str(fields[name])[:40]!r}")
    if not 0 < fields["gain"] <= MAX_GAIN:
        raise InputError(f"the record's gain must be above 0 and at most {MAX_GAIN:,}, found {fields['gain']!r}")
    for name, choices in (("dtype", ("float32", "float64")), ("rows", ("given", "sampled"))):
        if fields[name] not in choices:
            raise InputError(f"the record's {name} must be {' or '.join(choices)}, found {fields[name][:40]!r}")
    if not all(isinstance(version, str) for version in fields["versions"].values()):
        raise InputError("the record's versions must be strings")
    for name in ("shape", "target"):
        if not isinstance(fields[name], dict):
            raise InputError(f"the record's {name} must be an object")
    for step in (*fields["plan"], *fields["default"]):
        if not isinstance(step, dict) or set(step) != {"min_rows", "strategy", "options"}:
            raise InputError("a step of the record's plan must hold min_rows, strategy and options")
        kinds = {"min_rows": int, "strategy": str, "options": dict}
        if not all(isinstance(step[name], kind) for name, kind in kinds.items()):
            raise InputError("a step of the record's plan must hold an integer, a name and an object of options")
    for name in ("ns_per_row", "default_ns_per_row"):
        for rows, ns in fields[name].items():
            if not rows.isdecimal() or type(ns) not in (int, float) or not 0 < ns <= MAX_NS:
                raise InputError(f"the record's {name} must hold times by numbers of rows, found {str(rows)[:20]!r}")
    if tvm_version is not None and fields["versions"].get("tvm") != tvm_version:
        raise InputError(f"it was measured with TVM {fields['versions'].get('tvm')}; this is TVM {tvm_version}")
    shape, target = shape_from_json(fields["shape"]), target_from_json(fields["target"])
    plans = {name: tuple(fields[name]) for name in ("plan", "default")}
    _check_names(shape, target)
    _check_characters(data)
    return Record(**{**fields, **plans, "shape": shape, "target": target})


def _check_characters(value: Any) -> None:
    """Refuse control characters, which a terminal would obey: records come from anyone."""
    if isinstance(value, str) and any(unicodedata.category(c) in ("Cc", "Cf") for c in value):
        raise InputError(f"the record holds a control character: {value[:40]!r}")
    if isinstance(value, dict):
        value = [*value, *value.values()]
    for part in value if isinstance(value, (list, tuple)) else ():
        _check_characters(part)


def _check_names(shape: ShapeClass, target: TargetKey) -> None:
    """Refuse strings that would make another path than one of a log: records come from anyone."""
    named = [(name, getattr(target, name)) for name in ("kind", "machine", "cpu")]
    named += [("features", feature) for feature in target.features]
    named += [(name, getattr(shape, name)) for name in ("acc_dtype", "input_dtype", "leaf")]
    for name, text in named:
        if not re.fullmatch(r"[A-Za-z0-9._+-]+", text) or ".." in text:
            raise InputError(f"the record's {name} must be of letters, digits and ._+-, found {text[:40]!r}")
    for name, value in {**to_json(shape), **to_json(target)}.items():
        if type(value) is int and not 0 <= value <= MAX_SIZE:
            raise InputError(f"the record's {name} must be from 0 to {MAX_SIZE:,}, found {str(value)[:40]}")
    if max(len(shape.name), len(target.name)) > MAX_NAME:
        raise InputError(f"the record's shape and target must have names of at most {MAX_NAME} characters")


def read_file(path: Path, tvm_version: str | None = None) -> list[Entry]:
    """All lines of a log, refused ones too.

    Raises:
        OSError: it can't be read.
    """
    entries = []
    for number, text in enumerate(path.read_text(errors="replace").splitlines(), 1):
        if not text.strip():
            continue
        try:
            record = from_json(strict_json.parse(text), tvm_version)
            json.dumps(record.to_json(), ensure_ascii=False).encode()  # half a surrogate pair can't be printed
        except ValueError as error:  # InputError is one, and so is what encoding raises
            entries.append(Entry(path, number, None, str(error)))
        else:
            entries.append(Entry(path, number, record))
    return entries


def files(folder: Path, of: Callable[[str], bool] | None = None) -> list[Path]:
    """The logs of a folder, or of a file: those of targets for whose `TargetKey.stem` ``of`` is true."""
    if folder.is_file():
        return [folder]
    found = sorted(p for p in folder.glob("*/*.jsonl") if p.is_file())  # reading a pipe would wait for ever
    return found if of is None else [p for p in found if of(p.parent.name.rpartition("-")[0])]


def read(folder: Path, tvm_version: str | None = None, of: Callable[[str], bool] | None = None) -> list[Entry]:
    """All lines of all logs of a folder, or of a file; ``of`` as for `files`."""
    return [entry for path in files(folder, of) for entry in read_file(path, tvm_version)]


def log_path(folder: Path, record: Record) -> Path:
    return folder / record.target.name / f"{record.shape.name}.jsonl"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer of a folder at a time, whichever process it is in."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def check_folder(folder: Path) -> None:
    """Find out before the work, not after it, that records can't be written.

    Raises:
        OSError: they can't.
    """
    with _locked(folder):
        pass


def append(folder: Path, record: Record) -> Path:
    """Add a record to a folder of logs, and return the file.

    Raises:
        InputError: ``folder`` is no path. OSError: it can't be written.
    """
    with _locked(check_path(folder)):
        path = log_path(folder, record)
        path.parent.mkdir(exist_ok=True)
        append_line(path, record.line)
    return path


def best(records: Iterable[Record]) -> dict[tuple[str, str, str], Record]:
    """(digest, target, dtype) -> the record with the greatest gain, of equals the newest."""
    kept: dict[tuple[str, str, str], Record] = {}
    for record in records:
        key = (record.digest, record.target.name, record.dtype)
        if key not in kept or (record.gain, record.date) >= (kept[key].gain, kept[key].date):
            kept[key] = record
    return kept


def merge(folder: Path, sources: Sequence[Path], tvm_version: str) -> tuple[int, list[Entry]]:
    """Add the records of other folders or files to a folder.

    Returns:
        How many were added (those that it has already are not), and the lines that were refused.

    Raises:
        InputError: a source does not exist. OSError: something can't be read or written.
    """
    for source in sources:
        if not check_path(source).exists():
            raise InputError(f"there is no folder or file {source} to merge")
    given = [entry for source in sources for entry in read(source, tvm_version)]
    present = {entry.record.line for entry in read(folder) if entry.record} if folder.exists() else set()
    added = 0
    for entry in given:
        if entry.record is not None and entry.record.line not in present:
            append(folder, entry.record)
            present.add(entry.record.line)
            added += 1
    return added, [entry for entry in given if entry.record is None]


def export(folder: Path, output: Path, tvm_version: str) -> tuple[int, list[Entry]]:
    """Write the best records of a folder to one file, which ``tuning_logs=`` and `merge` take. Atomic.

    Returns:
        How many, and the lines that were refused.

    Raises:
        InputError: ``output`` is one of the logs. OSError: something can't be read or written.
    """
    check_output(output, *files(folder))
    entries = read(folder, tvm_version)
    kept = best(entry.record for entry in entries if entry.record is not None)
    with atomic_path(output) as staged:
        staged.write_text("".join(kept[key].line for key in sorted(kept)))
    return len(kept), [entry for entry in entries if entry.record is None]


def prune(folder: Path, tvm_version: str) -> tuple[int, int]:
    """Keep the best record of each forest, target and dtype, and drop what is refused.

    Returns:
        How many lines stay, how many went.

    Raises:
        OSError: something can't be read or written.
    """
    stay = gone = 0
    with _locked(folder):
        entries = read(folder, tvm_version)
        kept = {record.line for record in best(e.record for e in entries if e.record is not None).values()}
        for path in files(folder):
            here = [entry for entry in entries if entry.path == path]
            lines = list(dict.fromkeys(e.record.line for e in here if e.record is not None and e.record.line in kept))
            kept -= set(lines)
            stay, gone = stay + len(lines), gone + len(here) - len(lines)
            if len(lines) == len(here):
                continue
            if lines:
                with atomic_path(path) as staged:
                    staged.write_text("".join(lines))
            else:
                path.unlink()
    return stay, gone
