"""What machine code an artifact holds, and whether this machine can run it."""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ArtifactError

# LLVM's name of a CPU feature -> the flag of /proc/cpuinfo. Features that the code of an artifact may use and that
# not every CPU of its architecture has; the others are in the architecture's baseline.
X86_FLAGS = {
    "sse3": "pni", "ssse3": "ssse3", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "popcnt": "popcnt", "avx": "avx",
    "avx2": "avx2", "fma": "fma", "f16c": "f16c", "bmi": "bmi1", "bmi2": "bmi2", "lzcnt": "abm", "movbe": "movbe",
    "avx512f": "avx512f", "avx512bw": "avx512bw", "avx512cd": "avx512cd", "avx512dq": "avx512dq",
    "avx512vl": "avx512vl", "avx512vbmi": "avx512vbmi", "avx512vbmi2": "avx512_vbmi2", "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg", "avx512vpopcntdq": "avx512_vpopcntdq", "avx512ifma": "avx512ifma",
    "avx512bf16": "avx512_bf16", "avx512fp16": "avx512_fp16", "avxvnni": "avx_vnni", "gfni": "gfni", "vaes": "vaes",
    "vpclmulqdq": "vpclmulqdq", "adx": "adx", "sse4a": "sse4a", "xop": "xop", "fma4": "fma4", "tbm": "tbm",
}  # fmt: skip

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


def machine() -> str:
    """The architecture of this process, by LLVM's name."""
    name = platform.machine().lower()
    return MACHINES.get(name, name)


@functools.cache
def cpu_flags() -> frozenset[str] | None:
    """The flags of this CPU as Linux reports them, or None where it does not."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.split(":", 1)[1].split())
    except OSError:
        pass
    return None


def check(target: Mapping[str, Any], path: str) -> None:
    """Raise unless code for ``target`` (of a manifest) runs here.

    Raises:
        ArtifactError: says what the artifact was compiled for, what this machine is, and what to do.
    """
    here = (sys.platform, machine())
    there = (target["system"], target["machine"])
    if here != there:
        raise ArtifactError(
            f"{path} was compiled for {there[1]} on {there[0]}; this is {here[1]} on {here[0]}. Compile the model for "
            "this machine"
        )
    flags = cpu_flags()
    if flags is None:
        return
    absent = [name for name in target["features"] if X86_FLAGS.get(name, name) not in flags]
    if absent:
        raise ArtifactError(
            f"{path} was compiled for a {target['cpu']} and needs {', '.join(absent)}, which this CPU has not. "
            'Compile the model on this machine, or for an older CPU, such as target="x86-64-v2"'
        )
