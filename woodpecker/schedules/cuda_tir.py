"""What CUDA kernels share: their parameters, the views into the model blob, registers, and the block of rows.

A kernel is a function of the device from the start, ``name(X, out, scratch, model, x_stride, out_stride, rows,
blocks)``: pointers to device memory, strides in elements, the rows of the call, and the blocks of the grid, which walk
over all blocks of rows. There is no host code beside it: whoever launches it reads `Launch`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Signature
from ..relay_ops.predicate import Expr, bounds
from ..runtime.format import DIRECTORY_BYTES, DIRECTORY_OFFSET, DIRECTORY_SLOTS
from .tir import ITEMSIZE, const


@dataclass(frozen=True)
class Parameters:
    """The parameters of a kernel; strides in elements."""

    X: Any
    out: Any
    scratch: Any
    model: Any
    x_stride: Expr
    out_stride: Expr
    rows: Expr
    blocks: Expr


@dataclass
class Frame:
    """A kernel while it is being built."""

    signature: Signature
    value_dtype: str
    parameters: Parameters
    thread: Expr
    block: Expr
    directory: Any
    tables: dict[str, Any] = field(default_factory=dict)
    scalars: dict[str, Expr] = field(default_factory=dict)
    records: Any = None
    """The table ``node``, a record an element."""
    V: Any = None
    """Column values: that of a column for a row of the block lies at ``column * pitch + row``."""
    pitch: int = 1

    @property
    def threads(self) -> int:
        return self.signature.constant("threads")

    def scalar64(self, name: str) -> Expr:
        return self.scalars[name]

    def scalar(self, name: str) -> Expr:
        return tirx.Cast("int32", self.scalars[name])

    def x(self, row: Expr, feature: Expr) -> Expr:
        """A value of X; both int64."""
        return self.parameters.X[row * self.parameters.x_stride + feature]

    def value_of(self, row: Expr) -> Callable[[Expr], Expr]:
        """Column (int64) -> its value for a row (int32) of the block."""
        return lambda column: self.V[tirx.Cast("int32", column) * const(self.pitch) + row]


def register(value: Expr) -> Expr:
    """The value, computed once. A thread's own array of one element becomes a register."""
    return variable(value)[0]


def variable(value: Expr) -> Any:
    """A register that can be stored to, at index 0, with its first value."""
    buffer = TB.alloc_buffer((1,), str(value.ty.dtype), scope="local")
    TB.buffer_store(buffer, value, [0])
    return buffer


def literal(value: float) -> Expr:
    """A float64 literal, by its bits: TVM 0.27 prints a float64 in CUDA C with 15 places after the point, so that 1e-35
    becomes 0."""
    (bits,) = struct.unpack("<q", struct.pack("<d", value))
    return tirx.call_pure_extern("float64", "__longlong_as_double", const(bits, "int64"))


def synchronise() -> None:
    """All threads of the block get here before one goes on, and see what the others have stored."""
    TB.evaluate(tirx.call_intrin("void", "tirx.tvm_storage_sync", "shared"))


def pointer(name: str, dtype: str) -> Any:
    return TB.arg(name, tirx.Var(name, tvm.ir.PointerType(tvm.ir.PrimType(dtype), "global")))


def view(data: Any, dtype: str, offset: Expr) -> Any:
    """Device memory as an array of ``dtype``, from a byte offset (int64) on; its true length is of no use to anyone.

    The address is computed once: that of an element is then one multiplication and addition away.
    """
    whole = TB.decl_buffer((const(2**62, "int64"),), "uint8", data=data)
    address = TB.bind(tirx.address_of(whole[offset]))
    return TB.decl_buffer((const(2**62, "int64"),), dtype, data=address)


def shared_view(data: Any, dtype: str, offset: Expr) -> Any:
    """The same for shared memory, all of which 32 bits reach."""
    start = register(tirx.Cast("int32", tirx.truncdiv(offset, const(ITEMSIZE[dtype], "int64"))))
    return TB.decl_buffer((const(2**31 - 1),), dtype, data=data, elem_offset=start, scope="shared.dyn")


def parameters(x_dtype: str, out_dtype: str) -> Parameters:
    """Declare the parameters of a kernel."""
    pointers = [
        pointer(n, d) for n, d in (("X", x_dtype), ("out", out_dtype), ("scratch", "uint8"), ("model", "uint8"))
    ]
    integers = (TB.arg(n, tirx.Var(n, "int64")) for n in ("x_stride", "out_stride", "rows", "blocks"))
    return Parameters(*pointers, *integers)


def new_frame(
    signature: Signature, args: Parameters, value_dtype: str, thread: Expr, block: Expr, number: int
) -> Frame:
    """Open a directory of the model blob by its number, load every scalar, and open a view of every table."""
    at = const((DIRECTORY_OFFSET + number * DIRECTORY_BYTES) // 8, "int64")
    directory = TB.decl_buffer((DIRECTORY_SLOTS,), "int64", data=args.model, elem_offset=at)
    endless = (const(2**62, "int64"),)
    x, out = (TB.decl_buffer(endless, p.ty.element_type.dtype, data=p) for p in (args.X, args.out))
    args = Parameters(x, out, args.scratch, args.model, args.x_stride, args.out_stride, args.rows, args.blocks)
    frame = Frame(signature, value_dtype, args, thread, block, directory)
    slots = signature.slots
    frame.scalars = {name: register(directory[slots[name]]) for name in signature.scalars}
    for name, dtype in signature.tables:
        frame.tables[name] = view(args.model, dtype, directory[slots[name]])
        if name == "node":
            frame.records = view(args.model, "uint64", directory[slots[name]])
    frame.tables |= bounds(frame.tables, value_dtype)
    return frame
