"""bitslice on a GPU: a block of rows, a bit each; every distinct test once, a thread a tree, then a thread a row.

    for block of R rows:
        V = ranks of its columns; M = masks of all tests            # cuda_columns, cuda_masks
        for group of trees, as many as threads:
            tree t = thread:                                        # for a word of 64 or 32 rows after the other
                N[word, .., t] = leaf numbers                       # cuda_circuits
            row r = thread:
                for t in the group:     acc[output[t]] += value[t, N[row, t]]
        out[block] = acc / divisor

A row's sum is that of one thread, in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..forest import LEAF
from ..layout import Layout
from ..predicates import Canonical
from ..relay_ops import aggregate, bitslice, predicate
from ..relay_ops.options import Option
from ..relay_ops.perfect_tree_traversal import heap
from ..relay_ops.predicate import Expr
from ..runtime.cuda import Launch
from ..runtime.format import round_up
from . import cuda_blocks, cuda_circuits, cuda_cost, cuda_masks, cuda_ranks
from .cuda_blocks import blocks, fill
from .cuda_circuits import BYTES
from .cuda_masks import WARP
from .cuda_sums import each, each_value, store
from .cuda_tir import Frame, register, synchronise, variable
from .tir import const

NAME = bitslice.NAME
FEW = None
MAX_DEPTH = 8
"""Leaf numbers are bytes."""
MAX_LEAVES = 2**24
MAX_ROWS = 256
OPTIONS = {
    "cuda_words": Option(0, 0, MAX_ROWS // WARP, "words of 32 rows of a block, a power of two; 0: by the forest"),
    "cuda_threads": Option(0, 0, 512, "threads of a block, one, two or four for each row; 0: by the forest"),
}
ROWS, THREADS = (32, 64, 128), (128, 256)
"""Of a block, among which the estimate chooses."""
TOGETHER = 4
"""Trees whose leaf values a row loads before it adds them: loads that wait for each other would take their latency."""
NODE, SUBTREE, NUMBERS, ADD = 6.4, 24.0, 130.0, 5.4
"""Instructions, counted in the code for sm_90: of a warp for a node, a subtree of those in a loop, and the bytes of a
leaf number, all for 64 rows; and for a tree's value."""
RUN_MASKS, PLANES, SET = 200.0, 80.0, 30.0
"""Likewise for the masks of a run of bounds and 64 rows; for a column's planes, and a category set, and 32 rows."""
CONFLICTS = 3.1
"""Wavefronts of 16 lanes that read 8 bytes each, or of 32 that read 4, anywhere in shared memory: the fullest bank."""
WARPS = 16
"""Of a multiprocessor, which hide latencies; with fewer, time is what is left of them. A guess."""


def space(canonical: Canonical) -> dict[str, tuple[int, ...]]:
    default = {name: option.default for name, option in OPTIONS.items()}
    tried = {"cuda_words": (1, 2, 4, 8), "cuda_threads": (64, 128, 256)}
    return {
        name: tuple(value for value in values if refusal(canonical, {**default, name: value}) is None)
        for name, values in tried.items()
    }


def wrong_options(options: Mapping[str, int]) -> str | None:
    words, threads = options["cuda_words"], options["cuda_threads"]
    if words & (words - 1):
        return f"option cuda_words must be 0 or a power of two, found {words}"
    if threads and (threads < WARP or threads & (threads - 1)):
        return f"option cuda_threads must be 0 or a power of two from {WARP} to 512, found {threads}"
    if words and threads and not 1 <= threads // (WARP * words) <= 4:
        return f"option cuda_threads must be {WARP * words}, {2 * WARP * words} or {4 * WARP * words}, found {threads}"
    return None


def refusal(canonical: Canonical, options: Mapping[str, int]) -> str | None:
    depth = canonical.max_depth
    if not 0 < depth <= MAX_DEPTH:
        return f"trees of depth {depth}; on a GPU it is for 1 to {MAX_DEPTH}"
    if (padded := canonical.forest.n_trees << depth) > MAX_LEAVES:
        return f"its padded trees have {padded:,} leaves; the limit is {MAX_LEAVES:,}"
    if not cuda_masks.rank_bytes(canonical):
        return f"a column has {cuda_masks.MAX_RANKS:,} ranks or more"
    if _shape(canonical, options) is None:
        rows = WARP * max(options["cuda_words"], 1)
        return (
            f"what a block keeps for {rows} rows, such as the masks of {canonical.n_predicates:,} distinct tests, "
            f"takes more than {cuda_blocks.OPT_IN_BYTES:,} bytes of shared memory"
        )
    return None


def _places(canonical: Canonical, rows: int, threads: int) -> dict[str, int]:
    """Where a block keeps what, in bytes: sums, masks, and in one place first ranks and planes, then leaf numbers."""
    forest, columns = canonical.forest, canonical.columns
    alone = forest.n_outputs == 1 and not forest.vector_leaves
    sums = 0 if alone else round_up(forest.n_outputs * rows * forest.values.itemsize)
    masks = round_up(cuda_masks.rows_of(canonical) * rows // 8)
    ranks = round_up(cuda_ranks.row_bytes(len(columns), cuda_masks.rank_bytes(canonical)) * rows)
    planes = round_up(int(cuda_masks.planes_of(canonical)[-1]) * rows // 8)
    return {
        "masks_offset": sums,
        "values_offset": sums + masks,
        "planes_offset": sums + masks + ranks,
        "block_bytes": sums + masks + max(ranks + planes, round_up(rows // BYTES * (threads + 1) * BYTES)),
    }


@dataclass(frozen=True)
class _Shape:
    """Rows and threads of a block, and where it keeps what."""

    rows: int
    threads: int
    places: Mapping[str, int]


def _shape(canonical: Canonical, options: Mapping[str, int]) -> _Shape | None:
    """The shape of the lowest estimate among those that fit and that the options allow; None: none fits."""
    words, threads = options["cuda_words"], options["cuda_threads"]
    fitting = []
    for rows in [WARP * words] if words else ROWS:
        for chosen in [threads] if threads else {max(rows, min(n, 4 * rows)) for n in THREADS}:
            if not 1 <= chosen // rows <= 4:
                continue
            places = _places(canonical, rows, chosen)
            if places["block_bytes"] <= cuda_blocks.OPT_IN_BYTES:
                fitting.append(_Shape(rows, chosen, places))
    return min(fitting, key=lambda shape: (_cycles(canonical, shape), -shape.rows), default=None)


def lay_out(canonical: Canonical, options: Mapping[str, int]) -> Layout:
    """All tables, and the places of a block."""
    shape = _shape(canonical, options)
    assert shape is not None  # see `refusal`
    rows, threads = shape.rows, shape.threads
    forest, depth = canonical.forest, canonical.max_depth
    node, leaves = heap(canonical)
    row = np.where(forest.kind[node] == LEAF, 0, cuda_masks.numbers(canonical)[node])
    circuits = cuda_circuits.prepare(row, depth)
    shared = predicate.prepare(canonical)
    # A mask is 1 where a row goes left, so that the leftmost leaf has the highest number.
    leaves = np.pad(leaves[:, ::-1], ((0, -forest.n_trees % TOGETHER), (0, 0)), constant_values=-1)
    leaf_tables = aggregate.prepare(canonical, leaves.reshape(-1), shared.flags)
    word_bits = min(64, rows)
    constants = {"rows": rows, "threads": threads, "bits": depth, "word_bits": word_bits}
    # Not in the code, because NVRTC would unroll the loop over them.
    scalars = {**shape.places, "n_words": rows // word_bits}
    own = Layout(scalars, {}, constants, frozenset())
    ranks = cuda_ranks.ranks(canonical, cuda_masks.rank_bytes(canonical), rows)
    return shared | leaf_tables | cuda_masks.prepare(canonical) | circuits | ranks | own


def launch(layout: Layout, kind: str) -> Launch:
    return Launch(layout.constants["threads"], layout.constants["rows"], layout.scalars["block_bytes"], 0)


def emit(frame: Frame, kind: str) -> None:
    signature, tables = frame.signature, frame.tables
    rows, threads, word = (signature.constant(name) for name in ("rows", "threads", "word_bits"))
    frame.pitch = rows
    opened = cuda_blocks.memory(frame, "block_bytes", in_scratch=False)
    frame.V = opened(cuda_ranks.dtype_of_ranks(frame), "values_offset")
    M, M32 = opened(f"uint{word}", "masks_offset"), opened("uint32", "masks_offset")
    P, P32 = opened(f"uint{word}", "planes_offset"), opened("uint32", "planes_offset")
    N, N8 = opened("uint32", "values_offset"), opened("uint8", "values_offset")
    alone, n_outputs = "one_output" in signature.flags, frame.scalar("n_outputs")
    sums: Any = None
    if kind == "raw":
        sums = variable(tables["base_score"][0]) if alone else opened(signature.acc_dtype, None)
    warp = register(frame.thread >> const(5))
    mine = frame.thread < const(rows) if threads > rows else tirx.const(True, "bool")

    def place(k: Expr) -> Expr:
        return const(0) if alone else k * const(rows) + frame.thread

    def block(first: Expr, count: Expr) -> None:
        fill(frame, first, count)
        cuda_masks.planes(frame, P32)
        synchronise()
        cuda_masks.masks(frame, P, M, M32)
        row = register(first + tirx.Cast("int64", tirx.min(frame.thread, count - const(1))))
        if kind == "raw":
            with TB.If(mine), TB.Then():
                each(n_outputs, alone, lambda k: TB.buffer_store(sums, tables["base_score"][k], [place(k)]))
        n_trees = frame.scalar("n_trees")
        with TB.serial(0, tirx.truncdiv(n_trees + const(threads - 1), const(threads))) as group:
            start = register(group * const(threads))
            synchronise()  # masks are there; ranks and planes, or the numbers of the group before, have been read
            # Whole warps: the table is padded to such.
            with TB.If(start + warp * const(WARP) < n_trees), TB.Then(), TB.serial(0, frame.scalar("n_words")) as w:
                cuda_circuits.leaf_numbers(frame, start, w, M, N)
            synchronise()
            with TB.If(mine), TB.Then():
                _row(frame, kind, row, frame.thread < count, start, N8, sums, place)
        synchronise()  # the next block of rows overwrites all
        if kind == "raw":
            with TB.If(frame.thread < count), TB.Then():
                each(n_outputs, alone, lambda k: store(frame, row, k, sums[place(k)]))

    blocks(frame, rows, block)


def _row(frame: Frame, kind: str, row: Expr, inside: Expr, start: Expr, N8: Any, sums: Any, place: Any) -> None:
    """Add, or store the ids of, the leaves of row ``row`` of X in the trees from ``start`` on."""
    signature, tables, thread = frame.signature, frame.tables, frame.thread
    bits, trees = signature.constant("bits"), frame.threads
    word = (thread >> const(5)) * const(8) + (thread & const(7))
    at = register(word * const((trees + 1) * BYTES) + ((thread >> const(3)) & const(3)))
    n_trees = frame.scalar("n_trees")
    out = register(row * frame.parameters.out_stride)

    def add(k: Expr, value: Expr) -> None:
        TB.buffer_store(sums, sums[place(k)] + value, [place(k)])

    count = tirx.min(const(trees), n_trees - start)
    with TB.serial(0, tirx.truncdiv(count + const(TOGETHER - 1), const(TOGETHER))) as some:
        own = register(some * const(TOGETHER))
        trees_here = [start + own + const(i) for i in range(TOGETHER)]
        # The last group's padding has numbers too: a warp computes them for 32 trees.
        leaves = [tirx.Cast("int32", N8[at + (own + const(i)) * const(BYTES)]) for i in range(TOGETHER)]
        positions = [register((t << const(bits)) + leaf) for t, leaf in zip(trees_here, leaves, strict=True)]
        if kind == "apply":
            for t, position in zip(trees_here, positions, strict=True):
                with TB.If(tirx.And(inside, t < n_trees)), TB.Then():
                    TB.buffer_store(frame.parameters.out, tables["leaf_id"][position], [out + tirx.Cast("int64", t)])
        elif {"vector", "linear"} & signature.flags:
            for t, position in zip(trees_here, positions, strict=True):
                with TB.If(t < n_trees), TB.Then():
                    each_value(frame, t, row, position, add)
        else:  # the -0.0 of padding changes no sum
            values = [register(aggregate.value_at(tables, position)) for position in positions]
            for t, value in zip(trees_here, values, strict=True):
                add(const(0) if "one_output" in signature.flags else register(tables["tree_output"][t]), value)


def cycles(canonical: Canonical, options: Mapping[str, int]) -> float:
    """As `cuda_cost` says, for sm_90; without column values, which a walk by ranks fills alike."""
    shape = _shape(canonical, options)
    assert shape is not None  # see `refusal`
    return _cycles(canonical, shape)


def _cycles(canonical: Canonical, shape: _Shape) -> float:
    rows, threads = shape.rows, shape.threads
    forest, columns, depth = canonical.forest, canonical.columns, canonical.max_depth
    runs, bits = cuda_masks.runs_of(canonical), min(64, rows)
    at_once = float(WARP * bits)
    subtrees = 2 ** max(depth - cuda_circuits.UNROLLED, 0)
    nodes, value = 2.0**depth, forest.values.itemsize * (forest.n_outputs if forest.vector_leaves else 1)
    adds = ADD * (1.0 if forest.n_outputs == 1 else 2.0 * (forest.n_outputs if forest.vector_leaves else 1))
    issued = forest.n_trees * ((NODE * nodes + SUBTREE * subtrees + NUMBERS) / at_once + adds / WARP)
    issued += RUN_MASKS * len(runs.column) / at_once
    issued += (PLANES * columns.n_numeric + SET * (cuda_masks.rows_of(canonical) - len(runs.row))) / WARP
    leaf = float(cuda_cost.lines(np.array([nodes * value]))[0])
    waves = forest.n_trees * ((CONFLICTS * bits / 32 + 0.5) * nodes / at_once + (1.0 + leaf) / WARP)
    waves += 2.0 * cuda_masks.rows_of(canonical) / at_once
    blocks = cuda_cost.SHARED_BYTES // (shape.places["block_bytes"] + 1024)
    return max(issued / cuda_cost.ISSUED, waves) * max(1.0, WARPS / (blocks * threads / WARP))
