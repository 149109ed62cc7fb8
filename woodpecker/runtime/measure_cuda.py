"""How a candidate of a tuning job is checked and timed on a GPU; shared by the jobs and by `woodpecker measure`.

Rows stay in the memory of the GPU. A time is that of many launches and one wait, so it holds what a launch costs the
CPU, but no copies. There are more of them than were drawn: the drawn ones are repeated up to the largest batch, and
those to check with follow.
"""

from __future__ import annotations

import base64
import contextlib
import json
import time
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, TargetError
from . import cuda, cuda_driver, measure
from .cuda import Code, Launch, Model
from .cuda_driver import Current, Device, call, made

MAX_BYTES = 2**30
"""Rows that are timed, and their scores, take no more of the GPU's memory."""
WARM_SECONDS = 0.1
"""How long a candidate runs before it is timed: the clock of a GPU that had nothing to do is a fraction of its highest,
and rises within some tens of milliseconds."""
KERNELS = ("few", "raw")
"""Both are checked with all rows, whichever would serve them."""

Compute = Callable[[Sequence[tuple[int, int]], str | None], np.ndarray]
"""(calls, entry) -> the scores up to the last row of the calls, as `measure.Compute`; an entry that is named serves
whatever the number of rows."""


@dataclass(frozen=True)
class Candidate:
    """A candidate's code.

    Args:
        codes, launches, few_rows: See `woodpecker.runtime.cuda.load`.
    """

    codes: tuple[Code, ...]
    launches: Mapping[str, Launch]
    few_rows: int

    def to_text(self) -> str:
        """A file of it."""
        codes = [
            {"kind": c.kind, "arch": c.arch, "image": base64.b64encode(zlib.compress(c.image)).decode()}
            for c in self.codes
        ]
        launches = {name: astuple(how) for name, how in self.launches.items()}
        return json.dumps({"few_rows": self.few_rows, "launches": launches, "codes": codes}) + "\n"


def read(path: Path) -> Candidate:
    """What `Candidate.to_text` wrote, of a folder whose digests were compared.

    Raises:
        InputError: the file is damaged. OSError: it can't be read.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        codes = (Code(c["kind"], c["arch"], zlib.decompress(base64.b64decode(c["image"]))) for c in held["codes"])
        launches = {name: Launch(*how) for name, how in held["launches"].items()}
        return Candidate(tuple(codes), launches, int(held["few_rows"]))
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}): make it again") from error


class Memory:
    """Memory of a GPU, which is given back with this object."""

    def __init__(self, device: Device, nbytes: int) -> None:
        with Current(device.context):
            self.address = made("cuMemAlloc_v2", max(nbytes, 1))
        weakref.finalize(self, _free, device.context, self.address).atexit = False


def _free(context: int, address: int) -> None:
    with contextlib.suppress(TargetError), Current(context):
        call("cuMemFree_v2", address)


@dataclass(frozen=True)
class Rows:
    """Rows in the memory of a GPU.

    Args:
        memory: Where they are, in C order.
        n: How many.
        columns: Of each.
        dtype: float32 or float64.
    """

    memory: Memory
    n: int
    columns: int
    dtype: np.dtype[Any]


def resident_rows(n_rows: int, batches: Sequence[int]) -> int:
    """How many rows calls are timed over, of which n_rows are distinct."""
    return max(n_rows, *batches)


def source_rows(n_rows: int, n_check: int, n: int) -> np.ndarray:
    """(n + n_check,) which row of X each row in the memory of the GPU is."""
    return np.concatenate([np.arange(n) % n_rows, n_rows + np.arange(n_check)])


def place(device: Device, X: np.ndarray, n_rows: int, n: int) -> Rows:
    """The first n_rows of X, over and over, n in all; then the others, which are only checked."""
    X = np.ascontiguousarray(X)
    stride = X.shape[1] * X.itemsize
    memory = Memory(device, (n + len(X) - n_rows) * stride)
    parts = [(begin, X[: min(n_rows, n - begin)]) for begin in range(0, n, n_rows)]
    with Current(device.context):
        for begin, part in [*parts, (n, X[n_rows:])]:
            if part.size:
                call("cuMemcpyHtoDAsync_v2", memory.address + begin * stride, part.ctypes.data, part.nbytes, None)
        call("cuStreamSynchronize", None)
    return Rows(memory, n + len(X) - n_rows, X.shape[1], X.dtype)


def _counted(model: Model, entry: str, rows: int) -> Memory | None:
    """The scratch of an entry that counts blocks, if the model has it; for as many rows as it may get."""
    if entry not in model.launches:
        return None
    nbytes, zeros = cuda.scratch_bytes(model, entry, min(rows, cuda.COUNTER_BYTES // 4)), cuda.COUNTER_BYTES
    found = Memory(model.device, nbytes)
    with Current(model.device.context):
        call("cuMemsetD32Async", found.address, 0, zeros // 4, None)
    return found


def bind(model: Model, rows: Rows, kind: str, width: int, dtype: np.dtype[Any]) -> tuple[Compute, measure.Clock]:
    """A candidate on rows in the memory of its GPU.

    Args:
        model: The candidate.
        rows: The rows.
        kind: "raw" or "apply".
        width, dtype: Columns and dtype of what it computes.
    """
    item, context = np.dtype(dtype).itemsize, model.device.context
    out = Memory(model.device, rows.n * width * item)
    kernels = [f"{name}_f{8 * rows.dtype.itemsize}" for name in (KERNELS if kind == "raw" else (kind,))]
    scratch = Memory(model.device, max(cuda.scratch_bytes(model, entry, rows.n) for entry in kernels))
    counted = _counted(model, f"spread_f{8 * rows.dtype.itemsize}", rows.n)

    def run(begin: int, end: int, entry: str | None) -> None:
        entry = entry or cuda.entry_for(model, kind, rows.dtype, end - begin)
        held = counted if counted and cuda.zeroed_bytes(model, entry) else scratch
        x = rows.memory.address + begin * rows.columns * rows.dtype.itemsize
        to = out.address + begin * width * item
        cuda.launch(model, entry, (x, rows.columns), (to, width), end - begin, held.address, 0)

    def compute(calls: Sequence[tuple[int, int]], entry: str | None = None) -> np.ndarray:
        # Rows behind the last one that is asked for may be millions.
        found = measure.unwritten(np.empty((max(end for _, end in calls), width), dtype))
        with Current(context):
            call("cuMemcpyHtoDAsync_v2", out.address, found.ctypes.data, found.nbytes, None)
            for begin, end in calls:
                run(begin, end, entry)
            call("cuMemcpyDtoHAsync_v2", found.ctypes.data, out.address, found.nbytes, None)
            call("cuStreamSynchronize", None)
        return found

    def launches(size: int, starts: Sequence[int]) -> float:
        call("cuStreamSynchronize", None)
        begun = time.perf_counter_ns()
        for start in starts:
            run(start, start + size, None)
        call("cuStreamSynchronize", None)
        return float(time.perf_counter_ns() - begun)

    warm = False

    def clock(size: int, starts: Sequence[int]) -> float:
        nonlocal warm
        with Current(context):
            end = time.perf_counter() + (0.0 if warm else WARM_SECONDS)
            while time.perf_counter() < end:
                launches(size, starts)
            warm = True
            return launches(size, starts)

    return compute, clock


def first_difference(
    compute: Compute, wanted: np.ndarray, dtype: np.dtype[Any], n_rows: int, batches: Sequence[int]
) -> str | None:
    """What differs from the wanted raw scores, to the bit, or None: all distinct rows by either kernel, piece by piece;
    then a call of each batch size, by the kernel that serves it.

    Args:
        compute: The candidate, on rows as `place` leaves them.
        wanted: (n_rows and those to check with, K) of the distinct rows.
        dtype: Of X.
        n_rows: How many of them are timed.
        batches: Rows per call.
    """
    n, bits = resident_rows(n_rows, batches), 8 * np.dtype(dtype).itemsize
    source = source_rows(n_rows, len(wanted) - n_rows, n)
    distinct = measure.pieces(n_rows) + [(n + begin, n + end) for begin, end in measure.pieces(len(wanted) - n_rows)]
    asked: list[tuple[list[tuple[int, int]], str | None]] = [(distinct, f"{kernel}_f{bits}") for kernel in KERNELS]
    asked += [([(0, batch)], None) for batch in batches]
    for calls, entry in asked:
        found = compute(calls, entry)
        at = np.concatenate([np.arange(begin, end) for begin, end in calls])
        if text := measure.difference(found[at], wanted[source[at]]):
            return f"{entry or f'{len(at):,} rows'}: {text}"
    return None


def load(candidate: Candidate, blob: np.ndarray, device: Device) -> Model:
    """The candidate on a GPU.

    Raises:
        TargetError: there is no code for it, or the driver fails.
    """
    return cuda.load(candidate.codes, candidate.launches, blob, device, few_rows=candidate.few_rows)


def needs(archs: Sequence[str]) -> str:
    """What code for these architectures runs on, for people."""
    return f"an NVIDIA GPU: {', '.join(archs)}, or a later one"


def check_here(archs: Sequence[str]) -> dict[str, Any]:
    """`cuda_driver.facts` of this process's first GPU, if code for these architectures runs on it.

    Raises:
        TargetError: it does not, or there is none.
    """
    facts = cuda_driver.facts()
    chosen(archs, facts["arch"])
    return facts


def chosen(archs: Sequence[str], arch: str) -> Code:
    """What a GPU takes of code for these architectures.

    Raises:
        TargetError: nothing.
    """
    return cuda.choose([*(Code("cubin", each, b"") for each in archs), Code("ptx", archs[0], b"")], arch)
