"""Targets: from what a user writes to a TVM target, and to what an artifact says of itself."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import targets_cuda
from .errors import MissingExtraError, TargetError
from .platforms import ARCHITECTURES, SUPPORTED, TRIPLES_BEGIN, Architecture, Platform, here, of_triple, triple
from .runtime import machine
from .targets_cuda import CudaTarget

HOST_NAMES = ("llvm", "cpu")
X86_LEVELS = ("x86-64-v2", "x86-64-v3", "x86-64-v4")
PORTABLE = "x86-64"
"""The short name of all X86_LEVELS in one artifact."""
ARCHITECTURE_NAMES = ("aarch64", "armv7", "riscv64")
"""Short for the CPUs of an architecture under Linux with glibc, all of them."""
WASM32 = "wasm32"
"""Short for WebAssembly with 128-bit vectors, which Chrome, Firefox and Node.js have since 2021, Safari since 2023."""

# LLVM's SLP vectoriser packs the interleaved scalar walks into vectors and slows them down by more than 2 times.
_LLVM_OPTIONS = {"cl-opt": ["-vectorize-slp:bool=false"]}
_KEPT = ("kind", "mcpu", "mattr", "mtriple", "opt-level")
"""What is taken over of a TVM target: the rest is for other kinds of code, or follows from these."""


@dataclass(frozen=True)
class CpuTarget:
    """A resolved CPU target.

    Args:
        name: What the user asked for.
        config: TVM target configuration, as JSON; hashable, a key for caches.
        system, machine: Platform, as `sys.platform` and LLVM name it.
        cpu: LLVM's name of the CPU.
        features: CPU features that code may use, of those that `machine.FLAGS` knows.
        libc: "gnu" or "musl" on Linux, else "".
    """

    name: str
    config: str
    system: str
    machine: str
    cpu: str
    features: tuple[str, ...]
    libc: str = "gnu"

    @property
    def platform(self) -> Platform:
        return Platform(self.system, self.machine, self.libc)

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
            "libc": self.libc,
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


def resolve_targets(target: Any) -> tuple[tuple[CpuTarget, ...], CudaTarget | None]:
    """The CPU levels that a target, or a sequence of targets, means, and the CUDA target among them, if there is one.
    A CUDA target alone comes with this machine's CPU.

    Raises:
        TargetError: see `resolve_levels`; or there are two CUDA targets, or one with a CPU that has no such GPUs.
        MissingExtraError: TVM is not installed.
    """
    several = isinstance(target, Sequence) and not isinstance(target, (str, bytes))
    cpus: list[Any] = []
    gpus: list[CudaTarget] = []
    for entry in target if several else [target]:
        portable = isinstance(entry, str) and entry == PORTABLE
        name, config = (PORTABLE, {}) if portable else _configuration(entry)
        if config.get("kind") == targets_cuda.KIND:
            gpus.append(targets_cuda.resolved(config, name))
        else:
            cpus.append(entry)
    levels = resolve_levels(cpus if cpus or not gpus else [HOST_NAMES[0]])
    if len(gpus) > 1:
        raise TargetError(
            f"targets {gpus[0].name!r} and {gpus[1].name!r} are both for CUDA: name all architectures in one, such as "
            "'cuda -arch=sm_80,sm_90'"
        )
    if gpus and levels[0].platform not in targets_cuda.PLATFORMS:
        places = " and ".join(place.machine for place in targets_cuda.PLATFORMS)
        raise TargetError(
            f"target {gpus[0].name!r} goes with CPUs that are {places} on Linux with glibc; {levels[0].name!r} is for "
            f"{machine.platform_text(levels[0].manifest())}"
        )
    return levels, gpus[0] if gpus else None


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
            if level.platform != other.platform:
                raise TargetError(
                    f"targets {other.name!r} and {level.name!r} are for {machine.platform_text(other.manifest())} and "
                    f"for {machine.platform_text(level.manifest())}: an artifact is for one platform, make one of each"
                )
            if json.loads(level.config) == json.loads(other.config):
                same = "" if level.name == other.name else f": {other.name!r} means the same here"
                raise TargetError(f"target {level.name!r} is listed twice{same}; list each CPU level once")
        above = (i for i, other in enumerate(ordered) if set(other.features) > set(level.features))
        ordered.insert(next(above, len(ordered)), level)
    if len(ordered) > 1 and ordered[0].system == machine.WEBASSEMBLY:
        raise TargetError(
            f"targets {ordered[0].name!r} and {ordered[1].name!r} can't be in one WebAssembly module, which an engine "
            "takes as a whole or refuses: make one of each"
        )
    return tuple(ordered)


def _expanded(target: Any) -> Sequence[Any]:
    return X86_LEVELS if isinstance(target, str) and target == PORTABLE else (target,)


def resolve(target: Any) -> CpuTarget:
    """The CPU target that a name, a TVM target dictionary, its JSON, or a `tvm.target.Target` means.

    "llvm" and "cpu" are this machine's CPU with all its features; "x86-64-v2", "-v3" and "-v4" are the levels of the
    x86-64 psABI; "aarch64", "armv7" and "riscv64" any CPU of that architecture (riscv64: with rv64gc) under Linux with
    glibc; "wasm32" any WebAssembly engine with 128-bit vectors; a triple such as "aarch64-linux-musl" any CPU of that
    platform.

    Raises:
        TargetError: it is unknown, no CPU, or one that no code is made for.
        MissingExtraError: TVM is not installed.
    """
    name, config = _configuration(target)
    if config.get("kind") == targets_cuda.KIND:
        targets_cuda.resolved(config, name)
        raise TargetError(f"target {name!r} is of kind 'cuda', and this is for CPUs: compile takes it")
    if config.get("kind") != "llvm":
        raise TargetError(
            f"target {name!r} is of kind {config.get('kind')!r}; this version compiles for CPUs (kind 'llvm') and for "
            "kind 'cuda'"
        )
    config = _typed(config, name)
    platform = of_triple(config["mtriple"], name) if config.get("mtriple") else here()
    if platform not in SUPPORTED:
        raise TargetError(
            f"no code is made for {platform.machine} on {platform.system}, which this machine is; name a target, such "
            "as 'aarch64' or 'x86-64-v2'"
        )
    architecture = ARCHITECTURES[platform.machine]
    if config.get("mtriple"):
        # LLVM makes other object files of some names of a platform; and TVM's tags for 32-bit ARM name 64-bit CPUs in
        # that mode, on which what runs on armv7 runs.
        config["mtriple"] = triple(platform)
    if "mcpu" not in config:
        host = {"mcpu": "generic"} if config.get("mtriple") else _host()
        config |= {**host, "mattr": [*host.get("mattr", ()), *config.get("mattr", ())]}
    base = {"kind": "llvm", "mtriple": config.get("mtriple") or triple(platform)}
    _check_cpu(config["mcpu"], base, platform.machine)
    # TVM's own tags for 32-bit ARM name it.
    named = [entry for entry in config.get("mattr", ()) if entry[1:] not in architecture.without]
    for entry in named:
        _check_feature(entry, name, base, architecture)
    options = {k: v for k, v in config.items() if k in _KEPT}
    switched = [f"+{f}" for f in architecture.features], named, [f"-{f}" for f in architecture.without]
    if mattr := [entry for entries in switched for entry in entries]:
        options["mattr"] = mattr
    if architecture.abi:
        options["mabi"] = architecture.abi
    if architecture.hard_floats:
        options["mfloat-abi"] = "hard"
    if architecture.vector_bits is not None:
        options["vector-width"] = architecture.vector_bits
    text = json.dumps({**options, "cl-opt": [*config.get("cl-opt", []), *_LLVM_OPTIONS["cl-opt"]]})
    try:
        built = tvm_target(text)
        features = _features(built, platform.machine)
    except Exception as error:  # TVM raises several types here, InternalError among them
        raise TargetError(f"TVM refuses target {name!r}: {str(error).strip().splitlines()[-1]}") from error
    return CpuTarget(name, text, platform.system, platform.machine, config["mcpu"], features, platform.libc)


def _configuration(target: Any) -> tuple[str, dict[str, Any]]:
    """What the user asked for, and the TVM target configuration that it means, as yet unchecked."""
    if isinstance(target, import_tvm().target.Target):
        target = dict(target.export())
    name = target if isinstance(target, str) else json.dumps(target, default=str, sort_keys=True)
    if isinstance(target, str):
        return name, _named(target)
    if isinstance(target, Mapping):
        return name, {str(k): v for k, v in target.items()}
    raise TargetError(f"target must be a name, a dictionary or a tvm Target, found {type(target).__name__}")


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


def _check_cpu(cpu: str, base: Mapping[str, Any], arch: str) -> None:
    codegen = import_tvm().target.codegen
    only = ARCHITECTURES[arch].cpus
    if only is not None and cpu not in only:
        raise TargetError(f"for {arch} mcpu is {' or '.join(only)}, found {cpu!r}: mattr switches features")
    if cpu not in {str(known) for known in codegen.llvm_get_cpu_archlist(tvm_target(json.dumps(base)))}:
        raise TargetError(f"LLVM knows no {arch} CPU {cpu!r}; llc -march={_llc(arch)} -mcpu=help lists them")
    if arch == "x86_64":
        # With a 64-bit triple, LLVM takes 64-bit mode for granted, says so of an i386 too, and ends the process later.
        narrow = {"kind": "llvm", "mtriple": "i686-unknown-linux-gnu", "mcpu": cpu}
        if "64bit" not in _enabled(tvm_target(json.dumps(narrow))):
            raise TargetError(
                f"the CPU {cpu!r} has no 64-bit mode, which the code needs: name a later one, or x86-64-v2"
            )
    if (
        arch == "riscv64"
        and cpu != "generic"
        and "64bit" not in _enabled(tvm_target(json.dumps({**base, "mcpu": cpu})))
    ):
        raise TargetError(f"the CPU {cpu!r} is no 64-bit one, which the code needs: name another, or none")


def _check_feature(entry: str, target: str, base: Mapping[str, Any], architecture: Architecture) -> None:
    """Raise unless an entry of mattr is a feature of LLVM, and one that may be switched so."""
    matched = re.fullmatch(r"([+-])([a-z0-9][a-z0-9.-]*)", entry)
    feature = matched[2] if matched else ""
    arch = base["mtriple"].split("-")[0]
    # LLVM only prints a line of what it does not know, and goes on without.
    probe = {**base, "mattr": [f"+{feature}"]}
    if not matched or feature not in _enabled(tvm_target(json.dumps(probe))):
        raise TargetError(
            f"target {target!r}: mattr entries are + or - and a CPU feature that LLVM knows, found {entry!r}; "
            f"llc -march={_llc(arch)} -mattr=help lists them"
        )
    if matched[1] == "-" and feature in architecture.baseline:
        raise TargetError(f"target {target!r}: mattr {entry!r} takes away what all code for {arch} needs")
    if matched[1] == "+" and feature in architecture.contradictions:
        raise TargetError(f"target {target!r}: mattr {entry!r} contradicts how code for {arch} runs and passes floats")


def _llc(arch: str) -> str:
    """What LLVM's own tools call an architecture."""
    return {"x86_64": "x86-64", "armv7": "arm"}.get(arch, arch)


def tvm_target(config: str) -> Any:
    """The TVM target of a configuration."""
    return import_tvm().target.Target(json.loads(config))


def _named(name: str) -> dict[str, Any]:
    if name in HOST_NAMES:
        return {"kind": "llvm", **_host()}
    if name in X86_LEVELS:
        linux = Platform("linux", "x86_64", "gnu")
        elsewhere = {} if here().machine == "x86_64" and here() in SUPPORTED else {"mtriple": triple(linux)}
        return {"kind": "llvm", **elsewhere, "mcpu": name}
    if name in ARCHITECTURE_NAMES:
        return {"kind": "llvm", "mtriple": triple(Platform("linux", name, "gnu")), "mcpu": "generic"}
    if name == WASM32:
        return {"kind": "llvm", "mtriple": triple(Platform("wasi", name, "")), "mcpu": "generic"}
    if re.fullmatch(r"[a-z0-9_]+(-[a-z0-9_.]+){1,3}", name) and name.split("-")[0] in TRIPLES_BEGIN:
        return {"kind": "llvm", "mtriple": triple(of_triple(name, name)), "mcpu": "generic"}
    if name.lstrip().startswith("{"):
        try:
            parsed = json.loads(name)
        except json.JSONDecodeError as error:
            raise TargetError(f"target {name!r} is not valid JSON: {error}") from None
        if isinstance(parsed, dict):
            return parsed
    if gpu := targets_cuda.named(name):
        return gpu
    try:
        return {k: v for k, v in dict(import_tvm().target.Target(name).export()).items() if k not in ("tag", "keys")}
    except Exception as error:
        known = ", ".join((*HOST_NAMES, *X86_LEVELS, PORTABLE, *ARCHITECTURE_NAMES, WASM32, targets_cuda.KIND))
        raise TargetError(
            f"unknown target {name!r}; known: {known}, a triple such as aarch64-linux-musl, a TVM target tag, "
            "dictionary or JSON"
        ) from error


@functools.cache
def _host() -> dict[str, Any]:
    """This machine's CPU. A virtual machine may hide features that the CPU's name implies: they are switched off."""
    cpu = str(import_tvm().target.codegen.llvm_get_system_cpu())
    flags = machine.cpu_flags()
    implied = _features(tvm_target(json.dumps({"kind": "llvm", "mcpu": cpu})), machine.machine())
    names = machine.FLAGS.get(machine.machine(), {})
    hidden = [f"-{f}" for f in implied if flags is not None and names[f] not in flags]
    return {"mcpu": cpu, "mattr": hidden} if hidden else {"mcpu": cpu}


def _features(target: Any, arch: str) -> tuple[str, ...]:
    """The features that LLVM enables for a target, of those that `machine` can tell the presence of."""
    names = _enabled(target)
    return tuple(name for name in machine.FLAGS.get(arch, {}) if name in names)


def _enabled(target: Any) -> set[str]:
    """All features that LLVM enables for a target."""
    enabled = import_tvm().target.codegen.llvm_get_cpu_features(target)
    return {str(name).lstrip("+") for name in (enabled.keys() if hasattr(enabled, "keys") else enabled)}
