"""Targets with 128-bit vectors and no registers of bits: whose idioms theirs are."""

from __future__ import annotations

from collections.abc import Collection
from types import ModuleType

from . import cpu_neon, cpu_wasm

_IDIOMS: dict[str, ModuleType] = {cpu_neon.NEON: cpu_neon, cpu_wasm.SIMD128: cpu_wasm}


def flags(features: Collection[str]) -> frozenset[str]:
    """The flag of the layouts of such a target; of others none."""
    return frozenset(flag for flag, module in _IDIOMS.items() if set(features) >= module.FEATURES)


def idioms(flags: Collection[str]) -> ModuleType | None:
    """`cpu_neon` or `cpu_wasm`, by the flags of a layout; None for other targets."""
    return next((module for flag, module in _IDIOMS.items() if flag in flags), None)
