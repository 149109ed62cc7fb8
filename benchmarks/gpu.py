"""python -m benchmarks.gpu: CUDA kernels on this machine's GPU, checked and timed. NEVER YET RUN ON ONE.

For each model of the suite and each way to walk it: raw scores of rows at its thresholds against the interpreter, and
of the suite's own rows against CPU code, bit for bit; then the time of a launch for rows that are in the memory of the
GPU, of several batch sizes. A time is the best of several turns of many launches, so it includes no copy.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import woodpecker as wp
from woodpecker import build_cuda, reference
from woodpecker.predicates import Canonical, canonicalise
from woodpecker.relay_ops.plan import WALKING
from woodpecker.runtime import cuda
from woodpecker.runtime.cuda_driver import Current, Device, call, device, made

from .check import unequal_bits
from .contestants import own_model, threshold_rows
from .shapes import SHAPES, Shape, make_rows, prepare

BATCHES = (1, 32, 1024, 32_768, 1_048_576)
CHECKED = 1000
"""Rows that the interpreter checks."""
TURNS, TURN_SECONDS = 5, 0.05


def ways(canonical: Canonical) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, arguments of `build_cuda.prepare`) of all ways to walk a forest that are worth a measurement."""
    for threads in (0, 256):
        for together in (1, 2, 4):
            some = f"{together} trees, {threads or 'default'} threads"
            for strategy, module in WALKING.items():
                if module.applicable(canonical, {}) is None:
                    given = dict(strategy=strategy, trees=together, threads=threads, ranks=False)
                    yield f"{strategy}, {some}", given
            if WALKING["perfect_tree_traversal"].applicable(canonical, {}) is None and not canonical.has_categories:
                given = dict(strategy="perfect_tree_traversal", threads=threads, walks=together)
                yield f"ranks, {some}", given


def resident_ns(model: cuda.Model, X: np.ndarray, width: int, item: int) -> float:
    """ns of a launch for rows that are in the memory of the GPU."""
    entry = cuda.entry_for(model, "raw", X.dtype, len(X))
    with Current(model.device.context):
        stream = made("cuStreamCreate", 1)
        scratch_bytes = max(cuda.scratch_bytes(model, entry, len(X)), 1)
        x, out, scratch = (made("cuMemAlloc_v2", n) for n in (X.nbytes, len(X) * width * item, scratch_bytes))
        call("cuMemcpyHtoDAsync_v2", x, X.ctypes.data, X.nbytes, stream)

        def seconds(launches: int) -> float:
            begin = time.perf_counter()
            for _ in range(launches):
                cuda.launch(model, entry, (x, X.shape[1]), (out, width), len(X), scratch, stream)
            call("cuStreamSynchronize", stream)
            return time.perf_counter() - begin

        seconds(3)
        launches = max(1, min(1000, int(TURN_SECONDS / max(seconds(1), 1e-6))))
        best = min(seconds(launches) for _ in range(TURNS)) / launches
        for address in (x, out, scratch):
            call("cuMemFree_v2", address)
        call("cuStreamDestroy_v2", stream)
    return best * 1e9


def measure(shape: Shape, cache: Path, batches: Sequence[int], gpu: Device) -> Iterator[Mapping[str, Any]]:
    """The figures of a model, a way to walk it after the other."""
    source = own_model(prepare(shape, cache, 16_384, 1))
    forest = wp.from_model(source)
    canonical = canonicalise(forest)
    near = threshold_rows(source, CHECKED, 1, shape.dtype)
    X = make_rows(shape, max(batches), seed=2)
    checks = [(near, reference.predict_raw(forest, near)), (X, wp.compile(source).predict_raw(X))]
    for name, given in ways(canonical):
        found = build_cuda.prepare(canonical, **given)
        code = build_cuda.assemble(build_cuda.source(build_cuda.kernels(found.signature), gpu.arch), gpu.arch)
        model = cuda.load([code], found.launches, found.model, gpu)
        wrong = None
        for rows, want in checks:
            out = np.empty_like(want)
            cuda.run(model, "raw", rows, out)
            wrong = wrong or unequal_bits(out, want, "raw scores")
        yield {"model": shape.name, "way": name, "wrong": wrong}
        for n in batches if wrong is None else ():
            ns = resident_ns(model, X[:n], forest.n_outputs, forest.values.itemsize)
            moved = n * (X.itemsize * X.shape[1] + forest.values.itemsize * forest.n_outputs)
            figures = {"us": round(ns / 1e3, 2), "ns_per_row": round(ns / n, 3), "GB_per_s": round(moved / ns, 1)}
            yield {"model": shape.name, "way": name, "rows": n, **figures}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 1 where a bit differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--cache", type=Path, default=Path("build/benchmarks/models"), help="trained models")
    parser.add_argument("--models", nargs="*", default=[shape.name for shape in SHAPES])
    parser.add_argument("--batches", nargs="*", type=int, default=list(BATCHES))
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu.jsonl"), help="figures, a line each")
    given = parser.parse_args(arguments)
    gpu = device()
    print(f"{gpu.name}, {gpu.arch}, {gpu.multiprocessors} multiprocessors")
    wrong = False
    with given.output.open("a") as file:
        for shape in (s for s in SHAPES if s.name in given.models):
            for figures in measure(shape, given.cache, given.batches, gpu):
                line = json.dumps({"gpu": gpu.name, **figures})
                print(line, flush=True)
                file.write(line + "\n")
                wrong = wrong or bool(figures.get("wrong"))
    return int(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
