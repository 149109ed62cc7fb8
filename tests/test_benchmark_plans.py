"""What the benchmark suite compiles: the defaults, whatever tuning records there are; `tuned` stands apart."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from benchmarks.contestants import resolve
from benchmarks.report import plan_lines
from benchmarks.shapes import Info, Shape
from benchmarks.stats import summarise
from benchmarks.studies.runner import Settings, header
from benchmarks.studies.timing import compile_all
from tests.gallery import grown
from tests.tuning_support import record
from woodpecker.errors import StrategyError
from woodpecker.tuning import records
from woodpecker.tuning.logs import DEFAULTS

FOREST = grown(1, 2, 2, dtype=np.float32)


@pytest.fixture
def tuned_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record for FOREST where `compile` looks by itself."""
    records.append(tmp_path / "logs", record(FOREST))
    monkeypatch.setenv("WOODPECKER_TUNING_LOGS", str(tmp_path / "logs"))


def built(name: str, folder: Path) -> wp.Predictor:
    shape = Shape("toy", "A toy", "toy", "regression", FOREST.n_features, 1, {})
    path = folder / "model.pkl"
    path.write_bytes(pickle.dumps(FOREST))
    info, contestant = Info(shape, path, path, 0), resolve(name)
    assert contestant.build is not None
    contestant.build(info, contestant.read(info), folder)
    return wp.load(folder / "model.so")


@pytest.mark.full
@pytest.mark.usefixtures("tuned_home")
def test_records_change_the_tuned_contestant_only(tmp_path: Path) -> None:
    assert built("woodpecker:tuned", tmp_path).inspect()["tuning"]["from"] == "this model"
    assert built("woodpecker:auto", tmp_path).inspect()["tuning"]["from"] == DEFAULTS


@pytest.mark.usefixtures("tuned_home")
def test_records_change_no_study() -> None:
    compiled = compile_all(FOREST, (), lambda one: None)
    assert compiled.programs["auto"].inspect()["tuning"]["from"] == DEFAULTS


def test_tuned_is_refused_where_no_record_applies(tmp_path: Path) -> None:
    with pytest.raises(StrategyError, match="no tuning record applies"):
        built("woodpecker:tuned", tmp_path)


def test_results_say_so() -> None:
    assert header("regret", Settings())["tuning_logs"] == []
    assert "no tuning record is used" in plan_lines({"tuning_logs": []})[0]
    assert plan_lines({}) == [], "results that were made before they said it"


def test_tuned_is_no_strategy_that_auto_could_have_chosen() -> None:
    one = {"kind": "woodpecker", "status": "ok", "ns_per_row": [10.0]}
    contestants = {"woodpecker:a": one, "woodpecker:auto": one, "woodpecker:tuned": one | {"ns_per_row": [5.0]}}
    found = summarise({"contestants": contestants})
    assert (found["best"], found["auto"], found["regret"]) == ("woodpecker:a", "woodpecker:auto", 0.0)
