"""What a manifest says of CUDA code, and which device a user names; read without a driver."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..errors import ArtifactError, InputError


def device_number(device: Any) -> int | None:
    """The number of the GPU that ``device`` names, or None: the CPU.

    Raises:
        InputError: it is neither None, "cpu", "cuda" (the first GPU) nor "cuda:0" and the like.
    """
    if device is None or (isinstance(device, str) and device == "cpu"):
        return None
    found = re.fullmatch(r"cuda(?::([0-9]{1,4}))?", device) if isinstance(device, str) else None
    if found is None:
        raise InputError(f"device must be None, 'cpu', 'cuda' or 'cuda:0' and the like, found {device!r}")
    return int(found[1] or 0)


def check_cuda(manifest: Mapping[str, Any], what: str) -> None:
    """Raise ArtifactError unless the model has CUDA code."""
    if manifest.get("cuda") is None:
        raise ArtifactError(f"{what} has no CUDA code: compile the model with target='cuda'")


def gpus(manifest: Mapping[str, Any]) -> str:
    """On which GPUs a model with this manifest, or `inspect` of it, runs, for people; "" for one without CUDA code."""
    half = manifest.get("cuda")
    if half is None:
        return ""
    cubins = [code["arch"] for code in half["codes"] if code["kind"] == "cubin"]
    texts = [f"{code['arch']} and later" for code in half["codes"] if code["kind"] == "ptx"]
    return f"NVIDIA GPUs: cubins for {', '.join(cubins)}; PTX for {', '.join(texts)} (never run by us)"


def summary(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `inspect` says of the CUDA half, or None: there is none."""
    half = manifest.get("cuda")
    if half is None:
        return None
    codes = [{key: code[key] for key in ("kind", "arch", "bytes")} for code in half["codes"]]
    return {"codes": codes, "plan": half["plan"], "tuning": half.get("tuning")}
