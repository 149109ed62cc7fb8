"""The vectors of a target, which kernels and their costs depend on."""

from __future__ import annotations

from collections.abc import Collection

AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
"""The features that kernels for 512-bit vectors need."""

VBMI, WIDE, AVX2, NARROW, NONE = "avx512vbmi", "avx512", "avx2", "128 bits", "none"
"""512-bit vectors with byte permutations and bit matrices, without these, 256-bit, 128-bit, and no vectors."""
KINDS = (
    (VBMI, AVX512 | {"avx512vbmi", "gfni"}),
    (WIDE, AVX512),
    (AVX2, frozenset({"avx2"})),
    *((NARROW, frozenset({feature})) for feature in ("sse3", "neon", "simd128")),
)


def vectors_of(features: Collection[str]) -> str:
    """The best vectors that a target with these features, by LLVM's names, has for the kernels."""
    return next((kind for kind, needed in KINDS if needed <= set(features)), NONE)
