"""CUDA kernels on a GPU.

A model's code and blob are loaded once per GPU, into the GPU's primary context, which frameworks of the process share.
"""

from __future__ import annotations

import contextlib
import ctypes
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import TargetError
from .cuda_driver import Current, Device, P, call, made

FEW_ROWS = 128
"""Rows for each multiprocessor up to which a row gets a block, not a thread, unless the model says otherwise: beyond,
all threads have rows."""
SPREAD_TREES = 128
"""Trees of a block at most, where blocks share the trees of a row: one for each thread."""
COUNTER_BYTES = 1024
"""With which the scratch of blocks that share rows begins: a counter of 32 bits for each row."""
TEGRA = ("sm_87", "sm_101", "sm_110")
"""GPUs of Jetson and Drive, on which NVIDIA does not promise that cubins of other architectures run."""
SCRATCH_BLOCKS = 8
"""Blocks for each multiprocessor where each needs scratch."""
SHARED_BYTES, MAX_SHARED_BYTES = 48 * 1024, 8
"""Shared memory of a block that a kernel need not ask for, and CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES."""


@dataclass(frozen=True)
class Code:
    """Code for GPUs.

    Args:
        kind: "cubin" or "ptx".
        arch: "sm_90" or the like: the architecture of a cubin, or the first that the PTX is good for.
        image: The bytes that the driver loads.
    """

    kind: str
    arch: str
    image: bytes


@dataclass(frozen=True)
class Launch:
    """How an entry is launched.

    Args:
        threads: Threads of a block.
        rows: Rows of a block.
        shared_bytes: Dynamic shared memory of a block.
        scratch_bytes: Scratch that each block of the grid needs, or each row, where blocks share it; 0: none.
        row_blocks: Blocks that share a row at most; 0: none do.
    """

    threads: int
    rows: int
    shared_bytes: int
    scratch_bytes: int
    row_blocks: int = 0


def choose(codes: Sequence[Code], arch: str) -> Code:
    """The best code for an architecture: the newest cubin of the same generation that is not newer, for TEGRA of the
    same architecture, else the newest PTX that is not newer, which the driver compiles.

    Raises:
        TargetError: there is none.
    """
    major, minor = _version(arch)
    cubins = [c for c in codes if c.kind == "cubin" and _version(c.arch)[0] == major and _version(c.arch)[1] <= minor]
    if arch in TEGRA:
        cubins = [c for c in cubins if c.arch == arch]
    texts = [c for c in codes if c.kind == "ptx" and _version(c.arch) <= (major, minor)]
    if not cubins and not texts:
        has = ", ".join(f"{c.kind} for {c.arch}" for c in codes)
        raise TargetError(f"there is no code for {arch}, which this GPU is: the model has {has}; compile it for {arch}")
    return max(cubins or texts, key=lambda code: _version(code.arch))


def _version(arch: str) -> tuple[int, int]:
    number = arch.removeprefix("sm_")
    return int(number[:-1]), int(number[-1])


@dataclass(frozen=True)
class Model:
    """A model on a GPU.

    Args:
        device: The GPU.
        functions: entry -> the driver's function.
        launches: entry -> how it is launched.
        blob: Where the model blob lies in the memory of the GPU.
        few_rows: Rows for each multiprocessor up to which a row gets a block, not a thread.
        rows_once: Whether kernels read each value of a row once, so that they may as well read it over the bus.
    """

    device: Device
    functions: Mapping[str, int]
    launches: Mapping[str, Launch]
    blob: int
    few_rows: int = FEW_ROWS
    rows_once: bool = True
    _lanes: threading.local = field(default_factory=threading.local, compare=False)
    _of_graphs: list[Any] = field(default_factory=list, compare=False)
    """Memory that CUDA graphs work in."""


def load(
    codes: Sequence[Code],
    launches: Mapping[str, Launch],
    blob: np.ndarray,
    on: Device,
    *,
    few_rows: int = FEW_ROWS,
    rows_once: bool = True,
) -> Model:
    """Load code and model into the memory of a GPU, where they stay as long as the model lives.

    Args:
        codes: For several architectures.
        launches: entry -> how it is launched; the entries are the symbols of the code.
        blob: The model blob, uint8.
        on: The GPU.
        few_rows: Rows for each multiprocessor up to which a row gets a block, not a thread.
        rows_once: See `Model`.

    Raises:
        TargetError: there is no code for the GPU, or the driver fails.
    """
    image = ctypes.create_string_buffer(choose(codes, on.arch).image)  # which ends with a zero, as PTX must
    with Current(on.context), contextlib.ExitStack() as undo:
        module = made("cuModuleLoadData", ctypes.cast(image, P))
        undo.callback(_drop, "cuModuleUnload", module)
        functions = {name: made("cuModuleGetFunction", module, name.encode()) for name in launches}
        for name, how in launches.items():
            if how.shared_bytes > SHARED_BYTES:
                call("cuFuncSetAttribute", functions[name], MAX_SHARED_BYTES, how.shared_bytes)
        there = made("cuMemAlloc_v2", max(blob.nbytes, 1))
        undo.callback(_drop, "cuMemFree_v2", there)
        call("cuMemcpyHtoDAsync_v2", there, blob.ctypes.data, blob.nbytes, None)
        call("cuStreamSynchronize", None)
        undo.pop_all()
    model = Model(on, functions, launches, there, few_rows=few_rows, rows_once=rows_once)
    weakref.finalize(model, _unload, on.context, module, there).atexit = False  # the process ends all by itself
    return model


def _drop(name: str, what: int) -> None:
    with contextlib.suppress(TargetError):
        call(name, what)


def _unload(context: int, module: int, memory: int) -> None:
    # Where the driver itself has failed there is nothing left to free.
    with contextlib.suppress(TargetError), Current(context):
        call("cuCtxSynchronize")  # the last kernels may still run, on the caller's streams
        call("cuMemFree_v2", memory)
        call("cuModuleUnload", module)


def entry_for(model: Model, kind: str, x_dtype: np.dtype[Any], rows: int) -> str:
    """The entry that serves so many rows: ``kind`` is "raw" or "apply"."""
    width = f"f{8 * x_dtype.itemsize}"
    if kind == "raw" and rows <= model.few_rows * model.device.multiprocessors:
        kind = "spread" if sharing(model, f"spread_{width}", rows) > 1 else "few"
    return f"{kind}_{width}"


def sharing(model: Model, entry: str, rows: int) -> int:
    """How many blocks share a row, so that all run at once; 0 or 1: none need to, or there are too many rows."""
    how = model.launches.get(entry)
    if how is None or rows > COUNTER_BYTES // 4:
        return 0
    return min(how.row_blocks, model.device.multiprocessors // max(rows, 1))


def launch(
    model: Model, entry: str, x: tuple[int, int], out: tuple[int, int], rows: int, scratch: int, stream: int
) -> None:
    """Launch an entry for rows in the memory of the GPU. Returns at once.

    Args:
        model: The model; its context is current.
        entry: The entry.
        x, out: Address and row stride, in elements.
        rows: How many, at least one.
        scratch: The address of `scratch_bytes`, of which `zeroed_bytes` are 0, and will be.
        stream: The stream to launch on.
    """
    how = model.launches[entry]
    blocks = _blocks(model, entry, rows)
    values, pointers = _parameters(model)
    values[:] = (x[0], out[0], scratch, model.blob, x[1], out[1], rows, blocks)
    threads, shared = how.threads, how.shared_bytes
    call("cuLaunchKernel", model.functions[entry], blocks, 1, 1, threads, 1, 1, shared, stream, pointers, None)


def _parameters(model: Model) -> tuple[Any, Any]:
    """The parameters of the calling thread's launches, and their addresses: the driver reads them before it returns."""
    found: tuple[Any, Any] | None = getattr(model._lanes, "parameters", None)
    if found is None:
        values = (ctypes.c_int64 * 8)()
        start = ctypes.addressof(values)
        found = values, (P * 8)(*(start + 8 * i for i in range(8)))
        model._lanes.parameters = found
    return found


def scratch_bytes(model: Model, entry: str, rows: int) -> int:
    """Scratch that an entry needs for so many rows."""
    how = model.launches[entry]
    if how.row_blocks:
        return COUNTER_BYTES + rows * how.scratch_bytes
    return how.scratch_bytes * _blocks(model, entry, rows)


def zeroed_bytes(model: Model, entry: str) -> int:
    """How many of its first bytes must be 0 before a launch; a launch leaves them so."""
    return COUNTER_BYTES if model.launches[entry].row_blocks else 0


def _blocks(model: Model, entry: str, rows: int) -> int:
    how = model.launches[entry]
    if how.row_blocks:
        return rows * sharing(model, entry, rows)
    most = SCRATCH_BLOCKS * model.device.multiprocessors if how.scratch_bytes else 2**31 - 1
    return min(-(-rows // how.rows), most)
