"""Small forests, each with a feature of its own, and the comparison of a compiled one with the interpreter."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

import woodpecker as wp
from woodpecker import reference
from woodpecker.forest import Forest
from woodpecker.nested import from_nested
from woodpecker.predicates import canonicalise
from woodpecker.relay_ops.options import resolve
from woodpecker.relay_ops.plan import STRATEGIES

from .support import assert_bits_equal, boundary_rows, in_turn

NAMES = tuple(STRATEGIES)
ALONE: dict[str, dict[str, int]] = {
    "tree_traversal": {"trees": 2, "interleave": 2, "unroll": 1},
    "perfect_tree_traversal": {"trees": 2, "interleave": 2},
    "bitslice": {"min_rows": 1},
    "scan": {"min_rows": 1},
}
"""Options with which a strategy serves every row count by itself, with the same code whatever the forest's size, and
little of it."""

Node = dict[str, Any]


def leaf(value: Any, **more: Any) -> Node:
    return {"value": value, **more}


def split(feature: int, threshold: float, left: Node, right: Node, op: str = "<", **more: Any) -> Node:
    return {"feature": feature, "op": op, "threshold": threshold, "left": left, "right": right, **more}


def member(feature: int, categories: Iterable[float], left: Node, right: Node, **more: Any) -> Node:
    return {"feature": feature, "op": "in", "categories": list(categories), "left": left, "right": right, **more}


def small(**fields: Any) -> Forest:
    """Tree 0: a leaf. Tree 1: nodes 0 (split), 1 (leaf), 2 (in), 3 (leaf), 4 (leaf)."""
    below = member(1, [2, 5], leaf(2.0), leaf(3.0))
    return from_nested([leaf(0.5), split(0, 1.5, leaf(1.0), below)], 2, **fields)


def _grow(
    rng: np.random.Generator, depth: int, n_features: int, value: Callable[[], Any], op: str, points: Any
) -> Node:
    if depth == 0 or rng.random() < 0.15:
        return leaf(value())
    below = [_grow(rng, depth - 1, n_features, value, op, points) for _ in range(2)]
    missing = str(rng.choice(["left", "right"]))
    return split(int(rng.integers(n_features)), float(rng.choice(points)), *below, op=op, missing=missing)


def grown(
    seed: int, trees: int, depth: int, n_features: int = 5, op: str = "<", width: int = 1, **fields: Any
) -> Forest:
    """Irregular trees with thresholds that are no float32 numbers, and neighbours of such."""
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.normal(size=12), rng.normal(size=6).astype(np.float32)])
    points = np.concatenate([points, np.nextafter(points, np.inf), [0.0, -0.0, 1e-40, 0.1]])

    def value() -> Any:
        return rng.normal(size=width).tolist() if width > 1 else float(rng.normal())

    nodes = [_grow(rng, depth, n_features, value, op, points) for _ in range(trees)]
    return from_nested(nodes, n_features, **fields)


def chain(length: int, trees: int = 1, **fields: Any) -> Forest:
    """Trees that are one path: each node splits one leaf off, alternately on the right and on the left."""
    node = leaf(float(length) + 0.1)
    for i in range(length):
        ends = (node, leaf(i / 3)) if i % 2 else (leaf(i / 3), node)
        node = split(i % 3, float(i % 7) - 3.0, *ends, missing="left" if i % 5 else "right")
    return from_nested([node] * trees, 3, **fields)


def neighbours(**fields: Any) -> Forest:
    """Stumps on 37 of 40 features, so that columns come in runs of neighbouring features that are no multiple of 16."""
    used = [f for f in range(40) if f not in (0, 18, 39)]
    nodes = [split(f, f / 10 - 1.5, leaf(f + 0.1), leaf(-f / 3), missing="left" if f < 30 else "right") for f in used]
    return from_nested(nodes, 40, **fields)


def _zero_rule() -> Forest:
    def tree(missing: str) -> Node:
        inner = split(1, 0.0, leaf(1.0), leaf(-0.0), op="<=", missing=missing, missing_rule="zero")
        return split(0, -1e-36, inner, leaf(0.3), op="<=", missing=missing, missing_rule="zero")

    trees = [tree("left"), tree("right"), split(0, 1e-40, leaf(2.0), leaf(4.0), op="<=", missing="left")]
    return from_nested(trees, 2, input_dtype="float64")


def _categories(rule: str, **fields: Any) -> Forest:
    codes = [0, 3, 31, 32, 70]
    trees = [
        member(0, codes, split(1, 0.5, leaf(1.0), leaf(2.0)), member(0, [3], leaf(3.0), leaf(4.0)), missing="left"),
        member(0, [], leaf(5.0), leaf(6.0), missing="left"),
        member(2, [1, 2], leaf(7.0), member(0, [0, 1], leaf(8.0), leaf(9.0), missing="right"), missing="right"),
    ]
    if rule == "exact":
        fields["known_categories"] = {0: np.array([0, 1, 3, 31, 32, 70.0]), 2: np.array([0.0, 1, 2, 5])}
    return from_nested(trees, 3, category_rule=rule, **fields)


def _linear() -> Forest:
    trees = [
        split(0, 0.5, leaf(1.0, const=0.1, coef={0: 0.3, 1: -1.7}), leaf(2.0, const=0.2, coef={2: 1e-3}), op="<="),
        split(1, -0.5, leaf(3.0), leaf(4.0, const=-0.0, coef={1: 3.3, 2: 0.7, 0: 1 / 3}), missing="left"),
    ]
    return from_nested(trees, 3, input_dtype="float64", zero_band=float(np.float32(1e-35)), base_score=0.1)


def _infinite() -> Forest:
    infinity = float("inf")
    trees = [
        split(0, t, leaf(1.0 + i), leaf(-0.5 - i), op=op, missing=missing)
        for i, t in enumerate((infinity, -infinity))
        for op in ("<", "<=")
        for missing in ("left", "right")
    ]
    return from_nested(trees, 1, input_dtype="float64")


def _outputs() -> Forest:
    return grown(4, 7, 3, dtype=np.float32, tree_output=[0, 1, 2, 0, 1, 2, 2], base_score=[0.5, -0.25, 0.1])


def _ranked() -> Forest:
    """Columns at the ends of what bitslice ranks by search: every depth of the search, more than one piece, too few."""
    counts = (255, 256, 264, 265, 9, 10, 15, 16, 31, 32, 63, 64, 127, 128, 600)
    stumps = [
        split(f, i - n // 2 - 0.5, leaf(0.01 * i), leaf(-0.7 * f), missing=("left", "right")[f % 2])
        for f, n in enumerate(counts)
        for i in range(n)
    ]
    return from_nested(stumps, len(counts), dtype=np.float32, base_score=0.1)


def _ranked64() -> Forest:
    """Columns of float64 rows that bitslice searches by float32 images: images that bounds share, of 40 neighbouring
    float64 numbers and of a clock; bounds beyond float32, and within its least number; two pieces; either missing rule;
    categories, enough of them to be searched as well."""
    rng = np.random.default_rng(19)
    small, large = np.arange(-20, 20) * 1e-46, np.sinh(np.linspace(-705, 705, 40))
    columns = [
        rng.normal(size=300),
        1 + 2**-52 * np.arange(40),
        1.7e9 + 40.3 * np.arange(70),
        np.concatenate([large, [0.0, -0.0, 1e-40, -1e-40, 3.5e38, -3.5e38, np.inf, -np.inf]]),
        np.concatenate([small, [5e-324, -5e-324, 0.0]]),
    ]
    stumps = [
        split(
            f,
            float(t),
            leaf(0.01 * i - f),
            leaf(0.1 * f),
            op=("<=", "<")[i % 2],
            missing=("left", "right")[(i + f) % 3 % 2],
            missing_rule=("nan", "zero")[f % 2],
        )
        for f, bounds in enumerate(columns)
        for i, t in enumerate(bounds)
    ]
    sets = [member(5, range(i, 40, 3 + i), leaf(1.0 + i), leaf(0.3), missing="left") for i in range(4)]
    return from_nested([*stumps, *sets], 6, input_dtype="float64", category_rule="truncate", base_score=0.1)


FORESTS: dict[str, Callable[[], Forest]] = {
    "float32": lambda: grown(1, 6, 4, dtype=np.float32, base_score=0.3),
    "float64": lambda: grown(2, 6, 4, op="<=", input_dtype="float64", zero_band=float(np.float32(1e-35))),
    "narrow": lambda: grown(3, 6, 4, op="<=", divisor=6),
    "outputs": _outputs,
    "vector": lambda: grown(5, 5, 3, op="<=", width=3, divisor=5),
    "vector32": lambda: grown(6, 5, 3, width=4, dtype=np.float32, base_score=[0.0, -0.0, 0.5, 1.0]),
    "sentinel": lambda: grown(7, 6, 4, dtype=np.float32, missing_value=0.1),
    "sentinel64": lambda: grown(8, 6, 4, input_dtype="float64", missing_value=-0.0),
    "zero_rule": _zero_rule,
    "truncate": lambda: _categories("truncate", input_dtype="float64", zero_band=float(np.float32(1e-35))),
    "truncate_nonnegative": lambda: _categories("truncate_nonnegative", dtype=np.float32, missing_value=3.0),
    "exact": lambda: _categories("exact", input_dtype="float64"),
    "linear": _linear,
    "infinite": _infinite,
    "leaf": lambda: from_nested([leaf(-0.0)], 2, base_score=-0.0),
    "leaves": lambda: from_nested([leaf(0.1), leaf(-0.0), leaf(0.7)], 1, divisor=3, base_score=0.2),
    "stumps": lambda: grown(9, 20, 1, n_features=2, dtype=np.float32),
    "ranked": _ranked,
    "ranked64": _ranked64,
    "wide": lambda: grown(10, 25, 4, n_features=90, dtype=np.float32),
    "wide64": lambda: grown(11, 25, 4, op="<=", n_features=90, input_dtype="float64"),
    "wide_sentinel": lambda: grown(12, 12, 4, n_features=40, dtype=np.float32, missing_value=0.1),
    "deep": lambda: grown(13, 5, 9, dtype=np.float32),
    "padded": lambda: grown(16, 3, 8, dtype=np.float32, tree_output=[0, 1, 0], base_score=[0.5, -0.5]),
    "deeper": lambda: grown(14, 3, 10, op="<=", width=2),
    "mixed_depth": lambda: from_nested([leaf(0.5), split(0, 0.1, leaf(1.0), leaf(2.0))], 1),
    "chain": lambda: chain(60),
    "empty": lambda: from_nested([], 3, n_outputs=2, base_score=[0.25, -0.0]),
}
"""name -> a forest."""

UNFIT = {
    ("chain", "perfect_tree_traversal"): "depth 60",
    ("deep", "scan"): "a tree of 261 leaves",
    ("deeper", "scan"): "a tree of [0-9]+ leaves",
}
"""(forest, strategy) that do not go together -> why, as a regular expression; all others do."""


def fitting(salt: str) -> list[tuple[str, str]]:
    """(forest, strategy): all that go together; in the short form of the full tier one for each forest, by ``salt``."""
    pairs = [[(name, s) for s in NAMES if (name, s) not in UNFIT] for name in FORESTS]
    return [pair for of_one in pairs for pair in in_turn(of_one, of_one[0][0] + salt)]


def strategies(forest: Forest) -> list[str]:
    """The strategies that serve a forest."""
    canonical = canonicalise(forest)
    return [n for n, m in STRATEGIES.items() if m.applicable(canonical, resolve(n, m.OPTIONS, {})) is None]


def compiled(forest: Forest, strategy: str, **options: Any) -> wp.Predictor:
    """A predictor in which one strategy serves all rows."""
    return wp.compile(forest, strategy=strategy, **{**ALONE.get(strategy, {}), **options})


def rows(forest: Forest, n: int, seed: int = 0, dtype: str = "float64") -> np.ndarray:
    """Rows at the forest's thresholds, special values beside; no infinities for linear leaves, whose scores would be
    NaN, and the bits of a NaN say nothing."""
    return boundary_rows(forest, n, seed, dtype, infinities=forest.linear_offset is None)


def assert_agrees(predictor: wp.Predictor, forest: Forest, X: np.ndarray, what: str = "") -> None:
    """Fail unless raw scores and leaf ids are the interpreter's, to the bit."""
    assert_bits_equal(predictor.predict_raw(X), reference.predict_raw(forest, X), f"{what} raw scores")
    np.testing.assert_array_equal(predictor.apply(X), reference.apply(forest, X), f"{what} leaf ids")
