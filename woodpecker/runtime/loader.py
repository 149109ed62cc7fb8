"""load(): from a `.so` to a predictor, with every check that can be made before its code is mapped."""

from __future__ import annotations

import ctypes
import mmap
import os
import stat
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from ..errors import ArtifactError
from . import format as fmt
from . import machine, threads
from .compiled import Entry, Program
from .cuda_facts import check_cuda, device_number
from .files import check_path
from .predictor import Predictor, make_predictor

WASM, STATIC = b"\0asm", b"!<arch>\n"
"""The first bytes of a WebAssembly module, and of a static library."""
LIBRARIES = (b"\x7fELF", b"MZ", b"\xcf\xfa\xed\xfe", WASM, STATIC)
"""The first bytes of all that is compiled: for Linux, Windows, macOS, and those."""


def read_header(path: str | os.PathLike[str], *, verify: bool = False) -> fmt.Header:
    """The checked header and manifest of an artifact, without running any of its code.

    Raises:
        ArtifactError: it is no artifact, is damaged, or has a format that this version does not read; with
            ``verify``, also where the digest of the whole model differs.
        InputError: ``path`` is no path.
        OSError: the file can't be read.
    """
    name = str(_checked(path))
    with open(name, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise ArtifactError(f"{name} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            header = fmt.find(data, name)
            if (module_bytes if data[:4] == WASM else _mapped_bytes)(data) > len(data):
                raise ArtifactError(f"{name}: the file is cut short; compile and save the model again")
            if verify:
                fmt.verify_digest(data, header, name)
            return header


def _checked(path: Any) -> Path:
    """The path of a regular file or of nothing: opening a pipe would wait for a writer, maybe for ever."""
    checked = check_path(path)
    mode = checked.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ArtifactError(f"{checked} is a device, pipe or socket, not an artifact: give the file that save() wrote")
    return checked


def _mapped_bytes(data: mmap.mmap) -> int:
    """How long a file must be for the dynamic linker, which maps what an ELF header promises without looking at the
    size: reading beyond the end kills the process (SIGBUS). 0 where it is no little-endian ELF file."""
    if data[:4] != b"\x7fELF" or data[4] not in (1, 2) or data[5:7] != b"\x01\x01" or len(data) < 64:
        return 0
    wide = data[4] == 2
    at, offsets, sizes, header = (32, "<QQ", 54, 56) if wide else (28, "<II", 42, 32)
    segments_at, sections_at = struct.unpack_from(offsets, data, at)
    segment_size, segments, section_size, sections = struct.unpack_from("<4H", data, sizes)
    end = max(segments_at + segments * segment_size, sections_at + sections * section_size)
    if segment_size < header or end > len(data):
        return int(end)
    for at in range(segments_at, segments_at + segments * segment_size, segment_size):
        offset, _, _, size = (
            struct.unpack_from("<4Q", data, at + 8) if wide else struct.unpack_from("<4I", data, at + 4)
        )
        end = max(end, offset + size)
    return int(end)


def module_bytes(data: mmap.mmap | bytes) -> int:
    """How long the file of a WebAssembly module must be, by the lengths of its sections."""
    at = 8
    while at < len(data):
        size, shift = 0, 0
        for byte in data[at + 1 : at + 6]:
            size, shift, at = size | (byte & 127) << shift, shift + 7, at + 1
            if byte < 128:
                break
        at += 1 + size
    return at


def is_library(path: str | os.PathLike[str]) -> bool:
    """Whether a file is compiled code of any platform, by its first bytes."""
    with open(path, "rb") as file:
        return file.read(8).startswith(LIBRARIES)


def is_static(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a static library."""
    with open(path, "rb") as file:
        return file.read(8) == STATIC


def _open(name: str, symbol: str) -> Any:
    """The library with this symbol. The dynamic linker knows loaded libraries by their path: where the file replaced
    one that is in use, the old one comes back, and only another path leads to the new one."""
    # tvm_ffi takes a name without a slash for a library to be searched for.
    path = Path(name).absolute()
    if _loadable(str(path)):
        module = tvm_ffi.load_module(str(path))
        if module.implements_function(symbol):
            return module
    with tempfile.TemporaryDirectory(prefix="woodpecker-") as folder:
        alias = Path(folder) / "model.so"
        alias.symlink_to(path)
        return tvm_ffi.load_module(str(alias))


def _loadable(path: str) -> bool:
    """Whether tvm_ffi can load the file by this path: it tells formats by suffix and takes UTF-8, and the dynamic
    linker replaces ``$ORIGIN`` and ``$LIB``."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return path.endswith(".so") and "$" not in path


def load(
    path: str | os.PathLike[str], *, device: str | None = None, num_threads: int | None = None, verify: bool = False
) -> Predictor:
    """Load an artifact made by `Predictor.save`. Needs numpy and apache-tvm-ffi only.

    Of an artifact for several CPU levels, the last one that this CPU can run is used; the environment variable
    WOODPECKER_CPU_LEVEL names another.

    Args:
        path: The artifact; a regular file of any name.
        device: None or "cpu"; "cuda", this process's first GPU, or "cuda:1" and the like, where the artifact has code.
        num_threads: Threads per call; None: the CPUs of this process's affinity and control group, and one where a
            call has too little work. The environment variable WOODPECKER_NUM_THREADS is the default.
        verify: Compare the digest of the whole model, which reads all of the file.

    Raises:
        ArtifactError: the file is no artifact, is damaged, belongs to another platform, CPU or format version, or has
            no CUDA code for ``device``.
        TargetError: there is no such GPU, no driver, no code for the GPU's architecture, or the driver fails.
        InputError: ``num_threads``, ``device`` or WOODPECKER_CPU_LEVEL is wrong, or ``path`` is no path.
        OSError: the file can't be read.
    """
    threads.resolve(num_threads)
    gpu_number = device_number(device)
    header = read_header(path, verify=verify)
    name = os.fspath(path)
    if is_static(name):
        raise ArtifactError(f"{name} is a static library, to link into a C program: save() as a .so to load it")
    if gpu_number is not None:
        check_cuda(header.manifest, name)
    number = machine.check([level["target"] for level in header.manifest["levels"]], name)
    manifest = fmt.in_level(header.manifest, number)
    prefix, suffix = manifest["prefix"], manifest["suffix"]
    try:
        module = _open(name, f"{prefix}_model")
    except (RuntimeError, OSError, ValueError) as error:
        raise ArtifactError(f"{name} can't be loaded: {error}") from error
    entries: dict[str, Entry] = {}

    def entry(short: str) -> Entry:
        if short not in entries:
            entries[short] = module[f"{prefix}_{short}{suffix}"]
        return entries[short]

    address = int(module[f"{prefix}_model"]())
    memory: Any = (ctypes.c_uint8 * header.length).from_address(address)
    model = np.frombuffer(memory, np.uint8)
    gpu = None
    if gpu_number is not None:
        from . import cuda_model

        gpu = cuda_model.load(manifest, model, gpu_number, name)
    return make_predictor(Program(entry, model, manifest, gpu=gpu), num_threads)
