"""Sparse matrices: absent, explicit, duplicate and tiny entries, and damaged index arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from woodpecker.errors import InputError
from woodpecker.runtime.rows import InputSpec, read_rows

from .test_rows import NAN, SPEC, matrix, read, same, small_blocks  # noqa: F401


class TestSparse:
    @pytest.fixture(autouse=True)
    def _scipy(self):
        pytest.importorskip("scipy")

    @staticmethod
    def csr(X: np.ndarray) -> Any:
        import scipy.sparse as sp

        return sp.csr_matrix(X)

    @pytest.mark.usefixtures("small_blocks")
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, bool])
    def test_formats(self, dtype):
        import scipy.sparse as sp

        X = np.where(np.random.default_rng(0).random((11, 3)) < 0.5, 0, matrix(11)).astype(dtype)
        want = X if X.dtype.kind == "f" else X.astype(np.float32)
        for kind in (
            sp.csr_matrix,
            sp.csr_array,
            sp.csc_matrix,
            sp.csc_array,
            sp.coo_array,
            sp.lil_array,
            sp.dok_array,
        ):
            same(kind(X), want)

    def test_an_absent_entry_is_what_the_library_says_and_an_explicit_zero_is_zero(self):
        X = self.csr(np.array([[1.0, 2.0, 0.0]]))
        X.data[1] = 0.0
        same(X, np.array([[1.0, 0.0, NAN]]), InputSpec(3, sparse_fill=NAN, library="xgboost"))
        same(X, np.array([[1.0, 0.0, 0.0]]), InputSpec(3, sparse_fill=0.0))

    def test_indices_in_any_order(self):
        import scipy.sparse as sp

        X = sp.csr_array((np.array([1.0, 2, 3]), np.array([2, 0, 1]), np.array([0, 2, 3])), shape=(2, 3))
        same(X, np.array([[2.0, 0, 1], [0, 3, 0]]))

    def test_duplicates(self):
        import scipy.sparse as sp

        X = sp.csr_array((np.array([1.0, 1e-17, 3, -1]), np.array([2, 0, 0, 2]), np.array([0, 4])), shape=(1, 3))
        same(X, X.toarray())
        for library in ("xgboost", "lightgbm"):
            with pytest.raises(InputError, match="sum_duplicates"):
                read(X, InputSpec(3, library=library))

    def test_zero_rows_and_empty_rows(self):
        same(self.csr(np.zeros((0, 3))), np.zeros((0, 3)))
        same(self.csr(np.zeros((5, 3))), np.zeros((5, 3)))

    def test_tiny_entries_of_lightgbm(self):
        spec = InputSpec(3, input_dtype="float64", zero_band=float(np.float32(1e-35)), library="lightgbm")
        X = self.csr(np.array([[0, 0, 0], [0, 1e-35, 2.0]]))
        with pytest.raises(InputError, match=r"X\[1, 1\] is 1e-35: LightGBM"):
            read(X, spec)
        same(X.tocsc(), X.toarray(), spec)  # its CSC path reads them as its dense path does
        just_above = self.csr(np.array([[np.nextafter(spec.zero_band, 1), -0.0, 1]]))
        same(just_above, just_above.toarray(), spec)

    def test_shapes(self):
        import scipy.sparse as sp

        with pytest.raises(InputError, match="4 columns"):
            read_rows(self.csr(np.zeros((2, 4))), SPEC)
        with pytest.raises(InputError, match="one dimension"):
            read_rows(sp.coo_array(np.zeros(3)), SPEC)
        with pytest.raises(InputError, match="complex"):
            read_rows(self.csr(np.zeros((2, 3), complex)), SPEC)

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("indices", [0, 3]),
            ("indices", [-1, 1]),
            ("indices", [0, 2**31 - 1]),
            ("indptr", [0, 3, 2]),
            ("indptr", [0, 1, 99]),
            ("indptr", [-5, 1, 2]),
            ("indptr", [0, 2]),
            ("data", [1.0]),
        ],
    )
    def test_damaged_matrices_are_not_read(self, name, values):
        X = self.csr(np.array([[1.0, 0, 0], [0, 1, 0]]))
        object.__setattr__(X, name, np.array(values))
        with pytest.raises(InputError, match="damaged"):
            read(X)
