"""C programs that use `woodpecker.h`: how they are made, and what they have to compute."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import woodpecker as wp
from woodpecker.forest import Method

from .gallery import grown, rows

ROOT = Path(__file__).parents[1]
INCLUDE = ROOT / "woodpecker" / "runtime" / "c"
SOURCES = Path(__file__).parent / "c"
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")
SIZES = (0, 1, 7, 1000)


def make(source: Path, program: Path, *flags: Any, compiler: Sequence[str] = ("cc",), include: Path = INCLUDE) -> Path:
    """Compile and link a C program; the libraries among the flags come after the source."""
    command = [*compiler, "-O1", *STRICT, f"-I{include}", source, *flags, "-o", program, "-lm", "-lpthread"]
    command += [] if sys.platform == "darwin" else ["-ldl"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def run(
    program: Sequence[Any],
    X: np.ndarray,
    what: str,
    folder: Path,
    *more: Any,
    threads: int = 1,
    stride: int | None = None,
    sizes: Sequence[int] = SIZES,
    **environment: str,
) -> bytes:
    """What tests/c/run.c writes for rows that lie ``stride`` elements apart."""
    stride = stride or X.shape[1]
    padded = np.full((len(X), stride), 7.5, X.dtype)
    padded[:, : X.shape[1]] = X
    padded.tofile(folder / "x.bin")
    kind = "f32" if X.dtype == np.float32 else "f64"
    (folder / "out.bin").unlink(missing_ok=True)
    command = [*program, folder / "x.bin", folder / "out.bin", kind, stride, what, threads, ",".join(map(str, sizes))]
    variables = {**os.environ, **environment}
    done = subprocess.run(
        list(map(str, [*command, *more])), capture_output=True, text=True, check=False, env=variables, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return (folder / "out.bin").read_bytes()


def expected(predictor: wp.Predictor, what: str, X: np.ndarray) -> bytes:
    """What Python returns for these rows, in the form of the C interface: labels are numbers of classes."""
    acc = predictor.predict_raw(X[:1]).dtype
    if what in ("raw", "apply"):
        return (predictor.predict_raw(X) if what == "raw" else predictor.apply(X)).tobytes()
    result = getattr(predictor, what)(X)
    if isinstance(result, list):  # several outputs
        result = np.concatenate(result, axis=1)
    if predictor._program.manifest["methods"][what]["kind"] == "label":
        classes = predictor.classes_ if isinstance(predictor.classes_, list) else [predictor.classes_]
        columns = np.asarray(result).reshape(len(X), len(classes)).T
        places = [[known.tolist().index(v) for v in c.tolist()] for known, c in zip(classes, columns, strict=True)]
        result = np.array(places).T
    return np.ascontiguousarray(result, acc).tobytes()


def compilers() -> list[str]:
    return [name for name in ("gcc", "clang") if shutil.which(name)]


SEVERAL = {
    "value": Method("value", "exp", {"subtract": 0.3}),
    "columns": Method("value", "softmax", {"columns": 2}),
    "proba": Method("proba", "softmax"),
    "label": Method("label"),
    "indicator": Method("indicator", "sigmoid"),
    "divided": Method("value", "lgb_sigmoid", {"divide": 3, "sigmoid": 0.7}),
    "argmax": Method("value", "argmax"),
}

ONE = {
    "proba": Method("proba", "sigmoid"),
    "label": Method("label", "sigmoid"),
    "above": Method("label", args={"above": 0.1}),
    "at_least": Method("label", "sigmoid", {"at_least": 0.5}),
    "outlier": Method("outlier", "identity", {"subtract": 0.1}),
    "isolation": Method("value", "isolation_score", {"denominator": 3.7}),
}


def binary(**fields):
    return grown(31, 8, 4, n_features=4, dtype=np.float32, base_score=0.5, **fields)


def check_all(forest, predictor, folder: Path, program: list, *more: object) -> None:
    methods = [m for m in predictor._program.manifest["methods"] if m != "transform"]
    for number, what in enumerate(["raw", "apply", *methods]):
        for dtype in ("float32", "float64"):
            X = rows(forest, sum(SIZES), number, dtype)
            got = run(program, X, what, folder, *more, threads=1 + number % 2, stride=X.shape[1] + 3 * (number % 2))
            assert got == expected(predictor, what, X), (what, dtype)


def loading(program: Path, path: Path, **environment: str) -> str:
    """What a program of tests/c/run.c says of a file that can't be loaded."""
    command = [program, "/dev/null", "/dev/null", "f32", "4", "raw", "1", "0", path]
    variables = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 1, (done.returncode, done.stderr)
    return done.stderr.strip()
