"""Tuning in two halves, for devices that can't be reached: candidates are made here, for this machine's CPU or another,
measured there by `woodpecker.runtime.on_device` with the runtime alone, and what was measured becomes a record here.

The folder is a work folder (`woodpecker.tuning.store`) with the candidates beside, and what it takes to check them
there: rows, and the scores that this machine computed of them. Made again after it was measured,
it gets a second round: candidates near the leaders of the first, and plans that are joined from them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__, toolchain
from ..errors import InputError, TargetError, WoodpeckerError
from ..predicates import canonicalise
from ..relay_ops.plan import make_plan, steps_of
from ..runtime import candidates, machine, strict_json
from ..runtime.files import atomic_path, check_path
from ..targets import CpuTarget, import_tvm
from ..targets_cuda import KIND, CudaTarget
from . import offline, records, search, store
from . import space as spaces
from .candidate import SYMBOL
from .gpu import DEVICE, PLANS
from .job import Job, describe, log_folder, new_job, prepare, today
from .offline import Progress, Runner, TuningRecords
from .pool import Pool
from .records import PlanSteps, Record
from .shape import digest, gpu_key, shape_class, target_key

BUILD_SECONDS = 300.0
BUILD_BYTES = 8 * 2**30
READ_ME = "README.txt"
PLAUSIBLE = (1e-3, 1e15)
"""ns a row."""


def make(
    model: Any,
    folder: Any,
    *,
    target: Any = "llvm",
    trials: int = 64,
    data: Any = None,
    batches: Sequence[int] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    missing: float = math.nan,
    iteration_range: tuple[int, int] | None = None,
) -> int:
    """Write candidates for a device, and what it takes to check and time them there.

    Args:
        model, target, data, batches, seed, missing, iteration_range: See `woodpecker.tune`.
        folder: Where to; a new one, or one that this function has made for the same model.
        trials: How many candidates to add.
        progress: Called with each candidate.

    Returns:
        How many candidates there are that were not measured yet.

    Raises:
        InputError, TargetError, ...: see `woodpecker.tune`. TargetError, too, where candidates can't be made for the
            target's system, or the default plan can't be made for its CPU. MissingExtraError: there is no linker for
            its platform.
    """
    job = new_job(model, target, trials, data, batches, seed, check_path(folder), missing, iteration_range, remote=True)
    if (
        isinstance(job.where, CpuTarget) and job.where.system != "linux"
    ):  # elsewhere a library has to name the one that TVM's code takes a function from
        system = machine.SYSTEMS[job.where.system]
        raise TargetError(
            f"target {job.where.name!r} is {system}, and candidates are made for Linux only: compile without tuning, "
            "or tune on a Linux machine with the same CPU"
        )
    if isinstance(job.where, CpuTarget):
        toolchain.find(job.where.platform)
    command = [sys.executable, *offline.WORKER, str(job.folder), str(BUILD_BYTES)]
    with store.locked(job.folder), Pool(command, job.folder / store.LOG, lambda asked: BUILD_SECONDS) as pool:
        prepare(job)
        Runner(pool, job, 1).prepare()
        listed = _listed(job, *_candidates(job.folder))
        made, measured = listed["candidates"], candidates.results(job.folder, listed)
        digests = listed["digests"]
        digests |= {name: candidates.digest(job.folder / name) for name in (candidates.ROWS, candidates.WANTED)}
        pending = [tuple(c["plan"]) for c in made if not _has(measured, c["plan"])]
        wanted = iter(_plans(job, measured, pending))

        def next_job() -> Mapping[str, Any] | None:
            plan = next(wanted, None)
            return None if plan is None else {"do": "build", "plan": list(plan), "place": len(made)}

        for asked, result in pool.run(next_job):
            if result["status"] == "ok":
                made.append({"plan": asked["plan"], **result["files"]})
                names = result["files"]["code"], result["files"]["model"]
                digests |= {name: candidates.digest(job.folder / name) for name in names}
                store.write_json(job.folder / candidates.LIST, listed)
            elif not made:  # the first one is the default plan, without which there is nothing to compare with
                raise TargetError(f"the default plan can't be made for {job.where.name!r}: {result.get('message')}")
            if progress is not None:
                progress({"plan": asked["plan"], **result})
        with atomic_path(job.folder / READ_ME) as staged:
            staged.write_text(_read_me(job), encoding="utf-8")
    return sum(not _has(measured, c["plan"]) for c in made)


def _read_me(job: Job) -> str:
    """What to do with the folder, for whoever finds it on the device."""
    name = shlex.quote(job.folder.name)
    return f"""\
Candidates of woodpecker {__version__} for {describe(job.forest)}.
They are to be measured on {candidates.needs(job.settings["resolved"])}.

1. Copy this folder, all of it, to the device. What is needed there is Python with woodpecker's base package, which
   needs numpy and apache-tvm-ffi; no compiler, no TVM, and not the library that trained the model.

2. Measure there, while nothing else is running:

       woodpecker measure {name}

   (without the extra cli: python -m woodpecker.runtime.on_device {name}). Each candidate's scores are compared to the
   bit before its time counts. It may be interrupted: the same command goes on where it was.

3. Bring the folder back, or just {candidates.TRIALS} and {candidates.PAIRED}, into the folder that it was copied
   from, and

       woodpecker tune --import {name}

   makes the record that later compilations use.
"""


def _candidates(folder: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Those that were made already, and the digests of all files for the device."""
    if not (folder / candidates.LIST).exists():
        return [], {}
    listed = candidates.read_list(folder)
    return list(listed["candidates"]), dict(listed["digests"])


def _has(trials: Sequence[Mapping[str, Any]], plan: Any) -> bool:
    return any(candidates.key(t["plan"]) == candidates.key(plan) for t in trials)


def _plans(job: Job, measured: Sequence[Mapping[str, Any]], pending: list[PlanSteps]) -> list[PlanSteps]:
    """What to make: as the search would try, and beside each plan of one strategy the one that compile would make of
    it, which leaves few rows to another strategy."""
    total = len(measured) + len(pending) + job.search.trials
    what = dataclasses.replace(job.search, trials=total)
    found: list[PlanSteps] = []
    seen = {candidates.key(plan) for plan in pending} | {candidates.key(t["plan"]) for t in measured}
    while len(found) < job.search.trials:
        known = [*pending, *found]
        plan = search.next_plan(what, measured, known) or search.next_plan(what, measured, known, join=True)
        if plan is None:
            break
        completed = None
        if len(plan) == 1 and isinstance(job.where, CpuTarget):
            step = plan[0]
            completed = steps_of(make_plan(job.canonical, step["strategy"], step["options"], job.where.features))
        for each in (plan, completed):
            if each is not None and candidates.key(each) not in seen and len(found) < job.search.trials:
                seen.add(candidates.key(each))
                found.append(each)
    return found


def _listed(job: Job, made: list[dict[str, Any]], digests: dict[str, str]) -> dict[str, Any]:
    return {
        "format": candidates.FORMAT,
        "job": _build_of(job.settings),
        "symbol": SYMBOL,
        "resolved": job.settings["resolved"],
        "batches": list(job.search.batches),
        "n_rows": job.n_rows,
        "default": list(job.search.default),
        "candidates": made,
        "digests": digests,
        "model": describe(job.forest),
        "dtype": job.dtype,
        "rows": job.rows,
    }


def _build_of(settings: Mapping[str, Any]) -> str:
    """Equal for builds whose candidates of one plan are the same code, and are measured in the same way."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def take(folder: Any, *, tuning_logs: Any = None) -> TuningRecords:
    """Make a record of what was measured in a folder.

    Args:
        folder: What `make` wrote and `woodpecker measure` has measured.
        tuning_logs: The folder to add the record to; None: the user's.

    Raises:
        InputError: it was not measured to the end, or made by another version of woodpecker or TVM; or the results are
            those of another build, or damaged.
    """
    into = log_folder(tuning_logs)
    place = check_path(folder).absolute()
    listed = candidates.read_list(place)
    try:
        record, trials, reason = _judged(place, listed)
        records.from_json(strict_json.parse(record.line))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        if isinstance(error, WoodpeckerError):
            raise
        raise InputError(f"{folder} is damaged ({type(error).__name__}: {error}): make and measure it again") from error
    path = records.append(into, record)
    return TuningRecords(record, path, tuple(trials), reason, place)


def _verified(
    place: Path, listed: Mapping[str, Any], plans: list[PlanSteps], times: list[Any]
) -> tuple[list[PlanSteps], search.Verdict]:
    """The plans of a paired run less those that would win but whose entries differ from the interpreter's, and the
    verdict. Where this machine can't run their code, what the device has compared must do."""
    if not candidates.runs(listed["resolved"]):
        return plans, search.judge(plans, times)
    command = [sys.executable, *offline.WORKER, str(place), str(BUILD_BYTES)]
    if listed["resolved"].get("kind") == KIND:
        command += [DEVICE]
    with (
        tempfile.TemporaryDirectory(prefix="woodpecker-") as apart,
        Pool(command, Path(apart) / store.LOG, lambda asked: BUILD_SECONDS) as pool,
    ):
        while (verdict := search.judge(plans, times)).winner:
            asked = {"do": "verify", "plan": list(plans[verdict.winner])}
            ((_, checked),) = pool.run(iter([asked, None]).__next__)
            if checked["status"] == "ok":
                break
            plans, times = ([one for i, one in enumerate(each) if i != verdict.winner] for each in (plans, times))
    return plans, verdict


def _judged(place: Path, listed: Mapping[str, Any]) -> tuple[Record, list[dict[str, Any]], str]:
    """The record, the trials, and why."""
    settings = strict_json.read(place / store.TASK)
    versions = {"woodpecker": __version__, "tvm": str(import_tvm().__version__)}
    if settings["versions"] != versions:
        raise InputError(f"{place} was made by {settings['versions']}, and this is {versions}: make it again")
    if listed["job"] != _build_of(settings):
        raise InputError(f"{place / candidates.LIST} and {place / store.TASK} are of different builds: make it again")
    trials = candidates.results(place, listed)
    absent = sum(not _has(trials, c["plan"]) for c in listed["candidates"])
    paired = strict_json.read(place / candidates.PAIRED) if (place / candidates.PAIRED).exists() else None
    if paired is not None and paired["job"] != listed["job"]:
        raise InputError(f"{place / candidates.PAIRED} is of another build: bring the results of this one")
    if absent or paired is None or paired["trials"] != len(trials):
        some = f" ({absent} of {len(listed['candidates'])} candidates are left)" if absent else ""
        raise InputError(f"{place} was not measured to the end{some}: run woodpecker measure {place} on the device")
    default: PlanSteps = tuple(listed["default"])
    done = {candidates.key(t["plan"]): t for t in candidates.succeeded(trials)}
    measured = done.get(candidates.key(default))
    if measured is None:
        failed = next(t for t in reversed(trials) if candidates.key(t["plan"]) == candidates.key(default))
        raise InputError(
            f"{place}: the default plan was not measured, so that there is nothing to compare with; it ended as "
            f"{failed['status']}: {failed.get('message', '')}"
        )
    first = candidates.key(paired["plans"][0]) if paired["plans"] else candidates.key(default)
    if first != candidates.key(default) or any(candidates.key(plan) not in done for plan in paired["plans"]):
        raise ValueError(f"{candidates.PAIRED} holds plans that were not measured")
    samples = (ns for times in paired["times"] for some in times.values() for ns in some)
    if not all(PLAUSIBLE[0] < ns < PLAUSIBLE[1] for ns in samples):
        raise ValueError(f"{candidates.PAIRED} holds a time that is none")
    forest = store.load_forest(place / store.FOREST)
    if digest(forest) != settings["digest"]:
        raise InputError(f"{place / store.FOREST} is another model than candidates were made of: make them again")
    canonical = canonicalise(forest)
    if paired["plans"]:
        plans, verdict = _verified(place, listed, [tuple(plan) for plan in paired["plans"]], paired["times"])
    else:
        plans, verdict = [default], search.Verdict(0, 1.0, (measured["ns"],), "no other plan was faster")
    where = store.resolved_target(settings)
    kind = PLANS if isinstance(where, CudaTarget) else spaces.CPU
    if spaces.resolved(canonical, plans[verdict.winner], kind) is None:
        raise InputError(f"{place}: the fastest plan can't serve the model: the folder is damaged")
    record = Record(
        digest=settings["digest"],
        shape=shape_class(canonical),
        target=gpu_key(paired["gpu"]) if isinstance(where, CudaTarget) else target_key(where, int(paired["cores"])),
        plan=plans[verdict.winner],
        default=default,
        ns_per_row=verdict.ns[verdict.winner],
        default_ns_per_row=verdict.ns[0],
        gain=verdict.gain,
        model=listed["model"],
        dtype=listed["dtype"],
        rows=listed["rows"],
        trials=len(trials),
        seed=int(settings["seed"]),
        date=today(),
        versions=versions,
    )
    return record, trials, verdict.reason
