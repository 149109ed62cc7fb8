"""``woodpecker bench``: how fast an artifact is on this machine."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..errors import InputError
from .common import Device, command, note, progress

_BATCHES = (1, 64, 1024, 100_000)
_SAMPLE_NS = 5_000_000
"""A timed sample repeats the call until it lasts about this long, so that the clock does not show."""


@command
def main(
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="The .so.", show_default=False)],
    rows: Annotated[
        int, typer.Option(min=1, max=10**9, help="How many different rows to take batches from.")
    ] = 100_000,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Rows per call; may be repeated. [default: 1, 64, 1024, 100000]")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads per call.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Timed samples of each batch size.")] = 21,
    method: Annotated[str, typer.Option(help="predict_raw, predict, apply, ...")] = "predict_raw",
    dtype: Annotated[str, typer.Option(help="float32 or float64.")] = "float32",
    data: Annotated[Path | None, typer.Option(help="Real rows: a .npy file.", show_default=False)] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random rows.")] = 0,
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """Time whole calls from Python, in ns per row, over samples of all batch sizes taken in turn.

    The rows are random (standard normal) unless --data gives real ones, which may take other ways through the trees
    and other times. Take the median; a wide range between the percentiles means a busy machine.

    \b
    Examples:
      woodpecker bench model.so
      woodpecker bench model.so --batch 1 --batch 1024 --threads 2 --json
      woodpecker bench model.so --data rows.npy
    """
    import woodpecker

    predictor = woodpecker.load(artifact, device=device, num_threads=threads)
    known = predictor.inspect()["methods"]
    if method not in known:
        raise InputError(f"{artifact} has no method {method!r}; it has {', '.join(known)}")
    X = _rows(data, rows, predictor.n_features_in_, dtype, seed)
    sizes = list(dict.fromkeys(min(b, len(X)) for b in batch or _BATCHES))
    if batch and max(batch) > len(X):
        note(f"batches are limited to the {len(X):,} rows there are: raise --rows")
    with progress("timing", repeats * len(sizes)) as advance:
        samples = _measure(getattr(predictor, method), X, sizes, repeats, advance)
    facts = {
        "artifact": str(artifact),
        "strategy": predictor.strategy,
        "method": method,
        "dtype": dtype,
        "threads": threads,
        "repeats": repeats,
        "rows": "random" if data is None else str(data),
        "ns_per_row": [{"batch": size, **_summary(samples[size])} for size in sizes],
    }
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _show(facts)


def _rows(data: Path | None, n: int, n_features: int, dtype: str, seed: int) -> np.ndarray:
    if dtype not in ("float32", "float64"):
        raise InputError(f"--dtype must be float32 or float64, found {dtype!r}")
    if data is None:
        return np.random.default_rng(seed).standard_normal((n, n_features), dtype=np.dtype(dtype))
    if data.suffix.lower() != ".npy":
        raise InputError(f"--data {data} must be a .npy file")
    from .tables import map_npy

    X = map_npy(data)[:n]
    if X.dtype.kind not in "biuf":
        raise InputError(f"{data} holds {X.dtype}, not real numbers")
    if len(X) == 0:
        raise InputError(f"{data} holds no rows")
    return np.ascontiguousarray(X.astype(dtype))


def _measure(run: Any, X: np.ndarray, sizes: list[int], repeats: int, advance: Any) -> dict[int, list[float]]:
    """ns per row of each sample. Samples of all sizes alternate, so that a slow minute hits all of them."""
    calls = {}
    for size in sizes:
        run(X[:size])
        started = time.perf_counter_ns()
        run(X[:size])
        calls[size] = max(1, min(10_000, _SAMPLE_NS // max(1, time.perf_counter_ns() - started)))
    samples: dict[int, list[float]] = {size: [] for size in sizes}
    for repeat in range(repeats):
        for size in sizes:
            # Other rows each time: a predictor must not profit from a branch history of the same few.
            starts = [(repeat * calls[size] + i) * size % (len(X) - size + 1) for i in range(calls[size])]
            views = [X[start : start + size] for start in starts]
            started = time.perf_counter_ns()
            for view in views:
                run(view)
            samples[size].append((time.perf_counter_ns() - started) / (calls[size] * size))
            advance(1)
    return samples


def _summary(samples: list[float]) -> dict[str, float]:
    p10, median, p90 = np.percentile(samples, [10, 50, 90])
    numbers = {"median": median, "p10": p10, "p90": p90, "min": min(samples)}
    return {name: round(float(value), 2) for name, value in numbers.items()}


def _show(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{facts['artifact']}: {facts['strategy']}, {facts['method']}, {facts['threads']} thread(s)")
    for name in ("rows per call", "median ns/row", "10 %", "90 %", "best", "µs per call"):
        table.add_column(name, justify="right")
    for line in facts["ns_per_row"]:
        figures = [f"{line[name]:,.1f}" for name in ("median", "p10", "p90", "min")]
        table.add_row(f"{line['batch']:,}", *figures, f"{line['median'] * line['batch'] / 1000:,.1f}")
    Console(markup=False, highlight=False).print(table)
