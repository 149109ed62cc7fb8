"""CUDA kernels: eight entries of a forest, whose code its strategy's module emits, see `cuda_strategies`.

    raw(X, out, scratch, model, ...)        # raw scores of many rows, with float32 and float64 rows
    apply(X, out, scratch, model, ...)      # leaf ids
    few(X, out, scratch, model, ...)        # raw scores of a few rows, by a walk: a block a row
    spread(X, out, scratch, model, ...)     # of fewer rows still: several blocks a row

A row's sum is the same sequence of additions as on a CPU, in the source library's order and dtype, however threads
share the trees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as TB

from ..layout import Layout, Signature, signature
from ..predicates import Canonical
from ..runtime.cuda import Launch
from . import cuda_spread
from .cuda_strategies import STRATEGIES, WALKING
from .cuda_tir import new_frame, parameters

KINDS = ("raw", "apply", "few", "spread")
OF_FEW_ROWS = ("few", "spread")
ENTRIES = tuple(f"{kind}_{width}" for kind in KINDS for width in ("f32", "f64"))


@dataclass(frozen=True)
class Part:
    """The tables of a strategy, and what its code is specialised on."""

    layout: Layout
    signature: Signature


def parts(canonical: Canonical, strategy: str, options: Mapping[str, int]) -> tuple[Part, ...]:
    """The part that serves batches, and, where another walk serves a few rows, that of the walk.

    Args:
        canonical: The forest, which the strategy can serve.
        strategy: A name of STRATEGIES.
        options: All of its options.

    Raises:
        StrategyError: a block of rows would not fit into memory that 32 bits reach.
    """
    module = STRATEGIES[strategy]
    made = [(strategy, module.lay_out(canonical, options))]
    if module.FEW is None:
        name, chosen = _few(canonical)
        made.append((name, STRATEGIES[name].lay_out(canonical, chosen)))
    forest = canonical.forest
    input_dtype, acc_dtype = forest.input_dtype, str(forest.values.dtype)
    return tuple(Part(layout, signature(layout, name, input_dtype, acc_dtype)) for name, layout in made)


def _few(canonical: Canonical) -> tuple[str, dict[str, int]]:
    """The walk for a few rows beside a strategy for batches, and its options."""
    options = {n: {key: o.default for key, o in module.OPTIONS.items()} for n, module in WALKING.items()}
    serving = [n for n, module in WALKING.items() if module.refusal(canonical, options[n]) is None]
    name = min(serving, key=lambda n: float(WALKING[n].cycles(canonical, options[n])))
    return name, options[name]


def serving(signatures: Sequence[Signature], entry: str) -> int:
    """Which of the parts serves an entry."""
    return len(signatures) - 1 if entry.partition("_")[0] in OF_FEW_ROWS else 0


def launches(parts: Sequence[Part], spread_trees: int) -> dict[str, Launch]:
    """entry -> how it is launched; without ``spread`` where a row has one block at most: see `cuda_spread.launch`."""
    found: dict[str, Launch] = {}
    for entry in ENTRIES:
        part = parts[serving([p.signature for p in parts], entry)]
        kind = entry.partition("_")[0]
        if kind == "spread":
            how = cuda_spread.launch(part.layout, spread_trees)
            found |= {entry: how} if how.row_blocks else {}
        else:
            found[entry] = STRATEGIES[part.signature.strategy].launch(part.layout, kind)
    return found


def kernel(signature: Signature, name: str, entry: str, directory: int = 0) -> tvm.tirx.PrimFunc:
    """A kernel ``name(X, out, scratch, model, x_stride, out_stride, rows, blocks)``.

    Args:
        signature: What the code is specialised on.
        name: The global symbol.
        entry: One of ENTRIES. apply: out (n, T) int32 leaf ids; others: out (n, K) of the accumulator's dtype. X (n, F)
            is float32 or float64; both have unit column stride.
        directory: The number of its directory in the model blob.
    """
    kind, _, width = entry.partition("_")
    x_dtype = {"f32": "float32", "f64": "float64"}[width]
    value_dtype = "float64" if signature.input_dtype == x_dtype == "float64" else "float32"
    out_dtype = "int32" if kind == "apply" else signature.acc_dtype
    with IRBuilder() as builder, TB.prim_func():
        TB.func_name(name)
        # A pointer is restrict: nothing else reads what is written, and tables may come through the read-only path.
        TB.func_attr({"global_symbol": name, "tirx.noalias": True, "tirx.is_global_func": True, "calling_conv": 2})
        args = parameters(x_dtype, out_dtype)
        with (
            TB.launch_thread("blockIdx.x", tirx.Cast("int32", args.blocks)) as block,
            TB.launch_thread("threadIdx.x", signature.constant("threads")) as thread,
        ):
            frame = new_frame(signature, args, value_dtype, thread, block, directory)
            STRATEGIES[signature.strategy].emit(frame, kind)
    return builder.get()
