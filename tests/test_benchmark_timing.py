"""Inside of a study's worker: a wrong answer is found, and turns are taken in turn."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from benchmarks.shapes import Pool
from benchmarks.studies import timing
from benchmarks.studies.generate import balanced_rows, forest
from benchmarks.studies.runner import Settings
from woodpecker import reference
from woodpecker.forest import Forest

FAST = Settings(batches=(1, 8), rounds=3, turn_seconds=0.0005, check_rows=40)


class Toy:
    """A predictor of one tree's reference answers, changed somewhere."""

    def __init__(self, made: Forest, raw: Any = None, leaves: Any = None) -> None:
        self.made, self.raw, self.leaves = made, raw, leaves

    def predict_raw(self, X: np.ndarray) -> np.ndarray:
        scores = reference.predict_raw(self.made, X)
        return scores if self.raw is None else self.raw(scores)

    def apply(self, X: np.ndarray) -> np.ndarray:
        ids = reference.apply(self.made, X)
        return ids if self.leaves is None else self.leaves(ids)


def last_bit(scores: np.ndarray) -> np.ndarray:
    if len(scores) > 1:
        scores[-1] = np.nextafter(scores[-1], np.float32(np.inf))
    return scores


def test_one_wrong_bit_is_found() -> None:
    made = forest(2, 4, 3)
    check = timing.reference_check(made, balanced_rows(60, 3, 1))
    assert check(Toy(made)) is None
    assert "raw scores: 1 of 60 differ" in str(check(Toy(made, raw=last_bit)))
    assert "leaf ids: 120 of 120 differ" in str(check(Toy(made, leaves=lambda ids: ids + 1)))


@pytest.mark.full
def test_turns_are_taken_in_turn_on_the_same_rows() -> None:
    pool = Pool(np.arange(64, dtype=np.float32).reshape(-1, 1))
    calls: list[tuple[str, float]] = []

    def named(name: str) -> Any:
        return lambda X: calls.append((name, float(X[0, 0])))

    settings = dataclasses.replace(FAST, rounds=3, turn_seconds=1e-9)
    found = timing.take_turns({name: (named(name), pool) for name in "abc"}, 4, settings, ())
    assert {name: len(times) for name, times in found.items()} == {"a": 3, "b": 3, "c": 3}
    timed = calls[9:]
    assert [name for name, _ in timed] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert all(len({row for _, row in timed[i : i + 3]}) == 1 for i in (0, 3, 6)), "one round, one batch of rows"
    assert len({row for _, row in timed}) == 3, "the next round has others"


def test_who_takes_too_long_is_not_timed() -> None:
    pool = Pool(np.zeros((8, 1), np.float32))
    settings = dataclasses.replace(FAST, call_seconds=0.0)
    programs = {name: (lambda X: None, pool) for name in ("auto", "slow")}
    assert list(timing.take_turns(programs, 1, settings)) == ["auto"]
    assert timing.take_turns({"slow": programs["slow"]}, 1, settings) == {}


def test_only_a_hopeless_gemm_is_left_out() -> None:
    def step(**considered: Any) -> dict[str, Any]:
        return {"considered": considered}

    assert timing._absurd([step(gemm=3100.0, bitslice=100.0)]) == {"gemm": "its estimate is 31 times the lowest"}
    assert timing._absurd([step(gemm=3100.0, bitslice=100.0), step(gemm=9.0, bitslice=10.0)]) == {}
    assert timing._absurd([step(gemm="too many leaves", bitslice=100.0), step()]) == {}
