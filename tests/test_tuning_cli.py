"""``woodpecker tune`` and ``woodpecker measure`` on the command line, and tuning in two halves."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from woodpecker.errors import MissingExtraError
from woodpecker.runtime import candidates
from woodpecker.tuning import job, logs, records, remote

from .cli_support import PROGRAM, cli_fixture, failed, frame, lgb, xgb  # noqa: F401

QUICK = ("--trials", 3, "--batch", 1, "--batch", 64)


@pytest.fixture(name="folder", scope="module")
def models(tmp_path_factory) -> Path:
    """A model of each library, and rows of the one with names and categories."""
    folder = tmp_path_factory.mktemp("models")
    X = frame()
    options = {"num_threads": 1, "verbose": -1, "num_leaves": 8, "min_data_per_group": 1}
    lgb.train(options, lgb.Dataset(X, X["a"] + (X["fruit"] == "fig")), 5).save_model(folder / "named.txt")
    X.to_parquet(folder / "rows.parquet")
    Z = np.random.default_rng(1).normal(size=(300, 4)).astype(np.float32)
    xgb.train({"max_depth": 3, "nthread": 1}, xgb.DMatrix(Z, Z[:, 0]), 4).save_model(folder / "plain.ubj")
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home of this test's own, for records and work folders."""
    monkeypatch.setenv(logs.VARIABLE, str(tmp_path / "logs"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.full
def test_tune_then_compile(cli, folder, home):
    code, out, err = cli("tune", "named.txt", "--data", "rows.parquet", "--report", home / "report.html", *QUICK)
    assert (code, err) == (0, "")
    assert "gain over the default in the paired run" in out
    (entry,) = records.read(home / "logs")
    assert entry.record is not None
    assert entry.record.dtype == "float64"
    assert entry.record.rows == "given"
    text = (home / "report.html").read_text()
    assert "src=" not in text
    assert "<script" not in text
    plots = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(plots) == 2
    for plot in plots:
        points = ET.fromstring(plot).findall(".//{http://www.w3.org/2000/svg}circle")
        assert sum(point[:] != [] for point in points) == 3
    code, out, _ = cli("compile", "named.txt", "-o", home / "model.so")
    assert code == 0
    code, out, _ = cli("inspect", home / "model.so")
    assert "by a record (user) of this model: lightgbm" in out
    assert json.loads(cli("inspect", "named.txt", "--json")[1])["tuning"]["from"] == "this model"
    assert cli("verify", "named.txt", home / "model.so", "--data", "rows.parquet")[0] == 0
    shutil.rmtree(home / "logs")
    code, out, _ = cli("compile", "named.txt", "-o", home / "model.so", "--tuning-logs", home / "cache")
    assert "default plan; no record applies" in cli("inspect", home / "model.so")[1]


@pytest.mark.full
def test_tune_in_a_batch_job(cli, folder, home):
    code, out, err = cli("tune", "plain.ubj", "--json", "--tuning-logs", home / "here", *QUICK)
    assert (code, err) == (0, "")
    *trials, record = map(json.loads, out.splitlines())
    assert [t["status"] for t in trials] == ["ok"] * 3
    assert records.from_json(record) == records.read(home / "here")[0].record
    assert cli("tune", "plain.ubj", "--quiet", "--tuning-logs", home / "here", *QUICK) == (0, "", "")


@pytest.mark.full
def test_records_on_the_command_line(cli, folder, home):
    assert cli("tune", "plain.ubj", "--quiet", *QUICK)[0] == 0
    code, out, _ = cli("tune", "--list")
    assert code == 0
    assert "xgboost" in out and "gain" in out
    (listed,) = [line for line in cli("tune", "--list", "--json")[1].splitlines() if str(home) in line]
    assert json.loads(listed)["record"]["trials"] == 3
    assert "1 records" in cli("tune", "--export", home / "best.jsonl")[1]
    assert "1 records added" in cli("tune", "--merge", home / "best.jsonl", "--tuning-logs", home / "other")[1]
    log = next((home / "other").rglob("*.jsonl"))
    log.write_text(log.read_text() + "rubbish\n")
    assert "refused: Expecting value" in cli("tune", "--list", "--tuning-logs", home / "other")[1]
    assert "1 records stay, 1 lines dropped" in cli("tune", "--prune", "--tuning-logs", home / "other")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a MODEL to tune, or give one of --list"),
        (("absent.ubj",), "no file absent.ubj"),
        (("--list", "--prune"), "--list and --prune can't be given together"),
        (("plain.ubj", "--list"), "--list takes no MODEL"),
        (("--list", "--trials", 64, "--quiet"), "--list takes no --trials or --quiet"),
        (("--export", "x.jsonl", "--json", "--seed", 0), "--export takes no --json or --seed"),
        (("--merge", "x", "--data", "y.npy"), "--merge takes no --data"),
        (
            ("--prune", "--no-header", "--tuning-logs", "x", "--build", "y"),
            "--prune takes no --header/--no-header or --build",
        ),
        (("--import", "x", "--timeout", 60.0), "--import takes no --timeout"),
        (("plain.ubj", "--data", "absent.npy"), "no file absent.npy"),
        (("plain.ubj", "--tracker", "host"), "tracker and device_key go together"),
        (("plain.ubj", "--build", "x", "--work-dir", "y"), "--build takes no --work-dir"),
        (("plain.ubj", "--build", "x", "--memory", 4.0), "--build takes no --memory"),
        (("plain.ubj", "--build", "x", "--report", "r.html", "--json"), "--build takes no --report or --json"),
        (("plain.ubj", "--build", "x", "--tuning-logs", "y", "--timeout", 9), "no --tuning-logs or --timeout"),
        (("--import", "absent", "--report", "nowhere/report.html"), "no folder nowhere"),
        (("plain.ubj", "--report", "absent/report.html"), "no folder absent"),
        (("--import", "absent"), "absent holds no candidates"),
        (("--merge", "absent"), "no folder or file absent"),
        (("--prune",), "no folder"),
    ],
)
def test_wrong_usage(cli, folder, home, arguments, message):
    assert message in failed(cli("tune", *arguments))


def test_a_device_needs_a_tracker(cli, folder, home):
    assert "must look like HOST:PORT" in failed(cli("device", "serve", "--tracker", "here", "--key", "board"))
    assert "woodpecker device serve" in cli("device", "serve", "--help")[1].split("Example", 1)[1]


def test_what_rpc_needs_is_named(monkeypatch):
    monkeypatch.setattr(remote, "find_spec", lambda name: None if name == "tornado" else name)
    with pytest.raises(MissingExtraError, match=r"need tornado, .* pip install 'woodpecker\[tune\]'"):
        remote.devices("127.0.0.1:9", "board")


@pytest.mark.full
def test_ctrl_c_keeps_what_was_measured(folder, home):
    command = [*PROGRAM, "tune", str(folder / "plain.ubj"), "--json", "--trials", "500", "--work-dir", str(home / "w")]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert job.stdout is not None
    first = job.stdout.readline()
    job.send_signal(signal.SIGINT)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 130, err
    assert "the same command goes on" in err
    assert candidates.read_trials(home / "w")[0] == json.loads(first)
    time.sleep(0.2)
    running = subprocess.run(["ps", "axww"], capture_output=True, text=True, check=True).stdout
    assert str(home / "w") not in running


@pytest.mark.full
def test_halves_on_the_command_line(cli, folder, home):
    assert "3 candidates" in cli("tune", "plain.ubj", "--build", home / "c", *QUICK)[1]
    code, out, err = cli("measure", home / "c")
    assert (code, err) == (0, "")
    assert "3 candidates measured, 0 of them not" in out
    code, out, err = cli("tune", "--import", home / "c", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["model"].startswith("xgboost")
    assert job.log_folder(None) == home / "logs"
