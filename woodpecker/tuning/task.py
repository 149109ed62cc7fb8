"""What a worker is given: a task, and a device to run candidates on.

Apart from `worker`, which runs as a program: its own classes are then others than those that its name imports.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..layout import Layout
from ..predicates import Canonical, canonicalise
from ..relay_ops.plan import Step
from ..runtime import candidates, measure, strict_json
from ..schedules.cpu import tables_of
from ..targets import CpuTarget
from ..targets_cuda import CudaTarget
from . import store


@dataclass(frozen=True)
class Task:
    """What a worker holds: the model, the rows, and where they are."""

    folder: Path
    canonical: Canonical
    tables: Callable[[Step], Layout]
    where: CpuTarget | CudaTarget
    X: np.ndarray
    n_rows: int
    batches: tuple[int, ...]

    @property
    def cpu(self) -> CpuTarget:
        """The target of a task that is for a CPU."""
        return cast(CpuTarget, self.where)

    @property
    def entry(self) -> str:
        return "raw_f32" if self.X.dtype == np.float32 else "raw_f64"

    @property
    def wanted(self) -> np.ndarray:
        loaded: np.ndarray = np.load(self.folder / candidates.WANTED, allow_pickle=False)
        return loaded


Open = Callable[[Task, Any, str, np.ndarray], tuple[Any, measure.Clock]]
"""(task, code, entry, rows) -> a candidate's entry on a device: `candidate.Code` and `measure.Compute` of a CPU,
`candidate_cuda.GpuCode` and `measure_cuda.Compute` of a GPU."""
Device = Callable[[float], AbstractContextManager[Open]]
"""A device for the time of a job, which may take this many times as long as one candidate."""


class DeviceLostError(Exception):
    """The device went away: it says nothing about the candidate."""


def load_task(folder: Path) -> Task:
    """The task of a work folder."""
    settings = strict_json.read(folder / store.TASK)
    where = store.resolved_target(settings)
    forest = store.load_forest(folder / store.FOREST)
    X = np.load(folder / candidates.ROWS, allow_pickle=False)
    canonical = canonicalise(forest)
    tables = tables_of(canonical)
    return Task(folder, canonical, tables, where, X, settings["n_rows"], tuple(settings["batches"]))


def scores_of(task: Task, entry: str, n: int) -> np.ndarray:
    """An array for what an entry computes of n rows."""
    forest = task.canonical.forest
    if entry.startswith("raw"):
        return np.empty((n, forest.n_outputs), forest.values.dtype)
    return np.empty((n, forest.n_trees), np.int32)
