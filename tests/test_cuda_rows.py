"""Rows in the memory of a GPU, by DLPack: in and out, on a driver that emulates a GPU."""

from __future__ import annotations

import ctypes
import gc
import re
import sys

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import reference
from woodpecker.errors import InputError, TargetError
from woodpecker.forest import Method
from woodpecker.relay_ops.link import ULP_BOUND

from . import cupy_like
from .cuda_support import compiled, emulated_build, emulated_gpu, state, three_classes
from .gallery import FORESTS, rows
from .support import assert_bits_equal
from .test_links import ulps


@pytest.fixture(scope="module", autouse=True)
def fake(tmp_path_factory):
    with emulated_gpu(tmp_path_factory.mktemp("cuda")) as found:
        yield found


@pytest.fixture(scope="module")
def forest():
    forest = three_classes()
    return forest.replace(methods={**forest.methods, "margins": Method("value")}, classes=(np.array([5, 1, 3]),))


@pytest.fixture(scope="module")
def path(forest, tmp_path_factory):
    found = tmp_path_factory.mktemp("saved") / "model.so"
    compiled(forest).save(found)
    return found


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

    @pytest.mark.sampled(2)
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_methods(self, gpu, path, forest, fake, dtype):
        """Links are computed there, within their bound; labels that are no numbers are the host's."""
        X = rows(forest, 300, 1, dtype)
        cpu, there = wp.load(path), cupy_like.asarray(X)
        for name in ("predict_proba", "margins", "predict"):
            first = getattr(gpu, name)(there).get()
            gc.collect()
            before, waits = state(fake)["allocations"], ctypes.CDLL(str(fake)).fake_waits()
            got, want = getattr(gpu, name)(there), getattr(cpu, name)(X)
            assert ctypes.CDLL(str(fake)).fake_waits() == waits  # of first calls only
            assert isinstance(got, cupy_like.Array) and got.get().tobytes() == first.tobytes()
            if name == "predict":
                np.testing.assert_array_equal(first, want, strict=True)
            else:
                assert ulps(first, want) <= (ULP_BOUND if name == "predict_proba" else 0)
            del got
            gc.collect()
            assert state(fake)["allocations"] == before
        assert gpu.predict_proba(there.view(there.host[:0])).shape == (0, 3)

    @pytest.mark.sampled(2)
    @pytest.mark.parametrize(("name", "labels"), [("float64", [7.5, -1.0]), ("zero_rule", ["a", "b"])])
    def test_methods_of_one_output(self, name, labels, tmp_path):
        methods = {
            "predict": Method("label", "sigmoid"),
            "predict_proba": Method("proba", "sigmoid"),
            "score": Method("value", "identity", {"subtract": 0.25}),
            "side": Method("outlier", "identity", {"subtract": 0.25}),
            "values": Method("value", "exp", {"squeeze": False}),
            "far": Method("value", "log_sigmoid"),
        }
        forest = FORESTS[name]().replace(methods=methods, classes=(np.array(labels),))
        model = compiled(forest)
        model.save(tmp_path / "model.so")
        cpu = wp.load(tmp_path / "model.so")
        X = rows(forest, 150, 2, "float32")
        there = cupy_like.asarray(X)
        for method in methods:
            got, want = getattr(model, method)(there), getattr(cpu, method)(X)
            if want.dtype.kind == "U":
                assert isinstance(got, np.ndarray) and got.tolist() == want.tolist()
                continue
            assert isinstance(got, cupy_like.Array) and got.get().shape == want.shape, method
            assert got.dtype == want.dtype
            if method in ("predict", "side"):
                np.testing.assert_array_equal(got.get(), want)
            else:
                assert ulps(np.ascontiguousarray(got.get()), want) <= ULP_BOUND, method

    def test_wrong_links_are_not_returned(self, tmp_path, forest):
        """Of the kernels of links, then of those of labels."""

        def wrong_link(text: str) -> str:
            return text.replace("((float)exp(", "(1.1f + (float)exp(")

        def wrong_rule(text: str) -> str:
            begin = text.rindex(" rule_0(")
            return text[:begin] + re.sub(r"(\bout\[.*\]) = ", r"\1 = 1 + ", text[begin:])

        for name, change, message in (
            ("predict_proba", wrong_link, r"than the CPU \(link of predict_proba, row 0, column"),
            ("predict", wrong_rule, r"than the CPU \(what predict makes of linked scores\)"),
        ):
            folder = tmp_path / name
            folder.mkdir()
            with emulated_build(folder, change):
                wrong = compiled(forest)
            with pytest.raises(TargetError, match=message):
                getattr(wrong, name)(cupy_like.asarray(rows(forest, 40, 1, "float32")))

    def test_scratch(self, monkeypatch, fake):
        """It is of the stream's own memory."""
        from woodpecker.schedules import cuda_blocks

        monkeypatch.setattr(cuda_blocks, "SHARED_BYTES", 0)
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
        assert state(fake)["contexts"] == state(fake)["mistakes"] == 0

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
