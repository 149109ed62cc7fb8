"""compile(target="cuda"), save and load(device="cuda"): the whole path, on a driver that emulates a GPU."""

from __future__ import annotations

import ctypes
import gc
import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

import woodpecker as wp
from woodpecker import reference
from woodpecker.errors import ArtifactError, InputError, MissingExtraError, StrategyError, TargetError
from woodpecker.predicates import canonicalise
from woodpecker.runtime import cuda_driver, cuda_model, loader
from woodpecker.runtime import rows as reading
from woodpecker.runtime.format import FORMAT
from woodpecker.runtime.loader import read_header
from woodpecker.schedules import cuda_perfect_tree_traversal, cuda_plan
from woodpecker.schedules.cuda_strategies import STRATEGIES, WALKING

from . import cupy_like
from .cuda_support import ARCHS, compiled, emulated_gpu, state, three_classes
from .gallery import ALONE, FORESTS, chain, rows
from .support import assert_bits_equal

WAYS = {
    "ranks": dict(strategy="perfect_tree_traversal"),
    "heap": dict(strategy="perfect_tree_traversal", cuda_ranks=0, cuda_trees=3, cuda_threads=32),
    "trees": dict(strategy="tree_traversal", cuda_threads=64),
}


@pytest.fixture(scope="module", autouse=True)
def fake(tmp_path_factory):
    with emulated_gpu(tmp_path_factory.mktemp("cuda")) as found:
        yield found


@pytest.fixture
def no_driver(monkeypatch):
    gc.collect()
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libnonesuch.so.1")


@pytest.fixture
def without_cuda(monkeypatch):
    """Manifests as readers see them that know nothing of the key, or as they are without CUDA code."""
    find = loader.fmt.find

    def found(data, name):
        header = find(data, name)
        del header.manifest["cuda"]
        return header

    monkeypatch.setattr(loader.fmt, "find", found)


@pytest.fixture(scope="module")
def forest():
    return three_classes()


@pytest.fixture(scope="module")
def path(forest, tmp_path_factory):
    found = tmp_path_factory.mktemp("saved") / "model.so"
    compiled(forest).save(found)
    return found


def assert_like_cpu(gpu, cpu, X) -> None:
    """Every method gives the CPU's bits."""
    for name in ("predict_raw", "apply", *cpu._program.manifest["methods"]):
        got, want = getattr(gpu, name)(X), getattr(cpu, name)(X)
        assert type(got) is type(want) and got.dtype == want.dtype
        if want.dtype.kind == "f":
            assert_bits_equal(got, want, name)
        else:
            np.testing.assert_array_equal(got, want, name)


class TestPredictions:
    @pytest.mark.full
    def test_every_method(self, path, forest, fake):
        cpu, gpu = wp.load(path), wp.load(path, device="cuda:0")
        X = rows(forest, 300, 1, "float32")
        assert_bits_equal(gpu.predict_raw(X), reference.predict_raw(forest, X))
        before = state(fake)["launches"]
        assert_like_cpu(gpu, cpu, X)
        assert state(fake)["launches"] == before + 4  # raw scores three times, leaf ids once; none by the CPU

    @pytest.mark.parametrize("resident", [False, True])
    def test_wrong_answers_are_not_returned(self, path, forest, monkeypatch, resident):
        """A GPU with other leaf values than the artifact has: whatever the reason, its first answers are compared."""
        gpu, cpu = wp.load(path, device="cuda"), wp.load(path)
        monkeypatch.setitem(sys.modules, "cupy", cupy_like.module(0))
        X = rows(forest, 40, 1, "float32")
        given = cupy_like.asarray(X) if resident else X
        model = gpu._gpu
        memory = np.frombuffer((ctypes.c_char * len(gpu._program.model)).from_address(model.blob), np.float32)
        memory[np.isin(memory, forest.values.astype(np.float32))] += 1
        for name in ("predict_raw", "predict_proba", "predict"):
            with pytest.raises(TargetError, match=r"the GPU computes other numbers than the CPU \(kernel few_f32, 40 "):
                getattr(gpu, name)(given)
        ids = gpu.apply(given)  # by another kernel, which is right
        np.testing.assert_array_equal(ids.get() if resident else ids, cpu.apply(X))

    def test_every_kind_of_rows(self, path, forest):
        cpu, gpu = wp.load(path), wp.load(path, device="cuda")
        X = rows(forest, 70, 2, "float64")
        integers = np.arange(5 * forest.n_features).reshape(5, -1)
        halves = np.nan_to_num(X).clip(-9, 9).astype(np.float16)
        for given in (X, X[::-1], np.asfortranarray(X), X[:1], X[:0], X.tolist(), integers, halves):
            assert_like_cpu(gpu, cpu, given)
        out = np.empty((70, 3), np.float32)
        assert gpu.predict_raw(X, out=out) is out
        assert_bits_equal(out, reference.predict_raw(forest, X))

    def test_tables_that_are_converted(self, path, forest, fake, monkeypatch):
        """Many blocks of them are one chunk for the GPU."""
        monkeypatch.setattr(reading, "BLOCK_ROWS", 16)
        cpu, gpu = wp.load(path), wp.load(path, device="cuda")
        integers = np.arange(150 * forest.n_features).reshape(150, -1) % 7 - 3
        before = state(fake)["launches"]
        assert_bits_equal(gpu.predict_raw(integers), cpu.predict_raw(integers))
        assert state(fake)["launches"] == before + 1
        assert_like_cpu(gpu, cpu, integers)
        out = np.zeros((150, 3), np.float32)
        assert gpu.predict_raw(integers, out=out) is out
        assert_bits_equal(out, cpu.predict_raw(integers))

    @pytest.mark.parametrize(
        ("name", "way"),
        [
            ("float64", "ranks"),
            *(
                pytest.param(name, way, marks=pytest.mark.full)
                for name, way in [
                    ("vector", "heap"),
                    ("linear", "trees"),
                    ("truncate", "heap"),
                    ("sentinel64", "trees"),
                ]
            ),
        ],
    )
    def test_forests(self, name, way, tmp_path):
        forest = FORESTS[name]()
        model = compiled(forest, **WAYS[way])
        model.save(tmp_path / "model.so")
        for dtype in ("float32", "float64"):
            X = rows(forest, 290, 3, dtype)
            for gpu in (model, wp.load(tmp_path / "model.so", device="cuda")):
                assert gpu.inspect()["device"] == "cuda:0"
                assert_bits_equal(gpu.predict_raw(X), reference.predict_raw(forest, X), way)
                np.testing.assert_array_equal(gpu.apply(X), reference.apply(forest, X))

    @pytest.mark.full
    def test_several_cpu_levels(self, forest, tmp_path):
        """Their directories come before those of the GPU."""
        compiled(forest, ["x86-64-v2", ARCHS, "x86-64-v3"]).save(tmp_path / "m.so")
        gpu = wp.load(tmp_path / "m.so", device="cuda")
        assert [level["target"]["name"] for level in gpu.inspect()["levels"]] == ["x86-64-v2", "x86-64-v3"]
        X = rows(forest, 40, 4, "float32")
        assert_bits_equal(gpu.predict_raw(X), reference.predict_raw(forest, X))
        assert_bits_equal(wp.load(tmp_path / "m.so").predict_raw(X), reference.predict_raw(forest, X))

    def test_in_memory(self, forest, monkeypatch):
        """On the GPU where there is one; else on the CPU."""
        X = rows(forest, 40, 5, "float32")
        model = compiled(forest)
        assert model.inspect()["device"] == "cuda:0" and model.inspect()["cuda"]["no_gpu"] is None
        assert_bits_equal(model.predict_raw(X), reference.predict_raw(forest, X))
        del model
        gc.collect()
        monkeypatch.setattr(cuda_driver, "LIBRARY", "libnonesuch.so.1")
        model = compiled(forest)
        assert model.inspect()["device"] == "cpu"
        assert "this machine has no CUDA driver" in model.inspect()["cuda"]["no_gpu"]
        assert_bits_equal(model.predict_raw(X), reference.predict_raw(forest, X))

    def test_nothing_is_left_behind(self, path, forest, fake):
        gc.collect()
        before = state(fake)
        model = wp.load(path, device="cuda")
        model.predict(rows(forest, 40, 1, "float32"))
        assert state(fake)["modules"] == before["modules"] + 1
        del model
        gc.collect()
        assert {**state(fake), "launches": 0} == {**before, "launches": 0}


class TestRefused:
    def test_devices(self, path):
        for wrong in ("gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA", 0, b"cuda"):
            with pytest.raises(InputError, match="device must be None, 'cpu', 'cuda' or 'cuda:0' and the like, found"):
                wp.load(path, device=wrong)
        with pytest.raises(TargetError, match="there is no CUDA device 9: this process sees 1"):
            wp.load(path, device="cuda:9")

    @pytest.mark.usefixtures("no_driver")
    def test_without_a_driver(self, path):
        with pytest.raises(TargetError, match="this machine has no CUDA driver"):
            wp.load(path, device="cuda")
        assert wp.load(path, device="cpu").inspect()["device"] == "cpu"

    def test_no_code_for_this_gpu(self, forest):
        model = compiled(forest, "cuda -arch=sm_100")
        assert model.inspect()["device"] == "cpu"
        assert "there is no code for sm_90, which this GPU is" in model.inspect()["cuda"]["no_gpu"]
        program = model._program
        with pytest.raises(TargetError, match=r"the model has cubin for sm_100, ptx for sm_100; compile it for sm_90"):
            cuda_model.load(program.manifest, program.model, 0, "model.so")

    @pytest.mark.usefixtures("without_cuda")
    def test_no_cuda_code(self, path):
        with pytest.raises(ArtifactError, match=r"model\.so has no CUDA code: compile the model with target='cuda'"):
            wp.load(path, device="cuda")
        assert "cuda" not in wp.load(path).inspect()

    def test_damaged_code(self, path, tmp_path):
        """The CPU's half is whole."""
        data = bytearray(path.read_bytes())
        header = read_header(path)
        directory = header.start + 128 + 512 * (header.manifest["cuda"]["directory"] + 1)
        (at,) = np.frombuffer(bytes(data[directory : directory + 8]), "<i8")
        data[header.start + int(at) + 12] ^= 1
        (tmp_path / "model.so").write_bytes(data)
        with pytest.raises(ArtifactError, match="its CUDA code is damaged; compile and save the model again"):
            wp.load(tmp_path / "model.so", device="cuda")
        assert wp.load(tmp_path / "model.so").inspect()["device"] == "cpu"

    @pytest.mark.usefixtures("no_driver")
    def test_static_libraries(self, forest, tmp_path):
        with pytest.raises(InputError, match="a static library is for C: compile that without 'cuda'"):
            compiled(forest).save(tmp_path / "model.a")
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            (dict(strategy="depth_rule", low=-1), "option low .*>= 0, found -1"),
            (dict(strategy="depth_rule", low=0, high=0, cuda_words=2), "'tree_traversal' has no option 'cuda_words'"),
            (dict(strategy="nonesuch"), "unknown strategy 'nonesuch'; known: perfect_tree_traversal"),
            (dict(cuda_trees=2), "strategy='auto' takes no options, found cuda_trees"),
            (dict(strategy="tree_traversal", cuda_threads=48), "must be 0 or a power of two from 32 to 1024, found 48"),
            (dict(strategy="tree_traversal", cuda_trees=9), "cuda_trees .* must be an integer from 1 to 8, found 9"),
            (dict(strategy="tree_traversal", cuda_rank=1), "has no option 'cuda_rank'; its options: cuda_trees"),
        ],
    )
    def test_strategies(self, forest, given, message):
        with pytest.raises(StrategyError, match=message):
            wp.compile(forest, target="cuda", **given)
        if "cuda_trees" in given:
            with pytest.raises(StrategyError, match=r"takes no options|has no option 'cuda_trees'"):
                wp.compile(forest, **given)


class TestPlan:
    def test_depth_rule(self):
        def chosen(depth, **limits):
            step = cuda_plan.make_plan(canonicalise(chain(depth)), "depth_rule", {"cuda_threads": 64}, limits)
            assert step.options["cuda_threads"] == 64
            return step.strategy, step.reason

        assert chosen(3) == ("gemm", "depth 3 with low=3, high=10")
        assert chosen(4)[0] == chosen(10)[0] == chosen(3, low=2)[0] == "perfect_tree_traversal"
        assert chosen(11)[0] == chosen(3, low=0, high=2)[0] == "tree_traversal"

    def test_uneven_trees_are_not_padded(self):
        """A path of 18 nodes has 19 leaves, padded 2**18."""
        step = cuda_plan.make_plan(canonicalise(chain(18, trees=3)), "auto", {})
        assert step.strategy == "scan" and set(step.considered) == set(STRATEGIES)
        walks = {name: step.considered[name] for name in WALKING}
        assert walks["tree_traversal"] < walks["perfect_tree_traversal"]
        assert step.considered["scan"] * cuda_plan.MARGIN < walks["tree_traversal"]
        refused = cuda_plan.make_plan(canonicalise(chain(25)), "auto", {})
        assert "the limit is depth 20" in str(refused.considered["perfect_tree_traversal"])
        with pytest.raises(StrategyError, match="can't serve this forest: a tree of depth 25 would be padded"):
            cuda_plan.make_plan(canonicalise(chain(25)), "perfect_tree_traversal", {})

    def test_estimates(self):
        """Ranks are cheaper than records, and deeper trees cost more."""
        canonical = canonicalise(FORESTS["outputs"]())
        module = cuda_perfect_tree_traversal
        options = {name: option.default for name, option in module.OPTIONS.items()}
        by_ranks = module.cycles(canonical, options)
        records = module.cycles(canonical, {**options, "cuda_ranks": 0})
        assert 0 < by_ranks < records
        assert cuda_plan.make_plan(canonical, "auto", {}).strategy == "perfect_tree_traversal"


def invoke(*arguments: object) -> str:
    """What a command prints."""
    from woodpecker.cli.app import app

    done = CliRunner().invoke(app, [str(a) for a in arguments])
    assert done.exit_code == 0, done.output
    return done.output


class TestArtifact:
    @pytest.mark.usefixtures("no_driver")
    def test_the_same_bytes(self, path, forest):
        header = read_header(path)
        blob = path.read_bytes()[header.start : header.start + header.length]
        assert compiled(forest)._program.model.tobytes() == blob

    @pytest.mark.usefixtures("no_driver")
    def test_manifest(self, path, forest):
        header = read_header(path, verify=True)
        assert FORMAT == 2 and header.manifest["cuda"]["directory"] == len(header.manifest["levels"][0]["plan"])
        codes = wp.load(path).inspect()["cuda"]["codes"]
        assert [(c["kind"], c["arch"]) for c in codes] == [("cubin", "sm_80"), ("cubin", "sm_90"), ("ptx", "sm_80")]
        alone = compiled(forest, "llvm")
        assert "cuda" not in alone._program.manifest and "cuda" not in alone.inspect()

    @pytest.mark.usefixtures("without_cuda")
    def test_older_readers(self, path, forest):
        """To those that know nothing of the key, the model is one for the CPU."""
        X = rows(forest, 600, 1, "float32")
        assert_bits_equal(wp.load(path, verify=True).predict_raw(X), reference.predict_raw(forest, X))

    def test_on_the_command_line(self, path, tmp_path, forest, fake):
        shown = invoke("inspect", path)
        assert "cubins for sm_80, sm_90; PTX for sm_80 and later (never run by us)" in shown
        assert "strategy on GPUs" in shown
        facts = json.loads(invoke("inspect", path, "--json"))
        assert facts["cuda"]["plan"]["strategy"] in STRATEGIES
        X = rows(forest, 20, 1, "float32")
        np.save(tmp_path / "rows.npy", X)
        before = state(fake)["launches"]
        given = ("predict", path, tmp_path / "rows.npy", "-o", tmp_path / "out.npy", "--method", "predict_raw")
        invoke(*given, "--device", "cuda")
        assert state(fake)["launches"] > before
        assert_bits_equal(np.load(tmp_path / "out.npy"), reference.predict_raw(forest, X))

    @pytest.mark.full
    def test_compile_verify_and_bench_on_the_command_line(self, tmp_path, fake):
        xgboost = pytest.importorskip("xgboost")
        model, made, data = tmp_path / "model.ubj", tmp_path / "model.so", tmp_path / "rows.npy"
        X = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
        xgboost.XGBRegressor(n_estimators=3, max_depth=2).fit(X, X[:, 0]).save_model(model)
        np.save(data, X)
        options = {**ALONE["tree_traversal"], "cuda_threads": 32}
        given = [part for name, value in options.items() for part in ("--option", f"{name}={value}")]
        shown = invoke("compile", model, "-o", made, "--target", ARCHS, "--strategy", "tree_traversal", *given)
        assert "NVIDIA GPUs: cubins for sm_80, sm_90; PTX for sm_80 and later (never run by us)" in shown
        before = state(fake)["launches"]
        assert "unequal raw-score bits: 0 of 50" in invoke("verify", model, made, "--data", data, "--device", "cuda")
        verified = state(fake)["launches"]
        assert verified > before
        invoke("bench", made, "--data", data, "--batch", 5, "--repeats", 2, "--device", "cuda")
        assert state(fake)["launches"] > verified


def test_without_nvrtc(monkeypatch, forest):
    def missing(*_):
        raise MissingExtraError("no NVRTC")

    from woodpecker import build_cuda, levels_cuda

    levels_cuda._codes.cache_clear()
    monkeypatch.setattr(build_cuda, "assemble", missing)
    with pytest.raises(MissingExtraError, match="no NVRTC"):
        wp.compile(forest, target="cuda")


@pytest.mark.parametrize("damaged", [{}, {"cuda": {}}, {"cuda": {"plan": []}}, {"cuda": {"plan": {"options": 3}}}])
def test_a_manifest_without_plan(damaged):
    with pytest.raises(ArtifactError, match=r"a\.so: its CUDA code is damaged"):
        cuda_model.few_rows(damaged, "a.so")
