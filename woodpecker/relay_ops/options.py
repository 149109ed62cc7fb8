"""Options of strategies: integers with a default and a range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import StrategyError


@dataclass(frozen=True)
class Option:
    """An integer option.

    Args:
        default: Its value where the user says nothing.
        low, high: The range, both included.
        help: What it is, for messages and docs.
    """

    default: int
    low: int
    high: int
    help: str


WALKS, FEW_WALKS, MAX_WALKS = 16, 8, 64
"""Walks in flight, by default, for few trees, and at most: each has a register, and code of its own."""
MAX_STEPS = 256
"""Steps of code in a walk's loop: it takes seconds to compile more."""
MANY_TREES = 32
"""From here on the time of a row is worth the code of more walks."""
WALKS_BYTES = 2**18
"""Trees that are walked together should stay in the second-level cache beside the rows."""
FEW_COLUMNS = 512
"""From more columns on, the column stage takes most of the time of a walk."""
SQUARE = 16
"""Rows that walk together and whose columns are transposed in registers: the lanes of the widest vectors."""
MAX_TREES = 32
"""Trees that a strategy evaluates together, at most; the last group is padded."""

IN_FLIGHT = {
    "interleave": Option(0, 0, 32, "rows that walk together; 0: by the forest"),
    "trees": Option(0, 0, MAX_TREES, "trees that a row walks together; 0: by the forest"),
}
"""The options of every walking strategy."""


def no_power_of_two(name: str, options: Mapping[str, int]) -> str | None:
    """Why a strategy can't have this option, if it can't."""
    value = options.get(name, 1)
    return f"{name} must be a power of two, found {value}" if value & (value - 1) else None


def too_many_walks(options: Mapping[str, int]) -> str | None:
    """Why a walking strategy can't have these options, if it can't."""
    walks = (options.get("interleave") or 1) * (options.get("trees") or 1)
    if walks > MAX_WALKS:
        return f"interleave * trees is {walks}; at most {MAX_WALKS} walks are in flight"
    steps = walks * options.get("unroll", 1)
    if steps > MAX_STEPS:
        return f"interleave * trees * unroll is {steps}; the limit is {MAX_STEPS}"
    return None


def in_flight(options: Mapping[str, int], n_trees: int, n_columns: int, tree_bytes: float) -> dict[str, int]:
    """The options of a walking strategy without zeros.

    A row walks as many trees together as stay in the cache, and rows fill up what is left: so a single row is as fast
    as it can be, and a batch reads each tree once. But where the column stage takes most of the time, so many rows walk
    together that it can be done by squares.
    """
    rows = options["interleave"]
    if not rows and options["trees"] <= 1 and n_columns > FEW_COLUMNS:
        rows = SQUARE
    walks = WALKS if n_trees >= MANY_TREES else FEW_WALKS
    fitting = min(n_trees, walks // max(rows, 1), WALKS_BYTES / max(tree_bytes, 1.0))
    trees = options["trees"] or 2 ** max(0, int(fitting).bit_length() - 1)
    return {**options, "trees": trees, "interleave": rows or max(1, walks // trees)}


def walks_space(n_trees: int) -> dict[str, tuple[int, ...]]:
    """option -> candidates of a walking strategy, for tuning."""
    powers = tuple(2**i for i in range(6))
    return {"interleave": powers, "trees": tuple(n for n in powers if n < 2 * max(n_trees, 1))}


def resolve(strategy: str, known: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, int]:
    """All options of a strategy, checked.

    Raises:
        StrategyError: an option is unknown (the message lists the known ones), no integer, or out of range.
    """
    for name, raw in given.items():
        if name not in known:
            listed = ", ".join(f"{k} ({o.help}; {o.low} to {o.high}, default {o.default})" for k, o in known.items())
            raise StrategyError(f"strategy {strategy!r} has no option {name!r}; its options: {listed or 'none'}")
        option = known[name]
        value = int(raw) if isinstance(raw, bool) else raw
        if not isinstance(value, int) or not option.low <= value <= option.high:
            raise StrategyError(
                f"option {name} of strategy {strategy!r} must be an integer from {option.low} to {option.high}, "
                f"found {value!r}"
            )
    return {name: int(given.get(name, option.default)) for name, option in known.items()}
