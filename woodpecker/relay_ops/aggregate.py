"""The aggregate stage: leaf positions -> raw scores, in the source library's order and dtype.

    acc[k] = base_score[k]
    for t in trees:  acc[output[t]] += value[position]         # or, with vector leaves, acc[k] += values[slot][k]
    raw[k] = acc[k] / divisor                                  # only where there is one

Sums are never reassociated and never start from a literal 0, which TIR's simplifier would drop (-0.0 + 0 is 0.0).
A linear leaf is ``((const + c0 * x0) + c1 * x1) + ...`` with two roundings a term, so its products are fenced against
contraction to fused multiply-adds; where one of its x is NaN, it has its plain value (LightGBM).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from tvm import te, tirx

from ..forest import LEAF, Forest
from ..layout import Layout
from ..predicates import Canonical
from .options import MAX_TREES
from .predicate import Expr, either, record

VECTORS = (2, 4, 8, 16)
"""Lengths of vector leaves that code is specialised on."""

LEAF_IN_NODE = "leaf_in_node"
"""The flag of layouts whose node records hold, at leaves, the leaf's value or its row: see `leaf_records`."""


def leaf_records(forest: Forest, positions: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(words, tables): what the records of leaves hold in the place of a bound, uint32 for each position, and the
    tables that it points into.

    A leaf holds its value, where that is one float32, else the row of its values among the distinct ones. Either is no
    NaN's bit pattern, so that the test at a leaf, -inf <= bound, stays true. It saves a cache miss for each row and
    tree, and more where leaves have few values, as those of a classifier's unbounded trees.
    """
    words = np.zeros(len(positions), np.uint32)
    at = np.flatnonzero(np.append(forest.kind, np.uint8(LEAF))[positions] == LEAF)
    leaf = np.append(forest.leaf, np.int32(forest.n_leaves))[positions[at]]
    values = _with_nothing(forest)
    if not forest.vector_leaves and values.dtype == np.float32:
        words[at] = values[leaf, 0].view(np.uint32)
        return words, {}
    rows, of = _distinct(values)
    words[at] = of[leaf]
    return words, {"values" if forest.vector_leaves else "leaf_value": rows.reshape(-1)}


def _with_nothing(forest: Forest) -> np.ndarray:
    """The values of all leaves, and a row of -0.0 for padding: it changes no sum."""
    return np.concatenate([forest.values, np.full((1, forest.values.shape[1]), -0.0, forest.values.dtype)])


def _distinct(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, of): the rows that differ in a bit, in the order of their first occurrence, and where each row went."""
    words = np.ascontiguousarray(values).view(np.uint32)
    odd = np.random.default_rng(0).integers(0, 2**63, words.shape[1], np.uint64) * np.uint64(2) + np.uint64(1)
    digest = np.zeros(len(words), np.uint64)
    for column, factor in zip(words.T, odd, strict=True):
        digest += column.astype(np.uint64) * factor
    _, first, of = np.unique(digest, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    rows, of = np.ascontiguousarray(values[first[order]]), rank[of.reshape(-1)]
    columns = zip(rows.view(np.uint32).T, words.T, strict=True)
    if any((kept[of] != column).any() for kept, column in columns):  # two rows of one digest
        return values, np.arange(len(values))
    return rows, of


def value_at(tables: Mapping[str, Any], position: Expr) -> Expr:
    """The scalar value of the leaf at a position."""
    if "value" in tables:
        return tables["value"][position]
    word = _word(tables, position)
    return (
        tables["leaf_value"][tirx.Cast("int32", word)] if "leaf_value" in tables else tirx.reinterpret("float32", word)
    )


def slot_at(tables: Mapping[str, Any], position: Expr) -> Expr:
    """The row of ``values`` of the leaf at a position."""
    return tables["slot"][position] if "slot" in tables else tirx.Cast("int32", _word(tables, position))


def _word(tables: Mapping[str, Any], position: Expr) -> Expr:
    return record(tables, tirx.Cast("int64", position), 1)


def prepare(canonical: Canonical, positions: np.ndarray, flags_of_strategy: Collection[str]) -> Layout:
    """Leaf tables for a strategy whose position p is the IR's node ``positions[p]`` (-1: none)."""
    forest = canonical.forest
    in_node = LEAF_IN_NODE in flags_of_strategy
    leaf = np.append(forest.leaf, np.int32(-1))[positions]
    tables: dict[str, np.ndarray] = {
        "base_score": forest.base_score,
        "leaf_id": np.append(forest.leaf_id, np.int32(-1))[positions],
    }
    flags = set()
    if forest.vector_leaves:
        flags.add("vector")
        if not in_node:
            tables["values"] = np.ascontiguousarray(forest.values.reshape(-1))
    else:
        if not in_node:
            tables["value"] = _with_nothing(forest)[leaf, 0]
        if forest.n_outputs == 1:
            flags.add("one_output")
        tables["tree_output"] = np.pad(forest.tree_output, (0, MAX_TREES - 1))
    if forest.linear_offset is not None:
        assert forest.linear_feature is not None and forest.linear_coef is not None
        assert forest.linear_const is not None
        flags.add("linear")
        tables["linear_offset"] = forest.linear_offset.astype(np.int32)
        tables["linear_feature"] = np.append(forest.linear_feature, np.int32(0))
        tables["linear_coef"] = np.append(forest.linear_coef, 0.0)
        tables["linear_const"] = np.append(forest.linear_const, 0.0)
        tables["zero_band"] = np.array([forest.zero_band])
    if {"vector", "linear"} & flags and not in_node:
        tables["slot"] = np.maximum(leaf, 0).astype(np.int32)
    if forest.divisor != 1:
        flags.add("divide")
        tables["divisor"] = np.array([forest.divisor], forest.values.dtype)
    scalars = {"n_trees": forest.n_trees, "n_outputs": forest.n_outputs}
    constants = {}
    if forest.vector_leaves and forest.n_outputs in VECTORS:
        constants["vector"] = forest.n_outputs
    return Layout(scalars, tables, constants, frozenset(flags))


def fenced_product(a: Expr, b: Expr) -> Expr:
    """a * b in float64, rounded before anything is added to it."""
    return tirx.call_llvm_pure_intrin("float64", "llvm.arithmetic.fence", a * b)


def linear_input(x: Expr, band: Expr) -> Expr:
    """A value as a linear leaf reads it: float64, with the zero band folded to 0.0."""
    wide = tirx.Cast("float64", x)
    return tirx.Select(tirx.abs(wide) <= band, tirx.const(0.0, "float64"), wide)


def leaf_scores(position: te.Tensor, X: te.Tensor, tables: Mapping[str, te.Tensor], forest: Forest) -> te.Tensor:
    """TE graph: positions (n, T) -> the scalar score of each leaf (n, T), linear leaves evaluated."""
    shape = position.shape
    plain = te.compute(shape, lambda r, t: value_at(tables, position[r, t]), "leaf")
    if forest.linear_offset is None:
        return plain
    slot = te.compute(shape, lambda r, t: slot_at(tables, position[r, t]), "slot")
    offset, band = tables["linear_offset"], tables["zero_band"]

    def terms(r: Expr, t: Expr) -> Expr:
        return offset[slot[r, t] + 1] - offset[slot[r, t]]

    def x(r: Expr, t: Expr, j: int) -> Expr:
        at = tirx.min(offset[slot[r, t]] + j, len(forest.linear_coef) if forest.linear_coef is not None else 0)
        return linear_input(X[r, tables["linear_feature"][at]], band[0]), tables["linear_coef"][at]

    def add_term(acc: te.Tensor, j: int) -> te.Tensor:
        def term(r: Expr, t: Expr) -> Expr:
            value, coef = x(r, t, j)
            return tirx.Select(j < terms(r, t), acc[r, t] + fenced_product(coef, value), acc[r, t])

        return te.compute(shape, term, f"linear{j}")

    def add_missing(plain_only: te.Tensor, j: int) -> te.Tensor:
        def missing(r: Expr, t: Expr) -> Expr:
            found = tirx.And(j < terms(r, t), tirx.isnan(x(r, t, j)[0]))
            return tirx.Select(found, 1, plain_only[r, t])

        return te.compute(shape, missing, f"plain_only{j}")

    acc = te.compute(shape, lambda r, t: tables["linear_const"][slot[r, t]], "linear")
    plain_only = te.compute(shape, lambda r, t: tirx.Select(terms(r, t) == 0, 1, 0), "plain_only")
    for j in range(int(np.diff(forest.linear_offset).max(initial=0))):
        acc, plain_only = add_term(acc, j), add_missing(plain_only, j)
    return te.compute(shape, lambda r, t: tirx.Select(plain_only[r, t] == 1, plain[r, t], acc[r, t]), "score")


def forward(position: te.Tensor, X: te.Tensor, tables: Mapping[str, te.Tensor], forest: Forest) -> te.Tensor:
    """TE graph: positions (n, T) -> raw scores (n, K).

    The sum is a TE reduction that starts from -0.0, the one number that adding to changes nothing, and whose first
    term is the base score; create_prim_func keeps a reduction's order.
    """
    n, n_trees, n_outputs = position.shape[0], forest.n_trees, forest.n_outputs
    dtype = str(forest.values.dtype)
    add = te.comm_reducer(lambda a, b: a + b, lambda d: tirx.const(-0.0, d), name="sequential_sum")
    neutral = tirx.const(-0.0, dtype)
    t = te.reduce_axis((0, n_trees + 1), "t")
    tree = tirx.max(t - 1, 0)

    def divided(total: te.Tensor) -> te.Tensor:
        if forest.divisor == 1:
            return total
        return te.compute((n, n_outputs), lambda r, k: total[r, k] / tables["divisor"][0], "raw")

    if n_trees == 0:
        return divided(te.compute((n, n_outputs), lambda r, k: tables["base_score"][k], "total"))
    if forest.vector_leaves:

        def term(r: Expr, k: Expr) -> Any:
            return tables["values"][slot_at(tables, position[r, tree]) * n_outputs + k]
    else:
        scores = leaf_scores(position, X, tables, forest)

        def term(r: Expr, k: Expr) -> Any:
            return tirx.Select(tables["tree_output"][tree] == k, scores[r, tree], neutral)

    total = te.compute(
        (n, n_outputs), lambda r, k: add(either(t == 0, tables["base_score"][k], term(r, k)), axis=t), "total"
    )
    return divided(total)
