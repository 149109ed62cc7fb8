"""What machine code an artifact holds, and whether this machine can run it."""

from __future__ import annotations

import ctypes
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

# LLVM's name of a CPU feature -> the bit of the auxiliary vector by which Linux reports it (its asm/hwcap.h): entry
# AT_HWCAP, or AT_HWCAP2. The kernel gives these to every process, emulators included, while /proc/cpuinfo describes
# the machine below an emulator.
AARCH64_FLAGS = {
    "fp-armv8": "hwcap.0", "neon": "hwcap.1", "lse": "hwcap.8", "fullfp16": "hwcap.10", "rdm": "hwcap.12",
    "jsconv": "hwcap.13", "complxnum": "hwcap.14", "rcpc": "hwcap.15", "sha3": "hwcap.17", "dotprod": "hwcap.20",
    "sve": "hwcap.22", "fp16fml": "hwcap.23", "lse2": "hwcap.25", "rcpc-immo": "hwcap.26", "flagm": "hwcap.27",
    "sve2": "hwcap2.1", "altnzcv": "hwcap2.7", "fptoint": "hwcap2.8", "i8mm": "hwcap2.13", "bf16": "hwcap2.14",
    "sme": "hwcap2.23", "wfxt": "hwcap2.31", "cssc": "hwcap2.34", "sve2p1": "hwcap2.36", "sme2": "hwcap2.37",
    "mops": "hwcap2.43", "hbc": "hwcap2.44",
}  # fmt: skip
ARMV7_FLAGS = {
    "neon": "hwcap.12", "vfp3d16": "hwcap.13", "vfp4d16": "hwcap.16", "hwdiv-arm": "hwcap.17", "hwdiv": "hwcap.18",
    "d32": "hwcap.19",
}  # fmt: skip
# The bits are letters of the base architecture's name; what has a longer name is not among them and counts as absent.
RISCV64_FLAGS = {name: f"hwcap.{ord(name) - ord('a')}" for name in "mafdcv"} | {
    name: name for name in ("zba", "zbb", "zbs", "zbc", "zicond", "zfa", "zfh", "zcb", "b")
}
# No process with Python says that it has them: an engine does, by refusing a module or not.
WASM32_FLAGS = {"simd128": "simd128"}
FLAGS = {
    "x86_64": X86_FLAGS,
    "aarch64": AARCH64_FLAGS,
    "armv7": ARMV7_FLAGS,
    "riscv64": RISCV64_FLAGS,
    "wasm32": WASM32_FLAGS,
}
"""Architecture -> LLVM's name of a CPU feature -> what `cpu_flags` holds where a CPU has it."""

MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "armv7l": "armv7", "armv8l": "armv7"}
LEAST = {"x86_64": "x86-64-v2", "aarch64": "aarch64", "armv7": "armv7", "riscv64": "riscv64"}
"""Architecture -> the target whose code the most of its CPUs run."""
BASELINE = {"aarch64": ("fp-armv8", "neon"), "armv7": ("vfp3d16",), "riscv64": ("m", "a", "f", "d", "c")}
"""What the CPUs of an architecture have that code for it is made for at all."""
LIBC = {"gnu": "glibc", "musl": "musl"}
SYSTEMS = {"linux": "Linux", "darwin": "macOS", "win32": "Windows"}
UNTRIED = ("darwin", "win32")
"""Systems that code is linked for, and whose files are checked, but that none of our tests runs on."""
WEBASSEMBLY = "wasi"
"""The system of WebAssembly modules, which need nothing of it: an engine runs them under any system."""


def machine() -> str:
    """The architecture of this process, by LLVM's name."""
    name = platform.machine().lower()
    if sys.maxsize < 2**32 and name in ("aarch64", "arm64"):  # as on a Raspberry Pi with a 32-bit system
        return "armv7"
    return MACHINES.get(name, name)


@functools.cache
def libc() -> str:
    """The C library of this process, a key of LIBC; "" where that is no question, beside Linux."""
    if sys.platform != "linux":
        return ""
    try:
        return "gnu" if os.confstr("CS_GNU_LIBC_VERSION") else "musl"
    except (ValueError, OSError):
        return "musl"


@functools.cache
def cpu_flags() -> frozenset[str] | None:
    """What the operating system says that this CPU has, of the values of FLAGS; None: it does not say."""
    if sys.platform != "linux":
        return None
    if machine() != "x86_64":
        return _hwcaps()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return frozenset(line.split(":", 1)[1].split())
    except OSError:
        pass
    return None


def _hwcaps() -> frozenset[str] | None:
    """The bits of AT_HWCAP and AT_HWCAP2."""
    try:
        getauxval = ctypes.CDLL(None).getauxval
    except (OSError, AttributeError):
        return None
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    entries = {"hwcap": getauxval(16), "hwcap2": getauxval(26)}
    return frozenset(f"{name}.{bit}" for name, word in entries.items() for bit in range(64) if word >> bit & 1)


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
    if level is None:
        raise ArtifactError(f"{path} was compiled for {why_not(targets)}")
    return level


def why_not(targets: Sequence[Mapping[str, Any]]) -> str:
    """What targets that can't run here are, what this machine is, and what to do; for error messages."""
    if targets[0]["system"] == WEBASSEMBLY:
        return (
            f"{platform_text(targets[0])}, and runs in a browser, Node.js or another engine, not in Python: woodpecker "
            "bundle adds the JavaScript that loads it. To predict here, compile the model for this machine"
        )
    if not _is_platform(targets[0]):  # all levels have one platform
        return f"{mismatch(targets)}. Compile the model for this machine{_on_another()}"
    older = LEAST.get(machine(), "llvm")
    return f'{mismatch(targets)}. Compile the model on this machine, or for an older CPU, such as target="{older}"'


def mismatch(targets: Sequence[Mapping[str, Any]]) -> str:
    """What targets that can't run here are, and what this machine is."""
    if not _is_platform(targets[0]):
        here = {"system": sys.platform, "machine": machine(), "libc": libc()}
        return f"{platform_text(targets[0])}; this is {platform_text(here)}"
    nearest = min(targets, key=lambda target: len(_absent(target)))
    return (
        f"a {' or a '.join(target['cpu'] for target in targets)} and needs "
        f"{'at least ' if len(targets) > 1 else ''}{', '.join(_absent(nearest))}, which this CPU has not"
    )


def _on_another() -> str:
    """How to compile for this platform on any other."""
    if sys.platform != "linux" or machine() not in LEAST or libc() != "gnu":
        return ""
    return f', or on another one with target="{LEAST[machine()]}"'


def platform_text(target: Mapping[str, Any]) -> str:
    """A platform, for people."""
    if target["system"] == WEBASSEMBLY:
        return f"WebAssembly ({target['machine']})"
    system = SYSTEMS.get(target["system"], target["system"])
    library = LIBC.get(target.get("libc", ""))
    return f"{target['machine']} on {system}{f' with {library}' if library else ''}"


def requirement(targets: Sequence[Mapping[str, Any]]) -> str:
    """Where an artifact with these CPU levels runs, and whether that is here; for people."""
    if any(map(runs, targets)):
        return needs(targets)
    return f"{needs(targets)}; not {'in Python' if targets[0]['system'] == WEBASSEMBLY else 'on this machine'}"


def needs(targets: Sequence[Mapping[str, Any]]) -> str:
    """Where code for these CPU levels runs, for people."""
    least = min(targets, key=lambda target: len(target["features"]))
    features = [f for f in least["features"] if f not in BASELINE.get(least["machine"], ())]
    kind = "engine" if least["system"] == WEBASSEMBLY else "CPU"
    cpus = f"{'an' if kind == 'engine' else 'a'} {kind} with {', '.join(features)}" if features else f"any {kind}"
    # Where no test of ours has run it, whoever makes it should know.
    return f"{platform_text(least)}, {cpus}{' (never run by us)' if least['system'] in UNTRIED else ''}"


def _is_platform(target: Mapping[str, Any]) -> bool:
    """Whether a target of a manifest is for this system, architecture and C library."""
    # Manifests of before artifacts were for other machines name no C library: their linker was the system's own.
    same_libc = target.get("libc", libc()) == libc()
    return same_libc and (target["system"], target["machine"]) == (sys.platform, machine())


def _absent(target: Mapping[str, Any]) -> list[str]:
    """The features that code for ``target`` needs and this CPU has not."""
    flags, names = cpu_flags(), FLAGS.get(target["machine"], {})
    return [] if flags is None else [name for name in target["features"] if names.get(name, name) not in flags]
