"""to_relax(): the ensemble as a Relax module, so that it can join a larger graph.

    main(X: (n, F) float32 | float64) -> raw scores (n, K), or linked scores (n, K')

Every stage is a `call_tir` of a PrimFunc made from the TE graph of `relay_ops`; tables are constants of the module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from tvm import relax, te, tirx

from ..forest import Method
from ..predicates import Canonical
from . import aggregate, link, predicate, tree_traversal
from .options import resolve
from .plan import STRATEGIES, Step


def build_module(canonical: Canonical, x_dtype: str, method: Method | None, plan: Sequence[Step]) -> tvm.IRModule:
    """A Relax module with one function ``main``: X (n, F) of ``x_dtype`` -> scores, for any n.

    The scores are raw (n, K), or those that the link of ``method`` makes of them (n, K'). The graph is that of the
    plan's first strategy that is a TE graph, or of tree_traversal: their scores have the same bits.
    """
    forest = canonical.forest
    graphs = [(STRATEGIES[s.strategy], s.options) for s in plan if hasattr(STRATEGIES[s.strategy], "forward")]
    default = tree_traversal.choose(canonical, resolve(tree_traversal.NAME, tree_traversal.OPTIONS, {}))
    strategy, options = (graphs or [(tree_traversal, default)])[0]
    layout, places = strategy.prepare(canonical, options)
    layout = predicate.prepare(canonical) | layout | aggregate.prepare(canonical, places, layout.flags)
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
            return tables | predicate.bounds(tables, value_dtype)

        def stage(function: Any, *inputs: Any) -> Any:
            name = function.__name__
            return builder.emit(builder.call_te(function, *inputs, *constants, primfunc_name_hint=name))

        def columns(x: te.Tensor, *tables: te.Tensor) -> te.Tensor:
            return predicate.columns(x, view(tables), layout, value_dtype, forest.input_dtype)

        def positions(v: te.Tensor, *tables: te.Tensor) -> te.Tensor:
            return strategy.forward(v, view(tables), canonical, layout)

        def raw_scores(p: te.Tensor, x: te.Tensor, *tables: te.Tensor) -> te.Tensor:
            return aggregate.forward(p, x, view(tables), forest)

        def linked(raw: te.Tensor) -> te.Tensor:
            assert method is not None
            return link.forward(raw, method.link, method.args)

        with builder.dataflow():
            found = stage(positions, stage(columns, X))
            scores = stage(raw_scores, found, X)
            if method is not None:
                scores = builder.emit(builder.call_te(linked, scores, primfunc_name_hint="linked"))
            output = builder.emit_output(scores)
        builder.emit_func_output(output)
    return builder.get()


def _at_least_one(table: np.ndarray) -> np.ndarray:
    """A table that is not empty: TE has no tensors without elements."""
    return table if table.size else np.zeros(1, table.dtype)
