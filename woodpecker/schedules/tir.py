"""What CPU kernels share: the frame of an entry, views into the model blob and the scratch, registers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import DIRECTORY_SLOTS, Signature
from ..relay_ops.predicate import Expr
from ..runtime.format import ALIGNMENT, DIRECTORY_OFFSET

ITEMSIZE = {"float32": 4, "float64": 8, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4}
ITEMSIZE |= {"int64": 8, "uint64": 8}


@dataclass
class Frame:
    """An entry while it is being built: its arguments, the tables by name, and what the stages hand on."""

    signature: Signature
    value_dtype: str
    X: Any
    out: Any
    scratch: Any
    model: Any
    row_begin: Expr
    row_end: Expr
    num_tasks: Expr
    lanes: int
    directory: Any = None
    tables: dict[str, Any] = field(default_factory=dict)
    scalars: dict[str, Expr] = field(default_factory=dict)
    V: Any = None
    extra: Expr = None

    def scalar64(self, name: str) -> Expr:
        """A scalar of the directory, int64."""
        if name not in self.scalars:
            return self.directory[self.signature.slots[name]]
        return self.scalars[name]

    def scalar(self, name: str) -> Expr:
        """A scalar of the directory, int32."""
        return tirx.Cast("int32", self.scalar64(name))

    def place(self, column: Expr, r: Expr) -> Expr:
        """The index in V of a column's value for row r of the block."""
        return column * self.scalar("row_block") + r


def const(value: int, dtype: str = "int32") -> Expr:
    return tirx.const(value, dtype)


def register(value: Expr) -> Expr:
    """The value, computed once. A one-element buffer becomes a register; binding a variable instead can make
    compilation explode when the value is used twice in arithmetic."""
    buffer = TB.alloc_buffer((1,), str(value.ty.dtype), scope="global")
    TB.buffer_store(buffer, value, [0])
    return buffer[0]


def new_frame(signature: Signature, x_dtype: str, value_dtype: str, out_dtype: str, parallel: bool) -> Frame:
    """Declare the arguments of the calling convention and open the directory.

    X has any row stride and unit column stride. Users' arrays are aligned to their items only, which has to be said:
    TVM assumes 64 bytes and does not check.
    """
    from .cpu_strategies import LANES

    def var(name: str) -> Expr:
        return tirx.Var(name, "int64")

    x_strides = [var("x_stride"), const(1, "int64")]
    out_strides = [var("out_stride"), const(1, "int64")]
    x_shape, out_shape = (var("x_rows"), var("x_columns")), (var("out_rows"), var("out_columns"))
    X = TB.arg("X", TB.buffer(x_shape, x_dtype, strides=x_strides, align=ITEMSIZE[x_dtype]))
    out = TB.arg("out", TB.buffer(out_shape, out_dtype, strides=out_strides, align=ITEMSIZE[out_dtype]))
    scratch = TB.arg("scratch", TB.buffer((var("scratch_size"),), "uint8", align=ALIGNMENT))
    model = TB.arg("model", TB.buffer((var("model_size"),), "uint8", align=ALIGNMENT))
    row_begin, row_end = TB.arg("row_begin", var("row_begin")), TB.arg("row_end", var("row_end"))
    num_tasks = TB.arg("num_tasks", var("num_tasks")) if parallel else None
    frame = Frame(
        signature=signature,
        value_dtype=value_dtype,
        X=X,
        out=out,
        scratch=scratch,
        model=model,
        row_begin=row_begin,
        row_end=row_end,
        num_tasks=num_tasks,
        lanes=LANES[signature.strategy](signature),
    )
    frame.directory = TB.decl_buffer(
        (DIRECTORY_SLOTS,), "int64", data=model.data, elem_offset=const(DIRECTORY_OFFSET // 8, "int64")
    )
    return frame


def read_only_views(frame: Frame) -> None:
    """Open a view of every table, and load every scalar once. ``bound`` is the table of the frame's value dtype."""
    frame.scalars = {name: register(frame.directory[frame.signature.slots[name]]) for name in frame.signature.scalars}
    slots = frame.signature.slots
    for name, dtype in frame.signature.tables:
        offset = register(frame.directory[slots[name]])
        start = tirx.truncdiv(offset, const(ITEMSIZE[dtype], "int64"))
        frame.tables[name] = TB.decl_buffer((2**31 - 1,), dtype, data=frame.model.data, elem_offset=start)
    frame.tables["bound"] = frame.tables["bound32" if frame.value_dtype == "float32" else "bound64"]


def scratch_view(frame: Frame, dtype: str, offset: Expr) -> Any:
    """A view of the scratch from a byte offset on."""
    start = tirx.truncdiv(offset, const(ITEMSIZE[dtype], "int64"))
    return TB.decl_buffer((2**31 - 1,), dtype, data=frame.scratch.data, elem_offset=start)
