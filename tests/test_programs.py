"""Static libraries for other architectures, linked into a C program and run under QEMU: `woodpecker.h` without Python.

32-bit ARM has 32-bit pointers, and vector units that take denormal numbers for zero; 64-bit RISC-V has no vectors.
"""

from __future__ import annotations

import shutil
import sys

import pytest

from .c_support import SIZES, SOURCES, expected, make, run
from .gallery import FORESTS, compiled, fitting, rows
from .qemu_support import emulator, needs_zig
from .support import in_turn

TARGETS = {
    "armv7-linux-musleabihf": ("arm", "arm-linux-musleabihf", "-mcpu=generic+v7a+vfp3d16"),
    "riscv64-linux-musl": ("riscv64", "riscv64-linux-musl", "-mcpu=baseline_rv64"),
    "aarch64-linux-musl": ("aarch64", "aarch64-linux-musl"),
}


def installed(arch: str) -> str | None:
    """QEMU's user emulator, of .ci/run's or of the system."""
    return shutil.which(emulator(arch)) or shutil.which(f"qemu-{arch}") or shutil.which(f"qemu-{arch}-static")


@pytest.mark.full
@pytest.mark.qemu
@needs_zig
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "strategy"), fitting("programs"))
def test_bits(target, name, strategy, tmp_path):
    if target not in in_turn(list(TARGETS), name):
        pytest.skip("the short form takes one target a forest")
    arch, *flags = TARGETS[target]
    qemu = installed(arch)
    if qemu is None:
        pytest.skip(f"there is no qemu-{arch}")
    forest = FORESTS[name]()
    native = compiled(forest, strategy)
    cross = compiled(forest, strategy, target={"kind": "llvm", "mtriple": target})
    cross.save(tmp_path / "m.a", symbol="the_model")
    zig = (sys.executable, "-m", "ziglang", "cc", "-target", *flags)
    program = make(SOURCES / "run.c", tmp_path / "run", "-static", "-DMODEL=the_model", tmp_path / "m.a", compiler=zig)
    for number, what in enumerate(("raw", "apply")):
        for dtype in ("float32", "float64"):
            X = rows(forest, sum(SIZES), number, dtype)
            assert run([qemu, program], X, what, tmp_path, threads=1 + number) == expected(native, what, X), (
                what,
                dtype,
            )
