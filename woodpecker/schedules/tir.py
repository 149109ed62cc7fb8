"""What CPU kernels share: the frame of an entry, views into the model blob and the scratch, registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Signature
from ..relay_ops.predicate import Expr, bounds
from ..runtime.format import ALIGNMENT, DIRECTORY_BYTES, DIRECTORY_OFFSET, DIRECTORY_SLOTS

ITEMSIZE = {"float32": 4, "float64": 8, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4}
ITEMSIZE |= {"int64": 8, "uint64": 8}


Sink = Callable[[Expr, Expr, Expr], None]
"""What receives (tree, row of the block, leaf position)."""


Fill = Callable[[Expr, Expr, bool], None]
"""Fills V with the columns [begin, end) of the block, the first of them at the start; the last argument says whether
they are categorical."""


@dataclass(frozen=True)
class Arguments:
    """The arguments of the calling convention; ``num_tasks`` None: a serial entry."""

    X: Any
    out: Any
    scratch: Any
    model: Any
    row_begin: Expr
    row_end: Expr
    num_tasks: Expr | None


@dataclass
class Frame:
    """An entry while it is being built: its arguments, the tables by name, and what the stages hand on."""

    signature: Signature
    value_dtype: str
    arguments: Arguments
    lanes: int
    trees: int
    directory: Any
    tables: dict[str, Any] = field(default_factory=dict)
    scalars: dict[str, Expr] = field(default_factory=dict)
    V: Any = None
    extra: Expr = None
    rows: Expr = None
    """Rows of the block, int32."""

    def scalar64(self, name: str) -> Expr:
        """A scalar of the directory, int64."""
        if name not in self.scalars:
            return self.directory[self.signature.slots[name]]
        return self.scalars[name]

    def scalar(self, name: str) -> Expr:
        """A scalar of the directory, int32."""
        return tirx.Cast("int32", self.scalar64(name))

    def place(self, column: Expr, group: Expr, lane: Expr) -> Expr:
        """The index in V of a column's value for a row of a group: the rows of a group are neighbours, and so are its
        columns, so that what walks of a group read shares a few cache lines."""
        lanes = const(self.lanes, "int64")
        width = (self.scalar64("n_columns") + const(1, "int64")) * lanes
        return tirx.Cast("int64", group) * width + tirx.Cast("int64", column) * lanes + tirx.Cast("int64", lane)

    def by_column(self, column: Expr, r: Expr) -> Expr:
        """The index in a matrix of the block whose rows are neighbours."""
        return column * self.scalar("row_block") + r


def const(value: int, dtype: str = "int32") -> Expr:
    return tirx.const(value, dtype)


def register(value: Expr) -> Expr:
    """The value, computed once. A one-element buffer becomes a register; binding a variable instead can make
    compilation explode when the value is used twice in arithmetic."""
    buffer = TB.alloc_buffer((1,), str(value.ty.dtype), scope="global")
    TB.buffer_store(buffer, value, [0])
    return buffer[0]


def vector_register(value: Expr) -> Expr:
    """`register` for a vector."""
    dtype, lanes = str(value.ty.dtype).rsplit("x", 1)
    buffer = TB.alloc_buffer((int(lanes),), dtype, scope="global")
    every = tirx.Ramp(const(0), const(1), int(lanes))
    TB.buffer_store(buffer, value, [every])
    return buffer[every]


def arguments(x_dtype: str, out_dtype: str, parallel: bool) -> Arguments:
    """Declare the arguments of the calling convention.

    X and out have any row stride and unit column stride. Users' arrays are aligned to their items only, which has to
    be said: TVM assumes 64 bytes and does not check.
    """

    def var(name: str) -> Expr:
        return tirx.Var(name, "int64")

    def matrix(name: str, dtype: str) -> Any:
        shape, strides = (var(f"{name}_rows"), var(f"{name}_columns")), [var(f"{name}_stride"), const(1, "int64")]
        return TB.arg(name, TB.buffer(shape, dtype, strides=strides, align=ITEMSIZE[dtype]))

    X, out = matrix("X", x_dtype), matrix("out", out_dtype)
    scratch = TB.arg("scratch", TB.buffer((var("scratch_size"),), "uint8", align=ALIGNMENT))
    model = TB.arg("model", TB.buffer((var("model_size"),), "uint8", align=ALIGNMENT))
    row_begin, row_end = TB.arg("row_begin", var("row_begin")), TB.arg("row_end", var("row_end"))
    num_tasks = TB.arg("num_tasks", var("num_tasks")) if parallel else None
    return Arguments(X, out, scratch, model, row_begin, row_end, num_tasks)


def rows_of(arguments: Arguments, block: Expr, body: Callable[[Expr, Expr, Expr], None]) -> None:
    """Emit ``body(begin, end, task)`` over all rows: once, or in tasks of TVM's thread pool, which share the rows out
    in whole blocks."""
    begin, end = arguments.row_begin, arguments.row_end
    if arguments.num_tasks is None:
        body(begin, end, const(0, "int64"))
        return
    tasks = tirx.max(arguments.num_tasks, const(1, "int64"))
    share = tirx.ceildiv(tirx.ceildiv(end - begin, block), tasks) * block
    with TB.parallel(0, tasks) as task:
        first = tirx.min(begin + task * share, end)
        body(first, tirx.min(first + share, end), task)


def new_frame(signature: Signature, args: Arguments, value_dtype: str, lanes: int, trees: int, number: int) -> Frame:
    """Open a directory of the model blob, by its number."""
    at = const((DIRECTORY_OFFSET + number * DIRECTORY_BYTES) // 8, "int64")
    directory = TB.decl_buffer((DIRECTORY_SLOTS,), "int64", data=args.model.data, elem_offset=at)
    return Frame(signature, value_dtype, args, lanes, trees, directory)


def read_only_views(frame: Frame) -> None:
    """Open a view of every table, and load every scalar once. ``bound`` is the table of the frame's value dtype."""
    frame.scalars = {name: register(frame.directory[frame.signature.slots[name]]) for name in frame.signature.scalars}
    slots = frame.signature.slots
    for name, dtype in frame.signature.tables:
        offset = register(frame.directory[slots[name]])
        start = tirx.truncdiv(offset, const(ITEMSIZE[dtype], "int64"))
        frame.tables[name] = TB.decl_buffer((2**31 - 1,), dtype, data=frame.arguments.model.data, elem_offset=start)
    frame.tables |= bounds(frame.tables, frame.value_dtype)


def scratch_view(frame: Frame, dtype: str, offset: Expr) -> Any:
    """A view of the scratch from a byte offset on."""
    start = tirx.truncdiv(offset, const(ITEMSIZE[dtype], "int64"))
    return TB.decl_buffer((2**31 - 1,), dtype, data=frame.arguments.scratch.data, elem_offset=start)
