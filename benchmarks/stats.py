"""From the times of interleaved rounds to the figures of the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .contestants import AUTO, LIBRARY, PEER, TUNED, WOODPECKER

Times = Sequence[float | None]
"""ns per row in each round; None where a contestant sat a round out."""


def median(times: Times) -> float | None:
    taken = [t for t in times if t is not None]
    return float(np.median(taken)) if taken else None


def quartiles(times: Times) -> tuple[float, float] | None:
    taken = [t for t in times if t is not None]
    return (float(np.percentile(taken, 25)), float(np.percentile(taken, 75))) if taken else None


def rounds_to_join(rounds: int, most: int) -> frozenset[int]:
    """Which of ``rounds`` a contestant joins that has time for ``most``: evenly spread, the first and last among them.

    One that can join k rounds joins the same ones as every other that can join k, so that they are compared within
    rounds.
    """
    if most >= rounds:
        return frozenset(range(rounds))
    if most <= 1:
        return frozenset([0])
    return frozenset(round(i * (rounds - 1) / (most - 1)) for i in range(most))


def ratio(reference: Times, times: Times) -> float | None:
    """How many times faster ``times`` are: the median, over the rounds that both joined, of the ratio in the round."""
    both = [r / t for r, t in zip(reference, times, strict=True) if r is not None and t is not None]
    return float(np.median(both)) if both else None


def geometric_mean(values: Iterable[float]) -> float | None:
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs)) if logs else None


def summarise(cell: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one shape and batch.

    Args:
        cell: As `benchmarks.cell.measure` returns it.

    Returns:
        "library", "best_peer", "best", "auto": names of contestants, or None. A peer is best by its median; the library
        counts as a peer; "best" is a strategy, not `auto` or `tuned`. "figures": name -> "ns_per_row", "low", "high"
        (quartiles), "vs_peer", "vs_library" (ratios; above 1 is faster). "regret": of `auto` against the best strategy,
        0.0 where it is the best.
    """
    timed = {n: c for n, c in cell["contestants"].items() if c["status"] == "ok"}
    medians = {n: median(c["ns_per_row"]) for n, c in timed.items()}

    def fastest(*kinds: str) -> str | None:
        names = [n for n, c in timed.items() if c["kind"] in kinds and medians[n] is not None and n not in plans]
        return min(names, key=lambda n: medians[n] or math.inf) if names else None

    plans = (f"{WOODPECKER}:{AUTO}", f"{WOODPECKER}:{TUNED}")
    library = fastest(LIBRARY)
    peer = fastest(LIBRARY, PEER)
    best = fastest(WOODPECKER)
    auto = plans[0] if plans[0] in timed else None
    figures = {}
    for name, contestant in timed.items():
        spread = quartiles(contestant["ns_per_row"])
        figures[name] = {
            "ns_per_row": medians[name],
            "low": spread and spread[0],
            "high": spread and spread[1],
            "vs_peer": ratio(timed[peer]["ns_per_row"], contestant["ns_per_row"]) if peer else None,
            "vs_library": ratio(timed[library]["ns_per_row"], contestant["ns_per_row"]) if library else None,
        }
    regret = None
    if auto and best:
        slower = ratio(timed[auto]["ns_per_row"], timed[best]["ns_per_row"])
        regret = None if slower is None else max(slower - 1.0, 0.0)
    return {"library": library, "best_peer": peer, "best": best, "auto": auto, "figures": figures, "regret": regret}
