"""``woodpecker tune`` and ``woodpecker measure`` on the command line, and tuning in two halves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker.errors import ArtifactError, InputError, MissingExtraError
from woodpecker.runtime import candidates
from woodpecker.tuning import halves, job, logs, offline, records, remote, space

from .cli_support import PROGRAM, cli_fixture, failed, frame, lgb, xgb  # noqa: F401
from .gallery import grown

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


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    """(forest, folder): candidates of a small model, not measured."""
    forest = grown(1, 6, 4, dtype=np.float32)
    folder = tmp_path_factory.mktemp("halves") / "candidates"
    assert halves.make(forest, folder, trials=4, batches=(1, 64)) == 4
    return forest, folder


MEASURE = "import sys; from woodpecker.cli import main; sys.exit(main(['measure', sys.argv[1]]))"


def test_the_second_half_needs_the_runtime_alone(halved, tmp_path):
    forest, made = halved
    folder = tmp_path / "on the device"
    shutil.copytree(made, folder)
    (folder / "forest.npz").unlink()
    with pytest.raises(InputError, match="was not measured to the end"):
        halves.take(folder, tuning_logs=tmp_path / "logs")
    block = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('tvm', 'typer', 'rich', 'xgboost', 'lightgbm', 'sklearn'):\n"
        "            raise ImportError(name, name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    (tmp_path / "sitecustomize.py").write_text(block)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(wp.__file__).parents[1]}"}
    run = [sys.executable, "-c", MEASURE, str(folder)]
    done = subprocess.run(run, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "4 candidates measured" in done.stdout
    assert len(candidates.read_trials(folder)) == 4
    shutil.copy(made / "forest.npz", folder)
    result = halves.take(folder, tuning_logs=tmp_path / "logs")
    assert result.record.trials == 4
    assert records.read(tmp_path / "logs")[0].record == result.record
    tuning = wp.compile(forest, tuning_logs=tmp_path / "logs").inspect()["tuning"]
    assert tuning["from"] == "this model"


@pytest.mark.full
def test_a_second_round_joins_what_the_first_one_found(halved, tmp_path):
    forest, made = halved
    folder = tmp_path / "rounds"
    shutil.copytree(made, folder)
    listed = candidates.read_list(folder)
    for i, candidate in enumerate(listed["candidates"]):
        trial = {"plan": candidate["plan"], "status": "ok", "ns": {"1": 10.0 + 90 * (i % 2), "64": 10.0 - 5 * (i % 2)}}
        candidates.append_line(folder / candidates.TRIALS, json.dumps(trial) + "\n")
    assert halves.make(forest, folder, trials=3, batches=(1, 64)) == 3
    after = candidates.read_list(folder)["candidates"]
    assert after[:4] == listed["candidates"]
    assert len({candidates.key(c["plan"]) for c in after}) == 7
    with pytest.raises(InputError, match="belongs to another job"):
        halves.make(grown(2, 6, 4), folder, trials=3)


@pytest.mark.full
def test_measuring_finds_wrong_crashing_and_hanging_candidates(halved, tmp_path):
    _, made = halved
    folder = tmp_path / "faulty"
    shutil.copytree(made, folder)
    wanted = np.load(folder / candidates.WANTED)
    wanted[3, 0] = np.nextafter(wanted[3, 0], 9)
    np.save(folder / candidates.WANTED, wanted)
    listed = candidates.read_list(folder)
    (folder / listed["candidates"][1]["code"]).write_bytes(b"no library")
    assert [t["status"] for t in candidates.measure_all(folder)] == ["wrong", "crashed", "wrong", "wrong"]
    assert json.loads((folder / candidates.PAIRED).read_text())["plans"] == []
    with pytest.raises(InputError, match="the default plan was not measured"):
        halves.take(folder, tuning_logs=tmp_path / "logs")
    (folder / candidates.TRIALS).unlink()
    assert {t["status"] for t in candidates.measure_all(folder, timeout=0.05)} == {"timeout"}


def test_a_folder_is_measured_by_one_process_and_its_files_are_no_modules(halved, tmp_path):
    _, made = halved
    folder = tmp_path / "locked"
    shutil.copytree(made, folder)
    with candidates.locked(folder), pytest.raises(InputError, match="another tuning job is running"):
        candidates.measure_all(folder)
    for wrong in ("5", None, float("nan"), -1.0):
        with pytest.raises(InputError, match="timeout must be positive"):
            candidates.measure_all(folder, timeout=wrong)
    assert not (folder / candidates.TRIALS).exists()
    (folder / "json.py").write_text("raise SystemExit('this is no module')")
    listed = json.loads((folder / candidates.LIST).read_text())
    default = [c for c in listed["candidates"] if c["plan"] == listed["default"]]
    (folder / candidates.LIST).write_text(json.dumps({**listed, "candidates": default}))
    assert [t["status"] for t in candidates.measure_all(folder)] == ["ok"]


@pytest.mark.full
def test_a_winner_whose_entries_are_wrong_is_not_taken(halved, tmp_path, monkeypatch):
    _, made = halved
    folder = tmp_path / "taken"
    shutil.copytree(made, folder)
    default = candidates.read_list(folder)["default"]
    trial = {"plan": default, "status": "ok", "ns": {"1": 10.0, "64": 10.0}}
    (folder / candidates.TRIALS).write_text(json.dumps(trial) + "\n")
    plans = [list(space.single("perfect_tree_traversal", {"interleave": n, "trees": 1})) for n in (16, 32)]
    times = [{b: [ns] * 15 for b in ("1", "64")} for ns in (10.0, 2.0, 5.0)]
    (folder / candidates.PAIRED).write_text(json.dumps({"plans": [default, *plans], "times": times, "cores": 2}))
    monkeypatch.setattr(offline, "WORKER", (str(Path(__file__).with_name("tuning_faults.py")),))
    result = halves.take(folder, tuning_logs=tmp_path / "logs")
    assert list(result.record.plan) == plans[1]
    assert result.gain == pytest.approx(2.0)


def test_folders_that_cannot_be_measured(halved, tmp_path, cli):
    _, made = halved
    folder = tmp_path / "other"
    shutil.copytree(made, folder)
    assert "holds no candidates" in failed(cli("measure", tmp_path))
    listed = json.loads((folder / candidates.LIST).read_text())
    for change, error, message in (
        ({"format": 9}, InputError, "has format 9"),
        ({"resolved": {**listed["resolved"], "machine": "vax"}}, ArtifactError, "compiled for vax"),
    ):
        (folder / candidates.LIST).write_text(json.dumps({**listed, **change}))
        with pytest.raises(error, match=message):
            candidates.measure_all(folder)
    for change in ({"batches": [1, 10**9]}, {"candidates": []}, {"n_rows": "9"}, {"resolved": 3}, {"default": None}):
        (folder / candidates.LIST).write_text(json.dumps({**listed, **change}))
        with pytest.raises(InputError, match="is damaged"):
            candidates.measure_all(folder)
    (folder / candidates.LIST).write_text("{")
    assert "is damaged" in failed(cli("measure", folder))
    (folder / candidates.LIST).write_text(json.dumps(listed))
    with pytest.raises(InputError, match="was not measured to the end"):
        halves.take(folder)
    (folder / candidates.PAIRED).write_text('{"plans": [3]}')
    short = {"plan": listed["default"], "status": "ok", "ns": {"1": 3.0}}
    (folder / candidates.TRIALS).write_text(json.dumps(short))
    with pytest.raises(InputError, match="the default plan was not measured"):
        halves.take(folder)
    whole = {**short, "ns": {str(n): 3.0 for n in listed["batches"]}}
    (folder / candidates.TRIALS).write_text(json.dumps(whole))
    with pytest.raises(InputError, match="is damaged"):
        halves.take(folder)
    (folder / candidates.PAIRED).write_text('{"plans": [], "cores": 2}')
    assert halves.take(folder, tuning_logs=tmp_path / "logs").gain == 1.0
    (folder / "forest.npz").write_bytes(b"no forest")
    with pytest.raises(InputError, match="is damaged"):
        halves.take(folder)
    task = json.loads((folder / "task.json").read_text())
    (folder / "task.json").write_text(json.dumps({**task, "versions": {"tvm": "0"}}))
    with pytest.raises(InputError, match="make it again"):
        halves.take(folder)


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
