"""Kernels for CPUs without an apache-tvm-ffi wheel, linked into a C program and run under QEMU.

32-bit ARM has 32-bit pointers, and vector units that take denormal numbers for zero; 64-bit RISC-V has no vectors.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from woodpecker import reference, toolchain
from woodpecker.runtime.loader import read_header

from .gallery import FORESTS, compiled, fitting, rows
from .qemu_support import emulator, on_qemu
from .support import assert_bits_equal, in_turn

DEVICE = Path(__file__).parent / "device.c"
TARGETS = {"armv7-linux-musleabihf": "arm", "riscv64-linux-musl": "riscv64"}


@pytest.mark.full
@on_qemu
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "strategy"), fitting("programs"))
def test_bits(target, name, strategy, tmp_path, monkeypatch):
    if target not in in_turn(list(TARGETS), name):
        pytest.skip("the short form takes one target a forest")
    forest = FORESTS[name]()
    acc = f"-DACC_BYTES={forest.values.dtype.itemsize}"

    def program(_, sources, output):
        return ["-O2", "-static", acc, str(DEVICE), *sources, "-o", output, "-lm", "-lpthread"]

    monkeypatch.setattr(toolchain, "shared_library", program)
    compiled(forest, strategy, target=target).save(tmp_path / "program")
    header = read_header(tmp_path / "program")
    scratch = header.manifest["levels"][0]["scratch_bytes"]
    for dtype in ("float32", "float64"):
        X = rows(forest, 1100, 1, dtype)
        X.tofile(tmp_path / "X")
        for kind, function in (("raw", reference.predict_raw), ("apply", reference.apply)):
            want = function(forest, X)
            for n in (9, len(X)):
                sizes = map(str, (n, forest.n_features, want.shape[1], scratch, header.length))
                command = [emulator(TARGETS[target]), "./program", f"{kind}_f{dtype[-2:]}", "X", "out", *sizes]
                subprocess.run(command, cwd=tmp_path, check=True)
                got = np.fromfile(tmp_path / "out", want.dtype).reshape(-1, want.shape[1])
                if kind == "raw":
                    assert_bits_equal(got, want[:n])
                else:
                    np.testing.assert_array_equal(got, want[:n])
