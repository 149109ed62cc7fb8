"""perfect_tree_traversal: every tree padded to a perfect one, so that children need no tables.

    i = 1
    repeat depth times:
        column, bound = node[t, i - 1]
        i = 2 * i + goes_right(V[column], bound)
    leaf = t * 2**depth + i - 2**depth

A leaf above the last level becomes a subtree whose tests always go left. Nodes at one place of the heaps of as many
trees as are walked together are neighbours: the first levels of all these walks share cache lines. Hummingbird's
"PerfectTreeTraversal" (Nakandala et al., OSDI 2020); the heap layout is Mockingjay's as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import te, tirx

from ..forest import LEAF
from ..layout import Layout
from ..predicates import Canonical
from . import tree_traversal
from .options import IN_FLIGHT, in_flight, too_many_walks, walks_space
from .predicate import Bind, Expr, bound_at, columns_ns, goes_right, goes_right_any, record, unbound

NAME = "perfect_tree_traversal"
OPTIONS = IN_FLIGHT
TABLE_OPTIONS: tuple[str, ...] = ("trees",)

MAX_DEPTH = 20
MAX_BYTES = 2**28
LEAF_NS = 0.5
"""Measured, see `tree_traversal.leaves_ns`."""


def applicable(canonical: Canonical, options: Mapping[str, int]) -> str | None:
    depth, n_trees = canonical.max_depth, canonical.forest.n_trees
    if refusal := too_many_walks(options):
        return refusal
    if depth > MAX_DEPTH:
        return f"a tree of depth {depth} would be padded to 2**{depth} leaves; the limit is depth {MAX_DEPTH}"
    padded = n_trees + -n_trees % (options.get("trees") or 1)
    need = padded * 2**depth * (12 + (8 if canonical.forest.input_dtype == "float64" else 0) + 8)
    if need > MAX_BYTES:
        return f"{n_trees} trees padded to depth {depth} need {need / 2**30:.1f} GiB; the limit is 0.25 GiB"
    return None


def choose(canonical: Canonical, options: Mapping[str, int]) -> dict[str, int]:
    # The first levels of trees that are walked together share cache lines: the more, the better.
    return in_flight(options, canonical.forest.n_trees, len(canonical.columns), 0.0)


def space(canonical: Canonical) -> dict[str, tuple[int, ...]]:
    return walks_space(canonical.forest.n_trees)


def cost(canonical: Canonical, rows: int, vectors: str) -> float:
    """Estimated ns per row; a step is cheaper than a table walk's, until padding leaves the cache."""
    padded = canonical.forest.n_trees * 2.0**canonical.max_depth
    cold = 1.0 + padded / 400_000
    steps = canonical.forest.n_trees * float(canonical.max_depth)
    step_ns = 2.2 if canonical.has_categories else 0.6
    walks = step_ns * steps * cold + tree_traversal.leaves_ns(canonical, LEAF_NS)
    return walks * tree_traversal.few_walks(canonical) + columns_ns(canonical, tiled=False)


def heap(canonical: Canonical) -> tuple[np.ndarray, np.ndarray]:
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


def _together(table: np.ndarray, trees: int) -> np.ndarray:
    """(T, places) -> (groups of trees, places, trees), flat; the last group is filled with its last tree."""
    table = np.pad(table, ((0, -len(table) % trees), (0, 0)), "edge")
    table = table.reshape(len(table) // trees, trees, table.shape[1])
    return np.ascontiguousarray(table.transpose(0, 2, 1)).reshape(-1)


def prepare(canonical: Canonical, options: Mapping[str, int]) -> tuple[Layout, np.ndarray]:
    """Heap tables; positions (T, padded to whole groups, times 2**D)."""
    forest, columns, trees = canonical.forest, canonical.columns, options["trees"]
    inner, leaves = heap(canonical)
    node = _together(inner, trees)
    column = np.where(forest.kind[node] == LEAF, len(columns), canonical.node_column[node]).astype(np.uint32)
    bound = canonical.node_bound[node]  # -1 takes the one that is appended
    bound32 = np.append(columns.bound32, np.float32(np.inf))[bound]
    tables: dict[str, np.ndarray] = {"node": np.stack([column, bound32.view(np.uint32)], 1).reshape(-1)}
    if forest.input_dtype == "float64":
        tables["bound64"] = np.append(columns.bound64, np.inf)[bound]
    if canonical.has_categories:
        tables["node_bitset"] = canonical.node_bitset[node]
    positions = np.pad(leaves, ((0, -len(leaves) % trees), (0, 0)), constant_values=-1).reshape(-1)
    return Layout({"depth": canonical.max_depth}, tables, {**options}, frozenset()), positions


def step(i: Expr, heap: Expr, trees: int, value_at: Any, tables: Mapping[str, Any], bind: Bind = unbound) -> Expr:
    """One level: heap place i (int64, 1 at the root) -> that of the child. ``heap`` is where place 1 of the tree lies
    in tables of ``trees`` trees a group."""
    p = heap + (i - tirx.const(1, "int64")) * tirx.const(trees, "int64")
    return tirx.const(2, "int64") * i + tirx.Cast("int64", test(p, value_at, tables, bind))


def test(p: Expr, value_at: Any, tables: Mapping[str, Any], bind: Bind) -> Expr:
    """1 where the node at p (int64) sends a row right, else 0, int32."""
    value = bind(value_at(tirx.Cast("int64", record(tables, p, 0))))
    bound = bound_at(tables, p, value)
    if "node_bitset" in tables:
        return goes_right_any(value, bound, tables["node_bitset"][p], tables["bitset"], bind)
    return goes_right(value, bound)


def leaf_position(i: Expr, t: Expr, depth: Expr) -> Expr:
    """The position of the leaf at heap place i below the last level."""
    return i + ((t - tirx.const(1, "int32")) << depth)


def forward(V: te.Tensor, tables: Mapping[str, te.Tensor], canonical: Canonical, layout: Layout) -> te.Tensor:
    """TE graph: column values (C + 1, n) -> positions (n, T), a stage per level."""
    n, n_trees, trees = V.shape[1], canonical.forest.n_trees, layout.constants["trees"]
    depth = canonical.max_depth
    group, within = tirx.const(trees * (2**depth - 1), "int32"), tirx.const(trees, "int32")

    def below(i: te.Tensor, name: str) -> te.Tensor:
        def child(r: Expr, t: Expr) -> Expr:
            heap = tirx.Cast("int64", tirx.truncdiv(t, within) * group + tirx.truncmod(t, within))
            return step(i[r, t], heap, trees, lambda c: V[c, r], tables)

        return te.compute((n, n_trees), child, name)

    i = te.compute((n, n_trees), lambda r, t: tirx.const(1, "int64"), "root")
    for level in range(depth):
        i = below(i, f"level{level}")
    last = tirx.const(depth, "int32")
    return te.compute((n, n_trees), lambda r, t: leaf_position(tirx.Cast("int32", i[r, t]), t, last), "position")
