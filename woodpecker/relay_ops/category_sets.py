"""The distinct category sets of a forest, for strategies that compute each of them once for all rows of a block."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..predicates import Canonical


@dataclass(frozen=True)
class Members:
    """The distinct sets, each as the ranks on one side of it: those that go right, or those that go left, whichever
    are fewer.

    Args:
        offset: (S + 1,) int64 into ``column`` and ``rank``.
        column, rank: int64: the members.
        of_right: (S,) bool: the members go right.
    """

    offset: np.ndarray
    column: np.ndarray
    rank: np.ndarray
    of_right: np.ndarray


def rank_counts(canonical: Canonical) -> np.ndarray:
    """(C,) ranks of each column, were it categorical: the last one is a missing value's."""
    return np.diff(canonical.columns.bound_offset).astype(np.int64) + 2


def distinct(canonical: Canonical) -> tuple[np.ndarray, np.ndarray]:
    """The first bitset word of each distinct set, ascending, and the set's column; (S,) int64 each."""
    at = np.flatnonzero(canonical.node_bitset >= 0)
    words, index = np.unique(canonical.node_bitset[at], return_index=True)
    return words.astype(np.int64), canonical.node_column[at[index]].astype(np.int64)


def total_bits(canonical: Canonical) -> int:
    """Ranks of its column, summed over the distinct sets."""
    return int(rank_counts(canonical)[distinct(canonical)[1]].sum())


def right(canonical: Canonical, words: np.ndarray, n: int) -> np.ndarray:
    """(len(words), n) bool: which of a column's n ranks go right, for sets of it by their first bitset words."""
    bits = canonical.bitset[words[:, None] + np.arange(-(-n // 32))].astype("<u4")
    return np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little", count=n).astype(bool)


def members(canonical: Canonical) -> Members:
    words, column = distinct(canonical)
    ranks = rank_counts(canonical)
    owners, found = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    of_right = np.zeros(len(words), bool)
    for c in np.unique(column):
        sets = np.flatnonzero(column == c)
        n = int(ranks[c])
        goes = right(canonical, words[sets], n)
        of_right[sets] = goes.sum(1) * 2 <= n
        owner, rank = np.nonzero(goes == of_right[sets, None])
        owners.append(sets[owner])
        found.append(rank)
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    owner = owner[order]
    offset = np.searchsorted(owner, np.arange(len(words) + 1))
    return Members(offset, column[owner], np.concatenate(found)[order], of_right)
