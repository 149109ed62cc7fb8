"""The examples run, and find nothing that differs."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from woodpecker.relay_ops.plan import STRATEGIES

from .support import SHORT

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def flights():
    return load("flights")


def check_table(out: str, strategies: tuple[str, ...]) -> None:
    """Four models, one line for each strategy, each with zeros or with the reason of a refusal."""
    lines = [line for line in out.splitlines() if line.startswith(("xgboost ", "lightgbm ", "scikit-learn "))]
    assert len(lines) == 4 * len(strategies)
    for line in lines:
        if " refused: " not in line:
            ids, bits = line[64:82].split()
            assert bits == "0"
            assert ids == ("none" if "HistGradientBoosting" in line else "0")
    assert "every leaf id and bit is equal" in out


def test_flights_has_every_strategy(flights):
    assert set(flights.STRATEGIES) >= set(STRATEGIES)


@pytest.mark.full
@pytest.mark.skipif(SHORT, reason="the short form goes with .ci/run, which runs the example itself")
def test_flights_on_a_few_rows(flights, capsys, tmp_path):
    assert flights.main(["--rows", "2000", "--trees", "8", "--out", str(tmp_path / "out")]) == 0
    check_table(capsys.readouterr().out, flights.STRATEGIES)
    assert len(list((tmp_path / "out").glob("*.so"))) >= 8


@pytest.mark.full
@pytest.mark.skipif(SHORT, reason="the short form goes with .ci/run, which runs the example itself")
def test_flights_on_more_rows(flights, capsys):
    assert flights.main(["--rows", "40000", "--trees", "40"]) == 0
    out = capsys.readouterr().out
    check_table(out, flights.STRATEGIES)
    assert " refused: " in out


@pytest.mark.full
def test_flights_counts_an_answer_that_differs(flights, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(flights, "STRATEGIES", ("auto",))
    xgb = flights.train(*flights.read_flights(1200), 2)[0]

    def one_bit_off(rows):
        raw = xgb.raw(rows).copy()
        raw.view(np.uint32)[0] ^= 1
        return raw

    assert flights.compare(xgb, tmp_path) == 0
    assert flights.compare(dataclasses.replace(xgb, raw=one_bit_off), tmp_path) == 1
    assert flights.compare(dataclasses.replace(xgb, leaves=lambda rows: xgb.leaves(rows) + 1), tmp_path) == 600
    capsys.readouterr()


def test_flights_refuses_nonsense(flights, capsys):
    with pytest.raises(SystemExit) as stopped:
        flights.main(["--rows", "7"])
    assert stopped.value.code == 2
    assert "at least 1000" in capsys.readouterr().err


def test_third_party_library(capsys):
    assert load("third_party_library").main() == 0
    assert "0 of 10000 predictions differ" in capsys.readouterr().out
