"""The work folder of a job: the model, the rows, what scores they must have, and the journal of all trials.

task.json       settings: what the job is; a folder serves one job, which the same command resumes
forest.npz      the model's arrays
rows.npy        rows to measure with, then rows to check with
wanted.npy      their raw scores
trials.jsonl    a line a trial
worker.log      what the measuring processes said
tmp             their temporary files, while they run
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..forest import Forest
from ..runtime import candidates, strict_json
from ..runtime.candidates import TRIALS
from ..runtime.files import append_line, atomic_path
from ..targets import CpuTarget
from ..targets_cuda import KIND, CudaTarget
from .shape import scoring_arrays, scoring_scalars

TASK, FOREST, LOG, TEMPORARY = "task.json", "forest.npz", "worker.log", "tmp"


def default_folder(name: str) -> Path:
    """The work folder of a job of this name in the user's cache."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(home) / "woodpecker" / "tune" / name


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One job at a time in a work folder.

    Raises:
        InputError: another job is running there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with candidates.locked(folder, "wait for it, or name another folder as work_dir"):
        yield


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    with atomic_path(path) as staged:
        staged.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def write_array(path: Path, array: np.ndarray) -> None:
    with atomic_path(path) as staged, staged.open("wb") as file:
        np.save(file, array)


def begin(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Claim a folder for a job, whose lock is held; what a killed job left half-written there is removed.

    Returns:
        Whether the job was begun before, and goes on.

    Raises:
        InputError: the folder belongs to another job, or is no work folder. OSError: it can't be written.
    """
    settings = json.loads(json.dumps(settings))
    path = folder / TASK
    if path.exists():
        try:
            found = strict_json.read(path)
        except InputError as error:
            raise InputError(f"{error}; remove the folder, or name another one as work_dir") from None
        found = found if isinstance(found, dict) else {}
        if different := sorted(k for k in settings if settings[k] != found.get(k)):
            raise InputError(
                f"{folder} belongs to another job, which differs in {', '.join(different)}: remove the folder, or name "
                "another one as work_dir"
            )
        _clean(folder)
        return True
    # A job that was killed while it wrote the settings leaves nothing but half of them.
    if any(p.name != candidates.LOCK and not _HALF_WRITTEN.fullmatch(p.name) for p in folder.iterdir()):
        raise InputError(f"{folder} is no work folder of a tuning job, and not empty: name another one as work_dir")
    _clean(folder)
    write_json(path, settings)
    return False


_HALF_WRITTEN = re.compile(r"\.woodpecker-[0-9a-f]{12}")
"""What `woodpecker.runtime.files.atomic_path` writes to."""


def _clean(folder: Path) -> None:
    for path in [p for p in folder.iterdir() if _HALF_WRITTEN.fullmatch(p.name)]:
        path.unlink()
    shutil.rmtree(folder / TEMPORARY, ignore_errors=True)


def resolved_target(settings: Mapping[str, Any]) -> CpuTarget | CudaTarget:
    """The target of a folder's settings, which hold the fields of a resolved one."""
    fields = settings["resolved"]
    if fields.get("kind") == KIND:
        return CudaTarget(fields["name"], tuple(fields["archs"]))
    return CpuTarget(**{**fields, "features": tuple(fields["features"])})


def save_forest(path: Path, forest: Forest) -> None:
    """Everything that tables and scores are made of. What methods return, labels and names are left out."""
    arrays = scoring_arrays(forest)
    if forest.cover is not None:
        arrays["cover"] = forest.cover
    text = np.frombuffer(json.dumps(scoring_scalars(forest)).encode(), np.uint8)
    with atomic_path(path) as staged, staged.open("wb") as file:
        np.savez(file, allow_pickle=False, **(arrays | {"scalars": text}))


def load_forest(path: Path) -> Forest:
    """The inverse of `save_forest`.

    Raises:
        InputError: the file is damaged. OSError: it can't be read.
    """
    data = io.BytesIO(path.read_bytes())
    try:
        with np.load(data, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        scalars = json.loads(arrays.pop("scalars").tobytes())
        for name in ("missing_value", "zero_band"):
            scalars[name] = float.fromhex(scalars[name])
        known = {int(name.removeprefix("known_")): arrays.pop(name) for name in [*arrays] if name.startswith("known_")}
        return Forest(**arrays, **scalars, known_categories=known)
    except Exception as error:  # numpy and zipfile raise a dozen types here
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}): make it again") from error


def add_trial(folder: Path, trial: Mapping[str, Any]) -> None:
    append_line(folder / TRIALS, json.dumps(trial, sort_keys=True) + "\n")
