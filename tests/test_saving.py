"""Saving: all or nothing, and a typed error for whatever is wrong."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import toolchain
from woodpecker.errors import InputError, TargetError, UnsupportedModelError

from .artifact_support import copy_fixture, forest_fixture, saved_fixture, stump_fixture  # noqa: F401
from .gallery import assert_agrees, rows


class TestSaving:
    def left(self, folder: Path) -> list[str]:
        return sorted(p.name for p in folder.iterdir())

    def test_failing_compiler_leaves_nothing(self, forest, tmp_path, monkeypatch):
        monkeypatch.setenv("CC", "false")
        with pytest.raises(TargetError, match="the C compiler failed: false"):
            wp.compile(forest).save(tmp_path / "m.so")
        assert self.left(tmp_path) == []

    def test_no_compiler(self, forest, tmp_path, monkeypatch):
        model = wp.compile(forest)
        monkeypatch.setenv("CC", "no-such-compiler -O2")
        with pytest.raises(TargetError, match="CC names 'no-such-compiler', and there is no such program"):
            model.save(tmp_path / "m.so")
        monkeypatch.delenv("CC")
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(toolchain, "_zig", lambda platform: None)
        with pytest.raises(TargetError, match="needs a C compiler, and none was found: install gcc"):
            model.save(tmp_path / "m.so")
        assert self.left(tmp_path) == []

    @pytest.mark.sampled(3)
    @pytest.mark.parametrize(
        ("script", "message"),
        [
            ("#!/bin/sh\nexit 0\n", "the C compiler failed: .*\nexit code 0, no message"),
            ("#!/bin/sh\nprintf '\\377 bad' >&2; exit 1\n", "the C compiler failed: .*\n\ufffd bad"),
            ("#!/no/such/shell\n", "the C compiler can't be run: "),
        ],
        ids=["true", "bytes", "unusable"],
    )
    def test_odd_compilers(self, stump, tmp_path, monkeypatch, script, message):
        (tmp_path / "cc").write_text(script)
        (tmp_path / "cc").chmod(0o755)
        monkeypatch.setenv("CC", str(tmp_path / "cc"))
        with pytest.raises(TargetError, match=message):
            stump.save(tmp_path / "m.so")
        assert self.left(tmp_path) == ["cc"]

    def test_compiler_that_is_no_command(self, stump, tmp_path, monkeypatch):
        monkeypatch.setenv("CC", '"')
        with pytest.raises(TargetError, match=r"CC holds .* which is no command: No closing quotation"):
            stump.save(tmp_path / "m.so")

    @pytest.mark.full
    def test_compiler_beside_the_user(self, stump, tmp_path, monkeypatch):
        (tmp_path / "cc").symlink_to(str(shutil.which("cc")))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("CC", "./cc")
        stump.save("m.so")
        assert wp.load("m.so").n_trees_ == 1

    @pytest.mark.full
    def test_failing_compiler_keeps_the_old_file(self, forest, copy, monkeypatch):
        before = copy.read_bytes()
        monkeypatch.setenv("CC", "false")
        with pytest.raises(TargetError):
            wp.compile(forest).save(copy)
        assert copy.read_bytes() == before

    def test_folder(self, forest, tmp_path):
        with pytest.raises(IsADirectoryError, match="is a directory: name a file"):
            wp.compile(forest).save(tmp_path)
        with pytest.raises(FileNotFoundError, match=r"there is no folder .*absent"):
            wp.compile(forest).save(tmp_path / "absent" / "m.so")

    @pytest.mark.full
    def test_interrupted_replacement_leaves_nothing(self, forest, tmp_path, monkeypatch):
        def fail(*_: object) -> None:
            raise PermissionError("read-only file system")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(PermissionError):
            wp.compile(forest).save(tmp_path / "m.so")
        assert self.left(tmp_path) == []

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_unwritable_folder(self, forest, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError):
            wp.compile(forest).save(tmp_path / "m.so")

    def test_odd_names_and_modes(self, forest, tmp_path):
        path = tmp_path / "a model's name, with äöü.so"
        old = os.umask(0o027)
        try:
            wp.compile(forest, strategy="tree_traversal").save(path)
        finally:
            os.umask(old)
        assert stat.S_IMODE(path.stat().st_mode) == 0o750
        assert self.left(tmp_path) == [path.name]
        X = rows(forest, 30, 2, "float32")
        assert_agrees(wp.load(str(path)), forest, X)

    def test_special_files_are_not_replaced(self, stump, tmp_path):
        os.mkfifo(tmp_path / "fifo.so")
        (tmp_path / "link.so").symlink_to("fifo.so")
        for name in ("fifo.so", "link.so"):
            with pytest.raises(OSError, match=f"{name} is a device, pipe or socket"):
                stump.save(tmp_path / name)
        assert stat.S_ISFIFO((tmp_path / "fifo.so").stat().st_mode)
        assert (tmp_path / "link.so").is_symlink()

    @pytest.mark.full
    def test_links_are_followed(self, stump, tmp_path):
        for folder in ("data", "links"):
            (tmp_path / folder).mkdir()
        (tmp_path / "links" / "m.so").symlink_to("../data/m.so")
        for _ in range(2):  # a link that leads nowhere yet, and one that leads to a file
            stump.save(tmp_path / "links" / "m.so")
            assert (tmp_path / "links" / "m.so").is_symlink()
            assert not (tmp_path / "data" / "m.so").is_symlink()
        assert self.left(tmp_path / "data") == self.left(tmp_path / "links") == ["m.so"]
        assert wp.load(tmp_path / "links" / "m.so").n_trees_ == 1

    def test_long_names(self, stump, tmp_path):
        path = tmp_path / ("m" * 252 + ".so")
        stump.save(path)
        assert wp.load(path).n_trees_ == 1

    @pytest.mark.parametrize("path", [None, 3, b"m.so", "a\0b", "\ud800.so"], ids=repr)
    def test_no_paths(self, stump, path):
        with pytest.raises(InputError, match="path"):
            stump.save(path)

    def test_callable_post_transform_is_not_shipped(self, forest, tmp_path):
        with pytest.raises(UnsupportedModelError, match="callable post_transform"):
            wp.compile(forest, post_transform=np.tanh).save(tmp_path / "m.so")
