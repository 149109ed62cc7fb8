"""CUDA kernels on a GPU.

A model's code and blob are loaded once per GPU, into the GPU's primary context, which frameworks of the process share.
Rows on the host go there in chunks, by two streams in turn, so that one's copies overlap the other's kernels.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError, TargetError
from .cuda_driver import Current, Device, P, call, made

CHUNK_BYTES = 32 * 2**20
"""Rows of a chunk: enough to keep a GPU busy while the next is copied."""
FEW_ROWS = 128
"""Rows for each multiprocessor up to which a row gets a block, not a thread, unless the model says otherwise: beyond,
all threads have rows."""
TEGRA = ("sm_87", "sm_101", "sm_110")
"""GPUs of Jetson and Drive, on which NVIDIA does not promise that cubins of other architectures run."""
SCRATCH_BLOCKS = 8
"""Blocks for each multiprocessor where each needs scratch."""
SHARED_BYTES, MAX_SHARED_BYTES = 48 * 1024, 8
"""Shared memory of a block that a kernel need not ask for, and CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES."""
COMPARED = 256
"""The first rows of a kernel that may be compared with what the CPU makes of them."""

Check = Callable[[str, str, Callable[[], tuple[np.ndarray, np.ndarray]]], None]
"""Called with a kernel that ran, "raw" or "apply", and what gives up to COMPARED rows of the host and its answers."""


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
        scratch_bytes: Scratch that each block of the grid needs; 0: none.
    """

    threads: int
    rows: int
    shared_bytes: int
    scratch_bytes: int


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


@dataclass
class _Lane:
    """A stream, and the memory of the GPU that the chunks on it use; ``kept`` are host arrays still to be read, and
    ``then`` is what remains to be done when the stream is done."""

    stream: int
    buffers: dict[str, tuple[int, int]] = field(default_factory=dict)
    kept: list[np.ndarray] = field(default_factory=list)
    then: Callable[[], None] | None = None


@dataclass(frozen=True)
class Model:
    """A model on a GPU.

    Args:
        device: The GPU.
        functions: entry -> the driver's function.
        launches: entry -> how it is launched.
        blob: Where the model blob lies in the memory of the GPU.
        few_rows: Rows for each multiprocessor up to which a row gets a block, not a thread.
    """

    device: Device
    functions: Mapping[str, int]
    launches: Mapping[str, Launch]
    blob: int
    few_rows: int = FEW_ROWS
    _lanes: threading.local = field(default_factory=threading.local, compare=False)


def load(
    codes: Sequence[Code], launches: Mapping[str, Launch], blob: np.ndarray, on: Device, *, few_rows: int = FEW_ROWS
) -> Model:
    """Load code and model into the memory of a GPU, where they stay as long as the model lives.

    Args:
        codes: For several architectures.
        launches: entry -> how it is launched; the entries are the symbols of the code.
        blob: The model blob, uint8.
        on: The GPU.
        few_rows: Rows for each multiprocessor up to which a row gets a block, not a thread.

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
        memory = made("cuMemAlloc_v2", max(blob.nbytes, 1))
        undo.callback(_drop, "cuMemFree_v2", memory)
        call("cuMemcpyHtoDAsync_v2", memory, blob.ctypes.data, blob.nbytes, None)
        call("cuStreamSynchronize", None)
        undo.pop_all()
    model = Model(on, functions, launches, memory, few_rows=few_rows)
    weakref.finalize(model, _unload, on.context, module, memory).atexit = False  # the process ends all by itself
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
    if kind == "raw" and rows <= model.few_rows * model.device.multiprocessors:
        kind = "few"
    return f"{kind}_f{8 * x_dtype.itemsize}"


def launch(
    model: Model, entry: str, x: tuple[int, int], out: tuple[int, int], rows: int, scratch: int, stream: int
) -> None:
    """Launch an entry for rows in the memory of the GPU. Returns at once.

    Args:
        model: The model; its context is current.
        entry: The entry.
        x, out: Address and row stride, in elements.
        rows: How many, at least one.
        scratch: The address of `scratch_bytes`.
        stream: The stream to launch on.
    """
    how = model.launches[entry]
    blocks = _blocks(model, how, rows)
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
    return how.scratch_bytes * _blocks(model, how, rows)


def _blocks(model: Model, how: Launch, rows: int) -> int:
    most = SCRATCH_BLOCKS * model.device.multiprocessors if how.scratch_bytes else 2**31 - 1
    return min(-(-rows // how.rows), most)


def run(model: Model, kind: str, X: np.ndarray, out: np.ndarray, check: Check | None = None) -> None:
    """Compute rows that are in the memory of the host, and wait for it.

    Args:
        model: The model.
        kind: "raw" or "apply".
        X: (n, F) float32 or float64.
        out: (n, K) of the accumulator's dtype, or (n, T) int32.
        check: Called with each kernel that ran.

    Raises:
        InputError: X and out have different numbers of rows. TargetError: the driver fails.
    """
    if len(X) != len(out):
        raise InputError(f"X has {len(X)} rows, and out {len(out)}")
    row_bytes = X.itemsize * X.shape[1] + out.itemsize * out.shape[1]
    size = max(1, min(CHUNK_BYTES // max(row_bytes, 1), len(X)))
    with Current(model.device.context):
        lanes = _lanes(model)
        try:
            for i, begin in enumerate(range(0, len(X), size)):
                lane = lanes[i % len(lanes)]
                _finish(lane)
                _chunk(model, kind, lane, X[begin : begin + size], out[begin : begin + size])
            for lane in lanes:
                _finish(lane)
            if check is not None:
                # Of the first chunk, and of the last, which may be for another kernel.
                for begin in {0, (len(X) - 1) // size * size}:
                    head = slice(begin, min(begin + min(size, COMPARED), len(X)))
                    kernel = entry_for(model, kind, X.dtype, min(size, len(X) - begin))
                    check(kernel, kind, functools.partial(_heads, X[head], out[head]))
        except BaseException:
            for lane in lanes:
                _abandon(lane)
            raise


def _heads(X: np.ndarray, out: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(X), np.ascontiguousarray(out)


def _chunk(model: Model, kind: str, lane: _Lane, X: np.ndarray, out: np.ndarray) -> None:
    entry = entry_for(model, kind, X.dtype, len(X))
    packed = np.ascontiguousarray(X)
    result = out if out.flags.c_contiguous else np.empty_like(out, order="C")
    x, y = _buffer(lane, "x", packed.nbytes), _buffer(lane, "out", result.nbytes)
    scratch = _buffer(lane, "scratch", scratch_bytes(model, entry, len(X)))
    lane.kept = [packed, result]
    call("cuMemcpyHtoDAsync_v2", x, packed.ctypes.data, packed.nbytes, lane.stream)
    launch(model, entry, (x, X.shape[1]), (y, out.shape[1]), len(X), scratch, lane.stream)
    call("cuMemcpyDtoHAsync_v2", result.ctypes.data, y, result.nbytes, lane.stream)
    if result is not out:
        lane.then = functools.partial(np.copyto, out, result)


def _finish(lane: _Lane) -> None:
    """Wait for what runs on a lane."""
    if lane.kept:
        call("cuStreamSynchronize", lane.stream)
        lane.kept = []
    if lane.then is not None:
        lane.then()
        lane.then = None


def _abandon(lane: _Lane) -> None:
    """Wait until the GPU no longer reads or writes arrays of the host, whatever became of it."""
    with contextlib.suppress(TargetError):
        call("cuStreamSynchronize", lane.stream)
    lane.kept, lane.then = [], None


def _lanes(model: Model) -> list[_Lane]:
    """The two lanes of the calling thread."""
    found: list[_Lane] | None = getattr(model._lanes, "lanes", None)
    if found is None:
        found = [_Lane(made("cuStreamCreate", 1)) for _ in range(2)]  # 1: not held up by the default stream
        model._lanes.lanes = found
        for lane in found:
            weakref.finalize(lane, _close, model.device.context, lane.stream, lane.buffers).atexit = False
    return found


def _buffer(lane: _Lane, name: str, nbytes: int) -> int:
    """Memory of the GPU, kept for the next chunk; called while nothing runs on the lane."""
    address, capacity = lane.buffers.get(name, (0, 0))
    if nbytes > capacity:
        if capacity:
            del lane.buffers[name]
            call("cuMemFree_v2", address)
        address = made("cuMemAlloc_v2", nbytes)
        lane.buffers[name] = (address, nbytes)
    return address


def _close(context: int, stream: int, buffers: Mapping[str, tuple[int, int]]) -> None:
    with contextlib.suppress(TargetError), Current(context):
        for address, _ in buffers.values():
            call("cuMemFree_v2", address)
        call("cuStreamDestroy_v2", stream)
