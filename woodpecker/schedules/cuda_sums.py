"""The aggregate stage of CUDA kernels: what a tree adds to a row, and the sums of a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..relay_ops import aggregate
from ..relay_ops.predicate import Expr
from .cuda_tir import Frame, register, variable
from .tir import const


def each(n: Expr, alone: bool, body: Callable[[Expr], None]) -> None:
    if alone:
        body(const(0))
    else:
        with TB.serial(0, n) as k:
            body(k)


TOGETHER = 8
"""Terms that are read before they are added, so that a sum waits for its additions only."""


def add_terms(frame: Frame, total: Any, k: Expr, first: Expr, count: Expr, term: Callable[[Expr], Expr]) -> None:
    """Add to ``total[0]`` what ``count`` trees from ``first`` on add to output k, in order: ``term(i)`` is that of the
    i-th of them."""
    every = bool({"vector", "one_output"} & frame.signature.flags)

    def add(i: list[Expr]) -> None:
        values = [register(term(j)) for j in i]
        outputs = [] if every else [register(frame.tables["tree_output"][first + j]) for j in i]
        for n, value in enumerate(values):
            more = total[0] + value
            TB.buffer_store(total, more if every else tirx.Select(outputs[n] == k, more, total[0]), [0])

    groups = register(tirx.truncdiv(count, const(TOGETHER)))
    with TB.serial(0, groups) as group:
        at = register(group * const(TOGETHER))
        add([at + const(i) for i in range(TOGETHER)])
    with TB.serial(0, count - groups * const(TOGETHER)) as rest:
        add([register(groups * const(TOGETHER) + rest)])


def store(frame: Frame, row: Expr, k: Expr, total: Expr) -> None:
    """out[row, k] = the sum, divided."""
    value = total / frame.tables["divisor"][0] if "divide" in frame.signature.flags else total
    TB.buffer_store(frame.parameters.out, value, [row * frame.parameters.out_stride + tirx.Cast("int64", k)])


def each_value(frame: Frame, t: Expr, row: Expr, position: Expr, use: Callable[[Expr, Expr], None]) -> None:
    """``use(output, value)`` for what a tree adds to a row (of X, int64): one value, or one for each output."""
    tables, flags = frame.tables, frame.signature.flags
    if "vector" in flags:
        n_outputs = frame.scalar("n_outputs")
        start = register(tirx.Cast("int64", aggregate.slot_at(tables, position)) * tirx.Cast("int64", n_outputs))
        with TB.serial(0, n_outputs) as k:
            use(k, tables["values"][start + tirx.Cast("int64", k)])
        return
    value = linear_leaf(frame, row, position) if "linear" in flags else aggregate.value_at(tables, position)
    use(const(0) if "one_output" in flags else register(tables["tree_output"][t]), value)


def linear_leaf(frame: Frame, row: Expr, position: Expr) -> Expr:
    """The value of a leaf that may be linear in X: `aggregate`."""
    tables = frame.tables
    slot = register(tables["slot"][position])
    begin, end = register(tables["linear_offset"][slot]), register(tables["linear_offset"][slot + const(1)])
    acc = variable(tables["linear_const"][slot])
    plain = variable(tirx.Select(begin == end, const(1), const(0)))
    with TB.serial(0, end - begin) as i:
        j = register(begin + i)
        x = frame.x(row, tirx.Cast("int64", tables["linear_feature"][j]))
        x = register(aggregate.linear_input(register(x), tables["zero_band"][0]))
        # The intrinsic is rounded by itself, whatever the compiler may fuse.
        product = tirx.call_pure_extern("float64", "__dmul_rn", tables["linear_coef"][j], x)
        TB.buffer_store(acc, acc[0] + product, [0])
        TB.buffer_store(plain, tirx.Select(tirx.isnan(x), const(1), plain[0]), [0])
    return tirx.Select(plain[0] == const(1), tables["value"][position], acc[0])
