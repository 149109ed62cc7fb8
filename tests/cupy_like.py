"""Arrays in the memory of the fake driver's GPU, as CuPy has them: what the runtime asks of CuPy, and no more."""

from __future__ import annotations

import contextlib
import ctypes
import types
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from woodpecker.runtime.cuda_driver import Current, call, device, made
from woodpecker.runtime.cuda_rows import _Tensor

CODES = {"i": 0, "u": 1, "f": 2}
_capsule = ctypes.pythonapi.PyCapsule_New
_capsule.restype, _capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class Tensor:
    """A view of memory of the GPU, of a library that no one knows; ``asked`` are the streams that its memory was asked
    for on."""

    __module__ = "unheard.of"

    def __init__(self, address: int, host: np.ndarray, owner: Any = None, number: int = 0) -> None:
        self.address, self.host, self.owner, self.number = address, host, owner, number
        self.shape, self.dtype = host.shape, host.dtype
        self.device: Any = contextlib.nullcontext()
        self.asked: list[Any] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.number

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        self.asked.append(stream)
        ndim, item = len(self.shape), self.dtype.itemsize
        shape = (ctypes.c_int64 * ndim)(*self.shape)
        strides = (ctypes.c_int64 * ndim)(*(s // item for s in self.host.strides))
        tensor = _Tensor(
            self.address - 64, 2, self.number, ndim, CODES[self.dtype.kind], 8 * item, 1, shape, strides, 64
        )
        self.exported = tensor, shape, strides
        return _capsule(ctypes.addressof(tensor), b"dltensor", None)

    def get(self) -> np.ndarray:
        """A copy in the memory of the host, which the fake driver's is, once all streams are done."""
        with Current(device().context):
            call("cuCtxSynchronize")
        return self.host.copy()

    def view(self, host: np.ndarray) -> Any:
        """Another view, as the same view of the numpy array is."""
        return type(self)(host.ctypes.data, host, self)


class Array(Tensor):
    """The same of CuPy."""

    __module__ = "cupy"

    def __getitem__(self, key: Any) -> Any:
        return asarray(self.get()[key.get()]) if isinstance(key, Array) else self.view(self.host[key])


def empty(shape: Sequence[int], dtype: Any) -> Array:
    dtype = np.dtype(dtype)
    nbytes = max(int(np.prod(shape)) * dtype.itemsize, 1)
    context = device().context
    with Current(context):
        address = made("cuMemAlloc_v2", nbytes)
    memory = (ctypes.c_uint8 * nbytes).from_address(address)
    array = Array(address, np.frombuffer(memory, dtype, int(np.prod(shape))).reshape(shape))

    def free() -> None:
        with Current(context):
            call("cuMemFree_v2", address)

    weakref.finalize(array, free)
    return array


def asarray(host: np.ndarray) -> Array:
    array = empty(host.shape, host.dtype)
    array.host[...] = host
    return array


def module(stream: int) -> types.ModuleType:
    """The module, whose current stream has this handle."""
    cupy = types.ModuleType("cupy")
    current = types.SimpleNamespace(ptr=stream)
    cuda = types.SimpleNamespace(get_current_stream=lambda: current)
    cupy.__dict__.update(empty=empty, asarray=asarray, cuda=cuda)
    return cupy
