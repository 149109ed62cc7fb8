"""What machine code an artifact holds, and whether this machine can run it."""

from __future__ import annotations

import functools
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import ArtifactError, InputError

LEVEL_VARIABLE = "WOODPECKER_CPU_LEVEL"

# LLVM's name of a CPU feature -> the flag of /proc/cpuinfo. Features that the code of an artifact may use and that
# not every CPU of its architecture has; the others are in the architecture's baseline, or need intrinsics, which the
# code does not call. A feature that Linux names otherwise, or not yet, counts as absent.
X86_FLAGS = {
    "sse3": "pni", "ssse3": "ssse3", "sse4.1": "sse4_1", "sse4.2": "sse4_2", "popcnt": "popcnt", "avx": "avx",
    "avx2": "avx2", "fma": "fma", "f16c": "f16c", "bmi": "bmi1", "bmi2": "bmi2", "lzcnt": "abm", "movbe": "movbe",
    "avx512f": "avx512f", "avx512bw": "avx512bw", "avx512cd": "avx512cd", "avx512dq": "avx512dq",
    "avx512vl": "avx512vl", "avx512vbmi": "avx512vbmi", "avx512vbmi2": "avx512_vbmi2", "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg", "avx512vpopcntdq": "avx512_vpopcntdq", "avx512ifma": "avx512ifma",
    "avx512bf16": "avx512_bf16", "avx512fp16": "avx512_fp16", "avxvnni": "avx_vnni", "gfni": "gfni", "vaes": "vaes",
    "vpclmulqdq": "vpclmulqdq", "adx": "adx", "sse4a": "sse4a", "xop": "xop", "fma4": "fma4", "tbm": "tbm",
    "avxifma": "avx_ifma", "avxneconvert": "avx_ne_convert", "avxvnniint8": "avx_vnni_int8",
    "avxvnniint16": "avx_vnni_int16", "avx10.2": "avx10_2", "egpr": "apx", "ndd": "apx", "nf": "apx", "ccmp": "apx",
    "cf": "apx", "zu": "apx", "ppx": "apx", "push2pop2": "apx",
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


def runs(target: Mapping[str, Any]) -> bool:
    """Whether code for ``target`` (of a manifest) runs here, as far as can be told."""
    return _is_platform(target) and not _absent(target)


def choose(targets: Sequence[Mapping[str, Any]]) -> int | None:
    """Which of the CPU levels of a model runs here: the last one that this machine can run, or, of several, the one
    that the environment variable WOODPECKER_CPU_LEVEL names. None: this machine can run none.

    Raises:
        InputError: the variable names a level that the model has not, or that this machine can't run.
    """
    able = [i for i, target in enumerate(targets) if runs(target)]
    wanted = os.environ.get(LEVEL_VARIABLE, "").strip()
    if wanted and len(targets) > 1 and _is_platform(targets[0]):
        names = [target["name"] for target in targets]
        if wanted not in names:
            raise InputError(f"{LEVEL_VARIABLE} is {wanted!r}; the CPU levels of this model are {', '.join(names)}")
        level = names.index(wanted)
        if level not in able:
            absent = ", ".join(_absent(targets[level]))
            raise InputError(f"{LEVEL_VARIABLE} is {wanted!r}, which can't run here: this machine lacks {absent}")
        return level
    if not able:
        return None
    # Where Linux does not say what the CPU has, the level that needs least is the likeliest to run.
    return able[0] if cpu_flags() is None else able[-1]


def check(targets: Sequence[Mapping[str, Any]], path: str) -> int:
    """Which of the CPU levels of an artifact runs here; see `choose`.

    Raises:
        ArtifactError: none; it says what the artifact was compiled for, what this machine is, and what to do.
        InputError: see `choose`.
    """
    level = choose(targets)
    if level is not None:
        return level
    if not _is_platform(targets[0]):  # all levels have one platform
        raise ArtifactError(
            f"{path} was compiled for {targets[0]['machine']} on {targets[0]['system']}; this is {machine()} on "
            f"{sys.platform}. Compile the model for this machine"
        )
    nearest = min(targets, key=lambda target: len(_absent(target)))
    raise ArtifactError(
        f"{path} was compiled for a {' or a '.join(target['cpu'] for target in targets)} and needs "
        f"{'at least ' if len(targets) > 1 else ''}{', '.join(_absent(nearest))}, which this CPU has not. "
        'Compile the model on this machine, or for an older CPU, such as target="x86-64-v2"'
    )


def _is_platform(target: Mapping[str, Any]) -> bool:
    return (target["system"], target["machine"]) == (sys.platform, machine())


def _absent(target: Mapping[str, Any]) -> list[str]:
    """The features that code for ``target`` needs and this CPU has not."""
    flags = cpu_flags()
    return [] if flags is None else [name for name in target["features"] if X86_FLAGS.get(name, name) not in flags]
