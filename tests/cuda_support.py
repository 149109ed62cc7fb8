"""CUDA kernels without a GPU: prepared from a forest, and run on the CPU from the very CUDA C that NVRTC compiles."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import build_cuda, levels_cuda
from woodpecker.build_cuda import kernels, prepare, source
from woodpecker.errors import MissingExtraError
from woodpecker.forest import Forest, Method
from woodpecker.layout import Signature
from woodpecker.predicates import canonicalise
from woodpecker.relay_ops.options import resolve
from woodpecker.runtime import cuda_driver
from woodpecker.runtime.cuda import COUNTER_BYTES, Code, Launch
from woodpecker.runtime.format import aligned
from woodpecker.schedules import cuda
from woodpecker.schedules.cuda_plan import COMMON
from woodpecker.schedules.cuda_strategies import STRATEGIES, WALKING

from .gallery import ALONE, FORESTS

ARCH = "sm_90"
ARCHS = "cuda -arch=sm_80,sm_90"
EMULATOR = Path(__file__).parent / "c" / "emulate.h"
ORDERS = (False, True)
"""Of the threads of a block: forwards, backwards."""
LAST_BLOCK_FIRST, IN_TURN, UP_TO_THE_COUNT = 2, 4, 8
"""Orders of blocks, beside the first first."""


def skip_without_nvrtc() -> None:
    """Skip the test where NVRTC is missing."""
    try:
        build_cuda.assemble('extern "C" __global__ void nothing() {}', ARCH, "ptx")
    except MissingExtraError as error:
        pytest.skip(str(error))


@dataclass(frozen=True)
class Prepared:
    """A forest, and what its kernels are made of."""

    forest: Forest
    parts: tuple[cuda.Part, ...]
    launches: Mapping[str, Launch]
    model: np.ndarray

    @property
    def signatures(self) -> tuple[Signature, ...]:
        return tuple(part.signature for part in self.parts)

    @property
    def signature(self) -> Signature:
        """That of the kernels for batches."""
        return self.signatures[0]


def prepared(forest: Forest, strategy: str, **options: int) -> Prepared:
    """With options by their names without "cuda_"; walks walk one tree, and by node records, unless told otherwise."""
    module = STRATEGIES[strategy]
    given = {"trees": 1, "ranks": 0} if strategy in WALKING else {}
    given = {f"cuda_{name}": value for name, value in (given | options).items()}
    made = prepare(canonicalise(forest), strategy, resolve(strategy, module.OPTIONS | COMMON, given))
    return Prepared(forest, made.parts, made.launches, made.model)


@functools.lru_cache(maxsize=256)
def cuda_c(found: tuple[Signature, ...], entries: tuple[str, ...] = cuda.ENTRIES) -> str:
    return source(kernels(found, entries), ARCH)


def cpp(text: str) -> str:
    """CUDA C as C++ for the emulation: each kernel is ``run_<name>(X, out, scratch, model, x_stride, out_stride, rows,
    blocks, threads, shared_bytes, order)``, see `emulate`."""
    body = text[text.index('extern "C" __global__') :]
    body, shared = re.subn(r"extern __shared__ __align__\(\d+\) (\w+) (\w+)\[\];", r"\1* \2 = shared_memory;", body)
    assert shared == text.count("__shared__")
    parts = [f'#include "{EMULATOR}"', *re.findall(r"^#define .*$", text, re.M), body]
    for name, given in re.findall(r'^extern "C" __global__ void __launch_bounds__\(\d+\) (\w+)\((.*)\);$', body, re.M):
        declared = [p.replace("__restrict__", "") for p in given.split(", ")]
        names = [p.split()[-1] for p in declared]
        parts += [f"static {p.replace(n, f'{name}_{n}')};" for p, n in zip(declared, names, strict=True)]
        parts.append(f"static void call_{name}() {{ {name}({', '.join(f'{name}_{n}' for n in names)}); }}")
        keep = " ".join(f"{name}_{n} = {n};" for n in names)
        run = f"return emulate(call_{name}, blocks, threads, shared_bytes, order);"
        takes = ", ".join(declared)
        parts.append(f'extern "C" int run_{name}({takes}, int threads, int64_t shared_bytes, int order) {{')
        parts.append(f"{keep} {run} }}")
    return "\n".join(parts)


def library(source_file: Path, made: Path) -> Path:
    """A shared library from C++."""
    compiler = [shutil.which("c++")] if shutil.which("c++") else [sys.executable, "-m", "ziglang", "c++"]
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fno-strict-aliasing", "-w", "-shared", "-fPIC"]
    subprocess.run([*compiler, *flags, source_file, "-o", made, "-ldl"], check=True)
    return made


@functools.lru_cache(maxsize=256)
def emulated(text: str) -> Any:
    """The kernels of CUDA C as a library, see `cpp`."""
    with tempfile.TemporaryDirectory(prefix="woodpecker-") as folder:
        file = Path(folder) / "kernels.cpp"
        file.write_text(cpp(text))
        return ctypes.CDLL(str(library(file, Path(folder) / "kernels.so")))


@contextlib.contextmanager
def emulated_build(folder: Path, change: Callable[[str], str] = str) -> Iterator[None]:
    """`compile` makes code for the fake driver of tests/c/fake_cuda.cpp, in a folder, instead of calling NVRTC; of CUDA
    C that ``change`` has changed."""
    lock = threading.Lock()

    def assemble(text: str, arch: str, kind: str = "cubin") -> Code:
        made = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.so"
        with lock:
            if not made.exists():
                made.with_suffix(".cpp").write_text(cpp(change(text)))
                library(made.with_suffix(".cpp"), made)
        return Code(kind, arch, f"emulated:{made}".encode())

    levels_cuda._codes.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_cuda, "assemble", assemble)
        yield
    levels_cuda._codes.cache_clear()


def fake_driver(folder: Path) -> Path:
    """The fake driver, as a library."""
    return library(Path(__file__).parent / "c" / "fake_cuda.cpp", folder / "libcuda.so")


GUARD = 256
STATE = ("allocations", "modules", "contexts", "launches", "mistakes", "streams", "pinned")


def state(fake: Path) -> dict[str, int]:
    """What is in use of the fake driver."""
    found = (ctypes.c_int * len(STATE))()
    ctypes.CDLL(str(fake)).fake_state(found)
    return dict(zip(STATE, found, strict=True))


def calls(fake: Path) -> list[str]:
    """The names of the fake driver's functions that were called since the last time."""
    text = ctypes.create_string_buffer(2**20)
    ctypes.CDLL(str(fake)).fake_log(text, ctypes.c_size_t(len(text)))
    return text.value.decode().split()


def run(
    made: Prepared,
    entry: str,
    X: np.ndarray,
    *,
    blocks: int = 3,
    backwards: bool = False,
    order: int = 0,
    text: str = "",
) -> np.ndarray:
    """What an entry computes, by a grid of so many blocks. X may have any row stride; out has one of its own.

    Args:
        blocks: Of the grid; where blocks share rows, of each row. Such an entry is launched twice, with the same
            counters.
        backwards: The last thread of a block comes first.
        order: Of blocks, see `emulate`.
        text: CUDA C that is run instead of the entry's own.
    """
    how = made.launches[entry]
    forest = made.forest
    width, dtype = (forest.n_outputs, forest.values.dtype) if not entry.startswith("apply") else (forest.n_trees, "i4")
    out = np.full((len(X), width + 3), -77, dtype)
    counters = COUNTER_BYTES if how.row_blocks else 0
    blocks = blocks * len(X) if counters else blocks
    size = counters + how.scratch_bytes * (len(X) if counters else blocks)
    scratch = aligned(size + GUARD)
    scratch[:counters] = 0
    arrays: Mapping[str, np.ndarray] = {"X": X, "out": out, "scratch": scratch, "model": made.model}
    strides = [X.strides[0] // X.itemsize, width + 3]
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in arrays.values()]
    integers = [ctypes.c_int64(n) for n in (*strides, len(X), blocks)]
    launch = (how.threads, ctypes.c_int64(how.shared_bytes), order | int(backwards))
    for _ in range(2 if counters else 1):
        out[:], scratch[counters:] = -77, 0xA5
        wrong = getattr(emulated(text or cuda_c(made.signatures)), f"run_{entry}")(*pointers, *integers, *launch)
        assert wrong == 0, f"{entry}: {wrong}"
        assert not scratch[:counters].any(), f"{entry} leaves counters behind"
        assert (scratch[size:] == 0xA5).all(), f"{entry} writes beyond its scratch"
    assert (out[:, width:] == -77).all(), f"{entry} writes beyond its columns"
    return out[:, :width]


@contextlib.contextmanager
def emulated_gpu(folder: Path) -> Iterator[Path]:
    """`compile` and `load` for a GPU that the fake driver, which this yields, emulates."""
    fake = fake_driver(folder)
    with emulated_build(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_driver, "LIBRARY", str(fake))
        yield fake
        gc.collect()  # what is freed later would be freed by another driver


def three_classes() -> Forest:
    """Three classes, with links and labels."""
    methods = {
        "predict": Method("label", "xgb_softmax"),
        "predict_proba": Method("proba", "xgb_softmax"),
    }
    return FORESTS["outputs"]().replace(methods=methods, classes=(np.array(["a", "b", "c"]),))


def compiled(forest: Forest, target: Any = ARCHS, **given: Any) -> wp.Predictor:
    """Options of the CPU's walk that are compiled fast."""
    given = given or dict(strategy="perfect_tree_traversal")
    return wp.compile(forest, target=target, **ALONE[given["strategy"]], **given)
