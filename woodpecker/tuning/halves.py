"""Tuning in two halves, for devices that can't be reached: candidates are made here, measured there by
`woodpecker.runtime.candidates` with the runtime alone, and what was measured becomes a record here.

The folder is a work folder (`woodpecker.tuning.store`) with the candidates beside. Made again after it was measured,
it gets a second round: candidates near the leaders of the first, and plans that are joined from them.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

from .. import __version__
from ..errors import ArtifactError, InputError, TargetError, WoodpeckerError
from ..predicates import canonicalise
from ..relay_ops.plan import make_plan, steps_of
from ..runtime import candidates, machine, strict_json
from ..runtime.files import check_path
from ..targets import import_tvm
from . import offline, records, search, store
from . import space as spaces
from .candidate import SYMBOL
from .job import BATCHES, Job, describe, log_folder, new_job, prepare, today
from .offline import Progress, Runner, TuningRecords
from .pool import Pool
from .records import PlanSteps, Record
from .shape import shape_class, target_key

BUILD_SECONDS = 300.0
BUILD_BYTES = 8 * 2**30


def make(
    model: Any,
    folder: Any,
    *,
    target: Any = "llvm",
    trials: int = 64,
    data: Any = None,
    batches: Sequence[int] = BATCHES,
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
        InputError, TargetError, ...: see `woodpecker.tune`.
    """
    job = new_job(model, target, trials, data, batches, seed, check_path(folder), missing, iteration_range, remote=True)
    if not job.where.native:
        raise TargetError(
            f"code for target {job.where.name!r} does not run on this machine, which has to compute the scores that "
            "the candidates are compared with"
        )
    command = [sys.executable, *offline.WORKER, str(job.folder), str(BUILD_BYTES)]
    with store.locked(job.folder), Pool(command, job.folder / store.LOG, lambda asked: BUILD_SECONDS) as pool:
        prepare(job)
        Runner(pool, job, 1).prepare()
        made, measured = _candidates(job.folder), candidates.read_trials(job.folder)
        pending = [tuple(c["plan"]) for c in made if not _has(measured, c["plan"])]
        wanted = iter(_plans(job, measured, pending))

        def next_job() -> Mapping[str, Any] | None:
            plan = next(wanted, None)
            return None if plan is None else {"do": "build", "plan": list(plan), "place": len(made)}

        for asked, result in pool.run(next_job):
            if result["status"] == "ok":
                made.append({"plan": asked["plan"], **result["files"]})
                store.write_json(job.folder / candidates.LIST, _listed(job, made))
            if progress is not None:
                progress({"plan": asked["plan"], **result})
    return sum(not _has(measured, c["plan"]) for c in made)


def _candidates(folder: Path) -> list[dict[str, Any]]:
    if not (folder / candidates.LIST).exists():
        return []
    return list(candidates.read_list(folder)["candidates"])


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
        plan = search.next_plan(what, measured, [*pending, *found])
        if plan is None:
            break
        completed = None
        if len(plan) == 1:
            step = plan[0]
            completed = steps_of(make_plan(job.canonical, step["strategy"], step["options"], job.where.features))
        for each in (plan, completed):
            if each is not None and candidates.key(each) not in seen and len(found) < job.search.trials:
                seen.add(candidates.key(each))
                found.append(each)
    return found


def _listed(job: Job, made: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "format": candidates.FORMAT,
        "symbol": SYMBOL,
        "resolved": job.settings["resolved"],
        "batches": list(job.search.batches),
        "n_rows": job.n_rows,
        "default": list(job.search.default),
        "candidates": list(made),
        "model": describe(job.forest),
        "dtype": job.dtype,
        "rows": job.rows,
    }


def take(folder: Any, *, tuning_logs: Any = None) -> TuningRecords:
    """Make a record of what was measured in a folder.

    Args:
        folder: What `make` wrote and `woodpecker measure` has measured.
        tuning_logs: The folder to add the record to; None: the user's.

    Raises:
        InputError: nothing was measured there, or it was made by another version of woodpecker or TVM.
    """
    into = log_folder(tuning_logs)
    place = check_path(folder).absolute()
    listed = candidates.read_list(place)
    try:
        record, trials, reason = _judged(place, listed)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, BadZipFile) as error:
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
    try:
        machine.check([listed["resolved"]], str(place))
    except ArtifactError:
        return plans, search.judge(plans, times)
    command = [sys.executable, *offline.WORKER, str(place), str(BUILD_BYTES)]
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
    trials = candidates.read_trials(place, listed["batches"])
    if not (place / candidates.PAIRED).exists():
        raise InputError(f"{place} was not measured to the end: run woodpecker measure {place} on the device")
    paired = strict_json.read(place / candidates.PAIRED)
    default: PlanSteps = tuple(listed["default"])
    done = candidates.succeeded(trials)
    measured = next((t for t in done if candidates.key(t["plan"]) == candidates.key(default)), None)
    if measured is None:
        raise InputError(f"{place}: the default plan was not measured, so that there is nothing to compare with")
    canonical = canonicalise(store.load_forest(place / store.FOREST))
    if paired["plans"]:
        plans, verdict = _verified(place, listed, [tuple(plan) for plan in paired["plans"]], paired["times"])
    else:
        plans, verdict = [default], search.Verdict(0, 1.0, (measured["ns"],), "no other plan was faster")
    where = store.resolved_target(settings)
    if spaces.resolved(canonical, plans[verdict.winner]) is None:
        raise InputError(f"{place}: the fastest plan can't serve the model: the folder is damaged")
    record = Record(
        digest=settings["digest"],
        shape=shape_class(canonical),
        target=target_key(where, int(paired["cores"])),
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
