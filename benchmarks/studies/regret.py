"""How much slower `auto` is than the best strategy, for every model of the suite and for twenty that are new to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..contestants import AUTO, own_model
from ..report import number, table
from ..shapes import Info, Shape, open_pool, pool_rows
from ..stats import median, ratio
from ..worker import Reply
from .runner import Cell, Settings, timed
from .timing import compile_all, library_check, strategy_names, take_turns

BATCHES = (1, 64, 1024)
LIMIT = 0.15
"""The regret that no model should exceed."""


def cells(shapes: Iterable[Shape], settings: Settings) -> list[Cell]:
    rows = max(*settings.batches, settings.check_rows)
    return [
        Cell(shape.name, {"title": shape.title}, "regret", shape=shape, pool=pool_rows(shape, rows)) for shape in shapes
    ]


def measure(output: str, settings: dict[str, Any], info: dict[str, Any]) -> Reply:
    """One model: compile it with `auto` and every strategy, compare each with the library, and time them in turns.

    Returns:
        `Compiled.outcome`; "forest": its size; "batches": rows -> "ns_per_row": name -> one number a round.
    """
    import woodpecker as wp

    about, limits = Info.from_json(info), Settings(**settings)
    pool, model = open_pool(about), wp.from_model(own_model(about))
    compiled = compile_all(model, strategy_names(limits), library_check(about, model, pool, limits))
    programs = {name: (one.predict_raw, pool) for name, one in compiled.programs.items()}
    return {
        **compiled.outcome(),
        "forest": {
            "trees": model.n_trees,
            "leaves": model.n_leaves,
            "features": model.n_features,
            "outputs": model.n_outputs,
        },
        "batches": {str(batch): {"ns_per_row": take_turns(programs, batch, limits)} for batch in limits.batches},
    }


def regret(times: Mapping[str, Sequence[float]]) -> tuple[str, float] | None:
    """(the best strategy by its median, how much slower `auto` was: 0.15 is 15 %, below 0 faster); None: no times."""
    named = {name: taken for name, taken in times.items() if name != AUTO}
    if AUTO not in times or not named:
        return None
    best = min(named, key=lambda name: median(named[name]) or 0.0)
    slower = ratio(times[AUTO], named[best])
    return None if slower is None else (best, slower - 1.0)


def _steps(strategy: Mapping[str, Any], batch: int) -> list[Any]:
    """The steps of a plan that a call of ``batch`` rows may take."""
    return [step for step in strategy["steps"] if step[0] <= batch]


def serving(plan: Sequence[Mapping[str, Any]], batch: int) -> str:
    """The strategy of the step that takes a call of ``batch`` rows, or its first rows."""
    return str([step for step in plan if step["min_rows"] <= max(batch, 1)][-1]["strategy"])


def render(results: Mapping[str, Any]) -> list[str]:
    """Per model and batch size: `auto`, the best strategy, regret; then the worst, and who was left out."""
    rows, found, noise = [], [], [0.0]
    done, notes = timed(results["cells"])
    for key, cell in done.items():
        strategies = cell["strategies"]
        for batch, one in cell["batches"].items():
            times = one["ns_per_row"]
            result = regret(times)
            if result is None:
                continue
            best, slower = result
            chosen = serving(cell["plan"], int(batch))
            same_program = strategies[best]["steps"] == strategies[AUTO]["steps"]
            if same_program:
                noise.append(abs(slower))
            else:
                same_steps = _steps(strategies[best], int(batch)) == _steps(strategies[AUTO], int(batch))
                found.append((slower, key, int(batch), best, f"the steps of {chosen}" if same_steps else chosen))
            mark = " =" if same_program else " !" if slower > LIMIT else ""
            shown = (chosen, number(median(times[AUTO])), best, number(median(times[best])))
            rows.append((key, f"{int(batch):,}", *shown, f"{100 * slower:.0f} %{mark}"))
        notes += [f"- {key}: {n}: {one['status']}: {one['reason']}" for n, one in strategies.items() if one["reason"]]
    lines = [
        "ns/row of whole calls, one thread, in one process a model. `=`: auto's plan is that of the best strategy, so "
        "the programs are the same and what it is off 0 % is noise. `the steps of`: the best strategy takes so many "
        "rows in the same steps, so that the difference lies outside of them.",
        "",
        *table(("model", "rows", "auto chose", "auto", "best", "", "regret"), rows),
        "",
    ]
    if found:
        bad = sorted((one for one in found if one[0] > LIMIT), reverse=True)
        worst = max(found)
        mean = sum(max(one[0], 0.0) for one in found) / max(len(rows), 1)
        lines += [
            f"Worst: {100 * worst[0]:.0f} %, {worst[1]}, {worst[2]:,} rows: {worst[3]} was best, auto chose {worst[4]}"
            f"; mean {100 * mean:.1f} %; {len(bad)} of {len(rows)} above {100 * LIMIT:.0f} %.",
            "",
            *(
                f"- {100 * one[0]:.0f} %: {one[1]}, {one[2]:,} rows: {one[3]} was best, auto chose {one[4]}"
                for one in bad
            ),
            *([""] if bad else []),
        ]
    lines += [f"Noise: the same program beside itself was off by up to {100 * max(noise):.0f} %.", ""]
    return [*lines, *notes]


def selected(
    shapes: Sequence[Shape], forests: Sequence[Shape], names: Sequence[str], numbers: Sequence[str]
) -> list[Shape]:
    """The models asked for: by name of the suite's, by number of the held-out ones, "all" of either; by default both.

    Raises:
        LookupError: there is no such one.
    """
    if not names and not numbers:
        return [*shapes, *forests]
    known = {shape.name: shape for shape in shapes}
    held = {shape.name.removeprefix("forest-"): shape for shape in forests}
    chosen: list[Shape] = []
    for what, asked, have in (("model", names, known), ("forest", numbers, held)):
        for name in asked:
            if name != "all" and name not in have:
                raise LookupError(f"unknown {what} {name!r}; known: {', '.join(have)}, or all")
            chosen += [shape for key, shape in have.items() if name in ("all", key) and shape not in chosen]
    return chosen
