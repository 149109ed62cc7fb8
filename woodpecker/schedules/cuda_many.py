"""CUDA kernels of strategies that find the leaves of many rows together: byte columns, leaves, sums.

raw(X, out, scratch, model, ...):               # R rows a block
    for block of R rows:
        V[q, r] = byte columns of the block     # in shared memory, by all threads: cuda_bytes
        for each row r of the thread:           acc[r, k] = base_score[k]
        for group of trees:
            p = leaf positions of the thread's rows         # the strategy
            acc[r, output[t]] += value[p[r, t]], tree by tree
        for each row r of the thread:           out[r] = acc[r] / divisor
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout
from ..predicates import Canonical
from ..relay_ops.plan import STRATEGIES as OF_CPUS
from ..relay_ops.plan import Step
from ..relay_ops.predicate import Expr
from ..runtime.cuda import Launch
from ..runtime.format import round_up
from . import cuda_blocks, cuda_bytes
from .cpu import tables_of
from .cuda_sums import each, each_value, store
from .cuda_tir import Frame, register, synchronise, variable
from .tir import ITEMSIZE, const

THREADS = (128, 64, 32)
"""Of a block, the most that shared memory has room for."""

Sink = Callable[[Expr, int, Expr], None]
"""What receives (tree, which of the thread's rows, leaf position). Trees come in order for each row."""


@dataclass(frozen=True)
class Shape:
    """A block of rows.

    Args:
        threads: Its threads.
        each: Rows that a thread sums.
        pitch: Bytes of a byte column.
        extra: Bytes that the strategy keeps besides.
    """

    threads: int
    each: int
    pitch: int
    extra: int = 0

    @property
    def rows(self) -> int:
        return self.threads * self.each


def wrong_options(options: Mapping[str, int]) -> str | None:
    """Why a strategy can't have these options, if it can't."""
    threads = options["cuda_threads"]
    if threads and (threads < 32 or threads & (threads - 1)):
        return f"option cuda_threads must be 0 or a power of two from 32 to 1024, found {threads}"
    return None


def tables(canonical: Canonical, strategy: str, drop: Sequence[str]) -> tuple[Layout, Layout]:
    """The tables of a strategy on the CPU; and these but for those in ``drop``, with those of the byte columns."""
    layout = tables_of(canonical)(Step(0, strategy, _DEFAULTS[strategy], "", {}))
    gone = (*drop, *cuda_bytes.UNUSED)
    kept = {name: table for name, table in layout.tables.items() if name not in gone}
    rest = Layout(layout.scalars, kept, layout.constants, layout.flags)
    return layout, rest | cuda_bytes.prepare(canonical)


_DEFAULTS = {n: {key: o.default for key, o in m.OPTIONS.items()} for n, m in OF_CPUS.items()}


def place(canonical: Canonical, layout: Layout, shapes: Sequence[Shape]) -> tuple[Shape, Layout]:
    """The first of these shapes that fits into shared memory, else the last; and where its block keeps what.

    Raises:
        StrategyError: see `cuda_blocks.check_bytes`.
    """
    acc = str(canonical.forest.values.dtype)
    n_bytes, outputs = layout.scalars["n_bytes"], layout.scalars["n_outputs"]

    def places(shape: Shape) -> tuple[int, int, int]:
        sums = 0 if "one_output" in layout.flags else round_up(outputs * shape.rows * ITEMSIZE[acc])
        extra = sums + round_up((n_bytes + 1) * shape.pitch)
        return sums, extra, round_up(extra + shape.extra)

    shape = next((s for s in shapes if places(s)[-1] <= cuda_blocks.SHARED_BYTES), shapes[-1])
    values, extra, total = places(shape)
    scalars = {"values_offset": values, "extra_offset": extra, "block_bytes": total}
    flags = frozenset({"rows_in_scratch"}) if total > cuda_blocks.SHARED_BYTES else frozenset()
    constants = {"threads": shape.threads, "each": shape.each, "pitch": shape.pitch}
    return shape, Layout(scalars, {}, constants, flags)


def launch(layout: Layout, kind: str) -> Launch:
    """How a kernel with these tables is launched; ``kind`` is "raw" or "apply"."""
    threads, rows = layout.constants["threads"], layout.constants["threads"] * layout.constants["each"]
    nbytes, in_scratch = layout.scalars["block_bytes"], "rows_in_scratch" in layout.flags
    return Launch(threads, rows, 0 if in_scratch else nbytes, nbytes if in_scratch else 0)


Open = Callable[[str, str | None], Any]
"""(dtype, scalar with an offset in bytes) -> a view of what the block keeps."""
RowOf = Callable[[Expr], Expr]
"""Row of the block -> row of X."""


def emit(
    frame: Frame,
    kind: str,
    rows: Sequence[Expr],
    fill: Callable[[Open, RowOf], None],
    leaves: Callable[[Open, Sink], None],
) -> None:
    """The code of a kernel.

    Args:
        frame: The kernel.
        kind: "raw" or "apply".
        rows: The rows of the block that the thread sums, int32.
        fill: Fills the byte columns, from (what opens the block's memory, row of the block -> row of X).
        leaves: Emits the leaves of the thread's rows into a sink.
    """
    opened = cuda_blocks.memory(frame, "block_bytes", "rows_in_scratch" in frame.signature.flags)
    body = {"raw": _raw_scores, "apply": _leaf_ids}[kind](frame, opened, rows, leaves)

    def block(first: Expr, count: Expr) -> None:
        fill(opened, lambda r: first + tirx.Cast("int64", tirx.min(r, count - const(1))))
        synchronise()
        body(first, count)

    cuda_blocks.blocks(frame, frame.threads * frame.signature.constant("each"), block)


Body = Callable[[Expr, Expr], None]


def _leaf_ids(frame: Frame, opened: Open, rows: Sequence[Expr], leaves: Callable[[Open, Sink], None]) -> Body:
    """out[row, t] = leaf id."""

    def body(first: Expr, count: Expr) -> None:
        starts = [register((first + tirx.Cast("int64", r)) * frame.parameters.out_stride) for r in rows]

        def sink(t: Expr, i: int, position: Expr) -> None:
            with TB.If(rows[i] < count), TB.Then():
                leaf = frame.tables["leaf_id"][position]
                TB.buffer_store(frame.parameters.out, leaf, [starts[i] + tirx.Cast("int64", t)])

        leaves(opened, sink)
        synchronise()  # the next block of rows overwrites V

    return body


def _raw_scores(frame: Frame, opened: Open, rows: Sequence[Expr], leaves: Callable[[Open, Sink], None]) -> Body:
    """out[row, k] = raw score."""
    base, alone = frame.tables["base_score"], "one_output" in frame.signature.flags
    n_outputs = frame.scalar("n_outputs")
    own = [variable(base[0]) for _ in rows] if alone else []
    kept = None if alone else opened(frame.signature.acc_dtype, None)

    def at(k: Expr, i: int) -> tuple[Any, Expr]:
        """Where the sum of output k for the i-th row of the thread is: neighbouring threads' are neighbours."""
        if alone:
            return own[i], const(0)
        return kept, (k * const(len(rows)) + const(i)) * const(frame.threads) + frame.thread

    def put(k: Expr, i: int, value: Callable[[Expr], Expr]) -> None:
        buffer, index = at(k, i)
        TB.buffer_store(buffer, value(buffer[index]), [index])

    def body(first: Expr, count: Expr) -> None:
        for i in range(len(rows)):
            each(n_outputs, alone, lambda k, i=i: put(k, i, lambda _: base[k]))  # type: ignore[misc]

        def sink(t: Expr, i: int, position: Expr) -> None:
            row = first + tirx.Cast("int64", tirx.min(rows[i], count - const(1)))
            each_value(frame, t, row, position, lambda k, value: put(k, i, lambda total: total + value))

        leaves(opened, sink)
        synchronise()  # the next block of rows overwrites V
        for i, r in enumerate(rows):
            with TB.If(r < count), TB.Then():
                row = register(first + tirx.Cast("int64", r))

                def write(k: Expr, i: int = i, row: Expr = row) -> None:
                    buffer, index = at(k, i)
                    store(frame, row, k, buffer[index])

                each(n_outputs, alone, write)

    return body
