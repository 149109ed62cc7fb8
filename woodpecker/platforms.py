"""Platforms: the operating systems, architectures and C libraries that code can be made for, and what LLVM needs to be
told of each."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from .errors import TargetError
from .runtime import machine


@dataclass(frozen=True)
class Platform:
    """Where code runs.

    Args:
        system: As `sys.platform` names it: "linux", "darwin", "win32" or "wasi", which is WebAssembly.
        machine: The architecture by LLVM's name: "x86_64", "aarch64", "armv7", "riscv64" or "wasm32".
        libc: "gnu" or "musl" on Linux, else "".
    """

    system: str
    machine: str
    libc: str


@dataclass(frozen=True)
class Architecture:
    """What all code for an architecture has in common.

    Args:
        features: Features that are always on.
        without: Features that are always off.
        baseline: Features that all code needs: LLVM ends the process, instead of reporting an error, where they are
            missing.
        contradictions: Features that contradict how floats are passed, or the mode of the CPU, with the same effect.
        abi: LLVM's name of the way that floats are passed, where there are several.
        hard_floats: Floats are passed in registers, which has to be said.
        cpus: The only CPUs by LLVM's names that code is made for, or None: all.
        vector_bits: Bits of a vector, where TVM can't find out; else None.
    """

    features: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    baseline: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    abi: str = ""
    hard_floats: bool = False
    cpus: tuple[str, ...] | None = None
    vector_bits: int | None = None


ARCHITECTURES = {
    "x86_64": Architecture(
        baseline=("64bit", "64bit-mode", "cmov", "cx8", "fxsr", "sse", "sse2", "x87"),
        contradictions=("16bit-mode", "32bit-mode", "soft-float"),
    ),
    "aarch64": Architecture(baseline=("fp-armv8", "neon")),
    "armv7": Architecture(
        features=("vfp3d16",),
        # NEON's floats take denormal numbers for zero on this architecture, whatever the mode, and so would comparisons
        # with a threshold and sums. The scalar unit does not. Some CPUs have 16 registers of it, others 32.
        without=("neon", "d32"),
        baseline=("vfp3d16", "vfp2", "fp64", "fpregs"),
        contradictions=("neon", "soft-float", "soft-float-abi", "lob", "noarm"),
        hard_floats=True,
    ),
    "riscv64": Architecture(
        features=("m", "a", "f", "d", "c"),
        baseline=("64bit", "i", "m", "a", "f", "d", "c"),
        contradictions=("32bit", "e", "zfinx", "zdinx", "zcmp", *(f"zvl{2**n}b" for n in range(5, 17))),
        abi="lp64d",
    ),
    "wasm32": Architecture(
        features=("simd128",),
        # What LLVM's and zig's generic CPU has.
        baseline=(
            "bulk-memory",
            "bulk-memory-opt",
            "call-indirect-overlong",
            "multivalue",
            "mutable-globals",
            "nontrapping-fptoint",
            "reference-types",
            "sign-ext",
        ),
        # Each engine rounds relaxed-simd's products and sums as it likes; the others change what a module imports, or
        # are in few engines.
        contradictions=(
            "atomics",
            "exception-handling",
            "extended-const",
            "fp16",
            "gc",
            "multimemory",
            "relaxed-simd",
            "tail-call",
            "wide-arithmetic",
        ),
        cpus=("generic",),
        vector_bits=128,
    ),
}

SUPPORTED = (
    *(Platform("linux", name, libc) for name in ARCHITECTURES if name != "wasm32" for libc in ("gnu", "musl")),
    Platform("darwin", "aarch64", ""),
    Platform("win32", "x86_64", ""),
    Platform("wasi", "wasm32", ""),
)

_MACHINES = {name: name for name in ARCHITECTURES} | {
    "arm64": "aarch64",
    "armv7a": "armv7",
    "armv7l": "armv7",
    "armv8l": "armv7",
}
TRIPLES_BEGIN = tuple(_MACHINES)
"""How the triples of the known architectures begin."""
_GNU = {"x86_64": "gnu", "aarch64": "gnu", "armv7": "gnueabihf", "riscv64": "gnu"}


def here() -> Platform:
    """The platform of this process; it may be none of SUPPORTED."""
    return Platform(sys.platform, machine.machine(), machine.libc())


def triple(platform: Platform) -> str:
    """LLVM's name of a platform."""
    if platform.system == "darwin":
        return "arm64-apple-macosx11.0"
    if platform.system == "win32":
        return f"{platform.machine}-pc-windows-gnu"
    if platform.system == "wasi":
        return f"{platform.machine}-unknown-wasi"
    environment = _GNU.get(platform.machine, "gnu").replace("gnu", platform.libc)
    return f"{platform.machine}-unknown-linux-{environment}"


def of_triple(text: str, target: str) -> Platform:
    """The platform that a triple such as "aarch64-linux-gnu" names.

    Raises:
        TargetError: it is none of SUPPORTED. Other environments of a known system, such as gnux32 and code16, mean
            other pointers or another mode of the CPU.
    """
    first, *rest = text.split("-")
    arch = _MACHINES.get(first, "")
    system, libc = "", ""
    if "linux" in rest:
        environments = {_GNU.get(arch, ""): "gnu", _GNU.get(arch, "").replace("gnu", "musl"): "musl"}
        # "x86_64-pc-linux" means GNU; but on 32-bit ARM it means floats in integer registers.
        if arch != "armv7":
            environments["linux"] = "gnu"
        if rest[-1] in environments:
            system, libc = "linux", environments[rest[-1]]
    elif rest[-1:] and rest[-1].startswith(("macos", "darwin")):
        system = "darwin"
    elif text in (
        f"{first}-w64-mingw32",
        f"{first}-windows-gnu",
        f"{first}-pc-windows-gnu",
        f"{first}-w64-windows-gnu",
    ):
        system = "win32"
    elif rest in (["wasi"], ["wasip1"], ["unknown", "wasi"], ["unknown", "wasip1"]):
        system = "wasi"
    platform = Platform(system, arch, libc)
    if platform not in SUPPORTED:
        known = ", ".join(map(triple, SUPPORTED))
        raise TargetError(
            f"target {target!r} is for {text}, which this version does not compile for; it does for {known}"
        )
    return platform
