"""Rows of a GPU that is not the current one of PyTorch or CuPy, on a driver that emulates a GPU."""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import reference
from woodpecker.errors import InputError
from woodpecker.forest import Method
from woodpecker.relay_ops.link import ULP_BOUND

from . import cupy_like
from .cuda_support import emulated_gpu
from .gallery import ALONE, FORESTS, rows
from .support import assert_bits_equal
from .test_links import ulps

ELSEWHERE = 3
"""The GPU that is current; the model's is 0."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    forest = FORESTS["outputs"]().replace(methods={"predict_proba": Method("proba", "xgb_softmax")})
    walk = dict(strategy="perfect_tree_traversal", **ALONE["perfect_tree_traversal"])
    with emulated_gpu(tmp_path_factory.mktemp("cuda")):
        yield forest, wp.compile(forest, target="cuda -arch=sm_90", **walk)


@pytest.fixture
def current() -> list[int]:
    """The current GPU, last."""
    return [ELSEWHERE]


@contextlib.contextmanager
def on(current: list[int], number: int) -> Iterator[None]:
    current.append(number)
    yield
    current.pop()


@pytest.fixture
def torch(current, monkeypatch):
    """As much of PyTorch as is called: like it, tensors are exported on their own GPU only."""

    class Tensor(cupy_like.Tensor):
        __module__ = "torch"

        def __dlpack__(self, *, stream: int | None = None) -> Any:
            if current[-1] != self.number:
                raise BufferError("Can't export tensors on a different CUDA device index.")
            return super().__dlpack__(stream=stream)

    def tensor(host: np.ndarray) -> Tensor:
        array = cupy_like.asarray(host)
        return Tensor(array.address, array.host, array)

    module = types.ModuleType("torch")
    stream = types.SimpleNamespace(cuda_stream=0)
    cuda = types.SimpleNamespace(device=lambda number: on(current, number), current_stream=lambda number: stream)
    names = {"float32": np.float32, "int32": np.int32}
    module.__dict__.update(cuda=cuda, Tensor=Tensor, tensor=tensor, **names)
    module.__dict__["empty"] = lambda shape, dtype, device: tensor(np.empty(shape, dtype))
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


@pytest.mark.full
def test_torch(model, torch, current):
    forest, gpu = model
    X = rows(forest, 40, 1, "float32")
    got = gpu.predict_raw(torch.tensor(X))
    assert isinstance(got, torch.Tensor) and current == [ELSEWHERE]
    assert_bits_equal(got.get(), reference.predict_raw(forest, X))
    np.testing.assert_array_equal(gpu.apply(torch.tensor(X)).get(), reference.apply(forest, X))


def test_cupy(model, current, monkeypatch):
    """Answers are made on the GPU that X is on; and those of the host go back there."""
    forest, gpu = model
    made_on = []

    def counted(make: Any) -> Any:
        def made(*given: Any) -> cupy_like.Array:
            made_on.append(current[-1])
            return make(*given)

        return made

    cupy = cupy_like.module(0)
    cupy.__dict__.update(asarray=counted(cupy_like.asarray), empty=counted(cupy_like.empty))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    X = rows(forest, 40, 1, "float32")
    there = cupy_like.asarray(X)

    class Device:
        def __enter__(self) -> None:
            current.append(0)

        def __exit__(self, *_: object) -> None:
            current.pop()

    there.device = Device()
    want = gpu.predict_proba(X)
    assert ulps(gpu.predict_proba(there).get(), want) <= ULP_BOUND
    assert made_on == [0, 0] and current == [ELSEWHERE]  # raw scores, and linked ones
    monkeypatch.setattr(gpu, "_methods", {})
    assert_bits_equal(gpu.predict_proba(there).get(), want)
    assert made_on == [0, 0, 0] and current == [ELSEWHERE]


def test_out_in_the_memory_of_the_host(model, monkeypatch):
    """A tensor of a PyTorch that knows no GPU."""

    class Tensor:
        __module__ = "torch"

        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

        def __dlpack__(self, **_: Any) -> Any:
            raise AssertionError("stream should be None on cpu.")

    forest, gpu = model
    monkeypatch.setitem(sys.modules, "torch", types.ModuleType("torch"))
    there = cupy_like.asarray(rows(forest, 8, 1, "float32"))
    with pytest.raises(InputError, match=r"out can't be exported by DLPack: .*stream should be None on cpu"):
        gpu.predict_raw(cupy_like.Tensor(there.address, there.host, there), out=Tensor())
