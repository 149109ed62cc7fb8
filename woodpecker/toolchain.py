"""Toolchains: the C compiler and linker for a target's platform, and how it is told to make a shared library."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .errors import MissingExtraError, TargetError
from .platforms import Platform, here
from .runtime import machine

EXPORTS = "exports.map"
# Some compilers check buffers unasked, by functions that musl does not have.
_FLAGS = ("-O2", "-ffp-contract=off", "-U_FORTIFY_SOURCE")

# The oldest glibc that zig links for on an architecture: what it makes runs on every newer one.
_GLIBC = {"x86_64": "2.17", "aarch64": "2.17", "armv7": "2.17", "riscv64": "2.27"}
_ZIG_MACHINES = {"armv7": "arm"}
_DEBIAN = {
    "x86_64": "x86-64-linux-gnu",
    "aarch64": "aarch64-linux-gnu",
    "armv7": "arm-linux-gnueabihf",
    "riscv64": "riscv64-linux-gnu",
}
_GCC = {**_DEBIAN, "x86_64": "x86_64-linux-gnu"}


@dataclass(frozen=True)
class Toolchain:
    """A command that compiles C and links, for one platform.

    Args:
        name: What it is, for people.
        command: The command and its first arguments. It can be run in any folder.
        environment: Variables that it needs beside those of this process.
        archiver: The command that makes static libraries of what it compiles; None where the system's usual one does.
        role: What it does, for people.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    archiver: tuple[str, ...] | None = None
    role: str = "C compiler"

    def run(self, arguments: Sequence[str], folder: Path, made: str) -> None:
        """Run it in a folder, where it has to make the file ``made``.

        Raises:
            TargetError: it can't be run, or failed; with what it said.
        """
        command = [*self.command, *arguments]
        # zig keeps what it makes for one call beside the sources.
        variables = {**os.environ, **self.environment, "ZIG_LOCAL_CACHE_DIR": str(folder / "zig-cache")}
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, check=False, env=variables)
        except OSError as error:
            raise TargetError(f"the {self.role} can't be run: {error}") from error
        if done.returncode or not (folder / made).is_file():
            said = done.stderr.decode(errors="replace").strip()[-2000:] or f"exit code {done.returncode}, no message"
            if "#embed" in said or "'embed'" in said:
                said += "\nWebAssembly needs zig 0.14 or later: pip install 'woodpecker[cross]'"
            raise TargetError(f"the {self.role} failed: {shlex.join(command)}\n{said}")


def find(platform: Platform) -> Toolchain:
    """The toolchain for a platform.

    For this machine's own: the command of the environment variable CC, else cc, gcc or clang. For another: CC, where
    that compiles for it; else zig, which the extra `cross` installs; else a cross compiler of the system's.

    Raises:
        TargetError: there is none for this machine, or CC is no command.
        MissingExtraError: there is none for the other platform; the message says what installs one.
    """
    wanted = _setting("CC")
    if platform == here():
        for command in [wanted] if wanted else [["cc"], ["gcc"], ["clang"]]:
            if found := _runnable(command):
                return Toolchain(command[0], found, archiver=_archiver_of(found))
        if wanted:
            raise TargetError(
                f"the environment variable CC names {wanted[0]!r}, and there is no such program: name a C compiler, or "
                "unset it"
            )
        if zig := _zig(platform):
            return zig
        raise TargetError(
            "saving a model needs a C compiler, and none was found: install gcc or clang (Debian: apt install gcc), or "
            "set the environment variable CC. Predicting in this process needs none"
        )
    if wanted and (found := _runnable(wanted)) and _makes(found, platform):
        return Toolchain(wanted[0], found, archiver=_archiver_of(found))
    if zig := _zig(platform):
        return zig
    cross = f"{_GCC.get(platform.machine)}-gcc"
    if platform.system == "linux" and platform.libc == "gnu" and (found := _runnable([cross])):
        return Toolchain(cross, found, archiver=_archiver_of(found))
    debian = f", or on Debian: apt install gcc-{_DEBIAN[platform.machine]}" if platform.libc == "gnu" else ""
    raise MissingExtraError(
        f"saving a model for {machine.platform_text(asdict(platform))} needs a compiler that makes code for it, "
        f"and none was found: pip install 'woodpecker[cross]'{debian}"
    )


def shared_library(platform: Platform, sources: Sequence[str], output: str) -> list[str]:
    """The arguments that link a shared library of C sources and objects. On Linux it exports what the file EXPORTS
    says, a version script; elsewhere what the sources themselves mark. For WebAssembly it is a module."""
    if platform.system == "wasi":
        # zig puts the stack below all data, where one that overflows traps, and overwrites nothing.
        memory = ["-Wl,-z,stack-size=1048576", "-Wl,--export=malloc", "-Wl,--export=free"]
        return [*_FLAGS, "-mexec-model=reactor", *sources, *memory, "-Wl,--strip-all", "-o", output]
    flags = [*_FLAGS, "-shared"]
    if platform.system == "win32":
        return [*flags, *sources, "-Wl,-s", "-o", output]
    flags += ["-fPIC", "-fvisibility=hidden"]
    if platform.system == "darwin":
        return [*flags, *sources, "-Wl,-dead_strip", "-o", output]
    link = [
        f"-Wl,--version-script={EXPORTS}",
        "-Wl,-z,nodelete",
        "-Wl,-z,noexecstack",
        "-Wl,--build-id=none",
        "-Wl,-s",
    ]
    return [*flags, *sources, *link, "-o", output, "-lm", "-lpthread"]


def object_file(platform: Platform, source: str, output: str) -> list[str]:
    """The arguments that compile a C source to an object of a static library."""
    position = [] if platform.system in ("win32", "wasi") else ["-fPIC", "-fvisibility=hidden"]
    return [*_FLAGS, *position, "-c", source, "-o", output]


def static_library(objects: Sequence[str], output: str) -> list[str]:
    """The arguments that make an archiver write a static library, with no times in it."""
    # macOS' ar knows no D: what does the same is its environment variable ZERO_AR_DATE.
    return ["rcs" if sys.platform == "darwin" else "rcsD", output, *objects]


def archiver(tools: Toolchain) -> Toolchain:
    """The program that makes static libraries of what a toolchain compiles: the command of the environment variable
    AR, else the one that belongs to the compiler, else ar or llvm-ar.

    Raises:
        TargetError: there is none, or AR is no command.
    """
    wanted = _setting("AR") or tools.archiver
    usual = [wanted] if wanted else [["ar"], ["llvm-ar"]]
    for command in usual:
        if found := _runnable(command):
            return Toolchain(command[0], found, {**tools.environment, "ZERO_AR_DATE": "1"}, role="archiver")
    raise TargetError(
        f"saving a static library needs the program {usual[0][0]}, and it was not found: install binutils (Debian: apt "
        "install binutils), or set the environment variable AR"
    )


def _archiver_of(compiler: Sequence[str]) -> tuple[str, ...] | None:
    """The archiver that belongs to a compiler: zig's own, or the one beside a cross compiler; else None."""
    for i, word in enumerate(compiler):
        name = Path(word).name
        if re.fullmatch(r"zig(-[0-9.]+)?(\.exe)?|ziglang", name):
            return (*compiler[: i + 1], "ar")
        if re.fullmatch(r"\w+-linux-gnu(eabihf)?-gcc", name):
            return (f"{word.removesuffix('-gcc')}-ar",)
    return None


def _setting(variable: str) -> list[str]:
    """The command that an environment variable holds; empty where it is not set."""
    setting = os.environ.get(variable, "")
    try:
        return shlex.split(setting)
    except ValueError as error:
        raise TargetError(
            f"the environment variable {variable} holds {setting!r}, which is no command: {error}"
        ) from None


def _runnable(command: Sequence[str]) -> tuple[str, ...] | None:
    """The command, in a form that runs in any folder, or None where there is no such program."""
    found = shutil.which(command[0])
    if found is None:
        return None
    return tuple(command) if os.path.isabs(found) else (os.path.abspath(found), *command[1:])


@functools.cache
def _makes(command: tuple[str, ...], platform: Platform) -> bool:
    """Whether a compiler says that it makes code for a platform."""
    try:
        done = subprocess.run([*command, "-dumpmachine"], capture_output=True, check=False, timeout=60)
        named, *rest = done.stdout.decode(errors="replace").strip().split("-")
    except (OSError, subprocess.TimeoutExpired):
        return False
    if platform.system != "linux" or "linux" not in rest:
        return False
    arch = "armv7" if named.startswith("arm") and rest[-1].endswith("hf") else named
    libc = "musl" if rest[-1].startswith("musl") else "gnu"
    return (arch, libc) == (platform.machine, platform.libc)


def _zig(platform: Platform) -> Toolchain | None:
    """zig of the package ziglang, or of the system; None where there is none."""
    if importlib.util.find_spec("ziglang"):
        command: tuple[str, ...] = (sys.executable, "-m", "ziglang", "cc")
    elif found := shutil.which("zig"):
        command = (os.path.abspath(found), "cc")
    else:
        return None
    name = _ZIG_MACHINES.get(platform.machine, platform.machine)
    archiver = _archiver_of(command)
    # zig ends with an error where it can't write to its cache, which it wants in the home.
    cache = {} if _writable_home() else {"ZIG_GLOBAL_CACHE_DIR": str(Path(tempfile.gettempdir()) / "zig-cache")}
    if platform.system == "darwin":
        return Toolchain("zig", (*command, "-target", f"{name}-macos.11.0"), cache, archiver)
    if platform.system == "win32":
        return Toolchain("zig", (*command, "-target", f"{name}-windows-gnu"), cache, archiver)
    if platform.system == "wasi":
        return Toolchain("zig", (*command, "-target", f"{name}-wasi"), cache, archiver)
    environment = platform.libc + ("eabihf" if platform.machine == "armv7" else "")
    version = f".{_GLIBC[platform.machine]}" if platform.libc == "gnu" else ""
    of_cpu = {"armv7": ("-mcpu=generic+v7a+vfp3d16",), "riscv64": ("-mcpu=baseline_rv64",)}.get(platform.machine, ())
    return Toolchain("zig", (*command, "-target", f"{name}-linux-{environment}{version}", *of_cpu), cache, archiver)


def _writable_home() -> bool:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    while not cache.exists() and cache != cache.parent:
        cache = cache.parent
    return cache.is_dir() and os.access(cache, os.W_OK)
