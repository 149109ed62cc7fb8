"""The assembly of kernels for other architectures: no fused multiply-adds, no vectors that take denormals for zero."""

from __future__ import annotations

import re

import pytest
import tvm

from woodpecker.build import kernel
from woodpecker.manifest import ENTRIES
from woodpecker.targets import resolve

from .gallery import ALONE, FORESTS, fitting
from .kernels import prepared
from .support import in_turn
from .test_kernel_lint import assembly, bad_kernel, lint

FUSED = {
    "aarch64": re.compile(r"\b(fn?m(add|sub)|fml[as])\b"),
    "armv7": re.compile(r"\b(vfn?m[as])\b"),
    "riscv64": re.compile(r"\bfn?m(add|sub)\.[sd]\b"),
}
NEON_FLOATS = re.compile(r"\bv\w+\.f32\s+[dq]\d+")
"""Instructions on several floats at once: 32-bit ARM's flush denormals. Scalars are in s registers."""


def wrong(text: str, arch: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines()]
    found = [line for line in lines if FUSED[arch].search(line)]
    return found + [line for line in lines if arch == "armv7" and NEON_FLOATS.search(line)]


def check(name: str, strategy: str, target: str, entries: tuple[str, ...]) -> None:
    made = prepared(FORESTS[name](), strategy, features=resolve(target).features, **ALONE.get(strategy, {}))
    functions = {entry: kernel(made.signatures, entry, entry) for entry in entries}
    for function in functions.values():
        assert lint(function) == [], strategy
    text = assembly(tvm.IRModule(functions), target)
    assert text.count("\n") > 200
    assert wrong(text, resolve(target).machine) == [], strategy


@pytest.mark.sampled(3)
@pytest.mark.parametrize("target", FUSED)
@pytest.mark.parametrize(
    ("name", "strategy"),
    [("linear", "tree_traversal"), ("float32", "scan"), ("ranked", "bitslice"), ("ranked64", "bitslice")],
)
def test_some_kernels(target, name, strategy):
    check(name, strategy, target, ("raw_f64",))


@pytest.mark.full
@pytest.mark.parametrize(("name", "strategy"), fitting("cross"))
def test_all_kernels(name, strategy):
    for target in in_turn(tuple(FUSED), name + strategy):
        check(name, strategy, target, ENTRIES)


@pytest.mark.parametrize("target", FUSED)
def test_the_lint_can_fail(target):
    fma = {"armv7": {"kind": "llvm", "mtriple": "armv7-linux-gnueabihf", "mcpu": "cortex-a53"}}.get(target, target)
    assert wrong(assembly(bad_kernel(lambda a, b, c, o: a * b + c), fma), target) != []


def test_the_lint_notices_vectors_that_flush():
    text = "\tvadd.f32\td16, d16, d17\n\tvcge.f32 q8, q9, q10\n\tvadd.f32 s0, s1, s2\n\tvadd.f64 d0, d1, d2\n"
    assert len(wrong(text, "armv7")) == 2


def test_neon_on_32_bit_arm_stays_off():
    for target in ("armv7", {"kind": "llvm", "mtriple": "armv7-linux-gnueabihf", "mattr": ["+neon"]}, "arm/rasp3b"):
        assert "neon" not in resolve(target).features
        assert '"-neon"' in resolve(target).config
