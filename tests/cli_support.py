"""What the tests of the command line share: a folder with models, artifacts and rows, and a way to run commands."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from woodpecker.cli import main

pytest.importorskip("typer")
pytest.importorskip("tvm")
pytest.importorskip("pyarrow")
pd = pytest.importorskip("pandas")
lgb = pytest.importorskip("lightgbm")
xgb = pytest.importorskip("xgboost")

PROGRAM = [sys.executable, "-m", "woodpecker.cli"]


def frame(n: int = 300) -> Any:
    rng = np.random.default_rng(0)
    X = pd.DataFrame(rng.normal(size=(n, 3)), columns=["a", "b", "c"])
    X["size"] = pd.Categorical(rng.choice([10, 20, 30], n))
    X["fruit"] = pd.Categorical(rng.choice(["pear", "fig"], n))
    X.loc[::7, "b"] = np.nan
    X.loc[::11, "fruit"] = None
    return X


@pytest.fixture(name="folder", scope="module")
def folder_fixture(tmp_path_factory):
    """A LightGBM model with names and categories, an XGBoost model without, their artifacts, and rows."""
    return build(tmp_path_factory.getbasetemp() / "cli")


@functools.cache
def build(where: Path) -> Path:
    where.mkdir()
    X = frame()
    y = X["a"] + (X["fruit"] == "fig") + X["size"].astype(float) / 20
    options = {"num_threads": 1, "verbose": -1, "num_leaves": 8, "min_data_per_group": 1}
    lgb.train(options, lgb.Dataset(X, y), 5).save_model(where / "named.txt")
    Z = np.random.default_rng(1).normal(size=(300, 4)).astype(np.float32)
    labels = (Z[:, 0] > 0).astype(int) + (Z[:, 1] > 0.5)
    options = {"objective": "multi:softprob", "num_class": 3, "max_depth": 3, "nthread": 1}
    xgb.train(options, xgb.DMatrix(Z, labels), 4).save_model(where / "plain.ubj")
    X.to_parquet(where / "rows.parquet")
    X.assign(id=range(len(X))).to_csv(where / "rows.csv", index=False)
    X.to_csv(where / "rows.tsv", index=False, sep="\t")
    np.save(where / "rows.npy", Z)
    for model in ("named.txt", "plain.ubj"):
        assert main(["compile", str(where / model), "-o", str((where / model).with_suffix(".so"))]) == 0
    return where


@pytest.fixture(name="cli")
def cli_fixture(folder, capfd, monkeypatch):
    """Runs a command in the folder and returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(folder)

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return run


def failed(result: tuple[int, str, str], code: int = 2) -> str:
    """The one line on stderr of a command that failed."""
    assert result[0] == code, result
    assert result[1] == ""
    (line,) = result[2].splitlines()
    assert line.startswith("error: ")
    return line


def booster(folder: Path) -> Any:
    return lgb.Booster(model_file=folder / "named.txt")
