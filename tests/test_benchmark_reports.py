"""Reports and plots of the benchmark suite's studies."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command_line
from benchmarks.studies import command, regret, tuning
from benchmarks.studies.runner import Settings

FAST = Settings(batches=(1, 8), rounds=3, turn_seconds=0.0005, check_rows=40)


MACHINE: dict[str, Any] = {
    "cpu": "A CPU",
    "cpu_family": "x/1/2/3",
    "cpu_flags": ["avx2"],
    "cpus": 2,
    "caches": {"L2 unified": "1024K"},
    "python": "3.11",
    "system": "Linux",
    "libc": "glibc",
    "compiler": "cc",
    "versions": {"woodpecker": "0.1.0"},
}


def results(study: str, batches: tuple[int, ...], **records: Any) -> dict[str, Any]:
    return {
        "study": study,
        "machine": MACHINE,
        "settings": dataclasses.asdict(dataclasses.replace(FAST, batches=batches)),
        "commit": "abc",
        "complete": True,
        "woodpecker_changed_meanwhile": False,
        "cells": records,
    }


def regrets() -> dict[str, Any]:
    walk, slices = [0, "walk", {}], [100, "slices", {}]
    strategies: dict[str, Any] = {
        "auto": {"status": "ok", "reason": None, "steps": [walk, slices]},
        "walk": {"status": "ok", "reason": None, "steps": [walk]},
        "slices": {"status": "ok", "reason": None, "steps": [walk, slices]},
        "pure": {"status": "ok", "reason": None, "steps": [[0, "pure", {}]]},
        "gemm": {"status": "left out", "reason": "it is hopeless"},
    }
    times = {
        "1": {"auto": [11.0, 11.0], "walk": [9.0, 9.0], "slices": [11.0, 11.0], "pure": [99.0, 99.0]},
        "64": {"auto": [30.0, 60.0], "walk": [30.0, 60.0], "slices": [30.0, 60.0], "pure": [20.0, 40.0]},
        "200": {"auto": [5.5, 5.5], "walk": [30.0, 30.0], "slices": [5.0, 5.0], "pure": [6.0, 6.0]},
    }
    cell = {
        "status": "ok",
        "reason": None,
        "about": {"title": "M"},
        "plan": [{"min_rows": 0, "strategy": "walk"}, {"min_rows": 100, "strategy": "slices"}],
        "strategies": strategies,
        "batches": {batch: {"ns_per_row": one} for batch, one in times.items()},
    }
    skipped = {"status": "skipped", "reason": "no model: no such library", "about": {"title": "S"}}
    return results("regret", (1, 64, 200), one=cell, two=skipped)


def test_regret_is_taken_within_rounds_against_the_best_by_median() -> None:
    found = regrets()["cells"]["one"]["batches"]
    assert regret.regret(found["64"]["ns_per_row"]) == ("pure", pytest.approx(0.5))
    assert regret.regret({"auto": [5.0, 9.0], "walk": [6.0, 9.0]}) == ("walk", pytest.approx((5 / 6 + 1) / 2 - 1))
    assert regret.regret({"auto": [1.0]}) is None and regret.regret({"walk": [1.0]}) is None


def test_regret_report_tells_noise_from_a_wrong_choice() -> None:
    text = command.render(regrets())
    lines = {line.split("|")[2].strip(): line for line in text.splitlines() if line.startswith("| one")}
    assert lines["1"].rstrip(" |").endswith("22 % !")
    assert lines["64"].rstrip(" |").endswith("50 % !")
    assert lines["200"].rstrip(" |").endswith("10 % ="), "the same program by another name"
    assert "Worst: 50 %, one, 64 rows: pure was best, auto chose walk; mean 24.1 %; 2 of 3 above 15 %." in text
    assert "- 22 %: one, 1 rows: walk was best, auto chose the steps of walk" in text
    assert "the same program beside itself was off by up to 10 %" in text
    assert "- one: gemm: left out: it is hopeless" in text and "- two: skipped: no model" in text


def threads_results() -> dict[str, Any]:
    times = {"1": [10.0, 20.0], "2": [5.0, 10.0]}
    batches = {"64": {"ns_per_row": times, "apart": {"2": [6.0, 12.0]}}}
    cell = {"status": "ok", "reason": None, "about": {}, "strategy": "walk", "batches": batches}
    cell |= {"cpus_used": {"1": 1.0, "2": 1.7}, "load_average": 3.0}
    return results("threads", (64,), one=cell)


def scaling_results() -> dict[str, Any]:
    def cell(batches: dict[str, float]) -> dict[str, Any]:
        return {
            "status": "ok",
            "reason": None,
            "about": {},
            "strategy": "walk",
            "compile_seconds": 1.5,
            "load_seconds": 0.001,
            "rss_before": 100_000_000,
            "peak_bytes": 150_000_000,
            "artifact_bytes": 2000,
            "batches": {batch: {"ns_per_row": [ns, ns]} for batch, ns in batches.items()},
        }

    broken = {"status": "failed", "reason": "out of memory", "about": {}}
    both = {"1": 20.0, "64": 10.0}
    records = {"trees/10": cell(both), "trees/30": cell(both), "trees/100": broken, "batch": cell({"1": 7.0})}
    return results("scaling", (1, 64), **records)


def routing_results() -> dict[str, Any]:
    strategies = {"auto": {"status": "ok", "reason": None}, "gemm": {"status": "left out", "reason": "it is hopeless"}}
    kinds = {"balanced": {"auto": [30.0, 30.0]}, "skewed": {"auto": [15.0, 10.0]}}
    cell = {"status": "ok", "reason": None, "about": {}, "strategies": strategies, "plan": [], "batches": {"8": kinds}}
    return results("routing", (8,), one=cell)


def missing_results() -> dict[str, Any]:
    times = {"stripped": [10.0, 20.0], "missing": [12.0, 24.0], "categories": [15.0, 15.0]}
    cell = {"status": "ok", "reason": None, "about": {}, "batches": {"8": times}}
    return results("missing", (8,), one=cell, two={"status": "wrong", "reason": "a bit", "about": {}})


def latency_results() -> dict[str, Any]:
    steps = {"numpy": 0.1, "import": 0.2, "load": 0.3, "first": 0.4, "warm_load": 0.05, "warm_first": 0.025}
    call = {"p50_ns": 2500.0, "p99_ns": 9000.0, "calls": 10, "ns": [2500.0]}
    good = {"status": "ok", "reason": None, "cold": steps}
    contestants = {
        "woodpecker:auto": {"kind": "woodpecker", **good, "calls": {"predict_raw": call, "predict": call}},
        "onedal": {"kind": "peer", **good, "calls": {"predict": call}},
        "lleaves": {"kind": "peer", "status": "refused", "reason": "LightGBM only"},
    }
    cell = {"status": "ok", "reason": None, "about": {"title": "A model"}, "contestants": contestants}
    return results("latency", (1,), one=cell)


def levels_results() -> dict[str, Any]:
    times = {"x86-64-v2": [30.0, 50.0], "llvm": [10.0, 12.0]}
    scan = {"status": "ok", "reason": None, "about": {"model": "one", "strategy": "scan"}}
    scan["batches"] = {"64": {"ns_per_row": times}}
    cost = {"status": "ok", "reason": None, "about": {"model": "one", "strategy": "auto"}}
    cost["targets"] = {
        "llvm": {"compile_seconds": 1.5, "save_seconds": 2.5, "artifact_bytes": 2000, "load_seconds": 0.001},
        "x86-64-v4": {"compile_seconds": 0.5, "save_seconds": 1.0, "artifact_bytes": 1000},
    }
    refused = {"status": "refused", "reason": "too many", "about": {"model": "one", "strategy": "bitslice"}}
    return results("levels", (64,), **{"one/scan": scan, "one/cost": cost, "one/bitslice": refused})


def tuning_results() -> dict[str, Any]:
    default, tuned = tuning.DEFAULT.name, tuning.TUNED.name
    kinds = {default: "woodpecker", tuned: "woodpecker", "library": "library", "onedal": "peer"}
    times = {default: [30.0, 20.0, None], tuned: [20.0, 16.0, None], "library": [90.0, 90.0, 90.0]}
    many = {default: [30.0], tuned: [33.0], "onedal": [60.0], "library": [90.0]}

    def cell(gain: float, plan: list[int]) -> dict[str, Any]:
        record = {"trials": 40, "gain": gain, "plan": plan, "default": [0]}
        made = {"record": record, "plan": "walk()", "verdict": "", "seconds": 100.0, "trials": 40, "to_95": 7}
        batches = {"1": {"ns_per_row": times}, "64": {"ns_per_row": many}}
        return {"status": "ok", "reason": None, "about": {}, "tuning": made, "batches": batches, "kinds": kinds}

    resumed = cell(1.0, [0])
    resumed["tuning"] |= {"trials": 3, "to_95": None}
    failed = {"status": "failed", "reason": "out of memory", "about": {}}
    return results("tuning", (1, 64), one=cell(1.21, [1]), same=resumed, none=failed)


ALL = (
    *(regrets, threads_results, scaling_results, routing_results, missing_results, latency_results, levels_results),
    tuning_results,
)


def test_reports_show_the_figures() -> None:
    assert "| one   |     walk |   64 |               15.0 |     2.00x |           1.67x |" in command.render(
        threads_results()
    )
    assert "CPUs used, by number of threads: 1.00 by 1, 1.70 by 2; load average 3.0" in command.render(
        threads_results()
    )
    text = command.render(scaling_results())
    assert "| 30    |     walk |   20.0 |    10.0 |   1.5 s | 50.0 MB |  2.00 KB | 0.001 s |" in text
    assert "- trees/100: failed: out of memory" in text and "## batch: walk" in text
    text = command.render(routing_results())
    assert "| one    |    8 |     auto |     30.0 |   12.5 |                2.40x |" in text
    assert "- one: gemm: left out" in text
    text = command.render(missing_results())
    assert (
        "| one    |    8 |     15.0 |    18.0 |       15.0 |                 1.20x |                    1.12x |" in text
    )
    assert "- two: wrong: a bit" in text
    text = command.render(latency_results())
    assert "| woodpecker:auto  |  1 s | 0.1 s |  0.2 s | 0.3 s | 0.4 s |    0.05 s |    0.025 s |" in text
    assert "| onedal          |               - |      - |      2.5 µs | 9.0 µs |" in text
    assert "- one: lleaves: refused: LightGBM only" in text
    text = command.render(levels_results())
    assert "| one   |     scan |   64 |      40.0 | 11.0 |" in text
    assert "| one   |      llvm |   1.5 s | 2.5 s |  2.00 KB | 0.001 s |" in text
    assert "| one   | x86-64-v4 |   0.5 s |   1 s |  1.00 KB |       - |" in text
    assert "- one/bitslice: refused: too many" in text


def test_tuning_report_shows_gains_and_what_they_took() -> None:
    text = command.render(tuning_results())
    assert "| one   |    1 |    25.0 |  18.0 |   1.38x |   library | 90.0 |         5.06x |" in text
    assert "| one   |   64 |    30.0 |  33.0 |   0.91x |   onedal~ | 60.0 |         1.82x |" in text
    assert "| same  |    1 |    25.0 |  18.0 | 1.38x = |" in text
    assert f"Gain, geometric mean over 2 models: {1.375**0.5:.3f} at 1 rows." in text
    assert f"Gain, geometric mean over 2 models: {(30 / 33) ** 0.5:.3f} at 64 rows." in text
    assert f"Over all of these cells: {(1.375 * 30 / 33) ** 0.25:.3f}." in text
    assert "| one   |     40 | 100 s |       7 | 1.210 |" in text
    assert "| same  |     40 |     - |       - | 1.000 |" in text, "a part of a job has no time of its own"
    assert "Geometric mean of these gains: 1.100." in text
    assert "- one: walk()\n- same: walk() (the default)\n- none: failed: out of memory" in text


def test_reports_say_what_is_missing() -> None:
    found = threads_results() | {"complete": False, "commit": None, "woodpecker_changed_meanwhile": True}
    text = command.render(found)
    assert "Incomplete" in text and "Commit unknown" in text and "sources changed" in text and "CPU time" not in text
    found = regrets()
    found["settings"]["clock"] = "cpu"
    assert "CPU time" in command.render(found)


def test_plots_say_what_they_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(threads_results()))
    assert command_line.main(["plot", str(path), "-o", str(tmp_path / "plots")]) == 2
    assert capsys.readouterr().err == "error: plots need matplotlib: pip install matplotlib, or the extra bench\n"
    assert not (tmp_path / "plots").exists()


DRAWN = {
    "tuning": ["tuning"],
    "regret": ["regret"],
    "threads": ["threads"],
    "scaling": ["scaling-trees", "scaling-batch"],
    "routing": ["routing-one"],
    "missing": ["missing"],
    "latency": ["latency-one"],
    "levels": ["levels-one"],
}


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
@pytest.mark.filterwarnings("default")
def test_plots_are_drawn_and_reproducible(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    found = make()
    path = tmp_path / "results.json"
    path.write_text(json.dumps(found))
    names = [f"{name}.svg" for name in DRAWN[found["study"]]]
    for folder in ("a", "b"):
        assert command_line.main(["plot", str(path), "-o", str(tmp_path / folder)]) == 0
        assert capsys.readouterr().out.split() == [str(tmp_path / folder / name) for name in names]
    for name in names:
        content = (tmp_path / "a" / name).read_bytes()
        assert b"A CPU" not in content[:100] and content.startswith(b"<?xml") and len(content) > 5000
        assert content == (tmp_path / "b" / name).read_bytes()
