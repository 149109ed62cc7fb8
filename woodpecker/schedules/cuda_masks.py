"""The predicate stage of `bitslice` on a GPU: the masks of all distinct tests of a forest, for a block of rows.

    for each column, for 32 rows:                                       # a warp, a lane a row
        rank[lane] = V[column, row]                                     # `cuda_ranks`
        for each bit i of the rank:     plane[column, i] = ballot(bit i of rank[lane])
    for each run of RUN bounds of a column, from k0, a multiple of RUN, on:         # a thread, for a word of rows
        less, equal = (rank >> 3) < (k0 >> 3), (rank >> 3) == (k0 >> 3) # of the high planes, bit by bit
        for j in 0 .. RUN - 1:          M[row of bound k0 + j] = less | equal & (rank & 7 <= j)
    for each category set, for 32 rows: M[row of set] = ballot(rank is on the left)

``rank <= k`` is the same as ``x <= bound[k]``. A function of three planes is one LOP3, so a mask takes two of them and
what its run shares; ranks as bit planes that constants are compared with are bit-sliced arithmetic, as BitWeaving/V has
it (Li, Patel, SIGMOD 2013).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout
from ..predicates import Canonical
from ..relay_ops import category_sets
from ..relay_ops.predicate import Expr
from . import cuda_ranks
from .cuda_tir import Frame, register, variable
from .tir import const

LOW = 3
RUN = 2**LOW
FIRST = 1
"""The first mask row of a test; row 0 is all zeros, the test at leaves: rows go right there."""
MAX_RANKS = 2**16
WARP = 32


def rank_bytes(canonical: Canonical) -> int:
    """Bytes of a rank; 0: 16 bits do not hold it."""
    most = int(np.diff(canonical.columns.bound_offset).max(initial=0)) + 1  # one more for missing categories
    return 0 if most >= MAX_RANKS else 1 if most < 2**8 else 2


def rows_of(canonical: Canonical) -> int:
    """Mask rows."""
    return FIRST + canonical.n_predicates


@dataclass(frozen=True)
class Runs:
    """The bounds of numeric columns in runs of RUN, those of one length together, the longest first: the masks of the
    j-th bounds of all runs are neighbours then, and so are the threads that store them.

    Args:
        column, number: (runs,) int64: the column, and k0 >> LOW.
        end: (RUN + 1,) int64: from 0 on, the mask rows, less FIRST, of all j-th bounds.
        row: (bounds,) int64: the mask row of each bound.
    """

    column: np.ndarray
    number: np.ndarray
    end: np.ndarray
    row: np.ndarray


def runs_of(canonical: Canonical) -> Runs:
    columns = canonical.columns
    offset = columns.bound_offset[: columns.n_numeric + 1].astype(np.int64)
    counts = np.diff(offset)
    some = -(-counts // RUN)
    column = np.repeat(np.arange(len(counts)), some)
    number = np.arange(len(column)) - np.repeat(np.cumsum(some) - some, some)
    size = np.minimum(counts[column] - number * RUN, RUN)
    order = np.argsort(-size, kind="stable")
    column, number, size = column[order], number[order], size[order]
    end = np.concatenate([[0], np.cumsum((size[:, None] > np.arange(RUN)).sum(0))])
    run, j = np.nonzero(size[:, None] > np.arange(RUN))
    row = np.zeros(int(offset[-1]), np.int64)
    row[offset[column[run]] + number[run] * RUN + j] = FIRST + end[j] + run
    return Runs(column, number, end, row)


def numbers(canonical: Canonical) -> np.ndarray:
    """(N,) int64: the mask row of each inner node's test; meaningless at leaves."""
    row = runs_of(canonical).row
    categorical = canonical.node_bitset >= 0
    found = np.append(row, 0)[np.where(categorical, -1, canonical.node_bound)]
    words, _ = category_sets.distinct(canonical)
    found[categorical] = FIRST + len(row) + np.searchsorted(words, canonical.node_bitset[categorical])
    return found


def planes_of(canonical: Canonical) -> np.ndarray:
    """(numeric columns + 1,) int64: the first plane of each column, and the end."""
    counts = np.diff(canonical.columns.bound_offset[: canonical.columns.n_numeric + 1])
    return np.cumsum([0, *(max(int(n).bit_length(), LOW) for n in counts)])


def prepare(canonical: Canonical) -> Layout:
    """The tables of this stage; ``mask_run``: of a run, first plane (16 bits), k0 >> LOW (16), planes beyond LOW."""
    plane, runs = planes_of(canonical), runs_of(canonical)
    high = np.diff(plane)[runs.column] - LOW
    words, set_column = category_sets.distinct(canonical)
    tables: dict[str, np.ndarray] = {
        "plane": plane.astype(np.int32),
        "mask_run": (plane[runs.column] | runs.number << 16 | high << 32).astype(np.uint64),
        "mask_end": runs.end.astype(np.int32),
    }
    scalars = {
        "n_mask_runs": len(runs.column),
        "n_mask_rows": rows_of(canonical),
    }
    if canonical.has_categories:
        tables |= {
            "set_word": words.astype(np.int32),
            "set_column": set_column.astype(np.int32),
            "bitset": canonical.bitset,
        }
        scalars |= {"n_sets": len(words), "first_set": FIRST + len(runs.row)}
    return Layout(scalars, tables, {}, frozenset())


def each(n: Expr, first: Expr, step: int, body: Callable[[Expr], None]) -> None:
    """Emit ``body(i)`` for i = first, first + step, .. below n."""
    with TB.serial(0, tirx.truncdiv(n + const(step - 1), const(step))) as some:
        i = register(some * const(step) + first)
        with TB.If(i < n), TB.Then():
            body(i)


def ballot(condition: Expr) -> Expr:
    """A bit for each lane of the warp, all of which must get here."""
    return register(tirx.call_extern("uint32", "__ballot_sync", const(2**32 - 1, "uint32"), condition))


def planes(frame: Frame, planes32: Any) -> None:
    """The bit planes of all numeric columns: word w of 32 rows of plane p at p * words + w."""
    rows = frame.signature.constant("rows")
    words, lane = rows // WARP, register(frame.thread & const(WARP - 1))

    def column_word(i: Expr) -> None:
        column, word = register(tirx.truncdiv(i, const(words))), register(tirx.truncmod(i, const(words)))
        rank = register(tirx.Cast("int32", frame.V[cuda_ranks.place(frame, column, word * const(WARP) + lane)]))
        first = register(frame.tables["plane"][column])
        count = register(frame.tables["plane"][column + const(1)] - first)
        mine = variable(const(0, "uint32"))
        with TB.serial(0, count) as bit:
            found = ballot((rank >> bit) & const(1))
            TB.buffer_store(mine, tirx.Select(lane == bit, found, mine[0]), [0])
        with TB.If(lane < count), TB.Then():
            TB.buffer_store(planes32, mine[0], [(first + lane) * const(words) + word])

    warp = register(frame.thread >> const(5))
    each(frame.scalar("n_numeric") * const(words), warp, frame.threads // WARP, column_word)


def masks(frame: Frame, planes_: Any, M: Any, M32: Any) -> None:
    """The masks of all tests: word w of test row p at w * n_mask_rows + p."""
    signature, tables = frame.signature, frame.tables
    dtype = f"uint{signature.constant('word_bits')}"
    words = signature.constant("rows") // signature.constant("word_bits")
    pitch = frame.scalar("n_mask_rows")
    zero = const(0, dtype)
    with TB.If(frame.thread < const(words)), TB.Then():
        TB.buffer_store(M, zero, [frame.thread * pitch])

    def run_word(run: Expr, word: Expr) -> None:
        record = register(tables["mask_run"][run])
        plane = register(tirx.Cast("int32", record & const(2**16 - 1, "uint64")))
        high = register(tirx.Cast("int32", (record >> const(16, "uint64")) & const(2**16 - 1, "uint64")))
        bits = register(tirx.Cast("int32", record >> const(32, "uint64")))
        row = register(word * pitch + const(FIRST) + run)
        less, equal = variable(zero), variable(~zero)

        def at(bit: Expr) -> Expr:
            return planes_[(plane + bit) * const(words) + word]

        with TB.serial(0, bits) as down:
            bit = register(bits - const(1) - down)
            b = register(at(bit + const(LOW)))
            ones = register(zero - tirx.Cast(dtype, (high >> bit) & const(1)))
            TB.buffer_store(less, less[0] | (equal[0] & ones & ~b), [0])
            TB.buffer_store(equal, equal[0] & ~(b ^ ones), [0])
        low, middle, top = (register(at(const(bit))) for bit in range(LOW))
        up_to = (
            ~(top | middle | low),
            ~(top | middle),
            ~(top | (middle & low)),
            ~top,
            ~(top & (middle | low)),
            ~(top & middle),
            ~(top & middle & low),
        )
        for j in range(RUN):
            value = equal[0] & up_to[j] if j < len(up_to) else equal[0]
            with TB.If(run < ends[j + 1] - ends[j]), TB.Then():
                TB.buffer_store(M, less[0] | value, [row + ends[j]])

    ends = [register(tables["mask_end"][const(j)]) for j in range(RUN + 1)]
    with TB.serial(0, frame.scalar("n_words")) as word:
        each(frame.scalar("n_mask_runs"), frame.thread, frame.threads, lambda run: run_word(run, word))
    if "categories" in signature.flags:
        _sets(frame, M32)


def _sets(frame: Frame, M32: Any) -> None:
    """The masks of category sets."""
    signature, tables = frame.signature, frame.tables
    halves, words = signature.constant("word_bits") // WARP, signature.constant("rows") // WARP
    lane = register(frame.thread & const(WARP - 1))

    def set_word(i: Expr) -> None:
        which, word = register(tirx.truncdiv(i, const(words))), register(tirx.truncmod(i, const(words)))
        place = cuda_ranks.place(frame, register(tables["set_column"][which]), word * const(WARP) + lane)
        rank = register(tirx.Cast("int32", frame.V[place]))
        bits = register(tables["bitset"][tables["set_word"][which] + (rank >> const(5))])
        right = (bits >> tirx.Cast("uint32", rank & const(31))) & const(1, "uint32")
        found = ballot(right ^ const(1, "uint32"))
        row = tirx.truncdiv(word, const(halves)) * frame.scalar("n_mask_rows") + frame.scalar("first_set") + which
        with TB.If(lane == const(0)), TB.Then():
            TB.buffer_store(M32, found, [row * const(halves) + tirx.truncmod(word, const(halves))])

    warp = register(frame.thread >> const(5))
    each(frame.scalar("n_sets") * const(words), warp, frame.threads // WARP, set_word)
