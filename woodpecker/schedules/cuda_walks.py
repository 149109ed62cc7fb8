"""The inner part of CUDA kernels: a thread walks a row through a group of trees, a function a strategy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..relay_ops import perfect_tree_traversal, tree_traversal
from ..relay_ops.predicate import Expr
from . import cuda_ranks
from .cuda_tir import Frame, register, variable
from .tir import const


@dataclass(frozen=True)
class _From:
    """A table as it is seen from a place on."""

    table: Any
    start: Expr

    def __getitem__(self, index: Expr) -> Expr:
        return self.table[self.start + index]


@dataclass(frozen=True)
class _Record:
    """The record of a node, which is one load: two would ask the cache twice."""

    link: Expr
    word: Expr

    def __getitem__(self, index: Any) -> Expr:
        return (self.link, self.word)[int(index)]


_HALF = const(32, "uint64")


def tree_walk(frame: Frame, trees: Sequence[Expr], row: Expr) -> list[Expr]:
    """The leaf positions, int32, of a row of the block in these trees.

    p[..] = base[tree]
    levels = the largest depth of these trees
    while levels > 0:
        for each tree:  p = step(p)
        levels = any p has moved ? levels - 1 : 0
    """
    tables, bits, value_at = frame.tables, frame.scalar("link_bits"), frame.value_of(row)
    # 32 bits without a sign number all nodes, and cost no instruction to become an address.
    places = [variable(tirx.Cast("uint32", tables["tree_base"][t])) for t in trees]
    depth = register(tables["tree_depth"][trees[0]])
    for t in trees[1:]:
        depth = register(tirx.max(depth, tables["tree_depth"][t]))
    levels = variable(depth)
    with TB.While(levels[0] > const(0)):
        moved: Expr = const(0, "uint32")
        for p in places:
            at = register(p[0])
            node = _node(frame, tirx.Cast("int64", at))
            below = tree_traversal.step(const(0, "int64"), value_at, node, bits, register)
            below = register(tirx.Cast("uint32", below))
            moved = moved | (below ^ at)
            TB.buffer_store(p, below, [0])
        TB.buffer_store(levels, tirx.Select(moved == const(0, "uint32"), const(0), levels[0] - const(1)), [0])
    return [register(tirx.Cast("int32", p[0])) for p in places]


def _node(frame: Frame, at: Expr) -> dict[str, Any]:
    """The tables that a step reads, as seen from a node."""
    tables = frame.tables
    seen: dict[str, Any] = {
        name: _From(tables[name], at) for name in ("link", "bound", "node_bitset") if name in tables
    }
    if "node" in tables:
        both = register(frame.records[at])
        seen["node"] = _Record(register(tirx.Cast("uint32", both)), register(tirx.Cast("uint32", both >> _HALF)))
    return {**tables, **seen}


def heap_walk(frame: Frame, trees: Sequence[Expr], row: Expr) -> list[Expr]:
    """The leaf positions, int32, of a row of the block in these trees.

    i[..] = 1
    for each of `depth` levels, for each tree:  i = 2 * i + goes_right(...)
    """
    depth, together, value_at = frame.scalar("depth"), frame.signature.constant("trees"), frame.value_of(row)
    group = register(const(together) * ((const(1) << depth) - const(1)))
    roots = []
    for t in trees:
        root = tirx.truncdiv(t, const(together)) * group + tirx.truncmod(t, const(together))
        roots.append(register(tirx.Cast("uint32", root)))
    places = [variable(const(1, "uint32")) for _ in trees]
    with TB.serial(0, depth):
        for root, i in zip(roots, places, strict=True):
            at = register(i[0])
            node = _node(frame, tirx.Cast("int64", root + (at - const(1, "uint32")) * const(together, "uint32")))
            right = perfect_tree_traversal.test(const(0, "int64"), value_at, node, register)
            TB.buffer_store(i, const(2, "uint32") * at + tirx.Cast("uint32", right), [0])
    return [
        register(perfect_tree_traversal.leaf_position(tirx.Cast("int32", i[0]), t, depth))
        for t, i in zip(trees, places, strict=True)
    ]


_WALKS: dict[str, Callable[[Frame, Sequence[Expr], Expr], list[Expr]]] = {
    tree_traversal.NAME: tree_walk,
    perfect_tree_traversal.NAME: heap_walk,
}


def walk(frame: Frame, trees: Sequence[Expr], row: Expr) -> list[Expr]:
    """The leaf positions, int32, of a row of the block in these trees."""
    if cuda_ranks.RANKED in frame.signature.flags:
        return cuda_ranks.walk(frame, trees, row)
    return _WALKS[frame.signature.strategy](frame, trees, row)
