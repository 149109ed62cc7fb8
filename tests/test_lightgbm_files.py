"""Damaged and hostile LightGBM model texts: a typed error, in bounded time and memory, or an honest forest."""

from __future__ import annotations

import re
import time
import tracemalloc

import numpy as np
import pytest

from tests.lightgbm_texts import linear_text, model_text, stump, tree_text
from woodpecker.errors import InvalidModelError, UnsupportedModelError
from woodpecker.forest import Forest
from woodpecker.frontend.lightgbm import from_file

SETS = dict(num_cat=[1], cat_boundaries=[0, 2], cat_threshold=[5, 1])
TAIL = "\nfeature_importances:\nColumn_0=2\n\nparameters:\n[boosting: gbdt]\n\nend of parameters\n\n"
TAIL += "pandas_categorical:[]\n"


def small() -> str:
    """Numeric splits, a categorical one, a single leaf, every trailing section."""
    two = tree_text(
        0,
        split_feature=[0, 1],
        threshold=[0.5, -1.5],
        decision_type=[2, 8],
        left_child=[1, -1],
        right_child=[-3, -2],
        leaf_value=[0.25, -0.5, 1e-3],
        leaf_weight=[3, 4, 5],
        leaf_count=[3, 4, 5],
        internal_value=[0, 0],
        internal_weight=[12, 7],
        internal_count=[12, 7],
    )
    trees = [two, stump(1, 0.0, 1, **SETS), tree_text(2, leaf_value=[0.125])]
    return model_text(trees, 2).replace("none none\n", "none none\ntree_sizes=1 2 3\n") + TAIL


def refused(text: str | bytes, match: str | None = None) -> None:
    with pytest.raises(InvalidModelError, match=match):
        from_file(text.encode() if isinstance(text, str) else text)


def test_the_small_text_is_valid() -> None:
    for text in (small(), linear_text()):
        assert from_file(text.encode()).n_trees == 3


@pytest.mark.parametrize("text", [small(), linear_text()], ids=["small", "linear"])
def test_truncated_at_every_byte(text: str) -> None:
    """Nothing before the line that ends the trees is a model; after it, only a closed list of parameters is."""
    data = text.encode()
    end = data.index(b"\nend of trees\n") + len(b"\nend of trees\n")
    for n in range(len(data)):
        if n < end:
            refused(data[:n])
            continue
        try:
            assert from_file(data[:n]).n_trees == 3
        except InvalidModelError as error:
            assert re.search("end of parameters|pandas_categorical", str(error))  # noqa: PT017


def accepts(data: bytes) -> bool:
    try:
        forest = from_file(data)
    except (InvalidModelError, UnsupportedModelError):
        return False
    assert isinstance(forest, Forest)
    return True


@pytest.mark.parametrize("text", [small(), linear_text()], ids=["small", "linear"])
def test_mutated_bytes(text: str) -> None:
    """Every byte replaced by a few others; a text that is still accepted reads as a valid forest."""
    rng = np.random.default_rng(0)
    data = text.encode()
    accepted = 0
    for i in range(len(data)):
        for b in (*rng.choice(list(b"-0 9.e=\n,:[a\x00\xff"), 2, replace=False), rng.integers(256)):
            accepted += accepts(data[:i] + bytes([b]) + data[i + 1 :])
    assert 0 < accepted < 2 * len(data)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(8))
def test_mutated_in_several_places(seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = np.frombuffer((small() if seed % 2 else linear_text()).encode(), np.uint8)
    for _ in range(5000):
        changed = data.copy()
        begin, n = rng.integers(len(data)), rng.integers(1, 60)
        where = rng.integers(len(data), size=rng.integers(1, 8))
        changed[where] = rng.choice(data, len(where))
        kind = rng.integers(3)
        if kind == 0:
            changed = np.delete(changed, slice(begin, begin + n))
        elif kind == 1:
            changed = np.insert(changed, begin, changed[begin : begin + n])
        accepts(changed.tobytes())


REPLACEMENTS = [
    ("tree\nversion", "trees\nversion", "first line"),
    ("version=v4\n", "", "version is absent"),
    ("num_class=1\n", "", "num_class is absent"),
    ("num_class=1\n", "num_class=0\n", "num_class=0"),
    ("num_class=1\n", "num_class=2\n", "must be equal"),
    ("num_class=1\n", "num_class=2000000000\n", "must be equal"),
    ("num_class=1\nnum_tree_per_iteration=1", "num_class=3\nnum_tree_per_iteration=3", "one output"),
    ("num_class=1\n", "num_class=one\n", "no 32-bit integer"),
    ("num_class=1\n", "num_class=1\nnum_class=1\n", "stands twice"),
    ("max_feature_idx=1\n", "", "max_feature_idx is absent"),
    ("max_feature_idx=1\n", "max_feature_idx=2000000000\n", "feature_names for 2000000001 features"),
    ("max_feature_idx=1\n", "max_feature_idx=-7\n", "feature_names for -6 features"),
    ("max_feature_idx=1\n", "max_feature_idx=99999999999999999999\n", "no 32-bit integer"),
    ("feature_names=Column_0 Column_1", "feature_names=Column_0", "1 feature_names for 2"),
    ("feature_infos=none none", "feature_infos=none", "1 feature_infos for 2"),
    ("feature_names=", "feature_name=", "unknown field 'feature_name'"),
    ("tree_sizes=1 2 3", "tree_sizes=1 2 3 4", "declares 4 trees, the text has 3"),
    ("Tree=1\n", "Tree=2\n", "expected the section 'Tree=1'"),
    ("Tree=1\n", "Three=1\n", "declares 3 trees, the text has 2"),
    ("end of trees\n", "", "truncated"),
    ("end of parameters\n", "", "truncated"),
    ("pandas_categorical:[]", "pandas_categorical:[[1,", "pandas_categorical"),
    ("pandas_categorical:[]", "pandas_categorical:[[[1]]]", "pandas_categorical"),
    ("pandas_categorical:[]", "pandas_categorical:" + "[" * 100_000, "pandas_categorical"),
    ("pandas_categorical:[]", "pandas_categorical:[[" + "9" * 10_000 + "]]", "pandas_categorical"),
    ("num_leaves=3\n", "", "tree 0: the field num_leaves is absent"),
    ("num_leaves=3\n", "num_leaves=0\n", "tree 0: num_leaves=0"),
    ("num_leaves=3\n", "num_leaves=-3\n", "tree 0: num_leaves=-3"),
    ("num_leaves=3\n", "num_leaves=3.0\n", "tree 0: num_leaves is no 32-bit integer"),
    ("num_leaves=3\n", "num_leaves=2000000000\n", "tree 0: leaf_value: 3 values, expected 2000000000"),
    ("num_leaves=3\n", "num_leaves=2147483648\n", "no 32-bit integer"),
    ("num_leaves=3\n", "num_leaves=4\n", "tree 0: leaf_value: 3 values, expected 4"),
    ("split_feature=0 1\n", "", "tree 0: the field split_feature is absent"),
    ("split_feature=0 1\n", "split_feature=0 1 1\n", "tree 0: split_feature: 3 values, expected 2"),
    ("split_feature=0 1\n", "split_feature=0 2\n", r"tree 0: split_feature is 2, outside of \[0, 2\)"),
    ("split_feature=0 1\n", "split_feature=0 -1\n", "tree 0: split_feature is -1"),
    ("split_feature=0 1\n", "split_feature=0 1.5\n", "tree 0: split_feature: not integers"),
    ("split_feature=0 1\n", "split_feature=0 " + "9" * 5000 + "\n", "tree 0: split_feature: not integers"),
    ("split_feature=0 1\n", "split_feature=0 99999999999999999999\n", "tree 0: split_feature: not integers"),
    ("split_feature=0 1\n", "split_feature=0 0_1\n", "tree 0: split_feature: not integers"),
    ("decision_type=2 8\n", "", "tree 0: the field decision_type is absent"),
    ("decision_type=2 8\n", "decision_type=2 16\n", "tree 0: decision_type is 16"),
    ("decision_type=2 8\n", "decision_type=-1 8\n", "tree 0: decision_type is -1"),
    ("left_child=1 -1\n", "left_child=2 -1\n", "tree 0: a child is 2"),
    ("left_child=1 -1\n", "left_child=1 -4\n", "tree 0: a child is -4"),
    ("left_child=1 -1\n", "left_child=0 -1\n", "tree 0, node 0: the left child is out of range"),
    ("left_child=1 -1\n", "left_child=1 1\n", "tree 0, node 1: the node has more than one parent"),
    ("left_child=1 -1\n", "left_child=1 -3\n", "tree 0, node 2: the node has no parent|more than one parent"),
    ("leaf_value=0.25 -0.5 0.001", "leaf_value=0.25 nan 0.001", "tree 0, node 3: the leaf value is not finite"),
    ("leaf_value=0.25 -0.5 0.001", "leaf_value=0.25 -inf 0.001", "tree 0, node 3: the leaf value is not finite"),
    ("leaf_value=0.25 -0.5 0.001", "leaf_value=0.25 1e999 0.001", "tree 0, node 3: the leaf value is not finite"),
    ("leaf_value=0.25 -0.5 0.001", "leaf_value=0.25 -0.5", "tree 0: leaf_value: 2 values, expected 3"),
    ("leaf_value=0.25 -0.5 0.001", "leaf_value=0.25 -0_5 0.001", "tree 0: leaf_value: not numbers"),
    ("leaf_value=0.25 -0.5 0.001", "leaf_value=0.25 0x1p3 0.001", "tree 0: leaf_value: not numbers"),
    ("leaf_value=0.25 -0.5 0.001", "leaf_value=0.25,-0.5,0.001", "tree 0: leaf_value: 1 values, expected 3"),
    ("threshold=0.5 -1.5", "threshold=nan -1.5", "tree 0, node 0: the threshold is NaN"),
    ("leaf_count=3 4 5", "leaf_count=3 4", "tree 0: leaf_count: 2 values"),
    ("num_cat=1\n", "num_cat=-1\n", "tree 1: num_cat=-1"),
    ("num_cat=1\n", "num_cat=2\n", "tree 1: cat_boundaries: 2 values, expected 3"),
    ("num_cat=1\n", "num_cat=2000000000\n", "tree 1: cat_boundaries: 2 values, expected 2000000001"),
    ("cat_boundaries=0 2\n", "", "tree 1: the field cat_boundaries is absent"),
    ("cat_boundaries=0 2\n", "cat_boundaries=0 3\n", "tree 1: cat_threshold: 2 values, expected 3"),
    ("cat_boundaries=0 2\n", "cat_boundaries=0 2000000000\n", "tree 1: cat_threshold: 2 values, expected 2000000000"),
    ("cat_boundaries=0 2\n", "cat_boundaries=2 0\n", "tree 1: cat_boundaries must ascend from 0"),
    ("cat_boundaries=0 2\n", "cat_boundaries=-2 2\n", "tree 1: cat_boundaries must ascend from 0"),
    ("cat_threshold=5 1\n", "cat_threshold=5 4294967296\n", "tree 1: cat_threshold is 4294967296"),
    ("cat_threshold=5 1\n", "cat_threshold=5 -1\n", "tree 1: cat_threshold is -1"),
    ("threshold=0\n", "threshold=1\n", "tree 1: the threshold of a categorical split is 1"),
    ("threshold=0\n", "threshold=1e300\n", "tree 1: the threshold of a categorical split is 1e"),
    ("threshold=0\n", "threshold=inf\n", "tree 1: the threshold of a categorical split is not finite"),
    ("is_linear=0\n", "is_linear=2\n", "tree 0: is_linear='2'"),
    ("is_linear=0\n", "is_linear=1\n", "tree 0: the field num_features is absent"),
    ("is_linear=0\n", "is_cubic=1\n", "tree 0: unknown field 'is_cubic'"),
]


@pytest.mark.parametrize(
    ("old", "new", "match"), REPLACEMENTS, ids=[f"{i}-{r[2][:40]}" for i, r in enumerate(REPLACEMENTS)]
)
def test_contradictions_are_named(old: str, new: str, match: str) -> None:
    text = small()
    assert old in text
    refused(text.replace(old, new, 1), match)


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("num_features=3 0 2", "num_features=3 0 3", "leaf_features: 5 values, expected 6"),
        ("num_features=3 0 2", "num_features=3 0 2000000000", "leaf_features: 5 values, expected 2000000003"),
        ("num_features=3 0 2", "num_features=6 -3 2", "num_features is -3"),
        ("leaf_const=0.001 7 ", "leaf_const=0.001 ", "leaf_const: 2 values"),
        ("leaf_const=0.001 7 ", "leaf_const=0.001 nan ", "is not finite"),
        ("leaf_features=2 0 1", "leaf_features=3 0 1", "leaf_features is 3"),
        ("leaf_features=2 0 1", "leaf_features=-1 0 1", "leaf_features is -1"),
        ("leaf_coeff=0.1 -3e17", "leaf_coeff=0.1 inf", "not finite"),
        ("leaf_coeff=0.1 -3e17", "leaf_coeff=0.1", "leaf_coeff: 4 values, expected 5"),
    ],
)
def test_contradictions_in_linear_trees(old: str, new: str, match: str) -> None:
    text = linear_text()
    assert old in text
    refused(text.replace(old, new, 1), match)


def test_category_codes_that_are_no_integers() -> None:
    text = small().replace("feature_infos=none none", "feature_infos=none 1:x")
    refused(text.replace("pandas_categorical:[]", 'pandas_categorical:[["a", "b"]]'), "category code")


def test_cycle_apart_from_the_root() -> None:
    """Each node has one parent, and yet two of them are only each other's children."""
    text = model_text(
        [
            tree_text(
                0,
                split_feature=[0, 0, 0],
                threshold=[0, 1, 2],
                decision_type=["2", "2", "2"],
                left_child=["-1", "2", "1"],
                right_child=["-2", "-3", "-4"],
                leaf_value=[1, 2, 3, 4],
            )
        ]
    )
    refused(text, "tree 0, node 1: the node is not connected to its root")


def test_trees_that_are_no_whole_iteration() -> None:
    text = small().replace("num_class=1\nnum_tree_per_iteration=1", "num_class=2\nnum_tree_per_iteration=2")
    refused(text.replace("objective=regression", "objective=multiclass num_class:2"), "no whole number of iterations")


@pytest.mark.parametrize(
    "objective",
    [
        "binary",
        "binary sigmoid:",
        "binary sigmoid:0",
        "binary sigmoid:-1",
        "binary sigmoid:nan",
        "multiclass",
        "multiclass num_class:3",
        "multiclassova num_class:1",
        "multiclassova num_class:1 sigmoid:x",
    ],
)
def test_objectives_with_wrong_parameters(objective: str) -> None:
    refused(small().replace("objective=regression", f"objective={objective}"), "objective|number|sigmoid")


def test_binary_garbage() -> None:
    rng = np.random.default_rng(0)
    for n in (0, 1, 5, 100, 10_000):
        refused(rng.bytes(n), "no LightGBM model text")
        refused(b"tree\n" + rng.bytes(n))
        refused(b"tree\n" + rng.bytes(n).replace(b"\n", b"") + b"\nend of trees\n")
    refused(small().encode().replace(b"Column_0 ", b"Column_\xff "), "UTF-8")


@pytest.mark.parametrize("size", ["num_leaves=2000000000", "num_cat=2000000000", "num_class=2000000000"])
def test_declared_sizes_cost_nothing(size: str) -> None:
    key = size.split("=")[0]
    text = re.sub(rf"^{key}=\d+$", size, small(), flags=re.MULTILINE).encode()
    tracemalloc.start()
    begin = time.perf_counter()
    refused(text)
    seconds, peak = time.perf_counter() - begin, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 0.5 and peak < 2**20


def test_time_is_linear_in_the_text() -> None:
    """Long lines and many sections, where a careless parser is quadratic."""
    begin = time.perf_counter()
    refused(b"tree\n" + b"=" * 2_000_000 + b"\nend of trees\n", "unknown field")
    refused(model_text([stump(0, 0.5, 2).replace("threshold=0.5", "threshold=" + "1 " * 500_000)]), "threshold")
    long_number = model_text([stump(0, 0.5, 2).replace("0.5", "1" * 1_000_000 + "e-1000000")])
    assert from_file(long_number.encode()).threshold[0] == float("0." + "1" * 40)
    refused(b"tree\n" + b"\nTree=" * 300_000 + b"\nend of trees\n", "version is absent")
    assert from_file(model_text([stump(i, 0.5, 2) for i in range(3000)]).encode()).n_trees == 3000
    assert time.perf_counter() - begin < 10
