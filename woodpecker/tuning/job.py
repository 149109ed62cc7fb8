"""A tuning job before it runs: what is asked for, checked, and its work folder."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputError, TargetError, UnsupportedModelError
from ..forest import Forest
from ..frontend import to_forest
from ..predicates import Canonical, canonicalise
from ..runtime import candidates, machine
from ..runtime.files import check_path
from ..targets import CpuTarget, import_tvm, resolve_targets
from ..targets_cuda import CudaTarget
from . import logs, rows, store
from .search import Search
from .shape import digest, target_key

BATCHES = (1, 16, 64, 256, 1024, 8192)
N_ROWS, N_CHECK = 16384, 1024
LEAST_ROWS = 1024
"""Distinct rows of a job for a GPU, whose largest batch is smaller."""


@dataclass(frozen=True)
class Job:
    """Everything about a job before it runs; see `tune` for the arguments."""

    forest: Forest
    canonical: Canonical
    where: CpuTarget | CudaTarget
    search: Search
    dtype: str
    rows: str
    n_rows: int
    X: np.ndarray | None
    folder: Path
    settings: Mapping[str, Any]


def log_folder(tuning_logs: Any) -> Path:
    """The folder that records are added to.

    Raises:
        InputError: ``tuning_logs`` is something else.
    """
    given = logs.paths(tuning_logs)
    if given is None:
        return logs.user_folders()[0]
    if len(given) != 1 or given[0].is_file():
        raise InputError("tuning_logs must be one folder, which the record is added to")
    return given[0]


def new_job(
    model: Any,
    target: Any,
    trials: int,
    data: Any,
    batches: Sequence[int] | None,
    seed: int,
    work_dir: Any,
    missing: float,
    iteration_range: tuple[int, int] | None,
    remote: bool = False,
) -> Job:
    """A checked job.

    Raises:
        InputError, TargetError, UnsupportedModelError, ...: see `tune`.
    """
    for name, value, least in (("trials", trials, 2), ("seed", seed, 0)):
        if type(value) is not int or value < least:
            raise InputError(f"{name} must be an integer of at least {least}, found {value!r}")
    several = batches is None or (isinstance(batches, Sequence) and len(batches) > 0)
    if not several or any(type(b) is not int or not 1 <= b <= 2**20 for b in batches or ()):
        raise InputError(f"batches must be integers from 1 to {2**20:,}, in a list, found {str(batches)[:80]}")
    tvm = import_tvm()
    where, settings = _target(target, remote)
    forest = to_forest(model, missing=missing, iteration_range=iteration_range)
    if forest.n_trees == 0:
        raise UnsupportedModelError("the model has no trees: there is nothing to tune")
    canonical = canonicalise(forest)
    what, n_rows = _search(canonical, where, batches, trials, seed)
    X = None if data is None else rows.given(forest, data, n_rows, seed)
    dtype = "float32" if X is None else str(X.dtype)
    settings = {
        "digest": digest(forest),
        **settings,
        "batches": what.batches,
        "n_rows": n_rows,
        "seed": seed,
        "rows": "sampled" if X is None else hashlib.sha256(X.data).hexdigest()[:32],
        "remote": remote,
        "versions": {"woodpecker": __version__, "tvm": tvm.__version__},
    }
    name = f"{settings['digest'][:12]}-{settings['target']}-{dtype}-s{seed}{'-rpc' if remote else ''}"
    folder = store.default_folder(name) if work_dir is None else check_path(work_dir)
    kind = "sampled" if X is None else "given"
    return Job(forest, canonical, where, what, dtype, kind, n_rows, X, folder.absolute(), settings)


def _target(target: Any, remote: bool) -> tuple[CpuTarget | CudaTarget, dict[str, Any]]:
    """The target of a job, and what its settings say of it.

    Raises:
        TargetError: it is unknown or several, or nothing can be measured of it.
    """
    (where, *others), gpu = resolve_targets(target)
    if gpu is not None:
        from . import gpu as gpus

        alone = gpus.alone(target, gpu)
        found, facts = (alone, None) if remote else gpus.here(alone)
        return found, gpus.settings(found, facts)
    if others:
        names = ", ".join(level.name for level in (where, *others))
        raise TargetError(
            f"target means {1 + len(others)} CPU levels ({names}), and a tuning job is for one: run a job for each; "
            "compile looks for a record of each level"
        )
    if where.system == machine.WEBASSEMBLY:
        raise TargetError(
            f"code for target {where.name!r} runs in WebAssembly engines, which candidates can't be measured in: name "
            "the strategy to compile instead"
        )
    return where, {"target": target_key(where, 0 if remote else None).name, "resolved": asdict(where)}


def _search(
    canonical: Canonical, where: CpuTarget | CudaTarget, batches: Sequence[int] | None, trials: int, seed: int
) -> tuple[Search, int]:
    """What a job searches, and how many rows are drawn for it."""
    from ..relay_ops.plan import make_plan, steps_of
    from .space import space_of

    n_features = canonical.forest.n_features
    if isinstance(where, CudaTarget):
        from . import gpu

        # They are repeated in the memory of the GPU, which takes more than one would carry there.
        most = gpu.most_rows(canonical)
        sizes = tuple(sorted({min(b, most) for b in batches or gpu.BATCHES}))
        space, default = gpu.space(canonical), gpu.default_plan(canonical)
        what = Search(canonical, space, (), default, sizes, trials, seed, gpu.PLANS)
        return what, rows.rows_that_fit(min(N_ROWS, max(LEAST_ROWS, *sizes)), n_features)
    n_rows = rows.rows_that_fit(max(N_ROWS, 2 * max(batches or BATCHES)), n_features)
    sizes = tuple(sorted({min(b, n_rows) for b in batches or BATCHES}))
    default = steps_of(make_plan(canonical, "auto", {}, where.features))
    return Search(canonical, space_of(canonical), where.features, default, sizes, trials, seed), n_rows


def prepare(job: Job) -> None:
    """Write the work folder of a job, unless it is there."""
    store.begin(job.folder, job.settings)
    if (job.folder / candidates.ROWS).exists():
        return
    seed = job.search.seed
    X = rows.sampled(job.canonical, job.n_rows, seed, job.dtype) if job.X is None else job.X
    check = rows.boundary(job.canonical, X, min(N_CHECK, job.n_rows), seed)
    if job.forest.linear_offset is not None:  # sums over huge values may become NaN, whose bits say nothing
        check = np.where(np.abs(check) > 1e6, 0.0, check).astype(check.dtype)
    store.save_forest(job.folder / store.FOREST, job.forest)
    store.write_array(job.folder / candidates.ROWS, np.concatenate([X, check]))


def describe(forest: Forest) -> str:
    """A model in a few words."""
    name = " ".join(str(forest.source[k]) for k in ("library", "estimator", "objective") if forest.source.get(k))
    return f"{name or 'a forest'}, {forest.n_trees:,} trees, {forest.n_features:,} features"


def today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()
