"""The ladder: trained models of every library, through every strategy, to the library's own bits.

interpreter = library is proved by the tests of the frontends; here strategy = interpreter, strategy = library, and
artifact = strategy. The fast tier takes a sample, the full tier every model of the zoos with FULL_ROWS rows.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import reference
from woodpecker.forest import Forest, tree_leaves

from .gallery import compiled, strategies
from .support import FULL_ROWS, SHORT, assert_bits_equal, boundary_rows, in_turn
from .zoo import Case

ZOOS = {"xgboost": "zoo_xgboost", "lightgbm": "zoo_lightgbm", "sklearn": "zoo_sklearn"}
STEP = {"xgboost": 180, "lightgbm": 210, "sklearn": 240}
ROWS = FULL_ROWS
INTERPRETED = 2_000
GEMM_WORK = 3e9
"""Matrix entries times rows, beyond which gemm gets fewer rows."""


def cases(library: str) -> list[Case]:
    pytest.importorskip(library)
    return importlib.import_module(f"tests.{ZOOS[library]}").CASES


def params(step: dict[str, int], offset: int = 0) -> list[Any]:
    found = []
    for library in ZOOS:
        try:
            zoo = importlib.import_module(f"tests.{ZOOS[library]}").CASES
        except ImportError:
            continue
        found += [pytest.param(case, id=f"{library}-{case.name}") for case in zoo[offset :: step[library]]]
    return found


def forest_of(case: Case) -> tuple[Any, Forest]:
    model = case.make()
    return model, wp.from_model(model, **dict(case.options))


def affordable(forest: Forest, strategy: str, n: int) -> int:
    """How many of n rows a strategy gets: all, but for path matrices that would take minutes."""
    if strategy != "gemm":
        return n
    leaves = int(tree_leaves(forest).max(initial=1))
    return min(n, max(200, int(GEMM_WORK / (forest.n_trees * leaves**2 + 1))))


def library_rows(case: Case, model: Any, forest: Forest, n: int, dtype: str) -> tuple[np.ndarray, Any, Any]:
    """Rows at the thresholds with the library's own raw scores, and its leaf ids where it has them."""
    X = boundary_rows(forest, n, 17, dtype, case.infinities)
    leaves = case.leaves(model, X)
    return X, case.raw(model, X), None if leaves is None else np.asarray(leaves).reshape(n, forest.n_trees)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("half", [0, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("case", params(STEP, 7))
def test_sample_through_every_strategy(case, half):
    model, forest = forest_of(case)
    X, raw, ids = library_rows(case, model, forest, 600, case.dtypes[-1])
    assert_bits_equal(reference.predict_raw(forest, X), raw, "interpreter")
    want = reference.apply(forest, X)
    if ids is not None:
        np.testing.assert_array_equal(want, ids)
    for strategy in strategies(forest)[(len(case.name) + half) % 2 :: 2]:
        predictor = compiled(forest, strategy)
        assert_bits_equal(predictor.predict_raw(X), raw, strategy)
        if strategy in ("tree_traversal", "bitslice", "scan"):
            np.testing.assert_array_equal(predictor.apply(X), want, strategy)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("case", params({"xgboost": 400, "lightgbm": 400, "sklearn": 480}, 45))
def test_sample_as_artifacts(case, tmp_path):
    model, forest = forest_of(case)
    wp.compile(model, **dict(case.options)).save(tmp_path / "m.so")
    loaded = wp.load(tmp_path / "m.so")
    for dtype in case.dtypes:
        X, raw, ids = library_rows(case, model, forest, 1500, dtype)
        assert_bits_equal(loaded.predict_raw(X), raw)
        np.testing.assert_array_equal(loaded.apply(X), reference.apply(forest, X) if ids is None else ids)


@pytest.mark.full
@pytest.mark.parametrize("case", params(dict.fromkeys(ZOOS, 1)))
def test_every_model_through_every_strategy(case):
    model, forest = forest_of(case)
    for dtype in case.dtypes:
        X, raw, ids = library_rows(case, model, forest, ROWS, dtype)
        head = X[:INTERPRETED]
        assert_bits_equal(reference.predict_raw(forest, head), raw[:INTERPRETED], "interpreter")
        interpreted = reference.apply(forest, head)
        # Rows of the other dtype are read by code that strategies share: one strategy at a time sees them.
        names = in_turn(strategies(forest), case.name)
        if dtype != case.dtypes[-1]:
            names = [names[len(case.name) % len(names)]]
        for strategy in names:
            predictor = compiled(forest, strategy)
            n = affordable(forest, strategy, ROWS)
            assert_bits_equal(predictor.predict_raw(X[:n]), raw[:n], f"{strategy} {dtype}")
            if dtype == case.dtypes[-1]:
                got = predictor.apply(X[: min(n, ROWS // 4)])
                np.testing.assert_array_equal(got[:INTERPRETED], interpreted[: len(got)], strategy)
                if ids is not None:
                    np.testing.assert_array_equal(got, ids[: len(got)], strategy)


@pytest.mark.full
@pytest.mark.parametrize("case", params({"xgboost": 20, "lightgbm": 20, "sklearn": 24}, 9 if SHORT else 3))
def test_many_models_as_artifacts(case, tmp_path):
    model, forest = forest_of(case)
    for i, strategy in enumerate(in_turn(strategies(forest), case.name)):
        wp.compile(forest, strategy=strategy).save(tmp_path / f"{i}.so")
        loaded = wp.load(tmp_path / f"{i}.so", num_threads=2)
        X, raw, _ = library_rows(case, model, forest, 5_000, case.dtypes[i % len(case.dtypes)])
        assert_bits_equal(loaded.predict_raw(X), raw, strategy)
        np.testing.assert_array_equal(loaded.apply(X[:INTERPRETED]), reference.apply(forest, X[:INTERPRETED]))


def test_zoos_are_there():
    """The ladder is no ladder without them: 300 models a library, where the libraries are installed."""
    for library in ZOOS:
        assert len(cases(library)) >= 300
