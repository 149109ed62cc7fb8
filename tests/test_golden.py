"""Golden TIR: the generated kernel of one tiny forest per strategy and feature, before any target's passes.

``pytest tests/test_golden.py --update-golden`` writes the files anew; read the difference before committing it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from woodpecker.build import kernel
from woodpecker.nested import from_nested
from woodpecker.targets import resolve

from .gallery import leaf, member, split
from .kernels import prepared

GOLDEN = Path(__file__).parent / "golden"
TARGET = "x86-64-v3"


def plain():
    return from_nested([split(0, 0.5, leaf(1.0), leaf(2.0), missing="left")], 1, dtype="float32")


def categories():
    return from_nested([member(0, [1, 33], leaf(1.0), split(1, 0.5, leaf(2.0), leaf(3.0)))], 2, dtype="float32")


def missing():
    tree = split(0, 0.5, leaf(1.0), leaf(2.0), op="<=", missing="left", missing_rule="zero")
    return from_nested([tree], 1, dtype="float32", missing_value=-999.0)


def vector():
    return from_nested([split(0, 0.5, leaf([1.0, 2.0]), leaf([3.0, 4.0]), op="<=")], 1, divisor=3)


def linear():
    return from_nested([split(0, 0.5, leaf(1.0, coef={0: 2.0}), leaf(3.0))], 1, input_dtype="float64")


def ranked(**fields):
    """Ten bounds of a column, as many as are searched; features near each other, as many as make a square."""
    nodes = [split(0, float(i), leaf(1.0), leaf(2.0), missing="left") for i in range(10)]
    return from_nested(
        [*nodes, *(split(f, 0.5, leaf(3.0), leaf(4.0), missing="left") for f in (1, 3))], 16, dtype="float32", **fields
    )


def ranked64():
    return ranked(input_dtype="float64")


def uneven():
    """Too deep for its leaves to be padded."""
    node = leaf(0.0)
    for i in range(9):
        node = split(0, float(i), leaf(i + 1.0), node)
    return from_nested([node], 1, dtype="float32")


def neighbours():
    return from_nested([split(f, 0.5, leaf(1.0), leaf(2.0)) for f in range(12)], 12, dtype="float32")


AVX512 = ("avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi", "gfni")

# name -> forest, strategy, options (few lanes keep the text readable), entry, and CPU features that tables depend on
CASES = {
    "gemm": (plain, "gemm", {"lanes": 16}, "raw_f32"),
    "tree_traversal": (plain, "tree_traversal", {"interleave": 2}, "raw_f32"),
    "tree_traversal_unrolled": (plain, "tree_traversal", {"interleave": 1, "unroll": 2}, "raw_f32"),
    "perfect_tree_traversal": (plain, "perfect_tree_traversal", {"interleave": 2}, "raw_f32"),
    "bitslice": (plain, "bitslice", {"min_rows": 1}, "raw_f32"),
    "bitslice_avx512": (ranked, "bitslice", {"min_rows": 1}, "raw_f32", AVX512),
    "bitslice_avx512_float64": (ranked64, "bitslice", {"min_rows": 1}, "raw_f64", AVX512),
    "bitslice_neon": (ranked, "bitslice", {"min_rows": 1}, "raw_f32", ("neon",)),
    "bitslice_categories": (categories, "bitslice", {"min_rows": 1}, "raw_f32", ("avx2",)),
    "bitslice_circuit": (uneven, "bitslice", {"min_rows": 1}, "apply_f32", ("avx2",)),
    "terms": (plain, "tree_traversal", {"interleave": 1, "trees": 2}, "terms_f32"),
    "total": (plain, "tree_traversal", {"interleave": 1, "trees": 2}, "total"),
    "columns_in_runs": (neighbours, "tree_traversal", {"interleave": 1}, "raw_f32"),
    "scan_avx2": (plain, "scan", {"min_rows": 1}, "raw_f32", ("avx2",)),
    "scan": (plain, "scan", {"min_rows": 1}, "raw_f32"),
    "scan_categories": (categories, "scan", {"min_rows": 1}, "apply_f32"),
    "apply": (plain, "tree_traversal", {"interleave": 2}, "apply_f64"),
    "categories": (categories, "tree_traversal", {"interleave": 1}, "raw_f32"),
    "missing": (missing, "perfect_tree_traversal", {"interleave": 1}, "raw_f32"),
    "vector": (vector, "gemm", {"lanes": 16}, "raw_f64"),
    "linear": (linear, "tree_traversal", {"interleave": 1}, "raw_f64"),
}


def text_of(name: str) -> str:
    make, strategy, options, entry, *features = CASES[name]
    made = prepared(make(), strategy, features=features[0] if features else (), **options)
    (layout,), (signed,) = made.layouts, made.signatures
    tables = [f"#   {n}: {t.dtype} {t.tolist()}" for n, t in sorted(layout.tables.items())]
    scalars = [f"#   {n}: {v}" for n, v in sorted(layout.scalars.items())]
    head = [
        f"# {name}: entry {entry} of strategy {strategy}, options {options}, for target {TARGET}"
        + (f" with {', '.join(features[0])}" if features else ""),
        f"# flags: {', '.join(sorted(signed.flags)) or 'none'}",
        *("# scalars:", *scalars, "# tables:", *tables),
    ]
    return "\n".join([*head, kernel(made.signatures, entry, entry).script().strip(), ""])


@pytest.mark.parametrize("name", CASES)
def test_golden_tir(name, update_golden):
    path, text = GOLDEN / f"{name}.py.txt", text_of(name)
    if update_golden:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.exists(), f"{path.name} is absent: run pytest with --update-golden"
    assert text == path.read_text(), "the kernel changed: if it should, run pytest with --update-golden"


@pytest.mark.full
def test_text_does_not_depend_on_when_or_where_it_is_made():
    resolve(TARGET)  # the target that the files are named for is one that can be compiled for anywhere
    for name in CASES:
        assert text_of(name) == text_of(name)
        assert "0x" not in text_of(name) and "znver" not in text_of(name)


def test_no_golden_file_is_left_over():
    assert {p.name for p in GOLDEN.iterdir()} == {f"{name}.py.txt" for name in CASES}


def test_a_changed_kernel_is_noticed():
    make, strategy, _, entry = CASES["tree_traversal"]
    other = kernel(prepared(make(), strategy, interleave=3).signatures, entry, entry).script().strip()
    assert other not in (GOLDEN / "tree_traversal.py.txt").read_text()
