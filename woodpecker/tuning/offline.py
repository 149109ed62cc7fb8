"""tune(): a job from a model to a record."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, TargetError
from ..runtime import candidates, measure
from ..targets_cuda import CudaTarget
from . import records, search, store
from .job import Job, describe, log_folder, new_job, prepare, today
from .pool import Pool
from .records import PlanSteps, Record
from .search import Trial, Verdict, plan_in
from .shape import TargetKey, gpu_key, shape_class, target_key

WORKER = ("-m", "woodpecker.tuning.worker")
QUEUE_SECONDS = 60.0
"""How long a candidate may wait for a device of the tracker."""
AGAIN_ROUNDS = 7
PLACEMENTS, PLACEMENT_ROUNDS = 3, 5
"""The paired run is made in so many parts, of so many rounds each: where tables happen to lie in memory makes the same
code faster or slower by a third in a whole part."""
MAX_GIB = 2.0**20
MAX_LOST = 2
"""A device that goes away in the middle of a trial costs the trial nothing, this many times."""

Progress = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class TuningRecords:
    """What a job found.

    Args:
        record: The record that later compilations use.
        path: The log that it was added to.
        trials: Everything that was tried: {"plan", "status"}, "ns" where it was measured, "message" where it was not.
        verdict: Why its plan was chosen, for people.
        work_dir: The work folder.
    """

    record: Record
    path: Path
    trials: tuple[Trial, ...]
    verdict: str
    work_dir: Path

    @property
    def gain(self) -> float:
        """How many times as fast as the default, over the batch sizes; 1.0 where the default stays."""
        return self.record.gain


def tune(
    model: Any,
    *,
    target: Any = "llvm",
    trials: int = 64,
    data: Any = None,
    batches: Sequence[int] | None = None,
    tracker: str | None = None,
    device_key: str | None = None,
    seed: int = 0,
    timeout: float = 60.0,
    memory: float = 4.0,
    work_dir: Any = None,
    tuning_logs: Any = None,
    progress: Progress | None = None,
    missing: float = math.nan,
    iteration_range: tuple[int, int] | None = None,
) -> TuningRecords:
    """Find the fastest plan for a model by measuring, and leave a record that later compilations use.

    Each candidate is compiled in a process of its own, its raw scores are compared with the interpreter's to the bit,
    and only then its time counts. What is measured is kept in the work folder at once: interrupt the job, and the same
    call goes on where it was. One thread is measured, or this process's first GPU, with rows that are in its memory.

    Args:
        model, target, missing, iteration_range: See `woodpecker.compile`; but one target only.
        trials: How many candidates to measure.
        data: Rows such as will be predicted, of any kind that ``predict`` takes; float32 or float64 decides which
            entry is tuned. None: float32 rows drawn along root-to-leaf paths, by the training cover where there is one.
        batches: Rows per call that matter, each as much as any other; None: 1 to 8,192, of a GPU 1 to 1,048,576.
        tracker: "HOST:PORT" of a TVM RPC tracker: candidates are measured on its devices, as many at once as there are.
        device_key: The key of these devices.
        seed: Of everything that is drawn.
        timeout: Seconds that a candidate may take; it is ended then.
        memory: GiB that a candidate may take more than its process has.
        work_dir: Work folder; None: one in the user's cache, by model, target and seed.
        tuning_logs: The folder to add the record to; None: the user's, see `woodpecker.tuning.logs`.
        progress: Called with each trial as it is finished.

    Raises:
        InputError: an argument is wrong, or another job is running in the work folder. TargetError: the target is
            unknown, can't be measured here, or means several CPU levels; or a measuring process does not start.
            MissingExtraError: TVM, or what its RPC needs, is not installed. And what `woodpecker.compile` raises for
            the model.
    """
    into = log_folder(tuning_logs)
    if (tracker is None) != (device_key is None):
        raise InputError("tracker and device_key go together: give both, or none of them")
    measure.check_positive("timeout", timeout, measure.MAX_SECONDS, "s")
    measure.check_positive("memory", memory, MAX_GIB, "GiB")
    if tracker is not None:
        from .remote import address

        address(tracker)
        if not isinstance(device_key, str):
            raise InputError(f"device_key must be a str, found {device_key!r}")
    job = new_job(model, target, trials, data, batches, seed, work_dir, missing, iteration_range, tracker is not None)
    if isinstance(job.where, CudaTarget) and tracker is not None:
        raise TargetError(
            f"candidates for {job.where.name!r} are not measured behind a tracker: tune on the GPU's machine, or "
            "in two halves (woodpecker tune --build)"
        )
    command = [sys.executable, *WORKER, str(job.folder), str(int(memory * 2**30))]
    workers, cores = 1, None
    if tracker is not None and device_key is not None:
        from .remote import devices

        workers, cores = devices(tracker, device_key), 0
        command += [tracker, device_key, str(timeout)]
    elif isinstance(job.where, CudaTarget):
        from .gpu import DEVICE

        command += [DEVICE]
    elif not job.where.native:
        raise TargetError(
            f"code for target {job.where.name!r} does not run on this machine: measure it on a device, with tracker "
            "and device_key, or in two halves (woodpecker tune --build)"
        )
    seconds = timeout if tracker is None else 2 * timeout + QUEUE_SECONDS

    def limit(asked: Mapping[str, Any]) -> float:
        return seconds * (len(asked.get("plans", ())) + 1 if "plans" in asked else 1)

    records.check_folder(into)
    with store.locked(job.folder), Pool(command, job.folder / store.LOG, limit) as pool:
        prepare(job)
        run = Runner(pool, job, workers)
        run.prepare()
        run.search(progress)
        done = search.remeasured(candidates.read_trials(job.folder))
        verdict, plans = run.confirm(done)
        record = make_record(job, done, verdict, plans, cores)
        path = records.append(into, record)
    return TuningRecords(record, path, tuple(done), verdict.reason, job.folder)


class Runner:
    """Runs the parts of a job in the workers of a pool."""

    def __init__(self, pool: Pool, job: Job, workers: int) -> None:
        self._pool, self._job, self._workers = pool, job, workers

    def _one(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The result of one job; where a device goes away, of another attempt."""
        result: dict[str, Any] = {"status": "lost"}
        for _ in range(MAX_LOST + 1):
            ((_, result),) = self._pool.run(iter([asked, None]).__next__)
            if result["status"] != "lost":
                break
        return result

    def prepare(self) -> None:
        """Compute the scores that every candidate must have."""
        if (self._job.folder / candidates.WANTED).exists():
            return
        result = self._one({"do": "prepare"})
        if result["status"] != "ok":
            raise TargetError(f"the scores to compare with can't be computed: {result.get('message')}")

    def search(self, progress: Progress | None) -> None:
        """Make the trials that the journal does not have yet."""
        what = self._job.search
        self._try(search.explored(what), False, progress)
        journal = candidates.read_trials(self._job.folder)
        if len(search.remeasured(journal)) < what.trials and not any(t.get("again") for t in journal):
            self._again(search.remeasured(journal))
        self._try(what.trials, True, progress)

    def _again(self, trials: Sequence[Trial]) -> None:
        """Measure the leaders in turn."""
        plans = search.leaders(self._job.search, trials)
        result = self._one({"do": "compare", "plans": [list(plan) for plan in plans], "rounds": AGAIN_ROUNDS})
        for plan, times in zip(plans, result.get("times", ()), strict=False):
            ns = {batch: round(float(np.median(samples)), 3) for batch, samples in times.items()}
            store.add_trial(self._job.folder, {"plan": list(plan), "status": "ok", "ns": ns, "again": True})

    def _try(self, end: int, join: bool, progress: Progress | None) -> None:
        """Further trials, until there are ``end`` of them, or no more in the space."""
        job = self._job
        trials = search.remeasured(candidates.read_trials(job.folder))
        pending: list[PlanSteps] = []
        lost: list[tuple[PlanSteps, int]] = []

        def next_job() -> Mapping[str, Any] | None:
            attempt = 0
            plan: PlanSteps | None
            if lost:
                plan, attempt = lost.pop()
            elif len(trials) + len(pending) >= end:
                plan = None
            else:
                plan = search.next_plan(job.search, trials, pending, join)
            if plan is None:
                return None
            pending.append(plan)
            best = search.best_times(trials)
            return {"do": "measure", "plan": list(plan), "best": best, "attempt": attempt}

        for asked, result in self._pool.run(next_job, self._workers):
            plan = tuple(asked["plan"])
            pending.remove(plan)
            if result["status"] == "lost" and asked["attempt"] < MAX_LOST:
                lost.append((plan, asked["attempt"] + 1))
                continue
            trial = {"plan": list(plan), **result}
            if result["status"] == "lost":
                trial["status"] = "crashed"
            store.add_trial(job.folder, trial)
            trials.append(trial)
            if progress is not None:
                progress(trial)

    def _paired(self, plans: Sequence[PlanSteps]) -> list[dict[str, list[float]]] | None:
        """All samples of each plan, from several parts, each with tables placed anew; None where a part failed."""
        asked = {"do": "compare", "plans": [list(plan) for plan in plans], "rounds": PLACEMENT_ROUNDS}
        parts = []
        for _ in range(PLACEMENTS):
            result = self._one(asked)
            if result["status"] != "ok":
                return None
            parts.append(result["times"])
        return [
            {batch: [ns for part in parts for ns in part[i][batch]] for batch in parts[0][i]} for i in range(len(plans))
        ]

    def confirm(self, trials: Sequence[Trial]) -> tuple[Verdict, list[PlanSteps]]:
        """The verdict of a paired run of the finalists, on the machine as it is now; and what ran."""
        plans = search.finalists(self._job.search, trials)
        while len(plans) > 1:
            times = self._paired(plans)
            if times is None:
                # Each was right and in time alone: without the last of them it is a smaller job.
                plans = plans[:-1]
                continue
            verdict = search.judge(plans, times)
            if verdict.winner == 0:
                return verdict, plans
            checked = self._one({"do": "verify", "plan": list(plans[verdict.winner])})
            if checked["status"] == "ok":
                return verdict, plans
            store.add_trial(self._job.folder, {**checked, "plan": list(plans[verdict.winner])})
            del plans[verdict.winner]
        found = [t for t in trials if plan_in(t) == self._job.search.default and t["status"] == "ok"]
        if not found:
            raise TargetError(f"the default plan could not be measured: {_why(trials, self._job.search.default)}")
        return Verdict(0, 1.0, (found[0]["ns"],), "no other plan was faster"), plans


def _why(trials: Sequence[Trial], plan: PlanSteps) -> str:
    return next((f"{t['status']}: {t.get('message', '')}" for t in trials if plan_in(t) == plan), "it was not tried")


def _key(job: Job, cores: int | None) -> TargetKey:
    if isinstance(job.where, CudaTarget):
        return gpu_key(job.settings["gpu"])
    return target_key(job.where, cores)


def make_record(
    job: Job, trials: Sequence[Trial], verdict: Verdict, plans: Sequence[PlanSteps], cores: int | None
) -> Record:
    """The record of a job's outcome."""
    return Record(
        digest=job.settings["digest"],
        shape=shape_class(job.canonical),
        target=_key(job, cores),
        plan=plans[verdict.winner],
        default=job.search.default,
        ns_per_row=verdict.ns[verdict.winner],
        default_ns_per_row=verdict.ns[0],
        gain=verdict.gain,
        model=describe(job.forest),
        dtype=job.dtype,
        rows=job.rows,
        trials=len(trials),
        seed=job.search.seed,
        date=today(),
        versions=dict(job.settings["versions"]),
    )
