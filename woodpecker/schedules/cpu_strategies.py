"""The inner part of the CPU kernels: from a group of trees and one of rows to leaf positions, a function a strategy."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout, Signature
from ..relay_ops import bitslice, gemm, perfect_tree_traversal, scan, tree_traversal
from ..relay_ops.predicate import Expr
from . import cpu_bitslice, cpu_bytes, cpu_masks, cpu_scan
from .tir import Fill, Frame, Sink, const, register, scratch_view


def _walks(frame: Frame, root: Callable[[int], Expr]) -> list[tuple[int, int, Any]]:
    """(tree, lane, place) of each walk of a group; the place, a register, starts at the root of its tree."""
    walks = []
    for tree in range(frame.trees):
        start = register(root(tree))
        for lane in range(frame.lanes):
            place = TB.alloc_buffer((1,), str(start.ty.dtype), scope="global")
            TB.buffer_store(place, start, [0])
            walks.append((tree, lane, place))
    return walks


def _value_of(frame: Frame, group: Expr, lane: int) -> Callable[[Expr], Expr]:
    return lambda column: frame.V[frame.place(column, group, const(lane))]


def tree_walk(frame: Frame, t: Expr, group: Expr, sink: Sink) -> None:
    """
    p[..] = base[t ..]                                  # for each of `trees` trees and `interleave` rows
    levels = the largest depth of these trees
    while levels > 0:
        for each of `unroll` levels, for each walk:     p = step(p)
        levels = any p has moved in the last of them ? levels - unroll : 0
    """
    tables, bits = frame.tables, frame.scalar("link_bits")
    unroll = frame.signature.constant("unroll")
    first = register(group * const(frame.lanes))
    walks = _walks(frame, lambda tree: tirx.Cast("int64", tables["tree_base"][t + const(tree)]))
    depth = register(tables["tree_depth"][t])
    for tree in range(1, frame.trees):
        depth = register(tirx.max(depth, tables["tree_depth"][t + const(tree)]))
    levels = TB.alloc_buffer((1,), "int32", scope="global")
    TB.buffer_store(levels, depth, [0])
    with TB.While(levels[0] > const(0)):
        moved: Expr = const(0, "int64")
        for level in range(unroll):
            for _, lane, p in walks:
                at, value_at = register(p[0]), _value_of(frame, group, lane)
                TB.buffer_store(p, tree_traversal.step(at, value_at, tables, bits, register), [0])
                if level == unroll - 1:
                    moved = register(moved | (p[0] ^ at))
        TB.buffer_store(levels, tirx.Select(moved == const(0, "int64"), const(0), levels[0] - const(unroll)), [0])
    _sink_each(frame, t, first, walks, sink, lambda place, tree: tirx.Cast("int32", place))


def heap_walk(frame: Frame, t: Expr, group: Expr, sink: Sink) -> None:
    """
    i[..] = 1                                           # for each of `trees` trees and `interleave` rows
    for each of `depth` levels, for each walk:          i = 2 * i + goes_right(...)
    """
    depth = frame.scalar("depth")
    first = register(group * const(frame.lanes))
    walks = _walks(frame, lambda tree: const(1, "int64"))
    heap = register(tirx.Cast("int64", t * ((const(1) << depth) - const(1))))
    with TB.serial(0, depth):
        for tree, lane, i in walks:
            at, value_at = register(i[0]), _value_of(frame, group, lane)
            mine = heap + const(tree, "int64")
            below = perfect_tree_traversal.step(at, mine, frame.trees, value_at, frame.tables, register)
            TB.buffer_store(i, below, [0])

    def position(i: Expr, tree: int) -> Expr:
        return perfect_tree_traversal.leaf_position(tirx.Cast("int32", i), t + const(tree), depth)

    _sink_each(frame, t, first, walks, sink, position)


def _sink_each(
    frame: Frame, t: Expr, first: Expr, walks: list[tuple[int, int, Any]], sink: Sink, position: Callable[..., Expr]
) -> None:
    """The ends of all walks, tree by tree, so that every row's sum stays in the order of the trees."""
    for tree, lane, place in walks:
        sink(t + const(tree), first + const(lane), register(position(place[0], tree)))


def matrix_products(frame: Frame, t: Expr, group: Expr, sink: Sink) -> None:
    """
    for each test i:   S[i, 0..L] = goes_right(V[column[t, i], 0..L], bound[t, i])
    hit[0..L] = 0
    for each leaf l:
        reached[0..L] = sum over i of S[i, 0..L] * path[t, i, l]
        hit[0..L] += reached == rights[t, l] ? l : 0
    """
    tables, lanes = frame.tables, frame.lanes
    dtype = dict(frame.signature.tables)["path"]
    tests, leaves = frame.scalar("n_tests"), frame.scalar("n_leaves")
    S = scratch_view(frame, "int8", frame.extra)
    first = register(group * const(lanes))
    categorical = "node_bitset" in tables
    with TB.serial(0, tests) as i:
        at = register(t * tests + i)
        start = register(frame.place(tables["test_column"][at], group, const(0)))
        if categorical:
            with TB.serial(0, lanes) as lane:
                outcome = gemm.test(at, frame.V[start + lane], tables)
                TB.buffer_store(S, tirx.Cast("int8", outcome), [i * const(lanes) + lane])
        else:
            values = frame.V[tirx.Ramp(start, const(1, "int64"), lanes)]
            left = values <= tirx.Broadcast(tables["bound"][at], lanes)
            zero, one = (tirx.Broadcast(const(v, "int8"), lanes) for v in (0, 1))
            TB.buffer_store(S, tirx.Select(left, zero, one), [tirx.Ramp(i * const(lanes), const(1), lanes)])
    hit = TB.alloc_buffer((lanes,), "int32", scope="global")
    every = tirx.Ramp(const(0), const(1), lanes)
    TB.buffer_store(hit, tirx.Broadcast(const(0), lanes), [every])
    with TB.serial(0, leaves) as l:
        reached = TB.alloc_buffer((lanes,), dtype, scope="global")
        TB.buffer_store(reached, tirx.Broadcast(const(0, dtype), lanes), [every])
        with TB.serial(0, tests) as i:
            entry = tirx.Broadcast(tables["path"][(t * tests + i) * leaves + l], lanes)
            outcome = S[tirx.Ramp(i * const(lanes), const(1), lanes)]
            # S is 0 or 1, so the product is a choice, which vector units do faster than an 8-bit multiplication.
            product = tirx.Select(outcome != tirx.Broadcast(const(0, "int8"), lanes), entry, _zeros(dtype, lanes))
            TB.buffer_store(reached, reached[every] + product, [every])
        match = reached[every] == tirx.Broadcast(tables["rights"][t * leaves + l], lanes)
        number = tirx.Broadcast(tirx.Cast("int32", l), lanes)
        TB.buffer_store(hit, hit[every] + tirx.Select(match, number, _zeros("int32", lanes)), [every])
    with TB.serial(0, lanes) as lane:
        position = register(t * leaves + hit[lane])
        sink(t, first + lane, position)


def _zeros(dtype: str, lanes: int) -> Expr:
    return tirx.Broadcast(const(0, dtype), lanes)


STRATEGIES: dict[str, Callable[[Frame, Expr, Expr, Sink], None]] = {
    tree_traversal.NAME: tree_walk,
    perfect_tree_traversal.NAME: heap_walk,
    gemm.NAME: matrix_products,
    bitslice.NAME: cpu_bitslice.circuits,
    scan.NAME: cpu_scan.leaves,
}

PROLOGUES: dict[str, Callable[[Frame, Fill], None]] = {
    bitslice.NAME: cpu_masks.masks,
    scan.NAME: cpu_scan.byte_columns,
}
"""What a strategy does once for a row block, before its first tree; it fills V itself, a few columns at a time."""

SCRATCH: dict[str, Callable[[Layout], int]] = {
    gemm.NAME: lambda layout: layout.constants["lanes"] * layout.scalars["n_tests"],
    bitslice.NAME: cpu_bitslice.scratch_bytes,
    scan.NAME: cpu_scan.scratch_bytes,
}
"""Bytes of scratch that a strategy needs of its own."""

LANES: dict[str, Callable[[Layout | Signature], int]] = {
    tree_traversal.NAME: lambda known: dict(known.constants)["interleave"],
    perfect_tree_traversal.NAME: lambda known: dict(known.constants)["interleave"],
    gemm.NAME: lambda known: dict(known.constants)["lanes"],
    bitslice.NAME: lambda known: dict(known.constants)["rows"],
    scan.NAME: lambda known: dict(known.constants)["rows"],
}
"""Rows of a group, which the row block is a multiple of."""

STAGES: dict[str, Callable[[Layout, Collection[str]], Layout]] = {
    bitslice.NAME: cpu_bitslice.target_stages,
    scan.NAME: cpu_scan.target_stages,
}
"""The tables of stages that need features of the target."""


def adder(signature: Signature) -> Callable[[Frame, Expr, Any], None] | None:
    """What adds the leaf values of a tree to the sums of all rows of a block, where a strategy does this by itself."""
    if signature.strategy == scan.NAME:
        return None if {"vector", "linear"} & signature.flags else cpu_scan.add
    return cpu_bitslice.add_by_byte_planes if cpu_bytes.BYTE_PLANES in signature.flags else None


def trees_of(known: Layout | Signature) -> int:
    """Trees that a strategy evaluates together."""
    return int(dict(known.constants).get("trees", 1))
