"""python -m benchmarks.gpu make FOLDER, then run FOLDER: models of the suite on a GPU, checked and timed.

`make` compiles every model of the suite, on any machine with the compiler, NVRTC and the libraries; no GPU. It leaves,
for each model, artifacts, rows at the model's own thresholds, and the scores and leaf ids that an interpreter gives
them.

`run`, WHICH HAS NEVER RUN ON A GPU, needs the folder, numpy, apache-tvm-ffi, this checkout, and a GPU; neither compiler
nor library. Every bit and leaf id is compared: of the rows at thresholds with what is in the folder, one to many of
them at a time; of the suite's own rows with the CPU code of the same artifact; where PyTorch is installed, also of
tensors on the GPU. An artifact with a wrong bit gets no time. Times are the best of several turns of many calls:

    resident    a launch for rows in the memory of the GPU, with nothing around it
    torch       predict_raw of a tensor on the GPU, until it is done
    host        predict_raw of a numpy array: with both copies
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import woodpecker as wp
from woodpecker.errors import StrategyError, TargetError
from woodpecker.runtime import cuda
from woodpecker.runtime.cuda_driver import Current, call, device, made

from .check import unequal_bits, unequal_leaves
from .shapes import SHAPES, Shape, make_rows, prepare

BATCHES = (1, 32, 1024, 32_768, 1_048_576)
NEAR = 1000
"""Rows at thresholds."""
TURNS, TURN_SECONDS = 5, 0.05
AUTO = "auto"


def ways(every: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, arguments of `compile`) of the plan by estimates, or of all ways that are worth a measurement."""
    yield AUTO, {}
    for threads in (0, 256) if every else ():
        for trees in (1, 2, 4):
            options = dict(cuda_trees=trees, cuda_threads=threads)
            some = f"{trees} trees, {threads or 'default'} threads"
            yield f"tree_traversal, {some}", dict(strategy="tree_traversal", **options)
            for ranks, name in ((1, "ranks"), (0, "perfect_tree_traversal")):
                given = dict(strategy="perfect_tree_traversal", cuda_ranks=ranks, **options)
                yield f"{name}, {some}", given
    for words in (0, 1, 2, 4) if every else ():
        yield f"bitslice, {words or 'default'} words", dict(strategy="bitslice", cuda_words=words)


def make(folder: Path, shapes: Sequence[Shape], cache: Path, target: Any, every: bool) -> None:
    """Write the folder of `run`."""
    from woodpecker import reference

    from .contestants import own_model, threshold_rows

    for shape in shapes:
        source = own_model(prepare(shape, cache, 16_384, 1))
        forest = wp.from_model(source)
        place = folder / shape.name
        place.mkdir(parents=True, exist_ok=True)
        near = threshold_rows(source, NEAR, 1, shape.dtype)
        arrays = {"near": near, "scores": reference.predict_raw(forest, near), "leaves": reference.apply(forest, near)}
        for name, array in arrays.items():
            np.save(place / f"{name}.npy", array)
        names = {}
        for number, (way, given) in enumerate(ways(every)):
            try:
                line = wp.compile(source, target=target, tuning_logs=[], **given).save(place / f"{number}.so")
            except StrategyError as error:
                print(f"{shape.name}, {way}: {error}", flush=True)
                continue
            names[f"{number}.so"] = way
            print(f"{shape.name}, {way}: {line.partition(';')[0]}", flush=True)
        (place / "ways.json").write_text(json.dumps(names))


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


def resident_ns(model: cuda.Model, X: np.ndarray, width: int, item: int) -> float:
    """ns of a launch for rows that are in the memory of the GPU."""
    entry = cuda.entry_for(model, "raw", X.dtype, len(X))
    with Current(model.device.context):
        stream = made("cuStreamCreate", 1)
        scratch_bytes = max(cuda.scratch_bytes(model, entry, len(X)), 1)
        x, out, scratch = (made("cuMemAlloc_v2", n) for n in (X.nbytes, len(X) * width * item, scratch_bytes))
        call("cuMemcpyHtoDAsync_v2", x, X.ctypes.data, X.nbytes, stream)
        found = best_ns(
            lambda: cuda.launch(model, entry, (x, X.shape[1]), (out, width), len(X), scratch, stream),
            lambda: call("cuStreamSynchronize", stream),
        )
        for address in (x, out, scratch):
            call("cuMemFree_v2", address)
        call("cuStreamDestroy_v2", stream)
    return found


def torch_on_gpu() -> Any:
    """PyTorch, or None: it is not installed, or sees no GPU."""
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def wrong(gpu: Any, cpu: Any, place: Path, X: np.ndarray, torch: Any) -> str | None:
    """What differs first, or None."""
    near, scores, leaves = (np.load(place / f"{name}.npy") for name in ("near", "scores", "leaves"))
    many = cuda.FEW_ROWS * gpu._program.gpu.device.multiprocessors + 77
    for n in (1, 33, len(near), many):
        at = np.arange(n) % len(near)
        rows = np.ascontiguousarray(near[at])
        found = unequal_bits(gpu.predict_raw(rows), scores[at], f"raw scores of {n} rows")
        found = found or unequal_leaves(gpu.apply(rows), leaves[at])
        if torch is not None and found is None:
            with torch.cuda.stream(torch.cuda.Stream()):
                there = torch.from_numpy(rows).cuda()
                found = unequal_bits(gpu.predict_raw(there).cpu().numpy(), scores[at], f"torch: raw scores, {n} rows")
                found = found or unequal_leaves(gpu.apply(there).cpu().numpy(), leaves[at])
        if found:
            return found
    return unequal_bits(gpu.predict_raw(X), cpu.predict_raw(X), "raw scores of the suite's rows")


def measure(shape: Shape, place: Path, batches: Sequence[int]) -> Iterator[Mapping[str, Any]]:
    """The figures of a model, an artifact after the other."""
    X, torch = make_rows(shape, max(batches), seed=2), torch_on_gpu()
    for file, way in json.loads((place / "ways.json").read_text()).items():
        gpu, cpu = wp.load(place / file, device="cuda"), wp.load(place / file)
        model, width, item = gpu._program.gpu, gpu.n_outputs_, gpu._acc_dtype.itemsize
        plan = gpu.inspect()["cuda"]["plan"]
        names = {"model": shape.name, "way": way, "strategy": plan["strategy"], "options": plan["options"]}
        try:
            found = wrong(gpu, cpu, place, X, torch)
        except TargetError as error:  # a predictor compares a kernel's first answers itself
            found = str(error)
        yield {**names, "wrong": found, "torch": None if torch is None else torch.__version__}
        for n in batches if found is None else ():
            rows = X[:n]
            times = {
                "resident": resident_ns(model, rows, width, item),
                "host": best_ns(partial(gpu.predict_raw, rows), lambda: None),
            }
            if torch is not None:
                there = torch.from_numpy(rows).cuda()
                times["torch"] = best_ns(partial(gpu.predict_raw, there), torch.cuda.synchronize)
            moved = n * (X.itemsize * X.shape[1] + item * width)
            for kind, ns in times.items():
                figures = {"us": round(ns / 1e3, 2), "ns_per_row": round(ns / n, 3), "GB_per_s": round(moved / ns, 1)}
                yield {**names, "rows": n, "kind": kind, **figures}


def run(folder: Path, shapes: Sequence[Shape], batches: Sequence[int], output: Path) -> int:
    """Check and time what `make` left; 1 where a bit differs."""
    gpu = device()
    print(f"{gpu.name}, {gpu.arch}, {gpu.multiprocessors} multiprocessors")
    differs = False
    with output.open("a") as file:
        for shape in (shape for shape in shapes if (folder / shape.name).is_dir()):
            for figures in measure(shape, folder / shape.name, batches):
                line = json.dumps({"gpu": gpu.name, **figures})
                print(line, flush=True)
                file.write(line + "\n")
                differs = differs or bool(figures.get("wrong"))
    return int(differs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 where a bit differs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    making, running = commands.add_parser("make"), commands.add_parser("run")
    for command in (making, running):
        command.add_argument("folder", type=Path)
        command.add_argument("--models", nargs="*", default=[shape.name for shape in SHAPES])
    making.add_argument("--cache", type=Path, default=Path("build/benchmarks/models"), help="trained models")
    making.add_argument("--arch", default="sm_90", help="the GPU's architecture, or several with commas between")
    making.add_argument("--cpu", default="x86-64-v3", help="the target of the CPU code beside it")
    making.add_argument("--every-way", action="store_true", help="all ways to walk, not only that by estimates")
    running.add_argument("--batches", nargs="*", type=int, default=list(BATCHES))
    running.add_argument("-o", "--output", type=Path, default=Path("gpu.jsonl"), help="figures, a line each")
    given = parser.parse_args(arguments)
    shapes = [shape for shape in SHAPES if shape.name in given.models]
    if given.command == "run":
        return run(given.folder, shapes, given.batches, given.output)
    make(given.folder, shapes, given.cache, [given.cpu, f"cuda -arch={given.arch}"], given.every_way)
    return 0


if __name__ == "__main__":
    sys.exit(main())
