"""The CUDA driver, called with ctypes: libcuda.so.1 comes with NVIDIA's driver, and nothing of the CUDA toolkit is
needed."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import Any

from ..errors import TargetError

LIBRARY = "libcuda.so.1"
_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76  # CU_DEVICE_ATTRIBUTE_*

_HINTS = {
    3: "a process that was forked off one that has used the GPU can't use it: start it by spawn, or use the CPU",
    222: "the model was compiled with a newer CUDA than the driver knows: install a newer driver",
}
"""What to do about CUDA_ERROR_NOT_INITIALIZED, and about UNSUPPORTED_PTX_VERSION, which cubins get as well."""

P, _I, _U, _Z = ctypes.c_void_p, ctypes.c_int, ctypes.c_uint, ctypes.c_size_t
_A = ctypes.POINTER(P)
_FUNCTIONS: dict[str, list[Any]] = {
    "cuInit": [_U],
    "cuDeviceGetCount": [ctypes.POINTER(_I)],
    "cuDeviceGet": [ctypes.POINTER(_I), _I],
    "cuDeviceGetName": [ctypes.c_char_p, _I, _I],
    "cuDeviceGetAttribute": [ctypes.POINTER(_I), _I, _I],
    "cuDevicePrimaryCtxRetain": [_A, _I],
    "cuCtxGetCurrent": [_A],
    "cuCtxSetCurrent": [P],
    "cuCtxPushCurrent_v2": [P],
    "cuCtxPopCurrent_v2": [_A],
    "cuCtxSynchronize": [],
    "cuModuleLoadData": [_A, P],
    "cuModuleUnload": [P],
    "cuModuleGetFunction": [_A, P, ctypes.c_char_p],
    "cuFuncSetAttribute": [P, _I, _I],
    "cuMemAlloc_v2": [_A, _Z],
    "cuMemFree_v2": [P],
    "cuMemHostAlloc": [_A, _Z, _U],
    "cuMemHostGetDevicePointer_v2": [_A, P, _U],
    "cuMemFreeHost": [P],
    "cuPointerGetAttribute": [P, _I, P],
    "cuMemAllocAsync": [_A, _Z, P],
    "cuMemFreeAsync": [P, P],
    "cuMemsetD32Async": [P, _U, _Z, P],
    "cuMemcpyHtoDAsync_v2": [P, P, _Z, P],
    "cuMemcpyDtoHAsync_v2": [P, P, _Z, P],
    "cuStreamCreate": [_A, _U],
    "cuStreamIsCapturing": [P, ctypes.POINTER(_I)],
    "cuStreamDestroy_v2": [P],
    "cuStreamSynchronize": [P],
    "cuLaunchKernel": [P, *[_U] * 7, P, _A, P],
    "cuGetErrorString": [_I, ctypes.POINTER(ctypes.c_char_p)],
}


@dataclass(frozen=True)
class Device:
    """A GPU.

    Args:
        number: Its number among those that the process sees.
        name: As the driver names it.
        arch: "sm_90" or the like.
        multiprocessors: How many it has.
        context: Its primary context.
    """

    number: int
    name: str
    arch: str
    multiprocessors: int
    context: int


class DriverError(TargetError):
    """A function of the driver fails: the GPU may be lost, or out of memory, or a kernel has gone astray."""


@functools.cache
def _driver(library: str) -> Any:
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        raise TargetError(
            f"this machine has no CUDA driver ({error}): CUDA code runs where an NVIDIA GPU and its driver are"
        ) from None
    for name, arguments in _FUNCTIONS.items():
        function = getattr(driver, name, None)
        if function is None:
            raise TargetError(f"the CUDA driver {library} has no function {name}: it is too old, install a newer one")
        function.argtypes, function.restype = arguments, _I
    _check(driver, driver.cuInit(0), "cuInit")
    return driver


def _check(driver: Any, status: int, name: str) -> None:
    if status != 0:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(status, ctypes.byref(text))
        reason = text.value.decode(errors="replace") if text.value else "unknown error"
        hint = f" ({_HINTS[status]})" if status in _HINTS else ""
        raise DriverError(f"the CUDA driver's {name} fails with error {status}: {reason}{hint}")


def call(name: str, *arguments: Any) -> None:
    """Call a function of the driver.

    Raises:
        TargetError: there is no driver, or the function fails.
    """
    driver = _driver(LIBRARY)
    status = getattr(driver, name)(*arguments)
    if status != 0:
        _check(driver, status, name)


def status_of(name: str, *arguments: Any) -> int:
    """The status that a function of the driver returns, where others than 0 are no error to the caller.

    Raises:
        TargetError: there is no driver.
    """
    return int(getattr(_driver(LIBRARY), name)(*arguments))


def made(name: str, *arguments: Any, kind: Any = P) -> int:
    """What a function of the driver hands out by its first argument."""
    value = kind()
    call(name, ctypes.byref(value), *arguments)
    return int(value.value or 0)


def facts(number: int = 0) -> dict[str, Any]:
    """{"name", "arch", "multiprocessors"} of a GPU of this machine. Nothing of it is taken: it may be for one process
    at a time.

    Raises:
        TargetError: there is no driver or no such GPU.
    """
    count = made("cuDeviceGetCount", kind=_I)
    if not 0 <= number < count:
        raise TargetError(f"there is no CUDA device {number}: this process sees {count}")
    handle = made("cuDeviceGet", number, kind=_I)

    def attribute(which: int) -> int:
        return made("cuDeviceGetAttribute", which, handle, kind=_I)

    name = ctypes.create_string_buffer(256)
    call("cuDeviceGetName", name, len(name), handle)
    return {
        "name": name.value.decode(errors="replace"),
        "arch": f"sm_{attribute(_MAJOR)}{attribute(_MINOR)}",
        "multiprocessors": attribute(_MULTIPROCESSORS),
    }


def device(number: int = 0) -> Device:
    """A GPU of this machine, in the context that the whole process shares.

    Raises:
        TargetError: there is no driver or no such GPU.
    """
    found = facts(number)
    context = made("cuDevicePrimaryCtxRetain", made("cuDeviceGet", number, kind=_I))
    return Device(number, **found, context=context)


class Current:
    """A context is the calling thread's current one, as long as the block runs: nothing is to be done where it is
    already, as in threads that use PyTorch or CuPy on that GPU."""

    def __init__(self, context: int) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._pushed = made("cuCtxGetCurrent") != self._context
        if self._pushed:
            call("cuCtxPushCurrent_v2", self._context)

    def __exit__(self, *_: object) -> None:
        if self._pushed:
            made("cuCtxPopCurrent_v2")


def settle(device: Device) -> None:
    """Make the first GPU's context the current one of a thread that has none, and leave it so, as CUDA's runtime does:
    each call is spared two calls of the driver. Not another GPU's: PyTorch would take that for the thread's choice."""
    if device.number == 0 and not made("cuCtxGetCurrent"):
        call("cuCtxSetCurrent", device.context)
