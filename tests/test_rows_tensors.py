"""Tensors by DLPack: without a copy, with their signs, and as tensors again."""

from __future__ import annotations

import numpy as np
import pytest

from woodpecker.errors import InputError
from woodpecker.runtime.rows import read_rows

from .test_rows import SPEC, matrix, same, small_blocks  # noqa: F401


class TestDlpack:
    def test_without_a_framework(self):
        class Tensor:
            def __init__(self, array):
                self.array = array

            def __dlpack__(self, **options):
                return self.array.__dlpack__(**options)

            def __dlpack_device__(self):
                return self.array.__dlpack_device__()

        X = matrix(10)
        rows = read_rows(Tensor(X), SPEC)
        ((_, _, block),) = rows.blocks()
        assert np.shares_memory(block, X)
        result = np.zeros(3)
        assert rows.restore(result) is result
        same(Tensor(np.asfortranarray(X)), X)
        with pytest.raises(InputError, match="4 columns"):
            read_rows(Tensor(matrix(10)[:, [0, 1, 2, 0]]), SPEC)

    @pytest.mark.parametrize(
        ("device", "name"), [((2, 0), "cuda:0"), ((10, 1), "rocm:1"), ((99, 0), "DLPack device 99:0")]
    )
    def test_other_devices(self, device, name):
        class Tensor:
            def __dlpack__(self, **options):
                pytest.fail("its memory was asked for")

            def __dlpack_device__(self):
                return device

        with pytest.raises(InputError, match=f"on {name}, and this artifact runs on the CPU"):
            read_rows(Tensor(), SPEC)

    @pytest.mark.parametrize("part", ["__dlpack__", "__dlpack_device__"])
    def test_a_tensor_that_refuses(self, part):
        class Tensor:
            def __dlpack__(self, **options):
                raise BufferError("no")

            def __dlpack_device__(self):
                if part == "__dlpack_device__":
                    raise ValueError("no")
                return (1, 0)

        with pytest.raises(InputError, match="no"):
            read_rows(Tensor(), SPEC)


class TestTorch:
    @pytest.fixture(autouse=True)
    def _torch(self):
        self.torch = pytest.importorskip("torch")

    def test_cpu_tensors_without_a_copy_and_results_as_tensors(self):
        X = self.torch.from_numpy(matrix(10))
        rows = read_rows(X, SPEC)
        ((_, _, block),) = rows.blocks()
        assert block.ctypes.data == X.data_ptr()
        result = rows.restore(np.arange(3.0))
        assert isinstance(result, self.torch.Tensor)
        assert result.tolist() == [0, 1, 2]
        parts = rows.restore([np.zeros(2), np.array(["a", "b"])])
        assert isinstance(parts[0], self.torch.Tensor)
        assert isinstance(parts[1], np.ndarray)
        frozen = np.zeros(3)
        frozen.flags.writeable = False
        assert isinstance(rows.restore(frozen), self.torch.Tensor)

    @pytest.mark.usefixtures("small_blocks")
    def test_layouts_and_dtypes(self):
        X = matrix(10)
        tensor = self.torch.from_numpy(X.copy())
        same(tensor.t().contiguous().t(), X)
        same(tensor[:1].expand(10, 3), np.broadcast_to(X[0], (10, 3)).copy())
        same(tensor.double(), X.astype(np.float64))
        same(tensor.half(), X.astype(np.float16).astype(np.float32))
        same(tensor.long(), X.astype(np.int64).astype(np.float32))
        same(tensor > 0, (X > 0).astype(np.float32))
        same(tensor[:0], X[:0])
        same(tensor.requires_grad_(), X)
        assert not read_rows(tensor, SPEC).restore(np.zeros(3)).requires_grad

    def test_a_pending_negation_is_not_lost(self):
        X = self.torch.randn(10, 3, dtype=self.torch.cfloat).conj().imag
        assert X.is_neg()
        same(X, np.array(X.tolist(), np.float32))

    def test_what_is_refused(self):
        torch = self.torch
        for X in (
            torch.zeros(2, 3).bfloat16(),
            torch.zeros(2, 3).to_sparse(),
            torch.empty(2, 3, device="meta"),
            torch.zeros(2, 3, dtype=torch.cfloat),
            torch.zeros(3),
            torch.zeros(2, 4),
        ):
            with pytest.raises(InputError):
                read_rows(X, SPEC)
