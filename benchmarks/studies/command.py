"""The studies on the command line: python -m benchmarks STUDY, one of STUDIES."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from woodpecker.runtime.threads import available_cpus

from .. import outcome
from ..contestants import resolve
from ..report import machine_lines, plan_lines
from ..run import say
from ..shapes import QUICK, SHAPES, Shape
from . import forests, latency, levels, missing, regret, routing, scaling, threads, tuning
from .runner import Cell, Measure, Settings, failures, in_worker, run_study

STUDIES: Mapping[str, str] = {
    "regret": "auto beside every strategy, for the suite's models and 20 that it was not calibrated with",
    "latency": "first predictions and calls of one row, beside the library and the peers",
    "threads": "large batches on one thread and on more",
    "scaling": "time, memory, size and compile time over trees, leaves, features and batch",
    "routing": "rows that split evenly everywhere, and rows that nearly all take one path",
    "missing": "missing values and categories, beside the same trees without",
    "levels": "strategies on each CPU level of one artifact, and what a level costs",
    "tuning": "the default plan, the tuned one and the best peer, and what tuning took",
}
REPORTS: Mapping[str, Callable[[Mapping[str, Any]], list[str]]] = {
    "regret": regret.render,
    "latency": latency.render,
    "threads": threads.render,
    "scaling": scaling.render,
    "routing": routing.render,
    "missing": missing.render,
    "levels": levels.render,
    "tuning": tuning.render,
}
BATCHES = {
    "regret": regret.BATCHES,
    "latency": (1,),
    "threads": threads.BATCHES,
    "scaling": scaling.BATCHES,
    "routing": routing.BATCHES,
    "missing": missing.BATCHES,
    "levels": levels.BATCHES,
    "tuning": tuning.BATCHES,
}
QUICK_SETTINGS = Settings(
    batches=(1, 64),
    rounds=2,
    turn_seconds=0.002,
    check_rows=256,
    threshold_rows=64,
    fresh_processes=1,
    latency_calls=50,
    strategies=("tree_traversal",),
    points=1,
    train_threads=1,
    trials=3,
)


def add_parsers(commands: Any) -> None:
    for name, help_text in STUDIES.items():
        one = commands.add_parser(name, help=help_text)
        outcome.add_options(one, "tiny models, for CI: its times mean nothing")
        one.add_argument("--budget", type=float, default=3600.0, metavar="SECONDS", help="stop after about this (3600)")
        if name not in ("latency", "threads"):  # what these ask is time on the wall
            outcome.add_clock(one)
        if name == "scaling":
            known = ", ".join(scaling.AXES)
            one.add_argument("--axis", action="append", metavar="NAME", help=f"only this ({known}); several times")
        else:
            one.add_argument("--shape", action="append", default=[], metavar="NAME", help="only this; several times")
        if name == "regret":
            one.add_argument("--forest", action="append", default=[], metavar="N", help="only this of the 20; or all")
        if name == "levels":
            known = ", ".join(levels.STRATEGIES)
            one.add_argument("--strategy", action="append", metavar="NAME", help=f"only this ({known}); several times")
        if name == "threads":
            one.add_argument("--most", type=int, metavar="THREADS", help="up to so many threads (the usable CPUs)")
        if name == "tuning":
            one.add_argument("--trials", type=int, help="candidates that each job measures (64)")
        if name in ("latency", "tuning"):
            one.add_argument("--contestant", action="append", metavar="NAME", help="only these; or package.module:NAME")
        if name != "latency":
            one.add_argument(
                "--batch", action="append", type=int, metavar="ROWS", help="only this batch; several times"
            )


def main(given: argparse.Namespace) -> int:
    """Run a study, write its results, print its report. The exit codes of `benchmarks.__main__.main`.

    Raises:
        LookupError: a name is unknown. ValueError: a number is out of range. StateMismatch: see `run_study`.
    """
    name = given.command
    settings = _settings(given)
    cells, measure = _plan(given, settings)
    output = outcome.folder(given)
    if given.fresh:
        (output / f"{name}.jsonl").unlink(missing_ok=True)
    run = functools.partial(run_study, name, cells, settings, output, budget=given.budget, say=say, measure=measure)
    return outcome.carry_out(run, given, f"{name}-", render, failures)


def render(results: Mapping[str, Any]) -> str:
    """The report of a study.

    Args:
        results: As `benchmarks.studies.runner.run_study` returns them.
    """
    name = results["study"]
    lines = [f"# {name.capitalize()}: {STUDIES[name]}", "", *machine_lines(results["machine"]), *plan_lines(results)]
    lines += [f"Commit {results['commit'] or 'unknown'}.", ""]
    if results["settings"]["clock"] == "cpu":
        lines += ["Times are CPU time, not time on the wall: the machine was in use by others.", ""]
    if not results["complete"]:
        lines += ["**Incomplete: not every cell was measured.**", ""]
    if results["woodpecker_changed_meanwhile"]:
        lines += ["**woodpecker's sources changed during the run: its figures belong to no single version.**", ""]
    return "\n".join([*lines, *REPORTS[name](results)]).rstrip()


def _settings(given: argparse.Namespace) -> Settings:
    batches = tuple(sorted(set(getattr(given, "batch", None) or ())))
    if any(batch < 1 for batch in batches):
        raise ValueError(f"--batch {batches[0]}: it must be 1 or more")
    if given.rounds is not None and given.rounds < 1:
        raise ValueError(f"--rounds {given.rounds}: it must be 1 or more")
    base = QUICK_SETTINGS if given.quick else dataclasses.replace(Settings(), batches=BATCHES[given.command])
    asked = {
        "batches": batches or None,
        "rounds": given.rounds,
        "clock": getattr(given, "clock", None),
        "trials": getattr(given, "trials", None),
    }
    return dataclasses.replace(base, **{k: v for k, v in asked.items() if v is not None})


def _plan(given: argparse.Namespace, settings: Settings) -> tuple[list[Cell], Measure]:
    """The cells of a study, and what measures one."""
    if given.command == "scaling":
        axes = given.axis or (("trees",) if given.quick else tuple(scaling.AXES))
        _known("axis", axes, scaling.AXES)
        return scaling.cells(axes, settings), in_worker
    if given.command in ("routing", "missing"):
        made = routing.QUICK if given.quick else routing.SHAPES
        _known("forest", given.shape, made)
        study = routing if given.command == "routing" else missing
        return study.cells({name: made[name] for name in given.shape or made}), in_worker
    suite: Sequence[Shape] = QUICK[-1:] if given.quick else SHAPES
    if given.command == "regret":
        held = forests.quick() if given.quick else forests.held_out()
        if given.quick and not given.shape and not given.forest:
            suite = ()
        return regret.cells(regret.selected(suite, held, given.shape, given.forest), settings), in_worker
    by_name = {shape.name: shape for shape in suite}
    if given.command == "levels":
        return _levels(given, by_name, settings), in_worker
    _known("model", given.shape, by_name)
    shapes = [by_name[name] for name in given.shape or by_name]
    if given.command == "threads":
        most = given.most or available_cpus()
        if most < 1:
            raise ValueError(f"--most {most}: it must be 1 or more")
        return threads.cells(shapes, settings, most), in_worker
    if given.command == "tuning":
        peers = given.contestant or (("library",) if given.quick else tuning.PEERS)
        beside = {name: resolve(name) for name in dict.fromkeys(("library", *peers))}
        return tuning.cells(shapes, settings), functools.partial(tuning.measure, contestants=beside)
    names = given.contestant or (latency.QUICK if given.quick else latency.CONTESTANTS)
    contestants = {name: resolve(name) for name in dict.fromkeys(("library", *names))}
    return latency.cells(shapes), functools.partial(latency.measure, contestants=contestants)


def _levels(given: argparse.Namespace, suite: Mapping[str, Shape], settings: Settings) -> list[Cell]:
    made: Mapping[str, Any] = {} if given.quick else levels.GENERATED
    asked: Sequence[str] = given.shape or (tuple(suite) if given.quick else (*levels.MODELS, *made))
    _known("model", asked, {**suite, **made})
    strategies = given.strategy or settings.strategies or tuple(levels.STRATEGIES)
    _known("strategy", strategies, levels.STRATEGIES)
    shapes = [suite[name] for name in asked if name in suite]
    return levels.cells(shapes, [name for name in asked if name in made], strategies, settings)


def _known(what: str, names: Sequence[str], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise LookupError(f"unknown {what} {name!r}; known: {', '.join(known)}")
