"""Hypothesis strategies for forests: every feature of the IR, with thresholds and values that are hard to get right.

Code is compiled per signature (`woodpecker.layout`), so forests of one `Profile` share theirs: a witness tree has each
feature of the profile once, and is as deep as any padded tree of it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from hypothesis import strategies as st

from woodpecker.forest import ZERO_BAND, Forest
from woodpecker.nested import from_nested

from .gallery import leaf, member, split

Draw = st.DrawFn
DEPTH = 6
LEAF_BITS = 6
FEATURES = 3
KNOWN = np.array([-1.5, 0.0, 1.0, 2.0, 3.5, 31.0, 32.0, 64.0])

TINY = [5e-324, 1e-310, 1e-45, 1e-40, 1.1754943508222875e-38, 1e-36, ZERO_BAND]
EDGES = [0.0, 0.1, 0.5, 1.0, 1 + 2**-24, 1 + 2**-30, 3.0, 16777217.0, 3.4028234663852886e38, 3.5e38, 1e300]
EDGES += [1.7976931348623157e308, float("inf"), *TINY]
THRESHOLDS = st.sampled_from([s * v for v in EDGES for s in (1.0, -1.0)]) | st.floats(allow_nan=False)
VALUES = st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 1e-310, 0.1, -1 / 3, 1.0, 16777216.0, -1e30, 1e30])
VALUES |= st.floats(-1e3, 1e3)


@dataclasses.dataclass(frozen=True)
class Profile:
    """What the forests of a test have in common, as far as code depends on it."""

    name: str
    dtype: str = "float32"
    input_dtype: str = "float32"
    ops: tuple[str, ...] = ("<",)
    rule: str | None = None
    zero_rule: bool = False
    sentinel: bool = False
    band: float = 0.0
    width: int = 1
    outputs: int = 1
    linear: bool = False
    divides: bool = False


PROFILES = {
    p.name: p
    for p in (
        Profile("xgboost", ops=("<",), rule="truncate_nonnegative", sentinel=True, outputs=3),
        Profile("lightgbm", "float64", "float64", ("<=",), "truncate", zero_rule=True, band=ZERO_BAND, outputs=2),
        Profile("linear", "float64", "float64", ("<=",), band=ZERO_BAND, linear=True),
        Profile("forest", "float64", "float32", ("<=",), width=3, divides=True),
        Profile("hist", "float64", "float64", ("<=",), "exact"),
        Profile("any", "float32", "float64", ("<", "<="), zero_rule=True, sentinel=True, divides=True),
        Profile("plain", "float64", "float32", ("<", "<="), band=0.5, outputs=2),
    )
}


def values(profile: Profile) -> st.SearchStrategy[Any]:
    return VALUES if profile.width == 1 else st.lists(VALUES, min_size=profile.width, max_size=profile.width)


@st.composite
def leaves(draw: Draw, profile: Profile) -> dict[str, Any]:
    node = leaf(draw(values(profile)))
    if profile.linear and draw(st.booleans()):
        features = draw(st.lists(st.integers(0, FEATURES - 1), unique=True, max_size=FEATURES))
        node |= {"const": draw(VALUES), "coef": {f: draw(VALUES) for f in features}}
    return node


def codes(profile: Profile) -> st.SearchStrategy[list[float]]:
    one = (
        st.sampled_from(KNOWN.tolist())
        if profile.rule == "exact"
        else st.sampled_from([0, 1, 2, 31, 32, 64, 2**31 - 1])
    )
    return st.lists(one, max_size=5)


@st.composite
def inner(draw: Draw, profile: Profile, left: Any, right: Any) -> dict[str, Any]:
    missing = draw(st.sampled_from(["left", "right"]))
    rule = draw(st.sampled_from(["nan", "zero"])) if profile.zero_rule else "nan"
    feature = draw(st.integers(0, FEATURES - 1))
    more = {"missing": missing, "missing_rule": rule}
    if profile.rule is not None and draw(st.integers(0, 2)) == 0:
        return member(feature, draw(codes(profile)), left, right, **more)
    return split(feature, draw(THRESHOLDS), left, right, op=draw(st.sampled_from(profile.ops)), **more)


@st.composite
def trees(draw: Draw, profile: Profile, depth: int = 4) -> dict[str, Any]:
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(leaves(profile))
    below = [draw(trees(profile, depth - 1)) for _ in range(2)]
    return draw(inner(profile, *below))


@st.composite
def chains(draw: Draw, profile: Profile) -> dict[str, Any]:
    """A path of up to 60 splits whose thresholds come from a few."""
    length = draw(st.integers(DEPTH + 1, 60))
    parts = [draw(inner(profile, None, None)) for _ in range(3)]
    node = draw(leaves(profile))
    for i in range(length):
        ends = (node, leaf([float(i)] * profile.width if profile.width > 1 else float(i)))
        node = parts[i % 3] | dict(zip(("left", "right"), ends if draw(st.booleans()) else ends[::-1], strict=True))
    return node


def witness(profile: Profile) -> dict[str, Any]:
    """A tree of 33 leaves and depth 6 that has every feature of the profile: other trees are no deeper and have no
    more than 64 leaves, so that tables padded to the largest tree are as large for every forest."""
    value = [0.25] * profile.width if profile.width > 1 else 0.25
    last = leaf(value, coef={0: 1.5}) if profile.linear else leaf(value)
    rule = "zero" if profile.zero_rule else "nan"
    level = [leaf(value) for _ in range(31)] + [split(0, 0.5, leaf(value), last, op=profile.ops[0])]
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [split(len(level) % 3, float(i), *p, op=profile.ops[0], missing_rule=rule) for i, p in enumerate(pairs)]
    if profile.rule is not None:
        return member(1, [1.0], level[0]["left"], level[0]["right"])
    return level[0]


@st.composite
def forests(draw: Draw, profile: Profile) -> Forest:
    one = trees(profile) | chains(profile) if draw(st.booleans()) else trees(profile)
    nodes = [*draw(st.lists(one, max_size=5)), witness(profile)]
    nodes = draw(st.permutations(nodes))
    fields: dict[str, Any] = dict(zero_band=profile.band, input_dtype=profile.input_dtype)
    if profile.rule is not None:
        fields["category_rule"] = profile.rule
    if profile.rule == "exact":
        fields["known_categories"] = dict.fromkeys(range(FEATURES), KNOWN)
    if profile.sentinel:
        fields["missing_value"] = draw(st.sampled_from([-999.0, 0.0, -0.0, 0.1, 1.0, float("inf"), -float("inf")]))
    if profile.divides:
        fields["divisor"] = draw(st.sampled_from([2, 3, 7, 100]))
    width = profile.width if profile.width > 1 else profile.outputs
    fields["base_score"] = draw(st.lists(VALUES, min_size=width, max_size=width))
    if profile.outputs > 1:
        fields["tree_output"] = draw(
            st.lists(st.integers(0, profile.outputs - 1), min_size=len(nodes), max_size=len(nodes))
        )
    return from_nested(nodes, FEATURES, dtype=profile.dtype, n_outputs=width, **fields)


def free_profiles() -> st.SearchStrategy[Profile]:
    """Any mixture of features; each one costs the compilation of its own code."""

    def make(linear: bool, vector: bool, **fields: Any) -> Profile:
        if linear:
            fields |= dict(dtype="float64", input_dtype="float64", sentinel=False)
        elif vector:
            fields |= dict(width=fields["outputs"], outputs=1)
        if fields["zero_rule"]:
            fields["band"] = min(fields["band"], ZERO_BAND)
        return Profile("free", linear=linear, **fields)

    dtypes = st.sampled_from(["float32", "float64"])
    return st.builds(
        make,
        linear=st.integers(0, 3).map(lambda i: i == 0),
        vector=st.booleans(),
        dtype=dtypes,
        input_dtype=dtypes,
        ops=st.sampled_from([("<",), ("<=",), ("<", "<=")]),
        rule=st.sampled_from([None, "truncate", "truncate_nonnegative", "exact"]),
        zero_rule=st.booleans(),
        sentinel=st.booleans(),
        band=st.sampled_from([0.0, ZERO_BAND, 0.5]),
        outputs=st.integers(1, 4),
        divides=st.booleans(),
    )
