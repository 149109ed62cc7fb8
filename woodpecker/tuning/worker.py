"""The process that compiles, checks and times candidates: ``python -m woodpecker.tuning.worker FOLDER``.

Jobs come as lines of JSON on stdin, and each is answered by one on stdout. What a candidate can do to its process, by
a crash, a hang or all the memory, it does here, and `woodpecker.tuning.pool` starts another one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from .. import reference
from ..errors import WoodpeckerError
from ..manifest import ENTRIES
from ..relay_ops import tree_traversal
from ..relay_ops.plan import plan_of
from ..runtime import candidates, measure, measure_cuda
from ..runtime.cuda_driver import DriverError
from ..runtime.files import atomic_path
from ..targets import CpuTarget, resolve
from ..targets_cuda import CudaTarget
from . import candidate, candidate_cuda, gpu, store
from .candidate import SYMBOL, Code, code_of
from .candidate_cuda import GpuCode
from .task import Device, DeviceLostError, Open, Task, load_task, scores_of

ORACLE_STEPS = 2e7
"""Steps of rows through trees that the interpreter is given: a few seconds."""
MEASURE_ROUNDS = 5


def limit_memory(extra: int) -> None:
    """Let this process take ``extra`` bytes more than it has; asking for more is a MemoryError, or its end."""
    status = Path("/proc/self/status").read_text()
    held = int(status.partition("VmData:")[2].split()[0]) * 1024
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (held + extra, hard))


def answer(task: Task, job: Mapping[str, Any], device: Device) -> dict[str, Any]:
    """The answer to a job."""
    do: dict[str, Callable[[Task, Mapping[str, Any], Open], dict[str, Any]]] = {
        "prepare": _prepare,
        "measure": _measure,
        "compare": _compare,
        "verify": _verify,
        "build": _build,
    }
    try:
        with device(len(job.get("plans", ())) + 1 if "plans" in job else 1) as opened:
            return do[job["do"]](task, job, opened)
    except MemoryError:
        return {"status": "memory", "message": "more memory than the limit allows"}
    except DeviceLostError as error:
        return {"status": "lost", "message": str(error)}
    except DriverError as error:  # nothing more can be had of the driver in this process
        return {"status": "lost", "message": str(error), "ended": True}
    except WoodpeckerError as error:
        return {"status": "refused", "message": str(error)}
    except Exception as error:  # whatever a candidate does is a fact about the candidate
        lines = str(error).strip().splitlines()
        return {"status": "error", "message": f"{type(error).__name__}: {lines[-1] if lines else ''}"[:500]}


def in_process(task: Task, code: Code, entry: str, X: np.ndarray) -> tuple[measure.Compute, measure.Clock]:
    """A candidate by JIT in this process."""
    function = candidate.build(code, task.cpu, entry)[SYMBOL]
    out = scores_of(task, entry, len(X))
    run = measure.bind(function, X, out, code.scratch_bytes, code.blob)
    return measure.compute_of(run, out), measure.clock_of(run)


def _prepare(task: Task, job: Mapping[str, Any], opened: Open) -> dict[str, Any]:
    """Write the scores that every candidate must have: the interpreter's where it is quick enough for all rows, else
    those of a walk on this machine that agrees with it on as many rows as it is quick enough for."""
    canonical, X = task.canonical, task.X
    steps = canonical.forest.n_trees * (canonical.max_depth + 1)
    n = int(max(64, min(len(X), ORACLE_STEPS / max(steps, 1))))
    # The last rows are those to check with.
    oracle = reference.predict_raw(canonical.forest, X[-n:])
    wanted = oracle
    if n < len(X):
        where = task.where if isinstance(task.where, CpuTarget) and task.where.native else resolve("llvm")
        here = dataclasses.replace(task, where=where)
        walk = {"min_rows": 0, "strategy": tree_traversal.NAME, "options": {"trees": 1, "interleave": 1, "unroll": 1}}
        code = code_of(canonical, plan_of(canonical, [walk], ""), where, task.tables)
        wanted = in_process(here, code, task.entry, X)[0]([(0, len(X))])
        if wrong := measure.difference(wanted[-n:], oracle):
            return {"status": "wrong", "message": f"a plain walk disagrees with the interpreter: {wrong}"}
    store.write_array(task.folder / candidates.WANTED, wanted)
    return {"status": "ok", "oracle_rows": min(n, len(X))}


def _code(task: Task, plan: Any) -> Code | GpuCode:
    if isinstance(task.where, CudaTarget):
        return candidate_cuda.code_of(task.canonical, gpu.PLANS.plan_of(task.canonical, plan, ""), task.where)
    return code_of(task.canonical, plan_of(task.canonical, plan, ""), task.cpu, task.tables)


def _rows(task: Task) -> int:
    """Rows that calls are timed over."""
    return gpu.resident_rows(task) if isinstance(task.where, CudaTarget) else task.n_rows


def _difference(task: Task, compute: Any) -> str | None:
    if isinstance(task.where, CudaTarget):
        return measure_cuda.first_difference(compute, task.wanted, task.X.dtype, task.n_rows, task.batches)
    return measure.first_difference(compute, task.wanted)


def _measure(task: Task, job: Mapping[str, Any], opened: Open) -> dict[str, Any]:
    compute, clock = opened(task, _code(task, job["plan"]), task.entry, task.X)
    best = {int(batch): ns for batch, ns in job["best"].items()}
    if (slow := measure.too_slow(clock, _rows(task), task.batches, best)) is not None:
        return {"status": "slow", "message": f"{measure.TOO_SLOW:.0f} times slower than the best and more", "ns": slow}
    if wrong := _difference(task, compute):
        return {"status": "wrong", "message": wrong}
    (times,) = measure.sample([clock], _rows(task), task.batches, MEASURE_ROUNDS, best)
    return {"status": "ok", "ns": measure.medians(times)}


def _compare(task: Task, job: Mapping[str, Any], opened: Open) -> dict[str, Any]:
    """All samples of several plans, taken in turn."""
    clocks = []
    for plan in job["plans"]:
        compute, clock = opened(task, _code(task, plan), task.entry, task.X)
        if wrong := _difference(task, compute):
            return {"status": "wrong", "message": wrong}
        clocks.append(clock)
    times = measure.sample(clocks, _rows(task), task.batches, job["rounds"])
    return {"status": "ok", "times": [{str(batch): s for batch, s in t.items()} for t in times]}


def _verify(task: Task, job: Mapping[str, Any], opened: Open) -> dict[str, Any]:
    """Every entry of a plan against the interpreter, on the last rows, which are those to check with."""
    forest, code = task.canonical.forest, _code(task, job["plan"])
    steps = forest.n_trees * (task.canonical.max_depth + 1)
    n = int(max(64, min(len(task.X), ORACLE_STEPS / 4 / max(steps, 1))))
    for entry in ENTRIES:
        with np.errstate(over="ignore"):
            X = np.ascontiguousarray(task.X[-n:], np.float32 if entry.endswith("f32") else np.float64)
        oracle = reference.predict_raw if entry.startswith("raw") else reference.apply
        compute, _ = opened(task, code, entry, X)
        if wrong := measure.first_difference(compute, np.ascontiguousarray(oracle(forest, X))):
            return {"status": "wrong", "message": f"{entry}: {wrong}"}
    return {"status": "ok"}


def _build(task: Task, job: Mapping[str, Any], opened: Open) -> dict[str, Any]:
    """Files of a candidate for another machine; equal models are stored once."""
    code = _code(task, job["plan"])
    model = f"{hashlib.sha256(code.blob.data).hexdigest()[:16]}.bin"
    if not (task.folder / model).exists():
        with atomic_path(task.folder / model) as staged:
            code.blob.tofile(staged)
    if isinstance(code, GpuCode):
        name = f"{job['place']:04}.cuda"
        candidate_cuda.write(code, task.folder / name)
        return {"status": "ok", "files": {"code": name, "model": model}}
    name = f"{job['place']:04}.so"
    candidate.write(code, task.cpu, task.entry, task.folder / name)
    return {"status": "ok", "files": {"code": name, "model": model, "scratch_bytes": code.scratch_bytes}}


def serve(folder: Path, memory: int, channel: TextIO, device: Device) -> None:
    """Answer jobs from stdin until it ends."""
    task = load_task(folder)
    limit_memory(memory)
    channel.write('{"ready": true}\n')
    channel.flush()
    for line in sys.stdin:
        channel.write(json.dumps(answer(task, json.loads(line), device)) + "\n")
        channel.flush()


def main(arguments: list[str]) -> None:
    """FOLDER BYTES [cuda:0 | TRACKER KEY SECONDS]"""
    measure.end_with_parent()
    # Whatever LLVM or a library prints goes to the log, and never between two answers.
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    device: Device = lambda _: contextlib.nullcontext(in_process)  # noqa: E731
    if arguments[2:] == [gpu.DEVICE]:
        device = gpu.gpu_device()
    elif len(arguments) > 2:
        from .remote import rpc_device

        device = rpc_device(arguments[2], arguments[3], float(arguments[4]))
    serve(Path(arguments[0]), int(arguments[1]), channel, device)


if __name__ == "__main__":
    main(sys.argv[1:])
