"""``woodpecker verify``: does an artifact agree with the library that trained its model?"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..errors import InputError
from .common import (
    DISAGREE,
    OK,
    Device,
    Drop,
    Header,
    IterationRange,
    Missing,
    check_input,
    command,
    note,
    parse_range,
    progress,
)

Answers = tuple[np.ndarray, np.ndarray]
"""Raw scores (n, K) and leaf ids (n, T)."""


@command
def main(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="The model file that the .so was compiled from.", show_default=False)
    ],
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="The .so.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Rows: .csv, .tsv, .parquet or .npy.", show_default=False)],
    header: Header = True,
    drop: Drop = None,
    missing: Missing = math.nan,
    iteration_range: IterationRange = None,
    device: Device = "cpu",
) -> int:
    """Compare an artifact with the source library, on every row of a file, bit by bit.

    Counts unequal leaf ids and raw scores whose bits differ; both must be 0. The library that trained the model does
    the other half; where it is not installed, woodpecker's own slow interpreter stands in, and a note says so.

    \b
    Examples:
      woodpecker verify model.ubj model.so --data rows.parquet
      woodpecker verify model.txt model.so --data rows.csv --drop target
      woodpecker verify model.ubj model.so --data rows.npy --device cuda
    """
    rounds = parse_range(iteration_range)
    check_input(model)
    import woodpecker

    from ..frontend import to_forest
    from ..runtime.rows import InputSpec, read_rows
    from .tables import open_table

    forest = to_forest(model, missing=missing, iteration_range=rounds)
    predictor = woodpecker.load(artifact, device=device, verify=True)
    _same_shape(artifact, predictor.inspect(), model, forest)
    spec = InputSpec.of_forest(forest)
    table = open_table(data, spec, header=header, drop=drop or ())
    other, answers = _source(model, forest, missing, rounds)
    rows = leaves = bits = 0
    with progress(f"comparing with {other}", table.n) as advance:
        for chunk in table.chunks():
            for _, _, block in read_rows(chunk, spec).blocks():
                raw, ids = answers(block)
                leaves += _differ(predictor.apply(block), ids, "leaf ids")
                bits += _differ(_bits(predictor.predict_raw(block)), _bits(raw), "raw scores")
                rows += len(block)
                advance(len(block))
    if rows == 0:
        raise InputError(f"{data} holds no rows, so nothing was compared")
    typer.echo(f"{rows:,} rows compared with {other}")
    typer.echo(f"unequal leaf ids: {leaves:,} of {rows * forest.n_trees:,}")
    typer.echo(f"unequal raw-score bits: {bits:,} of {rows * forest.n_outputs:,}")
    return DISAGREE if leaves or bits else OK


def _same_shape(artifact: Path, facts: dict[str, Any], model: Path, forest: Any) -> None:
    wanted = {
        "n_features": forest.n_features,
        "n_trees": forest.n_trees,
        "n_outputs": forest.n_outputs,
        "acc_dtype": str(forest.values.dtype),
    }
    unequal = [f"{name} {facts[name]} is not {value}" for name, value in wanted.items() if facts[name] != value]
    if unequal:
        hint = ", or it has precision 'fast'" if facts["acc_dtype"] != wanted["acc_dtype"] else ""
        raise InputError(
            f"{artifact} was not compiled from {model} with these options{hint}: its {', its '.join(unequal)}"
        )


def _differ(got: np.ndarray, want: np.ndarray, what: str) -> int:
    if got.shape != want.shape or got.dtype != want.dtype:
        raise InputError(f"the {what} cannot be compared: {got.dtype} {got.shape} and {want.dtype} {want.shape}")
    return int(np.count_nonzero(got != want))


def _bits(scores: np.ndarray) -> np.ndarray:
    scores = np.ascontiguousarray(scores)
    return scores.view({4: np.uint32, 8: np.uint64}[scores.dtype.itemsize])


def _source(
    model: Path, forest: Any, missing: float, rounds: tuple[int, int] | None
) -> tuple[str, Callable[[np.ndarray], Answers]]:
    """Who answers for the model, and how."""
    library = forest.source.get("library")
    try:
        if library == "xgboost":
            return _xgboost(model, missing, rounds)
        return _lightgbm(model, rounds)
    except ImportError:
        from .. import reference

        note(f"{library} is not installed: comparing with woodpecker's own interpreter of the model file instead")
        return "woodpecker.reference", lambda X: (reference.predict_raw(forest, X), reference.apply(forest, X))


def _xgboost(
    model: Path, missing: float, rounds: tuple[int, int] | None
) -> tuple[str, Callable[[np.ndarray], Answers]]:
    import xgboost as xgb

    booster = xgb.Booster({"nthread": 1}, model_file=_named(model, (".json", ".ubj")))
    # xgboost gives leaves of a range that does not start at 0 only for a slice of the model.
    part = booster[rounds[0] : rounds[1] or None] if rounds else booster

    def answers(X: np.ndarray) -> Answers:
        try:
            rows = xgb.DMatrix(
                X, missing=missing, nthread=1, feature_types=booster.feature_types, enable_categorical=True
            )
            raw = booster.predict(rows, output_margin=True, iteration_range=rounds or (0, 0), validate_features=False)
            leaves = part.predict(rows, pred_leaf=True, validate_features=False)
        except (xgb.core.XGBoostError, ValueError) as error:
            raise InputError(f"xgboost refuses these rows: {str(error).splitlines()[0]}") from error
        return raw.reshape(len(X), -1), leaves.reshape(len(X), -1).astype(np.int32)

    return f"xgboost {xgb.__version__}", answers


def _lightgbm(model: Path, rounds: tuple[int, int] | None) -> tuple[str, Callable[[np.ndarray], Answers]]:
    import lightgbm as lgb

    # LightGBM aborts the process where this line does not fit the text; it can do without, and woodpecker has checked
    # the rest.
    header, first_tree, trees = model.read_text(encoding="utf-8").partition("\nTree=")
    lines = [line for line in header.splitlines() if not line.startswith("tree_sizes=")]
    booster = lgb.Booster(model_str="\n".join(lines) + "\n" + first_tree + trees)
    options = {"num_threads": 1}
    if rounds:
        options |= {"start_iteration": rounds[0], "num_iteration": rounds[1] - rounds[0]}

    def answers(X: np.ndarray) -> Answers:
        try:
            raw = np.asarray(booster.predict(X, raw_score=True, **options))
            leaves = np.asarray(booster.predict(X, pred_leaf=True, **options))
        except lgb.basic.LightGBMError as error:
            raise InputError(f"lightgbm refuses these rows: {str(error).splitlines()[0]}") from error
        return raw.reshape(len(X), -1), leaves.reshape(len(X), -1).astype(np.int32)

    return f"lightgbm {lgb.__version__}", answers


def _named(model: Path, suffixes: tuple[str, ...]) -> str | bytearray:
    """What xgboost loads: it tells formats by suffix, where woodpecker looks at the content."""
    return str(model) if model.suffix in suffixes else bytearray(model.read_bytes())
