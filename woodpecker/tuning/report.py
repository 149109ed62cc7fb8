"""What a job found, for people: plans as text, a table, and one self-contained HTML page with a plot of the search."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..runtime.candidates import key, score, succeeded
from .offline import TuningRecords
from .search import Trial, best_times

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 860, 380, 70, 40, 16
COLOURS = ("#3465a4", "#cc5500", "#4e9a06", "#75507b", "#a40000", "#008b8b", "#8f5902", "#555753")
TABLE_ROWS = 12


def plan_text(steps: Sequence[Mapping[str, Any]]) -> str:
    """A plan in one line."""
    parts = []
    for step in steps:
        options = ", ".join(f"{k}={v}" for k, v in sorted(step["options"].items()))
        start = f"from {step['min_rows']} rows " if step["min_rows"] else ""
        parts.append(f"{start}{step['strategy']}({options})")
    return "; ".join(parts)


def default_trial(result: TuningRecords) -> Trial | None:
    wanted = key(result.record.default)
    return next((t for t in succeeded(result.trials) if key(t["plan"]) == wanted), None)


def ranking(result: TuningRecords) -> list[tuple[Trial, float]]:
    """(trial, how many times as fast as the default), the fastest first, as the search measured them."""
    default = default_trial(result)
    if default is None:
        return []
    done = [(trial, 1 / score(trial, default)) for trial in succeeded(result.trials)]
    return sorted(done, key=lambda entry: -entry[1])


def trials_to(result: TuningRecords, share: float) -> int | None:
    """How many trials reached this share of the gain that the search saw in the end; None where it saw none."""
    default = default_trial(result)
    if default is None:
        return None
    done = {id(t) for t in succeeded(result.trials)}
    gains = [1 / score(t, default) - 1 if id(t) in done else 0.0 for t in result.trials]
    if max(gains) <= 0:
        return None
    return 1 + next(i for i, gain in enumerate(gains) if gain >= share * max(gains))


def failures(result: TuningRecords) -> dict[str, int]:
    """Status -> how many trials ended so, without those that were measured."""
    counts: dict[str, int] = {}
    for trial in result.trials:
        if trial["status"] != "ok":
            counts[trial["status"]] = counts.get(trial["status"], 0) + 1
    return counts


def page(result: TuningRecords) -> str:
    """The report as HTML: no script, nothing to load."""
    record = result.record
    facts = {
        "model": record.model,
        "target": record.target.name,
        "rows": f"{record.rows}, {record.dtype}",
        "trials": f"{record.trials}, seed {record.seed}",
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(record.versions.items())),
        "plan": plan_text(record.plan),
        "default": plan_text(record.default),
        "gain": f"{record.gain:.3f} times as fast as the default ({result.verdict})",
        "date": record.date,
    }
    if (enough := trials_to(result, 0.95)) is not None:
        facts["pace"] = f"95 % of the gain after {enough} of {len(result.trials)} trials, as the search measured it"
    if failed := failures(result):
        facts["not measured"] = ", ".join(f"{count} {status}" for status, count in sorted(failed.items()))
    sizes, before, after = sorted(record.ns_per_row, key=int), record.default_ns_per_row, record.ns_per_row
    confirmed = _table(
        ["rows per call", "default, ns/row", "chosen, ns/row", "times as fast"],
        [[f"{int(b):,}", f"{before[b]:,.1f}", f"{after[b]:,.1f}", f"{before[b] / after[b]:.2f}"] for b in sizes],
    )
    tried = _table(
        ["plan", "times as fast", *(f"ns/row at {int(b):,}" for b in sizes)],
        [
            [plan_text(trial["plan"]), f"{gain:.2f}", *(f"{trial['ns'][b]:,.1f}" for b in sizes)]
            for trial, gain in ranking(result)[:TABLE_ROWS]
        ],
    )
    rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in facts.items())
    plots = "".join(f"<h2>Search, {int(b):,} rows per call</h2>{plot(result.trials, b)}" for b in sizes)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>woodpecker tune</title><style>'
        "body{font:14px sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse}"
        "td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left;font-weight:normal}"
        f"</style></head><body><h1>Tuning of {html.escape(record.model)}</h1><table>{rows}</table>"
        f"<h2>Paired run</h2>{confirmed}<h2>The best, as the search measured them</h2>{tried}{plots}</body></html>\n"
    )


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in body]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def plot(trials: Sequence[Trial], batch: str) -> str:
    """Inline SVG: a point a trial, coloured by the strategy of most rows, and the best time so far."""
    points = [(i, t["ns"][batch], t["plan"][-1]["strategy"]) for i, t in enumerate(trials) if t["status"] == "ok"]
    if not points:
        return "<p>nothing was measured</p>"
    lowest, highest = min(p[1] for p in points), max(p[1] for p in points)
    low, high = math.log10(lowest) - 0.05, math.log10(highest) + 0.05

    def x(i: float) -> float:
        return round(LEFT + (WIDTH - LEFT - 10) * (i + 0.5) / max(len(trials), 1), 1)

    def y(ns: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (high - math.log10(ns)) / (high - low), 1)

    names = sorted({p[2] for p in points})
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" xmlns="http://www.w3.org/2000/svg" font-size="12">']
    for tick in _ticks(lowest, highest):
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y(tick)}" y2="{y(tick)}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4}" text-anchor="end">{tick:,.4g}</text>')
    path, best = [], math.inf
    for i, ns, _ in points:
        best = min(best, ns)
        path.append(f"{x(i)},{y(best)}")
    parts.append(f'<polyline points="{" ".join(path)}" fill="none" stroke="#888"/>')
    for i, ns, name in points:
        title = html.escape(f"trial {i + 1}: {ns:,.1f} ns/row, {plan_text(trials[i]['plan'])}")
        place = f'cx="{x(i)}" cy="{y(ns)}"'
        parts.append(f'<circle {place} r="3.5" fill="{colour[name]}"><title>{title}</title></circle>')
    for i, name in enumerate(names):
        at = LEFT + 10 + 190 * i
        parts.append(f'<circle cx="{at}" cy="{HEIGHT - 8}" r="4" fill="{colour[name]}"/>')
        parts.append(f'<text x="{at + 8}" y="{HEIGHT - 4}">{html.escape(name)}</text>')
    caption = f"trial 1 to {len(trials)}; ns/row, and the best so far"
    parts.append(f'<text x="{LEFT}" y="{HEIGHT - 22}">{caption}</text></svg>')
    return "".join(parts)


def _ticks(low: float, high: float) -> list[float]:
    """Numbers 1, 2 and 5 times a power of ten in a range, or its ends where there are none."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    found = [m * 10.0**e for e in range(first, last + 1) for m in (1, 2, 5)]
    return [tick for tick in found if low <= tick <= high] or sorted({low, high})


def progress_text(trials: Sequence[Trial]) -> str:
    """The best times so far, at the smallest and the largest batch size."""
    best = best_times(trials)
    if not best:
        return "nothing measured yet"
    sizes = sorted(best, key=int)
    ends = dict.fromkeys([sizes[0], sizes[-1]])
    return "best " + ", ".join(f"{best[b]:,.0f} ns/row at {int(b):,}" for b in ends)
