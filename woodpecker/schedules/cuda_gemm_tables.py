"""The tables of gemm on a GPU: matrices in the order in which the threads of a warp hold them.

A tree of L leaves has L places among the rows of a matrix: its inner nodes, and one for a test that always goes right,
whose entries count for each leaf the nodes that it lies right of. So with S = -1 where a row goes right, else 0,

    sum over places i of  S[i] * M[i, l]        M[i, l] = -1 where leaf l lies right of node i, 1 where left, else 0

is 0 for the leaf that the row is in, and less for all others: minus the tests on the way to it that go the other way.
Trees are padded to L = 4, 8, 16 or a multiple of 32 leaves, and as many as have room share a matrix of 32 by 32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..forest import LEAF, tree_leaves, tree_of_node
from ..layout import Layout
from ..predicates import Canonical
from . import cuda_bytes
from .cuda_bytes import COPIES

SIZE = 32
"""Rows and columns of the matrices that threads multiply at once."""
TREES = 8
"""Trees of a group: their leaf numbers are the columns of one product."""


@dataclass(frozen=True)
class Shape:
    """How trees share matrices.

    Args:
        leaves: Of a tree, padded.
        units: Matrices of a group of trees; of several trees each, where these are small.
        tiles: Along each side of a matrix, of SIZE.
    """

    leaves: int
    units: int
    tiles: int

    @property
    def together(self) -> int:
        """Trees of a matrix."""
        return TREES // self.units


def shape(canonical: Canonical) -> Shape:
    most = int(tree_leaves(canonical.forest).max(initial=1))
    leaves = next((n for n in (4, 8, 16) if most <= n), -(-most // SIZE) * SIZE)
    return Shape(leaves, TREES // max(SIZE // leaves, 1), -(-leaves // SIZE))


def prepare(canonical: Canonical, layout: Layout, pitch: int) -> Layout:
    """The tables from those of `relay_ops.gemm`.

    test: of each matrix the rows, two words each: where a byte column begins, and four copies of the least
        byte that goes right.
    path: of each matrix, for each 32 columns and each 32 rows: the fragments b of its four blocks of 8 columns, those
        of two blocks beside each other.
    number: for each matrix of a group and 32 columns: the fragment b that makes leaf numbers, a column a tree.
    """
    of = shape(canonical)
    scalars = {"number_base": of.leaves * (of.leaves - 1) // 2}
    scalars |= {"n_tiles": of.tiles} if of.tiles > 1 else {}
    tables = {"test": _tests(canonical, of, pitch), "path": _paths(layout, of), "number": _numbers(of)}
    return Layout(scalars, tables, {"units": of.units}, frozenset())


def _padded(n_trees: int) -> int:
    return -(-n_trees // TREES) * TREES


def _tests(canonical: Canonical, of: Shape, pitch: int) -> np.ndarray:
    forest = canonical.forest
    test = np.zeros((_padded(forest.n_trees), of.leaves, 2), np.int64)
    test[..., 0] = cuda_bytes.count(canonical)  # bytes of 128, of which less than 1 is not less than 128
    inner = np.flatnonzero(forest.kind != LEAF)
    tree = tree_of_node(forest)[inner]
    place = np.arange(len(inner)) - np.searchsorted(tree, tree)
    column, least = cuda_bytes.tests(canonical, inner)
    test[tree, place] = np.stack([column, least], 1)
    return (test * [pitch, COPIES]).astype(np.uint32).reshape(-1)


def matrices(layout: Layout, of: Shape) -> np.ndarray:
    """(trees, padded to whole groups; leaves; leaves): M of each tree."""
    n_trees, n_tests, n_leaves = (layout.scalars[name] for name in ("n_trees", "n_tests", "n_leaves"))
    path = layout.tables["path"].reshape(n_trees, n_tests, n_leaves)
    rights = layout.tables["rights"].reshape(n_trees, n_leaves)
    own = np.zeros((_padded(n_trees), of.leaves, of.leaves), np.int8)
    tests = min(n_tests, of.leaves - 1)
    own[:n_trees, :tests, :n_leaves] = -path[:, :tests]
    own[:, -1] = 1  # padding is never hit
    real = rights != np.iinfo(rights.dtype).max
    own[:n_trees, -1, :n_leaves] = np.where(real, rights, 1)
    return own


def _paths(layout: Layout, of: Shape) -> np.ndarray:
    own = matrices(layout, of)
    together = of.together
    matrix = np.zeros((len(own) // together, together, of.leaves, together, of.leaves), np.int8)
    for i in range(together):
        matrix[:, i, :, i] = own[i::together]
    # (matrix, rows: tile, half, thread in its group, byte; columns: tile, pair, which of it, group of threads)
    parts = matrix.reshape(-1, of.tiles, 2, 4, 4, of.tiles, 2, 2, 8)
    # ... -> matrix, column tile, row tile, pair, (group, thread), which of the pair, half, byte
    return np.ascontiguousarray(parts.transpose(0, 5, 1, 6, 8, 3, 7, 2, 4)).view(np.uint32).reshape(-1)


def _numbers(of: Shape) -> np.ndarray:
    """Column j has the number of leaf l of its tree in that place of a row that `cuda_gemm` puts leaf l in."""
    unit, tile, half, thread, byte, column = np.ix_(*(range(n) for n in (of.units, of.tiles, 2, 4, 4, 8)))
    at = half * 16 + byte // 2 * 8 + thread * 2 + byte % 2  # of the matrix's 32 columns
    tree = unit * of.together + at // of.leaves
    number = np.where(tree == column, tile * SIZE + at % of.leaves, 0)
    return np.ascontiguousarray(number.astype(np.int8).transpose(0, 1, 5, 3, 2, 4)).view(np.uint32).reshape(-1)
