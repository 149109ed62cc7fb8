"""What CUDA kernels of all strategies do with blocks: the rows of each, and the memory that it keeps things in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..errors import StrategyError
from ..relay_ops.predicate import Expr
from . import cuda_columns
from .cuda_tir import Frame, register, shared_view, synchronise, variable, view
from .tir import const

SHARED_BYTES = 48 * 1024
"""Shared memory of a block that every GPU gives without being asked for more."""
MAX_BLOCK_BYTES = 2**31 - 1
"""Places of a block are numbered by 32 bits."""


def check_bytes(strategy: str, nbytes: int) -> None:
    """Check what a block keeps.

    Raises:
        StrategyError: 32 bits do not reach all of it.
    """
    if nbytes > MAX_BLOCK_BYTES:
        raise StrategyError(
            f"strategy {strategy!r} would keep {nbytes:,} bytes for a block of rows on a GPU; the limit is "
            f"{MAX_BLOCK_BYTES:,}. Compile this forest for CPUs"
        )


def memory(frame: Frame, nbytes: str, in_scratch: bool) -> Callable[[str, str | None], Any]:
    """(dtype, scalar with an offset in bytes) -> a view of what the block keeps, in shared memory or in scratch.

    Args:
        frame: The kernel.
        nbytes: The scalar that says how many bytes a block keeps.
        in_scratch: Whether it keeps them in scratch.
    """
    if in_scratch:
        own = register(tirx.Cast("int64", frame.block) * frame.scalar64(nbytes))
    else:
        kept = TB.alloc_buffer((1,), "uint8", scope="shared.dyn")

    def opened(dtype: str, offset: str | None) -> Any:
        start = frame.scalar64(offset) if offset else const(0, "int64")
        if in_scratch:
            return view(frame.parameters.scratch, dtype, own + start)
        return shared_view(kept.data, dtype, start)

    return opened


def blocks(frame: Frame, rows: int, body: Callable[[Expr, Expr], None]) -> None:
    """Emit ``body(first row, rows)`` for the blocks of rows that this block of threads takes."""
    size, n_rows = const(rows, "int64"), frame.parameters.rows
    at = variable(tirx.Cast("int64", frame.block) * size)
    # Not a loop over numbers of blocks: a division of 64-bit integers is a call, around which registers are spilled.
    with TB.While(at[0] < n_rows):
        first = register(at[0])
        body(first, register(tirx.Cast("int32", tirx.min(size, n_rows - first))))
        TB.buffer_store(at, first + frame.parameters.blocks * size, [0])


def fill(frame: Frame, first: Expr, count: Expr) -> None:
    """Fill V; places past the last row repeat it."""
    cuda_columns.fill(frame, lambda r: first + tirx.Cast("int64", tirx.min(r, count - const(1))))
    synchronise()
