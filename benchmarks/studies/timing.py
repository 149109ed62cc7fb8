"""Inside of a worker: compile, check, and time several programs in turns on the same fresh rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..check import unequal_bits, unequal_leaves
from ..contestants import AUTO, NO_LOGS, Predict, threshold_rows
from ..peers import LIBRARY_ITSELF
from ..shapes import Info, Pool
from ..worker import time_calls
from .runner import Settings

ABSURD = 30.0
"""`gemm` is left out where its own estimate is this many times the cheapest: its products would take minutes."""
CHUNK = 1024
"""Rows of one call where answers are compared: what most strategies take at once, and a rest."""
LONE = 16
"""Rows that are compared in calls of one."""


@dataclass(frozen=True)
class Compiled:
    """One model by `auto` and by other strategies.

    Args:
        programs: Name -> predictor, of those whose answers are right.
        strategies: Name -> "status" ("ok", "left out", "refused", "wrong"), "reason", "compile_seconds", "steps": its
            plan as [fewest rows, strategy, options] each. The same steps are the same code.
        plan: The steps that `auto` chose, as manifests have them.
    """

    programs: Mapping[str, Any]
    strategies: Mapping[str, dict[str, Any]]
    plan: Sequence[Mapping[str, Any]]

    def outcome(self) -> dict[str, Any]:
        """ "status" and "reason" of the cell, "strategies" and "plan"."""
        wrong = [f"{name}: {one['reason']}" for name, one in self.strategies.items() if one["status"] == "wrong"]
        shown = ("min_rows", "strategy", "options", "reason", "considered")
        return {
            "status": "wrong" if wrong else "ok",
            "reason": "; ".join(wrong) or None,
            "plan": [{key: step[key] for key in shown} for step in self.plan],
            "strategies": dict(self.strategies),
        }


def compile_all(model: Any, names: Iterable[str], differs: Callable[[Any], str | None]) -> Compiled:
    """Compile a model with `auto` and each strategy, for one thread, and check every one.

    Args:
        model: What `woodpecker.compile` takes.
        names: Strategies beside `auto`.
        differs: What is wrong with a predictor's answers, or None.
    """
    import woodpecker as wp
    from woodpecker.errors import StrategyError

    strategies: dict[str, dict[str, Any]] = {}
    programs: dict[str, Any] = {}
    plan: Sequence[Mapping[str, Any]] = ()
    left_out: dict[str, str] = {}
    for name in (AUTO, *names):
        if name in left_out:
            strategies[name] = {"status": "left out", "reason": left_out[name]}
            continue
        begin = time.perf_counter()
        try:
            one = wp.compile(model, strategy=name, num_threads=1, tuning_logs=NO_LOGS)
        except StrategyError as refusal:
            strategies[name] = {"status": "refused", "reason": str(refusal)}
            continue
        record: dict[str, Any] = {"status": "ok", "reason": None, "compile_seconds": time.perf_counter() - begin}
        record["steps"] = [[s["min_rows"], s["strategy"], s["options"]] for s in one.inspect()["plan"]]
        found = differs(one)
        if found is None:
            programs[name] = one
        else:
            record |= {"status": "wrong", "reason": found}
        strategies[name] = record
        if name == AUTO:
            plan = one.inspect()["plan"]
            left_out = _absurd(plan)
    return Compiled(programs, strategies, plan)


def strategy_names(limits: Settings) -> tuple[str, ...]:
    """The strategies to compare: those of the settings, else every one that is installed."""
    from woodpecker.relay_ops.plan import STRATEGIES

    return limits.strategies or tuple(STRATEGIES)


def _absurd(plan: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """`gemm` and why it is left out, where every step's estimate for it is hopeless."""
    factors = []
    for step in plan:
        costs = {name: cost for name, cost in step["considered"].items() if isinstance(cost, int | float)}
        if "gemm" in costs:
            factors.append(costs["gemm"] / max(min(costs.values()), 1e-9))
    if factors and min(factors) > ABSURD:
        return {"gemm": f"its estimate is {min(factors):,.0f} times the lowest"}
    return {}


def take_turns(
    programs: Mapping[str, tuple[Predict, Pool]], batch: int, limits: Settings, always: Sequence[str] = (AUTO,)
) -> dict[str, list[float]]:
    """ns per row of each program in each round: A B C, B C A, C A B, ... on rows of the same numbers within a round.

    Who begins changes, because what ran before leaves its tables in the caches. A program of which one call takes
    longer than the settings allow is left out, unless it is one of ``always``.
    """
    expected = {name: _calibrate(predict, pool, batch) for name, (predict, pool) in programs.items()}
    names = [name for name in programs if name in always or expected[name] < limits.call_seconds * 1e9]
    found: dict[str, list[float]] = {name: [] for name in names}
    for r in range(limits.rounds):
        start = r % max(len(names), 1)
        for name in names[start:] + names[:start]:
            predict, pool = programs[name]
            turn = (batch, limits.turn_seconds, r * 101, expected[name], limits.clock)
            expected[name] = float(np.median(time_calls(predict, pool, *turn)["ns"]))
            found[name].append(expected[name] / batch)
    return found


def _calibrate(predict: Predict, pool: Pool, batch: int) -> float:
    """ns of one call after a first one, roughly."""
    views = pool.batches(batch, 3, 0)
    predict(views[0])
    begin = time.perf_counter_ns()
    for view in views[1:]:
        predict(view)
    return (time.perf_counter_ns() - begin) / 2


def library_check(info: Info, model: Any, pool: Pool, limits: Settings) -> Callable[[Any], str | None]:
    """A function of a predictor: where its raw scores or leaf ids differ from the library's, or None.

    It compares ordinary rows of the pool, and rows at and next to the model's own thresholds.
    """
    rows = {
        "rows": pool.X[: limits.check_rows],
        "threshold rows": threshold_rows(model, limits.threshold_rows, 3, info.shape.dtype),
    }
    theirs = LIBRARY_ITSELF.read(info)
    raw = LIBRARY_ITSELF.load(info, theirs, Path())
    # scikit-learn's HistGradientBoosting has no leaf ids.
    has_leaves = info.shape.library != "sklearn" or hasattr(theirs, "apply")
    leaves = LIBRARY_ITSELF.leaves(info, theirs, Path()) if has_leaves and LIBRARY_ITSELF.leaves else None
    wanted = {name: (np.asarray(raw(X)), None if leaves is None else np.asarray(leaves(X))) for name, X in rows.items()}
    return lambda predictor: difference(predictor, rows, wanted)


def reference_check(forest: Any, X: np.ndarray) -> Callable[[Any], str | None]:
    """The same against `woodpecker.reference`, for forests that no library trained."""
    from woodpecker import reference

    wanted = {"rows": (reference.predict_raw(forest, X), reference.apply(forest, X))}
    return lambda predictor: difference(predictor, {"rows": X}, wanted)


def difference(
    predictor: Any, rows: Mapping[str, np.ndarray], wanted: Mapping[str, tuple[np.ndarray, np.ndarray | None]]
) -> str | None:
    """Where raw scores or leaf ids differ from those wanted, or None; in calls of one row, then of CHUNK."""
    for name, X in rows.items():
        lone = min(LONE, len(X))
        calls = [X[i : i + 1] for i in range(lone)] + [X[i : i + CHUNK] for i in range(lone, len(X), CHUNK)]
        raw, leaves = wanted[name]
        found = unequal_bits(
            np.concatenate([predictor.predict_raw(call) for call in calls]), raw.reshape(len(X), -1), "raw scores"
        )
        if found is None and leaves is not None:
            found = unequal_leaves(np.concatenate([predictor.apply(call) for call in calls]), leaves)
        if found is not None:
            return f"{name}: {found}"
    return None
