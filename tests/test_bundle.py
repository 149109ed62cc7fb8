"""Bundles: what is in them works by itself, and nothing is left behind where something is wrong."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import bundle
from woodpecker.errors import ArtifactError, InputError, TargetError

from .bundle_support import classifier, run
from .qemu_support import FOLDER, emulator, needs_zig, on_qemu

FILES = ["LICENSE", "README.md", "expected.csv", "libmodel.a", "model.so", "predict.c", "rows.csv", "woodpecker.h"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "device"
    names = bundle.write(classifier(), folder, strategy="tree_traversal")
    assert names == FILES == sorted(p.name for p in folder.iterdir())
    return folder


@pytest.mark.full
def test_the_commands_of_its_readme_run(made, tmp_path):
    folder = Path(shutil.copytree(made, tmp_path / "there"))
    first, second, *_ = re.findall(r"^```sh\n(.*?)^```$", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    want = (made / "expected.csv").read_text()
    assert run(first, folder) == want == run(second, folder)
    assert len(set(want.split())) > 20
    code = re.findall(r"^```python\n(.*?)^```$", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert "wp.load" in code[0]
    texts = [line.split(",") for line in (made / "rows.csv").read_text().splitlines()]
    X = np.array([[float(v or "nan") for v in row] for row in texts])
    loaded = wp.load(made / "model.so")
    assert [float(v) for v in want.split()] == loaded.predict_raw(X)[:, 0].tolist()
    said = run("./predict predict_proba 2 < rows.csv", folder)
    assert said == "".join(",".join(f"{v:.17g}" for v in row) + "\n" for row in loaded.predict_proba(X).tolist())
    said = run("./predict predict < rows.csv", folder)
    assert [loaded.classes_[int(v)] for v in said.split()] == loaded.predict(X).tolist()
    said = run("./predict apply < rows.csv", folder)
    assert [list(map(int, line.split(","))) for line in said.splitlines()] == loaded.apply(X).tolist()


def test_the_program_says_what_is_wrong(made, tmp_path):
    folder = Path(shutil.copytree(made, tmp_path / "there"))
    run("cc -O2 -Wall -Wextra -Wpedantic -Werror -std=c99 -o predict predict.c -ldl", folder)
    cases = {
        "./predict": "usage: predict MODEL.so",
        "./predict ./absent.so": "absent.so: No such file",
        "./predict ./README.md": "no woodpecker artifact",
        "./predict ./model.so nothing": "nothing: the model has no such method",
        "./predict ./model.so raw 0": "threads must be from 1 to 256",
        "echo 1,2 | ./predict ./model.so": "line 1 does not hold 5 numbers",
        "echo 1,2,3,4,x | ./predict ./model.so": "line 1 does not hold 5 numbers",
        "echo 1,2,3,4,5,6 | ./predict ./model.so": "line 1 does not hold 5 numbers",
        "./predict ./model.so </": "reading: the input can't be read to its end",
        "./predict ./model.so >/dev/full": "writing: the output can't be written",
    }
    for command, message in cases.items():
        done = subprocess.run(
            ["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False, input="1,2,3,4,5\n"
        )
        assert done.returncode == 1 and message in done.stderr, (command, done.stderr)


@pytest.mark.full
@pytest.mark.skipif(not shutil.which("rustc"), reason="there is no rustc")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_example_in_rust(dtype, tmp_path):
    folder = tmp_path / "device"
    bundle.write(classifier(dtype), folder, strategy="tree_traversal")
    source = Path(__file__).parents[1] / "examples" / "rust" / "predict.rs"
    run(f"rustc -O -D warnings --edition 2021 -o predict '{source}'", folder)
    for threads in (1, 2):
        said = run(f"./predict ./model.so raw {threads} < rows.csv", folder)
        want = (folder / "expected.csv").read_text()
        assert [dtype(v) for v in said.split()] == [dtype(v) for v in want.split()]
    said = run("./predict ./model.so predict_proba < rows.csv", folder)
    assert all(len(line.split(",")) == 2 for line in said.splitlines())
    for command in ("./predict ./model.so raw 0 < rows.csv", "./predict ./rows.csv", "./predict ./model.so nothing"):
        done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stderr.startswith("error: ")


@pytest.mark.full
@pytest.mark.qemu
@needs_zig
@pytest.mark.skipif(not shutil.which("qemu-arm"), reason="there is no qemu-arm")
def test_a_device_of_another_architecture(tmp_path):
    folder = tmp_path / "device"
    assert bundle.write(classifier(), folder, target="armv7-linux-musleabihf", strategy="tree_traversal") == FILES
    assert "armv7 on Linux with musl" in (folder / "README.md").read_text()
    zig = f"'{sys.executable}' -m ziglang cc -target arm-linux-musleabihf -mcpu=generic+v7a+vfp3d16 -static"
    run(f"{zig} -O2 -DMODEL=bundled_model -o predict predict.c libmodel.a -lm -lpthread", folder)
    for threads in (1, 2):
        assert run(f"qemu-arm ./predict raw {threads} < rows.csv", folder) == (folder / "expected.csv").read_text()


@pytest.mark.full
@on_qemu
def test_a_raspberry_pi(tmp_path):
    """Both programs of the README, and the shared library loaded by `wp_model_load`, with the device's own glibc."""
    folder = tmp_path / "device"
    assert bundle.write(classifier(), folder, target="aarch64") == FILES
    commands = re.findall(r"^```sh\n(.*?)^```$", (folder / "README.md").read_text(), re.MULTILINE | re.DOTALL)[:2]
    root = FOLDER / "root"
    for command in commands:
        build, program = command.splitlines()
        run(build.replace("cc", f"'{sys.executable}' -m ziglang cc -target aarch64-linux-gnu.2.28", 1), folder)
        there = program.replace("./predict", f"'{emulator('aarch64')}' -L '{root}' ./predict", 1)
        for method in ("raw", "predict"):
            assert run(there.replace(" raw ", f" {method} "), folder).count("\n") == bundle.ROWS
        assert run(there, folder) == (folder / "expected.csv").read_text()


class TestArtifacts:
    def test_a_copy(self, made, tmp_path):
        names = bundle.write(made / "model.so", tmp_path / "device")
        assert names == ["LICENSE", "README.md", "model.so", "predict.c", "woodpecker.h"]
        assert (tmp_path / "device" / "model.so").read_bytes() == (made / "model.so").read_bytes()
        first, *_ = re.findall(
            r"^```sh\n(.*?)^```$", (tmp_path / "device/README.md").read_text(), re.MULTILINE | re.DOTALL
        )
        shutil.copy(made / "rows.csv", tmp_path / "device")
        assert run(first, tmp_path / "device") == (made / "expected.csv").read_text()
        assert stat.S_IMODE((tmp_path / "device").stat().st_mode) == 0o777 & ~bundle._umask_of(made / "rows.csv")

    def test_its_target_is_checked(self, made, tmp_path):
        assert bundle.write(made / "model.so", tmp_path / "device", target="llvm")
        for target in ("x86-64-v2", "aarch64"):
            with pytest.raises(TargetError, match=r"model\.so was compiled for llvm \(.*\), not for target"):
                bundle.write(made / "model.so", tmp_path / "other", target=target)
        with pytest.raises(InputError, match="is compiled already: strategy can't be chosen any more"):
            bundle.write(made / "model.so", tmp_path / "other", strategy="scan")

    def test_damaged_ones(self, made, tmp_path):
        data = (made / "model.so").read_bytes()
        for content in (data[: len(data) // 2], data[:-3] + b"xyz", b"\x7fELF" + bytes(100)):
            (tmp_path / "m.so").write_bytes(content[:-5])
            with pytest.raises(ArtifactError):
                bundle.write(tmp_path / "m.so", tmp_path / "other")
        with pytest.raises(InputError, match="is a static library: give the shared one"):
            bundle.write(made / "libmodel.a", tmp_path / "other")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["m.so"]


class TestRefused:
    def left(self, folder: Path) -> list[str]:
        return sorted(p.name for p in folder.iterdir())

    def test_folders(self, made, tmp_path, monkeypatch):
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "file").touch()
        (tmp_path / "file").touch()
        for name in ("full", "file"):
            with pytest.raises(InputError, match="exists and is no empty folder: name a new one"):
                bundle.write(made / "model.so", tmp_path / name)
        with pytest.raises(FileNotFoundError, match=r"there is no folder .*absent"):
            bundle.write(made / "model.so", tmp_path / "absent" / "device")
        with pytest.raises(InputError, match="a path must be"):
            bundle.write(made / "model.so", 3)
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
        for name in (".", "../empty", tmp_path):
            with pytest.raises(InputError, match=r"working folder|no empty folder"):
                bundle.write(made / "model.so", name)
        monkeypatch.chdir(tmp_path)
        assert bundle.write(made / "model.so", tmp_path / "empty")
        assert self.left(tmp_path) == ["empty", "file", "full"]

    def test_failing_compiler_leaves_nothing(self, tmp_path, monkeypatch):
        monkeypatch.setenv("CC", "false")
        with pytest.raises(TargetError, match="the C compiler failed"):
            bundle.write(classifier(), tmp_path / "device", strategy="tree_traversal")
        assert self.left(tmp_path) == []

    def test_unknown_targets(self, tmp_path):
        with pytest.raises(TargetError, match="pdp-11"):
            bundle.write(classifier(), tmp_path / "device", target="pdp-11")
        assert self.left(tmp_path) == []

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_unwritable(self, made, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError):
            bundle.write(made / "model.so", tmp_path / "device")


def test_the_command(made, tmp_path, capsys):
    pytest.importorskip("typer")
    from woodpecker.cli import main

    assert main(["bundle", str(made / "model.so"), "-o", str(tmp_path / "device")]) == 0
    assert "LICENSE, README.md, model.so, predict.c, woodpecker.h; " in capsys.readouterr().out
    assert main(["bundle", str(made / "model.so"), "-o", str(tmp_path / "device")]) == 2
    assert "is no empty folder" in capsys.readouterr().err
