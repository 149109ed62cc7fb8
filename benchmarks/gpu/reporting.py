"""What `run` found, as Markdown: times, and how near they are to what the GPU could do at most."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .limits import limits

Lines = Sequence[Mapping[str, Any]]
BOUNDS = {"bandwidth": "of bandwidth", "wavefronts": "of wavefronts", "cycles": "of the estimate"}


def read(path: Path) -> list[dict[str, Any]]:
    """Lines of results; one that was cut short is left out."""
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def report(lines: Lines) -> str:
    """Tables of all models. Of figures that were measured again, the last ones count."""
    machines = [line["machine"] for line in lines if "machine" in line]
    if not machines:
        return "Nothing was run.\n"
    machine = machines[-1]
    text = [
        f"# {machine['gpu']}",
        "",
        f"{machine['arch']}, {machine['multiprocessors']} multiprocessors, {machine['GHz']:.2f} GHz at most; a copy in "
        f"its memory reads and writes {machine['copy_GB_per_s']:,.0f} GB/s.",
        "",
        "Shares are of limits: the bytes of rows and scores over that bandwidth; shared-memory wavefronts, and the",
        "cycles of the estimate that chooses plans, over the cycles of all multiprocessors. Both are estimates.",
    ]
    for model in dict.fromkeys(line["model"] for line in lines if "model" in line):
        text += ["", f"## {model}", "", *_model([line for line in lines if line.get("model") == model], machine)]
    if summary := list(_against_peers(lines)):
        text += ["", "## Against peers", "", *summary]
    return "\n".join(text) + "\n"


def _model(lines: Lines, machine: dict[str, Any]) -> Iterator[str]:
    ways = {line["way"]: line for line in lines if "wrong" in line}
    times = {(who(line), line["rows"], line["kind"]): line for line in lines if "kind" in line}
    bounds = {way: limits(machine, dict(line), line["row_bytes"]) for way, line in ways.items()}
    yield "| | rows | kind | µs a call | ns a row | GB/s | " + " | ".join(BOUNDS.values()) + " |"
    yield "|---|---:|---|---:|---:|---:|---:|---:|---:|"
    for (name, rows, kind), line in sorted(times.items(), key=lambda one: (one[0][1], one[1]["us"])):
        shares = (_share(bounds.get(name, {}).get(bound), line["ns_per_row"], kind) for bound in BOUNDS)
        figures = f"{line['us']:,.1f} | {line['ns_per_row']:,.3f} | {line['GB_per_s']:,.1f}"
        yield f"| {name} | {rows:,} | {kind} | {figures} | {' | '.join(shares)} |"
    yield ""
    for way, line in ways.items():
        if line["wrong"]:
            yield f"- **{way} is wrong**: {line['wrong']}"
    for peer, line in {line["peer"]: line for line in lines if "differs" in line}.items():
        told = line["differs"]
        verdict = f"wrong, so not timed: {told['reason']}" if told["reason"] else "near enough"
        yield f"- {peer} ({line['what']}): largest difference {told.get('max_abs', float('nan')):.3g}; {verdict}"
    for peer, line in {line["peer"]: line for line in lines if "absent" in line}.items():
        yield f"- {peer} is absent: {line['absent']}"
    for line in [line for line in lines if "tuning" in line][-1:]:
        yield f"- tuning: {_tuning(line['tuning'])}"


def who(line: Mapping[str, Any]) -> str:
    """Whose figures a line holds."""
    return str(line.get("way", line.get("peer")))


def _share(limit: float | None, ns: float, kind: str) -> str:
    return f"{limit / ns:.1%}" if limit is not None and kind == "resident" else ""


def _tuning(told: Any) -> str:
    if isinstance(told, str):
        return f"failed: {told}"
    failed = f", {len(told['not_ok'])} of them not to the end" if told["not_ok"] else ""
    return (
        f"{told['trials']} candidates{failed}; the best is {told['times_as_fast']:.2f} times as fast as the default: "
        f"{json.dumps(told['plan'])}. `woodpecker tune --import` judges it"
    )


def _against_peers(lines: Lines) -> Iterator[str]:
    """How many times as fast as each peer: calls with tensors, both, of the fastest way."""
    own: dict[tuple[str, int], float] = {}
    theirs: dict[tuple[str, str, int], float] = {}
    for line in (line for line in lines if "kind" in line):
        if line["kind"] == "torch":
            key = line["model"], line["rows"]
            own[key] = min(line["us"], own.get(key, line["us"]))
        elif line["kind"] == "peer":
            theirs[line["peer"], line["model"], line["rows"]] = line["us"]
    table = [
        f"| {peer} | {model} | {rows:,} | {us / own[model, rows]:.1f} |"
        for (peer, model, rows), us in theirs.items()
        if (model, rows) in own and own[model, rows] > 0
    ]
    if not table:
        return
    yield "| peer | model | rows | times as fast |"
    yield "|---|---|---:|---:|"
    yield from table
