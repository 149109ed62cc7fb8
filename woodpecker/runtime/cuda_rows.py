"""Rows in the memory of a GPU, by DLPack: read where they lie, on the caller's current stream, and answers there.

PyTorch and CuPy are asked for their current stream and for the memory of answers. Nothing waits there: a kernel follows
what is on the stream already, and whoever reads the answer on that stream comes after it. For other libraries the
caller passes ``out``; where that is none of theirs either, the legacy default stream is used, and waited for, because
nothing says on which stream the answer will be read.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError, TargetError, WoodpeckerError
from . import cuda
from .cuda import Model
from .cuda_driver import Current, call, made
from .cuda_host import COMPARED, Check
from .rows import CUDA, InputSpec, check_shape, on_gpu, to_torch

LEGACY_STREAM = 1
"""DLPack's number of the legacy default stream."""
_FLOAT, _INTEGER = 2, 0
_DTYPES: dict[tuple[int, int], np.dtype[Any]] = {
    (_FLOAT, 32): np.dtype(np.float32),
    (_FLOAT, 64): np.dtype(np.float64),
    (_INTEGER, 32): np.dtype(np.int32),
    (_INTEGER, 64): np.dtype(np.int64),
}
_CASTS = {"torch": "X.float()", "cupy": "X.astype('float32')"}


class _Tensor(ctypes.Structure):
    """DLTensor, with which a DLManagedTensor begins."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32),
        ("number", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    ]


@dataclass(frozen=True)
class Matrix:
    """A matrix in the memory of a GPU.

    Args:
        address: Of its first element.
        shape: (rows, columns).
        strides: Of rows and columns, in elements.
        dtype: float32, float64 or int32.
        number: Of the GPU.
        capsule: What keeps the memory.
    """

    address: int
    shape: tuple[int, int]
    strides: tuple[int, int]
    dtype: np.dtype[Any]
    number: int
    capsule: Any

    @property
    def span(self) -> tuple[int, int]:
        """The addresses from the first byte to behind the last."""
        steps = [(n - 1) * stride * self.dtype.itemsize for n, stride in zip(self.shape, self.strides, strict=True)]
        low, high = sum(min(step, 0) for step in steps), sum(max(step, 0) for step in steps)
        return self.address + low, self.address + high + self.dtype.itemsize


def compute(
    model: Model, kind: str, X: Any, spec: InputSpec, width: int, dtype: np.dtype[Any], out: Any, check: Check
) -> Any:
    """Raw scores or leaf ids of rows in the memory of the model's GPU, in its memory.

    Args:
        model: The model.
        kind: "raw" or "apply".
        X: (n, F) float32 or float64, with unit column stride.
        spec: What the model expects.
        width, dtype: Columns and dtype of the answer.
        out: (n, width) of that dtype on the same GPU, rows of unit column stride; None: a new tensor of PyTorch or
            array of CuPy, as X is.
        check: Called with the kernel that runs.

    Returns:
        ``out``, or the new one.

    Raises:
        InputError: X or ``out`` is not what is expected. TargetError: the driver fails.
    """
    # A tensor of torch in the memory of the host has no stream, and is refused below.
    library = library_of(*(tensor for tensor in (X, out) if on_gpu(tensor)))
    with on_device(library, model.device.number, X, out):
        stream = stream_of(library, model.device.number)
        x = rows_of(model, X, spec, stream)
        result = _empty(library, X, (x.shape[0], width), dtype) if out is None else out
        y = matrix(result, stream, "out")
        _check_out(model, y, x, width, dtype)
        if y.shape[0] and width:
            with Current(model.device.context):
                kernel = launch_entry(model, kind, x, (y.address, y.strides[0]), stream, library)
                check(kernel, kind, lambda: (head(x, stream), head(y, stream)))
                if not library:
                    call("cuStreamSynchronize", stream)
    return result


def to_host(
    model: Model, kind: str, X: Any, spec: InputSpec, width: int, dtype: np.dtype[Any], check: Check
) -> tuple[np.ndarray, Callable[[Any], Any]]:
    """The same in the memory of the host, which waits for it; and what puts results beside X, as far as they are
    numbers, and X of PyTorch or CuPy.

    Raises:
        InputError, TargetError: see `compute`.
    """
    library = library_of(X)
    with on_device(library, model.device.number, X):
        stream = stream_of(library, model.device.number)
        x = rows_of(model, X, spec, stream)
        out = np.empty((x.shape[0], width), dtype)
        if out.size:
            with Current(model.device.context):
                memory = made("cuMemAllocAsync", out.nbytes, stream)
                try:
                    kernel = launch_entry(model, kind, x, (memory, width), stream, library)
                    call("cuMemcpyDtoHAsync_v2", out.ctypes.data, memory, out.nbytes, stream)
                finally:
                    call("cuMemFreeAsync", memory, stream)
                    call("cuStreamSynchronize", stream)
                check(kernel, kind, lambda: (head(x, stream), out[:COMPARED]))
    return out, lambda result: beside(library, X, result)


def head(of: Matrix, stream: int) -> np.ndarray:
    """The first rows of a matrix, in the memory of the host, once the stream has come so far.

    Raises:
        TargetError: the stream is being captured into a graph, so that it does nothing now; or the driver fails.
    """
    if _capturing(stream):
        raise TargetError(
            "the first answers of a kernel are compared with the CPU's, which can't wait for a stream that is being "
            "captured into a CUDA graph: make the same call once before the capture"
        )
    found = np.empty((min(COMPARED, of.shape[0]), of.shape[1]), of.dtype)
    for i, row in enumerate(found):
        address = of.address + i * of.strides[0] * of.dtype.itemsize
        call("cuMemcpyDtoHAsync_v2", row.ctypes.data, address, row.nbytes, stream)
    call("cuStreamSynchronize", stream)
    return found


def _capturing(stream: int) -> bool:
    found = ctypes.c_int()
    call("cuStreamIsCapturing", stream, ctypes.byref(found))
    return bool(found.value)


def keep(model: Model, library: str, stream: int, tensors: Sequence[Any]) -> None:
    """Keep tensors as long as the model, where a CUDA graph that is being captured works in them and CuPy's pool would
    give them to others: unlike PyTorch's it knows nothing of graphs. Memory of its asynchronous pool is a node of the
    graph, which must be freed in the capture as well."""
    if library == "cupy" and _capturing(stream):
        held = (t for t in tensors if type(getattr(getattr(t, "data", None), "mem", None)).__name__ != "MemoryAsync")
        model._of_graphs.extend(held)


def launch_entry(model: Model, kind: str, x: Matrix, out: tuple[int, int], stream: int, library: str) -> str:
    """Launch on the stream, which scratch belongs to as well: another stream may run the same model meanwhile. Returns
    the name of the kernel."""
    rows = x.shape[0]
    entry = cuda.entry_for(model, kind, x.dtype, rows)
    with _memory(model, library, cuda.scratch_bytes(model, entry, rows), stream) as scratch:
        # It was other people's; of a graph, this is a node, so that each replay finds zeros.
        if zeros := cuda.zeroed_bytes(model, entry):
            call("cuMemsetD32Async", scratch, 0, zeros // 4, stream)
        cuda.launch(model, entry, (x.address, x.strides[0]), out, rows, scratch, stream)
    return entry


@contextlib.contextmanager
def _memory(model: Model, library: str, nbytes: int, stream: int) -> Iterator[int]:
    """The address of memory for what is launched on the stream meanwhile. PyTorch and CuPy keep theirs for the stream's
    next user, PyTorch for a CUDA graph that is being captured as well; of CuPy see `keep`."""
    if not nbytes:
        yield 0
    elif library:
        held = new(library, model.device.number, (nbytes // 4 + 1, 1), np.dtype(np.int32))
        keep(model, library, stream, [held])
        yield matrix(held, stream, "scratch").address
    else:
        address = made("cuMemAllocAsync", nbytes, stream)
        try:
            yield address
        finally:
            call("cuMemFreeAsync", address, stream)


def rows_of(model: Model, X: Any, spec: InputSpec, stream: int) -> Matrix:
    number = int(X.__dlpack_device__()[1])
    if number != model.device.number:
        raise InputError(f"X is on cuda:{number}, and the model on cuda:{model.device.number}: move one of them")
    tensor = X.detach() if getattr(X, "requires_grad", False) else X
    if callable(getattr(tensor, "is_neg", None)) and tensor.is_neg():
        tensor = tensor.resolve_neg()  # torch exports such a view without its pending sign
    shape = tuple(int(n) for n in X.shape)
    check_shape(shape, spec)
    x = matrix(tensor, stream, "X")
    if x.shape != shape:
        raise InputError(f"X has shape {shape}, and by DLPack {x.shape}")
    if x.dtype.kind != "f":
        raise InputError(f"X has dtype {x.dtype} on the GPU, where float32 and float64 are read; {_cast(X)}")
    if x.shape[1] > 1 and x.strides[1] != 1:
        raise InputError("X is not in row order on the GPU: pass a copy that is (torch: X.contiguous())")
    return x


def _cast(X: Any) -> str:
    return f"pass {_CASTS.get(library_of(X), 'float32')}"


def matrix(tensor: Any, stream: int, what: str) -> Matrix:
    """What DLPack says of a tensor, once it may be used on the stream."""
    try:
        capsule = tensor.__dlpack__(stream=stream or LEGACY_STREAM)
    except WoodpeckerError:
        raise
    except Exception as error:  # the library's own
        raise InputError(f"{what} can't be exported by DLPack: {type(error).__name__}: {error}") from error
    api = ctypes.pythonapi
    api.PyCapsule_IsValid.argtypes = [ctypes.py_object, ctypes.c_char_p]
    api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    api.PyCapsule_GetPointer.restype = ctypes.c_void_p
    if not api.PyCapsule_IsValid(capsule, b"dltensor"):
        raise InputError(f"{what}: its __dlpack__ returns no capsule named dltensor")
    found = _Tensor.from_address(api.PyCapsule_GetPointer(capsule, b"dltensor"))
    dtype = _DTYPES.get((found.code, found.bits)) if found.lanes == 1 else None
    if dtype is None:
        name = getattr(tensor, "dtype", f"{found.bits} bits")
        raise InputError(f"{what} has dtype {name} on the GPU, where float32 and float64 are read; {_cast(tensor)}")
    if found.device != CUDA or found.ndim != 2:
        raise InputError(f"{what} must be a matrix in the memory of a GPU")
    shape = (found.shape[0], found.shape[1])
    strides = (found.strides[0], found.strides[1]) if found.strides else (shape[1], 1)
    address = (found.data or 0) + found.offset
    if address % dtype.itemsize:
        raise InputError(f"{what} is not aligned to its items of {dtype.itemsize} bytes: pass a copy")
    return Matrix(address, shape, strides, dtype, found.number, capsule)


def _check_out(model: Model, out: Matrix, x: Matrix, width: int, dtype: np.dtype[Any]) -> None:
    want = (x.shape[0], width)
    if out.shape != want or out.dtype != dtype or out.number != model.device.number:
        raise InputError(
            f"out must be {dtype}, shape {want}, on cuda:{model.device.number}; found {out.dtype} {out.shape} on "
            f"cuda:{out.number}"
        )
    # Rows of a stride shorter than a row would be written over one another.
    if (width > 1 and out.strides[1] != 1) or (want[0] > 1 and out.strides[0] < width):
        raise InputError("out must be in row order, with rows apart from each other")
    (a, b), (c, d) = x.span, out.span
    if 0 not in x.shape and 0 not in out.shape and a < d and c < b:
        raise InputError("out shares memory with X, which is read while out is written: pass another array")


def library_of(*tensors: Any) -> str:
    """ "torch" or "cupy", whichever the first that is of one of them is of, subclasses included; "": none is."""
    for tensor in tensors:
        modules = {cls.__module__.partition(".")[0] for cls in type(tensor).__mro__}
        for known in ("torch", "cupy"):
            if known in modules:
                return known
    return ""


def on_device(library: str, number: int, *tensors: Any) -> contextlib.AbstractContextManager[Any]:
    """What makes the tensors' GPU the current one of their library: CuPy's current stream and new arrays are of that,
    and torch exports tensors of no other."""
    found: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if library == "torch":
        found = sys.modules["torch"].cuda.device(number)
    elif library == "cupy":
        found = next(t for t in tensors if library_of(t) == library).device
    return found


def stream_of(library: str, number: int) -> int:
    """The handle of the current stream of a library on a GPU."""
    if library == "torch":
        return int(sys.modules["torch"].cuda.current_stream(number).cuda_stream)
    return int(sys.modules["cupy"].cuda.get_current_stream().ptr) if library == "cupy" else 0


def _empty(library: str, X: Any, shape: tuple[int, int], dtype: np.dtype[Any]) -> Any:
    if not library:
        kind = f"{type(X).__module__.partition('.')[0]} array"
        raise InputError(f"X is a {kind} on the GPU; answers of torch and cupy only can be allocated: pass out=")
    return new(library, int(X.__dlpack_device__()[1]), shape, dtype)


def new(library: str, number: int, shape: tuple[int, int], dtype: np.dtype[Any]) -> Any:
    """A new tensor of PyTorch or array of CuPy; of CuPy on its current GPU."""
    if library == "torch":
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, dtype.name), device=f"cuda:{number}")
    return sys.modules["cupy"].empty(shape, dtype)


def beside(library: str, X: Any, result: Any) -> Any:
    if isinstance(result, (list, tuple)):
        return type(result)(beside(library, X, part) for part in result)
    if not isinstance(result, np.ndarray) or result.dtype.kind not in "fiub":
        return result
    if library == "torch":
        tensor = to_torch(result)
        return tensor if isinstance(tensor, np.ndarray) else tensor.to(X.device)
    if library == "cupy":
        with X.device:
            return sys.modules["cupy"].asarray(result)
    return result
