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
