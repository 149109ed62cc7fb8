"""CUDA kernels launched by the runtime, on a driver that emulates a GPU with two multiprocessors."""

from __future__ import annotations

import ctypes
import gc
import threading

import numpy as np
import pytest

from woodpecker import reference
from woodpecker.errors import InputError, TargetError
from woodpecker.runtime import cuda as runtime
from woodpecker.runtime import cuda_driver, cuda_lanes
from woodpecker.runtime import cuda_host as host
from woodpecker.runtime.cuda import Code, Launch

from .cuda_support import Prepared, calls, cpp, cuda_c, fake_driver, library, prepared, state
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


@pytest.fixture
def library_of(fake):
    """The fake driver, for what it is told rather than asked."""
    found = ctypes.CDLL(str(fake))
    for name in ("fake_pinned_limit", "fake_register", "fake_forget"):
        getattr(found, name).restype = None
    found.fake_pinned_limit.argtypes = [ctypes.c_size_t]
    found.fake_register.argtypes, found.fake_forget.argtypes = [ctypes.c_void_p, ctypes.c_size_t], [ctypes.c_void_p]
    yield found
    found.fake_pinned_limit(2**40)


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize("chunk_rows", [1000, 70, None])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_the_host(made, dtype, chunk_rows, pinned, library_of, monkeypatch):
    """One chunk, of rows that get threads; several, of rows that get blocks, the last one shorter; and rows that are
    read where they lie. With pinned memory, and where the driver gives none."""
    forest = made[0].forest
    library_of.fake_pinned_limit(2**40 if pinned else 0)
    monkeypatch.setattr(host, "MAPPED_BYTES", host.MAPPED_BYTES if chunk_rows is None else 0)
    chunk_rows = chunk_rows or 1000
    monkeypatch.setattr(host, "CHUNK_BYTES", chunk_rows * (forest.n_features * np.dtype(dtype).itemsize + 12))
    model = loaded(made)
    X = rows(forest, 300, 1, dtype)
    wide = np.full((600, forest.n_features + 1), np.nan, dtype)
    wide[::2, :-1] = X
    for given in (X, np.asfortranarray(X), wide[::2, :-1], np.ascontiguousarray(X[::-1])[::-1]):
        out = np.full((300, 5), 7, forest.values.dtype)
        host.run(model, "raw", given, out[:, :3])
        assert_bits_equal(out[:, :3], reference.predict_raw(forest, X))
        assert (out[:, 3:] == 7).all()
        leaves = np.empty((300, forest.n_trees), np.int32)
        host.run(model, "apply", given, leaves)
        np.testing.assert_array_equal(leaves, reference.apply(forest, X))


def rows_and_scores(made, n):
    forest = made[0].forest
    X = rows(forest, n, 1, "float32")
    return X, reference.predict_raw(forest, X)


@pytest.mark.usefixtures("driver")
def test_calls_of_the_driver(made, fake):
    """A few rows: a kernel and a wait. A chunk of more: two copies besides."""
    model, (X, want) = loaded(made), rows_and_scores(made, 600)
    out = np.empty_like(want)
    for n, expected in (
        (1, ["cuLaunchKernel", "cuStreamSynchronize"]),
        (600, ["cuMemcpyHtoDAsync_v2", "cuLaunchKernel", "cuMemcpyDtoHAsync_v2", "cuStreamSynchronize"]),
    ):
        host.run(model, "raw", X[:n], out[:n])
        calls(fake)
        host.run(model, "raw", X[:n], out[:n])
        assert_bits_equal(out[:n], want[:n])
        assert [name for name in calls(fake) if name != "cuPointerGetAttribute"] == ["cuCtxGetCurrent", *expected]


@pytest.mark.parametrize("n", [20, 600])
def test_the_driver_notices_a_missing_wait(made, driver, monkeypatch, n):
    model, (X, want) = loaded(made), rows_and_scores(made, n)
    out = np.zeros_like(want)
    host.run(model, "raw", X[::-1], out)

    def hasty(name, *arguments):
        if name != "cuStreamSynchronize":
            cuda_driver.call(name, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(cuda_lanes, "call", hasty)
        host.run(model, "raw", X, out)
    assert out.tobytes() != want.tobytes()
    host.run(model, "raw", X, out)
    assert_bits_equal(out, want)


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("part", [0, 1])
def test_memory_that_is_pinned_already(made, library_of, monkeypatch, part):
    """It is copied from and to directly; memory that is pinned in part is not."""
    monkeypatch.setattr(host, "CHUNK_BYTES", 200 * 32)
    X, want = rows_and_scores(made, 700)
    out = np.empty_like(want)
    for array in (X, out):
        library_of.fake_register(array.ctypes.data, array.nbytes - part)
    try:
        model = loaded(made)
        host.run(model, "raw", X, out)
        assert_bits_equal(out, want)
        used = {name for lane in model._lanes.lanes for name in lane.pinned}
        assert used == ({"x", "y"} if part else set())
    finally:
        for array in (X, out):
            library_of.fake_forget(array.ctypes.data)


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("block_rows", [1, 70, 90, 1000])
def test_rows_made_in_blocks(made, block_rows, monkeypatch):
    """Chunks of 100 rows, whatever the blocks; a block that can't be made leaves nothing behind."""
    monkeypatch.setattr(host, "CHUNK_BYTES", 100 * 32)
    model, (X, want) = loaded(made), rows_and_scores(made, 330)
    blocks = [X[i : i + block_rows] for i in range(0, len(X), block_rows)]
    out = np.empty_like(want)
    kernels = []
    host.run_blocks(model, "raw", iter(blocks), out, lambda kernel, kind, heads: kernels.append((kernel, *heads())))
    assert_bits_equal(out, want)
    ((kernel, given, found),) = kernels
    assert kernel == "few_f32" and given.tobytes() == X[:100].tobytes() and found.tobytes() == want[:100].tobytes()

    def broken():
        yield from blocks[:-1]
        raise InputError("an unknown category")

    with pytest.raises(InputError, match="an unknown category"):
        host.run_blocks(model, "raw", broken(), out)
    assert not any(lane.busy or lane.then for lane in model._lanes.lanes)
    host.run_blocks(model, "raw", iter(blocks), out)
    assert_bits_equal(out, want)


def test_nothing_is_left_behind(made, driver, fake):
    gc.collect()
    before = state(fake)
    model = loaded(made)
    X = rows(made[0].forest, 40, 1, "float32")
    want = reference.predict_raw(made[0].forest, X)

    def work(model: runtime.Model) -> None:
        out = np.empty_like(want)
        host.run(model, "raw", X, out)
        assert_bits_equal(out, want)
        host.run(model, "apply", X, np.empty((len(X), made[0].forest.n_trees), np.int32))

    work(model)
    thread = threading.Thread(target=work, args=[model])
    thread.start()
    thread.join()
    during = state(fake)
    assert (
        during["launches"] == before["launches"] + 4
        and during["pinned"] == before["pinned"] + 3
        and during["allocations"] > before["allocations"]
    )
    del model, thread
    gc.collect()
    after = state(fake)
    assert {**after, "launches": 0} == {**before, "launches": 0}
    assert after["contexts"] == after["mistakes"] == 0


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
        host.run(model, "raw", X, out)
    with pytest.raises(TargetError, match="there is no CUDA device 1: this process sees 1"):
        cuda_driver.device(1)
    with pytest.raises(TargetError, match="cuModuleLoadData fails with error 209: no kernel image is available"):
        runtime.load([Code("cubin", "sm_90", b"\x7fELF")], {}, np.zeros(4, np.uint8), cuda_driver.device())
    huge = {entry: Launch(how.threads, how.rows, 10**6, 0) for entry, how in model.launches.items()}
    broken = runtime.Model(model.device, model.functions, huge, model.blob)
    with pytest.raises(TargetError, match="cuLaunchKernel fails with error 1: invalid argument"):
        host.run(broken, "raw", X, np.empty((10, 3), np.float32))
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
