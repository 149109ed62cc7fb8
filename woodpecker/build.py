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

from . import c_config, toolchain
from .errors import ArtifactError, InputError, TargetError
from .layout import Signature
from .levels import Level
from .manifest import ENTRIES, FEW, TERMS
from .relay_ops.plan import WALKING
from .runtime import machine
from .runtime.files import atomic_path, check_output, check_path
from .runtime.loader import read_header
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

SOURCES = Path(__file__).parent / "runtime" / "c"
C_SOURCES = ("artifact.c", "woodpecker.h", "cpu.h", "entries.h", "ffi.h", "pool.h", "wasm.h")


def kernel(
    signatures: tuple[Signature, ...], symbol: str, entry: str, parallel: bool = False, first_directory: int = 0
) -> tvm.tirx.PrimFunc:
    """The PrimFunc of an entry such as "raw_f32"."""
    kind, _, width = entry.partition("_")
    if kind == "few":
        walks = next(i for i, signature in enumerate(signatures) if signature.strategy not in WALKING)
        signatures, kind = signatures[:walks], "raw"
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
    manifest: Mapping[str, Any],
    blob: np.ndarray,
    *,
    format: str | None = None,
    symbol: str | None = None,
) -> None:
    """Write the artifact: kernels of every level, model, C interface. Atomic; the same input gives the same bytes.

    Args:
        path: The file.
        levels: The CPU levels.
        manifest: The manifest.
        blob: The model, with that manifest in it.
        format, symbol: See `CompiledModel.save`.

    Raises:
        TargetError: there is no C compiler or archiver, or it failed. MissingExtraError: the target is another
            platform, and there is no compiler for that.
        InputError: ``path`` is no path, ``format`` or ``symbol`` is wrong, or ``symbol`` is given for a module.
        OSError: the path can't be written.
    """
    final = check_path(path)
    shared = c_config.check_format(format, final) == "shared"
    symbol = c_config.check_symbol(symbol)
    if not shared and manifest.get("cuda") is not None:
        raise InputError("CUDA code runs from Python, and a static library is for C: compile that without 'cuda'")
    final = check_output(final)
    platform = levels[0].target.platform
    module = shared and platform.system == machine.WEBASSEMBLY
    if module and symbol:
        raise InputError(
            f"symbol is {symbol!r}, and hosts of a WebAssembly module can't call a C function that returns a model: "
            "leave it out, or save a static library"
        )
    tools = toolchain.find(platform)
    archiver = None if shared else toolchain.archiver(tools)
    with tempfile.TemporaryDirectory(prefix="woodpecker-") as name:
        folder = Path(name)
        objects = [f"kernels{level.suffix}.o" for level in levels]
        for level, file in zip(levels, objects, strict=True):
            _write_kernels(folder / file, level, manifest["links"], manifest["prefix"])
        blob.tofile(folder / "model.bin")
        for source in C_SOURCES:
            shutil.copy(SOURCES / source, folder)
        (folder / "config.h").write_text(c_config.config(manifest, blob.nbytes, shared=shared, symbol=symbol))
        made = "model.so" if shared else "model.a"
        if archiver is None:
            (folder / toolchain.EXPORTS).write_text(c_config.version_script(manifest["prefix"], symbol))
            tools.run(toolchain.shared_library(platform, ["artifact.c", *objects], made), folder, made)
        else:
            tools.run(toolchain.object_file(platform, "artifact.c", "artifact.o"), folder, "artifact.o")
            archiver.run(toolchain.static_library(["artifact.o", *objects], made), folder, made)
        if module:
            # A linker may leave out zeros of data, or cut them in parts, which other platforms' sections don't allow.
            try:
                read_header(folder / made, verify=True)
            except ArtifactError as error:
                raise TargetError(
                    f"{tools.name} changed the model when it linked the module: use another version, pip install "
                    "'woodpecker[cross]'"
                ) from error
        with atomic_path(final, mode=0o777 if shared else 0o666) as staged:
            shutil.copyfile(folder / made, staged)


def _entries(level: Level) -> tuple[str, ...]:
    return (*ENTRIES, *(FEW if level.few else ()), *(() if level.terms is None else TERMS))


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
    file.write_bytes(own_names(file.read_bytes(), prefix, level.suffix))


def own_names(code: bytes, prefix: str, suffix: str = "") -> bytes:
    """An object file in which what TVM's code has in common with other models' code has names of its own.

    These are the one function of libtvm_ffi that the code calls, which `runtime/c/artifact.c` provides, and
    conversions of float16 that LLVM adds to every object: a linker would take the first of several, which may be code
    for another CPU. A name is replaced by one of the same length, so that the object stays as it is otherwise.
    """
    unique, level = prefix.removeprefix("wp_"), suffix.removeprefix("_level").rjust(2, "_")
    names = {
        "TVMFFIErrorSetRaisedFromCStrParts": f"{prefix}_ffi_set_error",
        "__extendhfsf2\0": f"x{unique[:10]}{level}\0",
        "__truncsfhf2\0": f"t{unique[:9]}{level}\0",
    }
    for old, new in names.items():
        code = code.replace(old.encode(), new.encode())
    return code
