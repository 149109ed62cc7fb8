"""The Forest IR: every rule of verify(), and the helpers."""

from __future__ import annotations

import dataclasses
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest

from woodpecker import forest as ir
from woodpecker import reference
from woodpecker.errors import InvalidModelError, WoodpeckerError
from woodpecker.forest import Forest, Method
from woodpecker.nested import from_nested
from woodpecker.verify import verify

from .gallery import FORESTS, leaf, rows, small, split
from .support import assert_bits_equal


def linear() -> Forest:
    tree = split(0, 1.5, leaf(1.0, coef={1: 2.0}), leaf(2.0, const=1.0, coef={0: 1.0, 1: 3.0}))
    return from_nested([tree], 2, input_dtype="float64")


def exact() -> Forest:
    return small(category_rule="exact", known_categories={1: np.array([1.0, 2.0, 5.0])})


def put(name: str, index: Any, value: Any) -> dict[str, Any]:
    """A change of one entry of an array field of `small()`."""
    array = getattr(small(), name).copy()
    array[index] = value
    return {name: array}


def ways(kind: str, /, *labels: np.ndarray, **args: Any) -> dict[str, Any]:
    """A change of what `predict` returns; `small()` has one output and two trees."""
    return {"methods": {"predict": Method(kind, args=args)}, "classes": labels}


def onehot(categories: Any, container: str = "ndarray") -> dict[str, Any]:
    return ways("leaves_onehot", categories=categories, container=container, dtype="float64")


HUGE = 10**400
ONE, TWO = np.array(["a"]), np.array(["a", "b"])
NODES = 6
RULES: dict[str, tuple[Any, dict[str, Any], str]] = {
    # nodes: each message names the tree and the node
    "kind": (small, put("kind", 3, 4), "tree 1, node 2: unknown node kind"),
    "feature beyond": (small, put("feature", 1, 2), r"tree 1, node 0: feature out of range \[0, 2\)"),
    "feature below": (small, put("feature", 3, -1), "tree 1, node 2: feature out of range"),
    "threshold": (small, put("threshold", 1, np.nan), "tree 1, node 0: the threshold is NaN"),
    "missing": (small, put("missing", 1, 2), "tree 1, node 0: unknown missing rule"),
    "left beyond": (small, put("left", 1, 5), "tree 1, node 0: the left child is out of range"),
    "left negative": (small, put("left", 3, -1), "tree 1, node 2: the left child is out of range"),
    "right is the root": (small, put("right", 3, 0), "tree 1, node 2: the right child is out of range"),
    "right huge": (small, put("right", 1, 2**31 - 1), "tree 1, node 0: the right child is out of range"),
    "two parents": (small, put("left", 1, 3), "tree 1, node 3: the node has more than one parent"),
    "itself": (small, put("right", 3, 2), "tree 1, node 2: the node has more than one parent"),
    "set beyond": (small, put("category_set", 3, 1), "tree 1, node 2: category_set out of range"),
    "no set": (small, put("category_set", 3, -1), "tree 1, node 2: category_set out of range"),
    "leaf beyond": (small, put("leaf", 0, 4), r"tree 0, node 0: leaf row out of range \[0, 4\)"),
    "no leaf": (small, put("leaf", 4, -1), "tree 1, node 3: leaf row out of range"),
    "inner leaf": (small, put("leaf", 1, 0), "tree 1, node 0: an inner node has a leaf row"),
    "infinite value": (small, put("values", (2, 0), np.inf), "tree 1, node 3: the leaf value is not finite"),
    "nan value": (small, put("values", (0, 0), np.nan), "tree 0, node 0: the leaf value is not finite"),
    "unknown member": (
        exact,
        {"known_categories": {1: np.array([1.0, 2.0])}},
        "tree 1, node 2: its category set holds values unknown to feature 1",
    ),
    "no known": (exact, {"known_categories": {}}, "tree 1, node 2: a category test on a feature without known"),
    # the forest as a whole
    "leaf twice": (small, put("leaf", 4, 0), "each row of values must belong to exactly one leaf"),
    "spare leaf": (small, {"values": np.zeros((5, 1))}, "each row of values must belong to exactly one leaf"),
    "columns of values": (small, {"values": np.zeros((4, 3))}, "3 columns; expected 1 or 1"),
    "dtype of values": (small, {"values": np.zeros((4, 1), np.float16)}, "float32 or float64, found float16"),
    "shape of values": (small, {"values": np.zeros(4)}, r"values must have shape \('any', 'any'\), found \(4,\)|shape"),
    "dtype of base": (small, {"base_score": np.zeros(1, np.float32)}, "base_score must be an array of float64"),
    "no output": (small, {"base_score": np.zeros(0)}, "no output: base_score is empty"),
    "infinite base": (small, {"base_score": np.array([np.inf])}, "base_score is not finite"),
    "output": (small, {"tree_output": np.array([0, 1], np.int32)}, r"tree_output must lie in \[0, 1\)"),
    "output below": (small, {"tree_output": np.array([0, -1], np.int32)}, r"tree_output must lie in \[0, 1\)"),
    "short output": (
        small,
        {"tree_output": np.zeros(1, np.int32)},
        r"tree_output must have shape \(2,\), found \(1,\)",
    ),
    "offset start": (small, put("tree_offset", 0, 1), "tree_offset must ascend from 0 to 6"),
    "offset end": (small, put("tree_offset", -1, 7), "tree_offset must ascend from 0 to 6"),
    "empty tree": (small, {"tree_offset": np.array([0, 0, 6])}, "at least one node per tree"),
    "no offset": (small, {"tree_offset": np.zeros(0, np.int64)}, "tree_offset must|tree_output must"),
    "set offset": (small, {"set_offset": np.array([0, 1])}, "set_offset must run from 0"),
    "set order": (small, {"set_offset": np.array([0, 3, 2])}, "set_offset must ascend"),
    "no set offset": (small, {"set_offset": np.zeros(0, np.int64)}, "set_offset must run from 0"),
    "set descends": (small, {"set_values": np.array([5.0, 2.0])}, "category set must be finite and ascend"),
    "set repeats": (small, {"set_values": np.array([2.0, 2.0])}, "category set must be finite and ascend"),
    "set nan": (small, {"set_values": np.array([2.0, np.nan])}, "category set must be finite and ascend"),
    "set fraction": (small, {"set_values": np.array([2.0, 2.5])}, "whole numbers in"),
    "set negative": (small, {"set_values": np.array([-1.0, 2.0])}, "whole numbers in"),
    "set huge": (small, {"set_values": np.array([1.0, 2.0**31])}, "whole numbers in"),
    "rule": (small, {"category_rule": "round"}, "unknown category_rule 'round'; known: truncate"),
    "known feature": (exact, {"known_categories": {2: np.array([1.0])}}, r"known_categories\[2\] must"),
    "known order": (exact, {"known_categories": {1: np.array([5.0, 2.0])}}, r"known_categories\[1\] must ascend"),
    "known dtype": (exact, {"known_categories": {1: np.array([2, 5])}}, r"known_categories\[1\] must be an array of"),
    "input dtype": (small, {"input_dtype": "float16"}, "input_dtype must be float32 or float64, found 'float16'"),
    "integer dtype": (small, {"integer_dtype": "int32"}, "integer_dtype must be"),
    "divisor": (small, {"divisor": 0}, "divisor must be a positive integer, found 0"),
    "half divisor": (small, {"divisor": 1.5}, "divisor must be a positive integer, found 1.5"),
    "band": (small, {"zero_band": -1.0}, "zero_band must be finite"),
    "infinite band": (small, {"zero_band": np.inf}, "zero_band must be finite"),
    "band and rule": (
        lambda: small(zero_band=0.5),
        put("missing", 3, 1),
        "tree 1, node 2: the missing rule 'zero' with a zero_band beyond 1e-35",
    ),
    "names": (small, {"feature_names": ("a",)}, "1 feature names for 2 features"),
    "unknown category": (small, {"unknown_category": "drop"}, "unknown_category must be 'error' or 'nan'"),
    "cover": (small, {"cover": np.zeros(3)}, r"cover must have shape \(6,\)"),
    "no method": (small, {"methods": {}}, "no methods"),
    "kind of method": (small, {"methods": {"predict": Method("median")}}, "kind 'median'; known: value"),
    "name of method": (small, {"methods": {"apply": Method("value")}}, "'apply' can't be the name of a method"),
    "features": (small, {"n_features": -1}, "-1 n_features"),
    "no features": (small, {"n_features": 0}, "0 n_features; at least 1 and"),
    "many features": (small, {"n_features": 2**24 + 1}, "16777217 n_features; at least 1 and at most 16777216"),
    "fractional features": (small, {"n_features": 2.0}, "2.0 n_features"),
    "huge outputs": (small, {"base_score": np.zeros(2**20 + 1)}, "1048577 n_outputs; .*at most 1048576"),
    "huge divisor": (small, {"divisor": HUGE}, "divisor must be a positive integer, found 1000"),
    "huge band": (small, {"zero_band": HUGE}, "zero_band must be a number, found 1000"),
    "endless band": (small, {"zero_band": 10**5000}, "zero_band must be a number, found int"),
    "huge sentinel": (small, {"missing_value": HUGE}, "missing_value must be a number, found 1000"),
    "complex sentinel": (small, {"missing_value": np.complex64(1)}, "missing_value must be a number"),
    "dtype object": (small, {"input_dtype": np.dtype("f4")}, r"input_dtype must be a string, found dtype\('float32'\)"),
    "names of one text": (small, {"feature_names": "ab"}, "feature_names must be a tuple of strings, found 'ab'"),
    "no names": (small, {"feature_names": 5}, "feature_names must be a tuple of strings, found 5"),
    "numbers as names": (small, {"feature_names": (0, 1)}, "feature_names must be a tuple of strings"),
    "equal names": (small, {"feature_names": ("a", "a")}, "two features have the name 'a'"),
    "known mapping": (exact, {"known_categories": 5}, "known_categories must be a mapping, found int"),
    "known key": (exact, {"known_categories": {"a": np.array([1.0])}}, r"known_categories\[a\] must"),
    "frame mapping": (small, {"frame_categories": 3}, "frame_categories must be a mapping, found int"),
    "frame key": (small, {"frame_categories": {"a": ["x"]}}, "frame_categories has the key 'a', which is no feature"),
    "frame feature": (small, {"frame_categories": {99: ["x"]}}, r"the key 99, which is no feature in \[0, 2\)"),
    "frame list": (small, {"frame_categories": {0: 5}}, r"frame_categories\[0\] must be a list, found int"),
    "frame text": (small, {"frame_categories": {0: "xy"}}, r"frame_categories\[0\] must be a list, found str"),
    "frame object": (small, {"frame_categories": {0: [object()]}}, "which is no string, bool or finite number"),
    "frame nan": (small, {"frame_categories": {0: [np.nan]}}, "holds nan, which is no string, bool or finite number"),
    "frame huge": (small, {"frame_categories": {0: [HUGE]}}, "holds 1000.*, which is no string, bool or finite"),
    "frame twice": (small, {"frame_categories": {0: [True, 1, 1.0]}}, "holds 1.0, which is in it twice"),
    "methods mapping": (small, {"methods": ["predict"]}, "methods must be a mapping, found list"),
    "number as name": (small, {"methods": {1: Method("value")}}, "methods must map names to Method"),
    "text as method": (small, {"methods": {"predict": "value"}}, "methods must map names to Method"),
    "link": (small, {"methods": {"predict": Method("value", ["a"])}}, "methods must map names to Method"),
    "args": (small, {"methods": {"predict": Method("value", args=5)}}, "methods must map names to Method"),
    "classes": (small, {"classes": 5}, "classes must be a tuple of arrays, found int"),
    "no classes": (small, {"classes": None}, "classes must be a tuple of arrays, found NoneType"),
    "classes of two dimensions": (small, ways("label", TWO[None]), r"classes\[0\] must be .* shape \(1, 2\)"),
    "classes of lists": (small, {"classes": (["a"],)}, r"classes\[0\] must be .* found list"),
    "no labels": (small, ways("label", TWO[:0]), "'predict' returns labels, and 0 of them do not fit 1 scores"),
    "many labels": (small, ways("label", np.arange(3)), "returns labels, and 3 of them do not fit 1 scores"),
    "no number above": (small, ways("label", TWO, above="x"), "has above='x', which is no finite number"),
    "huge subtract": (small, ways("value", subtract=HUGE), "has subtract=1000.*, which is no finite number"),
    "columns": (small, ways("value", columns=2), "has columns=2; it must be an integer from 1 to 1"),
    "result dtype": (small, ways("indicator", dtype="zz"), "has dtype='zz', which is not the name of a dtype"),
    "groups number": (small, ways("label", TWO, groups=5), "has groups=5; they must be a list of positive integers"),
    "groups none": (small, ways("label", TWO, groups=None), "has groups=None; they must be a list"),
    "groups text": (small, ways("label", TWO, groups=["x"]), r"has groups=\['x'\]; they must be a list"),
    "groups below": (small, ways("proba", groups=[-1]), r"has groups=\[-1\]; they must be a list"),
    "groups sum": (small, ways("proba", groups=[100]), r"has groups=\[100\], and their sum must be .* scores, 1"),
    "groups huge": (small, ways("proba", groups=[2**70]), "and their sum must be the number of scores, 1"),
    "groups labels": (small, ways("label", TWO, groups=[1]), r"has groups=\[1\], and classes have \[2\] labels"),
    "one-hot": (small, ways("leaves_onehot"), "'predict' needs the argument 'categories'"),
    "one-hot trees": (small, onehot([[1]]), "needs categories for each of its 2 trees"),
    "one-hot order": (small, onehot([[0], [2, 1]]), "has categories of tree 1 that are not ascending leaf ids"),
    "one-hot none": (small, onehot([[0], []]), "has categories of tree 1 that are not ascending leaf ids"),
    "one-hot ragged": (small, onehot([[0], [[1], [1, 2]]]), "has categories of tree 1 that are not ascending leaf ids"),
    "one-hot huge": (small, onehot([[0], [2**40]]), "has categories of tree 1 that are not ascending leaf ids"),
    "one-hot container": (small, onehot([[0], [1]], "coo"), "has container='coo'; known: csr_matrix"),
    # linear leaves
    "linear parts": (linear, {"linear_coef": None}, "linear leaves need linear_offset, linear_feature"),
    "linear length": (linear, {"linear_offset": np.array([0, 3])}, r"linear_offset must have shape \(3,\)"),
    "linear order": (linear, {"linear_offset": np.array([0, 4, 3])}, "linear_offset must ascend"),
    "linear feature": (linear, {"linear_feature": np.array([0, 1, 2], np.int32)}, r"feature outside \[0, 2\)"),
    "linear nan": (linear, {"linear_coef": np.array([1.0, np.nan, 1.0])}, "coefficient or constant that is not finite"),
    "linear inf": (linear, {"linear_const": np.array([1.0, np.inf])}, "coefficient or constant that is not finite"),
    "linear float32": (linear, {"input_dtype": "float32"}, "linear leaves need .* float64 input"),
    "linear sentinel": (linear, {"missing_value": 1.0}, "linear leaves need .* no missing_value"),
}
RULES |= {
    f"dtype of {name}": (small, {name: getattr(small(), name).astype(np.int16)}, f"{name} must be an array of")
    for name in (
        *("tree_offset", "tree_output", "kind", "feature", "threshold", "missing", "default_left", "left", "right"),
        *("category_set", "set_offset", "set_values", "leaf", "leaf_id"),
    )
}
RULES |= {
    f"length of {name}": (small, {name: getattr(small(), name)[:-1]}, rf"{name} must have shape \({NODES},\)")
    for name in ("feature", "threshold", "missing", "default_left", "left", "right", "category_set", "leaf", "leaf_id")
}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_of_verify(rule):
    make, changes, message = RULES[rule]
    good = make()
    assert verify(good) is good
    with pytest.raises(InvalidModelError, match=message):
        verify(dataclasses.replace(good, **changes))


def test_a_cycle_apart_from_the_root():
    # Nodes 1 and 2 are each other's children: every node has one parent, and two are not reached.
    forest = from_nested([split(0, 0.0, leaf(1.0), split(0, 1.0, leaf(2.0), split(0, 2.0, leaf(3.0), leaf(4.0))))], 1)
    left, right = forest.left.copy(), forest.right.copy()
    left[0], right[0] = 1, 3
    left[2], right[2] = 5, 4
    left[4], right[4] = 2, 6
    with pytest.raises(InvalidModelError, match=r"tree 0, node \d: the node is not connected to its root"):
        verify(dataclasses.replace(forest, left=left, right=right))


def test_a_node_without_parent():
    forest = small()
    broken = {name: np.append(getattr(forest, name), getattr(forest, name)[-1:]) for name in PER_NODE}
    broken["tree_offset"] = np.array([0, 1, 7])
    with pytest.raises(InvalidModelError, match="tree 1, node 5: the node has no parent"):
        verify(dataclasses.replace(forest, **broken))


PER_NODE = (
    "kind",
    "feature",
    "threshold",
    "missing",
    "default_left",
    "left",
    "right",
    "category_set",
    "leaf",
    "leaf_id",
)


def test_chains_and_large_forests_are_checked_in_linear_time():
    n = 200_000
    node = np.arange(2 * n + 1)
    inner = (node % 2 == 0) & (node < 2 * n)
    forest = Forest(
        tree_offset=np.array([0, 2 * n + 1]),
        tree_output=np.zeros(1, np.int32),
        kind=np.where(inner, ir.LT, ir.LEAF).astype(np.uint8),
        feature=np.zeros(2 * n + 1, np.int32),
        threshold=np.zeros(2 * n + 1),
        missing=np.zeros(2 * n + 1, np.uint8),
        default_left=np.zeros(2 * n + 1, bool),
        left=np.where(inner, node + 1, 0).astype(np.int32),
        right=np.where(inner, node + 2, 0).astype(np.int32),
        category_set=np.full(2 * n + 1, -1, np.int32),
        set_offset=np.zeros(1, np.int64),
        set_values=np.zeros(0),
        leaf=np.where(inner, -1, np.cumsum(~inner) - 1).astype(np.int32),
        leaf_id=node.astype(np.int32),
        values=np.zeros((n + 1, 1)),
        n_features=1,
        base_score=np.zeros(1),
    )
    tracemalloc.start()
    start = time.process_time()
    verify(forest)
    seconds, peak = time.process_time() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 10
    assert peak < 200 * forest.n_nodes


def test_arrays_are_frozen():
    forest = small()
    for field in dataclasses.fields(Forest):
        value = getattr(forest, field.name)
        if isinstance(value, np.ndarray):
            with pytest.raises(ValueError, match="read-only"):
                value[...] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        forest.divisor = 2


def test_replace_verifies():
    assert small().replace(divisor=4).divisor == 4
    with pytest.raises(InvalidModelError, match="divisor"):
        small().replace(divisor=-4)


def test_depth_leaves_and_orders():
    forest = small()
    assert ir.tree_depth(forest).tolist() == [0, 2]
    assert ir.node_depth(forest).tolist() == [0, 0, 1, 1, 2, 2]
    assert ir.tree_leaves(forest).tolist() == [1, 3]
    lopsided = from_nested([split(0, 0.0, split(0, 1.0, leaf(1.0), leaf(2.0)), leaf(3.0))], 1)
    assert ir.dfs_order(lopsided, 0).tolist() == [0, 1, 2, 3, 4]
    assert ir.bfs_order(lopsided, 0).tolist() == [0, 1, 4, 2, 3]
    assert ir.leaf_values(lopsided, 0)[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert ir.leaf_values(forest, 1)[:, 0].tolist() == [1.0, 2.0, 3.0]
    values = ir.decision_values(lopsided, 0)
    assert values["node"].tolist() == [0, 1] and values["threshold"].tolist() == [0.0, 1.0]
    empty = from_nested([], 1)
    assert ir.tree_depth(empty).shape == ir.tree_leaves(empty).shape == (0,)


def test_reordering_by_output_changes_no_score():
    forest = FORESTS["outputs"]()
    ordered = verify(ir.reorder_by_output(forest))
    assert (np.diff(ordered.tree_output) >= 0).all() and (np.diff(forest.tree_output) < 0).any()
    X = rows(forest, 200, 1, "float32")
    assert_bits_equal(reference.predict_raw(ordered, X), reference.predict_raw(forest, X))
    order = np.argsort(forest.tree_output, kind="stable")
    np.testing.assert_array_equal(reference.apply(ordered, X), reference.apply(forest, X)[:, order])


@pytest.mark.parametrize("name", ["float64", "linear", "truncate", "vector"])
def test_select_trees(name):
    forest = FORESTS[name]()
    picked = verify(ir.select_trees(forest, [1, 0, 1]))
    X = rows(forest, 100, 2)
    np.testing.assert_array_equal(reference.apply(picked, X), reference.apply(forest, X)[:, [1, 0, 1]])
    alone = [reference.predict_raw(verify(ir.select_trees(forest, [t])), X) for t in range(forest.n_trees)]
    if forest.divisor == 1:
        terms = [a - forest.base_score for a in alone]
        np.testing.assert_allclose(reference.predict_raw(picked, X), forest.base_score + terms[1] * 2 + terms[0])
    assert ir.select_trees(forest, []).n_leaves == 0


def test_errors_are_woodpecker_and_value_errors():
    assert issubclass(InvalidModelError, WoodpeckerError) and issubclass(InvalidModelError, ValueError)


def test_the_interpreter_follows_its_pseudo_code():
    """Against the docstring of `woodpecker.forest`, transcribed for one row at a time."""
    for name in (
        "float32",
        "sentinel",
        "zero_rule",
        "truncate",
        "truncate_nonnegative",
        "exact",
        "infinite",
        "outputs",
    ):
        forest = FORESTS[name]()
        X = rows(forest, 60, 3)
        got = reference.predict_raw(forest, X)
        for r in range(len(X)):
            assert_bits_equal(got[r], score_one(forest, X[r]), name)


def score_one(f: Forest, x: np.ndarray) -> np.ndarray:
    acc = f.base_score.copy()
    for t in range(f.n_trees):
        at = f.tree_offset[t]
        i = at
        while f.kind[i] != ir.LEAF:
            v = float(np.float32(x[f.feature[i]]) if f.input_dtype == "float32" else x[f.feature[i]])
            sentinel = float(np.dtype(f.input_dtype).type(f.missing_value))
            missing = v != v or v == sentinel
            if abs(v) <= f.zero_band:
                v = 0.0
            missing |= bool(f.missing[i] == ir.MISSING_ZERO and abs(v) <= ir.ZERO_BAND)
            if f.kind[i] == ir.IN:
                s = f.category_set[i]
                members = f.set_values[f.set_offset[s] : f.set_offset[s + 1]].tolist()
                if f.category_rule == "exact":
                    missing |= v not in f.known_categories[int(f.feature[i])].tolist()
                    left = v in members
                else:
                    names_none = v in (np.inf, -np.inf) or v != v
                    names_none |= v < 0 and f.category_rule == "truncate_nonnegative"
                    left = not names_none and int(v) in members
            else:
                left = v < f.threshold[i] if f.kind[i] == ir.LT else v <= f.threshold[i]
            i = at + (f.left if (f.default_left[i] if missing else left) else f.right)[i]
        acc[f.tree_output[t]] += f.values[f.leaf[i], 0]
    return acc / acc.dtype.type(f.divisor) if f.divisor != 1 else acc
