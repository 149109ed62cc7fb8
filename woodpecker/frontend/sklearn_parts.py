"""What the scikit-learn frontends share: reading fitted state, and node arrays in the form of the Forest IR."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError, InvalidModelError, UnsupportedModelError
from ..forest import LE, LEAF, MISSING_NAN

Fields = dict[str, Any]
"""Keyword arguments of `Forest`."""

_CLASSIFIER_TREES = frozenset({"sklearn.tree.DecisionTreeClassifier", "sklearn.tree.ExtraTreeClassifier"})
_REGRESSOR_TREES = frozenset({"sklearn.tree.DecisionTreeRegressor", "sklearn.tree.ExtraTreeRegressor"})


def public_name(cls: type) -> str:
    """The name under which scikit-learn exports a class: ``sklearn.tree._classes.X`` is ``sklearn.tree.X``."""
    return ".".join([*cls.__module__.split(".")[:2], cls.__qualname__])


def library_version() -> str:
    """The version of the imported scikit-learn."""
    return str(getattr(sys.modules.get("sklearn"), "__version__", "0"))


def version_before(major: int, minor: int) -> bool:
    """Whether the imported scikit-learn is older than ``major.minor``."""
    parts = library_version().split(".")
    return tuple(int(p) if p.isdigit() else 0 for p in [*parts, "0"][:2]) < (major, minor)


def fitted(model: Any, name: str) -> Any:
    """An attribute that fit() sets.

    Raises:
        InvalidModelError: the estimator is not fitted.
    """
    try:
        return getattr(model, name)
    except AttributeError:
        raise InvalidModelError(f"this {type(model).__name__} is not fitted (no {name}); call fit first") from None


def common_fields(model: Any) -> Fields:
    """Columns, their names, and where the model comes from."""
    names = getattr(model, "feature_names_in_", None)
    return {
        "n_features": int(fitted(model, "n_features_in_")),
        "feature_names": None if names is None else tuple(str(name) for name in names),
        "source": {"library": "scikit-learn", "version": library_version(), "estimator": type(model).__name__},
    }


def class_labels(model: Any) -> tuple[np.ndarray, ...]:
    """The labels of each output of a classifier."""
    classes = fitted(model, "classes_")
    return tuple(np.asarray(c) for c in classes) if isinstance(classes, list) else (np.asarray(classes),)


def stages(iteration_range: tuple[int, int] | None, n: int) -> int:
    """How many boosting stages are kept: those that ``staged_predict`` has added up at that point.

    Raises:
        InputError: the range does not begin at 0 or does not end within [1, n].
    """
    if iteration_range is None:
        return n
    begin, end = (int(i) for i in iteration_range)
    if begin != 0 or not 1 <= end <= n:
        raise InputError(
            f"iteration_range={tuple(iteration_range)}: scikit-learn's staged predictions begin at 0, so give (0, end) "
            f"with end from 1 to {n}"
        )
    return end


def narrow(name: str, numbers: np.ndarray) -> np.ndarray:
    """Node or feature numbers as int32; verify() checks their ranges, this one that no number wraps around."""
    if len(numbers) and not -(2**31) <= int(numbers.min()) <= int(numbers.max()) < 2**31:
        raise InvalidModelError(f"a {name} number lies outside of 32 bits: the model is damaged")
    return numbers.astype(np.int32)


def node_fields(
    *,
    sizes: Sequence[int],
    is_leaf: np.ndarray,
    feature: np.ndarray,
    threshold: np.ndarray,
    default_left: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    cover: np.ndarray,
) -> Fields:
    """The node arrays of trees of ``x <= t`` nodes whose leaves are numbered by node, as both kinds of trees
    in scikit-learn are. All arguments but ``sizes`` hold one entry per node of all trees."""
    offset = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    n = int(offset[-1])
    leaf = np.full(n, -1, np.int32)
    leaf[is_leaf] = np.arange(np.count_nonzero(is_leaf), dtype=np.int32)
    number = (np.arange(n) - np.repeat(offset[:-1], sizes)).astype(np.int32)
    return {
        "tree_offset": offset,
        "tree_output": np.zeros(len(sizes), np.int32),
        "kind": np.where(is_leaf, LEAF, LE).astype(np.uint8),
        "feature": narrow("feature", np.where(is_leaf, 0, feature)),
        "threshold": np.where(is_leaf, 0.0, threshold),
        "missing": np.full(n, MISSING_NAN, np.uint8),
        "default_left": np.where(is_leaf, False, default_left.astype(bool)),
        "left": narrow("child", np.where(is_leaf, 0, left)),
        "right": narrow("child", np.where(is_leaf, 0, right)),
        "category_set": np.full(n, -1, np.int32),
        "set_offset": np.zeros(1, np.int64),
        "set_values": np.zeros(0),
        "leaf": leaf,
        "leaf_id": np.where(is_leaf, number, -1).astype(np.int32),
        "cover": cover.astype(np.float64),
    }


def member_trees(members: Sequence[Any], *, classifier: bool) -> list[Any]:
    """The ``tree_`` of each member of an ensemble.

    Raises:
        UnsupportedModelError: a member is no plain decision tree of scikit-learn, so it may predict otherwise.
        InvalidModelError: there is no member, or one is not fitted or has no tree.
    """
    if len(members) == 0:
        raise InvalidModelError("the ensemble has no trees")
    allowed = _CLASSIFIER_TREES if classifier else _REGRESSOR_TREES
    trees = []
    for t, member in enumerate(members):
        if public_name(type(member)) not in allowed or {"predict", "predict_proba", "apply"} & set(vars(member)):
            kind = "classifier" if classifier else "regressor"
            raise UnsupportedModelError(f"member {t} is a {public_name(type(member))}, no {kind} tree of scikit-learn")
        trees.append(fitted(member, "tree_"))
        if public_name(type(trees[-1])) != "sklearn.tree.Tree":
            raise InvalidModelError(f"member {t}: tree_ is a {public_name(type(trees[-1]))}, no tree")
    return trees


def tree_fields(trees: Sequence[Any], columns: Sequence[np.ndarray] | None = None) -> tuple[Fields, np.ndarray]:
    """The node arrays of ``tree_`` objects and their (leaves, n_outputs, max_n_classes) float64 leaf values.

    Args:
        trees: `sklearn.tree._tree.Tree` objects with equal outputs.
        columns: Per tree, the columns of X that its features are (`estimators_features_`), or None.
    """
    # A node is a leaf where its left child is TREE_LEAF = -1; nothing else marks one.
    is_leaf = np.concatenate([tree.children_left for tree in trees]) == -1
    feature = np.concatenate([tree.feature for tree in trees])
    if columns is not None:
        feature = _rename(feature, is_leaf, [int(tree.node_count) for tree in trees], columns)
    fields = node_fields(
        sizes=[int(tree.node_count) for tree in trees],
        is_leaf=is_leaf,
        feature=feature,
        threshold=np.concatenate([tree.threshold for tree in trees]),
        default_left=np.concatenate([tree.missing_go_to_left for tree in trees]),
        left=np.concatenate([tree.children_left for tree in trees]),
        right=np.concatenate([tree.children_right for tree in trees]),
        cover=np.concatenate([tree.weighted_n_node_samples for tree in trees]),
    )
    return fields, np.concatenate([tree.value[tree.children_left == -1] for tree in trees])


def _rename(feature: np.ndarray, is_leaf: np.ndarray, sizes: list[int], columns: Sequence[np.ndarray]) -> np.ndarray:
    """Feature numbers of trees that each saw only some columns, as columns of X."""
    if len(columns) != len(sizes):
        raise InvalidModelError(f"{len(columns)} lists of columns for {len(sizes)} trees")
    width = np.array([len(c) for c in columns])
    tree = np.repeat(np.arange(len(sizes)), sizes)
    used = np.where(is_leaf, 0, feature)
    bad = np.flatnonzero((used < 0) | (used >= width[tree]))
    if len(bad):
        t = int(tree[bad[0]])
        raise InvalidModelError(f"tree {t} tests feature {int(used[bad[0]])} of {int(width[t])}")
    return np.concatenate(columns)[(np.cumsum(width) - width)[tree] + used]
