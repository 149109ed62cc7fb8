"""The command line, end to end: what it prints, what it writes, how it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker.cli import common, main
from woodpecker.runtime import files

from .cli_support import PROGRAM, booster, cli_fixture, failed, folder_fixture, frame  # noqa: F401


class TestHelp:
    def test_every_command_has_examples_and_exit_codes(self, cli):
        code, out, _ = cli("--help")
        assert code == 0
        for name in ("compile", "predict", "inspect", "verify", "bench", "tune", "measure"):
            assert name in out
            code, text, _ = cli(name, "--help")
            assert code == 0
            assert f"woodpecker {name} " in text.split("Example", 1)[1]
            assert "1 a check found a disagreement" in " ".join(text.split())

    def test_version(self, cli):
        assert cli("--version") == (0, f"woodpecker {wp.__version__}\n", "")

    @pytest.mark.parametrize(
        "arguments", [["no-such"], ["compile"], ["predict", "--no-such"], ["bench", "x", "--rows", "0"]]
    )
    def test_wrong_usage(self, cli, arguments):
        code, out, err = cli(*arguments)
        assert (code, out) == (2, "")
        assert "Traceback" not in err
        assert "Error" in err

    def test_help_imports_nothing_heavy(self):
        code = """
import sys
from woodpecker.cli import main
assert main(["predict", "--help"]) == 0
loaded = {"tvm", "tvm_ffi", "xgboost", "lightgbm", "sklearn", "pandas", "pyarrow", "scipy"} & set(sys.modules)
raise SystemExit(f"imported {loaded}" if loaded else 0)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def test_without_typer(self, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "typer", None)
        assert main(["--help"]) == 3
        assert capsys.readouterr().err == (
            "error: the command line needs typer, which is not installed: pip install 'woodpecker[cli]'\n"
        )


class TestCompile:
    def test_options(self, cli, tmp_path):
        out = tmp_path / "m.so"
        arguments = ["--strategy", "tree_traversal", "--option", "unroll=2", "--iteration-range", "0:2"]
        code, text, err = cli("compile", "plain.ubj", "-o", out, *arguments)
        assert (code, err) == (0, "")
        assert f"{out}: 6 trees, strategy tree_traversal (chosen by the user)" in text
        predictor = wp.load(out)
        assert predictor.inspect()["plan"][0]["options"]["unroll"] == 2
        assert predictor.n_trees_ == 6
        assert os.listdir(tmp_path) == ["m.so"]

    @pytest.mark.full
    def test_several_targets(self, cli, tmp_path, monkeypatch):
        out = tmp_path / "m.so"
        arguments = ["--strategy", "gemm", "--target", "x86-64-v3", "--target", "x86-64-v2"]
        code, text, err = cli("compile", "plain.ubj", "-o", out, *arguments)
        assert (code, err) == (0, "")
        assert "(chosen by the user), 2 CPU levels, " in text
        monkeypatch.setenv("WOODPECKER_CPU_LEVEL", "x86-64-v2")
        lines = cli("inspect", out)[1].splitlines()
        assert [line.split(": ")[0].split() for line in lines if line.startswith("CPU level")] == [
            ["CPU", "level", "1", "x86-64-v2"],
            ["CPU", "level", "2", "x86-64-v3"],
        ]
        assert [line.endswith("; gemm; runs here") for line in lines if line.startswith("CPU level")] == [True, False]
        levels = json.loads(cli("inspect", out, "--json")[1])["levels"]
        assert [level["in_use"] for level in levels] == [True, False]
        assert cli("predict", out, "rows.npy", "-o", tmp_path / "p.csv")[0] == 0
        monkeypatch.setenv("WOODPECKER_CPU_LEVEL", "x86-64-v4")
        message = "WOODPECKER_CPU_LEVEL is 'x86-64-v4'; the CPU levels of this model are x86-64-v2, x86-64-v3"
        assert message in failed(cli("inspect", out))
        assert message in failed(cli("predict", out, "rows.npy", "-o", tmp_path / "p.csv"))

    @pytest.mark.full
    def test_precision_and_post_transform(self, cli, tmp_path):
        out = tmp_path / "m.so"
        arguments = ["--strategy", "tree_traversal", "--precision", "fast", "--post-transform", "sigmoid"]
        assert cli("compile", "named.txt", "-o", out, *arguments)[0] == 0
        predictor = wp.load(out)
        X = frame()
        raw = predictor.predict_raw(X)
        assert raw.dtype == np.float32
        np.testing.assert_allclose(predictor.predict(X), 1 / (1 + np.exp(-raw[:, 0])), rtol=1e-5)
        assert "precision 'fast'" in failed(cli("verify", "named.txt", out, "--data", "rows.parquet"))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["none.txt", "-o", "m.so"], "there is no file none.txt"),
            (["rows.npy", "-o", "m.so"], "rows.npy is not a model file"),
            (["named.so", "-o", "m.so"], "woodpecker.load"),
            (["named.txt", "-o", "."], ". is a directory"),
            (["named.txt", "-o", "none/m.so"], "there is no folder none"),
            (["named.txt", "-o", "named.txt"], "the output named.txt is the input named.txt, which would be lost"),
            (["named.txt", "-o", "../cli/named.txt"], "is the input named.txt"),
            (["named.txt", "-o", "m.so", "--strategy", "fastest"], "unknown strategy 'fastest'"),
            (["named.txt", "-o", "m.so", "--option", "unroll"], "name=value, found 'unroll'"),
            (["named.txt", "-o", "m.so", "--option", "a=1", "--option", "a=2"], "a is given twice"),
            (["named.txt", "-o", "m.so", "--option", "target=3"], "--option target is no option of a strategy"),
            (["named.txt", "-o", "m.so", "--option", "model=3"], "--option model is no option of a strategy"),
            (["named.txt", "-o", "m.so", "--option", "num_threads=3"], "--option num_threads is no option"),
            (
                ["named.txt", "-o", "m.so", "--option", "unroll=" + "9" * 5000],
                "unroll=9999999999999...: 5,007 characters",
            ),
            (["named.txt", "-o", "m.so", "--target", '{"kind":"llvm","mcpu":[1]}'], "mcpu must be a string"),
            (["named.txt", "-o", "m.so", "--target", '{"kind":"llvm","mcpu":"i386"}'], "has no 64-bit mode"),
            (["named.txt", "-o", "m.so", "--iteration-range", "5"], "must look like 0:50, found '5'"),
            (["named.txt", "-o", "m.so", "--target", "nonesuch"], "nonesuch"),
            (["named.txt", "-o", "m.so", "--target", "x86-64", "--target", "x86-64-v4"], "is listed twice"),
            (["named.txt", "-o", "m.so", "--missing", "0"], "missing=0.0"),
        ],
    )
    def test_failures(self, cli, folder, arguments, message):
        before = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
        assert message in failed(cli("compile", *arguments))
        assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == before

    def test_without_the_compiler(self, cli, monkeypatch):
        monkeypatch.setitem(sys.modules, "tvm", None)
        assert "woodpecker[compiler]" in failed(cli("compile", "named.txt", "-o", "m.so"), 3)


class TestInspect:
    def test_artifact_and_model_say_the_same(self, cli, folder):
        seen = {}
        for name in ("named.so", "named.txt"):
            code, out, err = cli("inspect", name, "--json")
            assert (code, err) == (0, "")
            seen[name] = json.loads(out)
        artifact, model = seen["named.so"], seen["named.txt"]
        assert artifact["kind"] == "artifact"
        assert model["kind"] == "model"
        for key in ("n_trees", "n_features", "n_outputs", "feature_names", "methods", "acc_dtype", "stats", "plan"):
            assert artifact[key] == model[key], key
        assert artifact["n_trees"] == 5
        assert artifact["feature_names"] == ["a", "b", "c", "size", "fruit"]
        assert artifact["bytes"] == (folder / "named.so").stat().st_size
        leaves = booster(folder).trees_to_dataframe()["split_feature"].isna().sum()
        assert artifact["stats"]["leaves"] == leaves

    @pytest.mark.parametrize("name", ["plain.so", "plain.ubj"])
    def test_for_people(self, cli, name):
        code, out, err = cli("inspect", name)
        assert (code, err) == (0, "")
        for word in (
            "12",
            "xgboost",
            "at most 3",
            "distinct predicates",
            "strategy",
            "ns/row",
            "target",
            "predict_raw",
        ):
            assert word in out

    @pytest.mark.parametrize("name", ["none.so", ".", "rows.npy", "rows.csv"])
    def test_failures(self, cli, name):
        failed(cli("inspect", name))

    def test_a_library_that_is_no_artifact(self, cli, tmp_path):
        (tmp_path / "x.so").write_bytes(b"\x7fELF" + bytes(1000))
        failed(cli("inspect", tmp_path / "x.so"))


class TestVerify:
    @pytest.mark.parametrize(
        ("model", "rows", "other"), [("named.txt", "rows.parquet", "lightgbm"), ("plain.ubj", "rows.npy", "xgboost")]
    )
    def test_agreement(self, cli, model, rows, other):
        code, out, err = cli("verify", model, Path(model).with_suffix(".so"), "--data", rows)
        assert (code, err) == (0, "")
        assert f"300 rows compared with {other}" in out
        assert "unequal leaf ids: 0 of" in out
        assert "unequal raw-score bits: 0 of" in out

    def test_disagreement(self, cli, folder, tmp_path):
        """One leaf value of the model file is changed in its last digit; the forest has the same shape."""
        text = (folder / "named.txt").read_text()
        line = next(part for part in text.splitlines() if part.startswith("leaf_value="))
        value = line.removeprefix("leaf_value=").split()[0]
        (tmp_path / "other.txt").write_text(text.replace(value, repr(float(np.nextafter(float(value), 9))), 1))
        code, out, err = cli("verify", tmp_path / "other.txt", "named.so", "--data", "rows.parquet")
        assert (code, err) == (1, "")
        assert "unequal leaf ids: 0 of" in out
        assert "unequal raw-score bits: 0 of" not in out

    def test_leaf_ids_count_too(self, cli, folder, tmp_path):
        text = (folder / "named.txt").read_text()
        line = next(part for part in text.splitlines() if part.startswith("threshold="))
        changed = " ".join(repr(float(t) + 0.5) for t in line.removeprefix("threshold=").split())
        (tmp_path / "other.txt").write_text(text.replace(line, f"threshold={changed}", 1))
        code, out, err = cli("verify", tmp_path / "other.txt", "named.so", "--data", "rows.parquet")
        assert (code, err) == (1, "")
        assert "unequal leaf ids: 0 of" not in out

    def test_without_the_source_library(self, cli, monkeypatch):
        monkeypatch.setitem(sys.modules, "xgboost", None)
        code, out, err = cli("verify", "plain.ubj", "plain.so", "--data", "rows.npy")
        assert code == 0
        assert "compared with woodpecker.reference" in out
        assert err == (
            "note: xgboost is not installed: comparing with woodpecker's own interpreter of the model file instead\n"
        )

    @pytest.mark.full
    def test_rounds(self, cli, tmp_path):
        out = tmp_path / "m.so"
        assert cli("compile", "plain.ubj", "-o", out, "--iteration-range", "1:3")[0] == 0
        rows = ["--data", "rows.npy"]
        code, _, err = cli("verify", "plain.ubj", out, *rows, "--iteration-range", "1:3")
        assert (code, err) == (0, "")
        assert cli("verify", "plain.ubj", out, *rows, "--iteration-range", "0:2")[0] == 1
        assert "n_trees 6 is not 12" in failed(cli("verify", "plain.ubj", out, *rows))

    def test_nothing_compared_is_no_agreement(self, cli, tmp_path):
        np.save(tmp_path / "x.npy", np.zeros((0, 4)))
        result = cli("verify", "plain.ubj", "plain.so", "--data", tmp_path / "x.npy")
        assert "nothing was compared" in failed(result)

    def test_rows_that_the_library_refuses(self, cli, tmp_path):
        np.save(tmp_path / "x.npy", np.full((2, 4), np.inf))
        result = cli("verify", "plain.ubj", "plain.so", "--data", tmp_path / "x.npy")
        assert "xgboost refuses these rows" in failed(result)

    def test_another_model(self, cli):
        result = cli("verify", "named.txt", "plain.so", "--data", "rows.parquet")
        assert "was not compiled from named.txt" in failed(result)


class TestBench:
    def test_json(self, cli):
        arguments = ["--rows", 200, "--batch", 1, "--batch", 100, "--repeats", 3, "--json"]
        code, out, err = cli("bench", "plain.so", *arguments)
        assert (code, err) == (0, "")
        facts = json.loads(out)
        assert [line["batch"] for line in facts["ns_per_row"]] == [1, 100]
        for line in facts["ns_per_row"]:
            assert 0 < line["min"] <= line["p10"] <= line["median"] <= line["p90"]

    def test_for_people_with_real_rows(self, cli):
        code, out, err = cli("bench", "plain.so", "--data", "rows.npy", "--batch", 1000, "--repeats", 1)
        assert code == 0
        assert "median ns/row" in out
        assert "300" in out
        assert err == "note: batches are limited to the 300 rows there are: raise --rows\n"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--method", "fit"], "no method 'fit'"),
            (["--dtype", "float16"], "--dtype must be"),
            (["--data", "rows.csv"], "must be a .npy file"),
            (["--data", "none.npy"], "none.npy"),
            (["--data", "named.npy"], "named.npy"),
            (["--data", "complex.npy"], "complex.npy holds complex128, not real numbers"),
        ],
    )
    def test_failures(self, cli, folder, arguments, message):
        np.save(folder / "complex.npy", np.ones((2, 4), complex))
        assert message in failed(cli("bench", "plain.so", *arguments))

    @pytest.mark.parametrize("arguments", [["--seed", "-1"], ["--rows", "9" * 25]])
    def test_numbers_out_of_range(self, cli, arguments):
        code, out, err = cli("bench", "plain.so", *arguments)
        assert (code, out) == (2, "")
        assert "Invalid value for" in err


class TestCommon:
    @pytest.mark.parametrize("command", ["predict", "verify", "bench"])
    @pytest.mark.parametrize(
        "header",
        [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (-30, 3), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': ((30, 3), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 64), }",
        ],
    )
    def test_damaged_npy_headers(self, cli, tmp_path, command, header):
        path = tmp_path / "x.npy"
        line = header.ljust(117) + "\n"
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line.encode() + bytes(360))
        arguments = {
            "predict": ["plain.so", path, "-o", tmp_path / "o.npy"],
            "verify": ["plain.ubj", "plain.so", "--data", path],
            "bench": ["plain.so", "--data", path],
        }
        assert "x.npy cannot be read as a .npy file" in failed(cli(command, *arguments[command]))

    def test_an_archive_called_npy(self, cli, tmp_path):
        np.savez(tmp_path / "x.npz", np.zeros((2, 4)))
        (tmp_path / "x.npz").rename(tmp_path / "x.npy")
        assert "archive" in failed(cli("predict", "plain.so", tmp_path / "x.npy", "-o", tmp_path / "o.npy"))

    @pytest.mark.full
    def test_ctrl_c_is_clean(self, folder, tmp_path):
        np.save(tmp_path / "many.npy", np.zeros((300_000, 4), np.float32))
        command = [*PROGRAM, "bench", "plain.so", "--data", str(tmp_path / "many.npy"), "--repeats", "1000000"]
        with subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as running:
            time.sleep(3)
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=60)
        assert (running.returncode, out, err) == (130, "", "error: interrupted\n")

    @pytest.mark.parametrize(
        "arguments",
        [
            ["compile", "fifo", "-o", "m.so"],
            ["inspect", "fifo"],
            ["verify", "fifo", "plain.so", "--data", "rows.npy"],
            ["verify", "plain.ubj", "fifo", "--data", "rows.npy"],
            ["verify", "plain.ubj", "plain.so", "--data", "fifo.npy"],
            ["predict", "fifo", "rows.npy", "-o", "o.npy"],
            ["predict", "plain.so", "fifo.npy", "-o", "o.npy"],
            ["bench", "fifo"],
            ["bench", "plain.so", "--data", "fifo.npy"],
        ],
        ids=" ".join,
    )
    def test_no_command_waits_for_a_pipe(self, cli, folder, arguments):
        made = [folder / "fifo", folder / "fifo.npy"]
        writers = []
        for path in made:
            os.mkfifo(path)
            # With a writer that says nothing, a reader would not even be stuck in open(), where signals are late.
            writers.append(os.open(path, os.O_RDWR))
        signal.alarm(60)
        try:
            assert "is a device, pipe or socket" in failed(cli(*arguments))
        finally:
            signal.alarm(0)
            for path, writer in zip(made, writers, strict=True):
                os.close(writer)
                path.unlink()

    @pytest.mark.parametrize("command", ["--help", "--version", "predict --help", "inspect plain.so"])
    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_a_full_disk(self, folder, command):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*PROGRAM, *command.split()], cwd=folder, stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert (done.returncode, done.stderr) == (2, "error: [Errno 28] No space left on device\n")

    def test_a_closed_output(self, folder):
        program = " ".join(PROGRAM)
        for command, message in [
            ("predict plain.so rows.npy -o -", "error: the standard output is closed: name a file to write\n"),
            ("predict none.so rows.npy -o - 2>&-", ""),
        ]:
            done = subprocess.run(
                ["bash", "-c", f"{program} {command} >&-"], cwd=folder, capture_output=True, text=True, check=False
            )
            assert (done.returncode, done.stderr) == (2, message)

    def test_a_bug_keeps_its_traceback(self):
        @common.command
        def broken() -> None:
            raise RuntimeError("a bug")

        with pytest.raises(RuntimeError, match="a bug"):
            broken()

    def test_atomic_path(self, tmp_path):
        out = tmp_path / "x"
        with files.atomic_path(out) as temporary:
            temporary.write_text("new")
            assert not out.exists()
        assert out.read_text() == "new"
        umask = os.umask(0)
        os.umask(umask)
        assert out.stat().st_mode & 0o777 == 0o666 & ~umask
        with pytest.raises(FileNotFoundError), files.atomic_path(out) as temporary:
            temporary.with_name("none").rename(temporary)
        assert out.read_text() == "new"
        assert os.listdir(tmp_path) == ["x"]

    def test_options(self):
        pairs = ["a=1", "b=0.5", "c=true", "d=x=y", "e="]
        assert common.parse_options(pairs) == {"a": 1, "b": 0.5, "c": True, "d": "x=y", "e": ""}
        assert common.parse_range("2:5") == (2, 5)
        assert common.parse_range(None) is None

    def test_sizes(self):
        assert [common.size(n) for n in (5, 2048, 3 << 20, 5 << 30)] == ["5 bytes", "2.0 KB", "3.0 MB", "5.0 GB"]

    def test_progress_is_silent_without_a_terminal(self, capfd):
        with common.progress("x", 3) as advance:
            advance(1)
        assert capfd.readouterr() == ("", "")

    def test_progress_on_a_terminal(self):
        import pty

        reader, terminal = pty.openpty()
        code = "from woodpecker.cli import common\nwith common.progress('counting', 3) as advance: advance(2)"
        done = subprocess.run([sys.executable, "-c", code], stderr=terminal, capture_output=False, check=False)
        os.close(terminal)
        text = os.read(reader, 65536).decode()
        os.close(reader)
        assert done.returncode == 0
        assert "counting" in text
        assert "2 of 3" in text
