"""Methods on a GPU: which of a model's methods it can compute, by which kernels of links and rules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import tvm

from .forest import Forest
from .manifest import link_stages, stage_of
from .schedules import cuda_link


def describe(forest: Forest) -> dict[str, Any]:
    """What the manifest says of them: JSON values.

    ``rules`` are the distinct ones, each ``[kind, args, inputs, columns, dtype]``; ``methods`` has for each method that
    the GPU computes the numbers of its link and its rule, null where it needs none.
    """
    stages, rules = link_stages(forest), []
    methods, acc = {}, str(forest.values.dtype)
    for name, method in forest.methods.items():
        stage = stage_of(method, forest)
        width = forest.n_outputs if stage is None else stage["width"]
        labels = len(forest.classes[0]) if forest.classes else 0
        rule = cuda_link.rule_of(method.kind, method.args, width, acc, labels)
        if rule == "host" or not cuda_link.serves(stage, acc):
            continue
        found = None
        if isinstance(rule, cuda_link.Rule):
            described = [rule.kind, dict(rule.args), rule.inputs, rule.columns, rule.dtype]
            if described not in rules:
                rules.append(described)
            found = rules.index(described)
        methods[name] = {"link": None if stage is None else stages.index(stage), "rule": found}
    return {"rules": rules, "methods": methods}


def text_of(forest: Forest, described: Mapping[str, Any]) -> str:
    """What the code of the kernels depends on, from which `kernels` makes them."""
    used = {how["link"] for how in described["methods"].values()}
    links = {i: stage for i, stage in enumerate(link_stages(forest)) if i in used}
    whole = {"links": links, "rules": described["rules"], "inputs": forest.n_outputs, "dtype": str(forest.values.dtype)}
    return json.dumps(whole, sort_keys=True)


def entries(text: str) -> list[str]:
    """The names of the kernels."""
    whole = json.loads(text)
    return [*(f"link_{i}" for i in whole["links"]), *(f"rule_{i}" for i in range(len(whole["rules"])))]


def kernels(text: str) -> dict[str, tvm.tirx.PrimFunc]:
    """name -> kernel."""
    whole = json.loads(text)
    dtype = whole["dtype"]
    made = {
        f"link_{i}": cuda_link.link_kernel(f"link_{i}", stage, whole["inputs"], dtype)
        for i, stage in whole["links"].items()
    }
    for i, (kind, args, inputs, columns, out_dtype) in enumerate(whole["rules"]):
        rule = cuda_link.Rule(kind, tuple(sorted(args.items())), inputs, columns, out_dtype)
        made[f"rule_{i}"] = cuda_link.rule_kernel(f"rule_{i}", rule, dtype)
    return made
