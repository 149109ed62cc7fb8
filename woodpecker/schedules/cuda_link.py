"""CUDA kernels of methods: links, as `cpu_link` computes them, and rules, which make probabilities and labels of linked
scores as `woodpecker.runtime.outputs` does. A thread a row.

    link_i(raw, out, ...):      out[row, :] = linked scores
    rule_i(linked, out, ...):   out[row, :] = what `Rule` says

CUDA's expf and its like are off by 1 or 2 ULP, a sigmoid of one by more: FUNCTIONS makes them those of float64, rounded
once, which is within 0.51 ULP of the true value, as glibc's are. Of float64 NVIDIA says 1 ULP for exp, log and log1p,
and 2 for pow.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as TB

from ..relay_ops import link
from ..relay_ops.predicate import Expr
from ..runtime.cuda import Launch
from .cpu_link import row as link_row
from .cuda_tir import literal, parameters, register, variable
from .tir import const

THREADS = 128
LAUNCH = Launch(THREADS, THREADS, 0, 0)
FUNCTIONS = """\
#define expf(x) ((float)exp((double)(x)))
#define logf(x) ((float)log((double)(x)))
#define log1pf(x) ((float)log1p((double)(x)))
#define powf(x, y) ((float)pow((double)(x), (double)(y)))
"""
"""What the CUDA C of links needs before it."""
FLOAT64_ON_HOST = (
    "softmax",
    "log_softmax",
    "xgb_softmax",
    "lgb_softmax",
    "sk_softmax",
    "log_sigmoid",
    "lgb_cross_entropy_lambda",
)
"""Links that are not within `link.ULP_BOUND` in float64 where several functions are off by a unit each."""
_NUMBERS = ("float32", "float64", "int32", "int64")


@dataclass(frozen=True)
class Rule:
    """How numbers are made of the linked scores of a row.

    Args:
        kind: A rule of `woodpecker.runtime.outputs`.
        args: Those of its parameters that the code depends on.
        inputs, columns: Of the linked scores, and of the answer.
        dtype: Of the answer; of labels it is the place of the label.
    """

    kind: str
    args: tuple[tuple[str, Any], ...]
    inputs: int
    columns: int
    dtype: str


def rule_of(kind: str, args: Mapping[str, Any], width: int, dtype: str, labels: int) -> Rule | str | None:
    """The rule of a method; None: its answer is the linked scores as they are; "host": the host has to make it.

    Args:
        kind, args: The method's.
        width, dtype: Of the linked scores.
        labels: How many labels the first output has.
    """
    if kind not in ("value", "proba", "label", "indicator", "outlier") or "groups" in args:
        return "host"
    known = tuple(sorted((k, v) for k, v in args.items() if k in ("subtract", "above", "at_least")))
    columns = int(args.get("columns", width))
    if kind == "value":
        made = str(np.dtype(args.get("dtype", dtype)))
        if made not in ("float32", "float64"):
            return "host"
        return None if made == dtype and columns == width and not known else Rule(kind, known, width, columns, made)
    if kind == "proba":
        return Rule(kind, (), 1, 2, dtype) if width == 1 else None
    if kind == "label":
        # Where there are too few labels, the host says so.
        enough = labels == width if width > 1 and not known else labels == 2
        return Rule(kind, known, width, 1, "int64") if enough else "host"
    if kind == "indicator":
        made = str(np.dtype(args.get("dtype", "int64")))
        return Rule(kind, (), width, width, made) if made in _NUMBERS else "host"
    return Rule(kind, known, 1, 1, "int64") if width == 1 and set(args) <= {"subtract"} else "host"


def serves(stage: Mapping[str, Any] | None, dtype: str) -> bool:
    """Whether a link is within its bound on a GPU."""
    return stage is None or dtype == "float32" or stage["name"] not in FLOAT64_ON_HOST


def link_kernel(name: str, stage: Mapping[str, Any], inputs: int, dtype: str) -> tvm.tirx.PrimFunc:
    """The kernel of a link: raw scores (n, inputs) -> linked scores, both of ``dtype``.

    Args:
        stage: Of `woodpecker.manifest.link_stages`.
    """
    found = link.Elementwise(lambda x, _: x) if stage["name"] == "identity" else link.find(stage["name"])
    args = stage["args"]

    def row(x: Callable[[Expr], Expr], out: Any, at: Callable[[Expr], list[Expr]]) -> None:
        def raw(k: Expr) -> Expr:
            return register(link.prescale(x(k), args))

        link_row(found, args, dtype, const(inputs, "int64"), raw, out, at, variable)

    return _kernel(name, dtype, dtype, row)


def rule_kernel(name: str, rule: Rule, dtype: str) -> tvm.tirx.PrimFunc:
    """The kernel of a rule: linked scores (n, inputs) of ``dtype`` -> (n, columns) of the rule's dtype."""

    def row(x: Callable[[Expr], Expr], out: Any, at: Callable[[Expr], list[Expr]]) -> None:
        def value(k: Expr) -> Expr:
            z = register(x(k))
            return register(z - _number(dict(rule.args)["subtract"], dtype)) if "subtract" in dict(rule.args) else z

        for k, number in enumerate(_numbers(rule, dtype, value)):
            TB.buffer_store(out, number, at(const(k, "int64")))

    return _kernel(name, dtype, rule.dtype, row)


def _numbers(rule: Rule, dtype: str, value: Callable[[Expr], Expr]) -> list[Expr]:
    """The columns of the answer."""
    args, zero = dict(rule.args), const(0, "int64")
    if rule.kind == "value":
        return [tirx.Cast(rule.dtype, value(const(k, "int64"))) for k in range(rule.columns)]
    if rule.kind == "proba":
        z = value(zero)
        return [_number(1.0, dtype) - z, z]
    if rule.kind == "indicator":
        yes, no = (tirx.const(n, rule.dtype) for n in (1, 0))
        return [tirx.Select(value(const(k, "int64")) > _number(0.5, dtype), yes, no) for k in range(rule.columns)]
    if rule.kind == "outlier":
        return [tirx.Select(value(zero) < _number(0.0, dtype), const(-1, "int64"), const(1, "int64"))]
    one = const(1, "int64")
    if "above" in args:
        return [tirx.Select(value(zero) > _number(args["above"], dtype), one, zero)]
    if "at_least" in args:
        return [tirx.Select(value(zero) >= _number(args["at_least"], dtype), one, zero)]
    if rule.inputs == 1:
        z = value(zero)
        return [tirx.Select(z > register(_number(1.0, dtype) - z), one, zero)]
    # numpy's argmax: the first NaN, else the first of the largest.
    best, top = variable(zero), variable(value(zero))
    with TB.serial(one, const(rule.inputs, "int64")) as k:
        z = register(value(k))
        larger = tirx.Or(z > top[0], tirx.isnan(z))
        taken = register(tirx.Select(tirx.isnan(top[0]), zero, tirx.Select(larger, one, zero)))
        TB.buffer_store(best, tirx.Select(taken == one, k, best[0]), [0])
        TB.buffer_store(top, tirx.Select(taken == one, z, top[0]), [0])
    return [best[0]]


def _number(value: float, dtype: str) -> Expr:
    """A constant by its bits, see `cuda_tir.literal`."""
    if dtype == "float64":
        return literal(float(value))
    (bits,) = struct.unpack("<i", np.float32(value).tobytes())
    return tirx.call_pure_extern("float32", "__int_as_float", const(bits))


def _kernel(name: str, x_dtype: str, out_dtype: str, row: Callable[..., None]) -> tvm.tirx.PrimFunc:
    with link.spelled(_number), IRBuilder() as builder, TB.prim_func():
        TB.func_name(name)
        TB.func_attr({"global_symbol": name, "tirx.noalias": True, "tirx.is_global_func": True, "calling_conv": 2})
        args = parameters(x_dtype, out_dtype)
        with (
            TB.launch_thread("blockIdx.x", tirx.Cast("int32", args.blocks)) as block,
            TB.launch_thread("threadIdx.x", THREADS) as thread,
        ):
            endless, threads = (const(2**62, "int64"),), const(THREADS, "int64")
            X, out = (TB.decl_buffer(endless, d, data=p) for p, d in ((args.X, x_dtype), (args.out, out_dtype)))
            at = variable(tirx.Cast("int64", block) * threads + tirx.Cast("int64", thread))
            with TB.While(at[0] < args.rows):
                r = register(at[0])
                x_row, out_row = register(r * args.x_stride), register(r * args.out_stride)
                row(lambda k: X[x_row + k], out, lambda k: [out_row + k])
                TB.buffer_store(at, r + args.blocks * threads, [0])
    return builder.get()
