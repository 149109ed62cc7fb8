"""perfect_tree_traversal: every tree padded to a perfect one, so that children need no tables.

    i = 0
    repeat depth times:
        i = 2 * i + 1 + goes_right(V[column[t, i]], bound[t, i])
    leaf = t * 2**depth + i - (2**depth - 1)

A leaf above the last level becomes a subtree whose tests always go left. Hummingbird's "PerfectTreeTraversal"
(Nakandala et al., OSDI 2020); the heap layout is Mockingjay's as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import te, tirx

from ..forest import LEAF
from ..layout import Layout
from ..predicates import Canonical
from .options import Option
from .predicate import COLUMN_NS, Bind, Expr, goes_right, goes_right_any, unbound

NAME = "perfect_tree_traversal"
OPTIONS = {"interleave": Option(8, 1, 32, "rows that walk one tree together")}

MAX_DEPTH = 20
MAX_BYTES = 2**28


def applicable(canonical: Canonical, options: Mapping[str, int]) -> str | None:
    depth, n_trees = canonical.max_depth, canonical.forest.n_trees
    if depth > MAX_DEPTH:
        return f"a tree of depth {depth} would be padded to 2**{depth} leaves; the limit is depth {MAX_DEPTH}"
    need = n_trees * 2**depth * (12 + (8 if canonical.forest.input_dtype == "float64" else 0) + 8)
    if need > MAX_BYTES:
        return f"{n_trees} trees padded to depth {depth} need {need / 2**30:.1f} GiB; the limit is 0.25 GiB"
    return None


def cost(canonical: Canonical, rows: int) -> float:
    """Estimated ns per row; a step is cheaper than a table walk's, until padding leaves the cache."""
    padded = canonical.forest.n_trees * 2.0**canonical.max_depth
    cold = max(1.0, padded / 300_000)
    steps = canonical.forest.n_trees * (canonical.max_depth + 1.0)
    step_ns = 1.5 if canonical.has_categories else 0.76
    return step_ns * steps * cold * (2.0 if rows < 8 else 1.0) + COLUMN_NS * len(canonical.columns)


def _heap(canonical: Canonical) -> tuple[np.ndarray, np.ndarray]:
    """(inner, leaves): the IR node at each heap place, (T, 2**D - 1) and (T, 2**D). A node below a leaf is the leaf."""
    forest, depth = canonical.forest, canonical.max_depth
    base = forest.tree_offset[:-1][:, None]
    level = base.copy()
    inner = np.empty((forest.n_trees, 2**depth - 1), np.int64)
    for d in range(depth):
        inner[:, 2**d - 1 : 2 ** (d + 1) - 1] = level
        leaf = forest.kind[level] == LEAF
        left = np.where(leaf, level, base + forest.left[level])
        right = np.where(leaf, level, base + forest.right[level])
        level = np.stack([left, right], 2).reshape(forest.n_trees, -1)
    return inner, level


def prepare(canonical: Canonical, options: Mapping[str, int]) -> Layout:
    """Heap tables."""
    forest, columns = canonical.forest, canonical.columns
    node = _heap(canonical)[0]
    bound_index = canonical.node_bound[node]
    numeric = bound_index >= 0
    column = np.where(forest.kind[node] == LEAF, len(columns), canonical.node_column[node])
    bound32 = np.append(columns.bound32, np.float32(np.inf))[np.where(numeric, bound_index, -1)]
    tables: dict[str, np.ndarray] = {
        "heap_column": column.astype(np.uint16 if len(columns) < 2**16 else np.int32),
        "bound32": bound32,
    }
    if forest.input_dtype == "float64":
        tables["bound64"] = np.append(columns.bound64, np.inf)[np.where(numeric, bound_index, -1)]
    if canonical.has_categories:
        tables["node_bitset"] = canonical.node_bitset[node]
    flat = {name: np.ascontiguousarray(table.reshape(-1)) for name, table in tables.items()}
    return Layout({}, flat, {**options, "depth": canonical.max_depth}, frozenset())


def positions(canonical: Canonical, layout: Layout) -> np.ndarray:
    """(T * 2**D,) int64: the IR's leaf at each position."""
    return _heap(canonical)[1].reshape(-1)


def step(i: Expr, heap: Expr, value_at: Any, tables: Mapping[str, Any], bind: Bind = unbound) -> Expr:
    """One level: heap place i (int32) -> that of the child. ``heap`` is where the tree's heap starts."""
    p = heap + i
    value, bound = value_at(tirx.Cast("int32", tables["heap_column"][p])), tables["bound"][p]
    if "node_bitset" in tables:
        right = goes_right_any(value, bound, tables["node_bitset"][p], tables["bitset"], bind)
    else:
        right = goes_right(value, bound)
    return tirx.const(2, "int32") * i + tirx.const(1, "int32") + right


def leaf_position(i: Expr, t: Expr, depth: int) -> Expr:
    """The position of the leaf at heap place i below the last level."""
    return t * tirx.const(2**depth, "int32") + i - tirx.const(2**depth - 1, "int32")


def forward(V: te.Tensor, tables: Mapping[str, te.Tensor], canonical: Canonical, layout: Layout) -> te.Tensor:
    """TE graph: column values (C + 1, n) -> positions (n, T), a stage per level."""
    n, n_trees, depth = V.shape[1], canonical.forest.n_trees, layout.constants["depth"]
    size = tirx.const(2**depth - 1, "int32")

    def below(i: te.Tensor, name: str) -> te.Tensor:
        def child(r: Expr, t: Expr) -> Expr:
            return step(i[r, t], t * size, lambda c: V[c, r], tables)

        return te.compute((n, n_trees), child, name)

    i = te.compute((n, n_trees), lambda r, t: tirx.const(0, "int32"), "root")
    for level in range(depth):
        i = below(i, f"level{level}")
    return te.compute((n, n_trees), lambda r, t: leaf_position(i[r, t], t, depth), "position")
