"""Generated forests: every strategy against the interpreter, to the bit, on rows at the forests' own thresholds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import woodpecker as wp
from woodpecker import reference
from woodpecker.forest import Forest, tree_depth
from woodpecker.nested import from_nested
from woodpecker.runtime.format import MAGIC, find
from woodpecker.runtime.labels import decode, encode

from .gallery import ALONE, NAMES, compiled, rows, strategies
from .generated import DEPTH, FEATURES, PROFILES, forests, free_profiles, witness
from .kernels import prepared
from .support import SHORT, assert_bits_equal

COUNTS = st.sampled_from([0, 1, 2, 7, 8, 9, 63, 64, 65, 130])


def check(forest: Forest, n: int, seed: int, dtype: str, names: list[str]) -> None:
    X = rows(forest, n, seed, dtype)
    raw, ids = reference.predict_raw(forest, X), reference.apply(forest, X)
    for name in names:
        predictor = compiled(forest, name)
        assert_bits_equal(predictor.predict_raw(X), raw, f"{name} {dtype}")
        if dtype == "float64":
            np.testing.assert_array_equal(predictor.apply(X), ids, name)
            assert_bits_equal(predictor.predict_raw(X[n // 3 :: 2]), raw[n // 3 :: 2], "a slice")


def compiled_once(forest: Forest) -> list[str]:
    """The strategies whose code all forests of a profile share; perfect trees are compiled per depth."""
    deep = int(tree_depth(forest).max()) > DEPTH
    return [name for name in strategies(forest) if not (deep and name == "perfect_tree_traversal")]


def in_tiers() -> list[Any]:
    """(profile, strategy): all of them, two strategies a profile in the fast tier, so that each has its turns."""
    return [
        pytest.param(profile, strategy, marks=() if (i + j) % len(NAMES) in (0, 2) else pytest.mark.full)
        for i, profile in enumerate(PROFILES)
        for j, strategy in enumerate(NAMES)
    ]


@pytest.mark.sampled(7)
@pytest.mark.parametrize(("profile", "strategy"), in_tiers())
def test_generated_forests(profile, strategy):
    # One dtype of rows a profile halves the code to compile; the full tier draws it.
    dtype = "float64" if profile in ("lightgbm", "hist", "linear", "plain") else "float32"

    @settings(max_examples=10)
    @given(forests(PROFILES[profile]), COUNTS, st.integers(0, 2**32 - 1))
    def run(forest, n, seed):
        check(forest, n, seed, dtype, [name for name in compiled_once(forest) if name == strategy])

    run()


@pytest.mark.full
@pytest.mark.parametrize("profile", PROFILES)
def test_many_generated_forests(profile):
    @settings(max_examples=30 if SHORT else 400, derandomize=False)
    @given(forests(PROFILES[profile]), COUNTS, st.integers(0, 2**32 - 1), st.sampled_from(["float32", "float64"]))
    def run(forest, n, seed, dtype):
        check(forest, n, seed, dtype, compiled_once(forest))

    run()


@pytest.mark.full
@settings(max_examples=10 if SHORT else 60, derandomize=False)
@given(free_profiles().flatmap(forests), COUNTS, st.integers(0, 2**32 - 1), st.sampled_from(["float32", "float64"]))
def test_any_mixture_of_features(forest, n, seed, dtype):
    check(forest, n, seed, dtype, strategies(forest))


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_share_their_code(profile):
    """What keeps these tests fast, and honest: the features of a profile are in every one of its forests."""

    @settings(max_examples=5)
    @given(forests(PROFILES[profile]))
    def run(forest):
        for name in compiled_once(forest):
            signatures.update(prepared(forest, name, **ALONE.get(name, {})).signatures)

    signatures: set = set()
    run()
    # bitslice has code of its own for forests whose trees are all shallow enough to be padded.
    kinds = sorted((s.strategy, "perfect" in s.flags) for s in signatures)
    assert [k for k in kinds if k != ("bitslice", True)] == sorted((name, False) for name in NAMES)
    assert len(kinds) == len(set(kinds))
    p = PROFILES[profile]
    wanted = {"sentinel": p.sentinel, "zero_missing": p.zero_rule, "categories": p.rule, "vector": p.width > 1}
    wanted |= {"linear": p.linear, "divide": p.divides, "one_output": p.outputs == p.width == 1}
    for signature in signatures:
        assert signature.flags - {"leaf_in_node", "perfect"} == {k for k, v in wanted.items() if v}


def test_forests_reach_what_they_should():
    """Generated forests include single leaves, stumps and long chains; rows reach both sides of hard thresholds."""
    depths, specials = set(), set()

    @settings(max_examples=60)
    @given(forests(PROFILES["plain"]))
    def run(forest):
        depths.update(tree_depth(forest).tolist())
        specials.update(float(t) for t in forest.threshold if not 1e-30 < abs(t) < 1e30)
        specials.update("-0.0" for v in forest.values[:, 0] if v == 0 and np.signbit(v))

    run()
    assert {0, DEPTH} <= depths and depths & {1, 2, 3} and max(depths) > 40
    assert {float("inf"), -float("inf"), 0.0, "-0.0"} <= specials
    assert any(0 < abs(t) < 1e-300 for t in specials if not isinstance(t, str))


def test_check_can_fail():
    forest = from_nested([witness(PROFILES["plain"])], FEATURES)
    X = rows(forest, 64, 0)
    wrong = forest.replace(threshold=forest.threshold - 1)
    with pytest.raises(AssertionError, match="differ"):
        assert_bits_equal(wp.compile(wrong).predict_raw(X) - X[:, :1], reference.predict_raw(forest, X))


LABELS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=4).map(lambda v: np.array(v, np.int64)),
    st.lists(st.floats(width=32), min_size=1, max_size=4).map(lambda v: np.array(v, np.float32)),
    st.lists(st.floats(), min_size=1, max_size=4).map(lambda v: np.array(v, np.float64)),
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5), min_size=1, max_size=4).map(
        np.array
    ),
    st.lists(st.booleans(), min_size=1, max_size=2).map(np.array),
)


@settings(max_examples=100)
@given(LABELS)
def test_labels_travel_unchanged(classes):
    got = decode(encode(classes))
    assert got.dtype == classes.dtype and got.tobytes() == classes.tobytes()


@settings(max_examples=150)
@given(st.binary(max_size=2000), st.booleans())
def test_random_bytes_are_no_artifact(noise, with_magic):
    with pytest.raises(wp.errors.ArtifactError):
        find(MAGIC + noise if with_magic else noise, "noise.so")
