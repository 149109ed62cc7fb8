"""Wrong uses that would give wrong numbers, hang, or end in an error of no type."""

from __future__ import annotations

import dataclasses
import multiprocessing

import numpy as np
import pytest

import woodpecker as wp
from woodpecker.errors import InputError, InvalidModelError, StrategyError
from woodpecker.forest import Method, select_trees
from woodpecker.frontend import to_forest
from woodpecker.nested import from_nested
from woodpecker.relay_ops import bitslice
from woodpecker.verify import verify

from .gallery import grown, leaf, split
from .support import assert_bits_equal


def forest():
    return grown(1, 40, 4, n_features=4, dtype=np.float32)


def _predict_in_child(predictor, X, queue):
    queue.put(predictor.predict_raw(X))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_predicts_without_the_parents_threads():
    predictor = wp.compile(forest(), num_threads=4)
    X = np.random.default_rng(0).normal(size=(20_000, 4)).astype(np.float32)
    want = predictor.predict_raw(X)  # starts the parent's workers
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_predict_in_child, args=(predictor, X, queue))
    child.start()
    try:
        assert_bits_equal(queue.get(timeout=60), want)
    finally:
        child.kill()
        child.join()


def test_out_must_not_share_memory_with_the_rows():
    predictor = wp.compile(grown(2, 5, 3, n_features=1, dtype=np.float32))
    buffer = np.zeros((101, 1), np.float32)
    with pytest.raises(InputError, match="shares memory with X"):
        predictor.predict_raw(buffer[:-1], out=buffer[1:])


def test_out_of_one_column_with_any_strides():
    predictor = wp.compile(forest())
    X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    out = np.empty(30, np.float32)[:, None]
    assert predictor.predict_raw(X, out=out) is out
    assert_bits_equal(out, predictor.predict_raw(X))


@pytest.mark.parametrize("trees", [[True, False], [40], [-1], [0.5], [[0]], ["0"]])
def test_select_trees_takes_tree_numbers_only(trees):
    with pytest.raises(InputError, match="from 0 to 39"):
        select_trees(forest(), trees)


@pytest.mark.parametrize("name", ["isolation_score", ["exp"], "nonsense", 3])
def test_post_transform_must_be_complete(name):
    with pytest.raises(InputError, match="unknown post_transform"):
        wp.compile(forest(), post_transform=name)


@pytest.mark.parametrize("bad", [(0.5, 3, 7), (0, 1.5), (1,), 3])
def test_iteration_range_is_two_integers(bad):
    with pytest.raises(InputError, match="two integers"):
        to_forest(forest(), iteration_range=bad)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_score": np.float32(0.5)}, "base_score must be a numpy array"),
        ({"values": [[1.0]]}, "values must be a numpy array"),
        ({"missing_value": "x"}, "missing_value must be a number"),
        ({"zero_band": None}, "zero_band must be a number"),
        ({"source": {"when": float("nan")}}, "JSON"),
        ({"source": {"what": object()}}, "JSON"),
        ({"methods": {"predict": Method("label")}}, "returns labels"),
    ],
)
def test_verify_checks_types_first(changes, message):
    with pytest.raises(InvalidModelError, match=message):
        verify(dataclasses.replace(forest(), **changes))


@pytest.mark.parametrize("node", [{"feature": 1.7}, {"feature": 2**40}])
def test_nested_truncates_nothing(node):
    tree = split(0, 0.5, leaf(1.0), leaf(2.0)) | node
    with pytest.raises(InvalidModelError):
        from_nested([tree], 3)


def test_mask_rows_beyond_sixteen_bits_are_refused(monkeypatch):
    monkeypatch.setattr(bitslice, "applicable", lambda canonical, options: None)
    monkeypatch.setattr(bitslice, "MAX_ROWS", 60)
    with pytest.raises(StrategyError, match="mask rows"):
        wp.compile(forest(), strategy="bitslice")
