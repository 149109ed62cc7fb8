"""CUDA kernels launched by the runtime, on a driver that emulates a GPU with two multiprocessors."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

from woodpecker import reference
from woodpecker.errors import InputError, TargetError
from woodpecker.runtime import cuda as runtime
from woodpecker.runtime import cuda_driver
from woodpecker.runtime.cuda import Code, Launch

from .cuda_support import Prepared, cpp, cuda_c, fake_driver, library, prepared, state
from .gallery import FORESTS, rows
from .support import assert_bits_equal


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    return fake_driver(tmp_path_factory.mktemp("cuda"))


@pytest.fixture
def driver(fake, monkeypatch):
    monkeypatch.setattr(cuda_driver, "LIBRARY", str(fake))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Prepared, Code]:
    """A forest's kernels, and their emulated code."""
    prep = prepared(FORESTS["outputs"](), "tree_traversal", threads=32)
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "kernels.cpp").write_text(cpp(cuda_c(prep.signatures)))
    made = library(folder / "kernels.cpp", folder / "kernels.so")
    return prep, Code("cubin", "sm_90", f"emulated:{made}".encode())


def loaded(made: tuple[Prepared, Code]) -> runtime.Model:
    prep, code = made
    return runtime.load([code], prep.launches, prep.model, cuda_driver.device())


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("chunk_rows", [1000, 70])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_the_host(made, dtype, chunk_rows, monkeypatch):
    """One chunk, of rows that get threads; and several, of rows that get blocks, the last one shorter."""
    forest = made[0].forest
    monkeypatch.setattr(runtime, "CHUNK_BYTES", chunk_rows * (forest.n_features * np.dtype(dtype).itemsize + 12))
    model = loaded(made)
    X = rows(forest, 300, 1, dtype)
    wide = np.full((600, forest.n_features + 1), np.nan, dtype)
    wide[::2, :-1] = X
    for given in (X, np.asfortranarray(X), wide[::2, :-1], np.ascontiguousarray(X[::-1])[::-1]):
        out = np.full((300, 5), 7, forest.values.dtype)
        runtime.run(model, "raw", given, out[:, :3])
        assert_bits_equal(out[:, :3], reference.predict_raw(forest, X))
        assert (out[:, 3:] == 7).all()
        leaves = np.empty((300, forest.n_trees), np.int32)
        runtime.run(model, "apply", given, leaves)
        np.testing.assert_array_equal(leaves, reference.apply(forest, X))


def test_nothing_is_left_behind(made, driver, fake):
    gc.collect()
    before = state(fake)
    model = loaded(made)
    X = rows(made[0].forest, 40, 1, "float32")
    want = reference.predict_raw(made[0].forest, X)

    def work(model: runtime.Model) -> None:
        out = np.empty_like(want)
        runtime.run(model, "raw", X, out)
        assert_bits_equal(out, want)

    work(model)
    thread = threading.Thread(target=work, args=[model])
    thread.start()
    thread.join()
    during = state(fake)
    assert during["launches"] == before["launches"] + 2 and during["allocations"] > before["allocations"]
    del model, thread
    gc.collect()
    after = state(fake)
    assert {**after, "launches": 0} == {**before, "launches": 0}
    assert after["contexts"] == after["overrun"] == 0


@pytest.mark.parametrize("fails", ["cuModuleGetFunction", "cuMemAlloc_v2", "cuMemcpyHtoDAsync_v2"])
def test_a_load_that_fails_leaves_nothing(made, driver, fake, monkeypatch, fails):
    def failing(through):
        def one(name, *arguments, **kind):
            if name == fails:
                raise TargetError("the GPU has no more memory")
            return through(name, *arguments, **kind)

        return one

    gc.collect()
    before = state(fake)
    for name in ("call", "made"):
        monkeypatch.setattr(runtime, name, failing(getattr(cuda_driver, name)))
    with pytest.raises(TargetError, match="the GPU has no more memory"):
        loaded(made)
    assert state(fake) == before


@pytest.mark.usefixtures("driver")
def test_which_entry_serves(made):
    model = loaded(made)
    most = runtime.FEW_ROWS * 2  # multiprocessors
    f32, f64 = np.dtype("float32"), np.dtype("float64")
    assert runtime.entry_for(model, "raw", f32, most) == "few_f32"
    assert runtime.entry_for(model, "raw", f64, most + 1) == "raw_f64"
    assert runtime.entry_for(model, "apply", f32, 1) == "apply_f32"


@pytest.mark.usefixtures("driver")
def test_what_fails_is_typed(made, fake):
    model = loaded(made)
    X, out = rows(made[0].forest, 10, 1, "float32"), np.empty((9, 3), np.float32)
    with pytest.raises(InputError, match="X has 10 rows, and out 9"):
        runtime.run(model, "raw", X, out)
    with pytest.raises(TargetError, match="there is no CUDA device 1: this process sees 1"):
        cuda_driver.device(1)
    with pytest.raises(TargetError, match="cuModuleLoadData fails with error 209: no kernel image is available"):
        runtime.load([Code("cubin", "sm_90", b"\x7fELF")], {}, np.zeros(4, np.uint8), cuda_driver.device())
    huge = {entry: Launch(how.threads, how.rows, 10**6, 0) for entry, how in model.launches.items()}
    broken = runtime.Model(model.device, model.functions, huge, model.blob)
    with pytest.raises(TargetError, match="cuLaunchKernel fails with error 1: invalid argument"):
        runtime.run(broken, "raw", X, np.empty((10, 3), np.float32))
    assert state(fake)["contexts"] == 0


@pytest.mark.parametrize(
    ("status", "hint"),
    [(3, "a process that was forked off one that has used the GPU can't use it"), (222, "install a newer driver")],
)
def test_what_people_can_do_about_it(fake, status, hint):
    driver = cuda_driver._driver(str(fake))
    with pytest.raises(TargetError, match=f"cuModuleLoadData fails with error {status}: .*{hint}"):
        cuda_driver._check(driver, status, "cuModuleLoadData")


def test_without_a_driver(monkeypatch, fake):
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libnonesuch.so.1")
    with pytest.raises(TargetError, match=r"this machine has no CUDA driver \(libnonesuch"):
        cuda_driver.device()
    monkeypatch.setattr(cuda_driver, "LIBRARY", "libc.so.6")
    with pytest.raises(TargetError, match=r"libc\.so\.6 has no function cuInit: it is too old"):
        cuda_driver.device()


@pytest.mark.parametrize(
    ("codes", "arch", "chosen"),
    [
        (["cubin sm_80", "cubin sm_86", "cubin sm_90", "ptx sm_80"], "sm_89", "cubin sm_86"),
        (["cubin sm_80", "cubin sm_90", "ptx sm_80"], "sm_90", "cubin sm_90"),
        (["cubin sm_86", "cubin sm_90", "ptx sm_80"], "sm_80", "ptx sm_80"),
        (["cubin sm_80", "cubin sm_90", "ptx sm_80", "ptx sm_90"], "sm_103", "ptx sm_90"),
        (["cubin sm_90", "ptx sm_90"], "sm_80", None),
        (["cubin sm_80", "cubin sm_86", "ptx sm_80"], "sm_87", "ptx sm_80"),
        (["cubin sm_86", "cubin sm_87", "ptx sm_80"], "sm_87", "cubin sm_87"),
        (["cubin sm_120"], "sm_90", None),
    ],
)
def test_code_for_an_architecture(codes, arch, chosen):
    given = [Code(*code.split(), b"") for code in codes]
    if chosen is None:
        with pytest.raises(TargetError, match=f"no code for {arch}, which this GPU is: the model has .*for sm_"):
            runtime.choose(given, arch)
    else:
        found = runtime.choose(given, arch)
        assert f"{found.kind} {found.arch}" == chosen
