"""Predictors: methods and attributes, what `out` may be, what compile() refuses."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import reference
from woodpecker.errors import InputError, StrategyError, TargetError, UnsupportedModelError, WoodpeckerError
from woodpecker.forest import Forest, Method
from woodpecker.nested import from_nested

from .gallery import FORESTS, assert_agrees, grown, leaf, rows, split
from .support import assert_bits_equal


@pytest.fixture(scope="module")
def forest() -> Forest:
    methods = {
        "predict": Method("label", "sigmoid"),
        "predict_proba": Method("proba", "sigmoid"),
        "decision_function": Method("value"),
    }
    return grown(
        71,
        5,
        3,
        n_features=3,
        dtype=np.float32,
        methods=methods,
        classes=(np.array(["no", "yes"]),),
        feature_names=("a", "b", "c"),
        source={"library": "third", "estimator": "Booster3"},
    )


@pytest.fixture(scope="module")
def predictor(forest) -> wp.Predictor:
    return wp.compile(forest, strategy="tree_traversal")


def test_methods_are_those_of_the_model(predictor):
    assert isinstance(predictor, wp.Predictor)
    for name in ("predict", "predict_proba", "decision_function", "predict_raw", "apply"):
        assert callable(getattr(predictor, name))
    for absent in ("transform", "score_samples"):
        assert not hasattr(predictor, absent)
        with pytest.raises(AttributeError, match=absent):
            getattr(predictor, absent)
    regressor = wp.compile(from_nested([leaf(1.0)], 1), strategy="tree_traversal")
    assert not hasattr(regressor, "predict_proba") and not hasattr(regressor, "classes_")
    assert not hasattr(regressor, "feature_names_in_")


def test_methods_agree_with_each_other(predictor, forest):
    X = rows(forest, 300, 1, "float32")
    raw = reference.predict_raw(forest, X)
    assert_bits_equal(predictor.decision_function(X), raw[:, 0])
    p = predictor.predict_proba(X)
    assert p.shape == (300, 2) and p.dtype == np.float32
    np.testing.assert_allclose(p[:, 1], 1 / (1 + np.exp(-raw[:, 0].astype(np.float64))), rtol=1e-6)
    assert predictor.predict(X).tolist() == np.array(["no", "yes"])[p.argmax(1)].tolist()


def test_one_label_and_a_row_of_the_second_class():
    fields = {"methods": {"predict": Method("label", args={"above": 0.5})}, "classes": (np.array(["only"]),)}
    predictor = wp.compile(from_nested([split(0, 0.0, leaf(0.0), leaf(1.0))], 1, **fields), strategy="tree_traversal")
    assert predictor.predict([[-1.0], [-2.0]]).tolist() == ["only", "only"]
    with pytest.raises(InputError, match="row 1 is of the second class"):
        predictor.predict([[-1.0], [1.0]])


def test_attributes(predictor):
    assert (predictor.n_features_in_, predictor.n_outputs_, predictor.n_trees_) == (3, 1, 5)
    assert predictor.feature_names_in_.tolist() == ["a", "b", "c"]
    assert predictor.classes_.tolist() == ["no", "yes"]
    assert predictor.strategy == "tree_traversal"
    assert repr(predictor) == ("<woodpecker.Predictor of Booster3: 5 trees, 3 features, 1 outputs, tree_traversal>")


def test_inspect_is_json_and_says_what_is_in_it(predictor, forest):
    shown = predictor.inspect()
    assert json.loads(json.dumps(shown)) == shown
    assert shown["stats"]["leaves"] == forest.n_leaves and shown["stats"]["nodes"] == forest.n_nodes
    assert shown["plan"][0]["reason"] == "chosen by the user"
    assert shown["target"]["machine"] and shown["feature_names"] == ["a", "b", "c"]
    assert {"predict", "predict_raw", "apply"} <= set(shown["methods"])
    shown["stats"]["leaves"] = -1
    assert predictor.inspect()["plan"] == shown["plan"]


def test_distinct_predicates_are_counted():
    trees = [split(0, t, leaf(1.0), split(1, 0.5, leaf(2.0), leaf(3.0))) for t in (1.0, 2.0, 2.0)]
    stats = wp.compile(from_nested(trees, 2)).inspect()["stats"]
    assert (stats["distinct_predicates"], stats["max_depth"], stats["max_leaves"]) == (3, 2, 3)


class TestOut:
    def test_is_written_and_returned(self, predictor, forest):
        X = rows(forest, 40, 2, "float32")
        out = np.empty((40, 1), np.float32)
        assert np.shares_memory(predictor.predict_raw(X, out=out), out)
        assert_bits_equal(out, reference.predict_raw(forest, X))

    @pytest.mark.parametrize(
        ("out", "message"),
        [
            (np.empty((40, 1)), r"numpy array of float32, shape \(40, 1\); found float64"),
            (np.empty((41, 1), np.float32), r"found float32 \(41, 1\)"),
            (np.empty(40, np.float32), r"found float32 \(40,\)"),
            ([[0.0]] * 40, "found list"),
            (np.empty((80, 1), np.float32)[::2], "C-contiguous, writable and aligned"),
            (np.frombuffer(bytes(160), np.float32).reshape(40, 1), "C-contiguous, writable and aligned"),
            (np.empty(161, np.uint8)[1:].view(np.float32).reshape(40, 1), "C-contiguous, writable and aligned"),
            (np.empty((40, 1), ">f4"), "numpy array of float32"),
        ],
        ids=["dtype", "rows", "ndim", "list", "stride", "read-only", "unaligned", "big-endian"],
    )
    def test_is_refused(self, predictor, forest, out, message):
        X = rows(forest, 40, 2, "float32")
        with pytest.raises(InputError, match=message):
            predictor.predict_raw(X, out=out)

    def test_of_apply(self, predictor, forest):
        X = rows(forest, 40, 2, "float32")
        out = np.empty((40, 5), np.int32)
        predictor.apply(X, out=out)
        np.testing.assert_array_equal(out, reference.apply(forest, X))
        with pytest.raises(InputError, match="int32"):
            predictor.apply(X, out=np.empty((40, 5), np.int64))


def test_rows_are_not_changed_and_may_be_read_only(predictor, forest):
    X = rows(forest, 100, 3, "float32")
    want = reference.predict_raw(forest, X)
    before = X.copy()
    X.flags.writeable = False
    assert_bits_equal(predictor.predict_raw(X), want)
    assert_bits_equal(X, before)


def test_unaligned_and_swapped_rows(predictor, forest):
    X = rows(forest, 100, 4, "float32")
    want = reference.predict_raw(forest, X)
    for shift in (1, 2, 4, 12):
        memory = np.empty(X.nbytes + shift, np.uint8)
        moved = memory[shift:].view(np.float32).reshape(X.shape)
        moved[...] = X
        assert_bits_equal(predictor.predict_raw(moved), want, f"shifted by {shift}")
    assert_bits_equal(predictor.predict_raw(X.astype(">f4")), want)
    assert_bits_equal(predictor.predict_raw(X[::-1])[::-1], want)
    assert_bits_equal(predictor.predict_raw(np.repeat(X, 2, 0)[::2]), want)


def test_integers_and_halves(predictor, forest):
    X = np.random.default_rng(5).integers(-3, 3, (50, 3))
    for dtype in (np.int64, np.int8, np.uint16, np.float16, np.bool_):
        assert_bits_equal(predictor.predict_raw(X.astype(dtype)), reference.predict_raw(forest, X.astype(dtype)))


@pytest.mark.parametrize(
    "X", [np.zeros(3), np.zeros((2, 4)), np.zeros((2, 3, 1)), np.zeros((2, 3), complex), "abc", None, [["a", "b", "c"]]]
)
def test_wrong_rows(predictor, X):
    for method in (predictor.predict, predictor.predict_raw, predictor.apply, predictor.predict_proba):
        with pytest.raises(InputError):
            method(X)


def test_results_are_fresh_arrays(predictor, forest):
    X = rows(forest, 30, 6, "float32")
    first = predictor.predict_raw(X)
    kept = first.copy()
    predictor.predict_raw(X[::-1])
    assert_bits_equal(first, kept)


def test_no_pickle_and_no_copy(predictor):
    for action in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(UnsupportedModelError, match=r"save\(\) it, and load\(\) the file"):
            action(predictor)


def test_a_failing_callable_raises_its_own_error(forest):
    predictor = wp.compile(forest, strategy="tree_traversal", post_transform=lambda raw: raw / "x")
    with pytest.raises(TypeError):
        predictor.predict(rows(forest, 3, 1, "float32"))


class TestTargets:
    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("pdp-11", "unknown target 'pdp-11'; known: llvm, cpu, x86-64-v2"),
            ("aarch64-linux-android", "is for aarch64-linux-android, which this version does not compile for"),
            ({"kind": "llvm", "mcpu": "i4004"}, "LLVM knows no x86_64 CPU 'i4004'"),
            ({"kind": "llvm", "mtriple": "powerpc64-linux-gnu"}, "is for powerpc64-linux-gnu"),
            ({"kind": "c"}, "kind 'c'"),
            ("{not json", "is not valid JSON"),
            (7, "target must be a name, a dictionary or a tvm Target, found int"),
        ],
    )
    def test_wrong_targets(self, forest, target, message):
        with pytest.raises(TargetError, match=message):
            wp.compile(forest, target=target)

    @pytest.mark.sampled(3)
    @pytest.mark.parametrize("target", ["cpu", "x86-64-v2", {"kind": "llvm", "mcpu": "x86-64-v3"}])
    def test_targets_change_no_bit(self, target):
        forest = FORESTS["outputs"]()
        assert_agrees(wp.compile(forest, target=target), forest, rows(forest, 700, 7, "float32"))

    def test_a_target_object(self):
        tvm = pytest.importorskip("tvm")
        forest = FORESTS["linear"]()
        target = tvm.target.Target({"kind": "llvm", "mcpu": "x86-64-v3"})
        predictor = wp.compile(forest, target=target, strategy="tree_traversal")
        assert predictor.inspect()["target"]["cpu"] == "x86-64-v3"
        assert_agrees(predictor, forest, rows(forest, 100, 7))


def test_every_error_is_ours(forest):
    for error in (InputError, StrategyError, TargetError, UnsupportedModelError):
        assert issubclass(error, WoodpeckerError) and issubclass(error, ValueError)
    with pytest.raises(InputError, match="num_threads"):
        wp.compile(forest, num_threads=0)
