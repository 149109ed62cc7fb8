"""Whether an artifact computes on the GPU what it should: of rows at the model's own thresholds, in every form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..check import unequal_bits, unequal_leaves
from . import peers

METHOD_ERROR, LABELS = 1e-6, 1e-3
"""Error of probabilities, and share of labels, that a link's rounding may explain: labels hang on it where two
probabilities nearly agree."""


def wrong(gpu: Any, cpu: Any, place: Path, torch: Any) -> str | None:
    """What differs first of the rows at thresholds, or None.

    Args:
        gpu, cpu: The artifact on either.
        place: The model's folder.
        torch: PyTorch, if it is here.
    """
    near, scores, leaves = (np.load(place / f"{name}.npy") for name in ("near", "scores", "leaves"))
    model = gpu._program.gpu
    many = model.few_rows * model.device.multiprocessors + 77
    for n in (1, 33, len(near), min(many, 2**17)):
        at = np.arange(n) % len(near)
        rows = np.ascontiguousarray(near[at])
        found = unequal_bits(gpu.predict_raw(rows), scores[at], f"raw scores of {n} rows")
        found = found or unequal_leaves(gpu.apply(rows), leaves[at])
        other = rows.astype(np.float32 if rows.dtype == np.float64 else np.float64)
        found = found or unequal_bits(gpu.predict_raw(other), cpu.predict_raw(other), f"{other.dtype}: {n} rows")
        found = found or unequal_leaves(gpu.apply(other), cpu.apply(other))
        if torch is not None and found is None:
            with torch.cuda.stream(torch.cuda.Stream()):
                there = torch.from_numpy(rows).cuda()
                found = unequal_bits(gpu.predict_raw(there).cpu().numpy(), scores[at], f"torch: raw scores, {n} rows")
                found = found or unequal_leaves(gpu.apply(there).cpu().numpy(), leaves[at])
                found = found or methods_differ(gpu, cpu, there, rows)
        if found:
            return found
    return None


def methods_differ(gpu: Any, cpu: Any, there: Any, rows: np.ndarray) -> str | None:
    """What a method makes of rows in the memory of the GPU that it does not make of them on the CPU, but for what
    rounding explains; or None."""
    for name in ("predict", "predict_proba"):
        if not hasattr(cpu, name):
            continue
        got, want = peers.to_numpy(getattr(gpu, name)(there)), np.asarray(getattr(cpu, name)(rows))
        if got.shape != want.shape or got.dtype != want.dtype:
            return f"{name}: {got.dtype} {got.shape}, the CPU has {want.dtype} {want.shape}"
        labels = want.dtype.kind != "f"
        far = got != want if labels else ~np.isclose(got, want, METHOD_ERROR, METHOD_ERROR, equal_nan=True)
        if far.mean() > (LABELS if labels else 0.0):
            return f"{name}: {far.sum():,} of {far.size:,} are not the CPU's"
    return None
