"""CPU levels of artifacts in C: the choice is that of Python."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

import woodpecker as wp
from woodpecker.runtime import machine
from woodpecker.runtime.loader import read_header
from woodpecker.targets import X86_LEVELS, resolve_levels

from .c_support import INCLUDE, SIZES, binary, expected, loading, make, run
from .gallery import compiled, rows

V2, V3, _ = X86_LEVELS


class TestLevels:
    def test_the_choice_is_that_of_python(self, c_programs, c_artifact, tmp_path):
        X = rows(binary(), sum(SIZES), 3, "float32")
        want = expected(wp.load(c_artifact), "raw", X)
        for level in resolve_levels("x86-64"):
            environment = {"WOODPECKER_CPU_LEVEL": f" {level.name} "}
            if level.native:
                assert run([c_programs["run"]], X, "raw", tmp_path, c_artifact, **environment) == want
        assert "names a level that the model has not" in loading(
            c_programs["run"], c_artifact, WOODPECKER_CPU_LEVEL="v3"
        )

    @pytest.mark.full
    @pytest.mark.skipif(not shutil.which("qemu-x86_64"), reason="there is no qemu-x86_64")
    @pytest.mark.parametrize(("cpu", "level"), [("Nehalem", V2), ("Haswell", V3), ("qemu64", None)])
    def test_the_cpu_itself_is_asked(self, cpu, level, c_artifact, tmp_path):
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
        command = ["qemu-x86_64", "-cpu", cpu, program, c_artifact]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if level is None:
            assert done.returncode == 1 and "needs at least: sse3,ssse3,sse4.1,sse4.2,popcnt" in done.stdout
        else:
            assert (done.returncode, done.stdout) == (0, f"{level}\n")

    def test_a_cpu_that_can_run_none(self, c_programs, tmp_path):
        """Under valgrind or an emulator it would be another CPU: here the code needs what no CPU has."""
        compiled(binary(), "gemm", target={"kind": "llvm", "mcpu": "diamondrapids"}).save(tmp_path / "m.so")
        if machine.runs(read_header(tmp_path / "m.so").manifest["levels"][0]["target"]):
            pytest.skip("this CPU can run it")
        said = loading(c_programs["run"], tmp_path / "m.so")
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
