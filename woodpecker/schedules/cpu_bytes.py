"""Leaf values by byte permutations.

A tree's leaf values are stored as byte planes (all first bytes, all second bytes, ...): an instruction looks up a byte
for each of 64 rows in a plane, and unpacking interleaves the bytes to values. Unpacking works within 128-bit lanes, so
the values come out in another order, `shuffled`, in which they are summed and which is undone once a block.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Sequence, Set
from types import ModuleType
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout
from ..relay_ops.predicate import Expr
from ..relay_ops.vectors import AVX512
from . import cpu_narrow, cpu_neon, cpu_wasm
from .tir import ITEMSIZE, Frame, const, register, vector_register

BYTE_PLANES = "byte_planes"
"""The flag of layouts whose leaf values are byte planes."""


LOOK_UPS: tuple[tuple[Set[str], int, int], ...] = (
    ({*AVX512, "avx512vbmi"}, 64, 8),
    ({"avx2"}, 16, 6),
    (cpu_neon.FEATURES, 64, 6),
    (cpu_wasm.FEATURES, 16, 6),
)
"""Features, how many bytes an instruction looks one up among for each row, and up to which bits of a leaf number this
was measured to be faster than a load for each row; NEON: counted to be fewer instructions."""
MAX_BYTES = 2**28


def byte_planes(layout: Layout, features: Collection[str]) -> Layout:
    """The leaf values as byte planes, where the target can look bytes up and the forest allows it."""
    bits = layout.constants["bits"]
    widths = [width for needed, width, most in LOOK_UPS if set(features) >= needed and bits <= most]
    places = max(64, 2**bits)
    fits = layout.scalars["n_trees"] * places * 8 <= MAX_BYTES
    if not widths or not fits or {"vector", "linear"} & layout.flags:
        return Layout({}, {}, {}, frozenset())
    value = layout.tables["value"]
    by_byte = value.reshape(-1, 2**bits).view(np.uint8).reshape(-1, 2**bits, value.itemsize).transpose(0, 2, 1)
    planes = np.zeros((len(by_byte), value.itemsize, places), np.uint8)
    planes[:, :, : 2**bits] = by_byte
    flags = frozenset({BYTE_PLANES}) | cpu_narrow.flags(features)
    return Layout({}, {"value_bytes": planes.reshape(-1)}, {"looked_up": widths[0]}, flags)


def add_values(frame: Frame, t: Expr, sums: Any, numbered: Iterable[tuple[Expr, Expr]]) -> None:
    """
    for each 64 rows, (first, number[0..64]) of ``numbered``:
        byte[b] = planes[t, b][number[0..64]]                       # for each byte b of a leaf value
        sums[output[t], first .. in `shuffled` order] += the bytes, interleaved
    """
    dtype = frame.signature.acc_dtype
    size, places = ITEMSIZE[dtype], max(64, 2 ** frame.signature.constant("bits"))
    lanes = 64 // size
    look_ups: dict[int, Callable[[Frame, Expr, Expr], Expr]] = {64: _look_up_64, 16: _look_up_16}
    look_up = look_ups[frame.signature.constant("looked_up")]
    if narrow := cpu_narrow.idioms(frame.signature.flags):
        look_up = functools.partial(_look_up_narrow, narrow)
    table = register(t * const(size * places))
    column = register(frame.by_column(frame.tables["tree_output"][t], const(0)))
    for first, numbers in numbered:
        number = vector_register(numbers)
        looked_up = [vector_register(look_up(frame, table + const(b * places), number)) for b in range(size)]
        for j, vector in enumerate(interleave(looked_up)):
            at = tirx.Ramp(column + first + const(j * lanes), const(1), lanes)
            TB.buffer_store(sums, sums[at] + tirx.reinterpret(f"{dtype}x{lanes}", vector), [at])


def _look_up_64(frame: Frame, table: Expr, number: Expr) -> Expr:
    """64 bytes at 64 numbers, by instructions that look up 64 or 128 bytes."""
    planes, places = frame.tables["value_bytes"], max(64, 2 ** frame.signature.constant("bits"))
    parts = [planes[tirx.Ramp(table + const(at), const(1), 64)] for at in range(0, places, 64)]
    if len(parts) == 1:
        return tirx.call_llvm_pure_intrin("uint8x64", "llvm.x86.avx512.permvar.qi.512", parts[0], number)
    halves = [
        tirx.call_llvm_pure_intrin("uint8x64", "llvm.x86.avx512.vpermi2var.qi.512", low, number, high)
        for low, high in zip(parts[::2], parts[1::2], strict=True)
    ]
    if len(halves) == 1:
        return halves[0]
    upper = tirx.reinterpret("int8x64", number) < tirx.Broadcast(const(0, "int8"), 64)
    return tirx.Select(upper, halves[1], halves[0])


def _look_up_16(frame: Frame, table: Expr, number: Expr) -> Expr:
    """64 bytes at 64 numbers, by instructions that look up 16 bytes in each 128 bits of a 256-bit vector."""
    planes, parts = frame.tables["value_bytes"], []
    for at in range(0, max(16, 2 ** frame.signature.constant("bits")), 16):
        part = planes[tirx.Ramp(table + const(at), const(1), 16)]
        parts.append(tirx.Shuffle([part, part], [const(i) for i in range(32)]))
    halves = []
    for half in (0, 32):
        numbers = vector_register(tirx.Shuffle([number], [const(half + i) for i in range(32)]))
        found = [tirx.call_llvm_pure_intrin("uint8x32", "llvm.x86.avx2.pshuf.b", part, numbers) for part in parts]
        bit = 16
        while len(found) > 1:
            clear = numbers & tirx.Broadcast(const(bit, "uint8"), 32)
            clear = clear == tirx.Broadcast(const(0, "uint8"), 32)
            found = [tirx.Select(clear, low, high) for low, high in zip(found[::2], found[1::2], strict=True)]
            bit *= 2
        halves.append(vector_register(found[0]))
    return vector_register(tirx.Shuffle(halves, [const(i) for i in range(64)]))


def _look_up_narrow(idioms: ModuleType, frame: Frame, table: Expr, number: Expr) -> Expr:
    planes = frame.tables["value_bytes"]
    places = max(idioms.LEAST_PLACES, 2 ** frame.signature.constant("bits"))
    parts = [planes[tirx.Ramp(table + const(at), const(1), 16)] for at in range(0, places, 16)]
    return idioms.look_up(parts, number)


def interleave(planes: Sequence[Expr]) -> list[Expr]:
    """Byte planes of 64 values -> the values, as vectors of 64 bytes in `shuffled` order."""
    groups, width = [[plane] for plane in planes], 1
    while len(groups) > 1:
        groups = [
            [vector_register(_unpack(a, b, width, half)) for a, b in zip(low, high, strict=True) for half in (0, 1)]
            for low, high in zip(groups[::2], groups[1::2], strict=True)
        ]
        width *= 2
    return groups[0]


def _unpack(a: Expr, b: Expr, width: int, half: int) -> Expr:
    """x86's punpckl (half 0) and punpckh (half 1): elements of ``width`` bytes of a and b in turn, in each 16 bytes."""
    indices = []
    for lane in range(0, 64, 16):
        for i in range(0, 8, width):
            at = lane + 8 * half + i
            indices += [*range(at, at + width), *range(64 + at, 64 + at + width)]
    return tirx.Shuffle([a, b], [const(i) for i in indices])


def shuffled(r: Expr, size: int) -> Expr:
    """Where the sum of row r of a block stands after `interleave` of values of ``size`` bytes.

    Within 64 rows, row 16 * q + (16 / size) * j + e comes out in vector j, there in 128-bit lane q, element e.
    """
    run = 16 // size
    within = r & const(63)
    q, j, e = within >> const(4), (within & const(15)) >> const(run.bit_length() - 1), r & const(run - 1)
    return (r - within) + j * const(64 // size) + q * const(run) + e
