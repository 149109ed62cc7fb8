"""Artifacts: the same bits as in process, the same bytes each time, and a typed error for whatever is wrong."""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import reference
from woodpecker.errors import ArtifactError, InputError, UnsupportedModelError
from woodpecker.runtime import format as fmt
from woodpecker.runtime.format import FORMAT, MAGIC
from woodpecker.runtime.loader import read_header

from .artifact_support import copy_fixture, forest_fixture, saved_fixture, stump_fixture  # noqa: F401
from .gallery import ALONE, FORESTS, NAMES, assert_agrees, compiled, fitting, rows
from .support import assert_bits_equal

CRC_AT = 48


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        ("outputs", "gemm"),
        ("sentinel64", "bitslice"),
        ("linear", "tree_traversal"),
        pytest.param("truncate", "tree_traversal", marks=pytest.mark.full),
        pytest.param("vector", "perfect_tree_traversal", marks=pytest.mark.full),
        pytest.param("truncate", "scan", marks=pytest.mark.full),
        pytest.param("empty", "gemm", marks=pytest.mark.full),
    ],
)
def test_artifact_is_what_was_compiled(name, strategy, tmp_path):
    forest = FORESTS[name]()
    predictor = wp.compile(forest, strategy=strategy)
    predictor.save(tmp_path / "m.so")
    loaded = wp.load(tmp_path / "m.so", verify=True)
    for dtype in ("float32", "float64"):
        assert_agrees(loaded, forest, rows(forest, 1100, 1, dtype))
    assert loaded.inspect() == predictor.inspect()
    assert repr(loaded) == repr(predictor)
    with pytest.raises(UnsupportedModelError, match="copy its file"):
        loaded.save(tmp_path / "again.so")
    with pytest.raises(UnsupportedModelError, match="holds no graph"):
        loaded.to_relax()


@pytest.mark.full
@pytest.mark.parametrize(("name", "strategy"), fitting("artifact"))
def test_every_artifact(name, strategy, tmp_path):
    forest = FORESTS[name]()
    compiled(forest, strategy).save(tmp_path / "m.so")
    for threads in (1, 3):
        loaded = wp.load(tmp_path / "m.so", num_threads=threads)
        for dtype in ("float32", "float64"):
            assert_agrees(loaded, forest, rows(forest, 2100, 1, dtype))


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "options", [ALONE["bitslice"], pytest.param({}, marks=pytest.mark.full)], ids=["one step", "a plan"]
)
@pytest.mark.parametrize("target", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_artifacts_for_levels_of_x86(target, options, tmp_path):
    from woodpecker.targets import resolve

    forest = FORESTS["outputs"]()
    wp.compile(forest, strategy="bitslice", target=target, **options).save(tmp_path / "m.so")
    assert read_header(tmp_path / "m.so").manifest["levels"][0]["target"]["name"] == target
    if not resolve(target).native:
        with pytest.raises(ArtifactError, match="which this CPU has not"):
            wp.load(tmp_path / "m.so")
        return
    assert_agrees(wp.load(tmp_path / "m.so"), forest, rows(forest, 1100, 1, "float32"))


@pytest.mark.full
def test_the_same_model_gives_the_same_bytes(forest, saved, tmp_path):
    wp.compile(forest, strategy="tree_traversal").save(tmp_path / "a.so")
    assert (tmp_path / "a.so").read_bytes() == saved.read_bytes()
    program = (
        "import sys, pickle, woodpecker as wp; "
        "wp.compile(pickle.load(open(sys.argv[1], 'rb')), strategy='tree_traversal').save(sys.argv[2])"
    )
    (tmp_path / "forest").write_bytes(pickle.dumps(forest))
    environment = os.environ | {"PYTHONHASHSEED": "7", "TMPDIR": str(tmp_path)}
    subprocess.run(
        [sys.executable, "-c", program, tmp_path / "forest", tmp_path / "b.so"],
        check=True,
        env=environment,
        cwd=tmp_path,
    )
    assert (tmp_path / "b.so").read_bytes() == saved.read_bytes()
    assert str(tmp_path).encode() not in saved.read_bytes()


class TestDamage:
    def test_truncated_anywhere(self, saved, tmp_path):
        whole = saved.read_bytes()
        sizes = [len(whole) * i // 20 for i in range(20)] + [1, 63, 64, len(whole) - 1]
        for size in sizes:
            (tmp_path / "cut.so").write_bytes(whole[:size])
            with pytest.raises(ArtifactError, match=r"cut\.so"):
                wp.load(tmp_path / "cut.so")

    def places(self, path: Path) -> tuple[int, int, int]:
        """(start of the blob, start of its tables, its end)."""
        header = read_header(path)
        manifest_at, size = struct.unpack_from("<QQ", path.read_bytes(), header.start + 32)
        return header.start, header.start + manifest_at + size, header.start + header.length

    def flipped(self, path: Path, at: int, bit: int) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 1 << bit
        path.write_bytes(data)

    def test_flipped_bits_of_header_directory_and_manifest(self, saved, tmp_path):
        start, tables, _ = self.places(saved)
        whole = saved.read_bytes()
        rng = np.random.default_rng(0)
        places = [*range(start, start + 96), *rng.integers(start + 96, tables, 150)]
        path = tmp_path / "flip.so"
        for at in places:
            path.write_bytes(whole)
            self.flipped(path, int(at), int(rng.integers(8)))
            with pytest.raises(ArtifactError):
                wp.load(path)

    def test_flipped_bits_of_tables_are_found_by_the_digest(self, saved, tmp_path):
        _, tables, end = self.places(saved)
        whole = saved.read_bytes()
        path = tmp_path / "flip.so"
        for at in np.random.default_rng(1).integers(tables, end, 40):
            path.write_bytes(whole)
            self.flipped(path, int(at), int(at) % 8)
            read_header(path)
            with pytest.raises(ArtifactError, match="digest of the model differs"):
                wp.load(path, verify=True)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"\x7fELF" + bytes(500), "holds no model"),
            (b"just some text\n" * 100, "holds no model"),
            (MAGIC, "damaged or cut short"),
            (MAGIC + bytes(200), "format version 0"),
            (bytes(np.random.default_rng(0).integers(0, 256, 5000, dtype=np.uint8)), "holds no model"),
        ],
        ids=["empty", "elf", "text", "magic", "zeros", "noise"],
    )
    def test_not_an_artifact(self, content, message, tmp_path):
        (tmp_path / "x.so").write_bytes(content)
        with pytest.raises(ArtifactError, match=message):
            wp.load(tmp_path / "x.so")

    def test_a_library_without_a_model(self):
        library = Path(np.__file__).parent / "_core"
        path = next(library.glob("_multiarray_umath*.so"))
        with pytest.raises(ArtifactError, match="holds no model"):
            wp.load(path)

    def test_a_model_without_its_library(self, saved, tmp_path):
        start, _, end = self.places(saved)
        (tmp_path / "blob.so").write_bytes(saved.read_bytes()[start:end])
        with pytest.raises(ArtifactError, match="can't be loaded"):
            wp.load(tmp_path / "blob.so")

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "fifo.so")
        with pytest.raises(ArtifactError, match=r"fifo\.so is a device, pipe or socket"):
            wp.load(tmp_path / "fifo.so")

    @pytest.mark.parametrize("path", [None, 3, b"m.so", "a\0b", "\ud800.so"], ids=repr)
    def test_no_paths(self, path):
        with pytest.raises(InputError, match="path"):
            wp.load(path)

    def test_paths(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            wp.load(tmp_path / "absent.so")
        with pytest.raises(IsADirectoryError):
            wp.load(tmp_path)


def edited(path: Path, version: int | None = None, abi: int | None = None, **target: object) -> Path:
    """The artifact with another header and another target in its manifest, its checksum put right."""
    data = bytearray(path.read_bytes())
    start = read_header(path).start
    manifest_at, size = struct.unpack_from("<QQ", data, start + 32)
    text = bytes(data[start + manifest_at : start + manifest_at + size])
    manifest = json.loads(text)
    manifest["levels"][0]["target"] |= target
    # A shorter text keeps its place in the file: JSON may be followed by spaces.
    manifest["stats"] = {}
    new = json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode()
    assert len(new) <= size
    data[start + manifest_at : start + manifest_at + size] = new.ljust(size)
    if version is not None:
        struct.pack_into("<I", data, start + 16, version)
    if abi is not None:
        struct.pack_into("<I", data, start + 20, abi)
    struct.pack_into("<I", data, start + CRC_AT, 0)
    crc = zlib.crc32(data[start : start + manifest_at + size])
    struct.pack_into("<I", data, start + CRC_AT, crc)
    path.write_bytes(data)
    return path


class TestOtherMachines:
    @pytest.fixture(autouse=True)
    def no_code_is_mapped(self, monkeypatch):
        def refuse(*_: object) -> None:
            raise AssertionError("the library was loaded before it was checked")

        monkeypatch.setattr("tvm_ffi.load_module", refuse)

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ({"machine": "aarch64"}, 'compiled for aarch64 on Linux.*; this is x86_64 on Linux.*target="x86-64-v2"'),
            ({"libc": "musl"}, "on Linux with musl; this is x86_64 on Linux with glibc"),
            ({"system": "darwin"}, "on macOS.*; this is .* on Linux"),
            ({"features": ["avx2", "avx10.9", "amx"], "cpu": "future"}, "for a future and needs .*avx10.9, amx, which"),
        ],
        ids=["machine", "libc", "system", "features"],
    )
    def test_other_platforms_and_cpus(self, copy, target, message):
        with pytest.raises(ArtifactError, match=message):
            wp.load(edited(copy, **target))

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (
                {"version": FORMAT + 1},
                f"format version {FORMAT + 1}; this woodpecker reads versions {FORMAT - 1} and {FORMAT}",
            ),
            ({"version": 0}, "format version 0"),
            ({"version": 1}, "damaged"),  # what version 1 has is not there
            ({"abi": 99}, "ABI version 99"),
        ],
    )
    def test_other_versions(self, copy, header, message):
        with pytest.raises(ArtifactError, match=message):
            wp.load(edited(copy, **header))

    def test_the_check_reaches_the_library_where_all_is_well(self, copy):
        with pytest.raises(AssertionError, match="before it was checked"):
            wp.load(edited(copy))

    def test_wrong_arguments(self, copy):
        with pytest.raises(
            InputError, match="device must be None, 'cpu', 'cuda' or 'cuda:0' and the like, found 'gpu'"
        ):
            wp.load(copy, device="gpu")
        with pytest.raises(InputError, match="num_threads must be an integer from 1 to 256"):
            wp.load(copy, num_threads=0)


class TestLoading:
    def test_path_without_slash(self, saved, forest, monkeypatch):
        monkeypatch.chdir(saved.parent)
        assert_agrees(wp.load(saved.name), forest, rows(forest, 50, 3, "float32"))

    @pytest.mark.full
    @pytest.mark.parametrize(
        "name",
        [
            "model",
            "$LIB/m.so",
            *(
                pytest.param(n, marks=pytest.mark.full)
                for n in ("m.bin", "m.o", "m.json", "m.tar", "m.SO", "$ORIGIN.so")
            ),
        ],
    )
    def test_any_name(self, stump, copy, forest, tmp_path, name):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        stump.save(path)
        for _ in range(2):
            assert wp.load(path).predict_raw(np.zeros((1, 2))).tolist() == [[1.0]]
        shutil.copy(copy, tmp_path / "new")
        (tmp_path / "new").replace(path)
        assert_agrees(wp.load(path), forest, rows(forest, 50, 3, "float32"))

    def test_a_name_that_is_no_text(self, stump, tmp_path):
        # In a process of its own: threadpoolctl, which scikit-learn uses, can't read the map of one that holds it.
        path = tmp_path / os.fsdecode(b"\xff.so")
        stump.save(path)
        program = "import sys, numpy, woodpecker; print(woodpecker.load(sys.argv[1]).predict_raw(numpy.zeros((1, 2))))"
        done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
        assert done.stdout == "[[1.]]\n"

    def test_two_models_and_one_twice(self, saved, forest, tmp_path):
        other = FORESTS["vector"]()
        wp.compile(other, strategy="tree_traversal").save(tmp_path / "other.so")
        first, second, again = wp.load(saved), wp.load(tmp_path / "other.so"), wp.load(saved)
        copied = wp.load(shutil.copy(saved, tmp_path / "copy.so"))
        for _ in range(2):
            for one in (first, again, copied):
                assert_agrees(one, forest, rows(forest, 300, 4, "float32"))
            assert_agrees(second, other, rows(other, 300, 4))

    def test_file_replaced_while_loaded(self, copy, forest):
        old = wp.load(copy)
        other = FORESTS["vector"]()
        wp.compile(other, strategy="tree_traversal").save(copy)
        new = wp.load(copy)
        assert_agrees(new, other, rows(other, 100, 5))
        assert_agrees(old, forest, rows(forest, 100, 5, "float32"))
        copy.unlink()
        assert_agrees(new, other, rows(other, 100, 6))

    def test_tables_are_read_only_memory(self, saved):
        model = wp.load(saved)._program.model
        assert model.ctypes.data % 64 == 0
        address = model.ctypes.data
        maps = [line.split() for line in Path("/proc/self/maps").read_text(errors="replace").splitlines()]
        held = [m[1] for m in maps if int(m[0].split("-")[0], 16) <= address < int(m[0].split("-")[1], 16)]
        assert held and all("w" not in mode for mode in held)

    def test_only_entries_are_exported(self, saved):
        prefix = read_header(saved).manifest["prefix"]
        library = ctypes.CDLL(str(saved))
        assert getattr(library, f"__tvm_ffi_{prefix}_raw_f32")
        names = subprocess.run(["nm", "-D", saved], capture_output=True, text=True, check=True).stdout.split("\n")
        defined = [line.split()[-1] for line in names if " T " in line or " D " in line or " R " in line]
        in_c = {"woodpecker_model", f"wp_model_{prefix.removeprefix('wp_')}"}
        assert in_c < set(defined)
        assert all(name.startswith(f"__tvm_ffi_{prefix}_") for name in set(defined) - in_c)
        wanted = {line.split()[-1].split("@")[0] for line in names if " U " in line}
        allowed = {"expf", "exp", "memcpy", "memset", "memcmp", "strlen", "strchr", "strspn", "getenv"}
        allowed |= {"sched_yield", "sigfillset", "__register_atfork", "__cxa_finalize"}
        assert {name for name in wanted if not name.startswith("pthread_")} <= allowed


def test_the_manifest_says_what_is_needed(saved):
    manifest = read_header(saved).manifest
    assert manifest["prefix"].startswith("wp_") and manifest["levels"][0]["target"]["machine"] == "x86_64"
    text = json.dumps(manifest)
    assert all(word not in text for word in (str(saved.parent), str(Path.home()), os.sep + "usr"))


def test_options_serve_alone():
    assert set(ALONE) <= set(NAMES)


def test_scores_of_an_artifact_by_the_interpreter(saved, forest):
    X = rows(forest, 500, 9, "float64")
    got = wp.load(saved).predict_raw(X)
    assert_bits_equal(got, reference.predict_raw(forest, X))
    assert len(np.unique(got)) > 10


@pytest.mark.parametrize(
    "manifest",
    [
        [],
        {},
        {"levels": []},
        {"levels": "x"},
        {"levels": [7]},
        {"levels": [{"target": "llvm"}]},
        {"levels": {"target": {}}},
    ],
)
def test_another_manifest_with_a_valid_checksum(manifest, tmp_path):
    (tmp_path / "model.so").write_bytes(b"\0" * 64 + fmt.pack([({}, {})], manifest).tobytes())
    with pytest.raises(ArtifactError, match="damaged"):
        wp.load(tmp_path / "model.so")


def test_a_manifest_nested_too_deeply(tmp_path):
    filler = b'"' + b"#" * 200_000 + b'"'
    data = bytearray(fmt.pack([({}, {})], {"levels": [filler.decode().strip('"')]}).tobytes())
    begin = data.index(filler)
    data[begin : begin + len(filler)] = b"[" * len(filler)
    text_end = begin + len(filler) + len("]}")
    data[48:52] = bytes(4)
    data[48:52] = zlib.crc32(data[:text_end]).to_bytes(4, "little")
    (tmp_path / "model.so").write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged"):
        wp.load(tmp_path / "model.so")
