"""to_relax(): the ensemble as a Relax module, so that it can join a larger graph.

    main(X: (n, F) float32 | float64) -> raw scores (n, K)

Every stage is a `call_tir` of a PrimFunc made from the TE graph of `relay_ops`; tables are constants of the module.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx

from ..layout import Layout
from ..predicates import Canonical
from . import aggregate, predicate


def build_module(canonical: Canonical, strategy: ModuleType, layout: Layout, x_dtype: str) -> tvm.IRModule:
    """A Relax module with one function ``main``: X (n, F) of ``x_dtype`` -> raw scores (n, K), for any n.

    Build it with ``tvm.compile(module, target="llvm")`` and run it in ``tvm.relax.VirtualMachine``; its results are
    bit-equal to `predict_raw`.
    """
    forest = canonical.forest
    value_dtype = "float64" if forest.input_dtype == x_dtype == "float64" else "float32"
    names = sorted(layout.tables)
    builder = relax.BlockBuilder()
    n = tirx.Var("n", "int64")
    X = relax.Var("X", relax.TensorType((n, forest.n_features), x_dtype))
    with builder.function("main", [X]):
        arrays = {name: _at_least_one(layout.tables[name]) for name in names}
        constants = [relax.const(array, str(array.dtype)) for array in arrays.values()]

        def view(given: tuple[te.Tensor, ...]) -> dict[str, te.Tensor]:
            tables = dict(zip(names, given, strict=True))
            tables["bound"] = tables["bound32" if value_dtype == "float32" else "bound64"]
            return tables

        def stage(function: Any, *inputs: Any) -> Any:
            name = function.__name__
            return builder.emit(builder.call_te(function, *inputs, *constants, primfunc_name_hint=name))

        def columns(x: te.Tensor, *tables: te.Tensor) -> te.Tensor:
            return predicate.columns(x, view(tables), layout, value_dtype, forest.input_dtype)

        def positions(v: te.Tensor, *tables: te.Tensor) -> te.Tensor:
            return strategy.forward(v, view(tables), canonical, layout)

        def raw_scores(p: te.Tensor, x: te.Tensor, *tables: te.Tensor) -> te.Tensor:
            return aggregate.forward(p, x, view(tables), forest)

        with builder.dataflow():
            found = stage(positions, stage(columns, X))
            output = builder.emit_output(stage(raw_scores, found, X))
        builder.emit_func_output(output)
    return builder.get()


def _at_least_one(table: np.ndarray) -> np.ndarray:
    """A table that is not empty: TE has no tensors without elements."""
    return table if table.size else np.zeros(1, table.dtype)
