"""``woodpecker predict``: kinds of rows, kinds of results, and failures that leave no file behind."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import woodpecker as wp
from woodpecker.cli import main, tables
from woodpecker.errors import InputError
from woodpecker.runtime.rows import InputSpec, read_rows

from .cli_support import PROGRAM, booster, cli_fixture, failed, folder_fixture, frame, pd  # noqa: F401


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
            (["plain.so", "rows.npy", "-o", "rows.npy"], "the output rows.npy is the input rows.npy, which would be"),
            (["plain.so", "rows.npy", "-o", "plain.so"], "the output plain.so is the input plain.so, which would be"),
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
        before = {name: (folder / name).read_bytes() for name in os.listdir(folder)}
        assert message in failed(cli("predict", *arguments))
        assert {name: (folder / name).read_bytes() for name in os.listdir(folder)} == before

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

    def test_a_pipe_is_not_replaced(self, cli, tmp_path):
        os.mkfifo(tmp_path / "o.npy")
        result = cli("predict", "plain.so", "rows.npy", "-o", tmp_path / "o.npy")
        assert "o.npy is a device, pipe or socket" in failed(result)
        assert (tmp_path / "o.npy").is_fifo()

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
