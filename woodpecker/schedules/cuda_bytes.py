"""Byte columns of a block on a GPU: four rows in a word of 32 bits, so that one instruction tests four.

    for each numeric column c, for each of its pieces p of 127 bounds:      # a column of few bounds has one
        V[q, r] = 128 + min(max(rank(x) - 127 * p, 0), 127)
    for each category set s:    V[q, r] = 128 + (does the category of x go right?)

A node that compares with bound k of its piece goes right where the byte is at least 128 + k + 1. So for a word R of
four rows and four copies K of k + 1, each byte of R - K has its highest bit where its row goes right, and no byte
borrows from the next one: that is SWAR (Lamport, "Multiple byte processing with full-word instructions", CACM 1975).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout
from ..predicates import Canonical
from ..relay_ops import category_sets
from ..relay_ops.predicate import Expr
from . import cuda_columns, cuda_ranks
from .cuda_tir import Frame, register
from .tir import const

PIECE = 127
"""Bounds of a piece: seven bits hold a rank, and the eighth is what a subtraction borrows from."""
COPIES = 0x01010101
"""Times a byte: four copies of it."""
COLUMN, STEP, BYTE = 30.0, 14.0, 6.0
"""Instructions, counted in the code for sm_90: of a value of a column, of a step of its search, and of a byte."""
UNUSED = ("rank_offset", "rank_bound32", "rank_bound64", "run", "bound32", "bound64")
"""Tables that other column stages read."""


def _pieces(canonical: Canonical) -> np.ndarray:
    """(n_numeric + 1,) int64: the first piece of each numeric column, and the end."""
    counts = np.diff(canonical.columns.bound_offset)[: canonical.columns.n_numeric]
    return np.cumsum(np.concatenate([[0], -(-counts // PIECE)]))


def count(canonical: Canonical) -> int:
    """Byte columns of a forest."""
    return int(_pieces(canonical)[-1]) + len(category_sets.distinct(canonical)[0])


def instructions(canonical: Canonical) -> float:
    """Estimated instructions of the column stage for a row."""
    return len(canonical.columns) * (COLUMN + STEP * _steps(canonical)) + BYTE * count(canonical)


def _steps(canonical: Canonical) -> int:
    """Of a search among the bounds of any column."""
    return int(np.diff(canonical.columns.bound_offset).max(initial=0)).bit_length()


def tests(canonical: Canonical, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(byte column, least byte that goes right, less 128) of inner nodes, int64 each."""
    columns, first = canonical.columns, _pieces(canonical)
    word = canonical.node_bitset[nodes].astype(np.int64)
    categorical = word >= 0
    column = np.where(categorical, columns.n_numeric, canonical.node_column[nodes])
    within = np.where(categorical, 0, canonical.node_bound[nodes] - columns.bound_offset[column])
    sets, _ = category_sets.distinct(canonical)
    place = first[column] + np.where(categorical, np.searchsorted(sets, word), within // PIECE)
    return place, within % PIECE + 1


def prepare(canonical: Canonical) -> Layout:
    """The tables of the column stage."""
    columns = canonical.columns
    tables: dict[str, np.ndarray] = {
        "rank_from": columns.bound_offset.astype(np.int32),
        "rank_edge32": np.append(columns.bound32, np.float32(0)),
        "piece": _pieces(canonical).astype(np.int32),
    }
    if canonical.forest.input_dtype == "float64":
        tables["rank_edge64"] = np.append(columns.bound64, 0.0)
    if canonical.has_categories:
        words, column = category_sets.distinct(canonical)  # ascending, and so column by column
        tables["set_from"] = np.searchsorted(column, np.arange(columns.n_numeric, len(columns) + 1)).astype(np.int32)
        tables["set_word"] = words.astype(np.int32)
    scalars = {"n_bytes": count(canonical), "rank_steps": _steps(canonical)}
    return Layout(scalars, tables, {}, frozenset())


def fill(frame: Frame, V: Any, row: Callable[[Expr], Expr], rows: int, pitch: int) -> None:
    """Fill the byte columns of a block, by all of its threads.

    Args:
        frame: The kernel.
        V: uint8: the byte of a column for a row of the block is at ``column * pitch + row``.
        row: Row of the block -> row of X (int64).
        rows: Rows of the block, a multiple of its threads.
        pitch: See ``V``.
    """
    n_numeric = frame.scalar("n_numeric")
    cuda_columns.each_value(frame, row, rows, const(0), n_numeric, lambda *of: _ranks(frame, V, pitch, *of))
    if "set_word" in frame.tables:
        n_ranked = frame.scalar("n_columns") - n_numeric
        cuda_columns.each_value(frame, row, rows, n_numeric, n_ranked, lambda *of: _members(frame, V, pitch, *of))


def _ranks(frame: Frame, V: Any, pitch: int, column: Expr, r: Expr, x: Expr, missing: Expr) -> None:
    """The bytes of a numeric column."""
    x = register(cuda_columns.numeric(frame, column, x, missing))
    start, size = _bounds(frame, column)
    rank = register(tirx.Select(tirx.isnan(x), size, cuda_ranks.below(frame, _edges(frame), start, size, x)))
    first = register(frame.tables["piece"][column])
    with TB.serial(0, frame.tables["piece"][column + const(1)] - first) as p:
        within = tirx.min(tirx.max(rank - p * const(PIECE), const(0)), const(PIECE))
        TB.buffer_store(V, tirx.Cast("uint8", within + const(128)), [(first + p) * const(pitch) + r])


def _members(frame: Frame, V: Any, pitch: int, column: Expr, r: Expr, x: Expr, missing: Expr) -> None:
    """The bytes of the sets of a categorical column."""
    tables = frame.tables
    start, size = _bounds(frame, column)
    rank = cuda_ranks.below(frame, _edges(frame), start, size, x)
    rank = register(tirx.Select(missing, size + const(1), rank))
    place = register(column - frame.scalar("n_numeric"))
    first = register(tables["set_from"][place])
    behind = register(tables["piece"][frame.scalar("n_numeric")])
    with TB.serial(0, tables["set_from"][place + const(1)] - first) as i:
        bits = tables["bitset"][tables["set_word"][first + i] + (rank >> const(5))]
        right = (bits >> tirx.Cast("uint32", rank & const(31))) & const(1, "uint32")
        byte = tirx.Cast("uint8", right + const(128, "uint32"))
        TB.buffer_store(V, byte, [(behind + first + i) * const(pitch) + r])


def _bounds(frame: Frame, column: Expr) -> tuple[Expr, Expr]:
    start = register(frame.tables["rank_from"][column])
    return start, register(frame.tables["rank_from"][column + const(1)] - start)


def _edges(frame: Frame) -> Any:
    return frame.tables["rank_edge32" if frame.value_dtype == "float32" else "rank_edge64"]
