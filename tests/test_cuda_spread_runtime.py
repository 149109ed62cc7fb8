"""Calls in which several blocks share a row, on a driver that emulates a GPU with two multiprocessors."""

from __future__ import annotations

import ctypes
import gc
import sys
import types
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import reference
from woodpecker.errors import TargetError
from woodpecker.predicates import canonicalise
from woodpecker.runtime import cuda as runtime
from woodpecker.runtime import cuda_driver, cuda_lanes, measure_cuda
from woodpecker.runtime import cuda_host as host
from woodpecker.schedules import cuda_plan

from . import cupy_like
from .cuda_support import calls, compiled, emulated_gpu, state, three_classes
from .gallery import grown, rows
from .support import assert_bits_equal

F32, F64 = np.dtype("float32"), np.dtype("float64")


@pytest.fixture(scope="module", autouse=True)
def fake(tmp_path_factory):
    with emulated_gpu(tmp_path_factory.mktemp("cuda")) as found:
        yield found


@pytest.fixture(scope="module")
def forest():
    return grown(31, 40, 3, dtype=np.float32, n_outputs=3, tree_output=np.arange(40) % 3, base_score=[0.5, -0.0, 1.0])


@pytest.fixture(scope="module")
def path(forest, tmp_path_factory):
    """Of an artifact, whose rows have 4 blocks at most."""
    found = tmp_path_factory.mktemp("saved") / "model.so"
    compiled(forest, strategy="tree_traversal", cuda_spread_trees=10).save(found)
    return found


@pytest.fixture
def gpu(path):
    return wp.load(path, device="cuda")


@pytest.fixture
def cupy(monkeypatch):
    found = cupy_like.module(4711)
    monkeypatch.setitem(sys.modules, "cupy", found)
    return found


def with_multiprocessors(model, n):
    return replace(model, device=replace(model.device, multiprocessors=n))


@pytest.mark.full
def test_which_calls(gpu):
    """All blocks run at once, a row has no more than its trees are worth, and counters are enough for the rows."""
    model = gpu._program.gpu
    assert model.launches["spread_f32"].row_blocks == 4
    for multiprocessors, n, kind, blocks in (
        (2, 1, "spread", 2),
        (2, 2, "few", 2),
        (132, 1, "spread", 4),
        (132, 33, "spread", 132),
        (132, 66, "spread", 132),
        (132, 67, "few", 67),
        (2000, 256, "spread", 1024),
        (2000, 257, "few", 257),
    ):
        on = with_multiprocessors(model, multiprocessors)
        assert runtime.entry_for(on, "raw", F32, n) == f"{kind}_f32"
        assert runtime._blocks(on, f"{kind}_f32", n) == blocks
        row = model.launches["spread_f32"].scratch_bytes
        assert runtime.scratch_bytes(on, f"{kind}_f32", n) == (1024 + n * row if kind == "spread" else 0)
        assert runtime.entry_for(on, "apply", F64, n) == "apply_f64"
    assert runtime.entry_for(replace(model, few_rows=0), "raw", F32, 1) == "raw_f32"


@pytest.mark.parametrize(
    ("options", "blocks"), [({}, 0), ({"cuda_spread_trees": 0}, 0), ({"cuda_spread_trees": 20}, 0)]
)
def test_forests_that_are_too_small(forest, options, blocks):
    model = compiled(forest, strategy="tree_traversal", **options)._program.gpu
    assert "spread_f32" not in model.launches and runtime.entry_for(model, "raw", F32, 1) == "few_f32"


def test_rows_of_the_host(gpu, forest, fake):
    """Counters are zeroed once for each thread, and by no call after."""
    model = with_multiprocessors(gpu._program.gpu, 16)
    for n, dtype in ((1, "float32"), (1, "float32"), (1, "float64"), (7, "float32"), (3, "float64"), (1, "float32")):
        X = rows(forest, n, n, dtype)
        out = np.empty((n, 3), np.float32)
        calls(fake)
        host.run(model, "raw", X, out)
        assert_bits_equal(out, reference.predict_raw(forest, X))
        zeroed = calls(fake).count("cuMemsetD32Async")
    assert zeroed == 0
    assert state(fake)["mistakes"] == 0


def test_rows_that_blocks_would_read_again_and_again(gpu, forest, fake, monkeypatch):
    """Four blocks would read them over the bus: they are copied, once."""
    model, X = with_multiprocessors(gpu._program.gpu, 16), rows(forest, 2, 8, "float32")
    out = np.empty((2, 3), np.float32)
    for most, copies in ((4 * X.nbytes + out.nbytes, 0), (4 * X.nbytes + out.nbytes - 1, 1)):
        monkeypatch.setattr(host, "MAPPED_BYTES", most)
        calls(fake)
        out[:] = 7
        host.run(model, "raw", X, out)
        assert_bits_equal(out, reference.predict_raw(forest, X))
        assert calls(fake).count("cuMemcpyHtoDAsync_v2") == copies


def test_threads(gpu, forest):
    """Each has counters of its own."""
    X = rows(forest, 60, 3, "float32")
    want = reference.predict_raw(forest, X)
    with ThreadPoolExecutor(4) as pool:
        for i, got in enumerate(pool.map(lambda i: gpu.predict_raw(X[i : i + 1]), range(60))):
            assert_bits_equal(got, want[i : i + 1])


def test_a_call_that_fails(gpu, forest, monkeypatch):
    """Whatever it has left of counters, the next call begins with zeros."""
    model, X = gpu._program.gpu, rows(forest, 1, 4, "float32")
    want, out = reference.predict_raw(forest, X), np.empty((1, 3), np.float32)
    host.run(model, "raw", X, out)
    (lane, *_) = model._lanes.lanes

    def failing(*arguments):
        runtime.launch(*arguments)
        raise TargetError("the GPU is tired")

    with monkeypatch.context() as patch:
        patch.setattr(host, "launch", failing)
        with pytest.raises(TargetError, match="tired"):
            host.run(model, "raw", X, out)
    assert cuda_lanes.COUNTED not in lane.memory
    host.run(model, "raw", X, out)
    assert_bits_equal(out, want)
    counters = ctypes.c_uint32.from_address(lane.memory[cuda_lanes.COUNTED][0])
    assert counters.value == 0
    counters.value = 1  # what a broken launch would leave behind
    wrong = 0
    for other in np.split(rows(forest, 40, 5, "float32")[10:16], 6):  # in two of three launches one block ends first
        host.run(model, "raw", other, out)
        wrong += out.tobytes() != reference.predict_raw(forest, other).tobytes()
    assert wrong, "the emulation would not notice"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.usefixtures("cupy")
def test_rows_of_the_gpu(gpu, forest, fake, dtype):
    """Scratch is of the library's memory, whatever lay there: it is zeroed on the stream, and nothing waits."""
    X = rows(forest, 1, 5, dtype)
    there, want = cupy_like.asarray(X), reference.predict_raw(forest, X)
    assert_bits_equal(gpu.predict_raw(there).get(), want)
    gc.collect()
    before = state(fake)["allocations"]
    out = cupy_like.empty((1, 3), "float32")
    for _ in range(2):
        calls(fake)
        gpu.predict_raw(there, out=out)
        made = calls(fake)
        assert made.count("cuMemsetD32Async") == made.count("cuLaunchKernel") == 1
        assert "cuStreamSynchronize" not in made
        assert_bits_equal(out.get(), want)
        out.host[...] = 0
    assert state(fake)["allocations"] == before + 1 and state(fake)["mistakes"] == 0


def test_a_library_without_streams(gpu, forest):
    X = rows(forest, 1, 6, "float32")
    there, out = cupy_like.asarray(X), cupy_like.empty((1, 3), "float32")
    tensors = (cupy_like.Tensor(t.address, t.host, t) for t in (there, out))
    assert_bits_equal(gpu.predict_raw(next(tensors), out=next(tensors)).get(), reference.predict_raw(forest, X))


def test_tuning(gpu, forest, tmp_path, monkeypatch):
    """It runs and times them with counters of their own, and its files know of them."""
    model = gpu._program.gpu
    monkeypatch.setattr(measure_cuda, "WARM_SECONDS", 0.0)
    X = rows(forest, 40, 7, "float32")
    there = measure_cuda.place(model.device, X, 30, 30)
    compute, clock = measure_cuda.bind(model, there, "raw", 3, F32)
    assert clock(1, [0, 1, 2]) > 0
    assert_bits_equal(compute([(i, i + 1) for i in range(40)], None), reference.predict_raw(forest, X))
    assert clock(1, [0, 1, 2]) > 0
    candidate = measure_cuda.Candidate((), model.launches, 5)
    (tmp_path / "candidate").write_text(candidate.to_text())
    assert measure_cuda.read(tmp_path / "candidate") == candidate
    for trees, tried in ((60, None), (300, (0, 32, 64, 128))):
        space = cuda_plan.space(canonicalise(grown(1, trees, 2)))["tree_traversal"]
        assert space.get("cuda_spread_trees") == tried


class TestGraphs:
    """Capture, in which what waits and what allocates fails, and replay."""

    @pytest.fixture
    def library(self, fake):
        found = ctypes.CDLL(str(fake))
        for name in ("fake_begin", "fake_end", "fake_replay"):
            getattr(found, name).restype, getattr(found, name).argtypes = None, [ctypes.c_void_p]
        found.fake_end.argtypes = []
        gc.collect()  # to give memory back is forbidden as well
        gc.disable()
        yield found
        found.fake_end()
        gc.enable()

    @pytest.fixture
    def pool(self, monkeypatch, cupy):
        """Memory that the library has at hand while it captures, and keeps for the graph, as PyTorch's pool does; and
        what was asked of it."""
        held, asked = [cupy_like.empty((2048, 1), "int32") for _ in range(2)], []

        def empty(shape, dtype):
            asked.append(int(np.prod(shape)) * np.dtype(dtype).itemsize)
            assert asked[-1] <= held[len(asked) - 1].host.nbytes
            return held[len(asked) - 1]

        monkeypatch.setattr(cupy, "empty", empty)
        return asked

    @pytest.mark.parametrize("n", [1, 40])
    def test_replays(self, gpu, forest, library, pool, n):
        """Each reads the rows that are there then; of a single row, which several blocks share, and of more."""
        given = [rows(forest, n, seed, "float32") for seed in (6, 7, 8)]
        there, out = cupy_like.asarray(given[0]), cupy_like.empty((n, 3), "float32")
        gpu.predict_raw(there, out=out)
        out.get()
        library.fake_begin(4711)
        launched = gpu.predict_raw(there, out=out)
        library.fake_end()
        assert launched is out and len(pool) == (2 if n == 1 else 0)
        for X in (*given, given[0]):
            there.host[...], out.host[...] = X, 7
            library.fake_replay(4711)
            assert_bits_equal(out.get(), reference.predict_raw(forest, X))

    @pytest.fixture
    def reused(self, monkeypatch, cupy):
        """Memory of a pool as CuPy's, which knows nothing of graphs: what is let go is the next user's."""
        free = [cupy_like.empty((2048, 1), "int32") for _ in range(8)]

        def empty(shape, dtype):
            block, size = free.pop(), int(np.prod(shape))
            found = cupy_like.Array(block.address, block.host.reshape(-1).view(dtype)[:size].reshape(shape))
            weakref.finalize(found, free.append, block)
            return found

        monkeypatch.setattr(cupy, "empty", empty)
        return free

    def test_memory_of_cupys_pool(self, gpu, forest, library, reused, cupy):
        """A graph's scratch is no one else's while the model lives; that of other calls goes back."""
        X = rows(forest, 1, 6, "float32")
        there, out = cupy_like.asarray(X), cupy_like.empty((1, 3), "float32")
        gpu.predict_raw(there, out=out)
        out.get()
        assert len(reused) == 8
        library.fake_begin(4711)
        gpu.predict_raw(there, out=out)
        library.fake_end()
        others = [cupy.empty((2048, 1), "int32") for _ in range(len(reused))]
        for each in others:
            each.host[...] = 7
        out.host[...] = 7
        library.fake_replay(4711)
        assert_bits_equal(out.get(), reference.predict_raw(forest, X))
        assert all((each.host == 7).all() for each in others)

    def test_scores_of_a_method(self, library, reused, cupy, tmp_path):
        """Raw scores of a graph, of which it makes probabilities, are no one else's either."""
        compiled(three_classes()).save(tmp_path / "model.so")
        gpu = wp.load(tmp_path / "model.so", device="cuda")
        there = cupy_like.asarray(rows(three_classes(), 40, 6, "float32"))
        want = gpu.predict_proba(there).get()
        library.fake_begin(4711)
        answer = gpu.predict_proba(there)
        library.fake_end()
        others = [cupy.empty((2048, 1), "int32") for _ in range(len(reused))]
        for each in others:
            each.host[...] = 7
        answer.host[...] = 7
        library.fake_replay(4711)
        assert_bits_equal(answer.get(), want)
        assert all((each.host == 7).all() for each in others)

    def test_memory_of_cupys_asynchronous_pool(self, gpu, forest, library, reused, monkeypatch):
        """The capture sees that it is given back."""
        there, out = cupy_like.asarray(rows(forest, 1, 6, "float32")), cupy_like.empty((1, 3), "float32")
        gpu.predict_raw(there, out=out)
        out.get()
        data = types.SimpleNamespace(mem=type("MemoryAsync", (), {})())
        monkeypatch.setattr(cupy_like.Array, "data", data, raising=False)
        library.fake_begin(4711)
        gpu.predict_raw(there, out=out)
        assert len(reused) == 8
        library.fake_end()

    @pytest.mark.parametrize("n", [1, 40])
    @pytest.mark.usefixtures("pool")
    def test_a_first_call(self, gpu, forest, library, n):
        there = cupy_like.asarray(rows(forest, n, 9, "float32"))
        out = cupy_like.empty((n, 3), "float32")
        library.fake_begin(4711)
        with pytest.raises(TargetError, match="captured into a CUDA graph: make the same call once before the capture"):
            gpu.predict_raw(there, out=out)
        library.fake_end()
        # Nothing is left behind: the same call, then a capture.
        gpu.predict_raw(there, out=out)
        assert_bits_equal(out.get(), reference.predict_raw(forest, there.host))

    def test_the_driver_notices_what_is_forbidden(self, gpu, library):
        device, stream = gpu._program.gpu.device, 4711
        with cuda_driver.Current(device.context):
            memory = cuda_driver.made("cuMemAlloc_v2", 64)
            library.fake_begin(stream)
            for name, *arguments in (
                ("cuStreamSynchronize", stream),
                ("cuCtxSynchronize",),
                ("cuMemFree_v2", memory),
                ("cuMemAlloc_v2", ctypes.byref(ctypes.c_void_p()), 64),
                ("cuMemAllocAsync", ctypes.byref(ctypes.c_void_p()), 64, stream),
            ):
                with pytest.raises(TargetError, match=f"{name} fails with error 900"):
                    cuda_driver.call(name, *arguments)
            library.fake_end()
            cuda_driver.call("cuMemFree_v2", memory)
