"""CUDA targets: the architectures that code is asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from .errors import TargetError

DEFAULT = ("sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
"""What "cuda" stands for: one of each generation, and sm_86, which has less shared memory than sm_80."""
OLDEST = 80


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
