"""Artifacts for 64-bit ARM, made here and run by an aarch64 Python under QEMU: the bits are the interpreter's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import reference

from .gallery import ALONE, FORESTS, compiled, fitting, rows
from .qemu_support import on_qemu, results
from .support import assert_bits_equal

FEW = (
    ("float32", "bitslice"),  # missing values, denormals, float32 sums
    ("ranked64", "bitslice"),  # float64 rows, whose bounds are searched
    ("zero_rule", "scan"),  # float64 rows, zero as missing, thresholds that are denormal float32 numbers
    ("truncate", "gemm"),  # categories
    ("outputs", "perfect_tree_traversal"),  # several outputs
    ("linear", "tree_traversal"),  # products and sums of float64, which must not be fused
)
SVE = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mattr": ["+sve"]}


def check(folder: Path, pairs: list[tuple[str, str]], **more: str) -> None:
    """Fail unless these forests and strategies give the interpreter's bits on aarch64."""
    forests, X, calls = {name: FORESTS[name]() for name, _ in pairs}, {}, []
    for name, forest in forests.items():
        for dtype in ("float32", "float64"):
            X[f"{name} {dtype}"] = rows(forest, 1100, 1, dtype)
            X[f"{name} {dtype} few"] = X[f"{name} {dtype}"][:9]
    for name, strategy in pairs:
        file = f"{name}-{strategy}.so"
        compiled(forests[name], strategy, target="aarch64").save(folder / file)
        calls += [
            {"artifact": file, "method": method, "rows": key, "threads": 2 if method == "predict_raw" else 1}
            for key in X
            if key.split()[0] == name
            for method in ("predict_raw", "apply")
        ]
    want = {
        (key, method): getattr(reference, method)(forests[key.split()[0]], values)
        for key, values in X.items()
        for method in ("predict_raw", "apply")
    }
    for call, got in zip(calls, results(folder, calls, X, **more), strict=True):
        what, expected = f"{call['artifact']} {call['method']}, rows {call['rows']}", want[call["rows"], call["method"]]
        assert not isinstance(got, str), f"{what}: {got}"
        if call["method"] == "apply":
            np.testing.assert_array_equal(got, expected, what)
        else:
            assert_bits_equal(got, expected, what)


@on_qemu
def test_bits(tmp_path):
    check(tmp_path, list(FEW))


@pytest.mark.full
@on_qemu
@pytest.mark.parametrize("strategy", sorted({strategy for _, strategy in fitting("aarch64")}))
def test_every_strategy(strategy, tmp_path):
    check(tmp_path, [pair for pair in fitting("aarch64") if pair[1] == strategy], cpu="cortex-a72")


@on_qemu
def test_methods_levels_and_other_cpus(tmp_path):
    """A trained model's own methods; of two CPU levels the one that runs; and code for a CPU that has more."""
    import xgboost

    X = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    X[::7, 2] = np.nan
    model = xgboost.XGBClassifier(n_estimators=20, max_depth=4, n_jobs=1).fit(X, X[:, 0] + X[:, 1] > 0)
    walk = {"strategy": "tree_traversal", **ALONE["tree_traversal"]}
    wp.compile(model, target=["aarch64", SVE], **walk).save(tmp_path / "both.so")
    wp.compile(model, target=SVE, strategy="scan", min_rows=1).save(tmp_path / "sve.so")
    wp.compile(model, target="x86-64-v2", **walk).save(tmp_path / "x86.so")
    calls = [
        {"artifact": artifact, "method": method, "rows": "X", "threads": 1}
        for artifact in ("both.so", "sve.so", "x86.so")
        for method in ("predict_raw", "predict_proba", "predict", "apply")
    ]
    raw = model.predict(X, output_margin=True)[:, None]
    for cpu, has_sve in (("max", True), ("cortex-a72", False)):
        answers = results(tmp_path, calls, {"X": X}, cpu=cpu)
        got = {(call["artifact"], call["method"]): answer for call, answer in zip(calls, answers, strict=True)}
        for artifact in ("both.so", "sve.so") if has_sve else ("both.so",):
            assert_bits_equal(got[artifact, "predict_raw"], raw)
            np.testing.assert_array_equal(got[artifact, "apply"], model.apply(X))
            np.testing.assert_array_equal(got[artifact, "predict"], model.predict(X))
            np.testing.assert_array_max_ulp(got[artifact, "predict_proba"], model.predict_proba(X), 2)
        assert got["x86.so", "predict_raw"].endswith(
            "x86.so was compiled for x86_64 on Linux with glibc; this is aarch64 on Linux with glibc. Compile the "
            'model for this machine, or on another one with target="aarch64"'
        )
        if not has_sve:
            assert (
                "was compiled for a generic and needs fullfp16, sve, which this CPU has not"
                in got["sve.so", "predict_raw"]
            )
