"""bitslice for CUDA: run on the CPU bit for bit, each barrier needed, assembled; and ballots of the emulation."""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import build_cuda, reference
from woodpecker.errors import StrategyError
from woodpecker.nested import from_nested
from woodpecker.predicates import canonicalise
from woodpecker.relay_ops.options import resolve
from woodpecker.schedules import cuda, cuda_bitslice, cuda_blocks, cuda_masks, cuda_plan

from .cuda_support import ORDERS, cuda_c, emulated_gpu, library, prepared, run, skip_without_nvrtc
from .gallery import ALONE, FORESTS, chain, grown, leaf, rows, split
from .support import assert_bits_equal, bits, in_turn
from .test_cuda import assert_exact
from .test_cuda_code import INEXACT, UNROUNDED, used
from .test_kernel_lint import key, lint, nodes

UNFIT = ("leaf", "leaves", "empty", "deep", "deeper", "chain")
"""Of depth 0, or of more than 8."""
SERVED = [name for name in FORESTS if name not in UNFIT]
FAST = ("exact",)
MAX_REGISTERS = 80
"""Of a thread: with so many, a multiprocessor holds 24 warps, more than its shared memory usually does."""
MAX_STACK = 48
"""Bytes of spills: where a kernel starts, and for a block of rows, but not in the loops over trees."""


def some(names: list[str], fast: tuple[str, ...]) -> list[object]:
    return [pytest.param(name, marks=() if name in fast else pytest.mark.full) for name in names]


@pytest.mark.parametrize("name", some(SERVED, FAST))
def test_exact(name):
    """Of which none or two hold in all of a block, with a word of 64 rows."""
    assert_exact(prepared(FORESTS[name](), "bitslice", words=2, threads=64), 150)


@pytest.mark.parametrize(
    ("name", "words", "threads"),
    [
        pytest.param("float32", 1, 32, marks=pytest.mark.full),
        pytest.param("padded", 1, 128, marks=pytest.mark.full),
        pytest.param("outputs", 4, 256, marks=pytest.mark.full),
        pytest.param("truncate", 2, 256, marks=pytest.mark.full),
        pytest.param("vector", 8, 256, marks=pytest.mark.full),
        pytest.param("ranked", 0, 0, marks=pytest.mark.full),
    ],
)
def test_shapes(name, words, threads):
    """One, two and four threads a row; words of 32 rows and of 64; fewer threads than trees."""
    made = prepared(FORESTS[name](), "bitslice", words=words, threads=threads)
    how = made.launches["raw_f32"]
    if words:
        assert (how.rows, how.threads) == (32 * words, threads)
    assert_exact(made, 300 if how.rows > 64 else 150)


@pytest.mark.full
@pytest.mark.parametrize("depth", [1, 2, 3, 5, 6, 7])
def test_depths(depth):
    """Planes in registers, and from six levels on a loop over subtrees; 37 trees, of which the second group has few."""
    forest = grown(depth, 37, depth, dtype=np.float32, base_score=0.3)
    assert_exact(prepared(forest, "bitslice", words=1, threads=32), 70)


def test_a_few_rows_are_walked():
    forest = FORESTS["outputs"]()
    made = prepared(forest, "bitslice")
    assert [part.strategy for part in made.signatures] == ["bitslice", "perfect_tree_traversal"]
    assert made.launches["few_f32"].rows == 1 < made.launches["raw_f32"].rows


@pytest.mark.full
@pytest.mark.parametrize("name", ["outputs", pytest.param("exact", marks=pytest.mark.full)])
def test_every_barrier_is_needed(name):
    made = prepared(FORESTS[name](), "bitslice", words=2, threads=64)
    X = rows(made.forest, 200, 2, "float32")
    want = reference.predict_raw(made.forest, X)
    parts = cuda_c(made.signatures, ("raw_f32",)).split("__syncthreads();")
    assert len(parts) == 6
    for i in range(len(parts) - 1):
        text = "__syncthreads();".join([*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]])
        got = [run(made, "raw_f32", X, blocks=1, backwards=backwards, text=text) for backwards in ORDERS]
        assert any(bits(scores).tobytes() != bits(want).tobytes() for scores in got), f"barrier {i}"


COLLECTIVES = """\
#include "{emulator}"
static unsigned *out;
static int odd;
static void kernel() {{
    unsigned t = threadIdx.x;
    if (odd && t == 5) return;
    unsigned first = __ballot_sync(0xffffffffu, t % 3 == 0);
    unsigned second = t < 32 ? __ballot_sync(0xffffffffu, t < 7) : 0;
    __syncthreads();
    out[2 * t] = first, out[2 * t + 1] = second;
}}
extern "C" int go(unsigned *to, int without_one, int backwards) {{
    out = to, odd = without_one;
    return emulate(kernel, 1, 64, 0, backwards);
}}
"""


def test_collectives_of_the_emulation(tmp_path):
    """A ballot is that of its own warp, whatever others do; a lane that stays away is noticed."""
    (tmp_path / "ballot.cpp").write_text(COLLECTIVES.format(emulator=Path(__file__).parent / "c" / "emulate.h"))
    made = ctypes.CDLL(str(library(tmp_path / "ballot.cpp", tmp_path / "ballot.so")))
    thirds = [sum(1 << lane for lane in range(32) if (lane + 32 * warp) % 3 == 0) for warp in (0, 1)]
    for backwards in ORDERS:
        out = np.zeros((64, 2), np.uint32)
        assert made.go(ctypes.c_void_p(out.ctypes.data), 0, backwards) == 0
        assert out[:, 0].tolist() == [thirds[0]] * 32 + [thirds[1]] * 32
        assert out[:, 1].tolist() == [127] * 32 + [0] * 32
        assert made.go(ctypes.c_void_p(out.ctypes.data), 1, backwards) == -1


@pytest.mark.parametrize("name", some(SERVED, ("truncate", "linear", "padded")))
def test_tir_of_kernels(name):
    made = prepared(FORESTS[name](), "bitslice")
    for entry in cuda.ENTRIES:
        function = cuda.kernel(made.signatures[cuda.serving(made.signatures, entry)], entry, entry)
        assert lint(function) == [], entry
        literals = {float(node.value) for node, _ in nodes(function.body) if key(node) == "ir.FloatImm"}
        assert literals <= {0.0, -np.inf}, entry


@pytest.mark.full
@pytest.mark.parametrize("name", some(SERVED, ("stumps",)))
def test_kernels_assemble(name):
    skip_without_nvrtc()
    text = cuda_c(prepared(FORESTS[name](), "bitslice").signatures)
    for arch in in_turn(("sm_80", "sm_90"), name):
        for kernel, needs in used(build_cuda.assemble(text, arch).image).items():
            assert 8 <= needs.registers <= MAX_REGISTERS, f"{arch} {kernel}: {needs}"
            assert needs.stack <= MAX_STACK, f"{arch} {kernel}: {needs}"
            assert needs.shared <= 1024, f"{arch} {kernel}: {needs}"
    ptx = build_cuda.assemble(text, "sm_80", "ptx").image.decode()
    assert INEXACT.findall(ptx) == UNROUNDED.findall(ptx) == []
    assert "vote.sync.ballot.b32" in ptx


def perfect(trees: int, depth: int = 8) -> wp.Forest:
    """No two nodes of the trees have the same test."""
    number, values = itertools.count(), itertools.count()

    def grow(height: int) -> dict[str, object]:
        n = next(number) if height else 0
        return split(n % 4, n / 8, grow(height - 1), grow(height - 1)) if height else leaf(next(values) / 7)

    return from_nested([grow(depth) for _ in range(trees)], 4, dtype=np.float32)


def test_runs_of_bounds():
    """Every bound has a mask row of its own, and the rows of the j-th bounds of all runs are neighbours."""
    canonical = canonicalise(
        from_nested([split(f, i, leaf(1), leaf(2)) for f, n in enumerate((8, 1, 19)) for i in range(n)], 3)
    )
    runs = cuda_masks.runs_of(canonical)
    assert sorted(runs.row) == list(range(cuda_masks.FIRST, cuda_masks.FIRST + 28))
    assert runs.column.tolist() == [0, 1, 1, 1, 2] and runs.number.tolist() == [0, 0, 1, 2, 0]
    assert runs.end.tolist() == [0, 5, 9, 13, 16, 19, 22, 25, 28]


@pytest.mark.full
def test_more_shared_memory_is_asked_for(tmp_path):
    """Masks of 64 rows that take more than 48 KiB."""
    forest = perfect(30)
    options = dict(cuda_words=2, cuda_threads=64)
    with emulated_gpu(tmp_path):
        model = wp.compile(forest, target="cuda -arch=sm_90", strategy="bitslice", **ALONE["bitslice"], **options)
        shared = model._program.gpu.launches["raw_f32"].shared_bytes
        assert 48 * 1024 < shared <= cuda_blocks.OPT_IN_BYTES
        X = rows(forest, 400, 1, "float32")
        assert_bits_equal(model.predict_raw(X), reference.predict_raw(forest, X))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (FORESTS["leaf"], {}, "trees of depth 0; on a GPU it is for 1 to 8"),
        (lambda: chain(9), {}, "trees of depth 9; on a GPU"),
        (lambda: perfect(110), {}, r"for 32 rows, .* 28,050 distinct tests, .* 101,376 bytes of shared memory"),
        (lambda: perfect(60), {"cuda_words": 2}, "for 64 rows, such as the masks of 15,300 distinct tests"),
        (lambda: perfect(2), {"cuda_words": 3}, "cuda_words must be 0 or a power of two, found 3"),
        (lambda: perfect(2), {"cuda_threads": 48}, "cuda_threads must be 0 or a power of two from 32 to 512, found 48"),
        (lambda: perfect(2), {"cuda_words": 1, "cuda_threads": 256}, "cuda_threads must be 32, 64 or 128, found 256"),
        (lambda: perfect(2), {"cuda_trees": 2}, "has no option 'cuda_trees'; its options: cuda_words"),
    ],
)
def test_refused(make, options, message):
    with pytest.raises(StrategyError, match=message):
        cuda_plan.make_plan(canonicalise(make()), "bitslice", options)


def test_auto_wants_a_clearly_lower_estimate():
    canonical = canonicalise(grown(1, 60, 5, dtype=np.float32))
    step = cuda_plan.make_plan(canonical, "auto", {})
    walks = min(step.considered[name] for name in ("tree_traversal", "perfect_tree_traversal"))
    others = {name: cost for name, cost in step.considered.items() if name not in ("gemm", "scan")}
    best = min(others, key=lambda name: others[name] * (cuda_plan.MARGIN if name == "bitslice" else 1.0))
    assert best == "bitslice" and step.strategy in ("bitslice", "gemm", "scan")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda_plan, "MARGIN", walks / min(step.considered.values()) + 0.01)
        assert cuda_plan.make_plan(canonical, "auto", {}).strategy == "perfect_tree_traversal"


def test_candidates_for_tuning_can_be_had():
    for forest in (perfect(2), perfect(70)):
        canonical = canonicalise(forest)
        space = cuda_bitslice.space(canonical)
        for name, values in space.items():
            for value in values:
                options = resolve("bitslice", cuda_bitslice.OPTIONS, {name: value})
                assert cuda_bitslice.wrong_options(options) is None
                assert cuda_bitslice.refusal(canonical, options) is None
