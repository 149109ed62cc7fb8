"""A lint over every kernel, TIR and assembly, for what breaks bit-equality without a test noticing by luck.

TIR's simplifier knows neither NaN nor signed zeros: it turns ``not (a < b)`` into ``a >= b``, ``a != a`` into false and
``0 + a`` into ``a``. LLVM contracts ``a * b + c`` to a fused multiply-add with one rounding.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tvm
import tvm_ffi
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as TB

from woodpecker.build import kernel
from woodpecker.manifest import ENTRIES, TERMS
from woodpecker.relay_ops.link import LINKS
from woodpecker.relay_ops.plan import WALKING
from woodpecker.relay_ops.relax import build_module
from woodpecker.runtime import machine
from woodpecker.schedules import cpu_link
from woodpecker.targets import resolve, tvm_target

from .gallery import ALONE, FORESTS, NAMES, UNFIT, fitting, neighbours, strategies
from .kernels import prepared
from .support import in_turn

COMPARISONS = ("prim.LT", "prim.LE", "prim.GT", "prim.GE", "prim.EQ", "prim.NE")
TARGETS = ("llvm", "x86-64-v2", "x86-64-v3", "x86-64-v4")
LIBM = {f"{name}{width}" for name in ("exp", "log", "log1p", "pow", "exp2", "ldexp") for width in ("", "f")}
ALLOWED_CALLS = {"TVMFFIErrorSetRaisedFromCStrParts", "memcpy", "memset"}
FUSED = re.compile(r"\bv?f(n)?m(add|sub|addsub|subadd)\d*[ps][sdh]\b")
CALL = re.compile(r"\b(?:callq?|jmpq?)\s+\*?([A-Za-z_][\w.$]*)(@PLT)?")


def key(node: Any) -> str:
    return type(node).__tvm_ffi_type_info__.type_key


def children(node: Any) -> list[Any]:
    """The parts of a TIR node, by reflection, so that no kind of node can be forgotten."""
    if isinstance(node, (tvm_ffi.Array, list, tuple)):
        return list(node)
    if not isinstance(node, tvm_ffi.Object) or isinstance(node, (tvm.ir.Op, tvm.ir.Type)):
        return []
    parts, info = [], type(node).__tvm_ffi_type_info__
    while info is not None:
        parts += [getattr(node, f.name) for f in info.fields if f.name not in ("span", "ty")]
        info = info.parent_type_info
    return parts


def nodes(root: Any) -> Iterator[tuple[Any, Any]]:
    """(node, its parent) for all nodes below a function's body."""
    stack = [(root, None)]
    while stack:
        node, parent = stack.pop()
        if isinstance(node, tvm_ffi.Object) and not isinstance(node, tvm_ffi.Array):
            yield node, parent
            parent = node
        stack += [(child, parent) for child in children(node)]


def is_float(node: Any) -> bool:
    return str(getattr(getattr(node, "ty", None), "dtype", "")).startswith(("float", "bfloat"))


def float_comparison(node: Any) -> bool:
    return key(node) in COMPARISONS and is_float(node.a)


def positive_zero(value: Any) -> bool:
    """Whether a value is the literal 0.0 (not -0.0), or a vector of it."""
    while key(value) == "prim.Broadcast":
        value = value.value
    return key(value) == "ir.FloatImm" and repr(float(value.value)) == "0.0"


def is_fence(node: Any) -> bool:
    return node is not None and key(node) == "ir.Call" and "llvm.arithmetic.fence" in str(node)


def misplaced_loops(node: Any, shifted: bool = False) -> Iterator[str]:
    """Loops from a loaded number inside a loop that does not start at 0: TVM 0.27 starts them at the wrong place."""
    if isinstance(node, tvm_ffi.Object) and not isinstance(node, tvm_ffi.Array) and key(node) == "tirx.For":
        loaded = any(key(inner) == "ir.TensorLoad" for inner, _ in nodes(node.min))
        if shifted and loaded:
            yield f"a loop from a loaded number within a shifted one: {node.loop_var} from {node.min}"
        shifted = shifted or not (key(node.min) == "ir.IntImm" and int(node.min.value) == 0)
    for child in children(node):
        yield from misplaced_loops(child, shifted)


def lint(function: Any, *, sums: bool = True) -> list[str]:
    """What is wrong with a kernel; with ``sums``, also what is wrong only where scores are summed."""
    found = list(misplaced_loops(function.body))
    for node, parent in nodes(function.body):
        kind = key(node)
        if kind == "prim.Not" and any(float_comparison(inner) for inner, _ in nodes(node)):
            found.append(f"a negated float comparison: {node}")
        if float_comparison(node) and tvm_ffi.structural_equal(node.a, node.b):
            found.append(f"a float compared with itself: {node}")
        if float_comparison(node) and kind == "prim.NE":
            found.append(f"floats compared by !=: {node}")
        if kind in ("prim.Sub", "prim.Div") and is_float(node) and tvm_ffi.structural_equal(node.a, node.b):
            found.append(f"a float less or by itself: {node}")
        if not sums:
            continue
        if kind == "prim.Mul" and is_float(node) and not is_fence(parent):
            found.append(f"a product that may be contracted: {node}")
        if kind in ("prim.Add", "prim.Sub") and is_float(node) and (positive_zero(node.a) or positive_zero(node.b)):
            found.append(f"a literal 0 in a sum: {node}")
        if kind == "tirx.BufferStore" and is_float(node.value) and positive_zero(node.value):
            found.append(f"a sum that starts from literal 0: {node}")
        if kind in ("tirx.Reduce", "prim.Reduce") and is_float(node):
            found.append(f"a reduction, whose order a schedule may change: {node}")
    return found


def lint_assembly(text: str, *, libm: bool = False) -> list[str]:
    """Fused multiply-adds, calls out of the module, and changes of the rounding mode in x86 assembly."""
    found = [f"fused: {line.strip()}" for line in text.splitlines() if FUSED.search(line)]
    found += [f"rounding mode: {line.strip()}" for line in text.splitlines() if "ldmxcsr" in line]
    own = set(re.findall(r"^([A-Za-z_.][\w.$]*):", text, re.M))
    called = {match[0] for match in CALL.findall(text)} - own
    allowed = ALLOWED_CALLS | (LIBM if libm else set())
    return found + [f"call: {name}" for name in sorted(called - allowed)]


def assembly(function: Any, target: str) -> str:
    built = tvm.compile(function, target=tvm_target(resolve(target).config))
    return built.mod.inspect_source("asm")


SIGNATURES = [(name, strategy) for name in FORESTS for strategy in NAMES if (name, strategy) not in UNFIT]


@functools.cache
def signatures_of(name: str, strategy: str) -> Any:
    return prepared(FORESTS[name](), strategy, **ALONE.get(strategy, {})).signatures


def test_every_signature_is_linted():
    assert {(n, s) for n in FORESTS for s in strategies(FORESTS[n]())} == set(SIGNATURES)
    flags = frozenset().union(*(signatures_of(*which)[0].flags for which in SIGNATURES))
    features = {"sentinel", "zero_missing", "categories", "vector", "linear", "divide"}
    assert flags == features | {"one_output", "leaf_in_node", "perfect", "squares"}


SOME = (("raw_f32", False), ("apply_f64", False))
REST = (("raw_f64", False), ("apply_f32", False), ("raw_f32", True))


@pytest.mark.sampled(6)
@pytest.mark.parametrize("entries", [SOME, pytest.param(REST, marks=pytest.mark.full)], ids=["some", "rest"])
@pytest.mark.parametrize("name", FORESTS)
def test_tir_of_kernels(name, entries):
    for _, strategy in (s for s in SIGNATURES if s[0] == name):
        for entry, parallel in entries:
            function = kernel(signatures_of(name, strategy), "entry", entry, parallel)
            assert sum(1 for _ in nodes(function.body)) > 100
            assert lint(function) == [], f"{strategy} {entry}"


def test_runs_of_columns_are_linted():
    made = prepared(neighbours(missing_value=-1.0), "tree_traversal", trees=2, interleave=1)
    assert {"runs", "sentinel"} <= made.signatures[0].flags
    for entry in ENTRIES:
        function = kernel(made.signatures, "entry", entry)
        assert lint(function) == [] and lint_assembly(assembly(function, "x86-64-v3")) == []


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in ("linear", "outputs", "vector") else pytest.mark.full) for n in FORESTS],
)
def test_kernels_that_share_trees_out(name):
    for strategy in (s for s in WALKING if (name, s) in SIGNATURES):
        functions = {e: kernel(signatures_of(name, strategy), e, e) for e in TERMS}
        for entry, function in functions.items():
            assert lint(function) == [], f"{strategy} {entry}"
            assert lint(kernel(signatures_of(name, strategy), entry, entry, parallel=True)) == []
        assert lint_assembly(assembly(tvm.IRModule(functions), "x86-64-v3")) == [], strategy


@pytest.mark.parametrize("name", LINKS)
def test_tir_of_links(name):
    for dtype in ("float32", "float64"):
        args = {"denominator": 3.5, "sigmoid": 0.7, "divide": 3}
        function = cpu_link.entry("entry", name, args, dtype, False)
        assert lint(function, sums=False) == []


@pytest.mark.parametrize("name", ["float64", "narrow", "linear", "vector32", "truncate", "outputs", "zero_rule"])
def test_tir_of_relax_modules(name):
    for strategy in strategies(FORESTS[name]()):
        made = prepared(FORESTS[name](), strategy)
        module = build_module(made.canonical, "float64", None, made.plan)
        functions = [f for _, f in module.functions_items() if isinstance(f, tirx.PrimFunc)]
        assert len(functions) == 3
        for function in functions:
            assert lint(function) == [], strategy


SAMPLE = [("linear", s, "raw_f64") for s in NAMES]
SAMPLE += [(n, "tree_traversal", "raw_f32") for n in ("float32", "narrow", "vector")]
SAMPLE += [
    ("float64", "bitslice", "apply_f32"),
    ("truncate", "gemm", "apply_f64"),
    ("sentinel", "perfect_tree_traversal", "raw_f32"),
]


@pytest.mark.sampled(2)
@pytest.mark.parametrize("target", ["llvm", "x86-64-v3"])
def test_assembly_of_kernels(target):
    for name, strategy, entry in SAMPLE:
        text = assembly(kernel(signatures_of(name, strategy), "entry", entry), target)
        assert "entry" in text and lint_assembly(text) == [], f"{name} {strategy} {entry}"


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("name", "ranked"), [("float32", False), ("float64", True), ("ranked", True), ("ranked64", True), ("deep", True)]
)
def test_stages_that_need_cpu_features(name, ranked):
    """Built for a CPU that has them all, whether or not this one has."""
    target = '{"kind": "llvm", "mcpu": "znver4"}'
    made = prepared(FORESTS[name](), "bitslice", features=machine.X86_FLAGS, min_rows=1)
    flags = made.signatures[0].flags
    assert ("byte_planes" in flags) == (name != "deep") and "bit_matrices" in flags
    assert ("heaps" in flags) == ranked
    for entry in ("raw_f32", "raw_f64"):
        function = kernel(made.signatures, "entry", entry)
        assert lint(function) == []
        text = assembly(function, target)
        assert ("vpermi2b" in text or "vpermb" in text) == (name != "deep") and "vgf2p8affineqb" in text
        assert ("vpermi2ps" in text or "vpermt2ps" in text) == ranked
        assert ("{rd-sae}" in text) == (name.endswith("64") and entry == "raw_f64")
        assert lint_assembly(text) == []


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["float32", "truncate"])
def test_stages_of_scan_that_need_cpu_features(name):
    for cpu, features, instruction in (
        ("znver4", machine.X86_FLAGS, "vperm[it]2ps"),
        ("x86-64-v3", ["avx2"], "vpshufb"),
    ):
        made = prepared(FORESTS[name](), "scan", features=features, min_rows=1)
        function = kernel(made.signatures, "entry", "raw_f32")
        assert lint(function) == []
        text = assembly(function, f'{{"kind": "llvm", "mcpu": "{cpu}"}}')
        assert re.search(instruction, text) and lint_assembly(text) == []


@pytest.mark.full
@pytest.mark.parametrize("which", fitting("assembly"), ids="-".join)
def test_assembly_of_all_kernels(which):
    functions = {e: kernel(signatures_of(*which), e, e) for e in ENTRIES}
    for target in in_turn(TARGETS, "-".join(which)):
        assert lint_assembly(assembly(tvm.IRModule(functions), target)) == [], target


@pytest.mark.parametrize("target", ["x86-64-v3"])
def test_assembly_of_links(target):
    functions = {
        name: cpu_link.entry(name, name, {"denominator": 3.5, "sigmoid": 0.7, "divide": 3}, "float64", False)
        for name in LINKS
    }
    # Links may fuse (their bound is 2 ULP), but must call nothing beside libm.
    found = lint_assembly(assembly(tvm.IRModule(functions), target), libm=True)
    assert [line for line in found if not line.startswith("fused")] == []


def bad_kernel(body: Callable[[Any, Any, Any, Any], Any]) -> Any:
    """out[i] = body(a[i], b[i], c[i], out[i]) over 64 floats."""
    with IRBuilder() as builder, TB.prim_func():
        TB.func_name("entry")
        TB.func_attr({"tirx.noalias": True, "global_symbol": "entry"})
        a, b, c, out = (TB.arg(name, TB.buffer((64,), "float32", align=4)) for name in ("a", "b", "c", "out"))
        with TB.serial(0, 64) as i:
            TB.buffer_store(out, body(a[i], b[i], c[i], out[i]), [i])
    return builder.get()


ZERO, ONE = tirx.const(0.0, "float32"), tirx.const(1.0, "float32")
BAD = {
    "negated": (lambda a, b, c, o: tirx.Select(tirx.Not(a < b), ZERO + c, ONE), "a negated float comparison"),
    "negated within": (
        lambda a, b, c, o: tirx.Select(tirx.Not(tirx.And(a < b, tirx.isnan(c))), b, ONE),
        "a negated float comparison",
    ),
    "itself": (lambda a, b, c, o: tirx.Select(tirx.EQ(a, a), b, ONE), "a float compared with itself"),
    "not equal": (lambda a, b, c, o: tirx.Select(tirx.NE(a, b), b, ONE), "floats compared by !="),
    "isnan by hand": (lambda a, b, c, o: tirx.Select(tirx.NE(a, a), b, ONE), "a float compared with itself"),
    "less itself": (lambda a, b, c, o: tirx.Sub(a, a), "a float less or by itself"),
    "zero start": (lambda a, b, c, o: ZERO, "a sum that starts from literal 0"),
    "zero plus": (lambda a, b, c, o: tirx.Add(ZERO, a), "a literal 0 in a sum"),
    "contracted": (lambda a, b, c, o: a * b + c, "a product that may be contracted"),
    "product alone": (lambda a, b, c, o: a * b, "a product that may be contracted"),
}


@pytest.mark.parametrize("name", BAD)
def test_the_lint_can_fail(name):
    body, message = BAD[name]
    assert any(line.startswith(message) for line in lint(bad_kernel(body)))


@pytest.mark.parametrize("first", [0, 1])
def test_the_lint_notices_misplaced_loops(first):
    with IRBuilder() as builder, TB.prim_func():
        TB.func_name("entry")
        a = TB.arg("a", TB.buffer((64,), "int32", align=4))
        with TB.serial(first, 8) as i, TB.serial(a[i], a[i + 1]) as j:
            TB.buffer_store(a, j, [i])
    assert [line[:6] for line in lint(builder.get())] == ["a loop"] * first


def test_the_lint_can_pass():
    minus_zero = tirx.const(-0.0, "float32")
    good = bad_kernel(lambda a, b, c, o: tirx.Select(tirx.isnan(a), minus_zero, tirx.Select(a <= b, a + c, b / c)))
    assert lint(good) == []


def test_the_assembly_lint_can_fail():
    fused = assembly(bad_kernel(lambda a, b, c, o: a * b + c), "x86-64-v3")
    assert any(line.startswith("fused") for line in lint_assembly(fused))
    calls = assembly(bad_kernel(lambda a, b, c, o: tirx.exp(a)), "x86-64-v3")
    assert lint_assembly(calls) == ["call: expf"] and lint_assembly(calls, libm=True) == []
    assert lint_assembly("\tldmxcsr\t-4(%rsp)\n") == ["rounding mode: ldmxcsr\t-4(%rsp)"]
    for name in ("vfmadd213ps", "vfnmadd231sd", "vfmsub132ss", "vfmaddsub213pd", "vfmadd213ph"):
        assert lint_assembly(f"\t{name}\t%zmm0, %zmm1, %zmm2\n") != []
