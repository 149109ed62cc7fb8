"""float64 rows in the search of `cpu_masks`, which registers hold float32 bounds for: exact ranks all the same.

f(x) is the largest float32 not above x, as ``bound32`` holds it of the bounds b. It never falls where x grows. So

    f(b) < f(x)  =>  b < x        as b >= x would give f(b) >= f(x)
    f(b) > f(x)  =>  b > x        in the same way

and the search for f(x) among the f(b) counts exactly the bounds below x, unless a bound has the very image of x. It
comes first among those that are not below f(x), and the search passes them: its last turn to the left is at the least
of them. Rows that met their own image there go on among the float64 bounds from the rank k that was found: all bounds
before are below x, and of the others at most as many as share an image.

NaN has no image, goes right at every turn and equals nothing; infinity is its own image, and no float64 exceeds it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout
from ..relay_ops.predicate import Expr
from .tir import Frame, const, register, vector_register

Settle = Callable[[Any, Expr, Expr], None]
"""Settles 16 ranks: (their bit planes, where their values are in V, which 16 rows of the block they are)."""

LANES = 16
EVERY = tirx.Ramp(const(0), const(1), LANES)
DOWNWARD = 9
"""An instruction's own rounding mode, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC."""


def same_images(layout: Layout, ranked: np.ndarray) -> Layout:
    """``same_bits`` (P,) int32: the bits of the greatest number of a piece's bounds that share an image.

    Args:
        layout: The tables of `bitslice`, with float64 bounds.
        ranked: (P,) bool: the pieces that are searched.
    """
    offset, image = layout.tables["piece_bound"], layout.tables["bound32"]
    bits = np.zeros(len(ranked), np.int32)
    for piece in np.flatnonzero(ranked):
        own = image[offset[piece] : offset[piece + 1]]
        bits[piece] = int(np.unique(own, return_counts=True)[1].max()).bit_length()
    return Layout({}, {"same_bits": bits}, {}, frozenset())


def images(frame: Frame, place: Expr) -> Expr:
    """f of 16 values of V, float32x16."""
    nothing, every = tirx.Broadcast(tirx.const(0.0, "float32"), 8), const(-1, "int8")
    down = [
        vector_register(
            tirx.call_llvm_pure_intrin(
                "float32x8",
                "llvm.x86.avx512.mask.cvtpd2ps.512",
                frame.V[tirx.Ramp(place + const(8 * half, "int64"), const(1, "int64"), 8)],
                nothing,
                every,
                const(DOWNWARD),
            )
        )
        for half in range(2)
    ]
    return vector_register(tirx.Shuffle(down, [const(i) for i in range(LANES)]))


def nearest() -> Any:
    """A buffer for `turn`."""
    return TB.alloc_buffer((LANES,), "float32", scope="global")


def turn(nearest: Any, bound: Expr, left: Sequence[Expr]) -> None:
    """Keep the image that each row last turned left at. One that never turns left keeps the first, which it exceeds."""
    TB.buffer_store(nearest, tirx.Select(left[-1], bound, nearest[EVERY]) if left[1:] else bound, [EVERY])


def met(nearest: Any, x: Expr) -> Expr:
    """Whether any row met its own image. LLVM is told that few do: else it keeps registers for what these need, and the
    code of the trees loads its pointers again and again (lgb-500x255-28: 1,230 ns a row instead of 880)."""
    any_row = tirx.call_intrin("uint16", "tirx.reinterpret", nearest[EVERY] == x) != const(0, "uint16")
    return tirx.call_llvm_pure_intrin("bool", "llvm.expect", any_row, const(0, "bool"))


def settling(frame: Frame, piece: Expr, levels: Expr, start: Expr, count: Expr) -> Settle | None:
    """`_settle` for a piece of ``count`` bounds from ``start`` on, whose ranks have ``levels`` bits; None for float32
    rows, which need none."""
    if frame.value_dtype == "float32":
        return None
    bits = register(frame.tables["same_bits"][piece])
    return functools.partial(_settle, frame, levels, bits, start, count)


def _settle(
    frame: Frame, levels: Expr, bits: Expr, start: Expr, count: Expr, planes: Any, place: Expr, g: Expr
) -> None:
    """Make the bit planes of 16 ranks among images those of the ranks among the bounds.

    k = the ranks in the planes
    for w = 2**(bits - 1) .. 4, 2, 1:       k += w where bound[k + w - 1] < V       # and there is such a bound
    the planes = the bits of k
    """

    def plane(level: Expr) -> Expr:
        return level * const(frame.lanes // LANES) + g

    def every(value: Expr) -> Expr:
        return tirx.Broadcast(value, LANES)

    rank = TB.alloc_buffer((LANES,), "int32", scope="global")
    TB.buffer_store(rank, every(const(0)), [EVERY])
    with TB.serial(0, levels) as level:
        right = tirx.call_intrin(f"boolx{LANES}", "tirx.reinterpret", planes[plane(level)])
        bit = tirx.Select(right, every(const(1)), every(const(0)))
        TB.buffer_store(rank, rank[EVERY] + rank[EVERY] + bit, [EVERY])
    x = vector_register(frame.V[tirx.Ramp(place, const(1, "int64"), LANES)])
    with TB.serial(0, bits) as step:
        width = register(const(1) << (bits - const(1) - step))
        at, last = vector_register(rank[EVERY] + every(width - const(1))), every(count - const(1))
        bound = vector_register(frame.tables["bound"][every(start) + tirx.min(at, last)])
        below = tirx.And(bound < x, at <= last)
        TB.buffer_store(rank, rank[EVERY] + tirx.Select(below, every(width), every(const(0))), [EVERY])
    with TB.serial(0, levels) as level:
        weight = every(register(const(1) << (levels - const(1) - level)))
        word = tirx.call_intrin("uint16", "tirx.reinterpret", (rank[EVERY] & weight) != every(const(0)))
        TB.buffer_store(planes, word, [plane(level)])
