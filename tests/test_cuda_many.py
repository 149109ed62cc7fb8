"""scan and gemm for CUDA without a GPU: their CUDA C, run on the CPU, against the interpreter, bit for bit."""

from __future__ import annotations

import ctypes
import re
from typing import Any

import numpy as np
import pytest

from woodpecker import build_cuda, reference
from woodpecker.errors import StrategyError
from woodpecker.forest import Forest
from woodpecker.nested import from_nested
from woodpecker.predicates import canonicalise
from woodpecker.relay_ops.options import resolve
from woodpecker.schedules import cuda, cuda_blocks, cuda_gemm, cuda_gemm_tables, cuda_many, cuda_plan, cuda_scan
from woodpecker.schedules.cuda_strategies import STRATEGIES, WALKING

from .cuda_support import ORDERS, cuda_c, emulated, prepared, run, skip_without_nvrtc
from .gallery import FORESTS, chain, leaf, rows, split
from .support import assert_bits_equal, bits, in_turn
from .test_cuda import assert_exact
from .test_cuda_code import INEXACT, MAX_STACK, UNROUNDED, used
from .test_kernel_lint import key, lint, nodes

MANY = ("scan", "gemm")
BEYOND = {("deep", "scan"), ("deeper", "scan"), ("deep", "gemm"), ("deeper", "gemm")}
PAIRS = [(name, strategy) for name in FORESTS for strategy in MANY if (name, strategy) not in BEYOND]
SOME = (("outputs", "scan"), ("truncate", "gemm"))
"""The forests of the fast tier: trees of 8 leaves, of three outputs; category sets, of one."""


def one_sided(length: int) -> Forest:
    """A tree whose last leaf lies right of all nodes."""
    node = leaf(0.1)
    for i in reversed(range(length)):
        node = split(i % 3, i / length - 0.5, leaf(i / 3), node, missing="right")
    return from_nested([node], 3)


def pieces() -> Forest:
    """Columns of as many bounds as a piece has, of one more, and of two pieces and one more."""
    stumps = [
        split(f, i - n // 2 - 0.5, leaf(0.1 * i), leaf(-f)) for f, n in enumerate((127, 128, 255)) for i in range(n)
    ]
    return from_nested(stumps, 3, dtype=np.float32)


def assert_scores(forest: Forest, strategy: str, **options: int) -> None:
    """`assert_exact` of one entry, for what its code does not depend on."""
    made = prepared(forest, strategy, threads=32, **options)
    X = rows(forest, 40, 3, "float32")
    got = run(made, "raw_f32", X, text=cuda_c(made.signatures, ("raw_f32",)))
    assert_bits_equal(got, reference.predict_raw(forest, X), strategy)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("name", "strategy"), [pytest.param(*pair, marks=() if pair in SOME else pytest.mark.full) for pair in PAIRS]
)
def test_exact(name, strategy):
    assert_exact(prepared(FORESTS[name](), strategy, threads=32), 70 if name in ("outputs", "truncate") else 150)


def test_which_forests_there_are_strategies_for():
    for name, make in FORESTS.items():
        canonical = canonicalise(make())
        for strategy in MANY:
            module = STRATEGIES[strategy]
            refused = module.refusal(canonical, resolve(strategy, module.OPTIONS, {}))
            assert (refused is not None) == ((name, strategy) in BEYOND), f"{strategy}, {name}: {refused}"


@pytest.mark.full
@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("scan", dict(words=1, unroll=1)),
        ("scan", dict(words=4, unroll=8)),
        ("scan", dict(threads=128)),
        ("gemm", dict(threads=64)),
    ],
)
def test_options(strategy, options):
    assert_exact(prepared(FORESTS["linear"](), strategy, **{"threads": 32, **options}), 150)


@pytest.mark.full
@pytest.mark.parametrize("strategy", MANY)
def test_what_does_not_fit_into_shared_memory(strategy, monkeypatch):
    monkeypatch.setattr(cuda_blocks, "SHARED_BYTES", 0)
    made = prepared(FORESTS["vector"](), strategy, threads=32)
    assert "rows_in_scratch" in made.signature.flags and made.launches["raw_f32"].shared_bytes == 0
    assert_exact(made, 150)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("forest", "strategy"),
    [
        (lambda: chain(127), "scan"),  # leaf numbers of seven bits, and of eight
        (lambda: chain(128), "scan"),
        (pieces, "scan"),
        (lambda: one_sided(127), "gemm"),  # 128 leaves, and so far right that path sums have 16 bits on a CPU
        pytest.param(lambda: chain(255), "scan", marks=pytest.mark.full),
        pytest.param(pieces, "gemm", marks=pytest.mark.full),
        pytest.param(lambda: chain(32, trees=9), "gemm", marks=pytest.mark.full),
        pytest.param(lambda: chain(31, trees=9), "gemm", marks=pytest.mark.full),
    ],
)
def test_limits(forest, strategy):
    assert_scores(forest(), strategy)


def test_too_many_leaves():
    options = resolve("gemm", cuda_gemm.OPTIONS, {})
    assert cuda_gemm.refusal(canonicalise(chain(127)), options) is None
    with pytest.raises(StrategyError, match="a tree of 129 leaves; on a GPU the limit is 128 leaves"):
        cuda_plan.make_plan(canonicalise(chain(128)), "gemm", {})
    with pytest.raises(StrategyError, match="power of two from 32 to 1024, found 33"):
        cuda_plan.make_plan(canonicalise(chain(2)), "scan", {"cuda_threads": 33})


def test_rows_of_a_block():
    """As many threads as shared memory has room for: a byte for each column and row; else rows lie in scratch."""
    for columns, threads, scratch in ((40, 128, False), (100, 32, False), (200, 32, True)):
        stumps = [split(f, 0.5, leaf(1.0), leaf(2.0)) for f in range(columns)]
        forest = from_nested(stumps, columns, dtype=np.float32)
        how = prepared(forest, "scan").launches["raw_f32"]
        assert (how.threads, how.rows) == (threads, 8 * threads)
        size = (columns + 1) * 8 * threads
        assert (how.scratch_bytes if scratch else how.shared_bytes) == -(-size // 64) * 64
        assert (how.scratch_bytes == 0) is not scratch


BARRIERS = re.compile(r"__sync(?:threads|warp)\(\);")


@pytest.mark.full
@pytest.mark.parametrize(("strategy", "barriers"), [("scan", 2), ("gemm", 3)])
def test_the_emulation_notices_a_missing_barrier(strategy, barriers):
    made = prepared(FORESTS["float32"](), strategy, threads=64)
    X = rows(made.forest, 700 if strategy == "scan" else 100, 2, "float32")
    want = reference.predict_raw(made.forest, X)
    whole = cuda_c(made.signatures, ("raw_f32",))
    found = list(BARRIERS.finditer(whole))
    assert len(found) == barriers
    for i, place in enumerate(found):
        text = whole[: place.start()] + whole[place.end() :]
        got = [run(made, "raw_f32", X, blocks=1, backwards=backwards, text=text) for backwards in ORDERS]
        assert any(bits(scores).tobytes() != bits(want).tobytes() for scores in got), f"barrier {i}"


HEAD = 'extern "C" __global__ void __launch_bounds__(64) product(uint* left, uint* right, int* sums, int64_t blocks)'
MULTIPLY = f"""\
{HEAD};
{HEAD} {{
  if (((int)threadIdx.x) != ABSENT) {{
    wp_mma_s8(sums + 4 * threadIdx.x, left + 4 * threadIdx.x, right + 2 * threadIdx.x);
  }}
}}
"""


def product(absent: int) -> tuple[int, np.ndarray, np.ndarray]:
    """(what the emulation says, what two warps compute, what they should), but for one thread, which does nothing.

    The fragments are those of PTX ISA 8.0, "Matrix Fragments for mma.m16n8k32", by rows and columns.
    """
    rng = np.random.default_rng(1)
    A, B = rng.integers(-128, 128, (2, 16, 32), np.int8), rng.integers(-128, 128, (2, 32, 8), np.int8)
    C = rng.integers(-(2**30), 2**30, (2, 16, 8), np.int32)
    lane = np.arange(32)
    group, inside = (lane >> 2)[:, None], (lane & 3)[:, None]
    i = np.arange(16)
    a = A[:, group + 8 * (i // 4 % 2), inside * 4 + i % 4 + 16 * (i // 8)].copy()
    i = np.arange(8)
    b = B[:, inside * 4 + i % 4 + 16 * (i // 4), np.broadcast_to(group, (32, 8))].copy()
    i = np.arange(4)
    row, column = group + 8 * (i // 2), inside * 2 + i % 2
    d = C[:, row, column].copy()
    pointers = [ctypes.c_void_p(x.ctypes.data) for x in (a, b, d)]
    kernel = emulated(MULTIPLY.replace("ABSENT", str(absent))).run_product
    wrong = kernel(*pointers, ctypes.c_int64(1), 64, ctypes.c_int64(0), 0)
    return wrong, d, (A.astype(np.int32) @ B.astype(np.int32) + C)[:, row, column]


def test_the_emulation_multiplies():
    wrong, got, want = product(-1)
    assert wrong == 0
    np.testing.assert_array_equal(got, want)


def test_the_emulation_notices_an_absent_thread():
    assert product(37)[0] == -1


@pytest.mark.parametrize("n", [2, 4, 5, 8, 16, 17, 33, 128])
def test_matrices(n):
    """Of -1 for the tests on the way to a leaf that go right, and for the last row, a product is 0 at this leaf, and
    less at all others."""
    forest = from_nested([*(one_sided_nodes(n) for _ in range(3))], 3)
    canonical = canonicalise(forest)
    known, _ = cuda_many.tables(canonical, "gemm", ())
    of = cuda_gemm_tables.shape(canonical)
    own = cuda_gemm_tables.matrices(known, of)
    assert own.shape == (8, of.leaves, of.leaves) and of.leaves >= n
    path = known.tables["path"].reshape(3, -1, n)
    for t in range(3):
        for l in range(n):
            outcome = np.zeros(of.leaves, int)
            outcome[: path.shape[1]] -= path[t, :, l] == 1
            outcome[-1] = -1
            sums = outcome @ own[t].astype(int)
            assert sums[l] == 0 and (np.delete(sums, l) < 0).all()
    assert (own[3:].sum(1) == 1).all()


def one_sided_nodes(leaves: int) -> dict[str, Any]:
    node = leaf(0.5)
    for i in range(leaves - 1):
        node = split(0, float(i), *((node, leaf(1.0)) if i % 3 else (leaf(2.0), node)))
    return node


LINTED = ("truncate", "vector", "linear", "outputs")


@pytest.mark.sampled(3)
@pytest.mark.parametrize("strategy", MANY)
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in LINTED else pytest.mark.full) for n in FORESTS])
def test_tir_of_kernels(name, strategy):
    if (name, strategy) in BEYOND:
        return
    made = prepared(FORESTS[name](), strategy)
    for entry in cuda.ENTRIES:
        function = cuda.kernel(made.signatures[cuda.serving(made.signatures, entry)], entry, entry)
        assert lint(function) == [], entry
        literals = {float(node.value) for node, _ in nodes(function.body) if key(node) == "ir.FloatImm"}
        assert literals <= {0.0, -np.inf}, entry


MAX_REGISTERS = {"scan": 64, "gemm": 80}
"""Products of 32 rows by 32 columns take 32 of them; the next ones are on their way."""


@pytest.mark.full
@pytest.mark.parametrize(
    ("name", "strategy"),
    [pytest.param(*pair, marks=() if pair == ("stumps", "gemm") else pytest.mark.full) for pair in PAIRS],
)
def test_kernels_assemble(name, strategy):
    skip_without_nvrtc()
    text = cuda_c(prepared(FORESTS[name](), strategy).signatures)
    for arch in in_turn(("sm_80", "sm_90"), name + strategy):
        for kernel, needs in used(build_cuda.assemble(text, arch).image).items():
            assert 8 <= needs.registers <= MAX_REGISTERS[strategy], f"{arch} {kernel}: {needs}"
            assert needs.stack <= MAX_STACK, f"{arch} {kernel}: {needs}"
            assert needs.shared <= 1024, f"{arch} {kernel}: {needs}"
    ptx = build_cuda.assemble(text, "sm_80", "ptx").image.decode()
    assert INEXACT.findall(ptx) == UNROUNDED.findall(ptx) == []
    assert ("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32" in ptx) is (strategy == "gemm")
    # At least: a kernel's code may be there twice.
    assert len(re.findall(r"\bbar\.warp\.sync", ptx)) >= (4 if strategy == "gemm" else 0)
    assert "ld.global.nc.v4.u32" in ptx


class TestPlan:
    @pytest.mark.parametrize("module", [cuda_scan, cuda_gemm])
    @pytest.mark.parametrize(("times", "chosen"), [(1.01, True), (0.99, False)])
    def test_margin(self, module, times, chosen, monkeypatch):
        """Unless it is so many times cheaper than the walks, `auto` takes none of them."""
        for other in STRATEGIES.values():
            cost = 900.0 if other.NAME in WALKING else 1e9
            monkeypatch.setattr(other, "cycles", lambda canonical, options, cost=cost: cost)
        monkeypatch.setattr(module, "cycles", lambda canonical, options: 900 / cuda_plan.MARGIN / times)
        step = cuda_plan.make_plan(canonicalise(FORESTS["outputs"]()), "auto", {})
        assert (step.strategy == module.NAME) is chosen

    @pytest.mark.parametrize("strategy", MANY)
    def test_estimates(self, strategy):
        """Larger trees cost more, and so do more trees, and leaves of several values."""
        module = STRATEGIES[strategy]
        options = resolve(strategy, module.OPTIONS, {})
        forests = (chain(3), chain(20), chain(20, trees=20))
        costs = [module.cycles(canonicalise(forest), options) for forest in forests]
        assert 0 < costs[0] < costs[1] < costs[2]
        wide = FORESTS["vector"]()
        narrow = wide.replace(values=wide.values[:, :1], base_score=wide.base_score[:1])
        assert module.cycles(canonicalise(wide), options) > module.cycles(canonicalise(narrow), options)

    @pytest.mark.parametrize("strategy", MANY)
    def test_space(self, strategy):
        module = STRATEGIES[strategy]
        for name, values in module.space(canonicalise(FORESTS["outputs"]())).items():
            for value in values:
                assert module.wrong_options(resolve(strategy, module.OPTIONS, {name: value})) is None
