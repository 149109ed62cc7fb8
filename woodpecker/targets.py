"""Targets: from what a user writes to a TVM target, and to what an artifact says of itself."""

from __future__ import annotations

import functools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import MissingExtraError, TargetError
from .runtime import machine

HOST_NAMES = ("llvm", "cpu")
X86_LEVELS = ("x86-64-v2", "x86-64-v3", "x86-64-v4")
PORTABLE = "x86-64"
"""The short name of all X86_LEVELS in one artifact."""

# x86-64 code passes floats in SSE registers. LLVM ends the process, instead of reporting an error, where these are
# missing, or where a mode or soft floats contradict it.
_BASELINE = ("64bit", "64bit-mode", "cmov", "cx8", "fxsr", "sse", "sse2", "x87")
_CONTRADICTIONS = ("16bit-mode", "32bit-mode", "soft-float")
_ENVIRONMENTS = ("linux", "gnu", "musl")

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
        return machine.runs(self.manifest())

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


def resolve_levels(target: Any) -> tuple[CpuTarget, ...]:
    """The CPU levels that a target, or a sequence of targets, means: the better one comes later.

    They keep the order in which they are given, but for one that needs all features that another needs, and more: it
    comes after that one. "x86-64" stands for "x86-64-v2", "x86-64-v3" and "x86-64-v4".

    Raises:
        TargetError: there is none, one is given twice, or one is wrong: see `resolve`.
        MissingExtraError: TVM is not installed.
    """
    several = isinstance(target, Sequence) and not isinstance(target, (str, bytes))
    given = [name for entry in (target if several else [target]) for name in _expanded(entry)]
    if not given:
        raise TargetError("target is an empty list: name at least one, such as 'llvm' for this machine's CPU")
    ordered: list[CpuTarget] = []
    for level in map(resolve, given):
        for other in ordered:
            if json.loads(level.config) == json.loads(other.config):
                same = "" if level.name == other.name else f": {other.name!r} means the same here"
                raise TargetError(f"target {level.name!r} is listed twice{same}; list each CPU level once")
        above = (i for i, other in enumerate(ordered) if set(other.features) > set(level.features))
        ordered.insert(next(above, len(ordered)), level)
    return tuple(ordered)


def _expanded(target: Any) -> Sequence[Any]:
    return X86_LEVELS if isinstance(target, str) and target == PORTABLE else (target,)


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
    config = _typed(config, name)
    triple = config.get("mtriple", "")
    parts = triple.split("-")
    # Other environments, such as gnux32 and code16, mean other pointers or another mode of the CPU.
    if triple and (parts[0] != machine.machine() or "linux" not in parts or parts[-1] not in _ENVIRONMENTS):
        raise TargetError(
            f"target {name!r} is for {triple}; this version compiles for Linux on {machine.machine()} only"
        )
    if "mcpu" not in config:
        config |= _host() if not triple else {"mcpu": "generic"}
    _check_cpu(config["mcpu"])
    for entry in config.get("mattr", ()):
        _check_feature(entry, name)
    options = {k: v for k, v in config.items() if k in ("kind", "mcpu", "mattr", "mtriple", "opt-level", "mfloat-abi")}
    config = {**options, "cl-opt": [*config.get("cl-opt", []), *_LLVM_OPTIONS["cl-opt"]]}
    text = json.dumps(config)
    try:
        built = tvm_target(text)
        features = _features(built)
    except Exception as error:  # TVM raises several types here, InternalError among them
        raise TargetError(f"TVM refuses target {name!r}: {str(error).strip().splitlines()[-1]}") from error
    return CpuTarget(name, text, sys.platform, machine.machine(), config["mcpu"], features)


def _typed(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The configuration with plain strings, lists and integers, where it has these keys."""
    typed = dict(config)
    for key in {"mcpu", "mtriple", "mfloat-abi"} & typed.keys():
        if not isinstance(typed[key], str):
            raise TargetError(f"target {name!r}: {key} must be a string, found {type(typed[key]).__name__}")
        typed[key] = str(typed[key])
    for key in {"mattr", "cl-opt"} & typed.keys():
        listed = isinstance(typed[key], Sequence) and not isinstance(typed[key], str)
        if not listed or not all(isinstance(entry, str) for entry in typed[key]):
            raise TargetError(f"target {name!r}: {key} must be a list of strings")
        typed[key] = [str(entry) for entry in typed[key]]
    level = typed.get("opt-level", 0)
    if not isinstance(level, int) or isinstance(level, bool):
        raise TargetError(f"target {name!r}: opt-level must be an integer, found {type(level).__name__}")
    return typed


def _check_cpu(cpu: str) -> None:
    codegen = import_tvm().target.codegen
    if cpu not in {str(known) for known in codegen.llvm_get_cpu_archlist(import_tvm().target.Target("llvm"))}:
        raise TargetError(f"LLVM knows no {machine.machine()} CPU {cpu!r}; llc -mcpu=help lists them")
    # With a 64-bit triple, LLVM takes 64-bit mode for granted, says so of an i386 too, and ends the process later.
    narrow = {"kind": "llvm", "mtriple": "i686-unknown-linux-gnu", "mcpu": cpu}
    if "64bit" not in _enabled(tvm_target(json.dumps(narrow))):
        raise TargetError(f"the CPU {cpu!r} has no 64-bit mode, which the code needs: name a later one, or x86-64-v2")


def _check_feature(entry: str, target: str) -> None:
    """Raise unless an entry of mattr is a feature of LLVM, and one that may be switched so."""
    matched = re.fullmatch(r"([+-])([a-z0-9][a-z0-9.-]*)", entry)
    feature = matched[2] if matched else ""
    # LLVM only prints a line of what it does not know, and goes on without.
    probe = {"kind": "llvm", "mcpu": "x86-64", "mattr": [f"+{feature}"]}
    if not matched or feature not in _enabled(tvm_target(json.dumps(probe))):
        raise TargetError(
            f"target {target!r}: mattr entries are + or - and a CPU feature that LLVM knows, found {entry!r}; "
            "llc -mattr=help lists them"
        )
    if matched[1] == "-" and feature in _BASELINE:
        raise TargetError(f"target {target!r}: mattr {entry!r} takes away what all x86-64 code needs")
    if matched[1] == "+" and feature in _CONTRADICTIONS:
        raise TargetError(f"target {target!r}: mattr {entry!r} contradicts x86-64, whose code is 64-bit and uses SSE")


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
        known = ", ".join((*HOST_NAMES, *X86_LEVELS, PORTABLE))
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
    names = _enabled(target)
    return tuple(name for name in machine.X86_FLAGS if name in names)


def _enabled(target: Any) -> set[str]:
    """All features that LLVM enables for a target."""
    enabled = import_tvm().target.codegen.llvm_get_cpu_features(target)
    return {str(name).lstrip("+") for name in (enabled.keys() if hasattr(enabled, "keys") else enabled)}
