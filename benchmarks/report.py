"""Results as readable tables: aligned markdown, for a terminal and for a page alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .contestants import LIBRARY, TUNED, WOODPECKER
from .stats import geometric_mean, summarise

ABSENT = "-"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A markdown table with padded columns, the first one to the left, the others to the right."""
    widths = [max(3, *(len(row[i]) for row in (head, *rows))) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * w) if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return [line(head), line(rule), *(line(row) for row in rows)]


def number(value: float | None) -> str:
    """Three significant digits, at least to the unit."""
    if value is None:
        return ABSENT
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def times(value: float | None) -> str:
    return ABSENT if value is None else f"{number(value)}x"


def size(count: float | None) -> str:
    if count is None:
        return ABSENT
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{number(count) if unit != 'B' else int(count)} {unit}"
        count /= 1000
    return f"{number(count)} GB"


def seconds(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3g} s"


def render(results: Mapping[str, Any]) -> str:
    """The whole report.

    Args:
        results: As `benchmarks.run.run_suite` returns them.
    """
    lines = ["# Benchmark results", "", *_about(results), ""]
    shapes = [shape for shape in results["shapes"] if shape["cells"]]
    for batch in results["settings"]["batches"]:
        lines += [f"## {rows_a_call(batch)}", "", *_overview(shapes, batch), ""]
    for shape in results["shapes"]:
        lines += [f"## {shape['title']}", ""]
        if not shape["cells"]:
            lines += [f"{shape['status']}: {shape.get('reason') or 'not measured yet'}", ""]
            continue
        lines += [*_shape_times(shape), "", *_shape_ratios(shape), "", *_shape_builds(shape), ""]
    return "\n".join(lines)


def rows_a_call(batch: int) -> str:
    """A batch size in words."""
    return "1 row a call" if batch == 1 else f"{batch:,} rows a call"


def machine_lines(about: Mapping[str, Any]) -> list[str]:
    """The CPU and the software, as `benchmarks.machine.describe` returns them, and an empty line."""
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    simd = " ".join(f for f in about["cpu_flags"] if f in ("avx2", "avx512f", "avx512vbmi", "asimd", "sve"))
    return [
        f"CPU: {about['cpu']} ({about['cpu_family']}; {simd or 'unknown SIMD'}), {about['cpus']} usable; "
        f"caches {', '.join(f'{k} {v}' for k, v in about['caches'].items()) or 'unknown'}.",
        f"Software: Python {about['python']}, {about['system']}, {about['libc']}, {about['compiler']}; {versions}.",
        "",
    ]


def plan_lines(results: Mapping[str, Any]) -> list[str]:
    """What woodpecker's plans come from, where results say so, and an empty line."""
    if "tuning_logs" not in results:  # the first results don't
        return []
    return [f"woodpecker's plans are its defaults: no tuning record is used, but by `{WOODPECKER}:{TUNED}`.", ""]


def _about(results: Mapping[str, Any]) -> list[str]:
    about = results["machine"]
    lines = [
        *machine_lines(about),
        *plan_lines(results),
        "ns/row of whole calls from Python, one thread each: the median of interleaved rounds, ± half of the "
        "interquartile range. Ratios are medians of the ratio within each round; above 1 is faster. ~ marks answers "
        "that are not the library's bits.",
    ]
    if results.get("commit"):  # the first results have none
        lines += ["", f"Commit {results['commit']}."]
    if results["settings"]["clock"] == "cpu":
        lines += ["", "Times are CPU time, not time on the wall: the machine was in use by others."]
    loads = [cell["load_average"] for shape in results["shapes"] for cell in shape["cells"].values()]
    if loads and max(loads) > about["cpus"]:
        lines += ["", f"**Noisy: the load average reached {max(loads):.1f} on {about['cpus']} CPUs.**"]
    if not results["complete"]:
        lines += ["", "**Incomplete: not every cell was measured.**"]
    if results["woodpecker_changed_meanwhile"]:
        lines += ["", "**woodpecker's sources changed during the run: its figures belong to no single version.**"]
    return lines


def _overview(shapes: Sequence[Mapping[str, Any]], batch: int) -> list[str]:
    head = ("model", "library", "best peer", "", "best strategy", "", "auto", "auto vs peer", "vs library", "regret")
    rows: list[tuple[str, ...]] = []
    against: list[tuple[float, float]] = []
    for shape in shapes:
        cell = shape["cells"].get(str(batch))
        if cell is None:
            continue
        found = summarise(cell)
        figures = found["figures"]

        def ns(name: str | None, figures: Mapping[str, Any] = figures) -> str:
            return ABSENT if name is None else number(figures[name]["ns_per_row"])

        shown = figures.get(found["auto"] or found["best"], {})
        peer, library = shown.get("vs_peer"), shown.get("vs_library")
        if peer and library:
            against.append((peer, library))
        rows.append(
            (
                shape["name"],
                ns(found["library"]),
                _label(found["best_peer"], cell),
                ns(found["best_peer"]),
                _label(found["best"], cell),
                ns(found["best"]),
                ns(found["auto"]),
                times(peer),
                times(library),
                ABSENT if found["regret"] is None else f"{100 * found['regret']:.0f} %",
            )
        )
    mean_peer, mean_library = geometric_mean(p for p, _ in against), geometric_mean(l for _, l in against)
    rows.append(("geometric mean", "", "", "", "", "", "", times(mean_peer), times(mean_library), ""))
    return table(head, rows)


def _label(name: str | None, cell: Mapping[str, Any]) -> str:
    if name is None:
        return ABSENT
    mark = "" if cell["contestants"][name].get("exact") else "~"
    return name.removeprefix(f"{WOODPECKER}:") + mark


def _entry(one: Mapping[str, Any] | None, figures: Mapping[str, Any] | None) -> str:
    if one is None:
        return ABSENT
    if figures is None:
        return str(one["status"])
    middle = figures["ns_per_row"]
    return f"{number(middle)} ±{50 * (figures['high'] - figures['low']) / middle:.0f}%"


def _shape_times(shape: Mapping[str, Any]) -> list[str]:
    names = list(dict.fromkeys(name for cell in shape["cells"].values() for name in cell["contestants"]))
    summaries = {batch: summarise(cell) for batch, cell in shape["cells"].items()}
    rows = []
    for name in names:
        cells = [cell["contestants"].get(name) for cell in shape["cells"].values()]
        found = [summaries[batch]["figures"].get(name) for batch in shape["cells"]]
        errors = [one for one in cells if one is not None and one.get("max_abs") is not None]
        exact = all(one["exact"] for one in errors)
        worst = max((one["max_abs"] for one in errors), default=None)
        ulp = max((one["max_ulp"] for one in errors), default=0)
        off = "unknown" if worst is None else "exact" if exact else f"{worst:.1e}, {ulp:,} ULP"
        rows.append((name, *(_entry(o, f) for o, f in zip(cells, found, strict=True)), off))
    notes = [
        f"- batch {int(batch):,}: {name}: {one['status']}: {one['reason']}"
        for batch, cell in shape["cells"].items()
        for name, one in cell["contestants"].items()
        if one["status"] != "ok"
    ]
    head = ("ns/row", *(f"{int(batch):,}" for batch in shape["cells"]), "largest error")
    return [*table(head, rows), *([""] if notes else []), *notes]


def _shape_ratios(shape: Mapping[str, Any]) -> list[str]:
    summaries = [summarise(cell) for cell in shape["cells"].values()]
    names = list(dict.fromkeys(name for found in summaries for name in found["figures"]))
    rows = []
    for name in names:
        figures = [found["figures"].get(name) for found in summaries]
        rows.append(
            (name, *(ABSENT if f is None else f"{times(f['vs_peer'])} {times(f['vs_library'])}" for f in figures))
        )
    return table(("vs best peer, vs library", *(f"{int(batch):,}" for batch in shape["cells"])), rows)


def _shape_builds(shape: Mapping[str, Any]) -> list[str]:
    rows, notes = [], []
    for name, build in shape["builds"].items():
        if build is None:
            continue
        if build["status"] != "ok":
            notes.append(f"- {name}: {build['status']}: {build['reason']}")
        if build["kind"] != LIBRARY and ("seconds" in build or "load_seconds" in build):
            cells = (seconds(build.get("seconds")), size(build.get("peak_bytes")), size(build.get("artifact_bytes")))
            rows.append((name, *cells, seconds(build.get("load_seconds"))))
    head = ("", "compile", "peak memory", "artifact", "load")
    return [*table(head, rows), *([""] if notes else []), *notes]
