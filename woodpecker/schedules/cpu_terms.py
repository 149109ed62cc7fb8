"""Few rows of many trees: tasks share the trees out, and one adds up what they found, in the order of the trees.

    def terms(X, out, scratch, model, begin, end):          # a task; begin and end count groups of trees
        V = column values of all rows
        for group of trees in [begin, end):
            p = leaf positions of the rows in the trees     # a walk, as in `cpu`
            out[r, t] = value[p]                            # n_outputs of them where leaves are vectors

    def total(X, out, scratch, model, row_begin, row_end):  # X is what the terms have written
        for row:
            acc[k] = base_score[k]
            for each tree t:  acc[output[t]] += X[r, t]
            out[row] = acc / divisor

Both belong to the first step of a plan, the one for the fewest rows. The sum of a row is the very sequence of additions
of the other entries, so it has their bits whatever the number of tasks.
"""

from __future__ import annotations

from collections.abc import Callable

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as TB

from ..layout import Signature
from ..relay_ops import aggregate
from ..relay_ops.predicate import Expr
from .cpu import linear_leaf, row_blocks
from .cpu_strategies import LANES, STRATEGIES, trees_of
from .tir import Frame, arguments, const, new_frame, read_only_views, register, rows_of


def terms(signature: Signature, name: str, x_dtype: str, parallel: bool, first_directory: int = 0) -> tvm.tirx.PrimFunc:
    """The entry that finds leaf values: ``name(X, out, scratch, model, begin, end)``, of a walking step.

    Args: see `cpu.entry`; the range counts groups of as many trees as the step walks together.
    """
    value_dtype = "float64" if signature.input_dtype == x_dtype == "float64" else "float32"
    with IRBuilder() as builder, TB.prim_func():
        TB.func_name(name)
        TB.func_attr({"tirx.noalias": True, "global_symbol": name})
        args = arguments(x_dtype, signature.acc_dtype, parallel)
        lanes = LANES[signature.strategy](signature)
        frame = new_frame(signature, args, value_dtype, lanes, trees_of(signature), first_directory)

        def groups_of_trees(begin: Expr, end: Expr, task: Expr) -> None:
            def body(first: Expr, row: Callable[[Expr], Expr], count: Expr, groups: Expr) -> None:
                def sink(t: Expr, r: Expr, position: Expr) -> None:
                    inside = tirx.And(r < count, t < frame.scalar("n_trees"))
                    with TB.If(inside), TB.Then():
                        _store(frame, first + tirx.Cast("int64", r), t, row(r), position)

                # From 0, and the first group added: see the kernel lint for what else goes wrong.
                with TB.serial(0, tirx.Cast("int32", end - begin)) as t, TB.serial(0, groups) as group:
                    here = register((t + tirx.Cast("int32", begin)) * const(frame.trees))
                    STRATEGIES[signature.strategy](frame, here, group, sink)

            scratch = task * frame.scalar64("scratch_bytes")
            with TB.If(begin < end), TB.Then():
                row_blocks(frame, const(0, "int64"), args.X.shape[0], scratch, body)

        rows_of(args, const(1, "int64"), groups_of_trees)
    return builder.get()


def _store(frame: Frame, at: Expr, t: Expr, row: Expr, position: Expr) -> None:
    """The value of a leaf, or its values, at the place of its tree."""
    tables, flags, out = frame.tables, frame.signature.flags, frame.arguments.out
    place = tirx.Cast("int64", t)
    if "vector" in flags:
        n_outputs = frame.scalar64("n_outputs")
        start = register(tirx.Cast("int64", aggregate.slot_at(tables, position)) * n_outputs)
        with TB.serial(0, frame.scalar("n_outputs")) as k:
            one = tirx.Cast("int64", k)
            TB.buffer_store(out, tables["values"][start + one], [at, place * n_outputs + one])
    else:
        value = linear_leaf(frame, row, position) if "linear" in flags else aggregate.value_at(tables, position)
        TB.buffer_store(out, value, [at, place])


def total(signature: Signature, name: str, parallel: bool, first_directory: int = 0) -> tvm.tirx.PrimFunc:
    """The entry that adds up: ``name(X, out, scratch, model, row_begin, row_end)``; X (n, T), or (n, T * n_outputs)
    where leaves are vectors, as `terms` wrote it."""
    acc = signature.acc_dtype
    with IRBuilder() as builder, TB.prim_func():
        TB.func_name(name)
        TB.func_attr({"tirx.noalias": True, "global_symbol": name})
        args = arguments(acc, acc, parallel)
        frame = new_frame(signature, args, "float32", 1, 1, first_directory)

        def rows(begin: Expr, end: Expr, _: Expr) -> None:
            read_only_views(frame)
            with TB.serial(0, end - begin) as r:
                _sum(frame, begin + r)

        rows_of(args, const(1, "int64"), rows)
    return builder.get()


def _sum(frame: Frame, row: Expr) -> None:
    tables, flags = frame.tables, frame.signature.flags
    found, out = frame.arguments.X, frame.arguments.out
    n_trees, n_outputs = frame.scalar64("n_trees"), frame.scalar64("n_outputs")

    def divided(value: Expr) -> Expr:
        return value / tables["divisor"][0] if "divide" in flags else value

    if "one_output" in flags:  # in a register
        acc = TB.alloc_buffer((1,), frame.signature.acc_dtype, scope="global")
        TB.buffer_store(acc, tables["base_score"][0], [0])
        with TB.serial(0, n_trees) as t:
            TB.buffer_store(acc, acc[0] + found[row, t], [0])
        TB.buffer_store(out, divided(acc[0]), [row, const(0, "int64")])
        return
    with TB.serial(0, n_outputs) as k:
        TB.buffer_store(out, tables["base_score"][k], [row, k])
    with TB.serial(0, n_trees) as t:
        if "vector" in flags:
            with TB.serial(0, n_outputs) as k:
                TB.buffer_store(out, out[row, k] + found[row, t * n_outputs + k], [row, k])
        else:
            k = register(tirx.Cast("int64", tables["tree_output"][t]))
            TB.buffer_store(out, out[row, k] + found[row, t], [row, k])
    if "divide" in flags:
        with TB.serial(0, n_outputs) as k:
            TB.buffer_store(out, divided(out[row, k]), [row, k])
