"""Sparse matrices as dense blocks, each library's way of reading absent, duplicate and tiny entries respected."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InputError
from .rows import InputSpec, Rows, block_rows, check_shape, number_dtype

# Libraries that let the last of several entries of one cell win, where scipy and scikit-learn add them up (measured).
_LAST_WINS = ("xgboost", "lightgbm")


def sparse_rows(X: Any, spec: InputSpec) -> Rows:
    """A scipy sparse matrix or array of any format as dense blocks; other formats are converted to CSR whole.

    Raises:
        InputError: wrong shape or dtype, inconsistent index arrays, entries that the source library reads in another
            way than scipy means them.
    """
    check_shape(X.shape, spec)
    tiny_is_kept = spec.zero_band > 0 and getattr(X, "format", "csr") != "csc"
    csr = X if getattr(X, "format", None) == "csr" else X.tocsr()
    n, n_features = int(csr.shape[0]), spec.n_features
    indptr, indices, data = (np.asarray(part) for part in (csr.indptr, csr.indices, csr.data))
    dtype = number_dtype(data.dtype, spec)
    if indptr.ndim != 1 or len(indptr) != n + 1 or indptr.dtype.kind not in "iu" or indices.dtype.kind not in "iu":
        raise InputError(f"X is a damaged CSR matrix: indptr must hold {n + 1} integers")
    if indices.ndim != 1 or data.shape != indices.shape:
        raise InputError("X is a damaged CSR matrix: data and indices must be of one length")

    def read(begin: int, end: int) -> np.ndarray:
        pointers = indptr[begin : end + 1].astype(np.int64)
        if pointers[0] < 0 or pointers[-1] > len(indices) or (np.diff(pointers) < 0).any():
            raise InputError(f"X is a damaged CSR matrix: indptr does not ascend within rows {begin} to {end - 1}")
        stored = slice(int(pointers[0]), int(pointers[-1]))
        columns, values = indices[stored].astype(np.int64), data[stored]
        if len(columns) and not 0 <= columns.min() <= columns.max() < n_features:
            raise InputError(f"X is a damaged CSR matrix: a column index lies outside [0, {n_features})")
        cell = np.repeat(np.arange(end - begin) * n_features, np.diff(pointers)) + columns
        if (np.diff(cell) <= 0).any():
            cell, values = _add_up(cell, values, spec)
        with np.errstate(all="ignore"):
            values = values.astype(dtype)
        if tiny_is_kept:
            _refuse_tiny(cell, values, begin, spec)
        block = np.full((end - begin, n_features), spec.sparse_fill, dtype)
        block.reshape(-1)[cell] = values
        return block

    return Rows(n, dtype, block_rows(n_features, dtype.itemsize), read, memory=(indptr, indices, data))


def _add_up(cell: np.ndarray, values: np.ndarray, spec: InputSpec) -> tuple[np.ndarray, np.ndarray]:
    """Cells that are not in order, or occur twice: one value for each, summed in storage order as ``toarray`` does."""
    unique, inverse = np.unique(cell, return_inverse=True)
    if len(unique) == len(cell):
        return cell, values
    if spec.library in _LAST_WINS:
        raise InputError(
            f"X holds several entries for one cell: scipy means their sum, {spec.library} takes the last. "
            "Call X.sum_duplicates() first"
        )
    sums = np.zeros(len(unique), values.dtype.newbyteorder("="))
    np.add.at(sums, inverse, values)
    return unique, sums


def _refuse_tiny(cell: np.ndarray, values: np.ndarray, begin: int, spec: InputSpec) -> None:
    """LightGBM's CSR path keeps what its dense path reads as zero; kernels follow the dense path."""
    tiny = (values != 0) & (np.abs(values.astype(np.float64)) <= spec.zero_band)
    if tiny.any():
        at = int(cell[np.flatnonzero(tiny)[0]])
        row, column = begin + at // spec.n_features, at % spec.n_features
        raise InputError(
            f"X[{row}, {column}] is {values[tiny][0]:g}: LightGBM reads so small a value as 0 in dense rows and as "
            f"itself in CSR rows. Set |values| <= {spec.zero_band:g} to 0, or pass dense rows"
        )
