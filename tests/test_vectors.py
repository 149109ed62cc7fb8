"""What `auto` takes depends on the vectors of the target."""

from __future__ import annotations

import numpy as np
import pytest

from woodpecker.predicates import canonicalise
from woodpecker.relay_ops import bitslice, scan, tree_traversal
from woodpecker.relay_ops.plan import make_plan
from woodpecker.relay_ops.vectors import AVX2, KINDS, NARROW, NONE, VBMI, WIDE, vectors_of
from woodpecker.targets import resolve

from .gallery import grown

FOREST = canonicalise(grown(3, 300, 6, n_features=20, dtype=np.float32))


@pytest.mark.parametrize(
    ("target", "vectors"),
    [
        ({"kind": "llvm", "mtriple": "x86_64-unknown-linux-gnu", "mcpu": "znver4"}, VBMI),
        ("x86-64-v4", WIDE),
        ("x86-64-v3", AVX2),
        ("x86-64-v2", NARROW),
        ("aarch64", NARROW),
        ("wasm32", NARROW),
        ("armv7", NONE),
        ("riscv64", NONE),
    ],
)
def test_vectors_of_targets(target, vectors):
    assert vectors_of(resolve(target).features) == vectors


def test_better_vectors_cost_bitslice_less():
    order = [*dict.fromkeys(kind for kind, _ in KINDS), NONE]
    for rows in (200, 1024):
        costs = [bitslice.cost(FOREST, rows, vectors) for vectors in order]
        assert costs == sorted(costs) and len(set(costs)) == len(order)
    assert len({tree_traversal.cost(FOREST, 1024, vectors) for vectors in order}) == 1


def test_bytes_are_scanned_where_there_are_vectors_for_them():
    walk = tree_traversal.cost(FOREST, 1024, AVX2)
    assert scan.cost(FOREST, 1024, AVX2) < walk < scan.cost(FOREST, 1024, NONE)
    plans = {t: make_plan(FOREST, "auto", {}, resolve(t).features) for t in ("x86-64-v3", "riscv64")}
    assert "scan" in [step.strategy for step in plans["x86-64-v3"]]
    assert "scan" not in [step.strategy for step in plans["riscv64"]]
