"""tree_traversal: walk node tables, a fixed number of steps per tree.

    p = base[t]
    repeat depth[t] times:                          # leaves point at themselves, so a short path just waits
        column, left = unpack(link[p])                  # a record of link and bound
        p = base[t] + left + goes_right(V[column], bound[p])
    leaf = p

Children are neighbours, so a node holds one child number; rows are interleaved for instruction-level parallelism (see
`woodpecker.schedules.cpu`). The idea of a branchless walk with self-looping leaves is QuickScorer's and Hummingbird's
("TreeTraversal", Nakandala et al., OSDI 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import te, tirx

from ..forest import LEAF, node_depth, tree_of_node
from ..layout import Layout
from ..predicates import Canonical
from .options import Option
from .predicate import COLUMN_NS, Bind, Expr, goes_right, goes_right_any, unbound

NAME = "tree_traversal"
OPTIONS = {
    "unroll": Option(1, 1, 16, "levels per iteration of the walk's loop"),
    "interleave": Option(8, 1, 32, "rows that walk one tree together"),
}


def applicable(canonical: Canonical, options: Mapping[str, int]) -> str | None:
    """None: every forest can be walked."""
    return None


def cost(canonical: Canonical, rows: int) -> float:
    """Estimated ns per row: a step is a dependent chain of loads, which interleaved rows overlap."""
    steps = float(canonical.depth.sum()) + len(canonical.depth)
    cold = 1.0 if canonical.forest.n_nodes < 200_000 else 1.6
    step_ns = 1.6 if canonical.has_categories else 0.8
    return step_ns * steps * cold * (2.0 if rows < 8 else 1.0) + COLUMN_NS * len(canonical.columns)


def sibling_order(canonical: Canonical) -> tuple[np.ndarray, np.ndarray]:
    """(order, left): nodes so numbered that both children of a node are neighbours and each tree keeps its range.

    ``order[p]`` is the IR's node at new place p; ``left[p]`` the place of its left child within the tree, or, at a
    leaf, its own. Pairs of children stand in the preorder of their parents that enters the busier child first (by
    training cover, else by size), so the usual way down a deep tree runs through neighbouring cache lines.
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
    left = np.where(inner, left, place)
    order = np.empty(forest.n_nodes, np.int64)
    order[place + base] = np.arange(forest.n_nodes)
    return order, left[order]


def prepare(canonical: Canonical, options: Mapping[str, int]) -> Layout:
    """Node tables, in the order of `sibling_order`."""
    forest, columns = canonical.forest, canonical.columns
    order, left = sibling_order(canonical)
    leaf = forest.kind[order] == LEAF
    column = np.where(leaf, len(columns), canonical.node_column[order]).astype(np.uint64)
    size = int(np.diff(forest.tree_offset).max(initial=1))
    link_bits = (size - 1).bit_length()
    narrow = link_bits + len(columns).bit_length() <= 32
    if not narrow:
        link_bits = 32
    link = (column << np.uint64(link_bits)) | left.astype(np.uint64)
    at = np.where(canonical.node_bound[order] < 0, 0, canonical.node_bound[order])
    numeric = canonical.node_bound[order] >= 0
    bound32 = np.append(columns.bound32, np.float32(0))[at]
    bound32 = np.where(numeric, bound32, np.float32(np.inf))
    tables: dict[str, np.ndarray] = {
        "tree_base": forest.tree_offset[:-1].astype(np.int32),
        "tree_depth": canonical.depth.astype(np.int32),
    }
    if narrow:
        tables["node"] = np.stack([link.astype(np.uint32), bound32.view(np.uint32)], 1).reshape(-1)
    else:
        tables |= {"link": link, "bound32": bound32}
    if forest.input_dtype == "float64":
        bound64 = np.append(columns.bound64, 0.0)[at]
        tables["bound64"] = np.where(numeric, bound64, np.inf)
    if canonical.has_categories:
        tables["node_bitset"] = canonical.node_bitset[order]
    return Layout({"link_bits": link_bits}, tables, {**options}, frozenset())


def positions(canonical: Canonical, layout: Layout) -> np.ndarray:
    """(N,) int64: for each position of the tables, the IR's node there; -1: none. Leaf tables follow it."""
    return sibling_order(canonical)[0]


def step(p: Expr, base: Expr, value_at: Any, tables: Mapping[str, Any], link_bits: Expr, bind: Bind = unbound) -> Expr:
    """One level: the position p (int32) of a node -> that of its child. ``value_at(column)`` reads a column value.

    A link of 32 bits and a float32 bound share a record of the table ``node``: one cache line instead of two.
    """
    two = tirx.const(2, "int32")
    link = bind(tables["node"][p * two] if "node" in tables else tables["link"][p])
    wide = str(link.ty.dtype)
    bits = tirx.Cast(wide, link_bits)
    column = tirx.Cast("int32", link >> bits)
    left = tirx.Cast("int32", link & ((tirx.const(1, wide) << bits) - tirx.const(1, wide)))
    value = bind(value_at(column))
    if "node" in tables and str(value.ty.dtype) == "float32":
        bound = tirx.reinterpret("float32", unbound(tables["node"][p * two + tirx.const(1, "int32")]))
    else:
        bound = tables["bound"][p]
    if "node_bitset" in tables:
        return base + left + goes_right_any(value, bound, tables["node_bitset"][p], tables["bitset"], bind)
    return base + left + goes_right(value, bound)


def forward(V: te.Tensor, tables: Mapping[str, te.Tensor], canonical: Canonical, layout: Layout) -> te.Tensor:
    """TE graph: column values (C + 1, n) -> positions (n, T), a stage per level."""
    n, n_trees = V.shape[1], canonical.forest.n_trees
    base = tables["tree_base"]
    bits = tirx.const(layout.scalars["link_bits"], "int32")

    def below(p: te.Tensor, name: str) -> te.Tensor:
        def child(r: Expr, t: Expr) -> Expr:
            return step(p[r, t], base[t], lambda c: V[c, r], tables, bits)

        return te.compute((n, n_trees), child, name)

    p = te.compute((n, n_trees), lambda r, t: base[t], "root")
    for level in range(canonical.max_depth):
        p = below(p, f"level{level}")
    return p
