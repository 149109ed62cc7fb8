"""Compilers and linkers for other platforms: which one is taken, what is said where there is none, what comes out."""

from __future__ import annotations

import importlib.util
import re
import struct
import sys
from pathlib import Path

import pytest

import woodpecker as wp
from woodpecker import toolchain
from woodpecker.c_config import getter
from woodpecker.errors import ArtifactError, MissingExtraError, TargetError
from woodpecker.manifest import ENTRIES
from woodpecker.platforms import SUPPORTED, Platform, here, of_triple, triple
from woodpecker.runtime.loader import read_header
from woodpecker.targets import resolve

from .gallery import ALONE, grown
from .qemu_support import needs_zig

AARCH64 = Platform("linux", "aarch64", "gnu")
MUSL = Platform("linux", "aarch64", "musl")
WASI = Platform("wasi", "wasm32", "")
WALK = {"strategy": "tree_traversal", **ALONE["tree_traversal"]}


@pytest.fixture(scope="module", name="forest")
def forest_fixture():
    return grown(31, 8, 4, base_score=0.5)


@pytest.fixture(name="bare")
def bare_fixture(monkeypatch, tmp_path):
    """A machine with no compiler at all; the folder is its PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return tmp_path


def program(path: Path, says: str = "") -> str:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return str(path)


class TestChoice:
    @pytest.mark.usefixtures("bare")
    def test_none(self):
        with pytest.raises(
            MissingExtraError,
            match=r"aarch64 on Linux with glibc needs .*'woodpecker\[cross\]', or on Deb.*gcc-aarch64",
        ):
            toolchain.find(AARCH64)
        with pytest.raises(MissingExtraError, match=r"pip install 'woodpecker\[cross\]'$"):
            toolchain.find(MUSL)
        with pytest.raises(MissingExtraError, match=r"x86_64 on Windows needs .*pip install 'woodpecker\[cross\]'$"):
            toolchain.find(Platform("win32", "x86_64", ""))
        with pytest.raises(MissingExtraError, match=r"for WebAssembly \(wasm32\) needs .*'woodpecker\[cross\]'$"):
            toolchain.find(WASI)

    @pytest.mark.usefixtures("bare")
    def test_nothing_is_written_without_one(self, forest, tmp_path):
        with pytest.raises(MissingExtraError):
            wp.compile(forest, target="aarch64", **WALK).save(tmp_path / "m.so")
        assert list(tmp_path.iterdir()) == []

    def test_a_cross_compiler_of_the_system(self, bare):
        program(bare / "aarch64-linux-gnu-gcc")
        assert toolchain.find(AARCH64).command == ("aarch64-linux-gnu-gcc",)
        with pytest.raises(MissingExtraError):
            toolchain.find(MUSL)

    def test_zig_comes_first(self, bare):
        program(bare / "aarch64-linux-gnu-gcc")
        found = program(bare / "zig")
        assert toolchain.find(AARCH64).command == (found, "cc", "-target", "aarch64-linux-gnu.2.17")
        assert toolchain.find(WASI).command == (found, "cc", "-target", "wasm32-wasi")

    @pytest.mark.parametrize(
        ("says", "platform"),
        [
            ("aarch64-poky-linux", AARCH64),
            ("aarch64-linux-gnu", AARCH64),
            ("aarch64-unknown-linux-musl", MUSL),
            ("arm-linux-gnueabihf", Platform("linux", "armv7", "gnu")),
            ("riscv64-linux-gnu", Platform("linux", "riscv64", "gnu")),
        ],
    )
    def test_the_variable_where_it_makes_such_code(self, bare, monkeypatch, says, platform):
        found = program(bare / "mycc", says)
        monkeypatch.setenv("CC", f"{found} --sysroot=/x")
        assert toolchain.find(platform).command == (found, "--sysroot=/x")
        other = AARCH64 if platform != AARCH64 else MUSL
        with pytest.raises(MissingExtraError):
            toolchain.find(other)

    @pytest.mark.parametrize(
        ("compiler", "archiver"),
        [
            ("zig cc", "zig ar"),
            ("zig c++ -target x86_64-linux-gnu", "zig ar"),
            ("ccache zig-0.13.0 cc", "ccache zig-0.13.0 ar"),
            ("python -m ziglang c++", "python -m ziglang ar"),
            ("aarch64-linux-gnu-gcc -O1", "aarch64-linux-gnu-ar"),
            ("arm-linux-gnueabihf-gcc", "arm-linux-gnueabihf-ar"),
            ("gcc", "llvm-ar"),
            ("zigzag", "llvm-ar"),
        ],
    )
    @pytest.mark.parametrize("absolute", [False, True])
    def test_the_archiver_of_a_compiler(self, bare, monkeypatch, compiler, archiver, absolute):
        """What makes static libraries belongs to the compiler, under whatever name that is called."""
        program(bare / "llvm-ar")
        for text in (compiler, archiver):
            program(bare / text.split()[0])
        first, *rest = compiler.split()
        monkeypatch.setenv("CC", " ".join([str(bare / first) if absolute else first, *rest]))
        command = toolchain.archiver(toolchain.find(here())).command
        assert (Path(command[0]).name, *command[1:]) == tuple(archiver.split())
        monkeypatch.setenv("AR", str(bare / "llvm-ar"))
        assert toolchain.archiver(toolchain.find(here())).command == (str(bare / "llvm-ar"),)

    def test_an_archiver_writes_no_times(self, bare, monkeypatch):
        """macOS' ar refuses D, and has a variable for it."""
        program(bare / "ar")
        program(bare / "cc")
        assert toolchain.static_library(["a.o", "b.o"], "m.a") == ["rcsD", "m.a", "a.o", "b.o"]
        with monkeypatch.context() as there:
            there.setattr(sys, "platform", "darwin")
            assert toolchain.static_library(["a.o"], "m.a") == ["rcs", "m.a", "a.o"]
        assert toolchain.archiver(toolchain.find(here())).environment["ZERO_AR_DATE"] == "1"

    def test_a_variable_that_is_no_command(self, monkeypatch):
        monkeypatch.setenv("CC", '"')
        with pytest.raises(TargetError, match="which is no command"):
            toolchain.find(AARCH64)

    @pytest.mark.usefixtures("bare")
    def test_a_compiler_that_fails(self, forest, tmp_path):
        (tmp_path / "zig").write_text("#!/bin/sh\necho no such target >&2; exit 1\n")
        (tmp_path / "zig").chmod(0o755)
        with pytest.raises(TargetError, match=r"(?s)the C compiler failed: .*zig cc -target aarch64.*no such target"):
            wp.compile(forest, target="aarch64", **WALK).save(tmp_path / "m.so")
        assert [p.name for p in tmp_path.iterdir()] == ["zig"]


class TestPlatforms:
    @pytest.mark.parametrize("platform", SUPPORTED, ids=triple)
    def test_a_triple_means_its_platform(self, platform):
        assert of_triple(triple(platform), "x") == platform
        assert resolve(triple(platform)).platform == platform

    @pytest.mark.parametrize(
        "text",
        [
            "armv7-linux-gnueabi",
            "armv7-linux",
            "x86_64-linux-gnux32",
            "aarch64-linux-gnu_ilp32",
            "aarch64_be-linux-gnu",
            "x86_64-pc-windows-msvc",
            "riscv32-linux-gnu",
            "aarch64-linux-android",
            "x86_64-apple-macosx",
            "wasm32-unknown-unknown",
            "wasm32-wasip2",
            "wasm32-wasi-musl",
        ],
    )
    def test_other_triples_are_refused(self, text):
        with pytest.raises(
            TargetError, match=f"is for {text}, which this version does not compile for; it does for x86"
        ):
            of_triple(text, "x")


def machine_of(data: bytes) -> tuple[int, int]:
    """(class, machine) of an ELF header: 1 and 2 are 32 and 64 bits."""
    assert data[:4] == b"\x7fELF"
    return data[4], struct.unpack_from("<H", data, 18)[0]


@needs_zig
class TestArtifacts:
    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            ("aarch64", (2, 183)),
            pytest.param("armv7", (1, 40), marks=pytest.mark.full),
            pytest.param("riscv64", (2, 243), marks=pytest.mark.full),
            pytest.param("x86_64-linux-musl", (2, 62), marks=pytest.mark.full),
        ],
    )
    def test_linked_for_linux(self, forest, tmp_path, target, expected):
        compiled = wp.compile(forest, target=target, **WALK)
        compiled.save(tmp_path / "m.so")
        data = (tmp_path / "m.so").read_bytes()
        assert machine_of(data) == expected
        header = read_header(tmp_path / "m.so", verify=True)
        prefix = header.manifest["prefix"].encode()
        for name in (b"raw_f32", b"apply_f64", b"raw_f64_parallel", b"model"):
            assert b"__tvm_ffi_" + prefix + b"_" + name + b"\0" in data
        assert header.manifest["levels"][0]["target"] == resolve(target).manifest()
        compiled.save(tmp_path / "again.so")
        assert data == (tmp_path / "again.so").read_bytes(), "the same model gives the same bytes"

    @pytest.mark.full
    @pytest.mark.parametrize(
        ("target", "kind", "imports"),
        [
            ("arm64-apple-macosx", ("MACHO", "ARM64"), {"libSystem.B.dylib"}),
            ("x86_64-windows-gnu", ("PE", "AMD64"), {"KERNEL32.dll"}),
            ({"kind": "llvm", "mtriple": "x86_64-windows-gnu", "mcpu": "x86-64-v3"}, ("PE", "AMD64"), {"KERNEL32.dll"}),
        ],
    )
    def test_linked_for_other_systems(self, forest, tmp_path, target, kind, imports, capsys):
        """Nothing here can run these: their format, what they export and what they need are read."""
        lief = pytest.importorskip("lief")
        said = wp.compile(forest, target=target, **WALK).save(tmp_path / "m.so")
        assert "(never run by us); not on this machine" in said
        found = lief.parse(tmp_path / "m.so")
        machine = found.header.cpu_type if kind[0] == "MACHO" else found.header.machine
        assert (found.format.name, machine.name) == kind
        prefix = read_header(tmp_path / "m.so", verify=True).manifest["prefix"]
        entries = [*ENTRIES, *(f"{name}_parallel" for name in ENTRIES), "model"]
        exported = {
            function.name.removeprefix("_" if kind[0] == "MACHO" else "") for function in found.exported_functions
        }
        promised = {*(f"__tvm_ffi_{prefix}_{name}" for name in entries), getter(prefix), "woodpecker_model"}
        assert promised <= exported
        # LLVM's conversions of float16 under names of the model's own, and what the linker adds.
        assert not [
            n for n in exported - promised if not re.fullmatch(r"[xt][0-9a-f]+_*|_mh_dylib_header|__dso_handle", n)
        ]
        libraries = {Path(each if isinstance(each, str) else each.name).name for each in found.libraries} - {"model.so"}
        system = {name for name in libraries if name.startswith(("api-ms-win-crt", "KERNEL"))}
        assert imports <= libraries and libraries - system <= {"libSystem.B.dylib"}
        assert not [function.name for function in found.imported_functions if "TVM" in function.name]
        with pytest.raises(ArtifactError, match="this is x86_64 on Linux"):
            wp.load(tmp_path / "m.so")
        pytest.importorskip("typer")
        from woodpecker.cli import main

        assert main(["inspect", str(tmp_path / "m.so")]) == 0
        assert "(never run by us)" in capsys.readouterr().out

    def test_a_truncated_one(self, forest, tmp_path):
        wp.compile(forest, target="armv7", **WALK).save(tmp_path / "m.so")
        data = (tmp_path / "m.so").read_bytes()
        for cut in (len(data) - 1, len(data) // 2, 40):
            (tmp_path / "m.so").write_bytes(data[:cut])
            with pytest.raises(ArtifactError):
                read_header(tmp_path / "m.so")
