"""Targets that are refused before LLVM sees them, and the oldest that are not."""

from __future__ import annotations

import json

import numpy as np
import pytest

import woodpecker as wp
from woodpecker.errors import TargetError
from woodpecker.forest import Forest


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
