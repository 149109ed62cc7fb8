"""The C interface: the bits of Python, no libtvm_ffi, and an error code for whatever is wrong."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import c_config
from woodpecker.build import C_SOURCES, own_names
from woodpecker.errors import ArtifactError, InputError, TargetError
from woodpecker.forest import Method
from woodpecker.runtime import machine
from woodpecker.runtime.loader import read_header
from woodpecker.targets import X86_LEVELS, resolve_levels

from .c_support import INCLUDE, SIZES, SOURCES, STRICT, compilers, expected, make, run
from .gallery import ALONE, FORESTS, compiled, fitting, grown, rows

HEADER = INCLUDE / "woodpecker.h"
V2, V3, _ = X86_LEVELS
IN_FAST_TIER = [("outputs", "perfect_tree_traversal"), ("sentinel64", "scan"), ("empty", "gemm")]


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("programs")
    return {
        "run": make(SOURCES / "run.c", folder / "run"),
        "forked": make(SOURCES / "run.c", folder / "forked", "-DFORKED"),
        "refused": make(SOURCES / "refused.c", folder / "refused"),
    }


def binary(**fields):
    return grown(31, 8, 4, n_features=4, dtype=np.float32, base_score=0.5, **fields)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """An artifact with the three x86-64 levels."""
    path = tmp_path_factory.mktemp("saved") / "model.so"
    forest = binary(methods={"predict": Method("value", "xgb_sigmoid")})
    wp.compile(forest, target="x86-64", strategy="tree_traversal", **ALONE["tree_traversal"]).save(path)
    return path


def check_all(forest, predictor, folder: Path, program: list, *more: object) -> None:
    methods = [m for m in predictor._program.manifest["methods"] if m != "transform"]
    for number, what in enumerate(["raw", "apply", *methods]):
        for dtype in ("float32", "float64"):
            X = rows(forest, sum(SIZES), number, dtype)
            got = run(program, X, what, folder, *more, threads=1 + number % 2, stride=X.shape[1] + 3 * (number % 2))
            assert got == expected(predictor, what, X), (what, dtype)


@pytest.mark.parametrize(
    ("name", "strategy"),
    IN_FAST_TIER + [pytest.param(*pair, marks=pytest.mark.full) for pair in fitting("c") if pair not in IN_FAST_TIER],
)
def test_the_bits_of_python(name, strategy, programs, tmp_path):
    forest = FORESTS[name]()
    compiled(forest, strategy).save(tmp_path / "m.so")
    check_all(forest, wp.load(tmp_path / "m.so"), tmp_path, [programs["run"]], tmp_path / "m.so")


SEVERAL = {
    "value": Method("value", "exp", {"subtract": 0.3}),
    "columns": Method("value", "softmax", {"columns": 2}),
    "proba": Method("proba", "softmax"),
    "label": Method("label"),
    "indicator": Method("indicator", "sigmoid"),
    "divided": Method("value", "lgb_sigmoid", {"divide": 3, "sigmoid": 0.7}),
    "argmax": Method("value", "argmax"),
}
GROUPS = {"label": Method("label", args={"groups": [2, 1]}), "proba": Method("proba", args={"groups": [2, 1]})}
ONE = {
    "proba": Method("proba", "sigmoid"),
    "label": Method("label", "sigmoid"),
    "above": Method("label", args={"above": 0.1}),
    "at_least": Method("label", "sigmoid", {"at_least": 0.5}),
    "outlier": Method("outlier", "identity", {"subtract": 0.1}),
    "isolation": Method("value", "isolation_score", {"denominator": 3.7}),
}
RULES = {
    "several": (SEVERAL, (np.array(["a", "b", "c"]),)),
    "groups": (GROUPS, (np.array([5, 3]), np.array([7]))),
    "one": (ONE, (np.array([-1, 1]),)),
}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("several", "float64"),
        ("one", "float32"),
        *(pytest.param(*pair, marks=pytest.mark.full) for pair in (("several", "float32"), ("one", "float64"))),
        *(pytest.param("groups", dtype, marks=pytest.mark.full) for dtype in ("float32", "float64")),
    ],
)
def test_every_rule_of_a_method(name, dtype, programs, tmp_path):
    """What C computes after the raw scores is written a second time, so each rule is compared."""
    methods, classes = RULES[name]
    width = {} if name == "one" else {"tree_output": [0, 1, 2, 0, 1, 2, 2], "base_score": [0.5, -0.25, 0.1]}
    forest = grown(4, 7, 3, dtype=np.dtype(dtype), methods=methods, classes=classes, **width)
    compiled(forest, "tree_traversal").save(tmp_path / "m.so")
    predictor = wp.load(tmp_path / "m.so")
    X = rows(forest, sum(SIZES), 1, "float32")
    for number, what in enumerate(methods):
        got = run([programs["run"]], X, what, tmp_path, tmp_path / "m.so", threads=1 + number % 2)
        assert got == expected(predictor, what, X), what


def test_a_class_without_a_label(programs, tmp_path):
    forest = grown(4, 7, 3, methods={"predict": Method("label", "sigmoid")}, classes=(np.array(["only"]),))
    compiled(forest, "gemm").save(tmp_path / "m.so")
    with pytest.raises(AssertionError, match="a row is of the second class, and the model knows the label of one"):
        run([programs["run"]], rows(forest, 1008), "predict", tmp_path, tmp_path / "m.so", threads=2)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_after_fork(programs, saved, tmp_path, threads):
    predictor = wp.load(saved)
    X = rows(binary(), sum(SIZES), 3, "float32")
    for what in ("raw", "predict"):
        assert run([programs["forked"]], X, what, tmp_path, saved, threads=threads) == expected(predictor, what, X)


class TestLinked:
    """Models linked with the program."""

    @pytest.mark.parametrize("name", ["libfraud.a", pytest.param("fraud.lib", marks=pytest.mark.full)])
    def test_a_static_library(self, name, tmp_path):
        forest = binary(methods={"predict": Method("value", "xgb_sigmoid")})
        predictor = compiled(forest, "tree_traversal")
        predictor.save(tmp_path / name, symbol="fraud_model")
        program = make(SOURCES / "run.c", tmp_path / "run", "-DMODEL=fraud_model", tmp_path / name)
        check_all(forest, predictor, tmp_path, [program])
        assert not (tmp_path / name).stat().st_mode & 0o111
        with pytest.raises(ArtifactError, match=r" is a static library, to link into a C program: save\(\) as a \.so"):
            wp.load(tmp_path / name)

    def test_two_models_in_one_program(self, tmp_path):
        source = """
            #include "woodpecker.h"
            #include <stdio.h>
            WP_DECLARE_MODEL(first_model);
            WP_DECLARE_MODEL(second_model);
            static char scratch[1 << 22];
            int main(void) {
              float x[2] = {0}, y = 0;
              double z = 0;
              int a = wp_predict_raw_f32(first_model(), x, 1, 2, &y, sizeof y, scratch, sizeof scratch, 1);
              int b = wp_predict_raw_f32(second_model(), x, 1, 2, &z, sizeof z, scratch, sizeof scratch, 1);
              return printf("%d %d %.9g %.17g\\n", a, b, (double)y, z) < 0;
            }"""
        (tmp_path / "two.c").write_text(source)
        models = [compiled(FORESTS[name](), "gemm") for name in ("stumps", "leaves")]
        for model, name in zip(models, ("first", "second"), strict=True):
            model.save(tmp_path / f"{name}.bin", format="static", symbol=f"{name}_model")
        program = make(tmp_path / "two.c", tmp_path / "two", tmp_path / "first.bin", tmp_path / "second.bin")
        said = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
        scores = [
            model.predict_raw(np.zeros((1, n), np.float32))[0, 0] for model, n in zip(models, (2, 1), strict=True)
        ]
        assert said[:2] == ["0", "0"]
        assert [np.float32(said[2]), float(said[3])] == scores

    def test_a_plugin_that_is_unloaded(self, tmp_path):
        """The pool's threads, and its hook for forks, outlive the call, and so must their code."""
        compiled(binary(), "tree_traversal").save(tmp_path / "m.a", symbol="plugin_model")
        plugin = """
            #include "woodpecker.h"
            #include <stdlib.h>
            WP_DECLARE_MODEL(plugin_model);
            extern int go(void);
            int go(void) {
              const wp_model* model = plugin_model();
              size_t rows = 20000, size = wp_scratch_size(model, 4), width = rows * wp_output_size(model);
              float* x = calloc(rows * 4, sizeof *x);
              void *out = malloc(width), *scratch = malloc(size);
              wp_status status = wp_predict_raw_f32(model, x, (int64_t)rows, 4, out, width, scratch, size, 4);
              free(x), free(out), free(scratch);
              return status;
            }"""
        host = """
            #include <dlfcn.h>
            #include <unistd.h>
            #include <sys/wait.h>
            int main(int argc, char** argv) {
              void* plugin = dlopen(argv[argc - 1], RTLD_NOW);
              if (!plugin) return 1;
              void* found = dlsym(plugin, "go");
              int (*go)(void);
              *(void**)&go = found;
              if (go() || dlclose(plugin)) return 2;
              usleep(100000);
              pid_t child = fork();
              if (!child) _exit(0);
              int status = 1;
              return waitpid(child, &status, 0) != child || status ? 3 : 0;
            }"""
        for name, source in (("plugin", plugin), ("host", host)):
            (tmp_path / f"{name}.c").write_text(source)
        make(tmp_path / "plugin.c", tmp_path / "plugin.so", "-shared", "-fPIC", tmp_path / "m.a")
        program = make(tmp_path / "host.c", tmp_path / "host", "-D_GNU_SOURCE")
        for path in (tmp_path / "plugin.so", "./plugin.so"):
            assert subprocess.run([program, path], cwd=tmp_path, check=False).returncode == 0, path

    def test_a_shared_library(self, saved, tmp_path):
        name = c_config.getter(read_header(saved).manifest["prefix"])
        program = make(SOURCES / "run.c", tmp_path / "run", f"-DMODEL={name}", saved)
        X = rows(binary(), sum(SIZES), 4, "float32")
        assert run([program], X, "raw", tmp_path) == expected(wp.load(saved), "raw", X)

    @pytest.mark.full
    @pytest.mark.skipif(not shutil.which("musl-gcc"), reason="there is no musl-gcc")
    @pytest.mark.parametrize(("name", "strategy"), [("outputs", "scan"), ("deep", "bitslice")])
    def test_a_program_without_glibc(self, name, strategy, tmp_path):
        """With a static library that the system's compiler made."""
        forest = FORESTS[name]()
        predictor = compiled(forest, strategy)
        predictor.save(tmp_path / "m.a", symbol="the_model")
        flags = ("-static", "-DMODEL=the_model", "-DFORKED", tmp_path / "m.a")
        program = make(SOURCES / "run.c", tmp_path / "run", *flags, compiler=("musl-gcc",))
        check_all(forest, predictor, tmp_path, [program])

    @pytest.mark.full
    def test_the_same_model_gives_the_same_bytes(self, tmp_path):
        for name in ("a.a", "b.a"):
            compiled(binary(), "gemm").save(tmp_path / name)
        assert (tmp_path / "a.a").read_bytes() == (tmp_path / "b.a").read_bytes()


class TestSaving:
    @pytest.mark.parametrize(
        "symbol",
        ["", "a b", "9lives", "_model", "a__b", "int", "and", "EOF", "wp_x", "woodpecker_model", "é", 3, "a" * 64],
    )
    def test_odd_symbols(self, symbol, tmp_path):
        with pytest.raises(InputError, match="symbol"):
            compiled(binary(), "gemm").save(tmp_path / "m.so", symbol=symbol)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "symbol",
        [
            *("exp", "expf", "expl", "sin", "log1pf", "lgamma_r", "malloc", "read", "open64", "strcoll_l", "size_t"),
            *("getc_unlocked", "pthread_create", "atomic_load", "dladdr", "socket", "errno", "linux", "expf32x"),
        ],
    )
    @pytest.mark.parametrize("name", ["m.so", "m.a"])
    def test_symbols_of_the_c_library(self, symbol, name, tmp_path):
        """A linker would take such a function for the library's, and kernels or the program would call it."""
        with pytest.raises(InputError, match=rf"the symbol '{symbol}' is a name of the C library.*choose another name"):
            compiled(binary(), "gemm").save(tmp_path / name, symbol=symbol)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("methods", [SEVERAL, ONE], ids=["several", "one"])
    def test_what_an_artifact_calls_is_refused(self, methods, tmp_path):
        width = {} if methods is ONE else {"tree_output": [0, 1, 2, 0, 1, 2, 2], "base_score": [0.5, -0.25, 0.1]}
        forest = grown(
            4, 7, 3, methods=methods, classes=(np.array(["a", "b", "c"][: 2 if methods is ONE else 3]),), **width
        )
        compiled(forest, "tree_traversal").save(tmp_path / "m.a")
        done = subprocess.run(["nm", "-u", tmp_path / "m.a"], capture_output=True, text=True, check=True)
        called = set(re.findall(r"^ +[Uw] ([a-zA-Z]\w*)$", done.stdout, re.MULTILINE))
        assert {"exp", "memcpy", "pthread_create"} & called >= {"exp", "pthread_create"}
        for symbol in called:
            with pytest.raises(InputError, match="choose another name"):
                c_config.check_symbol(symbol)

    @pytest.mark.parametrize("name", ["m.so", "m.a"])
    def test_a_symbol_that_is_a_word_of_the_sources(self, name, tmp_path):
        compiled(binary(), "gemm").save(tmp_path / name, symbol="predict")
        assert b"\0predict\0" in (tmp_path / name).read_bytes()

    @pytest.mark.parametrize("form", ["so", "", 1, "Static"])
    def test_odd_formats(self, form, tmp_path):
        with pytest.raises(InputError, match=r"format must be 'shared', 'static' or None, found"):
            compiled(binary(), "gemm").save(tmp_path / "m.so", format=form)

    def test_no_archiver(self, tmp_path, monkeypatch):
        monkeypatch.setenv("AR", "no-such-ar --x")
        with pytest.raises(TargetError, match="needs the program no-such-ar, and it was not found"):
            compiled(binary(), "gemm").save(tmp_path / "m.a")
        monkeypatch.setenv("AR", "false")
        with pytest.raises(TargetError, match="failed: false rcsD"):
            compiled(binary(), "gemm").save(tmp_path / "m.a")
        assert list(tmp_path.iterdir()) == []

    def test_names_are_replaced_by_names_of_one_length(self):
        prefix = "wp_0123456789abcdef"
        old = b"\0TVMFFIErrorSetRaisedFromCStrParts\0__extendhfsf2\0__truncsfhf2\0__truncsfhf2x\0"
        for suffix in ("", "_level0", "_level12"):
            new = own_names(old, prefix, suffix)
            assert len(new) == len(old) and new.count(b"\0") == old.count(b"\0")
            assert b"\0wp_0123456789abcdef_ffi_set_error\0x0123456789" in new and new.endswith(b"\0__truncsfhf2x\0")
        assert own_names(old, prefix, "_level1") != own_names(old, prefix, "_level2")


class TestRefused:
    def test_arguments(self, programs, saved):
        done = subprocess.run([programs["refused"], saved], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")

    def loading(self, programs, path: Path, **environment: str) -> str:
        """What is said of a file that can't be loaded."""
        command = [programs["run"], "/dev/null", "/dev/null", "f32", "4", "raw", "1", "0", path]
        variables = {**os.environ, **environment}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
        assert done.returncode == 1, (done.returncode, done.stderr)
        return done.stderr.strip()

    def test_files(self, programs, saved, tmp_path):
        data, start = saved.read_bytes(), read_header(saved).start
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
            assert message in self.loading(programs, tmp_path / "m.so"), name

    def test_cut_anywhere(self, programs, saved, tmp_path):
        data = saved.read_bytes()
        for length in [20, 63, 64, 100, 128, *range(1000, len(data), len(data) // 7), len(data) - 1]:
            (tmp_path / "m.so").write_bytes(data[:length])
            assert re.search("no woodpecker artifact|damaged", self.loading(programs, tmp_path / "m.so")), length

    def test_special_files(self, programs, tmp_path):
        os.mkfifo(tmp_path / "fifo.so")
        assert "no regular file" in self.loading(programs, tmp_path / "fifo.so")
        assert "no regular file" in self.loading(programs, tmp_path)
        assert "No such file" in self.loading(programs, tmp_path / "absent.so")

    def test_another_abi_version(self, saved, tmp_path):
        text = HEADER.read_text()
        assert "#define WP_ABI_VERSION 1\n" in text
        (tmp_path / "woodpecker.h").write_text(text.replace("#define WP_ABI_VERSION 1\n", "#define WP_ABI_VERSION 2\n"))
        program = make(SOURCES / "run.c", tmp_path / "run", include=tmp_path)
        assert "another ABI version" in self.loading({"run": program}, saved)

    def test_a_file_that_replaced_one_in_use(self, saved, tmp_path):
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
        shutil.copy(saved, tmp_path / "old.so")
        compiled(FORESTS["leaf"](), "gemm").save(tmp_path / "new.so")
        subprocess.run([program, tmp_path / "old.so", tmp_path / "new.so"], check=True)


class TestLevels:
    def test_the_choice_is_that_of_python(self, programs, saved, tmp_path):
        X = rows(binary(), sum(SIZES), 3, "float32")
        want = expected(wp.load(saved), "raw", X)
        for level in resolve_levels("x86-64"):
            environment = {"WOODPECKER_CPU_LEVEL": f" {level.name} "}
            if level.native:
                assert run([programs["run"]], X, "raw", tmp_path, saved, **environment) == want
        refused = TestRefused()
        assert "names a level that the model has not" in refused.loading(programs, saved, WOODPECKER_CPU_LEVEL="v3")

    @pytest.mark.full
    @pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="there is no qemu-x86_64")
    @pytest.mark.parametrize(("cpu", "level"), [("Nehalem", V2), ("Haswell", V3), ("qemu64", None)])
    def test_the_cpu_itself_is_asked(self, cpu, level, saved, tmp_path):
        """/proc/cpuinfo describes the machine below the emulator."""
        source = """
            #define WOODPECKER_IMPLEMENTATION
            #include "woodpecker.h"
            int main(int argc, char** argv) {
              const wp_model* model;
              char message[300];
              if (argc != 2 || wp_model_load(argv[1], &model, message, sizeof message)) return puts(message), 1;
              return puts(wp_cpu_level(model)) < 0;
            }"""
        (tmp_path / "level.c").write_text(source)
        program = make(tmp_path / "level.c", tmp_path / "level")
        command = ["qemu-x86_64", "-cpu", cpu, program, saved]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if level is None:
            assert done.returncode == 1 and "needs at least: sse3,ssse3,sse4.1,sse4.2,popcnt" in done.stdout
        else:
            assert (done.returncode, done.stdout) == (0, f"{level}\n")

    def test_a_cpu_that_can_run_none(self, programs, tmp_path):
        """Under valgrind or an emulator it would be another CPU: here the code needs what no CPU has."""
        compiled(binary(), "gemm", target={"kind": "llvm", "mcpu": "diamondrapids"}).save(tmp_path / "m.so")
        if machine.runs(read_header(tmp_path / "m.so").manifest["levels"][0]["target"]):
            pytest.skip("this CPU can run it")
        said = TestRefused().loading(programs, tmp_path / "m.so")
        assert re.search(r"this CPU can't run the code, which needs at least: sse3,.*,egpr", said)

    def test_the_features_are_those_of_python(self):
        text = (INCLUDE / "cpu.h").read_text()
        x86 = re.findall(r'^    {"([a-z0-9.]+)", \w+, \d, WP_E', text, re.MULTILINE)
        assert x86 == list(machine.X86_FLAGS)
        words = {"16": "hwcap", "26": "hwcap2"}
        others = {
            name: f"{words[word]}.{bit}" for name, word, bit in re.findall(r'{"([\w.-]+)", (16|26), (\d+)}', text)
        }
        known = {**machine.AARCH64_FLAGS, **machine.ARMV7_FLAGS, **machine.RISCV64_FLAGS}
        assert others.keys() == {name for name, flag in known.items() if flag.startswith("hwcap")}

    @pytest.mark.skipif(machine.machine() != "x86_64", reason="the flags of x86-64")
    def test_this_cpu_has_what_linux_says(self, tmp_path):
        source = """
            #include "cpu.h"
            #include <stdio.h>
            int main(void) {
              for (size_t i = 0; i < sizeof wp_features / sizeof *wp_features; i++)
                if (wp_has_features(wp_features[i].name)) puts(wp_features[i].name);
              return wp_has_features("sse3,no-such-feature") || !wp_has_features("") || !wp_has_features("sse3,ssse3");
            }"""
        (tmp_path / "cpu.c").write_text(source)
        program = make(tmp_path / "cpu.c", tmp_path / "cpu")
        said = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
        flags = machine.cpu_flags()
        assert flags is not None
        assert said == [name for name, flag in machine.X86_FLAGS.items() if flag in flags]


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
    def test_the_sources_of_an_artifact_do(self, compiler, saved, tmp_path):
        manifest = read_header(saved).manifest
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
    def test_no_name_in_the_sources_is_in_the_way(self, compiler, shared, saved, tmp_path):
        """Every word of theirs that a caller may choose, as the name of a function beside all the others."""
        for source in INCLUDE.glob("*.[ch]"):
            shutil.copy(source, tmp_path)
        text = c_config.config(read_header(saved).manifest, 64, shared=shared, symbol="the_symbol", blob="blob.bin")
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
