"""perfect_tree_traversal on ranks: nodes of 32 bits, column values of 8 or 16.

    rank(x) = #{bounds of the column below x}       # a missing value has that of its fill; NaN the number of bounds
    x <= bound[k]  where and only where  rank(x) <= k

so a node is the place of its column in a row, and k. A row's columns stand in words of 32 bits, a word of each row of
the block after the other: threads of different rows read different banks, at whichever columns their nodes are. A tree
of depth 8 takes 1 KB and a row of 28 columns 28 bytes, half and a quarter of what bounds and values take: what matters
is how many lines of the cache a warp asks for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..forest import LEAF
from ..layout import Layout
from ..predicates import Canonical
from ..relay_ops import perfect_tree_traversal
from ..relay_ops.predicate import Expr
from .cuda_tir import Frame, register, variable
from .tir import const

RANKED = "ranked"
"""The flag of layouts with these tables."""
ALWAYS_LEFT = 2**16 - 1


def rank_bytes(canonical: Canonical, strategy: str, threads: int) -> int:
    """Bytes of a rank, or 0: this forest is not walked by ranks."""
    most = int(np.diff(canonical.columns.bound_offset).max(initial=0))
    if strategy != perfect_tree_traversal.NAME or canonical.has_categories:
        return 0
    if most >= ALWAYS_LEFT or len(canonical.columns) * threads > 2**16:
        return 0
    return 1 if most < 2**8 else 2


def with_ranks(canonical: Canonical, layout: Layout, nbytes: int, threads: int, walks: int) -> Layout:
    """A layout of `perfect_tree_traversal` with packed nodes instead of its own.

    Args:
        canonical: The forest.
        layout: Its tables; positions stay as they are.
        nbytes: From `rank_bytes`.
        threads: Rows of a block.
        walks: Trees that a thread walks together.
    """
    forest, columns = canonical.forest, canonical.columns
    inner, _ = perfect_tree_traversal.heap(canonical)
    column = np.maximum(canonical.node_column[inner], 0)
    k = canonical.node_bound[inner] - columns.bound_offset[column] if len(columns) else np.zeros_like(inner)
    together = 4 // nbytes
    place = column // together * (threads * together) + column % together
    leaf = forest.kind[inner] == LEAF
    node = np.where(leaf, ALWAYS_LEFT, place << 16 | k).astype(np.uint32)
    tables = {name: table for name, table in layout.tables.items() if name not in ("node", "bound64")}
    tables["packed"] = np.pad(node, ((0, 0), (1, 0))).reshape(-1)
    own = Layout(layout.scalars, tables, {**layout.constants, "walks": walks}, layout.flags)
    return own | ranks(canonical, nbytes, threads)


def ranks(canonical: Canonical, nbytes: int, pitch: int) -> Layout:
    """The tables of ranks.

    Args:
        canonical: The forest.
        nbytes: Bytes of a rank, 1 or 2.
        pitch: Rows whose ranks stand beside each other.
    """
    columns = canonical.columns
    tables = {
        "rank_from": columns.bound_offset.astype(np.int32),
        "rank_edge32": np.append(columns.bound32, np.float32(0)),
    }
    if canonical.forest.input_dtype == "float64":
        tables["rank_edge64"] = np.append(columns.bound64, 0.0)
    steps = int(np.diff(columns.bound_offset).max(initial=0)).bit_length()
    return Layout({"rank_steps": steps}, tables, {"rank_bytes": nbytes, "rank_pitch": pitch}, frozenset({RANKED}))


def row_bytes(n_columns: int, nbytes: int) -> int:
    """Bytes of the ranks of a row."""
    return -(-n_columns * nbytes // 4) * 4


def place(frame: Frame, column: Expr, row: Expr) -> Expr:
    """Where the rank of a column for a row of the block stands in V."""
    together = 4 // frame.signature.constant("rank_bytes")
    word = tirx.truncdiv(column, const(together)) * const(frame.signature.constant("rank_pitch")) + row
    return word * const(together) + tirx.truncmod(column, const(together))


def rank(frame: Frame, column: Expr, x: Expr) -> Expr:
    """The rank of a value of a numeric column in which missing ones are filled in."""
    tables = frame.tables
    start = register(tables["rank_from"][column])
    size = register(tables["rank_from"][column + const(1)] - start)
    found = below(frame, tables["rank_edge32" if frame.value_dtype == "float32" else "rank_edge64"], start, size, x)
    return tirx.Cast(dtype_of_ranks(frame), tirx.Select(tirx.isnan(x), size, found))


def below(frame: Frame, bound: object, start: Expr, size: Expr, x: Expr) -> Expr:
    """How many of ``size`` bounds from ``start`` on are below x: a binary search of the same steps for every row."""
    found, steps = variable(const(0)), frame.scalar("rank_steps")
    with TB.serial(0, steps) as i:
        further = register(found[0] + (const(1) << (steps - const(1) - i)))
        at = start + tirx.max(tirx.min(further, size) - const(1), const(0))
        less = tirx.And(further <= size, bound[at] < x)  # type: ignore[index]
        TB.buffer_store(found, tirx.Select(less, further, found[0]), [0])
    return found[0]


def dtype_of_ranks(frame: Frame) -> str:
    return "uint8" if frame.signature.constant("rank_bytes") == 1 else "uint16"


def dtype_of_values(frame: Frame) -> str:
    """The dtype of V."""
    return dtype_of_ranks(frame) if RANKED in frame.signature.flags else frame.value_dtype


def walk(frame: Frame, trees: Sequence[Expr], row: Expr) -> list[Expr]:
    """The leaf positions, int32, of a row of the block in these trees.

    i[..] = 1
    for each of `depth` levels, for each tree:
        node = packed[tree, i]
        i = 2 * i + (V[row, node >> 16] > (node & 65535))
    """
    depth, packed = frame.scalar("depth"), frame.tables["packed"]
    start = register(row * const(4 // frame.signature.constant("rank_bytes")))
    roots = [register(tirx.Cast("uint32", t << depth)) for t in trees]
    places = [variable(const(1, "uint32")) for _ in trees]
    with TB.serial(0, depth):
        for root, i in zip(roots, places, strict=True):
            at = register(i[0])
            node = register(packed[tirx.Cast("int64", root + at)])
            value = tirx.Cast("uint32", frame.V[tirx.Cast("int32", node >> const(16, "uint32")) + start])
            right = tirx.Select(value <= (node & const(ALWAYS_LEFT, "uint32")), const(0, "uint32"), const(1, "uint32"))
            TB.buffer_store(i, const(2, "uint32") * at + right, [0])
    return [
        register(perfect_tree_traversal.leaf_position(tirx.Cast("int32", i[0]), t, depth))
        for t, i in zip(trees, places, strict=True)
    ]
