"""The inner part of the CPU kernels: from a tree and a group of rows to leaf positions, one function per strategy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout, Signature
from ..relay_ops import bitslice, gemm, perfect_tree_traversal, tree_traversal
from ..relay_ops.predicate import Expr
from . import cpu_bitslice
from .tir import Frame, Sink, const, register, scratch_view


def _cells(count: int) -> list[Any]:
    return [TB.alloc_buffer((1,), "int32", scope="global") for _ in range(count)]


def tree_walk(frame: Frame, t: Expr, group: Expr, sink: Sink) -> None:
    """
    p[0..L] = base[t]
    for _ in range(ceil(depth[t] / unroll)):
        for each of `unroll` levels, for each lane l:   p[l] = step(p[l])
    """
    tables, lanes = frame.tables, frame.lanes
    unroll = frame.signature.constant("unroll")
    base, bits = register(tables["tree_base"][t]), frame.scalar("link_bits")
    p = _cells(lanes)
    first = register(group * const(lanes))
    for lane in range(lanes):
        TB.buffer_store(p[lane], base, [0])
    with TB.serial(0, tirx.truncdiv(tables["tree_depth"][t] + const(unroll - 1), const(unroll))):
        for _ in range(unroll):
            for lane in range(lanes):

                def value_at(column: Expr, lane: int = lane) -> Expr:
                    return frame.V[frame.place(column, first + const(lane))]

                at = p[lane][0]
                TB.buffer_store(p[lane], tree_traversal.step(at, base, value_at, tables, bits, register), [0])
    for lane in range(lanes):
        sink(t, first + const(lane), p[lane][0])


def heap_walk(frame: Frame, t: Expr, group: Expr, sink: Sink) -> None:
    """
    i[0..L] = 0
    for each of `depth` levels, for each lane l:   i[l] = 2 * i[l] + 1 + goes_right(...)
    """
    tables, lanes = frame.tables, frame.lanes
    depth = frame.signature.constant("depth")
    heap = register(t * const(2**depth - 1))
    i = _cells(lanes)
    first = register(group * const(lanes))
    for lane in range(lanes):
        TB.buffer_store(i[lane], const(0), [0])
    for _ in range(depth):
        for lane in range(lanes):

            def value_at(column: Expr, lane: int = lane) -> Expr:
                return frame.V[frame.place(column, first + const(lane))]

            TB.buffer_store(i[lane], perfect_tree_traversal.step(i[lane][0], heap, value_at, tables, register), [0])
    for lane in range(lanes):
        position = register(perfect_tree_traversal.leaf_position(i[lane][0], t, depth))
        sink(t, first + const(lane), position)


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
        start = register(frame.place(tables["test_column"][at], first))
        if categorical:
            with TB.serial(0, lanes) as lane:
                outcome = gemm.test(at, frame.V[start + lane], tables)
                TB.buffer_store(S, tirx.Cast("int8", outcome), [i * const(lanes) + lane])
        else:
            values = frame.V[tirx.Ramp(start, const(1), lanes)]
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
}

PROLOGUES: dict[str, Callable[[Frame], None]] = {bitslice.NAME: cpu_bitslice.masks}
"""What a strategy does once for a row block, before its first tree."""

SCRATCH: dict[str, Callable[[Layout], int]] = {
    gemm.NAME: lambda layout: layout.constants["lanes"] * layout.scalars["n_tests"],
    bitslice.NAME: cpu_bitslice.scratch_bytes,
}
"""Bytes of scratch that a strategy needs of its own."""

LANES: dict[str, Callable[[Layout | Signature], int]] = {
    tree_traversal.NAME: lambda known: dict(known.constants)["interleave"],
    perfect_tree_traversal.NAME: lambda known: dict(known.constants)["interleave"],
    gemm.NAME: lambda known: dict(known.constants)["lanes"],
    bitslice.NAME: lambda _: bitslice.ROWS,
}
"""Rows of a group, which the row block is a multiple of."""
