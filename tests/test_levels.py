"""One artifact for several CPU levels: which one runs, that all give the same bits, and what is refused."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import woodpecker as wp
from woodpecker.errors import ArtifactError, InputError, TargetError
from woodpecker.forest import Method
from woodpecker.runtime import machine
from woodpecker.runtime.format import DIRECTORY_BYTES, DIRECTORY_OFFSET, FORMAT, in_level
from woodpecker.runtime.loader import read_header
from woodpecker.targets import PORTABLE, X86_LEVELS, resolve, resolve_levels

from .gallery import ALONE, FORESTS, assert_agrees, compiled, fitting, grown, rows
from .support import SHORT, in_turn

V2, V3, V4 = X86_LEVELS
DATA = Path(__file__).parent / "data"
ICELAKE = {"kind": "llvm", "mcpu": "icelake-server"}


def flags_of(target: str) -> frozenset[str]:
    return frozenset(machine.X86_FLAGS[f] for f in resolve(target).features)


def is_cpu(monkeypatch: pytest.MonkeyPatch, target: str | None) -> None:
    """Make this machine's CPU one that has what the target needs, and no more; None: unknown."""
    flags = None if target is None else flags_of(target)
    monkeypatch.setattr(machine, "cpu_flags", lambda: flags)


def used(model: Any) -> list[str]:
    return [level["target"]["name"] for level in model.inspect()["levels"] if level["in_use"]]


@pytest.fixture(name="forest", scope="module")
def forest_fixture():
    return grown(31, 8, 4, dtype=np.float32, base_score=0.5, methods={"predict": Method("value", "xgb_sigmoid")})


@pytest.fixture(name="small", scope="module")
def small_fixture(forest, tmp_path_factory):
    """(what was compiled, its artifact) for all levels, of little code."""
    predictor = wp.compile(forest, target="x86-64", strategy="tree_traversal", **ALONE["tree_traversal"])
    path = tmp_path_factory.mktemp("levels") / "m.so"
    predictor.save(path)
    return predictor, path


class TestTargets:
    def names(self, target: Any) -> list[str]:
        return [level.name for level in resolve_levels(target)]

    def test_one_is_itself(self):
        assert resolve_levels([V3]) == resolve_levels(V3) == (resolve(V3),)
        assert resolve_levels(({"kind": "llvm", "mcpu": V3},))[0].cpu == V3

    def test_the_short_name(self):
        assert self.names("x86-64") == self.names(["x86-64"]) == self.names(list(X86_LEVELS)) == [V2, V3, V4]

    def test_what_needs_more_comes_later(self):
        assert self.names([V4, V2, V3]) == [V2, V3, V4]
        assert self.names((V3, V4, V2)) == [V2, V3, V4]
        icelake = resolve(ICELAKE).name
        assert self.names([ICELAKE, "x86-64"]) == [V2, V3, V4, icelake]

    @pytest.mark.parametrize("cpu", ["haswell", "bdver2"])
    def test_otherwise_the_order_decides(self, cpu):
        """haswell needs what x86-64-v3 needs; of bdver2 and x86-64-v3, neither needs all that the other does."""
        other = {"kind": "llvm", "mcpu": cpu}
        name = resolve(other).name
        assert self.names([other, V3, V2]) == [V2, name, V3]
        assert self.names([V3, other, V2]) == [V2, V3, name]

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ([], "an empty list: name at least one"),
            ([V2, V2], "'x86-64-v2' is listed twice; list"),
            (["x86-64", V3], "'x86-64-v3' is listed twice; list"),
            ([V2, {"mcpu": V2, "kind": "llvm"}], "is listed twice: 'x86-64-v2' means the same here"),
            (["llvm", "cpu"], "'cpu' is listed twice: 'llvm' means the same here"),
            (
                [V2, "aarch64"],
                "for x86_64 on Linux with glibc and for aarch64 on Linux with glibc: an artifact is for one",
            ),
            ([V2, "pdp-11"], "unknown target 'pdp-11'; known: .*x86-64-v4, x86-64,"),
            ([V2, 7], "must be a name, a dictionary or a tvm Target, found int"),
            ([[V2]], "must be a name, a dictionary or a tvm Target, found list"),
            (b"x86-64", "must be a name, a dictionary or a tvm Target, found bytes"),
        ],
        ids=repr,
    )
    def test_refused(self, forest, target, message):
        with pytest.raises(TargetError, match=message):
            wp.compile(forest, target=target)


class TestChoice:
    def targets(self, *names: Any) -> list[dict[str, Any]]:
        return [level.manifest() for level in resolve_levels(names or PORTABLE)]

    @pytest.mark.parametrize(("cpu", "want"), [(V2, 0), (V3, 1), (V4, 2), ('{"kind":"llvm","mcpu":"znver4"}', 2)])
    def test_the_last_that_runs(self, monkeypatch, cpu, want):
        is_cpu(monkeypatch, cpu)
        assert machine.choose(self.targets()) == want

    def test_none(self, monkeypatch):
        is_cpu(monkeypatch, '{"kind":"llvm","mcpu":"x86-64"}')
        assert machine.choose(self.targets()) is None

    def test_an_unknown_cpu_gets_what_needs_least(self, monkeypatch):
        is_cpu(monkeypatch, None)
        assert machine.choose(self.targets()) == 0
        assert machine.choose(self.targets(V4)) == 0

    def test_what_the_newest_cpus_add_is_needed(self, monkeypatch):
        """Diamond Rapids has APX and AVX10.2, which LLVM uses unasked; Granite Rapids has all the rest."""
        newest, before = ({"kind": "llvm", "mcpu": cpu} for cpu in ("diamondrapids", "graniterapids"))
        assert {"egpr", "ndd", "avx10.2", "avxvnniint8"} <= set(resolve(newest).features)
        is_cpu(monkeypatch, json.dumps(before))
        assert machine.choose(self.targets("x86-64", before, newest)) == 3

    def test_another_platform(self, monkeypatch):
        monkeypatch.setenv("WOODPECKER_CPU_LEVEL", V2)
        targets = [{**target, "machine": "aarch64"} for target in self.targets()]
        assert machine.choose(targets) is None
        with pytest.raises(ArtifactError, match=r"m\.so was compiled for aarch64 on Linux with glibc; this is x86_64"):
            machine.check(targets, "m.so")

    def test_the_variable(self, monkeypatch):
        is_cpu(monkeypatch, V3)
        for number, name in enumerate((V2, V3)):
            monkeypatch.setenv("WOODPECKER_CPU_LEVEL", name)
            assert machine.choose(self.targets()) == number
        monkeypatch.setenv("WOODPECKER_CPU_LEVEL", V4)
        with pytest.raises(InputError, match=r"is 'x86-64-v4', which can't run here: this machine lacks avx512f, "):
            machine.choose(self.targets())
        monkeypatch.setenv("WOODPECKER_CPU_LEVEL", "v3")
        with pytest.raises(InputError, match=r"is 'v3'; the CPU levels of this model are x86-64-v2, .*-v3, .*-v4$"):
            machine.choose(self.targets())
        assert machine.choose(self.targets(V2)) == 0, "a lone level leaves no choice"
        monkeypatch.setenv("WOODPECKER_CPU_LEVEL", " ")
        assert machine.choose(self.targets()) == 1


class TestInProcess:
    def test_the_best_level_runs(self, forest, monkeypatch):
        is_cpu(monkeypatch, V3)
        predictor = wp.compile(forest, target="x86-64", strategy="gemm")
        assert used(predictor) == [V3]
        assert predictor.inspect()["target"]["name"] == V3
        if resolve(V3).native:
            assert_agrees(predictor, forest, rows(forest, 200, 1, "float32"))

    def test_none_runs(self, forest, monkeypatch):
        is_cpu(monkeypatch, V2)
        model = wp.compile(forest, target=[V3, V4], strategy="gemm")
        assert type(model) is wp.CompiledModel
        assert used(model) == []
        assert model.inspect()["target"]["name"] == V4

    @pytest.mark.full
    def test_tables_and_steps_of_each_level(self, monkeypatch):
        """bitslice adds tables for AVX-512 and for VBMI, and its plan has several steps."""
        forest = FORESTS["ranked"]()
        for level in resolve_levels([V2, ICELAKE]):
            monkeypatch.setenv("WOODPECKER_CPU_LEVEL", level.name)
            if not level.native:
                continue
            predictor = wp.compile(forest, target=[V2, ICELAKE], strategy="bitslice", min_rows=100)
            assert used(predictor) == [level.name] and len(predictor.inspect()["plan"]) > 1
            for n in (5, 1100):
                assert_agrees(predictor, forest, rows(forest, n, 1, "float32"))

    def test_a_wrong_variable(self, forest, monkeypatch):
        monkeypatch.setenv("WOODPECKER_CPU_LEVEL", "v3")
        with pytest.raises(InputError, match="WOODPECKER_CPU_LEVEL is 'v3'"):
            wp.compile(forest, target="x86-64")


class TestArtifacts:
    def test_every_level_has_the_bits_of_the_source(self, small, forest, monkeypatch):
        predictor, path = small
        assert wp.load(path).inspect() == predictor.inspect()
        for level in resolve_levels("x86-64"):
            monkeypatch.setenv("WOODPECKER_CPU_LEVEL", level.name)
            if not level.native:
                with pytest.raises(InputError, match="which can't run here"):
                    wp.load(path)
                continue
            for threads in (1, 3):
                loaded = wp.load(path, num_threads=threads, verify=True)
                assert used(loaded) == [level.name]
                for dtype in ("float32", "float64"):
                    assert_agrees(loaded, forest, rows(forest, 1100, 1, dtype))

    def test_equal_tables_are_stored_once(self, small, forest):
        def directories(path: Path) -> np.ndarray:
            data, start = path.read_bytes(), read_header(path).start
            (manifest_at,) = struct.unpack_from("<Q", data, start + 32)
            return np.frombuffer(data[start + DIRECTORY_OFFSET : start + manifest_at], "<i8").reshape(3, -1)

        predictor, path = small
        assert (directories(path) == directories(path)[0]).all()
        lone = wp.compile(forest, target=V2, strategy="tree_traversal", **ALONE["tree_traversal"])
        texts = len(str(read_header(path).manifest)) + 2 * DIRECTORY_BYTES
        assert predictor.inspect()["model_bytes"] < lone.inspect()["model_bytes"] + texts

    @pytest.mark.full
    def test_the_same_model_gives_the_same_bytes(self, small, forest, tmp_path):
        again = wp.compile(forest, target=[V4, V2, V3], strategy="tree_traversal", **ALONE["tree_traversal"])
        again.save(tmp_path / "m.so")
        assert small[1].read_bytes() == (tmp_path / "m.so").read_bytes()

    def test_a_list_of_one_is_that_target(self, forest):
        lone, listed = (wp.compile(forest, target=target, strategy="gemm")._program for target in (V2, [V2]))
        assert lone.manifest == listed.manifest and lone.manifest["suffix"] == ""
        assert lone.model.tobytes() == listed.model.tobytes()

    def test_entries_of_each_level_are_exported(self, small):
        names = subprocess.run(["nm", "-D", small[1]], capture_output=True, text=True, check=True).stdout.split()
        manifest = read_header(small[1]).manifest
        assert [level["suffix"] for level in manifest["levels"]] == ["_level0", "_level1", "_level2"]
        entries = [f"{name}{how}" for name in manifest["entries"] for how in ("", "_parallel")]
        wanted = {f"{name}{level['suffix']}" for name in entries for level in manifest["levels"]} | {"model"}
        start = f"__tvm_ffi_{manifest['prefix']}_"
        assert {name.removeprefix(start) for name in names if name.startswith(start)} == wanted

    def test_the_level_is_chosen_before_code_is_mapped(self, small, monkeypatch):
        def refuse(*_: object) -> None:
            raise AssertionError("the library was loaded before it was checked")

        monkeypatch.setattr("tvm_ffi.load_module", refuse)
        is_cpu(monkeypatch, '{"kind":"llvm","mcpu":"x86-64"}')
        with pytest.raises(ArtifactError, match=r"needs at least sse3, ssse3, sse4.1, sse4.2, popcnt, which this CPU"):
            wp.load(small[1])
        is_cpu(monkeypatch, V2)
        with pytest.raises(ArtifactError, match="for a x86-64-v3 or a x86-64-v4 and needs at least avx, avx2, fma"):
            machine.check([level.manifest() for level in resolve_levels([V3, V4])], "m.so")
        monkeypatch.setenv("WOODPECKER_CPU_LEVEL", V3)
        with pytest.raises(InputError, match="this machine lacks avx, avx2"):
            wp.load(small[1])

    @pytest.mark.parametrize("cpu", [V2, V3, V4])
    def test_other_cpus(self, small, monkeypatch, cpu):
        if not resolve(cpu).native:
            pytest.skip("this CPU lacks features of the level")
        is_cpu(monkeypatch, cpu)
        assert used(wp.load(small[1])) == [cpu]


class TestInspect:
    def test_levels(self, small):
        levels = small[0].inspect()["levels"]
        assert [level["target"]["cpu"] for level in levels] == [V2, V3, V4]
        assert set(levels[0]) == {"target", "plan", "tuning", "ns_per_row", "in_use"}
        assert levels[0]["plan"] == small[0].inspect()["plan"]

    def test_the_manifest_in_a_level(self, small):
        manifest = read_header(small[1]).manifest
        assert in_level(manifest, 1)["target"]["name"] == V3 and in_level(manifest, 1)["suffix"] == "_level1"
        assert in_level(manifest, None)["target"]["name"] == V4 and in_level(manifest, None)["level"] is None


class TestFormat1:
    def test_it_loads(self, forest, tmp_path):
        path = shutil.copy(DATA / "format-1.so", tmp_path / "m.so")
        assert Path(path).read_bytes()[read_header(path).start + 16] == 1 == FORMAT - 1
        loaded = wp.load(path, num_threads=2, verify=True)
        assert used(loaded) == [V2] and loaded.strategy == "perfect_tree_traversal"
        assert loaded.inspect()["tuning"] is None
        for dtype in ("float32", "float64"):
            assert_agrees(loaded, forest, rows(forest, 1100, 1, dtype))
        X = rows(forest, 100, 2, "float32")
        np.testing.assert_array_max_ulp(loaded.predict(X), wp.compile(forest).predict(X), 2)

    def test_it_is_checked(self, monkeypatch):
        is_cpu(monkeypatch, '{"kind":"llvm","mcpu":"x86-64"}')
        with pytest.raises(ArtifactError, match=r"for a x86-64-v2 and needs sse3, .*, which this CPU has not"):
            wp.load(DATA / "format-1.so")


@pytest.mark.full
@pytest.mark.parametrize(("name", "strategy"), fitting("levels"))
def test_every_level_of_every_artifact(name, strategy, tmp_path, monkeypatch):
    forest = FORESTS[name]()
    pairs = (["x86-64-v2", "x86-64-v3"], ["x86-64-v3", "x86-64-v4"], ["x86-64-v2", "llvm"])
    targets = in_turn(pairs, name + strategy)[0] if SHORT else ["x86-64", "llvm"]
    compiled(forest, strategy, target=targets).save(tmp_path / "m.so")
    for level in resolve_levels(targets):
        if level.native:
            monkeypatch.setenv("WOODPECKER_CPU_LEVEL", level.name)
            loaded = wp.load(tmp_path / "m.so", num_threads=2)
            assert used(loaded) == [level.name]
            for dtype in ("float32", "float64"):
                assert_agrees(loaded, forest, rows(forest, 1100, 1, dtype))
