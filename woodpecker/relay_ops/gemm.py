"""gemm: no walk at all; every test of a tree is evaluated, and the leaf found by matrix products.

    S[i] = goes_right(V[column[t, i]], bound[t, i])                   # the tests of tree t, 0 or 1
    for each leaf l:  hit[l] = sum_i S[i] * path[t, i, l] == rights[t, l]
    leaf = sum_l hit[l] * l

``path`` holds +1 where leaf l lies right of node i, -1 where it lies left, else 0; ``rights`` counts the +1 of a
column. All products are of small integers, so they are exact, and the last one yields the leaf's number, not its
value, which keeps the sum of leaf values in order. Features are gathered, not multiplied by a selection matrix, in
which 0 * NaN would spoil a row. Hummingbird's "GEMM" (Nakandala et al., OSDI 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tvm import te, tirx

from ..forest import LEAF, Forest, node_depth, tree_leaves, tree_of_node
from ..layout import Layout
from ..predicates import Canonical
from .options import Option, no_power_of_two
from .predicate import Expr, columns_ns, goes_right, goes_right_any
from .vectors import AVX2, NARROW, NONE, VBMI, WIDE

NAME = "gemm"
OPTIONS = {"lanes": Option(64, 16, 64, "rows of one vector; a power of two")}
TABLE_OPTIONS: tuple[str, ...] = ()

MAX_LEAVES = 1024
MAX_BYTES = 2**28


def applicable(canonical: Canonical, options: Mapping[str, int]) -> str | None:
    if refusal := no_power_of_two("lanes", options):
        return refusal
    leaves = int(tree_leaves(canonical.forest).max(initial=1))
    if leaves > MAX_LEAVES:
        return f"a tree of {leaves:,} leaves needs {leaves**2:,} matrix entries; the limit is {MAX_LEAVES:,} leaves"
    n_trees = canonical.forest.n_trees
    need = n_trees * leaves**2 * (1 if canonical.max_depth < 127 else 2)
    if need > MAX_BYTES:
        return (
            f"the matrices of {n_trees:,} trees of {leaves} leaves need {need / 2**30:.1f} GiB; the limit is 0.25 GiB"
        )
    return None


def choose(canonical: Canonical, options: Mapping[str, int]) -> dict[str, int]:
    return {**options}


def space(canonical: Canonical) -> dict[str, tuple[int, ...]]:
    return {"lanes": (16, 32, 64)}


ENTRY_NS, TREE_NS = 0.62, 70.0
SPEEDS = {VBMI: 1.0, WIDE: 1.0, AVX2: 1.35, NARROW: 2.4, NONE: 35.0}
"""Measured for 64 rows: an entry of a path matrix, and what a tree costs beside them; factors of entries by the vectors
of the target. Without vectors, counted: five instructions a row and entry."""


def cost(canonical: Canonical, rows: int, vectors: str) -> float:
    """Estimated ns per row: a vector operation per entry of the path matrices, for 64 rows at once."""
    leaves = float(tree_leaves(canonical.forest).max(initial=1))
    per_block = canonical.forest.n_trees * (leaves * leaves * ENTRY_NS * SPEEDS[vectors] + TREE_NS)
    return per_block / min(max(rows, 1), 64) + columns_ns(canonical, tiled=False)


def _leaf_ranges(forest: Forest) -> tuple[np.ndarray, np.ndarray]:
    """(first, count), (N,) each: the leaves below a node are first .. first + count - 1 of its tree, left to right."""
    depth, base = node_depth(forest), forest.tree_offset[:-1][tree_of_node(forest)]
    left, right = base + forest.left, base + forest.right
    count = (forest.kind == LEAF).astype(np.int64)
    first = np.zeros(forest.n_nodes, np.int64)
    levels = [np.flatnonzero((depth == d) & (forest.kind != LEAF)) for d in range(int(depth.max(initial=0)) + 1)]
    for level in reversed(levels):
        count[level] = count[left[level]] + count[right[level]]
    for level in levels:
        first[left[level]] = first[level]
        first[right[level]] = first[level] + count[left[level]]
    return first, count


def prepare(canonical: Canonical, options: Mapping[str, int]) -> tuple[Layout, np.ndarray]:
    """Path matrices and the tables of the tests, padded to the largest tree; positions (T * leaves,)."""
    forest, columns = canonical.forest, canonical.columns
    n_trees = forest.n_trees
    leaves = int(tree_leaves(forest).max(initial=1))
    tests = max(leaves - 1, 1)
    first, count = _leaf_ranges(forest)
    tree, base = tree_of_node(forest), forest.tree_offset[:-1][tree_of_node(forest)]
    inner = np.flatnonzero(forest.kind != LEAF)
    within = np.arange(len(inner)) - np.searchsorted(tree[inner], tree[inner])
    dtype = np.int8 if canonical.max_depth < 127 else np.int16
    path = np.zeros((n_trees, tests, leaves), dtype)
    number = np.arange(leaves)
    for begin in range(0, len(inner), 4096):  # in pieces: the comparison is (nodes, leaves) large
        i, w = inner[begin : begin + 4096], within[begin : begin + 4096]
        below_left, below_right = base[i] + forest.left[i], base[i] + forest.right[i]
        path[tree[i], w] = (
            (number >= first[below_right][:, None]) & (number < (first + count)[below_right][:, None])
        ).astype(dtype) - ((number >= first[below_left][:, None]) & (number < (first + count)[below_left][:, None]))
    rights = (path == 1).sum(1, dtype=np.int64)
    rights[np.arange(leaves) >= tree_leaves(forest)[:, None]] = np.iinfo(dtype).max  # padding is never hit
    at = canonical.node_bound[inner]
    column = np.full((n_trees, tests), len(columns), np.int32)
    column[tree[inner], within] = canonical.node_column[inner]
    bound32 = np.full((n_trees, tests), np.float32(np.inf))
    bound32[tree[inner], within] = np.append(columns.bound32, np.float32(0))[at]
    tables: dict[str, np.ndarray] = {
        "test_column": column,
        "bound32": bound32,
        "path": path,
        "rights": rights.astype(dtype),
    }
    if forest.input_dtype == "float64":
        bound64 = np.full((n_trees, tests), np.inf)
        bound64[tree[inner], within] = np.append(columns.bound64, 0.0)[at]
        tables["bound64"] = bound64
    if canonical.has_categories:
        node_bitset = np.full((n_trees, tests), -1, np.int32)
        node_bitset[tree[inner], within] = canonical.node_bitset[inner]
        tables["node_bitset"] = node_bitset
    flat = {name: np.ascontiguousarray(table.reshape(-1)) for name, table in tables.items()}
    positions = np.full(n_trees * leaves, -1, np.int64)
    at = np.flatnonzero(forest.kind == LEAF)
    positions[tree[at] * leaves + first[at]] = at
    return Layout({"n_tests": tests, "n_leaves": leaves}, flat, {**options}, frozenset()), positions


def test(i: Expr, value: Expr, tables: Mapping[str, Any]) -> Expr:
    """The outcome (0 or 1) of the test with index ``i`` on a column value."""
    if "node_bitset" in tables:
        return goes_right_any(value, tables["bound"][i], tables["node_bitset"][i], tables["bitset"])
    return goes_right(value, tables["bound"][i])


def forward(V: te.Tensor, tables: Mapping[str, te.Tensor], canonical: Canonical, layout: Layout) -> te.Tensor:
    """TE graph: column values (C + 1, n) -> positions (n, T), three stages as in Hummingbird."""
    n, n_trees = V.shape[1], canonical.forest.n_trees
    tests, leaves = layout.scalars["n_tests"], layout.scalars["n_leaves"]
    dtype = str(layout.tables["path"].dtype)
    outcome = te.compute(
        (n, n_trees, tests),
        lambda r, t, i: tirx.Cast(dtype, test(t * tests + i, V[tables["test_column"][t * tests + i], r], tables)),
        "outcome",
    )
    i = te.reduce_axis((0, tests), "i")
    reached = te.compute(
        (n, n_trees, leaves),
        lambda r, t, l: te.sum(outcome[r, t, i] * tables["path"][(t * tests + i) * leaves + l], axis=i),
        "reached",
    )
    l = te.reduce_axis((0, leaves), "l")
    hit = te.compute(
        (n, n_trees),
        lambda r, t: te.sum(tirx.Select(reached[r, t, l] == tables["rights"][t * leaves + l], l, 0), axis=l),
        "hit",
    )
    return te.compute((n, n_trees), lambda r, t: t * leaves + hit[r, t], "position")
