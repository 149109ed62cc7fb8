"""The command line, end to end: what it prints, what it writes, how it fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import woodpecker as wp
from woodpecker.cli import common, main, tables
from woodpecker.errors import InputError
from woodpecker.runtime.rows import InputSpec, read_rows

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A LightGBM model with names and categories, an XGBoost model without, their artifacts, and rows."""
    where = tmp_path_factory.mktemp("cli")
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


@pytest.fixture
def cli(folder, capfd, monkeypatch):
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


class TestHelp:
    def test_every_command_has_examples_and_exit_codes(self, cli):
        code, out, _ = cli("--help")
        assert code == 0
        for name in ("compile", "predict", "inspect", "verify", "bench"):
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
            (["named.txt", "-o", "m.so", "--strategy", "fastest"], "unknown strategy 'fastest'"),
            (["named.txt", "-o", "m.so", "--option", "unroll"], "name=value, found 'unroll'"),
            (["named.txt", "-o", "m.so", "--option", "a=1", "--option", "a=2"], "a is given twice"),
            (["named.txt", "-o", "m.so", "--iteration-range", "5"], "must look like 0:50, found '5'"),
            (["named.txt", "-o", "m.so", "--target", "nonesuch"], "nonesuch"),
            (["named.txt", "-o", "m.so", "--missing", "0"], "missing=0.0"),
        ],
    )
    def test_failures(self, cli, folder, arguments, message):
        before = sorted(os.listdir(folder))
        assert message in failed(cli("compile", *arguments))
        assert sorted(os.listdir(folder)) == before

    def test_without_the_compiler(self, cli, monkeypatch):
        monkeypatch.setitem(sys.modules, "tvm", None)
        assert "woodpecker[compiler]" in failed(cli("compile", "named.txt", "-o", "m.so"), 3)


class TestPredict:
    @pytest.mark.parametrize("rows", ["rows.parquet", "rows.csv", "rows.tsv"])
    @pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
    def test_tables(self, cli, folder, tmp_path, rows, suffix, monkeypatch):
        monkeypatch.setattr(tables, "_SNIFFED", 2048)  # several batches
        out = tmp_path / f"out{suffix}"
        drop = ["--drop", "id"] if rows == "rows.csv" else []
        assert cli("predict", "named.so", rows, "-o", out, *drop) == (0, "", "")
        want = booster(folder).predict(frame())
        if suffix == ".npy":
            got = np.load(out)
        else:
            table = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
            assert list(table.columns) == ["prediction"]
            got = table["prediction"].to_numpy()
        assert got.tolist() == want.tolist()
        assert os.listdir(tmp_path) == [out.name]

    @pytest.mark.parametrize("method", ["predict", "predict_raw", "apply"])
    @pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
    def test_methods_with_columns(self, cli, folder, tmp_path, method, suffix, monkeypatch):
        monkeypatch.setattr(tables, "CHUNK_ROWS", 77)
        out = tmp_path / f"out{suffix}"
        assert cli("predict", "plain.so", "rows.npy", "-o", out, "--method", method, "--num-threads", 1) == (0, "", "")
        want = getattr(wp.load(folder / "plain.so"), method)(np.load(folder / "rows.npy"))
        if suffix == ".npy":
            got = np.load(out)
            assert got.dtype == want.dtype
        else:
            table = pd.read_csv(out) if suffix == ".csv" else pd.read_parquet(out)
            prefix = {"predict": "prediction", "predict_raw": "raw", "apply": "tree"}[method]
            assert list(table.columns) == [f"{prefix}_{i}" for i in range(want.shape[1])]
            got = table.to_numpy().astype(want.dtype)
        assert np.array_equal(got, want)

    def test_labels_and_probabilities(self, tmp_path):
        ensemble = pytest.importorskip("sklearn.tree")
        Z = np.random.default_rng(0).normal(size=(100, 2))
        labels = np.array(["no", "maybe", "yes"], object)[(Z[:, 0] > 0).astype(int) + (Z[:, 1] > 0)]
        model = ensemble.DecisionTreeClassifier(max_depth=3).fit(Z, labels)
        wp.compile(model, strategy="tree_traversal").save(tmp_path / "m.so")
        np.save(tmp_path / "z.npy", Z)
        run = ["predict", str(tmp_path / "m.so"), str(tmp_path / "z.npy"), "-o"]
        assert main([*run, str(tmp_path / "o.npy")]) == 0
        assert np.load(tmp_path / "o.npy", allow_pickle=False).tolist() == model.predict(Z).tolist()
        assert main([*run, str(tmp_path / "o.parquet"), "--method", "predict_proba"]) == 0
        table = pd.read_parquet(tmp_path / "o.parquet")
        assert list(table.columns) == [f"proba_{c}" for c in model.classes_]
        assert np.array_equal(table.to_numpy(), model.predict_proba(Z))

    @pytest.mark.parametrize("name", ["empty.csv", "empty.parquet", "empty.npy"])
    def test_no_rows(self, cli, tmp_path, name):
        path, artifact = tmp_path / name, "named.so"
        if name == "empty.csv":
            path.write_text("a,b,c,size,fruit\n")
        elif name == "empty.parquet":
            frame()[:0].to_parquet(path)
        else:
            np.save(path, np.zeros((0, 4)))
            artifact = "plain.so"
        assert cli("predict", artifact, path, "-o", tmp_path / "o.npy") == (0, "", "")
        assert len(np.load(tmp_path / "o.npy")) == 0

    def test_columns_in_another_order_and_without_a_header(self, cli, folder, tmp_path):
        Z = np.load(folder / "rows.npy").astype(np.float64)
        want = wp.load(folder / "plain.so").predict_raw(Z)
        np.savetxt(tmp_path / "z.csv", Z, delimiter=",", fmt="%.17g")
        run = ["predict", "plain.so", tmp_path / "z.csv", "-o", tmp_path / "o.npy", "--method", "predict_raw"]
        assert "pass --no-header" in failed(cli(*run))
        assert cli(*run, "--no-header") == (0, "", "")
        assert np.array_equal(np.load(tmp_path / "o.npy"), want)
        pd.DataFrame(Z).to_csv(tmp_path / "z.csv", index=False)  # pandas' own header of numbers
        assert cli(*run) == (0, "", "")
        assert np.array_equal(np.load(tmp_path / "o.npy"), want)
        frame()[["fruit", "c", "a", "size", "b"]].to_csv(tmp_path / "z.csv", index=False)
        assert cli("predict", "named.so", tmp_path / "z.csv", "-o", tmp_path / "o.npy") == (0, "", "")
        assert np.load(tmp_path / "o.npy").tolist() == booster(folder).predict(frame()).tolist()

    def test_csv_on_stdout(self, folder):
        command = [*PROGRAM, "predict", "plain.so", "rows.npy", "-o", "-"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines()[0] == '"prediction_0","prediction_1","prediction_2"'
        assert len(done.stdout.splitlines()) == 301

    def test_a_reader_that_goes_away(self, folder, tmp_path):
        np.save(tmp_path / "many.npy", np.zeros((100_000, 4), np.float32))
        command = f"{sys.executable} -m woodpecker.cli predict plain.so {tmp_path / 'many.npy'} -o - | head -1"
        done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.stdout.startswith('"prediction_0"')
        assert done.stderr == ""

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["named.so", "none.csv", "-o", "o.npy"], "there is no file none.csv"),
            (["none.so", "rows.csv", "-o", "o.npy"], "none.so"),
            (["named.txt", "rows.csv", "-o", "o.npy"], "named.txt"),
            (["named.so", "named.txt", "-o", "o.npy"], "must end in one of .npy, .csv, .tsv, .parquet"),
            (["named.so", "rows.parquet", "-o", "o.xls"], "o.xls must end in one of .npy, .csv, .parquet"),
            (["named.so", "rows.csv", "-o", "o.npy"], "it has 'id', unknown to the model"),
            (["named.so", "rows.csv", "-o", "o.npy", "--drop", "no"], "--drop no: rows.csv has no such column"),
            (["plain.so", "rows.npy", "-o", "o.npy", "--drop", "no"], "which a .npy file has not"),
            (["named.so", "rows.npy", "-o", "o.npy"], "X has 4 columns; the model has 5 features"),
            (["plain.so", "rows.npy", "-o", "o.npy", "--method", "fit"], "no method 'fit'; it has predict_raw, apply"),
            (["plain.so", "rows.npy", "-o", "o.npy", "--num-threads", "0"], "num_threads"),
        ],
    )
    def test_failures(self, cli, folder, arguments, message):
        before = sorted(os.listdir(folder))
        assert message in failed(cli("predict", *arguments))
        assert sorted(os.listdir(folder)) == before

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("x.npy", b"\x93NUMPY", "cannot be read as a .npy file"),
            ("x.npy", b"", "cannot be read as a .npy file"),
            ("x.parquet", b"PAR1", "cannot be read as a .parquet file"),
            ("x.csv", b"", "cannot be read as a .csv file"),
            ("x.csv", b"a,b,c,size,fruit\n1,2,3,10\n", "x.csv"),
            ("x.csv", b"a,b,c,size,fruit\n1,2,x,10,fig\n", "column 'c' is String"),
            ("x.csv", b"a,b,c,size,fruit\n1,2,3,1.5,fig\n", "x.csv"),
            ("x.csv", b"a,a,c,size,fruit\n1,2,3,10,fig\n", "more than one column called 'a'"),
        ],
    )
    def test_damaged_rows(self, cli, tmp_path, name, content, message):
        (tmp_path / name).write_bytes(content)
        before = sorted(os.listdir(tmp_path))
        assert message in failed(cli("predict", "named.so", tmp_path / name, "-o", tmp_path / "o.npy"))
        assert sorted(os.listdir(tmp_path)) == before

    def test_a_pickle_in_a_npy_file_is_not_opened(self, cli, tmp_path):
        np.save(tmp_path / "x.npy", np.array([[{}]], object), allow_pickle=True)
        assert "pickle" in failed(cli("predict", "plain.so", tmp_path / "x.npy", "-o", tmp_path / "o.npy"))

    def test_an_error_in_a_later_chunk_leaves_no_file(self, cli, tmp_path, monkeypatch):
        monkeypatch.setattr(tables, "_SNIFFED", 4096)
        lines = ["a,b,c,size,fruit", *["1,2,3,10,fig"] * 2000, "1,2,oops,10,fig"]
        (tmp_path / "x.csv").write_text("\n".join(lines))
        assert "oops" in failed(cli("predict", "named.so", tmp_path / "x.csv", "-o", tmp_path / "o.npy"))
        assert os.listdir(tmp_path) == ["x.csv"]

    def test_a_complete_file_replaces_an_old_one_and_a_failure_keeps_it(self, cli, tmp_path):
        out = tmp_path / "o.npy"
        out.write_text("old")
        assert cli("predict", "plain.so", "none.npy", "-o", out)[0] == 2
        assert out.read_text() == "old"
        assert cli("predict", "plain.so", "rows.npy", "-o", out)[0] == 0
        assert len(np.load(out)) == 300


class TestTables:
    def test_what_a_csv_field_means(self, tmp_path):
        path = tmp_path / "x.csv"
        path.write_text(
            "n,t,k\n1,fig,10\n,NA,20\n0.1,pear,\n9007199254740993,fig,10\ntrue,fig,10\n".replace("true", "NaN")
        )
        spec = InputSpec(3, ("n", "t", "k"), frame_categories={1: ("pear", "fig"), 2: (10, 20)}, input_dtype="float64")
        (chunk,) = tables.open_table(path, spec).chunks()
        ((_, _, block),) = read_rows(chunk, spec).blocks()
        nan = float("nan")
        want = [[1, 1, 0], [nan, nan, 1], [0.1, 0, nan], [2.0**53, 1, 0], [nan, 1, 0]]
        np.testing.assert_array_equal(block, want)

    def test_text_categories_that_look_like_numbers(self, tmp_path):
        path = tmp_path / "x.csv"
        path.write_text("k\n1\n02\n")
        spec = InputSpec(1, ("k",), frame_categories={0: ("02", "1")})
        (chunk,) = tables.open_table(path, spec).chunks()
        ((_, _, block),) = read_rows(chunk, spec).blocks()
        assert block.tolist() == [[1.0], [0.0]]

    def test_an_unknown_category_is_still_unknown(self, tmp_path):
        path = tmp_path / "x.csv"
        path.write_text("k\n1\n2\n")
        spec = InputSpec(1, ("k",), frame_categories={0: (1, 3)})
        (chunk,) = tables.open_table(path, spec).chunks()
        with pytest.raises(InputError, match="holds 2"):
            list(read_rows(chunk, spec).blocks())


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
        ],
    )
    def test_failures(self, cli, arguments, message):
        assert message in failed(cli("bench", "plain.so", *arguments))


class TestCommon:
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

    def test_a_bug_keeps_its_traceback(self):
        @common.command
        def broken() -> None:
            raise RuntimeError("a bug")

        with pytest.raises(RuntimeError, match="a bug"):
            broken()

    def test_atomic_path(self, tmp_path):
        out = tmp_path / "x"
        with common.atomic_path(out) as temporary:
            temporary.write_text("new")
            assert not out.exists()
        assert out.read_text() == "new"
        umask = os.umask(0)
        os.umask(umask)
        assert out.stat().st_mode & 0o777 == 0o666 & ~umask
        with pytest.raises(FileNotFoundError), common.atomic_path(out) as temporary:
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
