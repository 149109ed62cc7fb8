"""The predicate stage: rows -> column values, shared by every strategy.

    for each column c:                                  # (feature, missing rule, fill)
        x = cast(X[row, feature[c]])
        if missing(x):    V[c] = fill[c]                # 0.0, or -inf where it goes left, or NaN where it goes right
        elif numeric(c):  V[c] = x                      # a node goes right unless V[c] <= bound
        else:             V[c] = bits(rank(x))          # a node goes right where its bitset has bit `rank`
    V[C] = -inf                                         # the column that leaves and padding test: always left

Values are float32 or float64; a rank travels as the bit pattern of such a float, so one array holds both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tvm import te, tirx

from ..forest import ZERO_BAND
from ..layout import Layout
from ..predicates import Canonical
from .options import FEW_COLUMNS, SQUARE

Expr = Any
Bind = Callable[[Expr], Expr]
"""Keeps an expression that is used twice in a register of the kernel; in a TE graph there is nothing to keep."""


def unbound(value: Expr) -> Expr:
    """The expression itself; an element of a TE tensor as the expression that it stands for."""
    return value.asobject() if isinstance(value, te.TensorSlice) else value


def either(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """``yes`` or ``no`` in a TE graph, of which only one is computed.

    A `Select` computes both, and TVM simplifies each as if the condition had chosen it: what keeps an index in range
    where the other one is chosen, such as ``min(c, last)``, is taken out, and something else's memory is read.
    """
    return tirx.if_then_else(condition, yes, no)


def prepare(canonical: Canonical) -> Layout:
    """The tables of the predicate stage."""
    columns, forest = canonical.columns, canonical.forest
    flags = set()
    scalars = {"n_columns": len(columns), "n_numeric": columns.n_numeric}
    tables: dict[str, np.ndarray] = {
        "column_feature": columns.feature,
        "column_fill": columns.fill,
    }
    if not np.isnan(forest.missing_value):
        flags.add("sentinel")
        tables["sentinel"] = np.array([forest.missing_value], np.float64)
    if columns.zero_missing.any():
        flags.add("zero_missing")
        tables["column_zero"] = columns.zero_missing.astype(np.uint8)
    starts = np.flatnonzero(np.diff(columns.feature[: columns.n_numeric], prepend=-2) != 1)
    if columns.n_numeric >= RUN * len(starts) > 0 and "zero_missing" not in flags:
        flags.add("runs")
        scalars["n_runs"] = len(starts)
        tables["run"] = np.append(starts, columns.n_numeric).astype(np.int32)
    if canonical.has_categories:
        flags.add("categories")
        first = int(columns.bound_offset[columns.n_numeric])
        counts = np.diff(columns.bound_offset)[columns.n_numeric :]
        scalars["rank_steps"] = int(counts.max(initial=0)).bit_length()
        tables["rank_offset"] = (columns.bound_offset[columns.n_numeric :] - first).astype(np.int32)
        tables["rank_bound32"] = np.append(columns.bound32[first:], np.float32(0))
        if forest.input_dtype == "float64":
            tables["rank_bound64"] = np.append(columns.bound64[first:], 0.0)
        tables["bitset"] = canonical.bitset
    return Layout(scalars, tables, {}, frozenset(flags))


RUN = 12
"""Columns of consecutive features, on average, from which on they are read as vectors where a row walks alone."""

RUN_NS, SQUARE_NS, ALONE_NS, FAR_NS = 0.3, 0.2, 0.8, (0.45, 0.65)
"""Measured cost of a column value, per row: in a run of columns; in a square; by itself; in a square of more than
FEW_COLUMNS, of a walk, and of who makes and uses a tile of them at a time."""


def columns_ns(canonical: Canonical, tiled: bool) -> float:
    """Estimated ns per row of the column stage; part of every strategy's estimate.

    Args:
        canonical: The forest.
        tiled: The strategy makes and uses a tile of columns at a time, by squares; a walk keeps all of a block, and
            does so only where they are many.
    """
    columns = canonical.columns
    feature, fill = (of[: columns.n_numeric] for of in (columns.feature, columns.fill.view(np.uint32)))
    many = len(columns) > FEW_COLUMNS
    if tiled or many:
        # A square holds some of the SQUARE features from its first on, of one fill.
        squares = len(np.unique(feature // SQUARE + (fill.astype(np.int64) << 32)))
        together = canonical.forest.n_features >= SQUARE // 2 and len(feature) >= 3 * squares
        each = (FAR_NS[tiled] if many else SQUARE_NS) if together else ALONE_NS
    else:
        each = RUN_NS if len(feature) >= RUN * np.count_nonzero(np.diff(feature, prepend=-2) != 1) else ALONE_NS
    return len(feature) * each


def is_missing(x: Expr, flags: frozenset[str], sentinel: Expr, zero_missing: Expr) -> Expr:
    """Whether a value is missing. ``sentinel``, in the dtype that the source compares in, and ``zero_missing`` are read
    only where their flag is set.

    Never said as ``x != x``: TIR's simplifier takes that for false.
    """
    missing = tirx.isnan(x)
    if "sentinel" in flags:
        missing = tirx.Or(missing, tirx.Cast(str(sentinel.ty.dtype), x) == sentinel)
    if "zero_missing" in flags:
        band = tirx.abs(tirx.Cast("float64", x)) <= tirx.const(ZERO_BAND, "float64")
        missing = tirx.Or(missing, tirx.And(zero_missing, band))
    return missing


def goes_right(value: Expr, bound: Expr) -> Expr:
    """1 where a numeric test fails, else 0, int32. NaN compares false, and so goes right; never a negation, which
    TIR's simplifier turns into ``value > bound``."""
    return tirx.Select(value <= bound, tirx.const(0, "int32"), tirx.const(1, "int32"))


def record(tables: Mapping[str, Any], position: Expr, word: int) -> Expr:
    """A uint32 of a node's record (link or column, bound or what a leaf holds) at an int64 position."""
    return unbound(tables["node"][position * tirx.const(2, "int64") + tirx.const(word, "int64")])


def bound_at(tables: Mapping[str, Any], position: Expr, value: Expr) -> Expr:
    """The bound of a node in the dtype of the value that it is compared with: in its record, or in a table."""
    if "node" in tables and str(value.ty.dtype) == "float32":
        return tirx.reinterpret("float32", record(tables, position, 1))
    return tables["bound"][position]


def bounds(tables: Mapping[str, Any], value_dtype: str) -> dict[str, Any]:
    """The bounds of this dtype by the name that strategies read them by, ``bound``; nothing where nodes hold them."""
    name = "bound32" if value_dtype == "float32" else "bound64"
    return {"bound": tables[name]} if name in tables else {}


def rank_bits(rank: Expr, dtype: str) -> Expr:
    """An int32 rank as the bit pattern of a float."""
    whole = rank if dtype == "float32" else tirx.Cast("int64", rank)
    return tirx.reinterpret(dtype, whole)


def goes_right_any(value: Expr, bound: Expr, word: Expr, bitset: Any, bind: Bind = unbound) -> Expr:
    """`goes_right` for a node of either sort: ``word`` is its first bitset word, negative at numeric nodes.

    Without a branch: at a numeric node the rank is masked to 0 and word 0 is read for nothing.
    """
    value, word = bind(value), bind(word)
    dtype = str(value.ty.dtype)
    whole = tirx.reinterpret("int32" if dtype == "float32" else "int64", value)
    rank = whole if dtype == "float32" else tirx.Cast("int32", whole)
    categorical = word >= tirx.const(0, "int32")
    masked = bind(tirx.Select(categorical, rank, tirx.const(0, "int32")))
    bits = bitset[tirx.max(word, tirx.const(0, "int32")) + (masked >> tirx.const(5, "int32"))]
    bit = (bits >> tirx.Cast("uint32", masked & tirx.const(31, "int32"))) & tirx.const(1, "uint32")
    # What is bound is read before; see `either` for what is not.
    choose = either if bind is unbound else tirx.Select
    return choose(categorical, tirx.Cast("int32", bit), goes_right(value, bound))


def columns(X: te.Tensor, tables: Mapping[str, te.Tensor], layout: Layout, dtype: str, input_dtype: str) -> te.Tensor:
    """TE graph: X (n, F) of any float dtype -> V (C + 1, n) of ``dtype``."""
    n_columns, n_numeric = layout.scalars["n_columns"], layout.scalars["n_numeric"]
    flags = layout.flags

    def cast(row: Expr, column: Expr) -> Expr:
        return tirx.Cast(dtype, X[row, tables["column_feature"][column]])

    def missing(row: Expr, column: Expr) -> Expr:
        sentinel = tirx.Cast(input_dtype, tables["sentinel"][0]) if "sentinel" in flags else None
        zero = tables["column_zero"][column] != 0 if "zero_missing" in flags else None
        return is_missing(cast(row, column), flags, sentinel, zero)

    def constant(c: Expr) -> Expr:
        return c == n_columns

    def clamp(c: Expr) -> Expr:
        return tirx.min(c, max(n_columns - 1, 0))

    always_left = tirx.const(-np.inf, dtype)
    if n_columns == 0:
        return te.compute((1, X.shape[0]), lambda c, r: always_left, "columns")
    if "categories" not in flags:
        return te.compute(
            (n_columns + 1, X.shape[0]),
            lambda c, r: either(
                constant(c),
                always_left,
                tirx.Select(missing(r, clamp(c)), tirx.Cast(dtype, tables["column_fill"][clamp(c)]), cast(r, clamp(c))),
            ),
            "columns",
        )
    bound = tables["rank_bound32" if dtype == "float32" else "rank_bound64"]
    offset = tables["rank_offset"]
    longest = te.reduce_axis((0, max(int(layout_longest(layout)), 1)), "bound")
    n_ranked = n_columns - n_numeric

    def below(r: Expr, c: Expr) -> Expr:
        at = tirx.min(offset[c] + longest, tirx.const(len(layout.tables["rank_bound32"]) - 1, "int32"))
        inside = longest < offset[c + 1] - offset[c]
        return tirx.Select(tirx.And(inside, bound[at] < cast(r, c + n_numeric)), 1, 0)

    rank = te.compute((n_ranked, X.shape[0]), lambda c, r: te.sum(below(r, c), axis=longest), "rank")

    def ranked(c: Expr, r: Expr) -> Expr:
        k = tirx.max(tirx.min(c, n_columns - 1) - n_numeric, 0)
        last = offset[k + 1] - offset[k] + 1
        return rank_bits(tirx.Select(missing(r, k + n_numeric), last, rank[k, r]), dtype)

    def numeric(c: Expr, r: Expr) -> Expr:
        k = tirx.min(c, max(n_numeric - 1, 0))
        return tirx.Select(missing(r, k), tirx.Cast(dtype, tables["column_fill"][k]), cast(r, k))

    return te.compute(
        (n_columns + 1, X.shape[0]),
        lambda c, r: either(constant(c), always_left, either(c < n_numeric, numeric(c, r), ranked(c, r))),
        "columns",
    )


def layout_longest(layout: Layout) -> int:
    """The most bounds of a categorical column."""
    return int(np.diff(layout.tables["rank_offset"]).max(initial=0))
