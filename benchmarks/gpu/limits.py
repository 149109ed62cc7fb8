"""What a GPU can do at most: its memory's bandwidth, measured by a copy there, and its multiprocessors' cycles."""

from __future__ import annotations

import ctypes
import time
from typing import Any

from woodpecker.runtime import cuda_driver
from woodpecker.runtime.cuda_driver import Current, call
from woodpecker.runtime.measure_cuda import Memory

COPY_BYTES, COPIES, TURNS = 2**30, 10, 5
CLOCK_RATE = 13
"""CU_DEVICE_ATTRIBUTE_CLOCK_RATE: the highest, in kHz."""


class DriverFailedError(Exception):
    """A function of the driver that woodpecker itself does not call fails."""


def driver(name: str, *arguments: Any) -> None:
    """Call a function of the driver that woodpecker itself does not call."""
    function = getattr(ctypes.CDLL(cuda_driver.LIBRARY), name, None)
    status = -1 if function is None else function(*arguments)
    if status != 0:
        raise DriverFailedError(f"{name}: {'not there' if function is None else f'error {status}'}")


def machine(device: cuda_driver.Device) -> dict[str, Any]:
    """The GPU: "gpu", "arch", "multiprocessors", "GHz", "copy_GB_per_s" (bytes read and written), "free_bytes"."""
    kilohertz = ctypes.c_int(0)
    driver("cuDeviceGetAttribute", ctypes.byref(kilohertz), CLOCK_RATE, _handle(device))
    return {
        "gpu": device.name,
        "arch": device.arch,
        "multiprocessors": device.multiprocessors,
        "GHz": kilohertz.value / 1e6,
        "copy_GB_per_s": round(bandwidth(device), 1),
        "free_bytes": free_bytes(device),
    }


def _handle(device: cuda_driver.Device) -> int:
    handle = ctypes.c_int(0)
    driver("cuDeviceGet", ctypes.byref(handle), device.number)
    return handle.value


def free_bytes(device: cuda_driver.Device) -> int:
    """Memory of the GPU that is not in use."""
    free, whole = ctypes.c_size_t(0), ctypes.c_size_t(0)
    with Current(device.context):
        driver("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(whole))
    return free.value


def bandwidth(device: cuda_driver.Device) -> float:
    """Bytes that a copy within the memory of the GPU reads and writes, in GB/s: the best of several turns."""
    size = min(COPY_BYTES, free_bytes(device) // 4)
    a, b = Memory(device, size), Memory(device, size)
    arguments = ctypes.c_uint64(b.address), ctypes.c_uint64(a.address), ctypes.c_size_t(size), None

    def seconds() -> float:
        begun = time.perf_counter()
        for _ in range(COPIES):
            driver("cuMemcpyDtoDAsync_v2", *arguments)
        call("cuStreamSynchronize", None)
        return time.perf_counter() - begun

    with Current(device.context):
        seconds()
        return 2 * size * COPIES / min(seconds() for _ in range(TURNS)) / 1e9


def limits(machine: dict[str, Any], made: dict[str, float], row_bytes: int) -> dict[str, float]:
    """Least ns a row, of a large batch.

    Args:
        machine: From `machine`.
        made: "cycles" and "wavefronts" of a row, see `making.estimates`.
        row_bytes: Bytes that are read and written of a row.

    Returns:
        "bandwidth": those bytes over the bandwidth of a copy. "cycles": the estimate of a plan, over the cycles of all
        multiprocessors. "wavefronts": likewise, of the shared memory alone. Both are estimates.
    """
    found = {"bandwidth": row_bytes / machine["copy_GB_per_s"]} if machine["copy_GB_per_s"] else {}
    each = machine["multiprocessors"] * machine["GHz"]
    return found | {name: made[name] / each for name in ("cycles", "wavefronts") if name in made and each}
