"""A thread's streams on a GPU, and the memory that belongs to each: of the GPU, and pinned memory of the host.

The GPU copies from and to pinned memory by itself, while the host does something else; other memory of the host the
driver copies through pinned memory of its own, and waits for that. A kernel can also read and write pinned memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import TargetError
from .cuda_driver import Current, Device, P, call, made, status_of

LANES = 2
"""Chunks on their way: while the GPU works on one, the host copies the rows of the next."""
COUNTED = "counted"
"""The name of scratch that begins with counters."""
_MAPPED = 2  # CU_MEMHOSTALLOC_DEVICEMAP
_MEMORY_TYPE, _HOST = 2, 1  # CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_MEMORYTYPE_HOST


@dataclass(frozen=True)
class Pinned:
    """Pinned memory.

    Args:
        address: Where it lies for the host.
        there: Where it lies for kernels.
        bytes: The memory, uint8.
    """

    address: int
    there: int
    bytes: np.ndarray


@dataclass
class Lane:
    """A stream, and what the chunks on it use.

    Args:
        stream: The stream.
        memory: name -> address and bytes of memory of the GPU.
        pinned: name -> pinned memory; None: the driver gave none.
        busy: Whether something may run on the stream.
        kept: Arrays of the host that may still be read or written.
        then: What remains to be done when the stream is done.
    """

    stream: int
    memory: dict[str, tuple[int, int]] = field(default_factory=dict)
    pinned: dict[str, Pinned | None] = field(default_factory=dict)
    busy: bool = False
    kept: list[np.ndarray] = field(default_factory=list)
    then: Callable[[], None] | None = None


def lanes(device: Device, local: threading.local) -> list[Lane]:
    """The lanes of the calling thread, which are kept in ``local``; the GPU's context is current."""
    found: list[Lane] | None = getattr(local, "lanes", None)
    if found is None:
        found = [Lane(made("cuStreamCreate", 1)) for _ in range(LANES)]  # 1: not held up by the default stream
        local.lanes = found
        for lane in found:
            close = functools.partial(_close, device.context, lane.stream, lane.memory, lane.pinned)
            weakref.finalize(lane, close).atexit = False  # the process ends all by itself
    return found


def memory(lane: Lane, name: str, nbytes: int) -> int:
    """The address of so much memory of the GPU, kept for the next chunk; called while nothing runs on the lane."""
    address, capacity = lane.memory.get(name, (0, 0))
    if nbytes > capacity:
        drop(lane, name)
        address = made("cuMemAlloc_v2", nbytes)
        lane.memory[name] = (address, nbytes)
    return address


def zeroed(lane: Lane, name: str, nbytes: int, zeros: int) -> int:
    """The same of memory whose first bytes are 0 when it is new; who uses it leaves them so."""
    if nbytes > lane.memory.get(name, (0, 0))[1]:
        drop(lane, name)
        address = made("cuMemAlloc_v2", nbytes)
        try:
            call("cuMemsetD32Async", address, 0, zeros // 4, lane.stream)
        except TargetError:
            call("cuMemFree_v2", address)
            raise
        lane.memory[name] = (address, nbytes)
    return lane.memory[name][0]


def drop(lane: Lane, name: str) -> None:
    """Give memory of the GPU back, which nothing uses."""
    address, _ = lane.memory.pop(name, (0, 0))
    if address:
        call("cuMemFree_v2", address)


def pinned(lane: Lane, name: str, nbytes: int) -> Pinned | None:
    """So much pinned memory, kept for the next chunk; called while nothing runs on the lane. None: there is none, as
    where the system limits it."""
    held = lane.pinned.get(name)
    if held is None and name in lane.pinned:
        return None
    if held is None or len(held.bytes) < nbytes:
        lane.pinned[name] = None
        if held is not None:
            call("cuMemFreeHost", held.address)
        found = P()
        if status_of("cuMemHostAlloc", ctypes.byref(found), nbytes, _MAPPED) != 0 or not found.value:
            return None
        there = P()
        if status_of("cuMemHostGetDevicePointer_v2", ctypes.byref(there), found, 0) != 0 or not there.value:
            call("cuMemFreeHost", found)
            return None
        block: Any = (ctypes.c_uint8 * nbytes).from_address(found.value)
        held = Pinned(found.value, there.value, np.frombuffer(block, np.uint8))
        lane.pinned[name] = held
    return held


def is_pinned(array: np.ndarray) -> bool:
    """Whether a C-ordered array lies in memory that is pinned already, by whomever: PyTorch, CuPy, a registration."""
    kind = ctypes.c_uint(0)
    for at in (array.ctypes.data, array.ctypes.data + max(array.nbytes, 1) - 1):
        # Of memory that it does not know the driver says that the value is invalid.
        if status_of("cuPointerGetAttribute", ctypes.byref(kind), _MEMORY_TYPE, at) != 0 or kind.value != _HOST:
            return False
    return True


def finish(lane: Lane) -> None:
    """Wait for what runs on a lane."""
    if lane.busy:
        call("cuStreamSynchronize", lane.stream)
        lane.busy, lane.kept = False, []
    if lane.then is not None:
        then, lane.then = lane.then, None
        then()


def abandon(lane: Lane) -> None:
    """Wait until the GPU no longer reads or writes memory of the host, whatever became of it. What should be 0 may no
    longer be."""
    with contextlib.suppress(TargetError):
        call("cuStreamSynchronize", lane.stream)
        drop(lane, COUNTED)
    lane.busy, lane.kept, lane.then = False, [], None


def _close(context: int, stream: int, memory: dict[str, tuple[int, int]], pinned: dict[str, Pinned | None]) -> None:
    with contextlib.suppress(TargetError), Current(context):
        call("cuStreamSynchronize", stream)
        for address, _ in memory.values():
            call("cuMemFree_v2", address)
        for block in pinned.values():
            if block is not None:
                call("cuMemFreeHost", block.address)
        call("cuStreamDestroy_v2", stream)
