"""What is different about a job for GPUs: its plans, its target, and the device of its workers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from ..errors import TargetError
from ..predicates import Canonical
from ..relay_ops.plan import steps_of
from ..runtime import cuda_driver, measure, measure_cuda
from ..schedules import cuda_plan
from ..targets_cuda import KIND, CudaTarget
from .candidate_cuda import GpuCode
from .records import PlanSteps
from .shape import gpu_key
from .space import Kind
from .task import Device, Open, Task, scores_of

BATCHES = (1, 64, 1024, 8192, 65536, 1048576)
DEVICE = "cuda:0"
"""What a worker is told: it measures on the first GPU that the process sees."""

PLANS = Kind(cuda_plan.plan_of, lambda canonical, space, features: cuda_plan.by_estimate(canonical, space), joins=False)


def default_plan(canonical: Canonical) -> PlanSteps:
    return steps_of((cuda_plan.make_plan(canonical, "auto", {}),))


def space(canonical: Canonical) -> dict[str, dict[str, tuple[int, ...]]]:
    return cuda_plan.space(canonical)


def most_rows(canonical: Canonical) -> int:
    """Rows that fit into what a job takes of a GPU's memory."""
    forest = canonical.forest
    return max(1, measure_cuda.MAX_BYTES // (8 * (forest.n_features + forest.n_outputs)))


def alone(target: Any, gpu: CudaTarget) -> CudaTarget:
    """The CUDA target of a job.

    Raises:
        TargetError: it comes with CPUs.
    """
    if isinstance(target, (list, tuple)) and len(target) > 1:
        raise TargetError(
            f"target names CPUs beside {gpu.name!r}, and a tuning job is for one: run a job for each; compile looks "
            "for records of both"
        )
    return gpu


def here(gpu: CudaTarget) -> tuple[CudaTarget, dict[str, Any]]:
    """The target with the one architecture whose code this machine's GPU takes, and the facts of that GPU.

    Raises:
        TargetError: there is no GPU, or it takes none of the code.
    """
    facts = measure_cuda.check_here(gpu.archs)
    return CudaTarget(gpu.name, (measure_cuda.chosen(gpu.archs, facts["arch"]).arch,)), facts


def settings(where: CudaTarget, facts: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a job's settings say of its target; ``facts`` None: the GPU is not known yet."""
    name = "-".join([KIND, *where.archs]) if facts is None else gpu_key(facts).name
    return {"target": name, "resolved": {"kind": KIND, **asdict(where)}, "gpu": facts}


def gpu_device() -> Device:
    """This process's first GPU, for a worker.

    Raises:
        TargetError: there is none.
    """
    on = cuda_driver.device()
    placed: list[tuple[np.ndarray, measure_cuda.Rows]] = []

    def rows_of(task: Task, X: np.ndarray) -> measure_cuda.Rows:
        """The task's rows stay where they are from one candidate to the next."""
        if X is not task.X:
            return measure_cuda.place(on, X, len(X), len(X))
        if not placed:
            placed.append((X, measure_cuda.place(on, X, task.n_rows, resident_rows(task))))
        return placed[0][1]

    def opened(task: Task, code: GpuCode, entry: str, X: np.ndarray) -> tuple[measure_cuda.Compute, measure.Clock]:
        model = measure_cuda.load(code.candidate, code.blob, on)
        scores = scores_of(task, entry, 0)
        return measure_cuda.bind(model, rows_of(task, X), entry.partition("_")[0], scores.shape[1], scores.dtype)

    @contextlib.contextmanager
    def device(_: float) -> Iterator[Open]:
        yield opened

    return device


def resident_rows(task: Task) -> int:
    return measure_cuda.resident_rows(task.n_rows, task.batches)
