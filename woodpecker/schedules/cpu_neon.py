"""Idioms for 64-bit ARM: bits to bytes and back, which take its 128-bit vectors several instructions, and look-ups."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from ..relay_ops.predicate import Expr
from .tir import const, vector_register

FEATURES = {"neon"}
NEON = "neon"
"""The flag of layouts for targets with these vectors, which code for 32-bit ARM does not use."""
REGISTERS = 4
"""Registers of 16 bytes that one instruction looks bytes up in."""


def _bit_of_byte(lanes: int) -> Expr:
    """1, 2, 4, .. 128, over and over."""
    words = tirx.Broadcast(tirx.const(0x8040201008040201, "uint64"), lanes // 8)
    return tirx.reinterpret(f"uint8x{lanes}", words)


def word_of(chosen: Expr) -> Expr:
    """64 comparisons, boolx64 -> a bit of each, uint64: the bits of eight rows are added up to a byte, by halves."""
    bits = tirx.Select(chosen, _bit_of_byte(64), tirx.Broadcast(const(0, "uint8"), 64))
    bits = vector_register(bits)
    parts = [tirx.Shuffle([bits], [const(at + i) for i in range(16)]) for at in range(0, 64, 16)]
    while len(parts) > 1:
        parts = [_pairs(a, b) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return tirx.Shuffle([tirx.reinterpret("uint64x2", _pairs(parts[0], parts[0]))], [const(0)])


def _pairs(a: Expr, b: Expr) -> Expr:
    """The sums of neighbours, of a and then of b."""
    return vector_register(tirx.call_llvm_pure_intrin("uint8x16", "llvm.aarch64.neon.addp.v16i8", a, b))


def chosen_by(word: Expr) -> Expr:
    """The inverse of `word_of`, uint64 -> boolx64."""
    octets = vector_register(tirx.reinterpret("uint8x64", tirx.Broadcast(word, 8)))
    spread = tirx.Shuffle([octets], [const(i // 8) for i in range(64)])
    return (spread & _bit_of_byte(64)) != tirx.Broadcast(const(0, "uint8"), 64)


def look_up(parts: Sequence[Expr], number: Expr) -> Expr:
    """64 bytes at 64 numbers among REGISTERS vectors of 16 bytes."""
    found = []
    for at in range(0, 64, 16):
        numbers = tirx.Shuffle([number], [const(at + i) for i in range(16)])
        found.append(
            vector_register(tirx.call_llvm_pure_intrin("uint8x16", "llvm.aarch64.neon.tbl4.v16i8", *parts, numbers))
        )
    return vector_register(tirx.Shuffle(found, [const(i) for i in range(64)]))
