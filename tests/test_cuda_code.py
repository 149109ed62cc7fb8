"""What NVRTC makes of the kernels, without a GPU: it assembles, needs few registers, and keeps IEEE 754."""

from __future__ import annotations

import re
import struct
import sys
from dataclasses import dataclass

import pytest

from woodpecker import build_cuda
from woodpecker.errors import MissingExtraError, TargetError
from woodpecker.schedules import cuda, cuda_blocks

from .cuda_support import Prepared, cuda_c, prepared, skip_without_nvrtc
from .gallery import FORESTS
from .support import in_turn
from .test_cuda import PAIRS, RANKED, WALKING

ARCHITECTURES = ("sm_80", "sm_86", "sm_90", "sm_100", "sm_120")
MAX_REGISTERS = 64
"""Of a thread: with so many, a multiprocessor holds half of the threads that it can hold."""
MAX_STACK = 32
"""Bytes of spills: what the loops over trees don't need. NVRTC 13 prefers a few to another eight registers."""
SOME = ("linear", "outputs")
INEXACT = re.compile(r"^.*(?:\bfma|\bmad[.\w]*\.f(?:32|64)|\.ftz|\.approx|\.full|\.sat).*$", re.M)
UNROUNDED = re.compile(r"^.*\b(?:add|sub|mul|div)\.f(?:32|64).*$", re.M)
"""Without .rn, ptxas may fuse a product and a sum."""
FENCES = re.compile(r"membar\.gl|fence\.sc")
"""An acquire-release fence of each thread would not do where one thread counts for its block (`cuda_spread`)."""


@pytest.fixture(scope="module")
def nvrtc():
    skip_without_nvrtc()


@dataclass(frozen=True)
class Used:
    """What a kernel needs of a multiprocessor: registers of a thread, bytes of its stack, bytes of shared memory."""

    registers: int
    stack: int
    shared: int


def used(cubin: bytes) -> dict[str, Used]:
    """kernel -> what it needs, from the sections of a cubin, which is an ELF file (attributes 0x2F and 0x11 of .nv.info
    hold (symbol, registers) and (symbol, bytes of the frame))."""
    (table,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<HHH", cubin, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", cubin, table + i * size) for i in range(count)]

    def text(section: int, at: int) -> str:
        start = headers[section][4] + at
        return cubin[start : cubin.index(b"\0", start)].decode()

    sections = {text(names, header[0]): header for header in headers}
    symbols = sections[".symtab"]
    numbers: dict[int, dict[int, int]] = {0x2F: {}, 0x11: {}}
    _, _, _, _, at, length, *_ = sections[".nv.info"]
    end = at + length
    while at < end:
        form, attribute, nbytes = struct.unpack_from("<BBH", cubin, at)
        if form == 4 and attribute in numbers:
            symbol, value = struct.unpack_from("<II", cubin, at + 4)
            numbers[attribute][symbol] = value
        at += 4 + (nbytes if form == 4 else 0)
    found = {}
    for symbol, registers in numbers[0x2F].items():
        (name,) = struct.unpack_from("<I", cubin, symbols[4] + 24 * symbol)
        kernel = text(symbols[6], name)
        shared = sections.get(f".nv.shared.{kernel}")
        found[kernel] = Used(registers, numbers[0x11][symbol], shared[5] if shared else 0)
    return found


@pytest.mark.sampled(2)
@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize(
    ("name", "strategy"),
    [pytest.param(n, s, marks=() if (n, s) in zip(SOME, WALKING, strict=True) else pytest.mark.full) for n, s in PAIRS],
)
def test_kernels_assemble(name, strategy):
    assemble(prepared(FORESTS[name](), strategy, trees=2), name + strategy)


@pytest.mark.full
@pytest.mark.usefixtures("nvrtc")
@pytest.mark.parametrize(
    "name", ["ranked", *(pytest.param(n, marks=pytest.mark.full) for n in RANKED if n != "ranked")]
)
def test_kernels_of_ranks_assemble(name):
    assemble(prepared(FORESTS[name](), "perfect_tree_traversal", ranks=1, trees=4), name)


def assemble(made: Prepared, turn: str) -> None:
    """Assemble for two architectures and as PTX, and fail unless the code is as good as it should be."""
    text = cuda_c(made.signatures)
    for arch in in_turn(("sm_80", "sm_90"), turn):
        code = build_cuda.assemble(text, arch)
        assert (code.kind, code.arch) == ("cubin", arch)
        kernels = used(code.image)
        assert set(kernels) == set(cuda.ENTRIES)
        for kernel, needs in kernels.items():
            assert 8 <= needs.registers <= MAX_REGISTERS, f"{arch} {kernel}: {needs}"
            assert needs.stack <= MAX_STACK, f"{arch} {kernel}: {needs}"
            assert needs.shared + cuda_blocks.SHARED_BYTES <= 49 * 1024, f"{arch} {kernel}: {needs}"
    ptx = build_cuda.assemble(text, "sm_80", "ptx").image.decode()
    assert ".target sm_80" in ptx and "add.rn." in ptx
    assert INEXACT.findall(ptx) == UNROUNDED.findall(ptx) == []
    assert len(FENCES.findall(ptx)) >= 2 * ptx.count("atom.global.inc")


@pytest.mark.usefixtures("nvrtc")
@pytest.mark.full
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_architectures(arch):
    text = cuda_c(prepared(FORESTS["float32"](), "tree_traversal").signatures)
    assert set(used(build_cuda.assemble(text, arch).image)) == set(cuda.ENTRIES)


FUSED = """\
extern "C" __global__ void fused(float* x, double* y) {
  x[0] = x[1] * x[2] + x[3] / x[4];
  y[0] = y[1] * y[2] + y[3] / y[4];
}
"""


@pytest.mark.usefixtures("nvrtc")
def test_flags_that_keep_ieee_754(monkeypatch):
    ptx = build_cuda.assemble(FUSED, "sm_80", "ptx").image.decode()
    assert INEXACT.findall(ptx) == UNROUNDED.findall(ptx) == []
    for text in ("mul.rn.f32", "add.rn.f32", "div.rn.f32", "mul.rn.f64", "add.rn.f64", "div.rn.f64"):
        assert text in ptx
    monkeypatch.setattr(build_cuda, "EXACT", ("--use_fast_math",))
    fast = build_cuda.assemble(FUSED, "sm_80", "ptx").image.decode()
    assert {"fma", "ftz", "approx"} <= set(re.findall("fma|ftz|approx", " ".join(INEXACT.findall(fast))))


@pytest.mark.usefixtures("nvrtc")
def test_what_nvrtc_refuses():
    with pytest.raises(TargetError, match=r"NVRTC does not compile for sm_12: NVRTC_ERROR_INVALID_OPTION"):
        build_cuda.assemble(FUSED, "sm_12")
    with pytest.raises(TargetError, match=r"(?s)for sm_90: NVRTC_ERROR_COMPILATION\. .*nonesuch.*kernels\.cu\"\.$"):
        build_cuda.assemble("nonesuch", "sm_90")


def test_without_nvrtc(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'woodpecker\[compiler,cuda\]'"):
        build_cuda.assemble(FUSED, "sm_90")
