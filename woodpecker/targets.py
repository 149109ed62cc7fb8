"""Targets: from what a user writes to a TVM target, and to what an artifact says of itself."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import MissingExtraError, TargetError
from .runtime import machine

HOST_NAMES = ("llvm", "cpu")
X86_LEVELS = ("x86-64-v2", "x86-64-v3", "x86-64-v4")

# LLVM's SLP vectoriser packs the interleaved scalar walks into vectors and slows them down by more than 2 times.
_LLVM_OPTIONS = {"cl-opt": ["-vectorize-slp:bool=false"]}


@dataclass(frozen=True)
class CpuTarget:
    """A resolved CPU target.

    Args:
        name: What the user asked for.
        config: TVM target configuration, as sorted JSON; hashable, a key for caches.
        system, machine: Platform, as `sys.platform` and LLVM name it.
        cpu: LLVM's name of the CPU.
        features: CPU features that code may use, of those that `machine.X86_FLAGS` knows.
    """

    name: str
    config: str
    system: str
    machine: str
    cpu: str
    features: tuple[str, ...]

    @property
    def native(self) -> bool:
        """Whether its code runs on this machine."""
        if (self.system, self.machine) != (sys.platform, machine.machine()):
            return False
        flags = machine.cpu_flags()
        return flags is None or all(machine.X86_FLAGS.get(f, f) in flags for f in self.features)

    def manifest(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "kind": "llvm",
            "system": self.system,
            "machine": self.machine,
            "cpu": self.cpu,
            "features": list(self.features),
        }


def import_tvm() -> Any:
    """The tvm package.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import tvm
    except ImportError as error:
        raise MissingExtraError(
            "compiling needs Apache TVM, which is not installed: pip install 'woodpecker[compiler]'"
        ) from error
    return tvm


def resolve(target: Any) -> CpuTarget:
    """The CPU target that a name, a TVM target dictionary, its JSON, or a `tvm.target.Target` means.

    "llvm" and "cpu" are this machine's CPU with all its features; "x86-64-v2", "-v3" and "-v4" are the levels of the
    x86-64 psABI.

    Raises:
        TargetError: it is unknown, or not a CPU of this machine's architecture.
        MissingExtraError: TVM is not installed.
    """
    if (sys.platform, machine.machine()) != ("linux", "x86_64"):
        raise TargetError(
            f"this version compiles on Linux on x86_64 only, and this is {machine.machine()} on {sys.platform}: "
            "compile the model there"
        )
    tvm = import_tvm()
    if isinstance(target, tvm.target.Target):
        target = dict(target.export())
    name = target if isinstance(target, str) else json.dumps(target, default=str, sort_keys=True)
    if isinstance(target, str):
        config = _named(target)
    elif isinstance(target, Mapping):
        config = {str(k): v for k, v in target.items()}
    else:
        raise TargetError(f"target must be a name, a dictionary or a tvm Target, found {type(target).__name__}")
    if config.get("kind") != "llvm":
        raise TargetError(
            f"target {name!r} is of kind {config.get('kind')!r}; this version compiles for CPUs (kind 'llvm') only"
        )
    triple = str(config.get("mtriple", ""))
    if triple and (triple.split("-")[0] != machine.machine() or "linux" not in triple):
        raise TargetError(
            f"target {name!r} is for {triple}; this version compiles for Linux on {machine.machine()} only"
        )
    if "mcpu" not in config:
        config |= _host() if not triple else {"mcpu": "generic"}
    known = {str(cpu) for cpu in tvm.target.codegen.llvm_get_cpu_archlist(tvm.target.Target("llvm"))}
    if config["mcpu"] not in known:
        raise TargetError(f"LLVM knows no {machine.machine()} CPU {config['mcpu']!r}; llc -mcpu=help lists them")
    options = {k: v for k, v in config.items() if k in ("kind", "mcpu", "mattr", "mtriple", "opt-level", "mfloat-abi")}
    config = {**options, "cl-opt": [*config.get("cl-opt", []), *_LLVM_OPTIONS["cl-opt"]]}
    text = json.dumps({k: list(v) if isinstance(v, (list, tuple)) else v for k, v in config.items()}, default=str)
    try:
        built = tvm_target(text)
        features = _features(built)
    except Exception as error:  # TVM raises several types here, InternalError among them
        raise TargetError(f"TVM refuses target {name!r}: {str(error).strip().splitlines()[-1]}") from error
    return CpuTarget(name, text, sys.platform, machine.machine(), str(config["mcpu"]), features)


def tvm_target(config: str) -> Any:
    """The TVM target of a configuration."""
    return import_tvm().target.Target(json.loads(config))


def _named(name: str) -> dict[str, Any]:
    if name in HOST_NAMES:
        return {"kind": "llvm", **_host()}
    if name in X86_LEVELS:
        if machine.machine() != "x86_64":
            raise TargetError(f"target {name!r} is for x86-64; this machine is {machine.machine()}")
        return {"kind": "llvm", "mcpu": name}
    if name.lstrip().startswith("{"):
        try:
            parsed = json.loads(name)
        except json.JSONDecodeError as error:
            raise TargetError(f"target {name!r} is not valid JSON: {error}") from None
        if isinstance(parsed, dict):
            return parsed
    if name.split()[0:1] in (["cuda"], ["aarch64"], ["armv7"], ["riscv64"]):
        raise TargetError(f"target {name!r} is not supported yet: this version compiles for this machine's CPUs")
    try:
        return {k: v for k, v in dict(import_tvm().target.Target(name).export()).items() if k not in ("tag", "keys")}
    except Exception as error:
        known = ", ".join((*HOST_NAMES, *X86_LEVELS))
        raise TargetError(f"unknown target {name!r}; known: {known}, a TVM target tag, dictionary or JSON") from error


@functools.cache
def _host() -> dict[str, Any]:
    """This machine's CPU. A virtual machine may hide features that the CPU's name implies: they are switched off."""
    cpu = str(import_tvm().target.codegen.llvm_get_system_cpu())
    flags = machine.cpu_flags()
    implied = _features(tvm_target(json.dumps({"kind": "llvm", "mcpu": cpu})))
    hidden = [f"-{f}" for f in implied if flags is not None and machine.X86_FLAGS[f] not in flags]
    return {"mcpu": cpu, "mattr": hidden} if hidden else {"mcpu": cpu}


def _features(target: Any) -> tuple[str, ...]:
    """The features that LLVM enables for a target, of those that not every CPU of the architecture has."""
    enabled = import_tvm().target.codegen.llvm_get_cpu_features(target)
    names = {str(name).lstrip("+") for name in (enabled.keys() if hasattr(enabled, "keys") else enabled)}
    return tuple(name for name in machine.X86_FLAGS if name in names)
