"""Building: entries by JIT for this process, or linked into a shared library.

Code depends on a layout's signature only, so entries are cached: a second model of the same shape compiles nothing.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from . import toolchain
from .layout import Signature
from .levels import Level
from .manifest import ENTRIES, TERMS
from .runtime.files import atomic_path, check_output, check_path
from .schedules import cpu, cpu_link, cpu_terms
from .targets import tvm_target

# TVM's thread pool pins its workers unless told otherwise, which fights with other pools of the process.
os.environ.setdefault("TVM_BIND_THREADS", "0")

_lock = threading.RLock()


def _new_lock() -> None:
    global _lock  # noqa: PLW0603 - another thread may have held it when this process was forked
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)

EXPORTED = "__tvm_ffi_"
LAUNCHER = Path(__file__).parent / "runtime" / "c" / "launcher.c"


def kernel(
    signatures: tuple[Signature, ...], symbol: str, entry: str, parallel: bool = False, first_directory: int = 0
) -> tvm.tirx.PrimFunc:
    """The PrimFunc of an entry such as "raw_f32"."""
    kind, _, width = entry.partition("_")
    if kind == "total":
        return cpu_terms.total(signatures[0], symbol, parallel, first_directory)
    x_dtype = {"f32": "float32", "f64": "float64"}[width]
    if kind == "terms":
        return cpu_terms.terms(signatures[0], symbol, x_dtype, parallel, first_directory)
    return cpu.entry(signatures, symbol, kind, x_dtype, parallel, first_directory)


def jit(level: Level, links: Sequence[Mapping[str, Any]]) -> Callable[[str], Any]:
    """entry name -> function, compiled when it is first asked for."""
    home = os.getpid()
    texts = tuple(json.dumps([stage["name"], stage["args"]], sort_keys=True) for stage in links)

    @functools.cache
    def compiled(name: str) -> Any:
        short = name.removesuffix("_parallel")
        with _lock:
            if name != short:
                _start_threads()
            if short.startswith("link_"):
                text = texts[int(short.removeprefix("link_"))]
                return _jit_link(text, level.signatures[0].acc_dtype, level.target.config, name != short)
            return _jit_entry(level.signatures, level.first_directory, level.target.config, short, name != short)

    def entry(name: str) -> Any:
        if name.endswith("_parallel") and os.getpid() != home:
            # The workers of TVM's pool do not survive a fork: a child computes by itself, or loads an artifact.
            serial = compiled(name.removesuffix("_parallel"))
            return lambda *arguments: serial(*arguments[:-1])
        return compiled(name)

    return entry


@functools.cache
def _start_threads() -> None:
    from .runtime.threads import available_cpus

    tvm.get_global_func("runtime.config_threadpool")(1, available_cpus())


@functools.lru_cache(maxsize=4096)
def _jit_entry(signatures: tuple[Signature, ...], first_directory: int, config: str, entry: str, parallel: bool) -> Any:
    return _jit(kernel(signatures, "entry", entry, parallel, first_directory), config)


@functools.lru_cache(maxsize=1024)
def _jit_link(text: str, dtype: str, config: str, parallel: bool) -> Any:
    name, args = json.loads(text)
    return _jit(cpu_link.entry("entry", name, args, dtype, parallel), config)


def _jit(function: tvm.tirx.PrimFunc, config: str) -> Any:
    return tvm.compile(function, target=tvm_target(config))["entry"]


def export(
    path: str | os.PathLike[str],
    levels: Sequence[Level],
    links: Sequence[Mapping[str, Any]],
    prefix: str,
    blob: np.ndarray,
) -> None:
    """Write the shared library: kernels of every level, model, launcher. Atomic; the same input gives the same bytes.

    Raises:
        TargetError: there is no C compiler, or it failed. MissingExtraError: the target is another platform, and there
            is no compiler for that.
        InputError: ``path`` is no path.
        OSError: the path can't be written.
    """
    final = check_output(check_path(path))
    platform = levels[0].target.platform
    tools = toolchain.find(platform)
    with tempfile.TemporaryDirectory(prefix="woodpecker-") as name:
        folder = Path(name)
        objects = [f"kernels{level.suffix}.o" for level in levels]
        for level, file in zip(levels, objects, strict=True):
            _write_kernels(folder / file, level, links, prefix)
        blob.tofile(folder / "model.bin")
        shutil.copy(LAUNCHER, folder / "launcher.c")
        macros = {
            "WP_PREFIX": prefix,
            "WP_BLOB": '"model.bin"',
            "WP_KERNELS(M)": " ".join(
                f"M({name},{level.suffix},{_shared(level, name)},{level.scratch_bytes})"
                for level in levels
                for name in (*_entries(level), *(f"link_{i}" for i in range(len(links))))
            ),
        }
        (folder / toolchain.EXPORTS).write_text(toolchain.version_script(EXPORTED))
        # The lowest level first: of helpers that several objects define, the linker takes the first.
        link = toolchain.shared_library(platform, ["launcher.c", *objects], "model.so")
        tools.run([*(f"-D{k}={v}" for k, v in macros.items()), *link], folder, "model.so")
        with atomic_path(final, mode=0o777) as staged:
            shutil.copyfile(folder / "model.so", staged)


def _entries(level: Level) -> tuple[str, ...]:
    return ENTRIES if level.terms is None else (*ENTRIES, *TERMS)


def _shared(level: Level, entry: str) -> int:
    """What the launcher shares the range of an entry out in: rows, or single groups of trees."""
    return 1 if entry in TERMS else level.shared_rows


def _write_kernels(file: Path, level: Level, links: Sequence[Mapping[str, Any]], prefix: str) -> None:
    """The object file of a level's entries and links."""
    functions = {}
    for name in _entries(level):
        symbol = f"{prefix}_{name}{level.suffix}"
        functions[symbol] = kernel(level.signatures, symbol, name, first_directory=level.first_directory)
    for i, stage in enumerate(links):
        symbol = f"{prefix}_link_{i}{level.suffix}"
        functions[symbol] = cpu_link.entry(symbol, stage["name"], stage["args"], level.signatures[0].acc_dtype, False)
    with _lock:
        executable = tvm.compile(tvm.IRModule(functions), target=tvm_target(level.target.config))
    executable.mod.write_to_file(str(file))
