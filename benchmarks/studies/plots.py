"""Results as pictures: one SVG file for each question. Needs matplotlib, which nothing else here does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from woodpecker.errors import MissingExtraError

from ..report import rows_a_call
from ..stats import median, summarise
from . import latency, levels, missing, regret, scaling, threads, tuning
from .runner import timed

Figure = Any
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#000000")
"""Okabe and Ito's, which people who see fewer colours can tell apart."""


def draw(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw results, of the suite or of a study, into a folder.

    Returns:
        The files. None: nothing was measured.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    pyplot = _pyplot()
    figures = DRAWN[results.get("study", "run")](pyplot, results)
    about = results["machine"]
    foot = f"{about['cpu']}, {about['cpus']} CPUs; woodpecker {about['versions']['woodpecker']}"
    if results.get("commit"):
        foot += f", {results['commit']}"
    if not results["complete"]:
        foot += "; incomplete"
    if results["settings"].get("clock") == "cpu":
        foot += "; CPU time"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        figure.tight_layout()
        figure.text(0.01, -0.02, foot, fontsize=7, color="#555555")
        path = folder / f"{name}.svg"
        # Without a date and random ids the same results give the same file.
        with pyplot.rc_context({"svg.hashsalt": name}):
            figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
        pyplot.close(figure)
        paths.append(path)
    return paths


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise MissingExtraError("plots need matplotlib: pip install matplotlib, or the extra bench") from error
    matplotlib.use("Agg")
    import matplotlib.pyplot

    return matplotlib.pyplot


def _bars(
    axes: Any, labels: Sequence[str], series: Mapping[str, Sequence[float | None]], logarithmic: bool = False
) -> None:
    """Groups of horizontal bars, the first label on top; None leaves a gap."""
    height = 0.8 / max(len(series), 1)
    for i, (name, values) in enumerate(series.items()):
        at = [j + (i - (len(series) - 1) / 2) * height for j in range(len(labels))]
        axes.barh(at, [v if v is not None else math.nan for v in values], height, label=name, color=_colour(i))
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.legend(fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    if logarithmic:
        # Bars have no zero to begin at: a power of ten, so that no length depends on what else is in the picture.
        known = [v for values in series.values() for v in values if v]
        axes.set_xscale("log")
        axes.set_xlim(left=10.0 ** math.floor(math.log10(min(known, default=1.0)) - 0.1))


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _tall(pyplot: Any, rows: int, columns: int = 1) -> tuple[Figure, Any]:
    return pyplot.subplots(1, columns, figsize=(7.5 * columns, 1.5 + 0.4 * max(rows, 4)), squeeze=False)


def _regret(pyplot: Any, results: Mapping[str, Any]) -> dict[str, Figure]:
    cells, _ = timed(results["cells"])
    if not cells:
        return {}
    series: dict[str, list[float | None]] = {}
    for batch in results["settings"]["batches"]:
        found = [regret.regret(cell["batches"][str(batch)]["ns_per_row"]) for cell in cells.values()]
        series[f"{batch:,} rows"] = [None if one is None else 100 * one[1] for one in found]
    figure, ((axes,),) = _tall(pyplot, len(cells) * len(series) // 2)
    _bars(axes, list(cells), series)
    axes.axvline(100 * regret.LIMIT, color="#000000", linestyle="--", linewidth=1)
    axes.set_xlabel("auto slower than the best strategy, % (below 0: faster)")
    axes.set_title("Regret of auto")
    return {"regret": figure}


def _latency(pyplot: Any, results: Mapping[str, Any]) -> dict[str, Figure]:
    cells, _ = timed(results["cells"], "contestants")
    figures = {}
    for key, cell in cells.items():
        good = {name: one for name, one in cell["contestants"].items() if one["status"] == "ok"}
        if not good:
            continue
        figure, ((left, right),) = _tall(pyplot, len(good) * 2, 2)
        series: dict[str, list[float | None]] = {}
        for method in ("predict_raw", "predict"):
            for what, of in (("p50", "p50_ns"), ("p99", "p99_ns")):
                times = [one["calls"].get(method) for one in good.values()]
                series[f"{method} {what}"] = [t and t[of] / 1000 for t in times]
        _bars(left, list(good), series, logarithmic=True)
        left.set_xlabel("µs a call of one row")
        done = [0.0] * len(good)
        for i, step in enumerate(latency.STEPS):
            values = [1000 * one["cold"][step] for one in good.values()]
            right.barh(range(len(good)), values, 0.6, left=done, label=step, color=_colour(i))
            done = [a + b for a, b in zip(done, values, strict=True)]
        right.set_yticks(range(len(good)), list(good), fontsize=8)
        right.invert_yaxis()
        right.legend(fontsize=8)
        right.set_xlabel("ms from a fresh process to the first prediction")
        figure.suptitle(cell["about"]["title"])
        figures[f"latency-{key}"] = figure
    return figures


def _threads(pyplot: Any, results: Mapping[str, Any]) -> dict[str, Figure]:
    cells, _ = timed(results["cells"])
    if not cells:
        return {}
    batches = results["settings"]["batches"]
    figure, grid = pyplot.subplots(1, len(batches), figsize=(5 * len(batches), 4.5), squeeze=False, sharey=True)
    for axes, batch in zip(grid[0], batches, strict=True):
        most = 1
        for i, (key, cell) in enumerate(cells.items()):
            times = cell["batches"][str(batch)]["ns_per_row"]
            counts = sorted(map(int, times))
            most = max(most, *counts)
            style = "-o" if i < len(COLOURS) else "--s"
            ups = [threads.speed_up(times, str(n)) for n in counts]
            axes.plot(counts, ups, style, label=key, color=_colour(i), markersize=4)
        axes.plot([1, most], [1, most], color="#bbbbbb", linestyle=":", zorder=0)
        axes.set_xticks(range(1, most + 1))
        axes.set_title(rows_a_call(batch))
        axes.set_xlabel("threads")
        axes.grid(alpha=0.3)
    grid[0][0].set_ylabel("times faster than one thread")
    grid[0][-1].legend(fontsize=7)
    return {"threads": figure}


def _scaling(pyplot: Any, results: Mapping[str, Any]) -> dict[str, Figure]:
    figures = {}
    cells, _ = timed(results["cells"])
    for axis in scaling.AXES:
        found = {key: cell for key, cell in cells.items() if key.partition("/")[0] == axis}
        if not found:
            continue
        if axis == "batch":
            (cell,) = found.values()
            figure, axes = pyplot.subplots(figsize=(7, 4.5))
            points = [int(batch) for batch in cell["batches"]]
            _line(axes, points, [median(one["ns_per_row"]) for one in cell["batches"].values()], "ns/row", axis)
            axes.set_xlabel("rows a call")
        else:
            figure, axes = _axis(pyplot, axis, found)
        figure.suptitle(f"Over {axis}; generated forests, no library")
        figures[f"scaling-{axis}"] = figure
    return figures


def _axis(pyplot: Any, axis: str, cells: Mapping[str, Mapping[str, Any]]) -> tuple[Figure, Any]:
    points = [int(key.partition("/")[2]) for key in cells]
    figure, grid = pyplot.subplots(2, 2, figsize=(11, 8))
    time, build, peak, disk = grid.reshape(-1)
    batches = list(dict.fromkeys(batch for cell in cells.values() for batch in cell["batches"]))
    for i, batch in enumerate(batches):
        values = [median(cell["batches"][batch]["ns_per_row"]) for cell in cells.values()]
        _line(time, points, values, "ns/row", rows_a_call(int(batch)), _colour(i))
    time.legend(fontsize=8)
    _line(build, points, [c["compile_seconds"] for c in cells.values()], "compile, s", axis)
    _line(peak, points, [(c["peak_bytes"] - c["rss_before"]) / 1e6 for c in cells.values()], "compile memory, MB", axis)
    _line(disk, points, [c["artifact_bytes"] / 1e3 for c in cells.values()], "artifact, KB", axis)
    for axes in (build, peak):  # they have a floor, of which a logarithmic axis would make little steps look steep
        axes.set_yscale("linear")
        axes.set_ylim(bottom=0)
    for axes in (time, build, peak, disk):
        axes.set_xlabel(axis)
    return figure, grid


def _line(
    axes: Any, x: Sequence[float], y: Iterable[float | None], what: str, label: str, colour: str = COLOURS[0]
) -> None:
    axes.plot(x, [math.nan if value is None else value for value in y], "-o", label=label, color=colour, markersize=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylabel(what)
    axes.grid(alpha=0.3)


Panel = tuple[Sequence[str], Mapping[str, Sequence[float | None]]]


def _batches(pyplot: Any, title: str, rows: int, panels: Mapping[str, Panel]) -> Figure:
    """Bars side by side for each number of rows a call."""
    figure, grid = _tall(pyplot, rows, len(panels))
    for axes, (batch, (labels, series)) in zip(grid[0], panels.items(), strict=True):
        _bars(axes, labels, series)
        axes.set_xlabel("ns/row, one thread")
        axes.set_title(rows_a_call(int(batch)))
    figure.suptitle(title)
    return figure


def _routing(pyplot: Any, results: Mapping[str, Any]) -> dict[str, Figure]:
    figures = {}
    for key, cell in timed(results["cells"])[0].items():
        panels: dict[str, Panel] = {}
        for batch, kinds in cell["batches"].items():
            names = list(kinds["balanced"])
            panels[batch] = names, {k: [median(times.get(n, [])) for n in names] for k, times in kinds.items()}
        title = f"Balanced and skewed rows: {key}"
        figures[f"routing-{key}"] = _batches(pyplot, title, 2 * len(cell["strategies"]), panels)
    return figures


def _missing(pyplot: Any, results: Mapping[str, Any]) -> dict[str, Figure]:
    cells, _ = timed(results["cells"])
    if not cells:
        return {}
    panels: dict[str, Panel] = {}
    for batch in results["settings"]["batches"]:
        times = [cell["batches"][str(batch)] for cell in cells.values()]
        panels[str(batch)] = list(cells), {kind: [median(t[kind]) for t in times] for kind in missing.KINDS}
    return {"missing": _batches(pyplot, "Missing values and categories", 3 * len(cells), panels)}


def _levels(pyplot: Any, results: Mapping[str, Any]) -> dict[str, Figure]:
    figures = {}
    cells = timed(results["cells"])[0].values()
    for model in dict.fromkeys(cell["about"]["model"] for cell in cells):
        found = {c["about"]["strategy"]: c["batches"] for c in cells if c["about"]["model"] == model}
        panels: dict[str, Panel] = {}
        for batch in dict.fromkeys(batch for one in found.values() for batch in one):
            taken = {name: one[batch]["ns_per_row"] for name, one in found.items() if batch in one}
            series = {level: [median(times.get(level, [])) for times in taken.values()] for level in levels.LEVELS}
            panels[batch] = list(taken), series
        title = f"CPU levels of one artifact: {model}"
        figures[f"levels-{model}"] = _batches(pyplot, title, 4 * len(found), panels)
    return figures


def _tuning(pyplot: Any, results: Mapping[str, Any]) -> dict[str, Figure]:
    cells, _ = timed(results["cells"], "tuning")
    if not cells:
        return {}
    batches = results["settings"]["batches"]
    series = {f"{batch:,} rows": [tuning.gain(cell, str(batch)) for cell in cells.values()] for batch in batches}
    figure, ((axes,),) = _tall(pyplot, len(cells) * len(series) // 2)
    _bars(axes, list(cells), series)
    axes.axvline(1.0, color="#000000", linestyle="--", linewidth=1)
    axes.set_xlabel("times as fast as the default plan")
    axes.set_title("Tuned plans")
    return {"tuning": figure}


def _run(pyplot: Any, results: Mapping[str, Any]) -> dict[str, Figure]:
    figures = {}
    for batch in results["settings"]["batches"]:
        cells = {s["name"]: s["cells"][str(batch)] for s in results["shapes"] if str(batch) in s["cells"]}
        if not cells:
            continue
        series: dict[str, list[float | None]] = {"library": [], "best peer": [], "woodpecker, auto": []}
        for cell in cells.values():
            found = summarise(cell)
            for label, name in zip(series, ("library", "best_peer", "auto"), strict=True):
                series[label].append(found[name] and found["figures"][found[name]]["ns_per_row"])
        figure, ((axes,),) = _tall(pyplot, 2 * len(cells))
        _bars(axes, list(cells), series, logarithmic=True)
        axes.set_xlabel("ns/row, one thread")
        axes.set_title(rows_a_call(batch))
        figures[f"run-{batch}"] = figure
    return figures


DRAWN: Mapping[str, Callable[[Any, Mapping[str, Any]], dict[str, Figure]]] = {
    "run": _run,
    "regret": _regret,
    "latency": _latency,
    "threads": _threads,
    "scaling": _scaling,
    "routing": _routing,
    "missing": _missing,
    "levels": _levels,
    "tuning": _tuning,
}
