"""Artifacts that several test files share."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker.forest import Forest, Method

from .gallery import grown


@pytest.fixture(scope="module", name="forest")
def forest_fixture() -> Forest:
    return grown(31, 8, 4, dtype=np.float32, base_score=0.5, methods={"predict": Method("value", "xgb_sigmoid")})


@pytest.fixture(scope="module", name="saved")
def saved_fixture(forest, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("artifact") / "model.so"
    wp.compile(forest, strategy="tree_traversal").save(path)
    return path


@pytest.fixture(scope="module", name="stump")
def stump_fixture() -> wp.Predictor:
    tree = {"feature": 0, "op": "<", "threshold": 0.5, "left": {"value": 1.0}, "right": {"value": 2.0}}
    return wp.compile(Forest.from_nested([tree], 2), strategy="gemm")


@pytest.fixture(name="copy")
def copy_fixture(saved, tmp_path) -> Path:
    return Path(shutil.copy(saved, tmp_path / "copy.so"))
