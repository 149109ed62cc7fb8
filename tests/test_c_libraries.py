"""Models linked with C programs: static libraries, symbols, formats."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import c_config
from woodpecker.build import own_names
from woodpecker.errors import ArtifactError, InputError, TargetError
from woodpecker.forest import Method
from woodpecker.runtime.loader import read_header

from .c_support import ONE, SEVERAL, SIZES, SOURCES, binary, check_all, expected, make, run
from .gallery import FORESTS, compiled, grown, rows


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

    @pytest.mark.full
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

    def test_a_shared_library(self, c_artifact, tmp_path):
        name = c_config.getter(read_header(c_artifact).manifest["prefix"])
        program = make(SOURCES / "run.c", tmp_path / "run", f"-DMODEL={name}", c_artifact)
        X = rows(binary(), sum(SIZES), 4, "float32")
        assert run([program], X, "raw", tmp_path) == expected(wp.load(c_artifact), "raw", X)

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

    @pytest.mark.full
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

    @pytest.mark.sampled(2)
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
