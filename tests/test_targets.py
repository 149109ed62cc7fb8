"""Targets that are refused before LLVM sees them, and the oldest that are not."""

from __future__ import annotations

import json

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import targets
from woodpecker.errors import TargetError
from woodpecker.forest import Forest
from woodpecker.targets import resolve, resolve_levels, resolve_targets


class TestTargets:
    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ({"mcpu": "i386"}, "'i386' has no 64-bit mode"),
            ({"mcpu": "pentium4"}, "'pentium4' has no 64-bit mode"),
            ({"mcpu": "yonah"}, "'yonah' has no 64-bit mode"),
            ({"mcpu": "nonesuch"}, "knows no x86_64 CPU 'nonesuch'"),
            ({"mattr": ["-64bit"]}, "'-64bit' takes away"),
            ({"mattr": ["-sse2", "-sse"]}, "'-sse2' takes away"),
            ({"mattr": ["+avx2,-64bit"]}, "found '\\+avx2,-64bit'"),
            ({"mattr": ["+soft-float"]}, "'\\+soft-float' contradicts"),
            ({"mattr": ["+nonsense"]}, "found '\\+nonsense'"),
            ({"mattr": ["-nonsense"]}, "found '-nonsense'"),
            ({"mattr": ["avx2"]}, "found 'avx2'"),
            ({"mattr": [""]}, "found ''"),
            ({"mattr": "+avx2"}, "mattr must be a list of strings"),
            ({"mattr": [5]}, "mattr must be a list of strings"),
            ({"mcpu": {}}, "mcpu must be a string, found dict"),
            ({"mcpu": [1]}, "mcpu must be a string, found list"),
            ({"cl-opt": 5}, "cl-opt must be a list of strings"),
            ({"opt-level": "x"}, "opt-level must be an integer, found str"),
            ({"mtriple": 5}, "mtriple must be a string, found int"),
            ({"mtriple": "x86_64-linux-gnux32"}, "is for x86_64-linux-gnux32"),
            ({"mtriple": "x86_64-pc-linux-code16"}, "is for x86_64-pc-linux-code16"),
        ],
        ids=repr,
    )
    def test_refused(self, target, message):
        from woodpecker.targets import resolve

        for spelling in ({"kind": "llvm", **target}, json.dumps({"kind": "llvm", **target})):
            with pytest.raises(TargetError, match=message):
                resolve(spelling)

    @pytest.mark.parametrize(
        ("triple", "target", "message"),
        [
            ("aarch64-linux-gnu", {"mcpu": "skylake"}, "knows no aarch64 CPU 'skylake'; llc -march=aarch64"),
            ("aarch64-linux-gnu", {"mattr": ["-neon"]}, "'-neon' takes away what all code for aarch64 needs"),
            ("aarch64-linux-gnu", {"mattr": ["+avx2"]}, "found '\\+avx2'"),
            ("armv7-linux-gnueabihf", {"mattr": ["-vfp3d16"]}, "'-vfp3d16' takes away"),
            ("armv7-linux-gnueabihf", {"mattr": ["+soft-float"]}, "'\\+soft-float' contradicts"),
            ("armv7-linux-gnueabihf", {"mattr": ["+lob"]}, "'\\+lob' contradicts"),
            ("riscv64-linux-gnu", {"mattr": ["+zvl256b"]}, "'\\+zvl256b' contradicts"),
            ("riscv64-linux-gnu", {"mcpu": "sifive-e31"}, "'sifive-e31' is no 64-bit one"),
            ("riscv64-linux-gnu", {"mattr": ["-d"]}, "'-d' takes away"),
            ("mips64-linux-gnu", {}, "is for mips64-linux-gnu, which this version does not compile for"),
        ],
        ids=repr,
    )
    def test_refused_for_other_platforms(self, triple, target, message):
        from woodpecker.targets import resolve

        with pytest.raises(TargetError, match=message):
            resolve({"kind": "llvm", "mtriple": triple, **target})

    @pytest.mark.parametrize(
        ("target", "platform", "cpu"),
        [
            ("aarch64", ("linux", "aarch64", "gnu"), "generic"),
            ("armv7", ("linux", "armv7", "gnu"), "generic"),
            ("riscv64", ("linux", "riscv64", "gnu"), "generic"),
            ("aarch64-linux-musl", ("linux", "aarch64", "musl"), "generic"),
            ("raspberry-pi/4b-aarch64", ("linux", "aarch64", "gnu"), "cortex-a72"),
            ("arm/rasp4b", ("linux", "armv7", "gnu"), "cortex-a72"),
            ("x86_64-linux-musl", ("linux", "x86_64", "musl"), "generic"),
        ],
    )
    def test_other_platforms(self, target, platform, cpu):
        from woodpecker.targets import resolve

        resolved = resolve(target)
        assert ((resolved.system, resolved.machine, resolved.libc), resolved.cpu) == (platform, cpu)
        assert not resolved.native

    def test_a_model_for_another_machine_says_so(self):
        tree = {"feature": 0, "op": "<", "threshold": 0.5, "left": {"value": 1.0}, "right": {"value": 2.0}}
        model = wp.compile(Forest.from_nested([tree], 2), strategy="gemm", target="aarch64")
        assert type(model) is wp.CompiledModel and not hasattr(model, "predict_raw")
        with pytest.raises(TargetError, match=r"apply can't run here: .* for aarch64 on Linux with glibc; this is"):
            model.apply(np.zeros((1, 2)))
        with pytest.raises(AttributeError, match="no attribute 'transform'"):
            model.transform(np.zeros((1, 2)))

    @pytest.mark.parametrize("cpu", ["x86-64", "k8", "nocona", "generic"])
    def test_the_oldest_cpus(self, cpu):
        tree = {"feature": 0, "op": "<", "threshold": 0.5, "left": {"value": 1.0}, "right": {"value": 2.0}}
        target = {"kind": "llvm", "mcpu": cpu, "mtriple": "x86_64-unknown-linux-gnu"}
        predictor = wp.compile(Forest.from_nested([tree], 2), strategy="gemm", target=target)
        assert predictor.predict_raw(np.array([[0.0, 0.0], [1.0, 0.0]])).tolist() == [[1.0], [2.0]]

    def test_features_of_a_target_object(self):
        import tvm

        from woodpecker.targets import resolve

        resolved = resolve(tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v3", "mattr": ["-avx2", "+gfni"]}))
        assert {"avx", "gfni"} <= set(resolved.features) and "avx2" not in resolved.features


def test_features_that_a_machine_hides_and_those_that_the_user_switches(monkeypatch):
    host = {"mcpu": "znver4", "mattr": ["-avx512vbmi"]}
    monkeypatch.setattr(targets, "_host", lambda: host)
    features = resolve({"kind": "llvm", "mattr": ["-avx512f"]}).features
    assert "avx2" in features and not {"avx512f", "avx512vbmi"} & set(features)
    assert "avx512f" in resolve("llvm").features and host == {"mcpu": "znver4", "mattr": ["-avx512vbmi"]}


class TestCuda:
    @pytest.mark.parametrize(
        ("target", "archs"),
        [
            ("cuda", "sm_80, sm_86, sm_90, sm_100, sm_120"),
            ({"kind": "cuda", "arch": "sm_90"}, "sm_90"),
            ({"kind": "cuda", "arch": ["sm_100", "sm_80", "sm_100"]}, "sm_80, sm_100"),
            ("nvidia/nvidia-h100", "sm_90"),
            ("cuda -arch=sm_90", "sm_90"),
            ("cuda -arch=sm_120,sm_90", "sm_90, sm_120"),
        ],
        ids=repr,
    )
    def test_architectures(self, target, archs):
        levels, gpu = resolve_targets(target)
        assert [level.name for level in levels] == ["llvm"]
        assert gpu is not None and ", ".join(gpu.archs) == archs
        assert resolve_targets(["x86-64-v3", target]) == (resolve_levels("x86-64-v3"), gpu)
        with pytest.raises(TargetError, match=r"is of kind 'cuda', and this is for CPUs: compile takes it"):
            resolve(target)

    def test_none(self):
        assert resolve_targets(["x86-64", "llvm"]) == (resolve_levels(["x86-64", "llvm"]), None)

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            (
                ["cuda", "nvidia/nvidia-h100"],
                "both for CUDA: name all architectures in one, such as 'cuda -arch=sm_80,",
            ),
            (["wasm32", "cuda"], "goes with CPUs that are x86_64 and aarch64 on Linux with glibc; 'wasm32' is for Web"),
            (
                ["aarch64-linux-musl", "cuda"],
                "on Linux with glibc; 'aarch64-linux-musl' is for aarch64 on Linux",
            ),
            ({"kind": "cuda", "host": {"kind": "llvm"}}, r"names a host: give a list instead"),
            ("cuda -mcpu=sm_90", "'cuda' may be followed by -arch=sm_90 or -arch=sm_90,sm_100 only"),
            ("cuda -arch=sm_90 -x", "'cuda' may be followed by -arch=sm_90 or"),
            (["cuda", "cpu", "llvm"], "'llvm' is listed twice: 'cpu' means the same here"),
        ],
        ids=repr,
    )
    def test_with_others(self, target, message):
        with pytest.raises(TargetError, match=message):
            resolve_targets(target)

    @pytest.mark.parametrize(
        ("arch", "message"),
        [
            ("sm_75", "'sm_75' is too old; CUDA code is made for sm_80 and later"),
            ("sm_90x", "arch must be a name such as 'sm_90', found 'sm_90x'"),
            ("compute_90", "arch must be a name such as 'sm_90', found 'compute_90'"),
            ("sm_9", "arch must be a name such as 'sm_90', found 'sm_9'"),
            (90, "arch must be a name such as 'sm_90', or a list of such, found 90"),
            ([], "or a list of such, found \\[\\]"),
            (["sm_90", 80], "or a list of such, found \\['sm_90', 80\\]"),
        ],
        ids=repr,
    )
    def test_refused(self, arch, message):
        for target in ({"kind": "cuda", "arch": arch}, json.dumps({"kind": "cuda", "arch": arch})):
            with pytest.raises(TargetError, match=message):
                resolve(target)
