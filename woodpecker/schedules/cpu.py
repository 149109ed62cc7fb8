"""CPU kernels: one loop over row blocks that joins predicate stage, strategy and aggregation.

    def raw(X, out, scratch, model, row_begin, row_end):
        V, acc = scratch                                     # tiles of column values, sums
        for block of R rows:
            V[tile, c, r] = column values of the block       # relay_ops.predicate
            acc[k, r] = base_score[k]
            for group of trees:                              # their tables are read once per block
                for group of rows:                           # walks in flight hide each other's latency
                    p = leaf positions of the rows in the trees      # the strategy: cpu_strategies
                    acc[output[t], r] += value[p], tree by tree      # relay_ops.aggregate
            out[block] = acc / divisor

so nothing of size rows x trees is stored, and every row's sum is sequential whatever the blocks, groups or threads.
Groups are whole: the last one repeats the block's last row. Tables are found through the directory of the model blob
(`woodpecker.layout`); the code depends on the layout's signature alone.

Why these loops are written here and not derived from the strategies' TE graphs by schedule primitives: trip counts
come from a table (the depth of each tree) and sums must stay sequential per row while rows interleave, and neither a
TE reduction nor compute_at can say that. The expressions inside (`step`, `goes_right`, ...) are the very functions
that the TE graphs are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout, Signature
from ..predicates import Canonical
from ..relay_ops import aggregate, predicate
from ..relay_ops.plan import STRATEGIES as PREPARED_BY
from ..relay_ops.plan import WALKING, Step
from ..relay_ops.predicate import Expr
from ..runtime.format import round_up
from . import cpu_bitslice, cpu_columns
from .cpu_bytes import BYTE_PLANES
from .cpu_strategies import LANES, PROLOGUES, SCRATCH, STAGES, STRATEGIES, adder, trees_of
from .tir import Frame, arguments, const, new_frame, read_only_views, register, rows_of, scratch_view

V_BYTES = 128 * 1024
"""Column values of a row block should stay in the second-level cache beside a tree's tables."""
MIN_BLOCK, MAX_BLOCK = 64, 1024
"""Rows of a block: enough to read every tree's tables for, even where their values outgrow the cache."""

Body = Callable[[Expr, Callable[[Expr], Expr], Expr, Expr], None]
"""What is done with a block: (its first row, place in the block -> row of X, its rows, its groups of rows)."""


def tables_of(canonical: Canonical) -> Callable[[Step], Layout]:
    """Step -> its tables, as far as no target changes them, made once for all steps and levels that share them."""
    shared = predicate.prepare(canonical)
    made: dict[tuple[Any, ...], Layout] = {}

    def tables(step: Step) -> Layout:
        module = PREPARED_BY[step.strategy]
        key = (step.strategy, *(step.options[name] for name in module.TABLE_OPTIONS))
        if key not in made:
            layout, positions = module.prepare(canonical, step.options)
            made[key] = shared | layout | aggregate.prepare(canonical, positions, layout.flags)
        return made[key]

    return tables


def lay_out(
    canonical: Canonical, tables: Callable[[Step], Layout], plan: Sequence[Step], features: Collection[str] = ()
) -> tuple[Layout, ...]:
    """All numbers of every step of a plan: tables, row blocks, and the places of everything in scratch.

    Args:
        canonical: The forest.
        tables: Its tables, see `tables_of`.
        plan: Its plan.
        features: CPU features of the target, by LLVM's names; some decide on tables.
    """
    layouts = []
    for step in plan:
        layout = tables(step)
        if step.strategy in STAGES:
            layout |= Layout({}, {}, {"rows": step.options["rows"]}, frozenset())
            layout |= STAGES[step.strategy](layout, features)
        if step.strategy in PROLOGUES:
            layout |= cpu_columns.squares(canonical, layout, cpu_columns.TILE, features)
        if step.strategy in WALKING:
            layout |= Layout({}, {}, step.options, frozenset())
            if step.options["interleave"] % cpu_columns.ROWS_AT_ONCE == 0:
                layout |= cpu_columns.squares(canonical, layout, len(canonical.columns) + 1, features)
        layouts.append(layout | _places(layout, step))
    scratch = {"scratch_bytes": max(layout.scalars["scratch_bytes"] for layout in layouts)}
    return tuple(layout | Layout(scratch, {}, {}, frozenset()) for layout in layouts)


def _places(layout: Layout, step: Step) -> Layout:
    """The row block and the places in scratch, for the wider of both input dtypes."""
    width = layout.scalars["n_columns"] + 1
    if step.strategy in PROLOGUES:
        width = max(cpu_columns.TILE + 1, layout.scalars["n_columns"] - layout.scalars["n_numeric"])
    rows = LANES[step.strategy](layout)
    if step.strategy not in PROLOGUES:  # a prologue works on one group
        rows = max(rows, min(MAX_BLOCK, max(MIN_BLOCK, V_BYTES // (4 * width))) // rows * rows)
    sums = round_up(8 * width * rows)
    extra = sums + round_up(8 * layout.scalars["n_outputs"] * rows)
    total = extra + round_up(SCRATCH[step.strategy](layout) if step.strategy in SCRATCH else 0)
    scalars = {"row_block": rows, "sums_offset": sums, "extra_offset": extra, "scratch_bytes": total}
    if step.min_rows:
        scalars["min_rows"] = step.min_rows
    return Layout(scalars, {}, {}, frozenset())


def shared_rows(signature: Signature) -> int:
    """Rows that tasks share out: those that a step computes together, and enough to be worth a task."""
    rows = LANES[signature.strategy](signature)
    return rows if signature.strategy in PROLOGUES else -(-MIN_BLOCK // rows) * rows


def entry(
    signatures: Sequence[Signature], name: str, kind: str, x_dtype: str, parallel: bool, first_directory: int = 0
) -> tvm.tirx.PrimFunc:
    """An entry of the calling convention: ``name(X, out, scratch, model, row_begin, row_end)``.

    Args:
        signatures: What the code of each step of the plan is specialised on, the step for the fewest rows first. A
            step takes whole blocks of its own, and the rest of the rows where they are at least its ``min_rows``.
        name: The global symbol.
        kind: "raw": out (n, K) of the accumulator's dtype; "apply": out (n, T) int32 leaf ids.
        x_dtype: Dtype of X, "float32" or "float64".
        parallel: Add a last argument ``num_tasks`` and run as many tasks by TVM's thread pool, each with a scratch of
            its own; only for code that runs inside a process that holds libtvm_runtime.
        first_directory: The number of the first step's directory in the model blob.
    """
    value_dtype = "float64" if signatures[0].input_dtype == x_dtype == "float64" else "float32"
    out_dtype = signatures[0].acc_dtype if kind == "raw" else "int32"
    with IRBuilder() as builder, TB.prim_func():
        TB.func_name(name)
        TB.func_attr({"tirx.noalias": True, "global_symbol": name})
        args = arguments(x_dtype, out_dtype, parallel)
        frames = []
        for number, signature in enumerate(signatures, first_directory):
            lanes = LANES[signature.strategy](signature)
            frames.append(new_frame(signature, args, value_dtype, lanes, trees_of(signature), number))
        last = frames[-1]
        if kind == "apply":  # seldom called: the steps between are not worth the time that compiling them takes
            frames = [frames[0], last][-len(frames) :]

        def blocks(frame: Frame, begin: Expr, end: Expr, scratch: Expr) -> None:
            def body(first: Expr, row: Callable[[Expr], Expr], count: Expr, groups: Expr) -> None:
                if kind == "apply":
                    _leaf_ids(frame, first, count, groups)
                else:
                    _raw_scores(frame, scratch, first, row, count, groups)

            row_blocks(frame, begin, end, scratch, body)

        def rows(begin: Expr, end: Expr, task: Expr) -> None:
            scratch = task * last.scalar64("scratch_bytes")
            for frame in reversed(frames[1:]):
                block = frame.scalar64("row_block")
                count = tirx.truncdiv(end - begin + block - frame.scalar64("min_rows"), block)
                count = tirx.max(count, const(0, "int64"))  # a step may begin at several blocks of its own
                stop = register(tirx.min(begin + count * block, end))
                with TB.If(begin < stop), TB.Then():
                    blocks(frame, begin, stop, scratch)
                begin = stop
            with TB.If(begin < end), TB.Then():
                blocks(frames[0], begin, end, scratch)

        rows_of(args, const(shared_rows(signatures[-1]), "int64"), rows)
    return builder.get()


def row_blocks(frame: Frame, begin: Expr, end: Expr, scratch: Expr, body: Body) -> None:
    """Emit ``body`` for every row block of [begin, end), with the tables open and the columns filled."""
    signature = frame.signature
    read_only_views(frame)
    frame.V = scratch_view(frame, frame.value_dtype, scratch)
    frame.extra = scratch + frame.scalar64("extra_offset")
    block = frame.scalar64("row_block")
    lanes = frame.lanes
    with TB.serial(0, tirx.ceildiv(end - begin, block)) as b:
        first = begin + b * block
        count = register(tirx.Cast("int32", tirx.min(block, end - first)))
        frame.rows = count
        groups = register(tirx.truncdiv(count + const(lanes - 1), const(lanes)))

        def row(r: Expr) -> Expr:
            """The row of X that stands at place r of the block; places past the last row repeat it."""
            return first + tirx.Cast("int64", tirx.min(r, count - const(1)))

        if signature.strategy in PROLOGUES:

            def fill(begin: Expr, end: Expr, categorical: bool) -> None:
                rows = cpu_columns.round_rows(count)
                if "squares" in signature.flags and not categorical:
                    tile = const(cpu_columns.TILE)
                    cpu_columns.fill_squares(frame, row, rows, tirx.truncdiv(begin, tile), begin, tile)
                else:
                    cpu_columns.columns(frame, row, rows, begin, end, begin, categorical)

            PROLOGUES[signature.strategy](frame, fill)
        else:
            cpu_columns.all_columns(frame, row, groups * const(lanes))
        body(first, row, count, groups)


def _leaf_ids(frame: Frame, first: Expr, count: Expr, groups: Expr) -> None:
    """out[row, t] = leaf id."""

    def sink(t: Expr, r: Expr, position: Expr) -> None:
        inside = r < count
        if frame.trees > 1:
            inside = tirx.And(inside, t < frame.scalar("n_trees"))
        with TB.If(inside), TB.Then():
            at = [first + tirx.Cast("int64", r), tirx.Cast("int64", t)]
            TB.buffer_store(frame.arguments.out, frame.tables["leaf_id"][position], at)

    with TB.serial(0, _tree_groups(frame)) as t, TB.serial(0, groups) as group:
        STRATEGIES[frame.signature.strategy](frame, t * const(frame.trees), group, sink)


def _tree_groups(frame: Frame) -> Expr:
    """How many groups of trees there are. The last may hold padding: trees whose leaves have the value -0.0."""
    return tirx.truncdiv(frame.scalar("n_trees") + const(frame.trees - 1), const(frame.trees))


def _raw_scores(
    frame: Frame, scratch: Expr, first: Expr, row: Callable[[Expr], Expr], count: Expr, groups: Expr
) -> None:
    """out[row, k] = raw score."""
    tables, flags = frame.tables, frame.signature.flags
    sums = scratch_view(frame, frame.signature.acc_dtype, scratch + frame.scalar64("sums_offset"))
    n_outputs = frame.scalar("n_outputs")

    def place(r: Expr, k: Expr) -> Expr:
        """Sums of neighbouring rows are neighbours, unless a leaf adds to all outputs at once."""
        return r * n_outputs + k if "vector" in flags else frame.by_column(k, r)

    with TB.serial(0, groups * const(frame.lanes)) as r, TB.serial(0, n_outputs) as k:
        TB.buffer_store(sums, tables["base_score"][k], [place(r, k)])

    def add(r: Expr, k: Expr, value: Expr) -> None:
        at = place(r, k)
        TB.buffer_store(sums, sums[at] + value, [at])

    def unless_padding(t: Expr, emit: Callable[[], None]) -> None:
        if frame.trees == 1:
            emit()
        else:
            with TB.If(t < frame.scalar("n_trees")), TB.Then():
                emit()

    def vector(t: Expr, r: Expr, position: Expr) -> None:
        unless_padding(t, lambda: each_output(r, position))

    def each_output(r: Expr, position: Expr) -> None:
        start = register(tirx.Cast("int64", aggregate.slot_at(tables, position)) * tirx.Cast("int64", n_outputs))
        with TB.serial(0, n_outputs) as k:
            add(r, k, tables["values"][start + tirx.Cast("int64", k)])

    def whole_vector(t: Expr, r: Expr, position: Expr) -> None:
        width = frame.signature.constant("vector")

        def emit() -> None:
            start = tirx.Cast("int64", aggregate.slot_at(tables, position)) * const(width, "int64")
            at = [tirx.Ramp(r * const(width), const(1), width)]
            TB.buffer_store(sums, sums[at[0]] + tables["values"][tirx.Ramp(start, const(1, "int64"), width)], at)

        unless_padding(t, emit)

    def output(t: Expr) -> Expr:
        return const(0) if "one_output" in flags else tables["tree_output"][t]

    def linear(t: Expr, r: Expr, position: Expr) -> None:
        unless_padding(t, lambda: add(r, output(t), linear_leaf(frame, row(r), position)))

    def scalar(t: Expr, r: Expr, position: Expr) -> None:
        # The -0.0 of padding changes no sum, whatever its sign.
        add(r, output(t), aggregate.value_at(tables, position))

    of_vectors = whole_vector if "vector" in dict(frame.signature.constants) else vector
    sink = of_vectors if "vector" in flags else linear if "linear" in flags else scalar
    whole = adder(frame.signature)
    with TB.serial(0, _tree_groups(frame)) as t:
        if whole:
            whole(frame, t, sums)
        else:
            with TB.serial(0, groups) as group:
                STRATEGIES[frame.signature.strategy](frame, t * const(frame.trees), group, sink)
    with TB.serial(0, count) as r, TB.serial(0, n_outputs) as k:
        total = sums[place(cpu_bitslice.sum_place(frame, r) if BYTE_PLANES in flags else r, k)]
        value = total / tables["divisor"][0] if "divide" in flags else total
        TB.buffer_store(frame.arguments.out, value, [first + tirx.Cast("int64", r), tirx.Cast("int64", k)])


def linear_leaf(frame: Frame, row: Expr, position: Expr) -> Expr:
    """The value of a leaf that may be linear in X."""
    tables = frame.tables
    slot = register(tables["slot"][position])
    begin, end = register(tables["linear_offset"][slot]), register(tables["linear_offset"][slot + const(1)])
    acc = TB.alloc_buffer((1,), "float64", scope="global")
    plain = TB.alloc_buffer((1,), "int32", scope="global")
    TB.buffer_store(acc, tables["linear_const"][slot], [0])
    TB.buffer_store(plain, tirx.Select(begin == end, const(1), const(0)), [0])
    with TB.serial(begin, end) as j:
        feature = tirx.Cast("int64", tables["linear_feature"][j])
        x = register(aggregate.linear_input(frame.arguments.X[row, feature], tables["zero_band"][0]))
        TB.buffer_store(acc, acc[0] + aggregate.fenced_product(tables["linear_coef"][j], x), [0])
        TB.buffer_store(plain, tirx.Select(tirx.isnan(x), const(1), plain[0]), [0])
    return tirx.Select(plain[0] == const(1), tables["value"][position], acc[0])
