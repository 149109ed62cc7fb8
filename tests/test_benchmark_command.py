"""The command line of the benchmark suite's studies, and what is selected by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import __main__ as command_line
from benchmarks.shapes import SHAPES
from benchmarks.studies import forests, latency, levels, regret, routing, scaling, threads, tuning
from benchmarks.studies.runner import Settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["regret", "--shape", "none"], "unknown model 'none'"),
        (["regret", "--forest", "21"], "unknown forest '21'; known: 1, 2"),
        (["regret", "--batch", "0"], "--batch 0: it must be 1 or more"),
        (["latency", "--contestant", "nobody"], "unknown contestant 'nobody'"),
        (["threads", "--shape", "none"], "unknown model 'none'"),
        (["threads", "--most", "-1"], "--most -1: it must be 1 or more"),
        (["scaling", "--axis", "none"], "unknown axis 'none'; known: trees, leaves"),
        (["routing", "--shape", "none"], "unknown forest 'none'"),
        (["levels", "--shape", "none"], "unknown model 'none'"),
        (["levels", "--strategy", "gemm"], "unknown strategy 'gemm'; known: bitslice, scan"),
        (["routing", "--rounds", "0"], "--rounds 0: it must be 1 or more"),
        (["plot", "no-such-file.json"], "no-such-file.json"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


@pytest.mark.parametrize("content", ["{}", '{"study": "none"}', "[]", "not json"])
@pytest.mark.parametrize("action", ["report", "plot"])
def test_other_files_are_no_results(
    action: str, content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if action == "plot":
        pytest.importorskip("matplotlib")
    path = tmp_path / "results.json"
    path.write_text(content)
    assert command_line.main([action, str(path)]) == 2
    assert str(path) in capsys.readouterr().err


def test_models_are_selected() -> None:
    held = forests.held_out(3)

    def names(shapes: list[str], numbers: list[str]) -> list[str]:
        return [shape.name for shape in regret.selected(SHAPES[:2], held, shapes, numbers)]

    first, second = SHAPES[0].name, SHAPES[1].name
    assert names([], []) == [first, second, "forest-1", "forest-2", "forest-3"]
    assert names([second], []) == [second] and names([], ["2"]) == ["forest-2"]
    assert names(["all"], ["3", "1"]) == [first, second, "forest-3", "forest-1"]


def test_a_study_has_cells_for_all_that_is_asked() -> None:
    default = Settings()
    assert len(scaling.cells(("trees", "batch"), default)) == len(scaling.AXES["trees"]) + 1
    assert scaling.AXES["trees"][-1] == 10_000 and scaling.AXES["batch"][-1] == 1_000_000
    assert scaling.AXES["leaves"][::5] == (4, 4096) and scaling.AXES["features"][::5] == (4, 4000)
    assert [cell.key for cell in routing.cells(routing.SHAPES)] == list(routing.SHAPES)
    assert [cell.pool >= 200_000 for cell in threads.cells(SHAPES[:1], Settings(batches=(100_000,)), 2)] == [True]
    assert [cell.shape for cell in latency.cells(SHAPES[:2])] == list(SHAPES[:2])
    assert [cell.pool >= 100_000 for cell in tuning.cells(SHAPES[:2], Settings(batches=(100_000,)))] == [True] * 2
    made = levels.cells(SHAPES[:2], list(levels.GENERATED), ("scan",), default)
    names = (SHAPES[0].name, SHAPES[1].name, *levels.GENERATED)
    assert [cell.key for cell in made] == [f"{name}/{what}" for name in names for what in ("scan", "cost")]
    assert {*levels.MODELS} <= {shape.name for shape in SHAPES}
