"""Masks of category sets, for `bitslice`: sums, modulo 2, of masks that sets share.

Of a categorical column, as of a numeric one, there are the masks L[k], "rank <= k"; its last bound is infinity, so that
the last mask leaves out missing values alone. The rows of a set s, those that go left, are

    mask[s] = ones if s has the missing values ^ L[k] for each k where s has one of the ranks k and k + 1

The L are cut in groups of a few. What a set needs of a group is one of at most 2**size patterns, each of which is
added up once for all sets (Arlazarov, Dinic, Kronrod and Faradzhev, "On economical construction of the transitive
closure of a directed graph", 1970: the method of the Four Russians).

Sets are made in tiles, just before the first tree that needs one of them. Masks that only trees of one tile use share
their rows with those of other tiles, and so stay in the second-level cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..forest import tree_of_node
from ..predicates import Canonical
from . import category_sets
from .circuit import ONES, ZEROS

TERMS = 8
"""Most masks that are added up at once; of further ones, the first is what was found so far."""
LEAST_TERMS = 2
GROUPS = range(1, 9)
"""Sizes of groups that are tried."""
SAMPLE = 512
"""Groups, about, that tell what a size costs: a column may have a million categories."""
TERM_NS, SUM_NS = 0.35, 1.5
"""Measured, of 512 rows: a mask that is added up, and beside these a sum that is made and stored."""
TILE = 1024
"""Sets that are made together, about: 64 KB of masks."""


@dataclass(frozen=True)
class Slots:
    """Where the masks of the distinct sets are.

    Args:
        row: (S,) int64: the row of each set, from that of the first.
        count: Rows in use.
        tile: (S,) int64: the tile of trees in which a set is made.
        first_tree: Of each tile.
    """

    row: np.ndarray
    count: int
    tile: np.ndarray
    first_tree: np.ndarray


def slots(canonical: Canonical) -> Slots:
    """Tiles of trees, and a row for each distinct set, which sets share that one tile uses each."""
    at = np.flatnonzero(canonical.node_bitset >= 0)
    words, of = np.unique(canonical.node_bitset[at], return_inverse=True)
    tree, n_trees = tree_of_node(canonical.forest)[at], canonical.forest.n_trees
    first, last = np.full(len(words), n_trees), np.full(len(words), -1)
    np.minimum.at(first, of.reshape(-1), tree)
    np.maximum.at(last, of.reshape(-1), tree)
    new = np.bincount(first, minlength=n_trees)
    tile_of_tree = (np.cumsum(new) - new) // TILE
    tile_of_tree = np.unique(tile_of_tree, return_inverse=True)[1].reshape(-1)
    tile, alone = tile_of_tree[first], tile_of_tree[first] == tile_of_tree[last]
    row = np.zeros(len(words), np.int64)
    kept = int((~alone).sum())
    row[~alone] = np.arange(kept)
    order = np.flatnonzero(alone)[np.argsort(tile[alone], kind="stable")]
    row[order] = kept + np.arange(len(order)) - np.searchsorted(tile[order], tile[order])
    first_tree = np.flatnonzero(np.diff(tile_of_tree, prepend=-1))
    return Slots(row, int(row.max(initial=-1)) + 1, tile, first_tree)


@dataclass(frozen=True)
class Sums:
    """What is added up, in order.

    Args:
        offset: (T + 1,) int32 into the runs: those of each tree come before it.
        run: int32: of each run how many masks are added up for a sum, LEAST_TERMS to TERMS; how many sums; and where
            the first of them begins in ``term``.
        term: uint16 or int32: rows of the mask matrix, of each sum its own, then those that are added up.
        rows: Rows that the sums take that sets share, from the given one on.
    """

    offset: np.ndarray
    run: np.ndarray
    term: np.ndarray
    rows: int


@dataclass(frozen=True)
class _Sum:
    """Sums: their rows (N,), and (owner, row) of each term, owners ascending."""

    row: np.ndarray
    owner: np.ndarray
    term: np.ndarray


def sums(canonical: Canonical, places: Slots, first: int, bound_rows: Sequence[np.ndarray], spare: int) -> Sums:
    """How the masks of all sets are made.

    Args:
        canonical: The forest.
        places: Where they go, from row ``first`` of the mask matrix on.
        first: See above.
        bound_rows: The rows of the masks of each categorical column, infinity's the last.
        spare: The first row that is free.
    """
    words, column = category_sets.distinct(canonical)
    counts, n_numeric = category_sets.rank_counts(canonical), canonical.columns.n_numeric
    shared: list[_Sum] = []
    owners: list[np.ndarray] = []
    terms: list[np.ndarray] = []
    free = spare
    for c in np.unique(column):
        these = np.flatnonzero(column == c)
        left = ~category_sets.right(canonical, words[these], int(counts[c]))
        patterns, own = _grouped(left, bound_rows[c - n_numeric], free)
        free += sum(len(some.row) for some in patterns)
        shared += patterns
        owners.append(these[own.owner])
        terms.append(own.term)
    row, owner, term = first + places.row, np.concatenate(owners), np.concatenate(terms)
    made = [(0, run) for some in shared for run in _runs(some)]
    for tile, tree in enumerate(places.first_tree):
        mine = np.flatnonzero(places.tile == tile)
        inside = places.tile[owner] == tile
        made += [(tree, run) for run in _runs(_Sum(row[mine], np.searchsorted(mine, owner[inside]), term[inside]))]
    sizes = [run.size for _, run in made]
    run = np.array([(t.shape[1] - 1, len(t), at) for (_, t), at in zip(made, np.cumsum([0, *sizes[:-1]]), strict=True)])
    offset = np.searchsorted([tree for tree, _ in made], np.arange(canonical.forest.n_trees + 1))
    added = np.concatenate([t.reshape(-1) for _, t in made])
    narrow = np.uint16 if free <= 2**16 else np.int32
    return Sums(offset.astype(np.int32), run.reshape(-1).astype(np.int32), added.astype(narrow), free - spare)


def _runs(some: _Sum) -> Iterator[np.ndarray]:
    """Sums of equally many terms, (n, 1 + terms) each: their rows, and what is added up."""
    count = np.bincount(some.owner, minlength=len(some.row))
    begin = np.cumsum(count) - count
    done = np.zeros(len(count), np.int64)
    which = np.arange(len(count))
    more = False
    while len(which):
        some_terms = np.minimum(count[which] - done[which], TERMS - more)
        wide = np.maximum(some_terms + more, LEAST_TERMS)
        for n in np.unique(wide):
            mine, terms = which[wide == n], some_terms[wide == n]
            run = np.full((len(mine), 1 + n), ZEROS, np.int64)
            run[:, : 1 + more] = some.row[mine, None]
            place, term = np.nonzero(np.arange(n - more) < terms[:, None])
            run[place, 1 + more + term] = some.term[(begin + done)[mine][place] + term]
            yield run
        done[which] += some_terms
        which, more = which[done[which] < count[which]], True


def _grouped(left: np.ndarray, bound_row: np.ndarray, free: int) -> tuple[tuple[_Sum, ...], _Sum]:
    """Sums that sets share, and those of the sets, from (sets, ranks) "goes left"; ``free``: the first free row."""
    steps = left ^ np.pad(left[:, 1:], ((0, 0), (0, 1)))
    rows = np.append(bound_row, ONES)
    size = min(GROUPS, key=lambda size: _cost(steps, size))
    owners, terms = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    several: list[list[int]] = []
    pairs: list[list[int]] = []
    for begin in range(0, steps.shape[1], size):
        pattern = _patterns(steps, begin, size)
        row = np.full(2**size, -1)
        row[0] = ZEROS
        bits = rows[begin : begin + size]
        row[1 << np.arange(len(bits))] = bits
        for p in np.flatnonzero(_shared(np.bincount(pattern, minlength=2**size), size)):
            top = int(p).bit_length() - 1
            found = [int(bits[i]) for i in range(len(bits)) if p >> i & 1]
            rest = row[p ^ (1 << top)]
            (pairs if rest >= 0 else several).append([free, rest, found[-1]] if rest >= 0 else [free, *found])
            row[p] = free
            free += 1
        whole = np.flatnonzero((row[pattern] >= 0) & (pattern > 0))
        owners.append(whole)
        terms.append(row[pattern[whole]])
        parts = np.where(row[pattern] < 0, pattern, 0)
        for i, bit in enumerate(bits):
            mine = np.flatnonzero(parts >> i & 1)
            owners.append(mine)
            terms.append(np.full(len(mine), bit))
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    own = _Sum(np.zeros(len(left), np.int64), owner[order], np.concatenate(terms)[order])
    return (_listed(several), _listed(pairs)), own


def _listed(made: list[list[int]]) -> _Sum:
    owner = np.repeat(np.arange(len(made)), np.array([len(some) - 1 for some in made], np.int64))
    return _Sum(
        np.array([some[0] for some in made], np.int64),
        owner,
        np.array([row for some in made for row in some[1:]], np.int64),
    )


def _patterns(steps: np.ndarray, begin: int, size: int) -> np.ndarray:
    """(sets,) int64: what each set needs of a group, a bit for each of it."""
    some = steps[:, begin : begin + size]
    return some @ (1 << np.arange(some.shape[1]))


_POPCOUNT = np.array([i.bit_count() for i in range(2 ** max(GROUPS))])


def _shared(uses: np.ndarray, size: int) -> np.ndarray:
    """(2**size,) bool: which patterns are worth a sum of their own, by how many sets use them."""
    return uses * (_POPCOUNT[: 2**size] - 1) * TERM_NS > SUM_NS + LEAST_TERMS * TERM_NS


def _cost(steps: np.ndarray, size: int) -> float:
    """Estimated ns of all sums, with groups of this size, for 512 rows: by a sample of the groups, evenly spread."""
    total, alone = 0.0, _POPCOUNT[: 2**size]
    begins = range(0, steps.shape[1], size)
    sample = begins[:: -(-len(begins) // SAMPLE)]
    for begin in sample:
        uses = np.bincount(_patterns(steps, begin, size), minlength=2**size)
        shared = _shared(uses, size)
        total += (SUM_NS + LEAST_TERMS * TERM_NS) * int(shared.sum())
        total += TERM_NS * int((uses * np.where(shared, 1, alone)).sum())
    return total * len(begins) / len(sample)
