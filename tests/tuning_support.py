"""What tests of tuning share: a record as a job would leave it."""

from __future__ import annotations

import dataclasses

import tvm

import woodpecker as wp
from woodpecker.predicates import canonicalise
from woodpecker.targets import resolve
from woodpecker.tuning.records import Record
from woodpecker.tuning.shape import digest, shape_class, target_key

WALK = {"min_rows": 0, "strategy": "tree_traversal", "options": {"trees": 2, "interleave": 2, "unroll": 1}}


def record(forest: wp.Forest, plan=(WALK,), **changes) -> Record:
    made = Record(
        digest=digest(forest),
        shape=shape_class(canonicalise(forest)),
        target=target_key(resolve("llvm")),
        plan=plan,
        default=(WALK,),
        ns_per_row={"1": 10.0},
        default_ns_per_row={"1": 20.0},
        gain=2.0,
        model="a forest",
        dtype="float32",
        rows="sampled",
        trials=3,
        seed=0,
        date="2026-11-23",
        versions={"woodpecker": wp.__version__, "tvm": tvm.__version__},
    )
    return dataclasses.replace(made, **changes)
