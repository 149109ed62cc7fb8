"""CUDA targets: the architectures that code is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import TargetError
from .platforms import Platform

KIND = "cuda"
DEFAULT = ("sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
"""What "cuda" stands for: one of each generation, and sm_86, which has less shared memory than sm_80."""
OLDEST = 80
PLATFORMS = (Platform("linux", "x86_64", "gnu"), Platform("linux", "aarch64", "gnu"))
"""Where NVIDIA has drivers for such GPUs, and artifacts are loaded in Python."""


@dataclass(frozen=True)
class CudaTarget:
    """A resolved CUDA target.

    Args:
        name: What the user asked for.
        archs: "sm_90" and the like, oldest first: cubins are made for each, and PTX for the first.
    """

    name: str
    archs: tuple[str, ...]


def named(name: str) -> dict[str, Any] | None:
    """The configuration that "cuda", or "cuda -arch=sm_90,sm_100", means, or None: it is neither.

    Raises:
        TargetError: the name begins so, and goes on otherwise.
    """
    first, *rest = name.split() or [""]
    if first != KIND:
        return None
    if not rest:
        return {"kind": KIND}
    matched = re.fullmatch(r"-arch=(\S+)", rest[0])
    if len(rest) > 1 or matched is None:
        raise TargetError(f"target {name!r}: 'cuda' may be followed by -arch=sm_90 or -arch=sm_90,sm_100 only")
    return {"kind": KIND, "arch": matched[1].split(",")}


def resolved(config: Mapping[str, Any], name: str) -> CudaTarget:
    """The target of a TVM configuration of kind cuda.

    Raises:
        TargetError: see `architectures`; or it names a host.
    """
    if config.get("host"):
        raise TargetError(f"target {name!r} names a host: give a list instead, such as ['x86-64-v3', 'cuda']")
    return CudaTarget(name, architectures(config, name))


def architectures(config: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The architectures of a TVM target configuration of kind cuda, oldest first.

    Args:
        config: Its ``arch``, a name such as "sm_90" or a list of such; absent: `DEFAULT`.
        name: What the user asked for.

    Raises:
        TargetError: an architecture is none, or is older than sm_80.
    """
    given = config.get("arch", DEFAULT)
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, Sequence) or not listed or not all(isinstance(arch, str) for arch in listed):
        raise TargetError(f"target {name!r}: arch must be a name such as 'sm_90', or a list of such, found {given!r}")
    return tuple(f"sm_{number}" for number in sorted({_number(arch, name) for arch in listed}))


def _number(arch: str, name: str) -> int:
    # TVM's tags name sm_90a and the like, whose code runs on no other GPU; that for sm_90 runs there as well.
    found = re.fullmatch(r"sm_(\d{2,3})[af]?", arch)
    if found is None:
        raise TargetError(f"target {name!r}: arch must be a name such as 'sm_90', found {arch!r}")
    if int(found[1]) < OLDEST:
        raise TargetError(f"target {name!r}: {arch!r} is too old; CUDA code is made for sm_{OLDEST} and later")
    return int(found[1])
