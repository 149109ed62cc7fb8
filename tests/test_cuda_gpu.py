"""CUDA kernels on a GPU, where there is one, against the interpreter, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from woodpecker import build_cuda, reference
from woodpecker.errors import TargetError
from woodpecker.runtime import cuda as runtime
from woodpecker.runtime import cuda_driver

from .cuda_support import cuda_c, prepared
from .gallery import FORESTS, rows
from .support import assert_bits_equal
from .test_cuda import PAIRS, RANKED

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpu():
    try:
        return cuda_driver.device()
    except TargetError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("together", [1, 4])
@pytest.mark.parametrize(("name", "strategy"), [*PAIRS, *((name, "ranks") for name in RANKED)])
def test_exact(gpu, name, strategy, together):
    """Few rows, rows of one block and more, and so many that rows get threads; as cubin, and as PTX that the driver
    compiles."""
    forest = FORESTS[name]()
    if strategy == "ranks":
        made = prepared(forest, "perfect_tree_traversal", ranks=True, walks=together)
    else:
        made = prepared(forest, strategy, trees=together)
    text = cuda_c(made.signature)
    codes = [build_cuda.assemble(text, gpu.arch), build_cuda.assemble(text, "sm_80", "ptx")]
    many = runtime.FEW_ROWS * gpu.multiprocessors + 77
    for code in codes:
        model = runtime.load([code], made.launches, made.model, gpu)
        for dtype in ("float32", "float64"):
            X = rows(forest, many, 1, dtype)
            scores, leaves = reference.predict_raw(forest, X), reference.apply(forest, X)
            for n in (1, 33, 1000, many):
                out = np.full((n, forest.n_outputs), -77, scores.dtype)
                runtime.run(model, "raw", X[:n], out)
                assert_bits_equal(out, scores[:n], f"{code.kind} {dtype} {n} rows")
                ids = np.full((n, forest.n_trees), -77, np.int32)
                runtime.run(model, "apply", X[:n], ids)
                np.testing.assert_array_equal(ids, leaves[:n])
