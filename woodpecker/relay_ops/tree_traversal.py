"""tree_traversal: walk node tables, level by level without a branch.

    p = base[t]
    repeat depth[t] times:                          # leaves point at themselves, so a short path just waits
        column, left = unpack(link[p])              # a record of link and bound
        p = left + goes_right(V[column], bound[p])
    leaf = p

Children are neighbours, so a node holds one child number. Many walks are in flight at once, which hides their
latency: those of several rows in one tree, or of one row in several trees. They stop together, when no one moves any
more (see `woodpecker.schedules.cpu_strategies`). The idea of a branchless walk with self-looping leaves is
Hummingbird's ("TreeTraversal", Nakandala et al., OSDI 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import te, tirx

from ..forest import LEAF, node_depth, tree_of_node
from ..layout import Layout
from ..predicates import Canonical
from . import aggregate
from .options import IN_FLIGHT, MANY_TREES, MAX_TREES, Option, in_flight, too_many_walks, walks_space
from .predicate import Bind, Expr, bound_at, columns_ns, goes_right, goes_right_any, record, unbound

NAME = "tree_traversal"
OPTIONS = {
    "unroll": Option(2, 1, 16, "levels per iteration of the walk's loop"),
    **IN_FLIGHT,
}
TABLE_OPTIONS: tuple[str, ...] = ()

LEAF_NS = 1.3
"""Measured, see `leaves_ns`."""


def applicable(canonical: Canonical, options: Mapping[str, int]) -> str | None:
    """Every forest can be walked."""
    return too_many_walks(options)


def choose(canonical: Canonical, options: Mapping[str, int]) -> dict[str, int]:
    forest = canonical.forest
    return in_flight(options, forest.n_trees, len(canonical.columns), 8.0 * forest.n_nodes / max(forest.n_trees, 1))


def space(canonical: Canonical) -> dict[str, tuple[int, ...]]:
    return {"unroll": (1, 2, 3, 4, 6, 8), **walks_space(canonical.forest.n_trees)}


def cost(canonical: Canonical, rows: int, vectors: str) -> float:
    """Estimated ns per row: walks in flight overlap their latencies, so what counts is the number of steps."""
    walks = step_ns(canonical) * expected_steps(canonical) + leaves_ns(canonical, LEAF_NS)
    return walks * few_walks(canonical) + columns_ns(canonical, tiled=False)


def step_ns(canonical: Canonical) -> float:
    """Measured: ns of a step; far from the root, nodes of large trees lie in slower caches."""
    cold = 1.0 + min(canonical.forest.n_nodes / 800_000, 1.5)
    return (2.2 if canonical.has_categories else 0.6) * cold


def leaves_ns(canonical: Canonical, each: float) -> float:
    """Measured: ns of all trees beside their steps: ``each`` for the end of a walk, and more for a vector of values."""
    forest = canonical.forest
    return forest.n_trees * (each + (0.4 + 0.4 * forest.values.shape[1] if forest.vector_leaves else 0.0))


def few_walks(canonical: Canonical) -> float:
    """Measured: how much longer everything takes where fewer walks are in flight, which wait for each other."""
    return 1.0 if canonical.forest.n_trees >= MANY_TREES else 1.35


def expected_steps(canonical: Canonical) -> float:
    """Steps of a row through all trees, where the slowest of the walks in flight counts."""
    mean, deviation = canonical.leaf_depth
    # Of 16 walks with a long tail. They notice that all have ended a step or two late, and trees of even depth never.
    slowest = np.minimum(mean + 2.3 * deviation, canonical.depth) + np.where(deviation > 0.5, 1.5, 0.0)
    return float(slowest.sum())


def sibling_order(canonical: Canonical) -> tuple[np.ndarray, np.ndarray]:
    """(order, left): nodes so numbered that both children of a node are neighbours and each tree keeps its range.

    ``order[p]`` is the IR's node at new place p; ``left[p]`` the new place of its left child, or, at a leaf, its own.
    Pairs of children stand in the preorder of their parents that enters the busier child first (by training cover,
    else by size), so the usual way down a deep tree runs through neighbouring cache lines.
    """
    forest = canonical.forest
    base = forest.tree_offset[:-1][tree_of_node(forest)]
    inner = forest.kind != LEAF
    depth = node_depth(forest)
    levels = [np.flatnonzero((depth == d) & inner) for d in range(canonical.max_depth)]
    below = inner.astype(np.int64)  # inner nodes of each subtree
    for level in reversed(levels):
        below[level] += below[base[level] + forest.left[level]] + below[base[level] + forest.right[level]]
    weight = below if forest.cover is None else forest.cover
    rank = np.zeros(forest.n_nodes, np.int64)  # of inner nodes within their tree, in preorder
    place = np.zeros(forest.n_nodes, np.int64)
    left = place.copy()
    for level in levels:
        l, r = base[level] + forest.left[level], base[level] + forest.right[level]
        left[level] = 1 + 2 * rank[level]
        place[l], place[r] = left[level], left[level] + 1
        left_first = weight[l] >= weight[r]
        rank[l] = rank[level] + 1 + np.where(left_first, 0, below[r])
        rank[r] = rank[level] + 1 + np.where(left_first, below[l], 0)
    left = base + np.where(inner, left, place)
    order = np.empty(forest.n_nodes, np.int64)
    order[place + base] = np.arange(forest.n_nodes)
    return order, left[order]


def prepare(canonical: Canonical, options: Mapping[str, int]) -> tuple[Layout, np.ndarray]:
    """Node tables, in the order of `sibling_order`, which leaf tables follow: positions (N + 1,) are nodes."""
    forest, columns = canonical.forest, canonical.columns
    order, left = sibling_order(canonical)
    # One leaf more, for the trees that fill the last group.
    order, left = np.append(order, -1), np.append(left, forest.n_nodes)
    leaf = np.append(forest.kind, np.uint8(LEAF))[order] == LEAF
    column = np.where(leaf, len(columns), np.append(canonical.node_column, 0)[order]).astype(np.uint64)
    link_bits = forest.n_nodes.bit_length()
    narrow = link_bits + len(columns).bit_length() <= 32
    if not narrow:
        link_bits = 32
    link = (column << np.uint64(link_bits)) | left.astype(np.uint64)
    at = np.append(canonical.node_bound, -1)[order]
    numeric = at >= 0
    bound32 = np.append(columns.bound32, np.float32(0))[at]
    bound32 = np.where(numeric, bound32, np.float32(np.inf))
    padding = MAX_TREES - 1
    tables: dict[str, np.ndarray] = {
        "tree_base": np.append(forest.tree_offset[:-1], np.full(padding, forest.n_nodes)).astype(np.int32),
        "tree_depth": np.pad(canonical.depth, (0, padding)).astype(np.int32),
    }
    flags = set()
    if narrow:
        word = bound32.view(np.uint32)
        if forest.linear_offset is None:
            flags.add(aggregate.LEAF_IN_NODE)
            words, values = aggregate.leaf_records(forest, order)
            word = np.where(leaf, words, word)
            tables |= values
        tables["node"] = np.stack([link.astype(np.uint32), word], 1).reshape(-1)
    else:
        tables |= {"link": link, "bound32": bound32}
    if forest.input_dtype == "float64":
        bound64 = np.append(columns.bound64, 0.0)[at]
        tables["bound64"] = np.where(numeric, bound64, np.inf)
    if canonical.has_categories:
        tables["node_bitset"] = np.append(canonical.node_bitset, np.int32(-1))[order]
    return Layout({"link_bits": link_bits}, tables, {**options}, frozenset(flags)), order


def step(p: Expr, value_at: Any, tables: Mapping[str, Any], link_bits: Expr, bind: Bind = unbound) -> Expr:
    """One level: the position p (int64) of a node -> that of its child. ``value_at(column)`` reads a column value.

    A link of 32 bits and a float32 bound share a record of the table ``node``: one cache line instead of two.
    """
    link = bind(record(tables, p, 0) if "node" in tables else tables["link"][p])
    wide = str(link.ty.dtype)
    bits = tirx.Cast(wide, link_bits)
    column = tirx.Cast("int64", link >> bits)
    left = tirx.Cast("int64", link & ((tirx.const(1, wide) << bits) - tirx.const(1, wide)))
    value = bind(value_at(column))
    bound = bound_at(tables, p, value)
    if "node_bitset" in tables:
        right = goes_right_any(value, bound, tables["node_bitset"][p], tables["bitset"], bind)
    else:
        right = goes_right(value, bound)
    return left + tirx.Cast("int64", right)


def forward(V: te.Tensor, tables: Mapping[str, te.Tensor], canonical: Canonical, layout: Layout) -> te.Tensor:
    """TE graph: column values (C + 1, n) -> positions (n, T), a stage per level."""
    n, n_trees = V.shape[1], canonical.forest.n_trees
    base = tables["tree_base"]
    bits = tirx.const(layout.scalars["link_bits"], "int32")

    def below(p: te.Tensor, name: str) -> te.Tensor:
        def child(r: Expr, t: Expr) -> Expr:
            return step(p[r, t], lambda c: V[c, r], tables, bits)

        return te.compute((n, n_trees), child, name)

    p = te.compute((n, n_trees), lambda r, t: tirx.Cast("int64", base[t]), "root")
    for level in range(canonical.max_depth):
        p = below(p, f"level{level}")
    return te.compute((n, n_trees), lambda r, t: tirx.Cast("int32", p[r, t]), "position")
