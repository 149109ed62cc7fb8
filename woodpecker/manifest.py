"""The manifest: what an artifact says of itself, as JSON values. Written here, read by `woodpecker.runtime`.

producer            versions of woodpecker, tvm
prefix              of all its symbols, unique per model
levels              the CPU levels, a later one preferred; each has
    target              platform, CPU and the features that it needs
    suffix              what the names of its entries end in
    row_block, scratch_bytes, ns_per_row    row_block: rows that threads share out
    terms               the entries that share trees out, `woodpecker.levels.Terms`, or null
    few_rows            calls of fewer rows are for the entries of FEW; 0: there are none
    plan, tuning        for people
entries, links      the compiled functions
acc_dtype, n_outputs, n_trees
input               `woodpecker.runtime.rows.InputSpec`
methods, classes    what the source model's methods return
cuda                `woodpecker.levels_cuda`; absent where there is no code for GPUs
stats, source       for people
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from . import __version__
from .forest import Forest, Method, tree_leaves
from .levels import Level
from .predicates import Canonical
from .relay_ops import link
from .relay_ops.plan import STRATEGIES, TYPICAL_ROWS
from .relay_ops.vectors import vectors_of
from .runtime.labels import encode
from .runtime.rows import InputSpec

ENTRIES = ("raw_f32", "raw_f64", "apply_f32", "apply_f64")
TERMS = ("terms_f32", "terms_f64", "total")
"""Entries that a level may have besides, see `woodpecker.levels.Terms`."""
FEW = ("few_f32", "few_f64")
"""And these, see `woodpecker.levels.Level.few_rows`: the raw scores of a few rows."""


def link_stages(forest: Forest) -> list[dict[str, Any]]:
    """The distinct links of a forest's methods: [{"name", "args", "width"}]. The identity is no stage.

    Raises:
        UnsupportedModelError: an unknown link, or an argument of a link is absent or no number.
    """
    stages: list[dict[str, Any]] = []
    for method in forest.methods.values():
        stage = stage_of(method, forest)
        if stage is not None and stage not in stages:
            stages.append(stage)
    return stages


def stage_of(method: Method, forest: Forest) -> dict[str, Any] | None:
    """The link of a method as a stage of its own, see `link_stages`; None: the scores are its answer."""
    args = link.arguments(method.link, method.args)
    if method.kind == "leaves_onehot" or (method.link == "identity" and "divide" not in args):
        return None
    width = forest.n_outputs
    if method.link != "identity" and isinstance(link.find(method.link), link.Argmax):
        width = 1
    return {"name": method.link, "args": args, "width": width}


def statistics(canonical: Canonical) -> dict[str, Any]:
    """Numbers for people: trees, depths, leaves, distinct predicates."""
    forest = canonical.forest
    leaves = tree_leaves(forest)
    return {
        "nodes": forest.n_nodes,
        "leaves": int(leaves.sum()),
        "max_leaves": int(leaves.max(initial=0)),
        "max_depth": canonical.max_depth,
        "mean_depth": round(float(canonical.depth.mean()), 2) if len(canonical.depth) else 0.0,
        "distinct_predicates": canonical.n_predicates,
        "columns": len(canonical.columns),
        "categorical_columns": len(canonical.columns) - canonical.columns.n_numeric,
        "features_used": len(set(canonical.columns.feature.tolist())),
        "vector_leaves": forest.vector_leaves,
        "linear_leaves": forest.linear_offset is not None,
    }


def build_manifest(canonical: Canonical, levels: Sequence[Level], prefix: str, tvm_version: str) -> dict[str, Any]:
    """The manifest of a model.

    Raises:
        UnsupportedModelError: a class label has no JSON form.
    """
    forest = canonical.forest
    stages = link_stages(forest)
    methods = {}
    for name, method in forest.methods.items():
        stage = stage_of(method, forest)
        index = None if stage is None else stages.index(stage)
        methods[name] = {"kind": method.kind, "link": index, "args": _plain(method.args)}
    return {
        "producer": {"woodpecker": __version__, "tvm": tvm_version},
        "prefix": prefix,
        "levels": [_level(canonical, level) for level in levels],
        "entries": [*ENTRIES, *(f"link_{i}" for i in range(len(stages)))],
        "links": stages,
        "acc_dtype": str(forest.values.dtype),
        "n_outputs": forest.n_outputs,
        "n_trees": forest.n_trees,
        "input": InputSpec.of_forest(forest).to_json(),
        "methods": methods,
        "classes": [encode(np.asarray(c)) for c in forest.classes],
        "stats": statistics(canonical),
        "source": _plain(forest.source),
    }


def _level(canonical: Canonical, level: Level) -> dict[str, Any]:
    vectors = vectors_of(level.target.features)
    return {
        "target": level.target.manifest(),
        "suffix": level.suffix,
        "row_block": level.shared_rows,
        "scratch_bytes": level.scratch_bytes,
        "ns_per_row": round(STRATEGIES[level.plan[-1].strategy].cost(canonical, TYPICAL_ROWS, vectors), 1),
        "plan": [step.manifest() for step in level.plan],
        "tuning": level.tuning,
        "terms": None if level.terms is None else dataclasses.asdict(level.terms),
        "few_rows": level.few_rows,
    }


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Numpy scalars and tuples as plain JSON values."""
    plain: dict[str, Any] = json.loads(json.dumps(dict(values), default=lambda v: v.tolist()))
    return plain
