"""The folder of candidates that ``woodpecker tune --build DIR`` writes and ``woodpecker measure DIR`` adds results to.

It holds candidates as shared libraries, their models, rows, the scores that these must have, and what was measured.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArtifactError, InputError, TargetError
from . import machine, measure_cuda, strict_json
from .files import check_path

LIST, ROWS, WANTED, TRIALS, PAIRED = "candidates.json", "rows.npy", "wanted.npy", "trials.jsonl", "paired.json"
FORMAT = 2
HOPEFUL = 1.05
"""A trial with this share of the default's time may still be faster: each was measured in a moment of its own."""
TOLERATED = 1.1
LOCK = ".lock"
CUDA, MAX_BATCH = "cuda", 2**20
"""The kind of targets that are GPUs, and the rows that one of their calls has at most."""

Trial = Mapping[str, Any]


def read_list(folder: Path) -> dict[str, Any]:
    """The candidates of a folder, and what they have in common.

    Raises:
        InputError: the folder holds none, or they are of another format.
    """
    path = check_path(folder) / LIST
    if not path.is_file():
        raise InputError(f"{folder} holds no candidates: woodpecker tune MODEL --build {folder} writes them")
    listed = strict_json.read(path)
    try:
        version = listed["format"]
        if version == FORMAT:
            sizes = [*listed["batches"], listed["n_rows"]]
            where = listed["resolved"]
            on_gpu = where.get("kind") == CUDA
            if on_gpu:
                names = [where["name"], *where["archs"]]
            else:
                sizes += [c["scratch_bytes"] for c in listed["candidates"]]
                names = [where[name] for name in ("system", "machine", "libc", "cpu")] + where["features"]
            names += [
                listed["symbol"],
                listed["job"],
                *(c[name] for c in listed["candidates"] for name in ("code", "model")),
            ]
            names += [*listed["digests"], *listed["digests"].values()]
            whole = all(type(n) is int and n > 0 for n in sizes) and all(type(name) is str for name in names)
            if not whole or max(listed["batches"]) > (MAX_BATCH if on_gpu else listed["n_rows"]):
                raise ValueError("a size or a name is none")
            places = {key(c["plan"]) for c in listed["candidates"]}
            if key(listed["default"]) not in places:
                raise ValueError("the default plan is not among the candidates")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if version != FORMAT:
        raise InputError(f"{path} has format {version!r}; this woodpecker reads format {FORMAT}")
    return dict(listed)


def read_trials(folder: Path, batches: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """The results so far, of these batch sizes only where they are given; a line that was cut short is ignored."""
    path = folder / TRIALS
    trials = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            trial = strict_json.parse(line)
        except InputError:
            continue
        if _whole(trial) and (
            batches is None or trial["status"] != "ok" or trial["ns"].keys() == {str(n) for n in batches}
        ):
            trials.append(trial)
    return trials


def results(folder: Path, listed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The results so far of the candidates of a list.

    Raises:
        InputError: they are of other candidates, which may have the same plans.
    """
    trials = read_trials(folder, listed["batches"])
    if any(trial.get("job") != listed["job"] for trial in trials):
        raise InputError(
            f"{folder / TRIALS} holds results of another build, of another model, target or rows: bring those of this "
            "one, or remove the file and measure again"
        )
    return trials


def _whole(trial: Any) -> bool:
    if not isinstance(trial, dict) or not isinstance(trial.get("plan"), list) or "status" not in trial:
        return False
    times = trial.get("ns")
    return trial["status"] != "ok" or (
        isinstance(times, dict) and all(isinstance(ns, (int, float)) and 0 < ns < math.inf for ns in times.values())
    )


def succeeded(trials: Sequence[Trial]) -> list[Trial]:
    """Those that were measured, unless the same plan was found to be wrong later."""
    wrong = {key(t["plan"]) for t in trials if t["status"] == "wrong"}
    return [t for t in trials if t["status"] == "ok" and key(t["plan"]) not in wrong]


def key(plan: Any) -> str:
    """Equal for equal plans."""
    return json.dumps(list(plan), sort_keys=True)


def score(trial: Trial, default: Trial) -> float:
    """Geometric mean over the batch sizes of the time over the default's."""
    return float(np.exp(np.mean([math.log(trial["ns"][b] / default["ns"][b]) for b in default["ns"]])))


def _worst(trial: Trial, default: Trial) -> float:
    return max(float(trial["ns"][b] / default["ns"][b]) for b in default["ns"])


def faster(trials: Sequence[Trial], default: Any) -> list[Trial]:
    """The trials that may be faster than the default plan, the best first; none where that was not measured."""
    done = succeeded(trials)
    base = next((t for t in done if key(t["plan"]) == key(default)), None)
    if base is None:
        return []
    others = [t for t in done if t is not base and score(t, base) < HOPEFUL]
    # One that is clearly slower at a batch size will not be chosen, however fast it is at the others.
    return sorted(others, key=lambda t: (_worst(t, base) > TOLERATED, score(t, base)))


@contextlib.contextmanager
def locked(folder: Path, advice: str = "wait for it") -> Iterator[None]:
    """One job at a time in a folder.

    Raises:
        InputError: another job is running there. OSError: the folder can't be written.
    """
    descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another tuning job is running in {folder}: {advice}") from None
        yield
    finally:
        os.close(descriptor)


def runs(resolved: Mapping[str, Any]) -> bool:
    """Whether this machine, or its first GPU, runs code for a target."""
    if resolved.get("kind") != CUDA:
        return machine.runs(resolved)
    try:
        measure_cuda.check_here(resolved["archs"])
    except TargetError:
        return False
    return True


def needs(resolved: Mapping[str, Any]) -> str:
    """What code for a target runs on, for people."""
    return measure_cuda.needs(resolved["archs"]) if resolved.get("kind") == CUDA else machine.needs([resolved])


def check_device(folder: Path, listed: Mapping[str, Any]) -> None:
    """Refuse candidates that can't run here, and folders that were copied in part."""
    if listed["resolved"].get("kind") == CUDA:
        measure_cuda.check_here(listed["resolved"]["archs"])
    elif not machine.runs(listed["resolved"]):
        raise ArtifactError(
            f"the candidates in {folder} are for {machine.mismatch([listed['resolved']])}. Measure them on such a "
            "device, or make others for this one: woodpecker tune MODEL --build DIR --target TARGET"
        )
    names = {ROWS, WANTED, *(c[name] for c in listed["candidates"] for name in ("code", "model"))}
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise InputError(
            f"{folder} lacks {missing[0]}{f' and {len(missing) - 1} other files' if missing[1:] else ''}: copy all of "
            "the folder that woodpecker tune --build wrote"
        )
    if other := sorted(name for name in names if digest(folder / name) != listed["digests"].get(name)):
        raise InputError(
            f"{folder / other[0]} is not as woodpecker tune --build wrote it, cut short or of another build: copy all "
            "of that folder again"
        )


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
