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
from woodpecker.forest import Method
from woodpecker.predicates import canonicalise
from woodpecker.runtime import cuda_driver, cuda_model, loader
from woodpecker.runtime.format import FORMAT
from woodpecker.runtime.loader import read_header
from woodpecker.schedules import cuda_plan

from . import cupy_like
from .cuda_support import emulated_build, fake_driver, state
from .gallery import ALONE, FORESTS, chain, rows
from .support import assert_bits_equal

ARCHS = "cuda -arch=sm_80,sm_90"
WAYS = {
    "ranks": dict(strategy="perfect_tree_traversal"),
    "heap": dict(strategy="perfect_tree_traversal", cuda_ranks=0, cuda_trees=3, cuda_threads=32),
    "trees": dict(strategy="tree_traversal", cuda_threads=64),
}


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    return fake_driver(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(scope="module", autouse=True)
def emulated(tmp_path_factory):
    with emulated_build(tmp_path_factory.mktemp("kernels")):
        yield


@pytest.fixture(scope="module", autouse=True)
def driver(fake):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_driver, "LIBRARY", str(fake))
        yield
        gc.collect()  # what is freed later would be freed by another driver


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
    """Three classes, with links and labels."""
    methods = {
        "predict": Method("label", "xgb_softmax"),
        "predict_proba": Method("proba", "xgb_softmax"),
    }
    return FORESTS["outputs"]().replace(methods=methods, classes=(np.array(["a", "b", "c"]),))


def compiled(forest, target=ARCHS, **given) -> wp.Predictor:
    """Options of the CPU's walk that are compiled fast."""
    given = given or dict(strategy="perfect_tree_traversal")
    return wp.compile(forest, target=target, **ALONE[given["strategy"]], **given)


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


class TestRowsOfTheGpu:
    STREAM = 4711

    @pytest.fixture(autouse=True)
    def cupy(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cupy", cupy_like.module(self.STREAM))

    @pytest.fixture
    def gpu(self, path):
        return wp.load(path, device="cuda")

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("n", [1, 40, 300])
    def test_in_and_out_without_a_copy(self, gpu, forest, fake, n, dtype):
        X = rows(forest, n, 1, dtype)
        there = cupy_like.asarray(X)
        before = state(fake)
        scores, leaves = gpu.predict_raw(there), gpu.apply(there)
        assert isinstance(scores, cupy_like.Array) and isinstance(leaves, cupy_like.Array)
        assert_bits_equal(scores.get(), reference.predict_raw(forest, X))
        np.testing.assert_array_equal(leaves.get(), reference.apply(forest, X))
        after = state(fake)
        assert after["allocations"] == before["allocations"] + 2  # the answers
        assert after["launches"] == before["launches"] + 2 and after["streams"] == before["streams"]

    def test_the_current_stream(self, gpu, forest, fake, monkeypatch):
        library = ctypes.CDLL(str(fake))
        library.fake_stream.restype = ctypes.c_void_p
        X = cupy_like.asarray(rows(forest, 40, 1, "float32"))
        out = gpu.predict_raw(X)
        assert library.fake_stream() == self.STREAM
        assert X.asked == out.asked == [self.STREAM]
        monkeypatch.setitem(sys.modules, "cupy", cupy_like.module(0))
        gpu.predict_raw(X, out=out)
        assert library.fake_stream() is None
        assert X.asked == out.asked == [self.STREAM, 1]  # DLPack's name of the stream 0

    def test_strides(self, gpu, forest):
        X = rows(forest, 80, 1, "float32")
        wide = np.full((80, forest.n_features + 3), np.nan, np.float32)
        wide[:, 2:-1] = X
        there = cupy_like.asarray(wide)
        out = cupy_like.asarray(np.full((40, 5), 7, np.float32))
        view = there.view(there.host[::2, 2:-1])
        assert gpu.predict_raw(view, out=(given := out.view(out.host[:, 1:4]))) is given
        assert_bits_equal(np.ascontiguousarray(out.get()[:, 1:4]), reference.predict_raw(forest, X[::2]))
        assert (out.get()[:, [0, 4]] == 7).all()
        backwards = gpu.predict_raw(there.view(there.host[::-1, 2:-1]))
        assert_bits_equal(backwards.get(), reference.predict_raw(forest, X[::-1]))
        same_row = np.lib.stride_tricks.as_strided(there.host[:1, 2:-1], (9, forest.n_features), (0, 4))
        assert_bits_equal(gpu.predict_raw(there.view(same_row)).get(), reference.predict_raw(forest, X[[0] * 9]))
        assert gpu.predict_raw(there.view(there.host[:0, 2:-1])).shape == (0, 3)

    def test_links_are_computed_by_the_host(self, gpu, path, forest, fake):
        X = rows(forest, 40, 1, "float32")
        cpu, there = wp.load(path), cupy_like.asarray(X)
        gc.collect()
        before = state(fake)["allocations"]
        proba = gpu.predict_proba(there)
        assert isinstance(proba, cupy_like.Array)
        assert_bits_equal(proba.get(), cpu.predict_proba(X))
        labels = gpu.predict(there)
        assert isinstance(labels, np.ndarray) and labels.tolist() == cpu.predict(X).tolist()
        del proba
        gc.collect()
        assert state(fake)["allocations"] == before

    def test_scratch(self, monkeypatch, fake):
        """It is of the stream's own memory."""
        from woodpecker.schedules import cuda as kernels

        monkeypatch.setattr(kernels, "SHARED_BYTES", 0)
        forest = FORESTS["outputs"]()
        model = compiled(forest, strategy="tree_traversal", cuda_threads=32)
        X = rows(forest, 300, 1, "float32")
        there = cupy_like.asarray(X)
        gc.collect()
        before = state(fake)["allocations"]
        out = model.predict_raw(there)
        assert_bits_equal(out.get(), reference.predict_raw(forest, X))
        assert state(fake)["allocations"] == before + 1

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda X: X[:, :-1], r"X has 4 columns; the model has 5 features"),
            (lambda X: X[0], r"X has one dimension"),
            (lambda X: np.zeros_like(X, np.float16), r"X has dtype float16 on the GPU, .*; pass X.astype\('float32'\)"),
            (lambda X: np.zeros_like(X, np.int32), r"X has dtype int32 on the GPU, where float32 and float64 are read"),
            (lambda X: X.view(np.uint32), r"X has dtype uint32 on the GPU"),
            (np.asfortranarray, r"X is not in row order on the GPU: pass a copy"),
        ],
    )
    def test_refused(self, gpu, forest, change, message):
        X = change(rows(forest, 8, 1, "float32"))
        there = cupy_like.asarray(np.ascontiguousarray(X))
        if X.flags.f_contiguous and not X.flags.c_contiguous:
            there = there.view(there.host.reshape(X.shape[::-1]).T)
        for method in (gpu.predict_raw, gpu.apply, gpu.predict):
            with pytest.raises(InputError, match=message):
                method(there)

    def test_refused_places(self, gpu, path, forest, fake):
        X = rows(forest, 8, 1, "float32")
        there = cupy_like.asarray(X)
        with pytest.raises(InputError, match=r"on cuda:0, and this artifact runs on the CPU: .* device='cuda:0'"):
            wp.load(path).predict_raw(there)
        elsewhere = cupy_like.Array(there.address, there.host, there, number=1)
        with pytest.raises(InputError, match="X is on cuda:1, and the model on cuda:0: move one of them"):
            gpu.predict_raw(elsewhere)
        for wrong in (np.empty((8, 3), np.float32), [0]):
            with pytest.raises(InputError, match="out "):
                gpu.predict_raw(there, out=wrong)
        for shape, dtype in (((8, 2), "float32"), ((7, 3), "float32"), ((8, 3), "float64"), ((8, 3), "int32")):
            with pytest.raises(InputError, match=r"out must be float32, shape \(8, 3\), on cuda:0; found"):
                gpu.predict_raw(there, out=cupy_like.empty(shape, dtype))
        once = cupy_like.asarray(np.zeros((8, 3), np.float32))
        over = np.lib.stride_tricks.as_strided(once.host, (8, 3), (8, 4))
        with pytest.raises(InputError, match="out must be in row order, with rows apart from each other"):
            gpu.predict_raw(there, out=once.view(over))
        with pytest.raises(InputError, match="out shares memory with X"):
            gpu.predict_raw(there, out=there.view(there.host[:, 2:]))
        odd = cupy_like.Array(there.address + 2, there.host, there)
        with pytest.raises(InputError, match="X is not aligned to its items of 4 bytes"):
            gpu.predict_raw(odd)
        with pytest.raises(InputError, match="out must be a numpy array"):
            gpu.predict_raw(X, out=there)
        assert state(fake)["contexts"] == state(fake)["overrun"] == 0

    def test_other_libraries(self, gpu, forest, fake):
        """On the stream of whichever is known; else it is waited for."""
        library = ctypes.CDLL(str(fake))
        library.fake_stream.restype = ctypes.c_void_p
        X = rows(forest, 8, 1, "float32")
        want, there, out = reference.predict_raw(forest, X), cupy_like.asarray(X), cupy_like.empty((8, 3), "float32")
        tensor = cupy_like.Tensor(there.address, there.host, there)
        with pytest.raises(InputError, match=r"X is a unheard array on the GPU; .*: pass out="):
            gpu.predict_raw(tensor)
        gpu.predict_raw(there)  # the first answers are compared, which waits
        waits, tensor.asked = library.fake_waits(), []
        assert_bits_equal(gpu.predict_raw(tensor, out=out).get(), want)
        assert library.fake_stream() == self.STREAM and tensor.asked == out.asked == [self.STREAM]
        assert library.fake_waits() == waits
        out.host[...] = 0
        assert_bits_equal(gpu.predict_raw(tensor, out=cupy_like.Tensor(out.address, out.host, out)).get(), want)
        assert library.fake_stream() is None and tensor.asked == [self.STREAM, 1]
        assert library.fake_waits() == waits + 1
        assert isinstance(gpu.predict_proba(tensor), np.ndarray)

        class Subclass(cupy_like.Array):
            """Of CuPy's class, in a module of somebody's own."""

        got = gpu.predict_raw(Subclass(there.address, there.host, there))
        assert_bits_equal(got.get(), want)
        assert library.fake_stream() == self.STREAM

        class Refusing(cupy_like.Array):
            def __dlpack__(self, **options):
                raise BufferError("no")

        with pytest.raises(InputError, match="X can't be exported by DLPack: BufferError: no"):
            gpu.predict_raw(Refusing(there.address, there.host))


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
            (dict(strategy="bitslice"), "'bitslice' is not there for CUDA yet; for CUDA there are perfect_tree_trav"),
            (dict(strategy="depth_rule"), "'depth_rule' is not there for CUDA yet"),
            (dict(strategy="nonesuch"), "'nonesuch' is unknown; for CUDA there are"),
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
    def test_uneven_trees_are_not_padded(self):
        """A path of 18 nodes has 19 leaves, padded 2**18."""
        step = cuda_plan.make_plan(canonicalise(chain(18, trees=3)), "auto", {})
        assert step.strategy == "tree_traversal" and set(step.considered) == set(cuda_plan.WALKING)
        refused = cuda_plan.make_plan(canonicalise(chain(25)), "auto", {})
        assert "the limit is depth 20" in str(refused.considered["perfect_tree_traversal"])
        with pytest.raises(StrategyError, match="can't serve this forest: a tree of depth 25 would be padded"):
            cuda_plan.make_plan(canonicalise(chain(25)), "perfect_tree_traversal", {})

    def test_estimates(self):
        """Ranks are cheaper than records, and deeper trees cost more."""
        canonical = canonicalise(FORESTS["outputs"]())
        options = {name: option.default for name, option in cuda_plan.OPTIONS.items()}
        by_ranks = cuda_plan.cycles(canonical, "perfect_tree_traversal", options)
        records = cuda_plan.cycles(canonical, "perfect_tree_traversal", {**options, "cuda_ranks": 0})
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
        assert facts["cuda"]["plan"]["strategy"] in cuda_plan.WALKING
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
