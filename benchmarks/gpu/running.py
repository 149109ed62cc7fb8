"""Check, tune and time what `make` left, and the peers, on the GPU of this machine.

Every bit and leaf id is compared: of the rows at thresholds with what is in the folder, one to many of them at a time;
of the suite's own rows with the CPU code of the same artifact, by a call of each size that is timed; where PyTorch is
installed, also of tensors on the GPU, with what methods make of them. An artifact with a wrong bit gets no time. Times
are the best of several turns of many calls:

    resident    launches for rows in the memory of the GPU, with nothing around them
    torch       predict_raw of a tensor on the GPU, until it is done
    host        predict_raw of a numpy array: with both copies
    peer        a peer's call for a tensor on the GPU, until it is done
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import woodpecker as wp
from woodpecker.errors import TargetError, WoodpeckerError
from woodpecker.runtime import candidates, cuda, measure_cuda, on_device
from woodpecker.runtime.cuda_driver import Device, device

from ..check import error, unequal_bits
from ..contestants import RAW
from ..shapes import Shape, make_rows
from . import limits, peers
from .checking import wrong
from .making import WAYS
from .peers import torch_on_gpu

BATCHES = (1, 32, 1024, 32_768, 1_048_576)
INPUT_GIB = 8.0
MAX_HOST_BYTES = 2**28
"""Distinct rows take no more; they are repeated in the memory of the GPU."""
SHARE = 0.7
"""Of the free memory of the GPU that rows and their answers may take."""
TURNS, TURN_SECONDS = 5, 0.05


def best_ns(once: Callable[[], object], wait: Callable[[], object]) -> float:
    """ns of a call, the best of TURNS turns; ``wait`` returns when all that was called is done."""

    def seconds(calls: int) -> float:
        begin = time.perf_counter()
        for _ in range(calls):
            once()
        wait()
        return time.perf_counter() - begin

    seconds(3)
    calls = max(1, min(1000, int(TURN_SECONDS / max(seconds(1), 1e-6))))
    return 1e9 * min(seconds(calls) for _ in range(TURNS)) / calls


def largest(on: Device, X: np.ndarray, out_bytes: int, gibibytes: float) -> int:
    """Rows of a batch with so many GiB of input, as far as the GPU has the memory."""
    wanted = int(gibibytes * 2**30) // (X.shape[1] * X.itemsize)
    return min(wanted, int(SHARE * limits.free_bytes(on)) // (X.shape[1] * X.itemsize + out_bytes))


def resident(model: cuda.Model, X: np.ndarray, want: np.ndarray, batches: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """(rows, ns of a call, or what differs) of launches over X, repeated as often as the largest batch takes."""
    n = max(batches)
    rows = measure_cuda.place(model.device, X, len(X), max(n, len(X)))
    compute, clock = measure_cuda.bind(model, rows, "raw", want.shape[1], want.dtype)
    for batch in batches:
        found = compute([(0, batch)], None)
        for begin in range(0, batch, len(X)):
            end = min(batch, begin + len(X))
            if text := unequal_bits(found[begin:end], want[: end - begin], f"resident: rows {begin}.. of {batch}"):
                yield batch, text
                return
        calls = max(1, min(1000, int(TURN_SECONDS * 1e9 / max(clock(batch, [0]), 1e3))))
        starts = [k * batch % (rows.n - batch + 1) for k in range(calls)]
        yield batch, min(clock(batch, starts) for _ in range(TURNS)) / calls


def measure(
    shape: Shape, place: Path, on: Device, batches: Sequence[int], gibibytes: float
) -> Iterator[dict[str, Any]]:
    """The figures of a model's artifacts, one after the other, and then of its peers."""
    row_bytes = shape.features * np.dtype(shape.dtype).itemsize
    X = make_rows(shape, max(1, min(max(batches), MAX_HOST_BYTES // row_bytes)), seed=2)
    torch = torch_on_gpu()
    made = json.loads((place / WAYS).read_text())
    cpu = wp.load(place / next(iter(made)))
    want = cpu.predict_raw(X)
    out_bytes = want.itemsize * want.shape[1]
    huge = largest(on, X, out_bytes, gibibytes)
    sizes = [*batches, *([huge] if huge > max(batches) else [])]
    for file, told in made.items():
        gpu = wp.load(place / file, device=f"cuda:{on.number}")
        plan = gpu.inspect()["cuda"]["plan"]
        names = {"model": shape.name, "way": told["way"], "strategy": plan["strategy"], "options": plan["options"]}
        estimated = {name: told[name] for name in ("cycles", "wavefronts") if name in told}
        times: list[tuple[int, str, float]] = []
        try:
            found = wrong(gpu, wp.load(place / file), place, torch)
            found = found or unequal_bits(gpu.predict_raw(X), want, "raw scores of the suite's rows")
            for n, ns in resident(gpu._program.gpu, X, want, sizes) if found is None else ():
                if isinstance(ns, str):
                    found = ns
                else:
                    times.append((n, "resident", ns))
        except TargetError as failed:  # a predictor compares a kernel's first answers itself, and the driver may fail
            found = str(failed)
        version = None if torch is None else torch.__version__
        yield {**names, "wrong": found, "torch": version, "row_bytes": row_bytes + out_bytes, **estimated}
        if found is None:
            times += _calls(gpu, X, sizes, torch)
            yield from ({**names, **figures(n, kind, ns, row_bytes + out_bytes)} for n, kind, ns in times)
    yield from _peers(shape, place, cpu, X, sizes, torch)


def figures(n: int, kind: str, ns: float, row_bytes: int) -> dict[str, Any]:
    """A line of results, without names."""
    speed = {"us": round(ns / 1e3, 2), "ns_per_row": round(ns / n, 4), "GB_per_s": round(n * row_bytes / ns, 1)}
    return {"rows": n, "kind": kind, **speed}


def _calls(gpu: Any, X: np.ndarray, sizes: Sequence[int], torch: Any) -> Iterator[tuple[int, str, float]]:
    """Calls with arrays, as far as these need not repeat, and with tensors."""
    for n in sizes:
        if n <= len(X):
            yield n, "host", best_ns(partial(gpu.predict_raw, X[:n]), lambda: None)
        if torch is not None:
            yield n, "torch", best_ns(partial(gpu.predict_raw, repeated(X, n, torch)), torch.cuda.synchronize)
    peers.free_memory()


def repeated(X: np.ndarray, n: int, torch: Any) -> Any:
    """X, over and over, n rows in all; in the memory of the GPU, where PyTorch is."""
    times = -(-n // len(X))
    if torch is None:
        return np.tile(X, (times, 1))[:n]
    return torch.from_numpy(X[:n]).cuda().repeat(times, 1)[:n]


def answers(shape: Shape, cpu: Any, X: np.ndarray, form: str) -> np.ndarray:
    """What a peer should answer with, by the CPU code, whose scores are the library's."""
    if form == RAW:
        scores: np.ndarray = cpu.predict_raw(X)
        return scores
    # A LightGBM Booster has no predict_proba: its predict answers with shares.
    shares = shape.task != "regression" and hasattr(cpu, "predict_proba")
    found = np.asarray(cpu.predict_proba(X) if shares else cpu.predict(X))
    return found[:, -1] if shape.task == "binary" and found.ndim == 2 else found


def _peers(
    shape: Shape, place: Path, cpu: Any, X: np.ndarray, sizes: Sequence[int], torch: Any
) -> Iterator[dict[str, Any]]:
    for peer, opened in peers.opened(shape, place):
        names = {"model": shape.name, "peer": peer.name}
        if isinstance(opened, str):
            yield {**names, "absent": opened}
            continue
        try:
            yield from ({**names, **line} for line in _peer(shape, opened, cpu, X, sizes, torch))
        except Exception as failed:  # a peer that fails is a result
            yield {**names, "absent": f"{type(failed).__name__}: {str(failed).strip().partition(chr(10))[0]}"[:300]}
        del opened
        peers.free_memory()


def _peer(
    shape: Shape, opened: peers.Opened, cpu: Any, X: np.ndarray, sizes: Sequence[int], torch: Any
) -> Iterator[dict[str, Any]]:
    """A peer's answers beside the library's, and its times, if they are near enough."""
    wait = (lambda: None) if torch is None else torch.cuda.synchronize
    told = error(peers.to_numpy(opened.predict(repeated(X, len(X), torch))), answers(shape, cpu, X, opened.form))
    yield {"what": opened.what, "differs": told}
    for n in sizes if told["reason"] is None else ():
        ns = best_ns(partial(opened.predict, repeated(X, n, torch)), wait)
        yield figures(n, "peer", ns, X.shape[1] * X.itemsize)


def tuned(shape: Shape, place: Path, timeout: float) -> Iterator[dict[str, Any]]:
    """Measure the candidates of a tuning job; what was found so far, before anyone judges it."""
    folder = place / "tuning"
    if not folder.is_dir():
        return
    try:
        trials = on_device.measure_all(folder, timeout=timeout)
        paired = json.loads((folder / candidates.PAIRED).read_text())
    except (WoodpeckerError, OSError) as failed:
        yield {"model": shape.name, "tuning": str(failed)}
        return
    medians = [{n: float(np.median(ns)) for n, ns in each.items()} for each in paired["times"]]
    ratios = [float(np.exp(np.mean([np.log(each[n] / medians[0][n]) for n in each]))) for each in medians]
    best = int(np.argmin(ratios)) if ratios else 0
    failed_ones = [t["status"] for t in trials if t["status"] != "ok"]
    yield {
        "model": shape.name,
        "tuning": {
            "trials": len(trials),
            "not_ok": failed_ones,
            "default": medians[0] if medians else {},
            "best": medians[best] if medians else {},
            "plan": paired["plans"][best] if paired["plans"] else None,
            "times_as_fast": round(1 / ratios[best], 3) if ratios else 1.0,
        },
    }


def run(
    folder: Path, shapes: Sequence[Shape], output: Path, *, batches: Sequence[int], gibibytes: float, timeout: float
) -> int:
    """Write the figures, a line of JSON each.

    Args:
        folder: From `make`.
        shapes: Models, of which those are left out that it lacks.
        output: The file, which lines are added to.
        batches: Rows per call; one of ``gibibytes`` of input comes after them.
        timeout: Seconds that a candidate of tuning may take.

    Returns:
        1 where a bit differs, else 0.
    """
    on = device()
    differs = False
    with output.open("a") as file:

        def say(line: Mapping[str, Any]) -> None:
            text = json.dumps(line)
            print(text, flush=True)
            file.write(text + "\n")
            file.flush()

        print(f"{on.name}, {on.arch}, {on.multiprocessors} multiprocessors")
        say({"machine": limits.machine(on)})
        for shape in (shape for shape in shapes if (folder / shape.name).is_dir()):
            place = folder / shape.name
            for line in tuned(shape, place, timeout):
                say(line)
            for line in measure(shape, place, on, batches, gibibytes):
                say({"gpu": on.name, **line})
                differs = differs or bool(line.get("wrong"))
    return int(differs)
