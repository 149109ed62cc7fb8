"""CUDA kernels on a GPU, where there is one, against the interpreter, bit for bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import build_cuda, reference
from woodpecker.errors import InputError, TargetError
from woodpecker.forest import Method
from woodpecker.runtime import cuda as runtime
from woodpecker.runtime import cuda_driver
from woodpecker.runtime import cuda_host as host

from .cuda_support import cuda_c, prepared, skip_without_nvrtc
from .gallery import FORESTS, grown, rows
from .support import assert_bits_equal
from .test_cuda import PAIRS, RANKED
from .test_cuda_bitslice import SERVED
from .test_cuda_many import PAIRS as OF_BATCHES

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpu():
    skip_without_nvrtc()
    try:
        return cuda_driver.device()
    except TargetError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize(("name", "strategy"), [*PAIRS, *product(RANKED, ["ranks"]), *product(SERVED, ["bitslice"])])
def test_exact(gpu, name, strategy, together):
    forest = FORESTS[name]()
    if strategy == "ranks":
        made = prepared(forest, "perfect_tree_traversal", ranks=1, trees=together)
    elif strategy == "bitslice":
        made = prepared(forest, strategy, words=together)
    else:
        made = prepared(forest, strategy, trees=together)
    assert_exact(gpu, made)


@pytest.mark.parametrize(("name", "strategy"), OF_BATCHES)
def test_strategies_of_batches(gpu, name, strategy):
    assert_exact(gpu, prepared(FORESTS[name](), strategy))


def assert_exact(gpu, made):
    """Few rows, rows of one block and more, and so many that rows get threads; as cubin, and as PTX that the driver
    compiles."""
    forest = made.forest
    text = cuda_c(made.signatures)
    codes = [build_cuda.assemble(text, gpu.arch), build_cuda.assemble(text, "sm_80", "ptx")]
    many = runtime.FEW_ROWS * gpu.multiprocessors + 77
    for code in codes:
        try:
            model = runtime.load([code], made.launches, made.model, gpu)
        except TargetError as error:
            if code.kind == "ptx" and "newer CUDA" in str(error):
                continue  # NVRTC is newer than the driver, which takes its cubins all the same
            raise
        for dtype in ("float32", "float64"):
            X = rows(forest, many, 1, dtype)
            scores, leaves = reference.predict_raw(forest, X), reference.apply(forest, X)
            for n in (1, 33, 1000, many):
                out = np.full((n, forest.n_outputs), -77, scores.dtype)
                host.run(model, "raw", X[:n], out)
                assert_bits_equal(out, scores[:n], f"{code.kind} {dtype} {n} rows")
                ids = np.full((n, forest.n_trees), -77, np.int32)
                host.run(model, "apply", X[:n], ids)
                np.testing.assert_array_equal(ids, leaves[:n])


@pytest.mark.parametrize("trees", [300, 3000])
def test_blocks_that_share_a_row(gpu, trees):
    """From all multiprocessors for a row to two, many times over: whatever the order in which blocks arrive."""
    forest = grown(41, trees, 6, dtype=np.float32, n_outputs=3, tree_output=np.arange(trees) % 3)
    made = prepared(forest, "perfect_tree_traversal", ranks=1, spread_trees=8)
    model = runtime.load([build_cuda.assemble(cuda_c(made.signatures), gpu.arch)], made.launches, made.model, gpu)
    X = rows(forest, gpu.multiprocessors // 2, 1, "float32")
    want = reference.predict_raw(forest, X)
    for n in (1, 2, 7, len(X)):
        assert runtime.entry_for(model, "raw", X.dtype, n) == "spread_f32"
        for _ in range(200):
            out = np.full((n, 3), -77, np.float32)
            host.run(model, "raw", X[:n], out)
            assert_bits_equal(out, want[:n])


@pytest.fixture(scope="module")
def compiled(gpu, tmp_path_factory):
    """A forest, its predictor in memory, and the path of its artifact."""
    forest = FORESTS["outputs"]().replace(methods={"predict_proba": Method("proba", "xgb_softmax")})
    model = wp.compile(forest, target=f"cuda -arch={gpu.arch}")
    path = tmp_path_factory.mktemp("saved") / "model.so"
    model.save(path)
    return forest, model, path


def test_compile_save_load(compiled):
    forest, model, path = compiled
    assert model.inspect()["device"] == "cuda:0"
    cpu, loaded = wp.load(path), wp.load(path, device="cuda:0")
    for dtype in ("float32", "float64"):
        X = rows(forest, 200_000, 2, dtype)
        for n in (0, 1, 777, len(X)):
            for each in (model, loaded):
                assert_bits_equal(each.predict_raw(X[:n]), cpu.predict_raw(X[:n]))
                assert_bits_equal(each.predict_proba(X[:n]), cpu.predict_proba(X[:n]))
                np.testing.assert_array_equal(each.apply(X[:n]), cpu.apply(X[:n]))


def test_threads(compiled):
    """Each has streams and buffers of its own."""
    forest, model, _ = compiled
    X = rows(forest, 50_000, 3, "float32")
    want = reference.predict_raw(forest, X)
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda _: model.predict_raw(X), range(64)):
            assert_bits_equal(got, want)


class TestTensors:
    @pytest.fixture(scope="class")
    def torch(self):
        torch = pytest.importorskip("torch")
        if not torch.cuda.is_available():
            pytest.skip("this PyTorch sees no GPU")
        return torch

    @pytest.mark.parametrize("n", [1, 777, 200_000])
    def test_in_and_out(self, compiled, torch, n):
        forest, model, _ = compiled
        X = rows(forest, n, 4, "float32")
        there = torch.from_numpy(X).cuda()
        scores, leaves, proba = model.predict_raw(there), model.apply(there), model.predict_proba(there)
        assert scores.is_cuda and leaves.is_cuda and proba.is_cuda
        assert_bits_equal(scores.cpu().numpy(), reference.predict_raw(forest, X))
        np.testing.assert_array_equal(leaves.cpu().numpy(), reference.apply(forest, X))
        out = torch.empty_like(scores)
        assert model.predict_raw(there.requires_grad_(), out=out) is out
        assert torch.equal(out, scores)

    def test_the_current_stream(self, compiled, torch):
        """Rows that a stream is still computing, and answers that it reads at once."""
        forest, model, _ = compiled
        X = rows(forest, 200_000, 5, "float32").clip(-9, 9)
        want = reference.predict_raw(forest, X)
        for _ in range(10):
            with torch.cuda.stream(torch.cuda.Stream()):
                busy = torch.ones(4096, 4096, device="cuda")
                there = torch.from_numpy(X).pin_memory().to("cuda", non_blocking=True)
                for _ in range(5):
                    busy = busy @ busy * 1e-9
                there = there + 0 * busy[0, 0].clamp(0, 1)
                got = (model.predict_raw(there) * 1).cpu()
            assert_bits_equal(got.numpy(), want)

    @pytest.mark.parametrize("n", [40, 200_000])
    def test_a_graph(self, compiled, torch, n):
        """Captured after a first call; each replay reads the rows that are there then."""
        forest, model, _ = compiled
        first, second = (torch.from_numpy(rows(forest, n, seed, "float32")).cuda() for seed in (6, 7))
        want = [(model.predict_raw(X), model.predict_proba(X)) for X in (first, second)]
        there, graph = first.clone(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = model.predict_raw(there), model.predict_proba(there)
        for X, wanted in zip((first, second, first), (*want, want[0]), strict=True):
            there.copy_(X)
            graph.replay()
            assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))

    def test_refused(self, compiled, torch):
        forest, model, _ = compiled
        there = torch.zeros(8, forest.n_features, device="cuda")
        for wrong in (there.half(), there.int(), there.T.contiguous().T, there[:, :-1]):
            with pytest.raises(InputError):
                model.predict_raw(wrong)
