"""The trees of an XGBoost document as the arrays of a `Forest`.

A scalar tree holds its leaf values in ``split_conditions``, a vector tree (``multi_output_tree``) in ``leaf_weights``.
All trees are read into one set of concatenated arrays, so that the work per tree is a few array look-ups.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InvalidModelError
from ..forest import IN, LEAF, LT, MAX_NODES, MISSING_NAN
from .xgboost_document import floats, integer, integers, items, member

MAX_CATEGORY = 2**24
"""XGBoost's OutOfRangeCat (src/common/categorical.h): values from here on name no category."""

_PER_NODE = ("left_children", "right_children", "split_indices", "split_conditions", "default_left", "parents")
_OPTIONAL_PER_NODE = ("loss_changes", "sum_hessian", "split_type")


def read_trees(model: Mapping[str, Any], n_features: int, n_outputs: int) -> dict[str, Any]:
    """The fields of a `Forest` that describe its trees, all of them, in the order of the sum.

    Args:
        model: The object ``learner.gradient_booster.model``.
        n_features: Columns of X; every split must name one of them.
        n_outputs: The width of vector leaves.

    Raises:
        InvalidModelError: names the tree, and the node where one is to blame.
        AmbiguousDecimal: see `woodpecker.frontend.xgboost_document.floats`.
    """
    trees = _in_order(items(model, "trees", dict, "the model"))
    n_trees = integer(member(model, "gbtree_model_param", dict, "the model"), "num_trees", "gbtree_model_param")
    tree_info = integers(model, "tree_info", "the model")
    if not len(trees) == n_trees == len(tree_info):
        raise InvalidModelError(f"num_trees is {n_trees}, with {len(trees)} trees and {len(tree_info)} in tree_info")
    if n_trees and not 0 <= tree_info.min() <= tree_info.max() < n_outputs:
        raise InvalidModelError(f"tree_info must lie in [0, {n_outputs})")
    nodes = [_read_nodes(tree, t) for t, tree in enumerate(trees)]
    widths = [_leaf_width(tree, t, n_outputs) for t, tree in enumerate(trees)]
    if len(set(widths)) > 1 or (1 not in widths and tree_info.any()):
        raise InvalidModelError("trees with vector leaves must all be of one width and add to output 0")
    sizes = np.array([len(node["left_children"]) for node in nodes], np.int64)
    if sizes.sum() > MAX_NODES:
        raise InvalidModelError(f"the model has {sizes.sum()} nodes; at most {MAX_NODES} are supported")
    node = {name: _concatenate([part[name] for part in nodes]) for name in (*_PER_NODE, "split_type")}
    covers = [part.get("sum_hessian") for part in nodes]
    node["cover"] = np.full(len(node["parents"]), np.nan) if any(c is None for c in covers) else _concatenate(covers)
    offset = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    is_leaf = node["left_children"] == -1
    _check_splits(node, offset, is_leaf, n_features)
    if widths and widths[0] > 1:
        values = [
            _vector_leaves(tree, t, part, widths[0]) for t, (tree, part) in enumerate(zip(trees, nodes, strict=True))
        ]
        leaf_value = np.concatenate(values)
    else:
        leaf_value = node["split_conditions"].astype(np.float32)[is_leaf].reshape(-1, 1)
    sets = _category_sets(trees, nodes, offset, is_leaf, node["split_type"])
    return {"tree_output": tree_info.astype(np.int32)} | _forest_arrays(node, offset, is_leaf, leaf_value, sets)


def _concatenate(parts: list[Any]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def _in_order(trees: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trees by their ``id``, which is their place in the sum (GBTreeModel::LoadModel)."""
    ids = [member(tree, "id", int, f"trees[{i}]") for i, tree in enumerate(trees)]
    if ids == list(range(len(trees))):
        return trees
    if sorted(ids) != list(range(len(trees))):
        raise InvalidModelError("the ids of the trees must be 0, 1, 2, ... in some order")
    return [trees[i] for i in np.argsort(ids)]


def _read_nodes(tree: Mapping[str, Any], t: int) -> dict[str, np.ndarray]:
    """The arrays of one tree, one item per node each."""
    where = f"tree {t}"
    n = integer(member(tree, "tree_param", dict, where), "num_nodes", f"{where}, tree_param")
    node = {name: integers(tree, name, where) for name in _PER_NODE if name not in ("split_conditions", "default_left")}
    node["split_conditions"] = floats(tree, "split_conditions", where)
    node["default_left"] = integers(tree, "default_left", where, flags=True)
    for name in _OPTIONAL_PER_NODE:
        if name in tree:
            node[name] = integers(tree, name, where) if name == "split_type" else floats(tree, name, where)
    for name, values in node.items():
        if len(values) != n or n == 0:
            raise InvalidModelError(f"{where}: {name!r} has {len(values)} items for {n} nodes")
    node.setdefault("split_type", np.zeros(n, np.int64))
    return node


def _leaf_width(tree: Mapping[str, Any], t: int, n_outputs: int) -> int:
    """1 for scalar leaves (old versions write 0), or the number of outputs."""
    width = integer(member(tree, "tree_param", dict, f"tree {t}"), "size_leaf_vector", f"tree {t}", default=1)
    if width > 1 and width != n_outputs:
        raise InvalidModelError(f"tree {t}: leaves have {width} values, the model has {n_outputs} outputs")
    return max(width, 1)


def _fail(offset: np.ndarray, bad: np.ndarray, what: str) -> None:
    """Raise, naming the first node of the mask ``bad`` as the file numbers it."""
    if bad.any():
        node = int(np.argmax(bad))
        t = int(np.searchsorted(offset, node, side="right")) - 1
        raise InvalidModelError(f"tree {t}, node {node - int(offset[t])}: {what}")


def _check_splits(node: dict[str, np.ndarray], offset: np.ndarray, is_leaf: np.ndarray, n_features: int) -> None:
    size = np.repeat(np.diff(offset), np.diff(offset))
    left, right = node["left_children"], node["right_children"]
    for name, child in (("left", left), ("right", right)):
        _fail(offset, ~is_leaf & ((child <= 0) | (child >= size)), f"the {name} child is out of range")
    # Its predictor goes to "left + 1" where a value is present, and to the stored right child where it is missing.
    _fail(offset, ~is_leaf & (right != left + 1), "the right child does not follow the left child")
    feature = node["split_indices"]
    _fail(offset, ~is_leaf & ((feature < 0) | (feature >= n_features)), f"feature out of range [0, {n_features})")
    _fail(offset, ~np.isin(node["split_type"], (0, 1)), "unknown split type")
    _fail(offset, ~np.isin(node["default_left"], (0, 1)), "default_left is neither 0 nor 1")


def _vector_leaves(tree: Mapping[str, Any], t: int, node: dict[str, np.ndarray], width: int) -> np.ndarray:
    """(leaves, width) float32, in the order of the leaves' node numbers."""
    where = f"tree {t}"
    leaves = np.flatnonzero(node["left_children"] == -1)
    if "leaf_weights" in tree:
        weights, row = floats(tree, "leaf_weights", where), node["right_children"][leaves]
    else:  # before XGBoost 3.2 every node had a weight, and a leaf used its own
        weights, row = floats(tree, "base_weights", where), leaves
    if len(weights) % width or (len(row) and not 0 <= row.min() <= row.max() < len(weights) // width):
        raise InvalidModelError(f"{where}: its leaves and its {len(weights)} leaf weights do not match")
    return weights.reshape(-1, width)[row]


def _category_sets(
    trees: list[dict[str, Any]],
    nodes: list[dict[str, np.ndarray]],
    offset: np.ndarray,
    is_leaf: np.ndarray,
    split_type: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(node of each set, set_offset, set_values) of all categorical splits; each set ascends."""
    at, begin, size, values = [], [], [], []
    n_values = 0
    for t, (tree, node) in enumerate(zip(trees, nodes, strict=True)):
        where, n = f"tree {t}", len(node["split_type"])
        if "categories_nodes" not in tree and not node["split_type"].any():
            continue
        numbers, first = integers(tree, "categories_nodes", where), integers(tree, "categories_segments", where)
        count, codes = integers(tree, "categories_sizes", where), integers(tree, "categories", where)
        if not len(numbers) == len(first) == len(count):
            raise InvalidModelError(f"{where}: categories_nodes, _segments and _sizes differ in length")
        if len(numbers) and (numbers[0] < 0 or numbers[-1] >= n or (np.diff(numbers) <= 0).any()):
            raise InvalidModelError(f"{where}: categories_nodes must ascend within [0, {n})")
        total = len(codes)
        if ((count < 1) | (count > total) | (first < 0) | (first > total - count)).any() or count.sum() > total:
            raise InvalidModelError(f"{where}: categories_segments and _sizes do not fit {total} categories")
        if total and not 0 <= codes.min() <= codes.max() < MAX_CATEGORY:
            raise InvalidModelError(f"{where}: categories must lie in [0, {MAX_CATEGORY})")
        at.append(offset[t] + numbers)
        begin.append(n_values + first)
        size.append(count)
        values.append(codes)
        n_values += total
    has_set = np.zeros(len(is_leaf), bool)
    has_set[_concatenate(at)] = True
    # A node that was split on a category and pruned later is a leaf that still has its set.
    _fail(offset, ~is_leaf & (has_set != (split_type == 1)), "its split type contradicts categories_nodes")
    used = ~is_leaf[_concatenate(at)]
    at_node, counts = _concatenate(at)[used], _concatenate(size)[used]
    set_offset = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    gather = np.repeat(_concatenate(begin)[used] - set_offset[:-1], counts) + np.arange(set_offset[-1])
    set_of, code = np.repeat(np.arange(len(counts)), counts), _concatenate(values)[gather]
    order = np.lexsort((code, set_of))
    set_of, code = set_of[order], code[order]
    distinct = np.ones(len(code), bool)
    distinct[1:] = (np.diff(set_of) != 0) | (np.diff(code) != 0)
    per_set = np.bincount(set_of[distinct], minlength=len(counts))
    return at_node, np.concatenate([[0], np.cumsum(per_set)]).astype(np.int64), code[distinct].astype(np.float64)


def _forest_arrays(
    node: dict[str, np.ndarray],
    offset: np.ndarray,
    is_leaf: np.ndarray,
    leaf_value: np.ndarray,
    sets: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> dict[str, Any]:
    """Node arrays in the Forest's terms, without the slots of pruned nodes."""
    n, roots = len(is_leaf), offset[:-1]
    base = np.repeat(roots, np.diff(offset))
    at_set, set_offset, set_values = sets
    category_set = np.full(n, -1, np.int32)
    category_set[at_set] = np.arange(len(at_set), dtype=np.int32)
    categorical = category_set >= 0
    # The stored set goes right (common::Decision); ours goes left.
    first, second = node["left_children"], node["right_children"]
    left, right = np.where(categorical, second, first), np.where(categorical, first, second)
    default_left = (node["default_left"] == 1) ^ categorical
    inner = np.flatnonzero(~is_leaf)
    parents = np.bincount(base[inner] + left[inner], minlength=n) + np.bincount(base[inner] + right[inner], minlength=n)
    parents[roots] += 1
    _fail(offset, parents > 1, "the node has more than one parent (a cycle, or a shared subtree)")
    _fail(offset, ~is_leaf & (parents == 0), "the node has no parent")
    keep = parents > 0
    place = np.cumsum(keep) - 1
    leaf = np.full(n, -1, np.int32)
    leaf[is_leaf & keep] = np.arange(np.count_nonzero(is_leaf & keep), dtype=np.int32)
    new_base = place[base]

    def child(of: np.ndarray) -> np.ndarray:
        return np.where(is_leaf, 0, place[np.where(is_leaf, 0, base + of)] - new_base)[keep].astype(np.int32)

    numeric = ~is_leaf & ~categorical
    kind = np.select([is_leaf, categorical], [LEAF, IN], LT)
    cover = node["cover"].astype(np.float64)[keep]
    return {
        "tree_offset": np.concatenate([[0], np.cumsum(keep)])[offset].astype(np.int64),
        "kind": kind[keep].astype(np.uint8),
        "feature": np.where(is_leaf, 0, node["split_indices"])[keep].astype(np.int32),
        "threshold": np.where(numeric, node["split_conditions"], np.float32(0)).astype(np.float64)[keep],
        "missing": np.full(np.count_nonzero(keep), MISSING_NAN, np.uint8),
        "default_left": (default_left & ~is_leaf)[keep],
        "left": child(left),
        "right": child(right),
        "category_set": category_set[keep],
        "set_offset": set_offset,
        "set_values": set_values,
        "leaf": leaf[keep],
        "leaf_id": np.where(is_leaf, np.arange(n) - base, -1)[keep].astype(np.int32),
        "values": np.ascontiguousarray(leaf_value[keep[is_leaf]]),
        "cover": None if np.isnan(cover).any() else cover,
    }
