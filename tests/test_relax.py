"""to_relax(): a Relax module that builds, runs in the Relax VM, and gives the bits of `predict_raw`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax, tirx
from tvm_ffi import structural_equal
from tvm_ffi import structural_walk as walk

import woodpecker as wp
from woodpecker.errors import InputError
from woodpecker.forest import Method

from .gallery import FORESTS, fitting, grown, rows, strategies
from .support import assert_bits_equal


def run(module: tvm.IRModule, *batches: np.ndarray) -> list[np.ndarray]:
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())
    return [machine["main"](tvm.runtime.tensor(X)).numpy() for X in batches]


PAIRS = [
    ("float64", "tree_traversal"),
    ("narrow", "perfect_tree_traversal"),
    ("vector", "gemm"),
    ("exact", "gemm"),
    ("linear", "tree_traversal"),
    ("empty", "gemm"),
]
"""For the fast tier; the full tier has all."""


def check(name: str, strategy: str, dtypes: tuple[str, ...]) -> None:
    forest = FORESTS[name]()
    predictor = wp.compile(forest, strategy=strategy)
    for dtype in dtypes:
        X = rows(forest, 130, 1, dtype)
        for got, batch in zip(run(predictor.to_relax(x_dtype=dtype), X, X[:1]), (X, X[:1]), strict=True):
            assert_bits_equal(got, predictor.predict_raw(batch), f"{name} {strategy} {dtype}")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(("name", "strategy"), PAIRS)
def test_bits_of_the_virtual_machine(name, strategy):
    check(name, strategy, ("float64" if FORESTS[name]().input_dtype == "float64" else "float32",))


@pytest.mark.full
@pytest.mark.parametrize(("name", "strategy"), fitting("relax"))
def test_every_forest_in_the_virtual_machine(name, strategy):
    assert strategy in strategies(FORESTS[name]())
    check(name, strategy, ("float32", "float64"))


def test_sums_keep_negative_zeros():
    forest = FORESTS["leaf"]()
    (got,) = run(wp.compile(forest, strategy="gemm").to_relax(), np.zeros((3, 2), np.float32))
    assert (got == 0).all() and np.signbit(got).all()


def test_division_of_no_trees():
    forest = wp.Forest.from_nested([], 2, base_score=1.0, divisor=3)
    predictor = wp.compile(forest, strategy="tree_traversal")
    X = np.zeros((2, 2), np.float32)
    (got,) = run(predictor.to_relax(), X)
    assert_bits_equal(got, predictor.predict_raw(X))
    assert got[0, 0] == 1 / 3


@pytest.mark.sampled(4)
@pytest.mark.parametrize("link", ["sigmoid", "softmax", "argmax", "xgb_sort"])
def test_a_method_with_its_link(link):
    forest = grown(61, 6, 3, dtype=np.float32, tree_output=[0, 1, 2] * 2, methods={"predict": Method("value", link)})
    predictor = wp.compile(forest, strategy="tree_traversal")
    X = rows(forest, 100, 2, "float32")
    (got,) = run(predictor.to_relax(method="predict"), X)
    want = predictor.predict(X)
    np.testing.assert_allclose(got, want if want.ndim == 2 else want[:, None], rtol=3e-7)


def test_wrong_arguments():
    predictor = wp.compile(FORESTS["float32"](), strategy="tree_traversal")
    with pytest.raises(InputError, match="float16"):
        predictor.to_relax(x_dtype="float16")
    with pytest.raises(InputError, match="predict_proba"):
        predictor.to_relax(method="predict_proba")


def test_the_module_joins_another():
    """The ensemble as a part of a larger graph: called by a function of the user's own."""
    forest = FORESTS["outputs"]()
    predictor = wp.compile(forest, strategy="tree_traversal")
    module = predictor.to_relax()
    builder = relax.BlockBuilder(module)
    n = tvm.tirx.Var("n", "int64")
    X = relax.Var("X", relax.TensorType((n, forest.n_features), "float32"))
    with builder.function("twice", [X]):
        with builder.dataflow():
            scores = builder.emit(relax.Call(module.get_global_var("main"), [X]))
            output = builder.emit_output(relax.op.add(scores, scores))
        builder.emit_func_output(output)
    machine = relax.VirtualMachine(tvm.compile(builder.get(), target="llvm"), tvm.cpu())
    rows_ = rows(forest, 20, 3, "float32")
    got = machine["twice"](tvm.runtime.tensor(rows_)).numpy()
    assert_bits_equal(got, predictor.predict_raw(rows_) * 2)


def guarded_by_choice(function: tvm.tirx.PrimFunc) -> list[str]:
    """Each `Select` on a number that also keeps an index in range by min or max within a branch."""
    found: list[str] = []

    def of_choice(choice: Any) -> None:
        def of_guard(guard: Any) -> None:
            within: list[bool] = []
            walk(guard, [(tvm.runtime.Object, lambda node: within.append(structural_equal(node, number)))])
            if any(within):
                found.append(str(choice))

        if isinstance(choice.condition, tirx.EQ | tirx.NE | tirx.LT | tirx.LE | tirx.GT | tirx.GE):
            number = choice.condition.a
            for branch in (choice.true_value, choice.false_value):
                walk(branch, [(tirx.Min, of_guard), (tirx.Max, of_guard)])

    walk(function.body, [(tirx.Select, of_choice)])
    return found


def test_guards_are_found():
    n = tirx.Var("n", "int32")
    buffer = tirx.decl_buffer((4,), "int32", "some")
    load = tirx.BufferLoad(buffer, [tirx.max(n, 0)])
    for made, expected in ((tirx.Select(n >= 0, load, 1), 1), (tirx.if_then_else(n >= 0, load, 1), 0)):
        function = tirx.PrimFunc([n], tirx.BufferStore(buffer, made, [0]))
        assert len(guarded_by_choice(function)) == expected


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["float32", "truncate", "vector", "ranked64"])
def test_no_index_is_kept_in_range_by_what_is_simplified_away(name):
    """TVM simplifies both branches of a `Select` as if they had been chosen, and computes both."""
    for strategy in strategies(FORESTS[name]()):
        module = wp.compile(FORESTS[name](), strategy=strategy).to_relax()
        functions = [f for _, f in module.functions_items() if isinstance(f, tvm.tirx.PrimFunc)]
        assert len(functions) > 1
        for function in functions:
            assert guarded_by_choice(function) == []
