"""Links and rules as CUDA kernels, emulated, against the CPU's and those of numpy."""

from __future__ import annotations

import ctypes
import json
import re
from typing import Any

import numpy as np
import pytest

from woodpecker import build, build_cuda
from woodpecker.relay_ops.link import LINKS, ULP_BOUND
from woodpecker.runtime import outputs
from woodpecker.schedules import cuda_link
from woodpecker.schedules.cuda_link import Rule
from woodpecker.targets import resolve

from .cuda_support import ARCH, emulated, skip_without_nvrtc
from .support import assert_bits_equal
from .test_cuda_code import UNROUNDED, used
from .test_links import ARGS, formula, ulps

EDGES = [0.0, -0.0, 1.0, -1.0, 88.7, -88.7, 89.5, 1e-30, -1e-30, 745.0, -745.5, 1e-320, np.inf, -np.inf, np.nan]
LIBM = {name for name in LINKS if name not in ("argmax", "xgb_sort", "xgb_hinge", "lgb_sqrt")}


def stage(name: str, **more: float) -> dict[str, Any]:
    return {"name": name, "args": {**ARGS.get(name, {}), **more}}


def run(text: str, name: str, x: np.ndarray, columns: int, dtype: Any, backwards: bool = False) -> np.ndarray:
    """A kernel over rows of a stride of their own, on two blocks."""
    wide, out = np.full((len(x), x.shape[1] + 1), 7, x.dtype), np.full((len(x), columns + 2), 7, dtype)
    wide[:, :-1] = x
    pointers = [ctypes.c_void_p(a.ctypes.data) for a in (wide, out, out, out)]
    integers = [ctypes.c_int64(n) for n in (wide.shape[1], out.shape[1], len(x), 2)]
    assert getattr(emulated(text), f"run_{name}")(*pointers, *integers, 128, ctypes.c_int64(0), int(backwards)) == 0
    assert (out[:, columns:] == 7).all()
    return np.ascontiguousarray(out[:, :columns])


def source(**kernels: Any) -> str:
    return build_cuda.source(kernels, ARCH)


def scores(dtype: str, columns: int = 3) -> np.ndarray:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, columns)) * 10.0 ** rng.integers(-4, 3, (300, 1))
    return np.concatenate([x, np.resize(EDGES, (len(EDGES) * 2, columns))]).astype(dtype)


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    made = {}
    for dtype in ("float32", "float64"):
        kernels = {f"link_{n}": cuda_link.link_kernel(f"link_{n}", stage(n), 3, dtype) for n in LINKS}
        kernels["halved"] = cuda_link.link_kernel("halved", stage("lgb_sigmoid", divide=7.3), 3, dtype)
        made[dtype] = source(**kernels)
    return made


def width_of(name: str) -> int:
    return 1 if name == "argmax" else 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(LINKS))
def test_links(texts, name, dtype):
    """The CPU's kernel, NaN and infinities included; and the formula with correctly rounded functions. Where no
    function is called, to the bit."""
    x = scores(dtype)
    if name == "xgb_sort":  # which has no order for NaN
        x = x[~np.isnan(x).any(axis=1)]
    cpu = np.empty((len(x), width_of(name)), dtype)
    args = (x, cpu, np.zeros(64, np.uint8), np.zeros(64, np.uint8), 0, len(x))
    build._jit_link(json.dumps([name, stage(name)["args"]]), dtype, resolve("llvm").config, False)(*args)
    assert ulps(run(texts[dtype], f"link_{name}", x, width_of(name), dtype), cpu) <= (ULP_BOUND if name in LIBM else 0)
    x = x[~np.isnan(x).any(axis=1)]
    if name in ("softmax", "log_softmax", "lgb_softmax", "sk_softmax", "xgb_softmax", "argmax", "xgb_sort"):
        x = x[np.isfinite(x).all(axis=1)]
    with np.errstate(all="ignore"):
        want = formula(name, x)
    got = [run(texts[dtype], f"link_{name}", x, width_of(name), dtype, backwards) for backwards in (False, True)]
    assert_bits_equal(got[0], got[1])
    assert ulps(got[0], want) <= (ULP_BOUND if name in LIBM else 0)


def test_links_with_worse_functions(texts):
    """CUDA's float64 functions may be off by a unit where the emulator's are not: float32 links are not, for they are
    rounded once more; float64 ones stay within the bound."""
    off = "nextafter({0}, (long long)((x) * 1e6) & 1 ? INFINITY : -INFINITY)"
    worse = "".join(f"#define {f}(x) {off.format(f'{f}(x)')}\n" for f in ("exp", "log", "log1p"))
    for name in sorted(LIBM - {"isolation_score"}):
        for dtype in ("float32", "float64"):
            x = scores(dtype)
            x = x[(np.abs(x) < 80).all(axis=1)]
            got, want = (run(before + texts[dtype], f"link_{name}", x, 3, dtype) for before in (worse, ""))
            if dtype == "float32":
                assert_bits_equal(got, want, name)
            elif cuda_link.serves(stage(name), dtype):
                assert ulps(got, want) <= ULP_BOUND, name


RULES = [
    ("value", {"subtract": 0.1}, 1, 0),
    ("value", {"subtract": 0.1, "dtype": "float64"}, 3, 0),
    ("value", {"columns": 2, "dtype": "float32"}, 3, 0),
    ("proba", {}, 1, 2),
    ("label", {}, 1, 2),
    ("label", {}, 3, 3),
    ("label", {"above": 0.1}, 1, 2),
    ("label", {"at_least": 0.1}, 1, 2),
    ("indicator", {}, 3, 0),
    ("indicator", {"dtype": "float32"}, 3, 0),
    ("outlier", {"subtract": 0.1}, 1, 0),
    ("outlier", {}, 1, 0),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rules(dtype):
    made = [cuda_link.rule_of(kind, args, width, dtype, labels) for kind, args, width, labels in RULES]
    kernels = {f"rule_{i}": cuda_link.rule_kernel(f"rule_{i}", r, dtype) for i, r in enumerate(made) if r is not None}
    text = source(**kernels)
    for i, (rule, (kind, args, width, labels)) in enumerate(zip(made, RULES, strict=True)):
        assert isinstance(rule, Rule) or (rule is None and dtype == "float32" and args == {"columns": 3})
        x = scores(dtype, width)
        x = np.concatenate(
            [x, np.float64([[0.1], [0.5], [np.nextafter(0.5, 1)]]).astype(dtype) * np.ones((1, width), dtype)]
        )
        x[::7] = x[::7, :1]  # equals
        with np.errstate(all="ignore"):
            want = outputs.KINDS[kind](x, [np.arange(labels)], args)
        got = run(text, f"rule_{i}", x, rule.columns, rule.dtype)
        want = want.reshape(len(x), -1)
        if want.dtype.kind == "f":
            assert_bits_equal(got, want, f"{kind} {args}")
        else:
            np.testing.assert_array_equal(got, want, f"{kind} {args}")
            assert got.dtype == want.dtype


def test_what_the_host_has_to_make():
    def rule(kind: str, width: int, labels: int = 0, **args: Any) -> Any:
        return cuda_link.rule_of(kind, args, width, "float32", labels)

    assert rule("proba", 4, groups=[2, 2]) == rule("label", 1, 1) == rule("label", 3, 2) == "host"
    assert rule("value", 1, dtype="int32") == rule("indicator", 1, dtype="bool") == rule("leaves_onehot", 1) == "host"
    assert rule("proba", 3) is rule("value", 2) is rule("value", 1, squeeze=False) is None


def test_code(texts):
    """It assembles; float32 functions are never CUDA's fast ones; sums and products are rounded by themselves."""
    skip_without_nvrtc()
    for text in texts.values():
        kernels = used(build_cuda.assemble(text, "sm_90").image)
        assert set(kernels) == {*(f"link_{n}" for n in LINKS), "halved"} and all(
            needs.stack <= 64 for needs in kernels.values()
        )
        ptx = build_cuda.assemble(text, "sm_80", "ptx").image.decode()
        assert UNROUNDED.findall(ptx) == []
        assert re.findall(r"^.*(?:\.ftz\.f32|\.approx\.f32|div\.full).*$", ptx, re.M) == []
        body = text[text.index('extern "C"') :]
        assert not re.search(r"\d\.\d{6,}e[+-]\d\d", re.sub(r"[01]\.0+e\+00f?", "", body)), "a number that is cut short"
