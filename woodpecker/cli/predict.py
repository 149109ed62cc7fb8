"""``woodpecker predict``: a file of rows to a file of predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..errors import InputError
from .common import Device, Drop, Header, command, progress


@command
def main(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="The .so.", show_default=False)],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Rows: .csv, .tsv, .parquet or .npy.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help=".npy, .csv or .parquet; - for CSV on stdout.", show_default=False)
    ],
    method: Annotated[
        str, typer.Option(help="predict, predict_raw, apply, and what else the model has, such as predict_proba.")
    ] = "predict",
    header: Header = True,
    drop: Drop = None,
    num_threads: Annotated[int | None, typer.Option(help="Threads; default: as many as pay.")] = None,
    device: Device = "cpu",
) -> None:
    """Predict every row of DATA with a compiled model.

    Columns are found by the names that the model was trained with, in any order, or by position where it has none.
    Categorical columns are encoded by value. Rows are read, predicted and written in chunks, so a file may be larger
    than memory. The output file appears when it is complete.

    \b
    Examples:
      woodpecker predict model.so rows.parquet -o predictions.parquet
      woodpecker predict model.so rows.csv -o proba.csv --method predict_proba --drop id
      woodpecker predict model.so rows.npy -o leaves.npy --method apply
      woodpecker predict model.so rows.csv -o - | head
    """
    import woodpecker

    from ..runtime.files import check_output
    from ..runtime.loader import read_header
    from ..runtime.rows import InputSpec
    from .results import open_results
    from .tables import open_table

    if str(output) != "-":
        check_output(output, artifact, data)
    spec = InputSpec.from_json(read_header(artifact).manifest["input"])
    predictor = woodpecker.load(artifact, device=device, num_threads=num_threads)
    known = predictor.inspect()["methods"]
    if method not in known:
        raise InputError(f"{artifact} has no method {method!r}; it has {', '.join(known)}")
    run: Callable[[Any], Any] = getattr(predictor, method)
    table = open_table(data, spec, header=header, drop=drop or ())
    # A prediction of no rows tells the columns, and their dtype where the file is empty.
    empty = _one_array(run(np.empty((0, predictor.n_features_in_))))
    dtype = _stored_dtype(empty.dtype, predictor)
    names = _column_names(method, empty, predictor)
    with open_results(output, names) as sink, progress(f"predicting {data.name}", table.n) as advance:
        sink.write(empty.astype(dtype))
        for chunk in table.chunks():
            sink.write(_one_array(run(chunk)).astype(dtype, copy=False))
            advance(len(chunk))


def _one_array(result: Any) -> np.ndarray:
    """(n,) or (n, columns); the outputs of a multi-output classifier side by side."""
    if isinstance(result, list):
        return np.concatenate([_one_array(part) for part in result], axis=1)
    if not isinstance(result, np.ndarray):
        raise InputError(f"this method returns a {type(result).__name__}, which has no place in a table: use Python")
    return result


def _classes(predictor: Any) -> list[np.ndarray]:
    classes = getattr(predictor, "classes_", [])
    return classes if isinstance(classes, list) else [classes]


def _stored_dtype(dtype: np.dtype[Any], predictor: Any) -> np.dtype[Any]:
    """Labels that are Python strings are stored as text as wide as the widest."""
    labels = [label for classes in _classes(predictor) for label in classes]
    if dtype.kind == "O" and labels and all(isinstance(label, str) for label in labels):
        return np.asarray([str(label) for label in labels]).dtype
    return dtype


def _column_names(method: str, empty: np.ndarray, predictor: Any) -> Sequence[str]:
    if empty.ndim == 1:
        return [{"predict": "prediction", "predict_raw": "raw"}.get(method, method)]
    names: list[str] = []
    if method == "predict_proba":
        classes = _classes(predictor)
        for k, labels in enumerate(classes):
            names += [f"proba_{k}_{label}" if len(classes) > 1 else f"proba_{label}" for label in labels]
    if len(names) == empty.shape[1] == len(set(names)):
        return names
    short = {"predict": "prediction", "predict_raw": "raw", "apply": "tree", "predict_proba": "proba"}
    return [f"{short.get(method, method)}_{i}" for i in range(empty.shape[1])]
