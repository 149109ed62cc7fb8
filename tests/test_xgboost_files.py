"""Damaged and hostile XGBoost files: a typed error, in bounded time and memory. XGBoost itself is not needed."""

from __future__ import annotations

import copy
import struct
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from woodpecker.errors import InvalidModelError, UnsupportedModelError
from woodpecker.forest import IN, LEAF, LT
from woodpecker.frontend import ubjson
from woodpecker.frontend.xgboost import from_file
from woodpecker.frontend.xgboost_document import float32_of
from woodpecker.reference import apply, predict_raw

from .xgboost_documents import document, dumps, tree, trees, ubj, ubj_text


@pytest.mark.parametrize("encode", [dumps, ubj])
def test_the_small_model_itself(encode):
    forest = from_file(encode(document()))
    assert forest.kind.tolist() == [LT, LEAF, IN, LEAF, LEAF] * 2
    assert forest.leaf_id.tolist() == [-1, 1, -1, 5, 6] * 2
    assert forest.set_values.tolist() == [1, 3, 1, 3]
    assert forest.frame_categories == {1: [7, 8, 9, 10]}
    assert forest.feature_names == ("a", "b")
    assert forest.cover.tolist() == [4.0] * 10
    rows = np.array([[0.4, 9], [0.5, 1], [0.5, 3.9], [0.5, 2], [0.5, -1], [0.5, np.nan], [np.nan, 1]], np.float32)
    leaves = [1, 6, 6, 5, 5, 6, 1]
    assert apply(forest, rows)[:, 0].tolist() == leaves
    value = {1: -1.5, 5: 0.25, 6: 2.0}
    assert predict_raw(forest, rows)[:, 0].tolist() == [1.25 + 2 * value[leaf] for leaf in leaves]


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Sets ``doc[...]`` at a path with dots; ``...`` deletes."""

    def edit(doc: Any) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
        for part in parents:
            doc = doc[part]
        if value is ...:
            del doc[last]
        else:
            doc[last] = value

    return edit


BOOSTER = "learner.gradient_booster"
MODEL = f"{BOOSTER}.model"
TREE = f"{MODEL}.trees.0"
PARAM = "learner.learner_model_param"
WRONG = [
    # what is missing or wrongly typed
    ("version", ...),
    ("version", [3, 2]),
    ("version", "3.2.0"),
    ("learner", ...),
    ("learner", []),
    (PARAM, ...),
    (f"{PARAM}.base_score", ...),
    (f"{PARAM}.base_score", 0.5),
    (f"{PARAM}.base_score", ""),
    (f"{PARAM}.base_score", "[]"),
    (f"{PARAM}.base_score", "[NaN]"),
    (f"{PARAM}.base_score", "[1E99]"),
    (f"{PARAM}.base_score", "[1,2]"),
    (f"{PARAM}.base_score", "half"),
    (f"{PARAM}.num_feature", 2),
    (f"{PARAM}.num_feature", "two"),
    (f"{PARAM}.num_feature", "-1"),
    (f"{PARAM}.num_feature", "1"),
    (f"{PARAM}.num_feature", "99999999999"),
    (f"{PARAM}.num_feature", "9" * 5000),
    (f"{PARAM}.num_class", "4000000000"),
    (f"{PARAM}.num_target", "2000000000"),
    ("learner.objective", ...),
    ("learner.objective.name", 3),
    ("learner.feature_names", "ab"),
    ("learner.feature_names", ["a"]),
    ("learner.feature_names", ["a", 2]),
    (f"{BOOSTER}.name", ...),
    (f"{BOOSTER}.name", "dart"),
    (MODEL, ...),
    (f"{MODEL}.gbtree_model_param", ...),
    (f"{MODEL}.gbtree_model_param.num_trees", "3"),
    (f"{MODEL}.gbtree_model_param.num_trees", "2000000000"),
    (f"{MODEL}.trees", {}),
    (f"{MODEL}.trees", [1, 2]),
    (f"{MODEL}.trees", []),
    (f"{MODEL}.tree_info", [0]),
    (f"{MODEL}.tree_info", [0, 1]),
    (f"{MODEL}.tree_info", [0, -1]),
    (f"{MODEL}.tree_info", [0, 0.5]),
    (f"{MODEL}.tree_info", "00"),
    (f"{MODEL}.iteration_indptr", []),
    (f"{MODEL}.iteration_indptr", [0, 1]),
    (f"{MODEL}.iteration_indptr", [0, 3, 2]),
    (f"{MODEL}.iteration_indptr", [1, 2]),
    (f"{BOOSTER}.weight_drop", [1.0]),
    (f"{BOOSTER}.weight_drop", ["1", "2"]),
    (f"{BOOSTER}.weight_drop", [1e39, 1.0]),
    (f"{MODEL}.cats", []),
    (f"{MODEL}.cats.enc", [{}]),
    (f"{MODEL}.cats.enc", [{}, {}]),
    (f"{MODEL}.cats.enc.1", {"offsets": [0, 9], "values": [97, 98]}),
    (f"{MODEL}.cats.enc.1", {"offsets": [1, 0], "values": [97, 98]}),
    (f"{TREE}.id", 1),
    (f"{TREE}.id", 2),
    (f"{TREE}.id", "0"),
    (f"{TREE}.tree_param", ...),
    (f"{TREE}.tree_param.num_nodes", "8"),
    (f"{TREE}.tree_param.num_nodes", "0"),
    (f"{TREE}.tree_param.num_nodes", "2000000000"),
    (f"{TREE}.tree_param.size_leaf_vector", "3"),
    # the nodes
    *((f"{TREE}.{name}", ...) for name in ("left_children", "right_children", "split_indices", "split_conditions")),
    *((f"{TREE}.{name}", ...) for name in ("default_left", "parents", "categories", "categories_nodes")),
    *((f"{TREE}.{name}", [0, 0]) for name in ("left_children", "parents", "default_left", "split_type", "sum_hessian")),
    *((f"{TREE}.{name}", {}) for name in ("left_children", "split_conditions", "default_left", "categories")),
    *((f"{TREE}.{name}.1", "x") for name in ("left_children", "split_conditions", "default_left", "categories")),
    *((f"{TREE}.{name}.1", [1]) for name in ("left_children", "split_conditions", "default_left")),
    *((f"{TREE}.{name}.1", None) for name in ("left_children", "split_conditions", "default_left")),
    (f"{TREE}.left_children.0", 7),
    (f"{TREE}.left_children.0", -2),
    (f"{TREE}.left_children.0", 0),
    (f"{TREE}.left_children.0", 2**40),
    (f"{TREE}.left_children.0", 10**30),
    (f"{TREE}.left_children.0", 1.0),
    (f"{TREE}.right_children.0", 7),
    (f"{TREE}.right_children.0", 3),
    (f"{TREE}.left_children.2", 1),
    (f"{TREE}.left_children.3", 5),
    (f"{TREE}.split_indices.0", 2),
    (f"{TREE}.split_indices.0", -1),
    (f"{TREE}.split_conditions.0", float("nan")),
    (f"{TREE}.split_conditions.1", float("nan")),
    (f"{TREE}.split_conditions.1", float("inf")),
    (f"{TREE}.split_conditions.1", 1e39),
    (f"{TREE}.split_conditions.1", 10**400),
    (f"{TREE}.split_conditions.1", True),
    (f"{TREE}.default_left.0", 2),
    (f"{TREE}.split_type.0", 1),
    (f"{TREE}.split_type.2", 0),
    (f"{TREE}.split_type.2", 2),
    (f"{TREE}.categories_nodes", []),
    (f"{TREE}.categories_nodes", [7]),
    (f"{TREE}.categories_nodes", [-1]),
    (f"{TREE}.categories_nodes", [0]),
    (f"{TREE}.categories_segments", [1]),
    (f"{TREE}.categories_segments", [-1]),
    (f"{TREE}.categories_sizes", [0]),
    (f"{TREE}.categories_sizes", [3]),
    (f"{TREE}.categories_sizes", [-2]),
    (f"{TREE}.categories_sizes", [2**62]),
    (f"{TREE}.categories", [3, -1]),
    (f"{TREE}.categories", [3, 2**24]),
]


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda v: str(v)[:50])
def test_contradictions_in_json(path, value):
    doc = document()
    change(path, value)(doc)
    with pytest.raises(InvalidModelError):
        from_file(dumps(doc))


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda v: str(v)[:50])
def test_contradictions_in_ubjson(path, value):
    doc = document()
    change(path, value)(doc)
    try:
        data = ubj(doc)
    except (OverflowError, struct.error):
        pytest.skip("UBJSON cannot say this")
    with pytest.raises(InvalidModelError):
        from_file(data)


def test_cycles_apart_from_the_root():
    doc = document()
    cyclic = trees(doc)[0]
    # 3 -> (5, 6), 5 -> (3, 4): each node has one parent, and the root does not reach them.
    cyclic["left_children"] = [1, -1, -1, 5, -1, 3, -1]
    cyclic["right_children"] = [2, -1, -1, 6, -1, 4, -1]
    cyclic["split_indices"] = [0] * 7
    for name in ("split_type", "categories_nodes", "categories_segments", "categories_sizes", "categories"):
        del cyclic[name]
    with pytest.raises(InvalidModelError, match="cycle"):
        from_file(dumps(doc))


def test_messages_name_the_place():
    doc = document()
    trees(doc)[1]["left_children"][2] = 99
    with pytest.raises(InvalidModelError, match="tree 1, node 2: the left child is out of range"):
        from_file(dumps(doc))
    del trees(doc)[1]["right_children"]
    with pytest.raises(InvalidModelError, match="tree 1 has no 'right_children'"):
        from_file(ubj(doc))


UNSUPPORTED = [
    (f"{BOOSTER}.name", "gblinear", "gblinear"),
    ("learner.objective.name", "reg:future", "reg:future"),
    (PARAM, document()["learner"]["learner_model_param"] | {"num_class": "2", "num_target": "3"}, "2 classes"),
]


@pytest.mark.parametrize(("path", "value", "message"), UNSUPPORTED, ids=lambda v: str(v)[:30])
def test_unsupported_features(path, value, message):
    doc = document()
    change(path, value)(doc)
    with pytest.raises(UnsupportedModelError, match=message):
        from_file(dumps(doc))


def test_old_binary_format():
    with pytest.raises(UnsupportedModelError, match="binary"):
        from_file(b"binf" + bytes(200))


def test_weights_of_dropped_trees_are_never_ignored():
    """Until XGBoost 3.3 they stand beside the trees, then in the model, whatever the booster is called."""
    plain = from_file(dumps(document()))
    for path in (f"{BOOSTER}.weight_drop", f"{MODEL}.weight_drop"):
        doc = document()
        change(path, [0.5, 1.0])(doc)
        for data in (dumps(doc), ubj(doc)):
            values = from_file(data).values
            np.testing.assert_array_equal(values[:3], plain.values[:3] / 2)
            np.testing.assert_array_equal(values[3:], plain.values[3:])


def test_trees_stand_in_the_order_of_their_ids():
    doc = document()
    trees(doc)[0]["split_conditions"][1] = 8.0
    swapped = copy.deepcopy(doc)
    trees(swapped).reverse()
    assert from_file(dumps(swapped)).values.tolist() == from_file(dumps(doc)).values.tolist()


def test_files_of_old_versions():
    """XGBoost 1.x: a scalar base score, no rounds, no targets, no categories, Boolean default directions."""
    doc = document()
    doc["version"] = [1, 2, 1]
    doc["learner"]["learner_model_param"] = {"base_score": "5E-1", "num_class": "3", "num_feature": "2"}
    doc["learner"]["objective"]["name"] = "multi:softprob"
    model = doc["learner"]["gradient_booster"]["model"]
    model["gbtree_model_param"] = {"num_trees": "3", "size_leaf_vector": "0"}
    model["tree_info"] = [0, 1, 2]
    del model["cats"], model["iteration_indptr"], doc["learner"]["feature_names"], doc["learner"]["feature_types"]
    model["trees"] = [tree(t) for t in range(3)]
    for old in trees(doc):
        old["default_left"] = [bool(flag) for flag in old["default_left"]]
        old["tree_param"]["size_leaf_vector"] = "0"
        old["left_children"][2] = old["right_children"][2] = -1
        for name in ("split_type", "categories_nodes", "categories_segments", "categories_sizes", "categories"):
            del old[name]
    forest = from_file(dumps(doc))
    assert forest.base_score.tolist() == [0.5, 0.5, 0.5]
    assert forest.tree_output.tolist() == [0, 1, 2]
    assert forest.feature_names is None
    assert forest.default_left.tolist() == [True, False, False] * 3
    assert from_file(dumps(doc), iteration_range=(0, 1)).n_trees == 3


def test_vector_leaves_of_both_layouts():
    doc = document()
    doc["learner"]["learner_model_param"] |= {"num_target": "2", "base_score": "[0E0,1E0]"}
    for t in trees(doc):
        t["tree_param"]["size_leaf_vector"] = "2"
        t["base_weights"] = [float(v) for v in range(14)]
    old = from_file(dumps(doc))
    assert old.values[:3].tolist() == [[2, 3], [10, 11], [12, 13]]
    for t in trees(doc):
        t["leaf_weights"] = [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]
        t["right_children"] = [2, 2, 6, 0, 0, 0, 1]
    new = from_file(ubj(doc))
    assert new.values[:3].tolist() == [[4.5, 5.5], [0.5, 1.5], [2.5, 3.5]]
    trees(doc)[0]["right_children"][1] = 3
    with pytest.raises(InvalidModelError, match="leaf weights do not match"):
        from_file(ubj(doc))
    trees(doc)[0]["tree_param"]["size_leaf_vector"] = "1"
    with pytest.raises(InvalidModelError, match="one width"):
        from_file(dumps(doc))


def test_decimals_are_rounded_once():
    """Decimals beside the middle of two float32, by less than a float64 can tell."""
    assert float32_of("1.000000059604644775390625") == 1.0
    assert float32_of("1.0000000596046447753906251") == float(np.nextafter(np.float32(1), np.float32(2)))
    assert float32_of("-1.0000000596046447753906251") == -float(np.nextafter(np.float32(1), np.float32(2)))
    assert float32_of("1.1920928955078125178e-7") == float(np.float32(1.1920928955078125e-7))
    assert float32_of("1e-60") == 0.0 and float32_of("3.5e38") == np.inf
    data = dumps(document()).replace(b'"split_conditions": [0.5', b'"split_conditions": [1.0000000596046447753906251')
    assert from_file(data).threshold[0] == float(np.nextafter(np.float32(1), np.float32(2)))
    data = dumps(document()).replace(b'"split_conditions": [0.5', b'"split_conditions": [16777217')
    assert from_file(data).threshold[0] == 16777216.0


def test_duplicate_keys():
    data = dumps(document())
    with pytest.raises(InvalidModelError, match="'version' occurs twice"):
        from_file(data[:-1] + b', "version": [3, 2, 0]}')
    with pytest.raises(InvalidModelError, match=r"'version' at byte \d+ occurs twice"):
        from_file(ubj(document())[:-1] + ubj_text("version") + ubj([3, 2, 0], "version") + b"}")


HOSTILE = {
    "empty": b"",
    "brace": b"{",
    "array": b"[]",
    "number": b"7",
    "pickle": b"\x80\x04\x95",
    "not-utf8": b'{"\xff": 1}',
    "json-deep-arrays": b'{"learner":' + b"[" * 200_000,
    "json-deep-objects": b'{"a":' * 200_000,
    "json-long-number": b'{"version": ' + b"9" * 100_000 + b"}",
    "json-huge-exponent": dumps(document()).replace(b"[0.5, -1.5", b"[0.5, 1e999999999"),
    "ubj-deep-arrays": b"{" + ubj_text("learner") + b"[" * 200_000,
    "ubj-deep-objects": (b"{" + ubj_text("a")) * 50_000,
    "ubj-deep-counted": b"{" + ubj_text("a") + (b"[#L" + struct.pack(">q", 1)) * 50_000,
    "ubj-typed-huge": b"{" + ubj_text("a") + b"[$D#L" + struct.pack(">q", 2**62) + b"}",
    "ubj-typed-gigabyte": b"{" + ubj_text("a") + b"[$d#L" + struct.pack(">q", 2**28) + bytes(1000) + b"}",
    "ubj-typed-negative": b"{" + ubj_text("a") + b"[$d#L" + struct.pack(">q", -1) + b"}",
    "ubj-counted-gigabyte": b"{" + ubj_text("a") + b"[#L" + struct.pack(">q", 2**30) + b"Z" * 1000,
    "ubj-string-gigabyte": b"{" + ubj_text("a") + b"SL" + struct.pack(">q", 2**30) + b"}",
    "ubj-key-gigabyte": b"{L" + struct.pack(">q", 2**40),
    "ubj-key-negative": b"{L" + struct.pack(">q", -5) + b"}",
    "ubj-text-not-utf8": b"{" + ubj_text("a") + b"SL" + struct.pack(">q", 1) + b"\xff}",
    "ubj-unknown-marker": b"{" + ubj_text("a") + b"?}",
    "ubj-array-of-strings": b"{" + ubj_text("a") + b"[$S#L" + struct.pack(">q", 1) + b"}",
    "ubj-trailing": ubj(document()) + b"}",
    "ubj-wide-string-array": ubj(document()).replace(ubj("a") + ubj("b"), ubj("a" * 1_000_000) + ubj(1)),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_cost_little(data):
    tracemalloc.start()
    began = time.perf_counter()
    with pytest.raises(InvalidModelError):
        from_file(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.perf_counter() - began < 5
    assert peak < 50_000_000 + 100 * len(data)


def test_overlapping_category_sets_do_not_multiply():
    """Sets may not share categories: n sets over one segment of n would take n * n values."""
    doc = document()
    n = 2001
    wide = trees(doc)[0]
    inner, leaves = (n - 1) // 2, (n + 1) // 2
    wide["tree_param"] = {"num_nodes": str(n), "size_leaf_vector": "1"}
    wide["left_children"] = [2 * i + 1 for i in range(inner)] + [-1] * leaves
    wide["right_children"] = [2 * i + 2 for i in range(inner)] + [-1] * leaves
    for name in ("parents", "split_indices", "split_conditions", "default_left", "loss_changes", "sum_hessian"):
        wide[name] = [0] * n
    wide["split_type"] = [1] * inner + [0] * leaves
    wide["categories_nodes"], wide["categories"] = list(range(inner)), list(range(inner))
    wide["categories_segments"], wide["categories_sizes"] = [0] * inner, [inner] * inner
    with pytest.raises(InvalidModelError, match="categories_segments"):
        from_file(dumps(doc))
    wide["categories_segments"], wide["categories_sizes"] = list(range(inner)), [1] * inner
    assert from_file(dumps(doc)).set_values[:inner].tolist() == list(range(inner))


@pytest.mark.parametrize("encode", [dumps, ubj])
def test_every_truncation(encode):
    data = encode(document())
    for n in range(len(data)):
        with pytest.raises(InvalidModelError):
            from_file(data[:n])


@pytest.mark.parametrize("encode", [dumps, ubj])
def test_mutated_bytes(encode):
    """A changed byte gives another valid model or one of two errors, never anything else."""
    data, rng = encode(document()), np.random.default_rng(0)
    outcomes = {"read": 0, "refused": 0}
    rows = np.array([[0.0, 1.0], [np.nan, np.nan], [9.0, -1.0]], np.float32)
    for trial in range(4000):
        changed = bytearray(data)
        for _ in range(1 + trial % 3):
            changed[rng.integers(len(data))] = rng.integers(256)
        try:
            forest = from_file(changed)
        except (InvalidModelError, UnsupportedModelError):
            outcomes["refused"] += 1
            continue
        X = np.resize(rows, (3, forest.n_features)) if forest.n_features < 1000 else None
        if X is not None:
            assert predict_raw(forest, X).shape == (3, forest.n_outputs)
        outcomes["read"] += 1
    assert min(outcomes.values()) > 100, outcomes


def test_ubjson_scalars_and_containers():
    data = b"[ZTFi\xffU\xffI\xff\xfel\xff\xff\xff\xfdCAd\x3f\xc0\x00\x00D\x40\x04" + bytes(6) + b"Si\x02hi[]{}[#U\x01T]"
    assert ubjson.loads(data) == [None, True, False, -1, 255, -2, -3, 65, 1.5, 2.5, "hi", [], {}, [True]]
    for code, dtype in {"d": "f4", "D": "f8", "i": "i1", "U": "u1", "I": "i2", "l": "i4", "L": "i8"}.items():
        want = np.array([1, 2, 100], dtype)
        got = ubjson.loads(b"[$" + code.encode() + b"#i\x03" + want.astype(want.dtype.newbyteorder(">")).tobytes())
        assert got.dtype == want.dtype and got.tolist() == want.tolist()
