"""``woodpecker measure DIR``, where the runtime is all there is: ``python -m woodpecker.runtime.on_device DIR``.

DIR is a folder of candidates (`candidates`), made here or on another machine. Each candidate is checked and timed in a
process of its own, so that a hang or a crash costs only that one; results go to DIR at once, and a second run goes on
where the first one stopped. At the end the best ones are timed against the default in turn. ``woodpecker tune --import
DIR`` makes a record of it.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from ..errors import TargetError, WoodpeckerError
from . import cuda_driver, measure, measure_cuda
from .candidates import CUDA, PAIRED, ROWS, TRIALS, WANTED, Trial, check_device, faster, key, locked, read_list, results
from .files import append_line, atomic_path, check_path
from .format import aligned
from .threads import available_cpus

FINALISTS = 5
ROUNDS, PAIRED_ROUNDS = 5, 15


def measure_all(
    folder: Any, *, timeout: float = 60.0, progress: Callable[[Trial], None] | None = None
) -> list[dict[str, Any]]:
    """Measure the candidates of a folder that have no result yet, then the best ones against the default.

    Args:
        folder: What ``woodpecker tune --build`` wrote.
        timeout: Seconds that a candidate may take.
        progress: Called with each result.

    Returns:
        All results.

    Raises:
        InputError: the folder holds no candidates, or was copied in part, or has results of another build; another job
            is running there; or ``timeout`` is none.
        ArtifactError: they are for another machine. TargetError: no further Python can be started here. OSError: a
            file can't be read or written.
    """
    measure.check_positive("timeout", timeout, measure.MAX_SECONDS, "s")
    folder = check_path(folder)
    check_device(folder, read_list(folder))
    with locked(folder):
        return _measure_all(folder, read_list(folder), timeout, progress)


def _measure_all(
    folder: Path, listed: Mapping[str, Any], timeout: float, progress: Callable[[Trial], None] | None
) -> list[dict[str, Any]]:
    trials = results(folder, listed)
    done = {key(t["plan"]) for t in trials}
    for index, candidate in enumerate(listed["candidates"]):
        if key(candidate["plan"]) in done:
            continue
        best: dict[str, float] = {}
        for t in trials:
            for b, ns in t["ns"].items() if t["status"] == "ok" else ():
                best[b] = min(ns, best.get(b, math.inf))
        result = _apart(folder, timeout, "one", [index], best)
        _check_gpu(folder, listed, timeout, result)
        trials.append(_add(folder, listed, index, result))
        if progress is not None:
            progress(trials[-1])
    _pair(folder, listed, trials, timeout)
    return trials


def _check_gpu(folder: Path, listed: Mapping[str, Any], timeout: float, result: Mapping[str, Any]) -> None:
    """Find out whether it is the GPU that has failed, not the candidate, whose result is kept only otherwise.

    Raises:
        TargetError: the GPU has.
    """
    if listed["resolved"].get("kind") != CUDA or result["status"] not in ("crashed", "timeout"):
        return
    if (now := _apart(folder, timeout, "gpu", [], {}))["status"] != "ok":
        raise TargetError(
            f"the GPU no longer answers ({now['message']}), since a candidate ended as {result['status']}: what was "
            "measured before is kept, and the same command goes on from there"
        )


def _add(folder: Path, listed: Mapping[str, Any], index: int, result: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a candidate, which is in the folder now."""
    trial = {"plan": listed["candidates"][index]["plan"], "job": listed["job"], **result}
    append_line(folder / TRIALS, json.dumps(trial, sort_keys=True) + "\n")
    return trial


def _pair(folder: Path, listed: Mapping[str, Any], trials: list[dict[str, Any]], timeout: float) -> None:
    """The paired run of the best candidates and the default; its samples go to the folder."""
    places = {key(c["plan"]): i for i, c in enumerate(listed["candidates"])}
    default = places[key(listed["default"])]
    best = [places[key(t["plan"])] for t in faster(trials, listed["default"]) if key(t["plan"]) in places]
    chosen = [default, *best[:FINALISTS]]
    times: list[Any] = []
    while len(chosen) > 1:
        result = _apart(folder, timeout * (len(chosen) + 1), "paired", chosen, {})
        _check_gpu(folder, listed, timeout, result)
        if result["status"] == "ok":
            times = result["times"]
            break
        if result["status"] == "wrong":  # it was right before: code whose scores vary is wrong code
            wrong = chosen[result.pop("place")]
            trials.append(_add(folder, listed, wrong, result))
            chosen = [i for i in chosen if i != wrong] if wrong != default else []
        else:
            chosen = chosen[:-1]
    plans = [listed["candidates"][i]["plan"] for i in chosen] if times else []
    paired = {"job": listed["job"], "trials": len(trials), "plans": plans, "times": times, "cores": available_cpus()}
    if listed["resolved"].get("kind") == CUDA:
        paired["gpu"] = cuda_driver.facts()
    with atomic_path(folder / PAIRED) as staged:
        staged.write_text(json.dumps(paired) + "\n")


def _apart(
    folder: Path, timeout: float, what: str, indices: Sequence[int], best: Mapping[str, float]
) -> dict[str, Any]:
    """The result of candidates in a process of their own."""
    asked = json.dumps({"what": what, "indices": list(indices), "best": dict(best)})
    command = [sys.executable, "-m", "woodpecker.runtime.on_device", str(folder.absolute()), asked]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"status": "timeout", "message": "it took longer than the limit of time"}
    except OSError as error:
        raise TargetError(f"a Python for a candidate can't be started: {error}") from error
    if done.returncode or not done.stdout.endswith("}\n"):
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"status": "crashed", "message": f"the process ended with code {done.returncode}: {said}"[:500]}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _answer(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """In the process of its own: check and time candidates."""
    listed = read_list(folder)
    on_gpu = cuda_driver.device() if listed["resolved"].get("kind") == CUDA else None
    if asked["what"] == "gpu":
        return {"status": "ok"}
    X = np.load(folder / ROWS, allow_pickle=False)
    wanted = np.load(folder / WANTED, allow_pickle=False)
    batches, n = [int(b) for b in listed["batches"]], int(listed["n_rows"])
    best = {int(b): float(ns) for b, ns in asked["best"].items()}
    if on_gpu is not None:
        opened, wrong_in, n = _on_gpu(folder, listed, on_gpu, X, wanted)
    else:
        opened, wrong_in = partial(_on_cpu, folder, listed, X, wanted), partial(measure.first_difference, wanted=wanted)
    clocks = []
    for place, index in enumerate(asked["indices"]):
        compute, clock = opened(listed["candidates"][index])
        if asked["what"] == "one" and (slow := measure.too_slow(clock, n, batches, best)) is not None:
            return {"status": "slow", "message": f"{measure.TOO_SLOW:.0f} times slower than the best", "ns": slow}
        if wrong := wrong_in(compute):
            return {"status": "wrong", "message": wrong} | ({"place": place} if asked["what"] == "paired" else {})
        clocks.append(clock)
    if asked["what"] == "one":
        (times,) = measure.sample(clocks, n, batches, ROUNDS, best)
        return {"status": "ok", "ns": measure.medians(times)}
    paired = measure.sample(clocks, n, batches, PAIRED_ROUNDS)
    return {"status": "ok", "times": [{str(b): samples for b, samples in t.items()} for t in paired]}


Opened = Callable[[Mapping[str, Any]], tuple[Any, measure.Clock]]
"""Of a candidate of the list: how it computes, and its clock."""


def _on_cpu(
    folder: Path, listed: Mapping[str, Any], X: np.ndarray, wanted: np.ndarray, candidate: Mapping[str, Any]
) -> tuple[measure.Compute, measure.Clock]:
    module = tvm_ffi.load_module(str((folder / candidate["code"]).absolute()))
    blob = np.fromfile(folder / candidate["model"], np.uint8)
    out = aligned(wanted.nbytes).view(wanted.dtype).reshape(wanted.shape)
    run = measure.bind(module[listed["symbol"]], X, out, candidate["scratch_bytes"], blob)
    return measure.compute_of(run, out), measure.clock_of(run)


def _on_gpu(
    folder: Path, listed: Mapping[str, Any], device: cuda_driver.Device, X: np.ndarray, wanted: np.ndarray
) -> tuple[Opened, Callable[[measure_cuda.Compute], str | None], int]:
    """How candidates are opened, what is wrong in what one computes, and the rows that calls are timed over."""
    batches, n_rows = [int(b) for b in listed["batches"]], int(listed["n_rows"])
    n = measure_cuda.resident_rows(n_rows, batches)
    rows = measure_cuda.place(device, X, n_rows, n)

    def opened(candidate: Mapping[str, Any]) -> tuple[measure_cuda.Compute, measure.Clock]:
        code = measure_cuda.read(folder / candidate["code"])
        model = measure_cuda.load(code, np.fromfile(folder / candidate["model"], np.uint8), device)
        return measure_cuda.bind(model, rows, "raw", wanted.shape[1], wanted.dtype)

    def wrong(compute: measure_cuda.Compute) -> str | None:
        return measure_cuda.first_difference(compute, wanted, X.dtype, n_rows, batches)

    return opened, wrong, n


def main(arguments: Sequence[str]) -> int:
    """DIR [QUESTION]; without a question, all candidates of DIR are measured. Returns the exit code."""
    if len(arguments) == 2:
        measure.end_with_parent()
        sys.stdout.write(json.dumps(_answer(Path(arguments[0]), json.loads(arguments[1]))) + "\n")
        return 0
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write("usage: woodpecker measure DIR\n")
        return 2
    try:
        trials = measure_all(Path(arguments[0]), progress=_say)
    except (WoodpeckerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what was measured is kept; the same command goes on from there\n")
        return 130
    sys.stdout.write(f"{len(trials)} candidates measured; bring {arguments[0]} home: woodpecker tune --import DIR\n")
    return 0


def _say(trial: Trial) -> None:
    times = ", ".join(f"{ns:,.1f} ns/row at {int(b):,}" for b, ns in trial.get("ns", {}).items())
    sys.stdout.write(f"{trial['plan'][-1]['strategy']}: {times or trial['status']}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
