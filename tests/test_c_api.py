"""The C interface: the bits of Python, no libtvm_ffi, and an error code for whatever is wrong."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import struct
import subprocess

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import c_config
from woodpecker.build import C_SOURCES
from woodpecker.errors import InputError
from woodpecker.forest import Method
from woodpecker.runtime.loader import read_header
from woodpecker.targets import X86_LEVELS

from .c_support import (
    INCLUDE,
    ONE,
    SEVERAL,
    SIZES,
    SOURCES,
    STRICT,
    binary,
    check_all,
    compilers,
    expected,
    loading,
    make,
    run,
)
from .gallery import FORESTS, compiled, fitting, grown, rows

HEADER = INCLUDE / "woodpecker.h"
V2, V3, _ = X86_LEVELS
IN_FAST_TIER = [("outputs", "perfect_tree_traversal"), ("sentinel64", "scan"), ("empty", "gemm")]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("name", "strategy"),
    IN_FAST_TIER + [pytest.param(*pair, marks=pytest.mark.full) for pair in fitting("c") if pair not in IN_FAST_TIER],
)
def test_the_bits_of_python(name, strategy, c_programs, tmp_path):
    forest = FORESTS[name]()
    compiled(forest, strategy).save(tmp_path / "m.so")
    check_all(forest, wp.load(tmp_path / "m.so"), tmp_path, [c_programs["run"]], tmp_path / "m.so")


GROUPS = {"label": Method("label", args={"groups": [2, 1]}), "proba": Method("proba", args={"groups": [2, 1]})}
RULES = {
    "several": (SEVERAL, (np.array(["a", "b", "c"]),)),
    "groups": (GROUPS, (np.array([5, 3]), np.array([7]))),
    "one": (ONE, (np.array([-1, 1]),)),
}


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("several", "float64"),
        ("one", "float32"),
        *(pytest.param(*pair, marks=pytest.mark.full) for pair in (("several", "float32"), ("one", "float64"))),
        *(pytest.param("groups", dtype, marks=pytest.mark.full) for dtype in ("float32", "float64")),
    ],
)
def test_every_rule_of_a_method(name, dtype, c_programs, tmp_path):
    """What C computes after the raw scores is written a second time, so each rule is compared."""
    methods, classes = RULES[name]
    width = {} if name == "one" else {"tree_output": [0, 1, 2, 0, 1, 2, 2], "base_score": [0.5, -0.25, 0.1]}
    forest = grown(4, 7, 3, dtype=np.dtype(dtype), methods=methods, classes=classes, **width)
    compiled(forest, "tree_traversal").save(tmp_path / "m.so")
    predictor = wp.load(tmp_path / "m.so")
    X = rows(forest, sum(SIZES), 1, "float32")
    for number, what in enumerate(methods):
        got = run([c_programs["run"]], X, what, tmp_path, tmp_path / "m.so", threads=1 + number % 2)
        assert got == expected(predictor, what, X), what


def test_a_class_without_a_label(c_programs, tmp_path):
    forest = grown(4, 7, 3, methods={"predict": Method("label", "sigmoid")}, classes=(np.array(["only"]),))
    compiled(forest, "gemm").save(tmp_path / "m.so")
    with pytest.raises(AssertionError, match="a row is of the second class, and the model knows the label of one"):
        run([c_programs["run"]], rows(forest, 1008), "predict", tmp_path, tmp_path / "m.so", threads=2)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_after_fork(c_programs, c_artifact, tmp_path, threads):
    predictor = wp.load(c_artifact)
    X = rows(binary(), sum(SIZES), 3, "float32")
    for what in ("raw", "predict"):
        assert run([c_programs["forked"]], X, what, tmp_path, c_artifact, threads=threads) == expected(
            predictor, what, X
        )


class TestRefused:
    def test_arguments(self, c_programs, c_artifact):
        done = subprocess.run([c_programs["refused"], c_artifact], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")

    def test_files(self, c_programs, c_artifact, tmp_path):
        data, start = c_artifact.read_bytes(), read_header(c_artifact).start
        cases = {
            "empty": (b"", "no woodpecker artifact"),
            "text": (b"x" * 1000, "no woodpecker artifact"),
            "no model": (data.replace(b"\x93WOODPECKER", b"\x93WOODPICKER"), "no woodpecker artifact"),
            "format": (data[: start + 16] + struct.pack("<I", 9) + data[start + 20 :], "format version 9, and this"),
            "flipped": (
                data[: start + 1700] + bytes([data[start + 1700] ^ 1]) + data[start + 1701 :],
                "damaged or cut",
            ),
            "aarch64": (data[:18] + struct.pack("<H", 183) + data[20:], "another operating system or architecture"),
            "32 bits": (data[:4] + b"\1" + data[5:], "another operating system or architecture"),
        }
        for name, (content, message) in cases.items():
            (tmp_path / "m.so").write_bytes(content)
            assert message in loading(c_programs["run"], tmp_path / "m.so"), name

    def test_cut_anywhere(self, c_programs, c_artifact, tmp_path):
        data = c_artifact.read_bytes()
        for length in [20, 63, 64, 100, 128, *range(1000, len(data), len(data) // 7), len(data) - 1]:
            (tmp_path / "m.so").write_bytes(data[:length])
            assert re.search("no woodpecker artifact|damaged", loading(c_programs["run"], tmp_path / "m.so")), length

    def test_special_files(self, c_programs, tmp_path):
        os.mkfifo(tmp_path / "fifo.so")
        assert "no regular file" in loading(c_programs["run"], tmp_path / "fifo.so")
        assert "no regular file" in loading(c_programs["run"], tmp_path)
        assert "No such file" in loading(c_programs["run"], tmp_path / "absent.so")

    def test_another_abi_version(self, c_artifact, tmp_path):
        text = HEADER.read_text()
        assert "#define WP_ABI_VERSION 1\n" in text
        (tmp_path / "woodpecker.h").write_text(text.replace("#define WP_ABI_VERSION 1\n", "#define WP_ABI_VERSION 2\n"))
        program = make(SOURCES / "run.c", tmp_path / "run", include=tmp_path)
        assert "another ABI version" in loading(program, c_artifact)

    def test_a_file_that_replaced_one_in_use(self, c_artifact, tmp_path):
        source = """
            #define WOODPECKER_IMPLEMENTATION
            #include "woodpecker.h"
            int main(int argc, char** argv) {
              const wp_model* model;
              char message[300];
              int a = wp_model_load(argv[1], &model, message, sizeof message);
              int b = wp_model_load(argv[1], &model, message, sizeof message);
              int c = rename(argv[2], argv[1]);
              int d = wp_model_load(argv[1], &model, message, sizeof message);
              return argc == 3 && !a && !b && !c && d == WP_ERROR_REPLACED && !model ? 0 : 1;
            }"""
        (tmp_path / "twice.c").write_text(source)
        program = make(tmp_path / "twice.c", tmp_path / "twice")
        shutil.copy(c_artifact, tmp_path / "old.so")
        compiled(FORESTS["leaf"](), "gemm").save(tmp_path / "new.so")
        subprocess.run([program, tmp_path / "old.so", tmp_path / "new.so"], check=True)


class TestHeader:
    SOURCE = '#define WOODPECKER_IMPLEMENTATION\n#include "woodpecker.h"\nint main(void) { return 0; }\n'
    MORE = ("-Wshadow", "-Wconversion", "-Wcast-qual", "-fsyntax-only", f"-I{INCLUDE}")

    @pytest.mark.parametrize("compiler", compilers())
    def test_it_compiles_without_a_warning(self, compiler, tmp_path):
        (tmp_path / "t.c").write_text(self.SOURCE)
        (tmp_path / "t.cc").write_text(self.SOURCE)
        for name, standards in (("t.c", ("c99", "c11", "gnu17")), ("t.cc", ("c++11", "c++20"))):
            for standard in standards:
                command = [compiler, f"-std={standard}", *STRICT, *self.MORE, tmp_path / name]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("compiler", compilers())
    def test_the_sources_of_an_artifact_do(self, compiler, c_artifact, tmp_path):
        manifest = read_header(c_artifact).manifest
        for shared in (True, False):
            text = c_config.config(manifest, 64, shared=shared, symbol="my_model", blob="blob.bin")
            (tmp_path / "config.h").write_text(text)
            (tmp_path / "blob.bin").write_bytes(bytes(64))
            for source in INCLUDE.glob("*.[ch]"):
                shutil.copy(source, tmp_path)
            command = [compiler, "-std=gnu11", "-O2", "-fPIC", "-Wall", "-Wextra", "-Werror", "-c", "artifact.c"]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
            assert done.returncode == 0, done.stderr

    @pytest.mark.parametrize("compiler", compilers())
    @pytest.mark.parametrize("shared", [False, True])
    def test_no_name_in_the_sources_is_in_the_way(self, compiler, shared, c_artifact, tmp_path):
        """Every word of theirs that a caller may choose, as the name of a function beside all the others."""
        for source in INCLUDE.glob("*.[ch]"):
            shutil.copy(source, tmp_path)
        text = c_config.config(
            read_header(c_artifact).manifest, 64, shared=shared, symbol="the_symbol", blob="blob.bin"
        )
        sources = "".join((tmp_path / f).read_text() for f in C_SOURCES if f != "woodpecker.h") + text
        words = []
        found = set(re.findall(r"[A-Za-z]\w*", sources))
        for word in sorted((found | {re.sub("^(wp|WP)_", "", word) for word in found}) - {"the_symbol"}):
            with contextlib.suppress(InputError):
                words.append(c_config.check_symbol(word))
        assert {"predict", "work", "largest", "finish", "kernel", "task", "scratch"} <= set(words)
        assert "(the_symbol)" in text
        names = "".join(f" M({word})" for word in words)
        (tmp_path / "config.h").write_text(text.replace("M(the_symbol)", names))
        (tmp_path / "blob.bin").write_bytes(bytes(64))
        command = [compiler, "-std=gnu11", "-Wall", "-Wextra", "-fsyntax-only", "artifact.c"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert not (done.returncode or done.stderr), done.stderr

    def test_its_constants_are_those_of_the_format(self):
        from woodpecker.runtime import format as fmt
        from woodpecker.runtime import threads

        text = HEADER.read_text()
        found = {name: int(value) for name, value in re.findall(r"^#define (\w+) (\d+)$", text, re.MULTILINE)}
        assert found == {"WP_ABI_VERSION": fmt.ABI, "WP_MAX_THREADS": threads.MAX_THREADS, "WP__FORMAT": fmt.FORMAT}
        magic = re.search(r"magic\[16\] = {(.*?)}", text)
        assert magic
        values = (v.strip() for v in magic[1].split(","))
        assert bytes(ord(v[1]) if v[0] == "'" else int(v, 0) for v in values) == fmt.MAGIC


def test_odd_texts_reach_the_program(tmp_path):
    """Names of targets and methods stand in C string literals."""
    odd = 'a"b\\c\n?\u00e9'
    assert c_config._text(odd) == '"a\\042b\\134c\\012\\077\\303\\251"'
    (tmp_path / "t.c").write_text(f"#include <stdio.h>\nint main(void) {{ return puts({c_config._text(odd)}) < 0; }}\n")
    program = make(tmp_path / "t.c", tmp_path / "t")
    assert subprocess.run([program], capture_output=True, check=True).stdout == odd.encode() + b"\n"
