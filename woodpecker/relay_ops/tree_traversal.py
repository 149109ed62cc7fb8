"""tree_traversal: walk node tables, a fixed number of steps per tree.

    p = base[t]
    repeat depth[t] times:                          # leaves point at themselves, so a short path just waits
        column, left = unpack(link[p])
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

from ..forest import LEAF, tree_of_node
from ..layout import Layout
from ..predicates import Canonical
from .options import Option
from .predicate import Bind, Expr, goes_right, goes_right_any, unbound

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
    return 0.6 * steps * cold * (2.0 if rows < 8 else 1.0)


def sibling_order(canonical: Canonical) -> tuple[np.ndarray, np.ndarray]:
    """(order, left): nodes so numbered that both children of a node are neighbours and each tree keeps its range.

    ``order[p]`` is the IR's node at new place p; ``left[p]`` the place of its left child within the tree, or, at a
    leaf, its own. Levels of all trees advance together.
    """
    forest = canonical.forest
    tree = tree_of_node(forest)
    base = forest.tree_offset[:-1]
    place = np.empty(forest.n_nodes, np.int64)
    left = np.empty(forest.n_nodes, np.int64)
    cursor = np.ones(forest.n_trees, np.int64)
    level = base.copy()
    place[level] = 0
    while len(level):
        is_leaf = forest.kind[level] == LEAF
        left[level[is_leaf]] = place[level[is_leaf]]
        inner = level[~is_leaf]
        owner = tree[inner]
        counts = np.bincount(owner, minlength=forest.n_trees)
        within = np.arange(len(inner)) - np.repeat(np.cumsum(counts) - counts, counts)
        first = cursor[owner] + 2 * within
        left[inner] = first
        children = base[owner][:, None] + np.stack([forest.left[inner], forest.right[inner]], 1)
        place[children] = first[:, None] + np.arange(2)
        cursor += 2 * counts
        level = children.reshape(-1)
    place += base[tree]
    order = np.empty(forest.n_nodes, np.int64)
    order[place] = np.arange(forest.n_nodes)
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
    tables: dict[str, np.ndarray] = {
        "tree_base": forest.tree_offset[:-1].astype(np.int32),
        "tree_depth": canonical.depth.astype(np.int32),
        "link": link.astype(np.uint32 if narrow else np.uint64),
        "bound32": np.where(numeric, bound32, np.float32(np.inf)),
    }
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
    """One level: the position p (int32) of a node -> that of its child. ``value_at(column)`` reads a column value."""
    link = bind(tables["link"][p])
    wide = str(link.ty.dtype)
    bits = tirx.Cast(wide, link_bits)
    column = tirx.Cast("int32", link >> bits)
    left = tirx.Cast("int32", link & ((tirx.const(1, wide) << bits) - tirx.const(1, wide)))
    value, bound = value_at(column), tables["bound"][p]
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
