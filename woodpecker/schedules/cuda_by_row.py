"""CUDA kernels of the walks: a thread a row for batches, a block a row for a few rows; several are `cuda_spread`.

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

from collections.abc import Callable, Mapping
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout
from ..predicates import Canonical
from ..relay_ops.options import Option
from ..relay_ops.plan import WALKING, Step
from ..relay_ops.predicate import Expr
from ..runtime.cuda import Launch
from ..runtime.format import round_up
from . import cuda_blocks, cuda_ranks, cuda_spread
from .cpu import tables_of
from .cuda_blocks import blocks, fill
from .cuda_ranks import RANKED
from .cuda_sums import add_terms, each, each_value, store
from .cuda_tir import Frame, register, synchronise, variable
from .cuda_walks import walk
from .tir import ITEMSIZE, const

TREES = 2
"""Of a thread: two walks hide a step's latency, about 90 cycles, where a multiprocessor has half of the threads that it
can hold."""
OPTIONS = {
    "cuda_trees": Option(TREES, 1, 8, "trees that a thread walks together"),
    "cuda_threads": Option(0, 0, 1024, "rows of a block, a power of two from 32 on; 0: as many as its memory holds"),
    "cuda_ranks": Option(1, 0, 1, "1: walk by ranks where that is possible; 0: by node records"),
}
MAX_THREADS = 128
"""Rows of a block, where they fit: more blocks fill a multiprocessor better than large ones."""


def wrong_options(options: Mapping[str, int]) -> str | None:
    """Why a walk can't have these options, if it can't."""
    threads = options["cuda_threads"]
    if threads and (threads < 32 or threads & (threads - 1)):
        return f"option cuda_threads must be 0 or a power of two from 32 to 1024, found {threads}"
    return None


def space(canonical: Canonical, strategy: str) -> dict[str, tuple[int, ...]]:
    """option -> candidates, for tuning."""
    found: dict[str, tuple[int, ...]] = {"cuda_trees": (1, 2, 4), "cuda_threads": (64, 128, 256)}
    by_ranks = cuda_ranks.rank_bytes(canonical, strategy, MAX_THREADS) > 0
    return {**found, "cuda_ranks": (0, 1)} if by_ranks else found


def refusal(canonical: Canonical, strategy: str, options: Mapping[str, int]) -> str | None:
    """Why a walk can't serve a forest, if it can't."""
    found: str | None = WALKING[strategy].applicable(canonical, {"trees": options["cuda_trees"]})
    return found


def ranked(canonical: Canonical, strategy: str, options: Mapping[str, int]) -> bool:
    """Whether the forest is walked by ranks."""
    threads = options["cuda_threads"] or MAX_THREADS
    return bool(options["cuda_ranks"]) and cuda_ranks.rank_bytes(canonical, strategy, threads) > 0


def lay_out(canonical: Canonical, strategy: str, options: Mapping[str, int]) -> Layout:
    """All tables of a walk, the threads of a block, and where it keeps what.

    Args:
        canonical: The forest.
        strategy: A walking strategy.
        options: All of OPTIONS. By node records, trees that are walked together are neighbours in the tables; not so
            by ranks.

    Raises:
        StrategyError: a block of rows would not fit into memory that 32 bits reach.
    """
    together, by_ranks = options["cuda_trees"], ranked(canonical, strategy, options)
    chosen = {"trees": 1 if by_ranks else together, "interleave": 1, "unroll": 1}
    chosen = {name: chosen[name] for name in WALKING[strategy].OPTIONS}
    layout = tables_of(canonical)(Step(0, strategy, chosen, "", {})) | Layout({}, {}, chosen, frozenset())
    item = 8 if canonical.forest.input_dtype == "float64" else 4
    acc, n_columns = str(canonical.forest.values.dtype), len(canonical.columns)
    outputs, flags = layout.scalars["n_outputs"], layout.flags
    threads = options["cuda_threads"]
    nbytes = cuda_ranks.rank_bytes(canonical, strategy, threads or MAX_THREADS) if by_ranks else 0
    row = cuda_ranks.row_bytes(n_columns, nbytes) if nbytes else (n_columns + 1) * item

    def sums(rows: int) -> int:
        return 0 if "one_output" in flags else round_up(outputs * rows * ITEMSIZE[acc])

    def fits(rows: int) -> bool:
        return sums(rows) + row * rows <= cuda_blocks.SHARED_BYTES

    sizes = [threads] if threads else [n for n in (MAX_THREADS, 64, 32) if fits(n)]
    rows = sizes[0] if sizes else MAX_THREADS
    terms = round_up(layout.scalars["n_trees"] * (outputs if "vector" in flags else 1) * ITEMSIZE[acc])
    places = {
        "values_offset": sums(rows),
        "block_bytes": round_up(sums(rows) + row * rows),
        "row_values_offset": terms,
        "row_bytes": round_up(terms + row * (rows if nbytes else 1)),  # packed nodes know the words of a whole block
    }
    cuda_blocks.check_bytes(strategy, max(places["block_bytes"], places["row_bytes"]))
    more = {"rows_in_scratch"} if not fits(rows) else set()
    more |= {"row_in_scratch"} if places["row_bytes"] > cuda_blocks.SHARED_BYTES else set()
    if nbytes:
        layout = cuda_ranks.with_ranks(canonical, layout, nbytes, rows, together)
    return layout | Layout(places, {}, {"threads": rows, "walks": together}, frozenset(more))


def launch(layout: Layout, kind: str) -> Launch:
    """How a kernel with these tables is launched; ``kind`` is "raw", "apply" or "few"."""
    few = kind == "few"
    in_scratch = ("row_in_scratch" if few else "rows_in_scratch") in layout.flags
    nbytes, threads = layout.scalars["row_bytes" if few else "block_bytes"], layout.constants["threads"]
    return Launch(threads, 1 if few else threads, 0 if in_scratch else nbytes, nbytes if in_scratch else 0)


def emit(frame: Frame, kind: str) -> None:
    """The code of a kernel; ``kind`` is "raw", "apply", "few" or "spread"."""
    {"raw": _raw_scores, "apply": _leaf_ids, "few": _few_rows, "spread": cuda_spread.emit}[kind](frame)


def _open(frame: Frame, few: bool) -> Callable[[str, str | None], Any]:
    in_scratch = ("row_in_scratch" if few else "rows_in_scratch") in frame.signature.flags
    return cuda_blocks.memory(frame, "row_bytes" if few else "block_bytes", in_scratch)


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
        fill(frame, first, count)
        row = register((first + tirx.Cast("int64", frame.thread)) * frame.parameters.out_stride)

        def store(tree: Expr, positions: list[Expr]) -> None:
            for i, position in enumerate(positions):
                t = tree + const(i)
                with TB.If(tirx.And(frame.thread < count, t < frame.scalar("n_trees"))), TB.Then():
                    leaf = frame.tables["leaf_id"][position]
                    TB.buffer_store(frame.parameters.out, leaf, [row + tirx.Cast("int64", t)])

        _groups(frame, store)
        synchronise()  # the next block of rows overwrites V

    blocks(frame, frame.threads, block)


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
        fill(frame, first, count)
        row = register(first + tirx.Cast("int64", tirx.min(frame.thread, count - const(1))))
        each(n_outputs, alone, lambda k: TB.buffer_store(sums, tables["base_score"][k], [place(k)]))

        def add(k: Expr, value: Expr) -> None:
            TB.buffer_store(sums, sums[place(k)] + value, [place(k)])

        def add_all(tree: Expr, positions: list[Expr]) -> None:
            for i, position in enumerate(positions):
                # The last group's padding: where it has values, they are -0.0, which changes no sum.
                if len(positions) > 1 and {"vector", "linear", RANKED} & flags:
                    with TB.If(tree + const(i) < frame.scalar("n_trees")), TB.Then():
                        each_value(frame, tree + const(i), row, position, add)
                else:
                    each_value(frame, tree + const(i), row, position, add)

        _groups(frame, add_all)
        synchronise()  # the next block of rows overwrites V
        with TB.If(frame.thread < count), TB.Then():
            each(n_outputs, alone, lambda k: store(frame, row, k, sums[place(k)]))

    blocks(frame, frame.threads, block)


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
        fill(frame, first, count)

        def tree(t: Expr) -> None:
            (position,) = walk(frame, [t], const(0))

            def keep(k: Expr, value: Expr) -> None:
                TB.buffer_store(terms, value, [t * n_outputs + k if vector else t])

            each_value(frame, t, first, position, keep)

        mine(n_trees, tree)
        # The next row overwrites V, which no one reads from here on, and the terms after the barrier that follows V.
        synchronise()

        def output(k: Expr) -> None:
            sum_ = variable(tables["base_score"][k])
            add_terms(frame, sum_, k, const(0), n_trees, lambda t: terms[t * n_outputs + k if vector else t])
            store(frame, first, k, sum_[0])

        mine(n_outputs, output)

    blocks(frame, 1, block)
