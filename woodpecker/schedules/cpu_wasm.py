"""Idioms for WebAssembly's 128-bit vectors: LLVM takes bits for masks, and back, apart bit by bit there."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx

from ..relay_ops.predicate import Expr
from .cpu_neon import chosen_by, rank_planes
from .tir import const, register, vector_register

FEATURES = {"simd128"}
SIMD128 = "simd128"
"""The flag of layouts for targets with these vectors."""
WIDTHS = {
    f"{kind}{bits}x64": bits for kind, bits in (("float", 32), ("float", 64), ("int", 8), ("uint", 8), ("int", 32))
}
"""What is compared, 64 rows of it -> bits of a lane."""
LEAST_PLACES = 16
"""Bytes that an instruction looks one up among."""
__all__ = ["FEATURES", "LEAST_PLACES", "SIMD128", "chosen_by", "look_up", "rank_planes", "word_of"]


def word_of(chosen: Expr) -> Expr:
    """64 comparisons, boolx64 -> a bit of each, uint64: bytes of all ones or zeros, and 16 of these to bits at a time.

    What is compared decides how wide the results are, and LLVM narrows them lane by lane: halves are packed here.
    """
    width = WIDTHS[str(chosen.a.ty.dtype)]
    ones, zeros = (tirx.Broadcast(const(v, f"int{width}"), 64) for v in (-1, 0))
    lanes = vector_register(tirx.Select(chosen, ones, zeros))
    if width == 64:
        words = tirx.reinterpret("int32x128", lanes)
        lanes = vector_register(tirx.Shuffle([words], [const(2 * i) for i in range(64)]))
    size = 4 if width > 8 else 16
    parts = [tirx.Shuffle([lanes], [const(at + i) for i in range(size)]) for at in range(0, 64, size)]
    if width > 8:
        parts = _packed(_packed(parts, "int16x8", "v8i16.v4i32"), "int8x16", "v16i8.v8i16")
    word = None
    for i, part in enumerate(parts):
        bits = tirx.call_llvm_pure_intrin("int32", "llvm.wasm.bitmask.v16i8", part)
        shifted = tirx.Cast("uint64", tirx.reinterpret("uint32", bits)) << const(16 * i, "uint64")
        word = shifted if word is None else word | shifted
    return register(word)


def _packed(parts: Sequence[Expr], dtype: str, types: str) -> list[Expr]:
    name = f"llvm.wasm.narrow.signed.{types}"
    return [
        vector_register(tirx.call_llvm_pure_intrin(dtype, name, a, b))
        for a, b in zip(parts[::2], parts[1::2], strict=True)
    ]


def look_up(parts: Sequence[Expr], number: Expr) -> Expr:
    """64 bytes at 64 numbers among vectors of 16 bytes: an instruction gives 0 for a number beyond its vector."""
    found = []
    for at in range(0, 64, 16):
        numbers = vector_register(tirx.Shuffle([number], [const(at + i) for i in range(16)]))
        total = None
        for i, part in enumerate(parts):
            own = numbers - tirx.Broadcast(const(16 * i, "uint8"), 16)
            byte = tirx.call_llvm_pure_intrin("uint8x16", "llvm.wasm.swizzle", part, own)
            total = byte if total is None else total | byte
        found.append(vector_register(total))
    return vector_register(tirx.Shuffle(found, [const(i) for i in range(64)]))
