"""``woodpecker inspect``: what is in an artifact or a model file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from .common import check_input, command, progress, size


@command
def main(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A .so, or a model file.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Show what is in an artifact or a model: trees, depths, leaves, distinct predicates, strategy, target, size.

    Nothing of an artifact is run; of several CPU levels it says which one `load` would choose here. For a model file,
    the strategy is the one that compiling it now would choose.

    \b
    Examples:
      woodpecker inspect model.so
      woodpecker inspect model.ubj --json
    """
    check_input(path)
    from ..runtime.loader import is_library

    if is_library(path):
        facts = _artifact(path)
    else:
        with progress(f"reading {path.name}"):
            facts = _model(path)
    if as_json:
        typer.echo(json.dumps(facts, indent=2, sort_keys=True, allow_nan=False))
    else:
        _show(path, facts)


def _artifact(path: Path) -> dict[str, Any]:
    from ..c_config import getter
    from ..runtime import machine
    from ..runtime.cuda_facts import summary
    from ..runtime.format import in_level
    from ..runtime.loader import is_static, read_header

    whole = read_header(path).manifest
    level = machine.choose([level["target"] for level in whole["levels"]])
    manifest = in_level(whole, level)
    # A WebAssembly module has functions of its own.
    module = manifest["target"]["system"] == machine.WEBASSEMBLY and not is_static(path)
    return {
        "kind": "artifact",
        "bytes": path.stat().st_size,
        "source": manifest["source"],
        "n_trees": manifest["n_trees"],
        "n_features": manifest["input"]["n_features"],
        "n_outputs": manifest["n_outputs"],
        "feature_names": manifest["input"]["feature_names"],
        "methods": ["predict_raw", "apply", *manifest["methods"]],
        "acc_dtype": manifest["acc_dtype"],
        "stats": manifest["stats"],
        "plan": manifest["plan"],
        "tuning": manifest["tuning"],
        "target": manifest["target"],
        "levels": [
            {"target": each["target"], "plan": each["plan"], "tuning": each["tuning"], "in_use": number == level}
            for number, each in enumerate(whole["levels"])
        ],
        "producer": manifest["producer"],
        "c_function": None if module else getter(whole["prefix"]),
        **({"cuda": half} if (half := summary(whole)) else {}),
    }


def _model(path: Path) -> dict[str, Any]:
    from ..frontend import to_forest
    from ..predicates import canonicalise
    from ..targets import import_tvm, resolve

    forest = to_forest(path)
    canonical = canonicalise(forest)
    tvm = import_tvm()
    from ..manifest import statistics
    from ..relay_ops.plan import make_plan
    from ..tuning.lookup import tuned_plan

    here = resolve("llvm")
    by_record, tuning = tuned_plan(canonical, here, None, tvm.__version__)

    return {
        "kind": "model",
        "bytes": path.stat().st_size,
        "source": dict(forest.source),
        "n_trees": forest.n_trees,
        "n_features": forest.n_features,
        "n_outputs": forest.n_outputs,
        "feature_names": None if forest.feature_names is None else list(forest.feature_names),
        "methods": ["predict_raw", "apply", *forest.methods],
        "acc_dtype": str(forest.values.dtype),
        "stats": statistics(canonical),
        "plan": [step.manifest() for step in by_record or make_plan(canonical, "auto", {}, here.features)],
        "tuning": tuning,
    }


def _show(path: Path, facts: Mapping[str, Any]) -> None:
    stats, source = facts["stats"], facts["source"]
    rows = {
        "size": size(facts["bytes"]),
        "source": " ".join(str(source[k]) for k in ("library", "version", "estimator", "objective") if source.get(k)),
        "trees": f"{facts['n_trees']:,}",
        "depth": f"at most {stats['max_depth']}, {stats['mean_depth']} on average",
        "leaves": f"{stats['leaves']:,}, at most {stats['max_leaves']:,} in a tree",
        "distinct predicates": f"{stats['distinct_predicates']:,}",
        "features": f"{facts['n_features']:,}, {stats['features_used']:,} of them used",
        "outputs": f"{facts['n_outputs']:,}, summed in {facts['acc_dtype']}",
        "methods": ", ".join(facts["methods"]),
    }
    for step in facts["plan"]:
        start = f" from {step['min_rows']:,} rows" if step["min_rows"] else ""
        rows[f"strategy{start}"] = _strategy(step)
        for name, cost in step["considered"].items():
            rows[f"  {name}"] = f"{cost:,.0f} ns/row estimated" if isinstance(cost, (int, float)) else str(cost)
    from ..tuning.logs import summary

    if tuning := facts.get("tuning"):
        rows["tuned"] = summary(tuning)
    if half := facts.get("cuda"):
        rows["strategy on GPUs"] = _strategy(half["plan"])
        if half["tuning"]:
            rows["tuned on GPUs"] = summary(half["tuning"])
    levels = facts.get("levels", [])
    for number, level in enumerate(levels, 1):
        strategies = ", ".join(dict.fromkeys(step["strategy"] for step in level["plan"]))
        several = f"; {strategies}{'; runs here' if level['in_use'] else ''}" if len(levels) > 1 else ""
        rows[f"CPU level {number}" if several else "target"] = _target(level["target"]) + several
    if levels:
        from ..runtime.cuda_facts import gpus
        from ..runtime.machine import requirement

        rows["runs on"] = requirement([level["target"] for level in levels])
        if half:
            rows["and on"] = gpus(facts)
        if facts["c_function"]:
            rows["C function"] = facts["c_function"]
        rows["made by"] = ", ".join(f"{name} {version}" for name, version in facts["producer"].items())
    else:
        rows["target"] = "not compiled"
    typer.echo(f"{path}: {facts['kind']}")
    width = max(map(len, rows)) + 2
    for name, value in rows.items():
        typer.echo(f"{name:<{width}}{value}")


def _strategy(step: Mapping[str, Any]) -> str:
    options = ", ".join(f"{k}={v}" for k, v in step["options"].items())
    return f"{step['strategy']}{f' ({options})' if options else ''}: {step['reason']}"


def _target(target: Mapping[str, Any]) -> str:
    features = f" ({', '.join(target['features'])})" if target["features"] else ""
    return f"{target['name']}: {target['system']} {target['machine']}, {target['cpu']}{features}"
