"""The CPU kernel of a link: raw scores in, linked scores out, row by row, in the library's order.

for row:
    elementwise:  out[k] = formula(raw[k])
    softmax:      top = max raw;  out[k] = exp(raw[k] - top);  total += out[k];  out[k] /= total
    argmax:       out[0] = index of the first largest
    sort:         out[how many come before raw[k]] = raw[k]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as TB

from ..relay_ops import link
from ..relay_ops.predicate import Expr
from .tir import arguments, const, rows_of


def entry(name: str, link_name: str, args: Mapping[str, Any], dtype: str, parallel: bool) -> tvm.tirx.PrimFunc:
    """An entry of the calling convention whose X is (n, K) raw scores and whose out is (n, K') linked scores."""
    found = link.Elementwise(lambda x, _: x) if link_name == "identity" else link.find(link_name)
    with IRBuilder() as builder, TB.prim_func():
        TB.func_name(name)
        TB.func_attr({"tirx.noalias": True, "global_symbol": name})
        entry_args = arguments(dtype, dtype, parallel)
        raw, out = entry_args.X, entry_args.out
        width = raw.shape[1]

        def rows(begin: Expr, end: Expr, _: Expr) -> None:
            with TB.serial(begin, end) as r:
                row(
                    found,
                    args,
                    dtype,
                    width,
                    lambda k: link.prescale(raw[r, k], args),
                    out,
                    lambda k: [r, k],
                    _variable,
                )

        rows_of(entry_args, const(64, "int64"), rows)
    return builder.get()


def _variable(value: Expr) -> Any:
    """A register that can be stored to, at index 0."""
    buffer = TB.alloc_buffer((1,), str(value.ty.dtype), scope="global")
    TB.buffer_store(buffer, value, [0])
    return buffer


def row(
    found: link.Link,
    args: Mapping[str, Any],
    dtype: str,
    width: Expr,
    raw: Callable[[Expr], Expr],
    out: Any,
    at: Callable[[Expr], list[Expr]],
    variable: Callable[[Expr], Any],
) -> None:
    """The code of a row, of whatever target: the same operations in the same order.

    Args:
        found, args: The link.
        dtype: Of the scores.
        width: K, int64.
        raw: k (int64) -> raw score.
        out, at: Where the linked scores go: a buffer, and k -> indices.
        variable: Makes a register that can be stored to, at index 0, with its first value.
    """
    zero = const(0, "int64")
    if isinstance(found, link.Elementwise):
        with TB.serial(zero, width) as k:
            TB.buffer_store(out, found.formula(variable(raw(k))[0], args), at(k))
        return
    if isinstance(found, link.Sort):
        with TB.serial(zero, width) as k:
            place = variable(zero)
            with TB.serial(zero, width) as j:
                before = link.precedes(raw(j), j, raw(k), k)
                TB.buffer_store(place, place[0] + tirx.Select(before, const(1, "int64"), zero), [0])
            TB.buffer_store(out, raw(k), at(place[0]))
        return
    top = variable(raw(zero))
    if isinstance(found, link.Argmax):
        best = variable(zero)
        with TB.serial(const(1, "int64"), width) as k:
            x = variable(raw(k))[0]
            TB.buffer_store(best, tirx.Select(x > top[0], k, best[0]), [0])
            TB.buffer_store(top, tirx.Select(x > top[0], x, top[0]), [0])
        TB.buffer_store(out, tirx.Cast(dtype, best[0]), at(zero))
        return
    with TB.serial(const(1, "int64"), width) as k:
        x = variable(raw(k))[0]
        TB.buffer_store(top, tirx.Select(x > top[0], x, top[0]), [0])
    sum_dtype = found.sum_dtype or dtype
    total = variable(tirx.const(0.0, sum_dtype))
    with TB.serial(zero, width) as k:
        e = variable(tirx.exp(raw(k) - top[0]))[0]
        TB.buffer_store(total, total[0] + tirx.Cast(sum_dtype, e), [0])
        if not found.log:
            TB.buffer_store(out, e, at(k))
    with TB.serial(zero, width) as k:
        if found.log:
            TB.buffer_store(out, raw(k) - top[0] - tirx.log(tirx.Cast(dtype, total[0])), at(k))
        else:
            TB.buffer_store(out, out[tuple(at(k))] / tirx.Cast(dtype, total[0]), at(k))
