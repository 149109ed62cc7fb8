"""CUDA kernels: a thread a row for batches, a block a row for a few rows.

    raw(X, out, scratch, model, ...):               # R rows a block, R threads
        for block of R rows:
            V[c, r] = column values of the block    # in shared memory, by all threads: cuda_columns
            row r = thread:
                acc[k] = base_score[k]
                for group of trees:                 # walks in flight hide each other's latency
                    p = leaf positions in the trees # the strategy: cuda_walks
                    acc[output[t]] += value[p], tree by tree
                out[row] = acc / divisor

    few(X, out, scratch, model, ...):               # one row a block
        for row:
            V[c] = column values of the row
            tree t = thread, thread + threads, ..:  term[t] = value[leaf position in the tree]
            output k = thread, ..:                  out[row, k] = (base_score[k] + term[t] + ..) / divisor

so a row's sum is the same sequence of additions as on a CPU, in the source library's order and dtype, however threads
share the trees. Neighbouring threads read neighbouring places of V, which are places of different banks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as TB

from ..errors import StrategyError
from ..layout import Layout, Signature
from ..predicates import Canonical
from ..relay_ops import aggregate
from ..relay_ops.predicate import Expr
from ..runtime.cuda import Launch
from ..runtime.format import round_up
from . import cuda_columns, cuda_ranks
from .cuda_ranks import RANKED
from .cuda_tir import Frame, new_frame, parameters, register, shared_view, synchronise, variable, view
from .cuda_walks import walk
from .tir import ITEMSIZE, const

MAX_THREADS = 128
"""Rows of a block, where they fit: more blocks fill a multiprocessor better than large ones."""
SHARED_BYTES = 48 * 1024
"""Shared memory of a block that every GPU gives without being asked for more."""
MAX_BLOCK_BYTES = 2**31 - 1
"""Places of a block are numbered by 32 bits."""
ENTRIES = ("raw_f32", "raw_f64", "apply_f32", "apply_f64", "few_f32", "few_f64")


def lay_out(
    canonical: Canonical, layout: Layout, strategy: str, *, threads: int = 0, ranks: bool = True, walks: int = 1
) -> Layout:
    """A layout of `cpu.tables_of` with what CUDA kernels need besides: the threads of a block, and where it keeps what.

    Args:
        canonical: The forest.
        layout: Its tables for the strategy.
        strategy: A walking strategy.
        threads: Threads of a block, a power of two from 32 to 1024; 0: as many as shared memory holds the rows of.
        ranks: Walk by ranks where that is possible, see `cuda_ranks`.
        walks: Trees that a thread then walks together; without ranks it walks as many as the tables say.

    Raises:
        StrategyError: a block of rows would not fit into memory that 32 bits reach.
    """
    item = 8 if canonical.forest.input_dtype == "float64" else 4
    acc, n_columns = str(canonical.forest.values.dtype), len(canonical.columns)
    outputs, flags = layout.scalars["n_outputs"], layout.flags
    ranks = ranks and layout.constants["trees"] == 1
    nbytes = cuda_ranks.rank_bytes(canonical, strategy, threads or MAX_THREADS) if ranks else 0
    row = cuda_ranks.row_bytes(n_columns, nbytes) if nbytes else (n_columns + 1) * item

    def sums(rows: int) -> int:
        return 0 if "one_output" in flags else round_up(outputs * rows * ITEMSIZE[acc])

    def fits(rows: int) -> bool:
        return sums(rows) + row * rows <= SHARED_BYTES

    sizes = [threads] if threads else [n for n in (MAX_THREADS, 64, 32) if fits(n)]
    rows = sizes[0] if sizes else MAX_THREADS
    terms = round_up(layout.scalars["n_trees"] * (outputs if "vector" in flags else 1) * ITEMSIZE[acc])
    places = {
        "values_offset": sums(rows),
        "block_bytes": round_up(sums(rows) + row * rows),
        "row_values_offset": terms,
        "row_bytes": round_up(terms + row * (rows if nbytes else 1)),  # packed nodes know the words of a whole block
    }
    if (most := max(places["block_bytes"], places["row_bytes"])) > MAX_BLOCK_BYTES:
        raise StrategyError(
            f"strategy {strategy!r} would keep {most:,} bytes for a block of rows on a GPU; the limit is "
            f"{MAX_BLOCK_BYTES:,}. Compile this forest for CPUs"
        )
    more = {"rows_in_scratch"} if not fits(rows) else set()
    more |= {"row_in_scratch"} if places["row_bytes"] > SHARED_BYTES else set()
    if nbytes:
        layout = cuda_ranks.with_ranks(canonical, layout, nbytes, rows, walks)
    constants = {"threads": rows, "walks": walks if nbytes else layout.constants["trees"]}
    return layout | Layout(places, {}, constants, frozenset(more))


def launch(layout: Layout, entry: str) -> Launch:
    """How an entry with these tables is launched."""
    few = entry.startswith("few_")
    in_scratch = ("row_in_scratch" if few else "rows_in_scratch") in layout.flags
    nbytes, threads = layout.scalars["row_bytes" if few else "block_bytes"], layout.constants["threads"]
    return Launch(threads, 1 if few else threads, 0 if in_scratch else nbytes, nbytes if in_scratch else 0)


def kernel(signature: Signature, name: str, entry: str, first_directory: int = 0) -> tvm.tirx.PrimFunc:
    """A kernel ``name(X, out, scratch, model, x_stride, out_stride, rows, blocks)``.

    Args:
        signature: What the code is specialised on.
        name: The global symbol.
        entry: One of ENTRIES. raw and few: out (n, K) of the accumulator's dtype; apply: out (n, T) int32 leaf ids.
            X (n, F) is float32 or float64; both have unit column stride.
        first_directory: The number of its directory in the model blob.
    """
    kind, _, width = entry.partition("_")
    x_dtype = {"f32": "float32", "f64": "float64"}[width]
    value_dtype = "float64" if signature.input_dtype == x_dtype == "float64" else "float32"
    out_dtype = "int32" if kind == "apply" else signature.acc_dtype
    with IRBuilder() as builder, TB.prim_func():
        TB.func_name(name)
        # A pointer is restrict: nothing else reads what is written, and tables may come through the read-only path.
        TB.func_attr({"global_symbol": name, "tirx.noalias": True, "tirx.is_global_func": True, "calling_conv": 2})
        args = parameters(x_dtype, out_dtype)
        with (
            TB.launch_thread("blockIdx.x", tirx.Cast("int32", args.blocks)) as block,
            TB.launch_thread("threadIdx.x", signature.constant("threads")) as thread,
        ):
            frame = new_frame(signature, args, value_dtype, thread, block, first_directory)
            {"raw": _raw_scores, "apply": _leaf_ids, "few": _few_rows}[kind](frame)
    return builder.get()


def _open(frame: Frame, few: bool) -> Callable[[str, str | None], Any]:
    """(dtype, scalar with an offset in bytes) -> a view of what the block keeps, in shared memory or in scratch."""
    in_scratch = ("row_in_scratch" if few else "rows_in_scratch") in frame.signature.flags
    if in_scratch:
        own = register(tirx.Cast("int64", frame.block) * frame.scalar64("row_bytes" if few else "block_bytes"))
    else:
        kept = TB.alloc_buffer((1,), "uint8", scope="shared.dyn")

    def opened(dtype: str, offset: str | None) -> Any:
        start = frame.scalar64(offset) if offset else const(0, "int64")
        if in_scratch:
            return view(frame.parameters.scratch, dtype, own + start)
        return shared_view(kept.data, dtype, start)

    return opened


def _blocks(frame: Frame, rows: int, body: Callable[[Expr, Expr], None]) -> None:
    """Emit ``body(first row, rows)`` for the blocks of rows that this block of threads takes."""
    size, n_rows = const(rows, "int64"), frame.parameters.rows
    at = variable(tirx.Cast("int64", frame.block) * size)
    # Not a loop over numbers of blocks: a division of 64-bit integers is a call, around which registers are spilled.
    with TB.While(at[0] < n_rows):
        first = register(at[0])
        body(first, register(tirx.Cast("int32", tirx.min(size, n_rows - first))))
        TB.buffer_store(at, first + frame.parameters.blocks * size, [0])


def _fill(frame: Frame, first: Expr, count: Expr) -> None:
    """Fill V; places past the last row repeat it."""
    cuda_columns.fill(frame, lambda r: first + tirx.Cast("int64", tirx.min(r, count - const(1))))
    synchronise()


def _groups(frame: Frame, body: Callable[[Expr, list[Expr]], None]) -> None:
    """Emit ``body(tree, positions)`` for each group of trees of the thread's row. The last group may hold padding."""
    together, last = frame.signature.constant("walks"), frame.scalar("n_trees") - const(1)
    groups = tirx.truncdiv(frame.scalar("n_trees") + const(together - 1), const(together))
    with TB.serial(0, groups) as group:
        first = register(group * const(together))
        trees = [first + const(i) for i in range(together)]
        if RANKED in frame.signature.flags and together > 1:  # whose tables have no padding
            trees = [register(tirx.min(t, last)) for t in trees]
        body(first, walk(frame, trees, frame.thread))


def _leaf_ids(frame: Frame) -> None:
    """out[row, t] = leaf id."""
    frame.pitch, opened = frame.threads, _open(frame, few=False)
    frame.V = opened(cuda_ranks.dtype_of_values(frame), "values_offset")

    def block(first: Expr, count: Expr) -> None:
        _fill(frame, first, count)
        row = register((first + tirx.Cast("int64", frame.thread)) * frame.parameters.out_stride)

        def store(tree: Expr, positions: list[Expr]) -> None:
            for i, position in enumerate(positions):
                t = tree + const(i)
                with TB.If(tirx.And(frame.thread < count, t < frame.scalar("n_trees"))), TB.Then():
                    leaf = frame.tables["leaf_id"][position]
                    TB.buffer_store(frame.parameters.out, leaf, [row + tirx.Cast("int64", t)])

        _groups(frame, store)
        synchronise()  # the next block of rows overwrites V

    _blocks(frame, frame.threads, block)


def _raw_scores(frame: Frame) -> None:
    """out[row, k] = raw score, with a thread a row."""
    tables, flags, acc = frame.tables, frame.signature.flags, frame.signature.acc_dtype
    frame.pitch, opened = frame.threads, _open(frame, few=False)
    frame.V = opened(cuda_ranks.dtype_of_values(frame), "values_offset")
    n_outputs = frame.scalar("n_outputs")
    alone = "one_output" in flags
    sums = variable(tables["base_score"][0]) if alone else opened(acc, None)

    def place(k: Expr) -> Expr:
        return const(0) if alone else k * const(frame.threads) + frame.thread

    def block(first: Expr, count: Expr) -> None:
        _fill(frame, first, count)
        row = register(first + tirx.Cast("int64", tirx.min(frame.thread, count - const(1))))
        _each(n_outputs, alone, lambda k: TB.buffer_store(sums, tables["base_score"][k], [place(k)]))

        def add(k: Expr, value: Expr) -> None:
            TB.buffer_store(sums, sums[place(k)] + value, [place(k)])

        def add_all(tree: Expr, positions: list[Expr]) -> None:
            for i, position in enumerate(positions):
                # The last group's padding: where it has values, they are -0.0, which changes no sum.
                if len(positions) > 1 and {"vector", "linear", RANKED} & flags:
                    with TB.If(tree + const(i) < frame.scalar("n_trees")), TB.Then():
                        _each_value(frame, tree + const(i), row, position, add)
                else:
                    _each_value(frame, tree + const(i), row, position, add)

        _groups(frame, add_all)
        synchronise()  # the next block of rows overwrites V
        with TB.If(frame.thread < count), TB.Then():
            _each(n_outputs, alone, lambda k: _store(frame, row, k, sums[place(k)]))

    _blocks(frame, frame.threads, block)


def _few_rows(frame: Frame) -> None:
    """out[row, k] = raw score, with a block a row."""
    tables, flags, acc = frame.tables, frame.signature.flags, frame.signature.acc_dtype
    opened = _open(frame, few=True)
    frame.V, terms = opened(cuda_ranks.dtype_of_values(frame), "row_values_offset"), opened(acc, None)
    n_trees, n_outputs, threads = frame.scalar("n_trees"), frame.scalar("n_outputs"), const(frame.threads)
    vector = "vector" in flags

    def mine(n: Expr, body: Callable[[Expr], None]) -> None:
        with TB.serial(0, tirx.truncdiv(n + threads - const(1), threads)) as i:
            at = register(i * threads + frame.thread)
            with TB.If(at < n), TB.Then():
                body(at)

    def block(first: Expr, count: Expr) -> None:
        _fill(frame, first, count)

        def tree(t: Expr) -> None:
            (position,) = walk(frame, [t], const(0))

            def keep(k: Expr, value: Expr) -> None:
                TB.buffer_store(terms, value, [t * n_outputs + k if vector else t])

            _each_value(frame, t, first, position, keep)

        mine(n_trees, tree)
        # The next row overwrites V, which no one reads from here on, and the terms after the barrier that follows V.
        synchronise()

        def output(k: Expr) -> None:
            sum_ = variable(tables["base_score"][k])
            with TB.serial(0, n_trees) as t:
                if vector:
                    TB.buffer_store(sum_, sum_[0] + terms[t * n_outputs + k], [0])
                elif "one_output" in flags:
                    TB.buffer_store(sum_, sum_[0] + terms[t], [0])
                else:
                    with TB.If(tables["tree_output"][t] == k), TB.Then():
                        TB.buffer_store(sum_, sum_[0] + terms[t], [0])
            _store(frame, first, k, sum_[0])

        mine(n_outputs, output)

    _blocks(frame, 1, block)


def _each(n: Expr, alone: bool, body: Callable[[Expr], None]) -> None:
    if alone:
        body(const(0))
    else:
        with TB.serial(0, n) as k:
            body(k)


def _store(frame: Frame, row: Expr, k: Expr, total: Expr) -> None:
    """out[row, k] = the sum, divided."""
    value = total / frame.tables["divisor"][0] if "divide" in frame.signature.flags else total
    TB.buffer_store(frame.parameters.out, value, [row * frame.parameters.out_stride + tirx.Cast("int64", k)])


def _each_value(frame: Frame, t: Expr, row: Expr, position: Expr, use: Callable[[Expr, Expr], None]) -> None:
    """``use(output, value)`` for what a tree adds to a row (of X, int64): one value, or one for each output."""
    tables, flags = frame.tables, frame.signature.flags
    if "vector" in flags:
        n_outputs = frame.scalar("n_outputs")
        start = register(tirx.Cast("int64", aggregate.slot_at(tables, position)) * tirx.Cast("int64", n_outputs))
        with TB.serial(0, n_outputs) as k:
            use(k, tables["values"][start + tirx.Cast("int64", k)])
        return
    value = _linear_leaf(frame, row, position) if "linear" in flags else aggregate.value_at(tables, position)
    use(const(0) if "one_output" in flags else register(tables["tree_output"][t]), value)


def _linear_leaf(frame: Frame, row: Expr, position: Expr) -> Expr:
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
