"""verify(): the trust boundary. What passes here can be compiled and run without a crash."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import forest as ir
from .errors import InvalidModelError
from .forest import CATEGORY_RULES, IN, LE, LEAF, LT, Forest, Method, check_array, tree_of_node
from .runtime.outputs import KINDS, check, is_finite, is_integer, is_number

OUTPUT_KINDS = (*KINDS, "leaves_onehot")
RESERVED_METHODS = ("predict_raw", "apply", "save", "inspect", "to_relax", "strategy")


def verify(forest: Forest) -> Forest:
    """Check a forest and return it unchanged.

    Lengths and dtypes, ranges, each node reached exactly once from its root (so no cycles), category bounds, finite
    values where the arithmetic needs them, and sizes. Time and memory are linear in the number of nodes.

    Raises:
        InvalidModelError: names the first offending tree and node.
    """
    _check_types(forest)
    _check_sizes(forest)
    _check_arrays(forest)
    _check_nodes(forest)
    _check_topology(forest)
    _check_categories(forest)
    _check_leaves(forest)
    _check_metadata(forest)
    return forest


def _fail(forest: Forest, bad: np.ndarray, what: str) -> None:
    """Raise, naming the first node of the mask or index array ``bad``, if there is one."""
    nodes = np.flatnonzero(bad)
    if len(nodes):
        node = int(nodes[0])
        tree = int(np.searchsorted(forest.tree_offset, node, side="right")) - 1
        raise InvalidModelError(f"tree {tree}, node {node - int(forest.tree_offset[tree])}: {what}")


def _check_types(f: Forest) -> None:
    for field in dataclasses.fields(f):
        value = getattr(f, field.name)
        if field.type in ("np.ndarray", "np.ndarray | None") and not isinstance(value, np.ndarray):
            if value is None and "None" in str(field.type):
                continue
            raise InvalidModelError(f"Forest.{field.name} must be a numpy array, found {type(value).__name__}")
        if field.type == "float" and not is_number(value):
            raise InvalidModelError(f"Forest.{field.name} must be a number, found {_shown(value)}")
        if field.type == "str" and not isinstance(value, str):
            raise InvalidModelError(f"Forest.{field.name} must be a string, found {_shown(value)}")
        if str(field.type).startswith("Mapping") and not isinstance(value, Mapping):
            raise InvalidModelError(f"Forest.{field.name} must be a mapping, found {type(value).__name__}")
    if f.base_score.ndim != 1 or f.values.ndim != 2:
        raise InvalidModelError("Forest.base_score must have shape (outputs,), Forest.values (leaves, 1 or outputs)")
    for name, method in f.methods.items():
        texts = isinstance(method, Method) and all(isinstance(text, str) for text in (name, method.kind, method.link))
        if not texts or not isinstance(method.args, Mapping):
            raise InvalidModelError(
                f"Forest.methods must map names to Method(kind, link, args), found {_shown(name)}: {_shown(method)}"
            )
    try:
        json.dumps([dict(f.source), [dict(m.args) for m in f.methods.values()]], default=_plain, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InvalidModelError(f"source and the args of methods must be JSON values: {error}") from None


def _shown(value: Any) -> str:
    try:
        return repr(value)[:60]
    except Exception:  # an integer of too many digits, or an object's own error
        return type(value).__name__


def _is_feature(f: Forest, feature: Any) -> bool:
    return is_integer(feature) and 0 <= feature < f.n_features


def _plain(value: Any) -> Any:
    """Numpy scalars and arrays as JSON values."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"{value!r} is a {type(value).__name__}")


def _check_sizes(f: Forest) -> None:
    for name, value, least, limit in (
        ("n_features", f.n_features, 1, ir.MAX_FEATURES),
        ("n_outputs", len(f.base_score), 0, ir.MAX_OUTPUTS),
        ("nodes", len(f.kind), 0, ir.MAX_NODES),
    ):
        if not isinstance(value, (int, np.integer)) or not least <= value <= limit:
            raise InvalidModelError(
                f"the forest has {value} {name}; at least {least} and at most {limit} are supported"
            )
    if len(f.base_score) == 0:
        raise InvalidModelError("the forest has no output: base_score is empty")


def _check_arrays(f: Forest) -> None:
    n = len(f.kind)
    check_array("tree_offset", f.tree_offset, np.int64, (None,))
    t = len(f.tree_offset) - 1
    check_array("tree_output", f.tree_output, np.int32, (t,))
    for name in ("feature", "left", "right", "category_set", "leaf", "leaf_id"):
        check_array(name, getattr(f, name), np.int32, (n,))
    for name in ("kind", "missing"):
        check_array(name, getattr(f, name), np.uint8, (n,))
    check_array("default_left", f.default_left, np.bool_, (n,))
    check_array("threshold", f.threshold, np.float64, (n,))
    check_array("set_offset", f.set_offset, np.int64, (None,))
    check_array("set_values", f.set_values, np.float64, (None,))
    if f.values.dtype not in (np.float32, np.float64):
        raise InvalidModelError(f"Forest.values must be float32 or float64, found {f.values.dtype}")
    check_array("values", f.values, f.values.dtype, (None, None))
    check_array("base_score", f.base_score, f.values.dtype, (None,))
    if f.cover is not None:
        check_array("cover", f.cover, np.float64, (n,))
    offset = f.tree_offset
    if t < 0 or offset[0] != 0 or offset[-1] != n or (np.diff(offset) < 1).any():
        raise InvalidModelError(f"tree_offset must ascend from 0 to {n} with at least one node per tree")
    if not (f.set_offset.size and f.set_offset[0] == 0 and f.set_offset[-1] == len(f.set_values)):
        raise InvalidModelError("set_offset must run from 0 to the length of set_values")
    if (np.diff(f.set_offset) < 0).any():
        raise InvalidModelError("set_offset must ascend")
    if f.values.shape[1] not in (1, f.n_outputs):
        raise InvalidModelError(f"leaf values have {f.values.shape[1]} columns; expected 1 or {f.n_outputs}")
    limit = 1 if f.vector_leaves else f.n_outputs
    if t and (f.tree_output.min() < 0 or f.tree_output.max() >= limit):
        raise InvalidModelError(f"tree_output must lie in [0, {limit})")


def _check_nodes(f: Forest) -> None:
    _fail(f, f.kind > IN, "unknown node kind")
    inner = f.kind != LEAF
    _fail(f, inner & ((f.feature < 0) | (f.feature >= f.n_features)), f"feature out of range [0, {f.n_features})")
    numeric = (f.kind == LT) | (f.kind == LE)
    _fail(f, numeric & np.isnan(f.threshold), "the threshold is NaN")
    _fail(f, f.missing > ir.MISSING_ZERO, "unknown missing rule")


def _check_topology(f: Forest) -> None:
    inner = np.flatnonzero(f.kind != LEAF)
    tree = tree_of_node(f)
    base, size = f.tree_offset[:-1][tree[inner]], np.diff(f.tree_offset)[tree[inner]]
    reached = np.zeros(f.n_nodes, np.int64)
    for name, child in (("left", f.left[inner]), ("right", f.right[inner])):
        bad = np.zeros(f.n_nodes, bool)
        bad[inner[(child <= 0) | (child >= size)]] = True
        _fail(f, bad, f"the {name} child is out of range")
        reached += np.bincount(base + child, minlength=f.n_nodes)
    roots = f.tree_offset[:-1]
    reached[roots] += 1
    _fail(f, reached > 1, "the node has more than one parent (a cycle, or a shared subtree)")
    _fail(f, reached < 1, "the node has no parent")
    # One parent each still allows a cycle apart from the root: count what the roots reach, level by level.
    parent_of = np.full(f.n_nodes, -1, np.int64)
    parent_of[base + f.left[inner]] = inner
    parent_of[base + f.right[inner]] = inner
    # Pointer doubling: after k rounds each node points 2**k ancestors up, so a chain costs log2(depth) rounds.
    ancestor = np.where(parent_of < 0, np.arange(f.n_nodes), parent_of)
    for _ in range(max(1, int(np.ceil(np.log2(f.n_nodes + 1))))):
        further = ancestor[ancestor]
        if (further == ancestor).all():
            break
        ancestor = further
    _fail(f, ancestor != roots[tree], "the node is not connected to its root (a cycle)")


def _check_categories(f: Forest) -> None:
    if f.category_rule not in CATEGORY_RULES:
        raise InvalidModelError(f"unknown category_rule {f.category_rule!r}; known: {', '.join(CATEGORY_RULES)}")
    n_sets = len(f.set_offset) - 1
    is_set = f.kind == IN
    _fail(f, is_set & ((f.category_set < 0) | (f.category_set >= n_sets)), "category_set out of range")
    if len(f.set_values):
        inside = np.ones(len(f.set_values), bool)
        inside[f.set_offset[:-1][np.diff(f.set_offset) > 0]] = False
        if not np.isfinite(f.set_values).all() or (np.diff(f.set_values, prepend=-np.inf)[inside] <= 0).any():
            raise InvalidModelError("the values of a category set must be finite and ascend")
        if f.category_rule != "exact":
            whole = (f.set_values >= 0) & (f.set_values == np.floor(f.set_values)) & (f.set_values < 2**31)
            if not whole.all():
                raise InvalidModelError("category codes must be whole numbers in [0, 2**31)")
    for feature, known in f.known_categories.items():
        check_array(f"known_categories[{feature}]", known, np.float64, (None,))
        if not _is_feature(f, feature) or not np.isfinite(known).all() or (np.diff(known) <= 0).any():
            raise InvalidModelError(f"known_categories[{feature}] must ascend, be finite and belong to a feature")
    if f.category_rule == "exact":
        unknown = np.zeros(f.n_nodes, bool)
        unknown[is_set] = ~np.isin(f.feature[is_set], list(f.known_categories))
        _fail(f, unknown, "a category test on a feature without known_categories")
        for feature, known in f.known_categories.items():
            strange = np.concatenate([[0], np.cumsum(~np.isin(f.set_values, known))])
            per_set = strange[f.set_offset[1:]] - strange[f.set_offset[:-1]]
            bad = np.zeros(f.n_nodes, bool)
            at = np.flatnonzero(is_set & (f.feature == feature))
            bad[at] = per_set[f.category_set[at]] > 0
            _fail(f, bad, f"its category set holds values unknown to feature {feature}")


def _check_leaves(f: Forest) -> None:
    is_leaf = f.kind == LEAF
    _fail(f, is_leaf & ((f.leaf < 0) | (f.leaf >= f.n_leaves)), f"leaf row out of range [0, {f.n_leaves})")
    _fail(f, ~is_leaf & (f.leaf != -1), "an inner node has a leaf row")
    if (np.bincount(f.leaf[is_leaf], minlength=f.n_leaves) != 1).any():
        raise InvalidModelError("each row of values must belong to exactly one leaf")
    bad = np.zeros(f.n_nodes, bool)
    bad[is_leaf] = ~np.isfinite(f.values).all(1)[f.leaf[is_leaf]]
    _fail(f, bad, "the leaf value is not finite")
    if not np.isfinite(f.base_score).all():
        raise InvalidModelError("base_score is not finite")
    linear = (f.linear_offset, f.linear_feature, f.linear_coef, f.linear_const)
    if any(part is None for part in linear):
        if not all(part is None for part in linear):
            raise InvalidModelError("linear leaves need linear_offset, linear_feature, linear_coef and linear_const")
        return
    if f.values.dtype != np.float64 or f.vector_leaves or f.input_dtype != "float64" or not np.isnan(f.missing_value):
        raise InvalidModelError("linear leaves need scalar float64 values, float64 input and no missing_value")
    assert f.linear_offset is not None and f.linear_feature is not None and f.linear_coef is not None
    check_array("linear_offset", f.linear_offset, np.int64, (f.n_leaves + 1,))
    check_array("linear_feature", f.linear_feature, np.int32, (None,))
    check_array("linear_coef", f.linear_coef, np.float64, (len(f.linear_feature),))
    check_array("linear_const", f.linear_const, np.float64, (f.n_leaves,))
    ascending = f.linear_offset[0] == 0 and (np.diff(f.linear_offset) >= 0).all()
    if not ascending or f.linear_offset[-1] != len(f.linear_feature):
        raise InvalidModelError("linear_offset must ascend from 0 to the number of linear terms")
    if len(f.linear_feature) and not 0 <= f.linear_feature.min() <= f.linear_feature.max() < f.n_features:
        raise InvalidModelError(f"a linear leaf names a feature outside [0, {f.n_features})")
    if not np.isfinite(f.linear_coef).all() or not np.isfinite(np.asarray(f.linear_const)).all():
        raise InvalidModelError("a linear leaf has a coefficient or constant that is not finite")


def _check_metadata(f: Forest) -> None:
    for name in ("input_dtype", "integer_dtype"):
        if getattr(f, name) not in ("float32", "float64"):
            raise InvalidModelError(f"{name} must be float32 or float64, found {getattr(f, name)!r}")
    if not isinstance(f.divisor, (int, np.integer)) or not 1 <= f.divisor <= 2**53:
        raise InvalidModelError(f"divisor must be a positive integer, found {_shown(f.divisor)}; at most 2**53")
    if not (np.isfinite(f.zero_band) and f.zero_band >= 0):
        raise InvalidModelError(f"zero_band must be finite and not negative, found {f.zero_band!r}")
    if f.zero_band > ir.ZERO_BAND:
        _fail(f, f.missing == ir.MISSING_ZERO, f"the missing rule 'zero' with a zero_band beyond {ir.ZERO_BAND:g}")
    if f.feature_names is not None:
        _check_names(f, f.feature_names)
    for feature, categories in f.frame_categories.items():
        _check_frame_categories(f, feature, categories)
    if f.unknown_category not in ("error", "nan"):
        raise InvalidModelError(f"unknown_category must be 'error' or 'nan', found {f.unknown_category!r}")
    if not f.methods:
        raise InvalidModelError("the forest has no methods: say at least what 'predict' returns")
    labels = _count_labels(f)
    for name, method in f.methods.items():
        if not name.isidentifier() or name.startswith("_") or name in RESERVED_METHODS:
            raise InvalidModelError(f"{name!r} can't be the name of a method of a predictor")
        if method.kind not in OUTPUT_KINDS:
            raise InvalidModelError(f"method {name!r} is of kind {method.kind!r}; known: {', '.join(OUTPUT_KINDS)}")
        # The one link that changes the number of columns.
        width = 1 if method.link == "argmax" else f.n_outputs
        args = {key: _listed(value) for key, value in method.args.items()}
        if wrong := check(method.kind, args, width, labels, f.n_trees):
            raise InvalidModelError(f"method {name!r} {wrong}")


def _listed(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def _count_labels(f: Forest) -> list[int]:
    if not isinstance(f.classes, (tuple, list)):
        raise InvalidModelError(f"Forest.classes must be a tuple of arrays, found {type(f.classes).__name__}")
    for k, labels in enumerate(f.classes):
        if not isinstance(labels, np.ndarray) or labels.ndim != 1:
            found = f"shape {labels.shape}" if isinstance(labels, np.ndarray) else type(labels).__name__
            raise InvalidModelError(f"Forest.classes[{k}] must be an array of one dimension, found {found}")
    return [len(labels) for labels in f.classes]


def _check_names(f: Forest, names: Any) -> None:
    if not isinstance(names, (tuple, list)) or not all(isinstance(name, str) for name in names):
        raise InvalidModelError(f"feature_names must be a tuple of strings, found {_shown(names)}")
    if len(names) != f.n_features:
        raise InvalidModelError(f"{len(names)} feature names for {f.n_features} features")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InvalidModelError(f"two features have the name {name!r}")
        seen.add(name)


def _check_frame_categories(f: Forest, feature: Any, categories: Any) -> None:
    if not _is_feature(f, feature):
        raise InvalidModelError(
            f"frame_categories has the key {_shown(feature)}, which is no feature in [0, {f.n_features})"
        )
    if isinstance(categories, np.ndarray):
        categories = categories.tolist()
    if not isinstance(categories, (tuple, list)):
        raise InvalidModelError(f"frame_categories[{feature}] must be a list, found {type(categories).__name__}")
    seen: set[tuple[bool, Any]] = set()
    for category in categories:
        key = (isinstance(category, (bool, np.bool_)), category) if _is_category(category) else None
        if key is None or key in seen:
            wrong = "no string, bool or finite number" if key is None else "in it twice"
            raise InvalidModelError(f"frame_categories[{feature}] holds {_shown(category)}, which is {wrong}")
        seen.add(key)


def _is_category(value: Any) -> bool:
    if isinstance(value, np.generic):
        value = value.item()
    return isinstance(value, (str, bool)) or is_finite(value)
