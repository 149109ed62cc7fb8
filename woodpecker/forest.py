"""The Forest IR: what every tree ensemble is, whichever library trained it.

A forest is plain, frozen numpy data. All trees are concatenated; the nodes of tree ``t`` are the slice
``tree_offset[t]:tree_offset[t + 1]`` of each node array, its root comes first, and children are numbered from the
tree's own root. How one row ``x`` is scored::

    for t in trees:                                  # in this order
        i = root
        while kind[i] != LEAF:
            v = cast(x[feature[i]], input_dtype)     # v == missing_value counts as NaN
            if missing(v, missing[i]):  i = left[i] if default_left[i] else right[i]
            elif kind[i] == LT:         i = left[i] if v <  threshold[i] else right[i]
            elif kind[i] == LE:         i = left[i] if v <= threshold[i] else right[i]
            elif kind[i] == IN:         i = left[i] if category(v) in set(i) else right[i]
        acc[output] += values[leaf[i]]               # acc starts at base_score, in the dtype of `values`
    raw = acc / divisor                              # no division where divisor == 1

Everything that a source library multiplies once (learning rate, DART weights) is already inside `values`, rounded as
that library rounds it, so scoring is comparisons and additions only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .errors import InputError, InvalidModelError

# Node kinds: which values go left.
LEAF, LT, LE, IN = 0, 1, 2, 3
KIND_NAMES = ("leaf", "<", "<=", "in")

# Missing rules: which values follow `default_left`.
MISSING_NAN = 0
"""NaN only."""
MISSING_ZERO = 1
"""NaN, and every v with ``|v| <= ZERO_BAND`` (LightGBM's ``zero_as_missing``)."""

ZERO_BAND = float(np.float32(1e-35))
"""LightGBM's kZeroThreshold: a float32 constant that is compared in float64."""

CATEGORY_RULES = ("truncate", "truncate_nonnegative", "exact")
"""How a value names a category.

``truncate``: toward zero, so -0.5 is category 0 (LightGBM). ``truncate_nonnegative``: the same, but every v < 0 names
none (XGBoost). ``exact``: v must equal a category; a value that equals no entry of ``known_categories[feature]`` is
missing (scikit-learn's HistGradientBoosting).
"""

MAX_NODES = 2**30
MAX_OUTPUTS = 2**20
MAX_FEATURES = 2**24


@dataclass(frozen=True)
class Method:
    """What one method of the source model returns, as a rule over raw scores.

    Args:
        kind: A key of `woodpecker.runtime.outputs.KINDS`, or "leaves_onehot".
        link: The name of a link (`woodpecker.relay_ops.link.LINKS`) that is applied to the raw scores first.
        args: Parameters of the rule, JSON values only.
    """

    kind: str
    link: str = "identity"
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Forest:
    """A trained tree ensemble as frozen numpy arrays; see the module's docstring for their meaning.

    With T trees, N nodes, S category sets, M leaves, K outputs, and V = `values.shape[1]`:

    Args:
        tree_offset: (T + 1,) int64.
        tree_output: (T,) int32, the output that a tree adds to; 0 where leaves are vectors (V == K > 1).
        kind: (N,) uint8, one of LEAF, LT, LE, IN.
        feature: (N,) int32; 0 at leaves.
        threshold: (N,) float64; 0 where unused. Not NaN.
        missing: (N,) uint8, MISSING_NAN or MISSING_ZERO.
        default_left: (N,) bool.
        left, right: (N,) int32, node numbers within the tree; 0 at leaves.
        category_set: (N,) int32, index of the set of an IN node, else -1.
        set_offset: (S + 1,) int64 into `set_values`.
        set_values: float64, ascending within each set.
        leaf: (N,) int32, row of `values`, -1 at inner nodes. Each row belongs to one node.
        leaf_id: (N,) int32, the number that the source library gives this leaf in ``apply``; -1 at inner nodes.
        values: (M, V) float32 or float64, which is also the dtype of the accumulator; V is 1 or K.
        n_features: Columns of X.
        base_score: (K,), the accumulator's start, same dtype as `values`.
        divisor: The sum is divided by this integer (scikit-learn's forests); 1: not divided.
        input_dtype: "float32" or "float64": what every value is cast to before it is compared.
        integer_dtype: What rows of integers, bool or float16 are cast to before that (LightGBM: "float32").
        missing_value: A value that counts as NaN, beside NaN itself (XGBoost's ``missing``).
        zero_band: Every value with ``|v| <= zero_band`` is read as 0.0 (LightGBM's dense rows); 0.0: none.
        category_rule: One of CATEGORY_RULES.
        known_categories: feature -> ascending float64 values, for the rule "exact".
        linear_offset: (M + 1,) int64, or None where no leaf is linear. A leaf with coefficients has the value
            ``((linear_const + c0 * x0) + c1 * x1) + ...`` in float64, unless one of those x is NaN; then it has
            `values`, as a leaf without coefficients always has.
        linear_feature, linear_coef: int32 and float64, the terms of all leaves; linear_const: (M,) float64.
        cover: (N,) float64 training weight per node, or None.
        methods: What the source model's methods return: "predict" and any of "predict_proba", "decision_function",
            "score_samples", "transform", and the like.
        classes: Per output of a classifier, its labels; empty for others.
        feature_names: (n_features,) names, or None.
        frame_categories: feature -> the categories, in the order of their codes, by which a frame's categorical
            column is encoded. An encoded value is the code, as a number.
        unknown_category: What a category outside of `frame_categories` is: "error" or "nan".
        source: Where it comes from: "library", "version", "estimator", ...; JSON values only.
    """

    tree_offset: np.ndarray
    tree_output: np.ndarray
    kind: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    missing: np.ndarray
    default_left: np.ndarray
    left: np.ndarray
    right: np.ndarray
    category_set: np.ndarray
    set_offset: np.ndarray
    set_values: np.ndarray
    leaf: np.ndarray
    leaf_id: np.ndarray
    values: np.ndarray
    n_features: int
    base_score: np.ndarray
    divisor: int = 1
    input_dtype: str = "float32"
    integer_dtype: str = "float32"
    missing_value: float = float("nan")
    zero_band: float = 0.0
    category_rule: str = "truncate"
    known_categories: Mapping[int, np.ndarray] = field(default_factory=dict)
    linear_offset: np.ndarray | None = None
    linear_feature: np.ndarray | None = None
    linear_coef: np.ndarray | None = None
    linear_const: np.ndarray | None = None
    cover: np.ndarray | None = None
    methods: Mapping[str, Method] = field(default_factory=lambda: {"predict": Method("value")})
    classes: tuple[np.ndarray, ...] = ()
    feature_names: tuple[str, ...] | None = None
    frame_categories: Mapping[int, Sequence[Any]] = field(default_factory=dict)
    unknown_category: str = "error"
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray) and value.flags.writeable:
                frozen = value.view()
                frozen.flags.writeable = False
                object.__setattr__(self, f.name, frozen)

    @property
    def n_trees(self) -> int:
        return len(self.tree_offset) - 1

    @property
    def n_nodes(self) -> int:
        return len(self.kind)

    @property
    def n_leaves(self) -> int:
        return len(self.values)

    @property
    def n_outputs(self) -> int:
        """K: the width of a row of raw scores."""
        return len(self.base_score)

    @property
    def vector_leaves(self) -> bool:
        """Whether a leaf adds to all outputs at once."""
        return self.values.shape[1] > 1

    def replace(self, **changes: Any) -> Forest:
        """A verified copy with some fields changed."""
        from .verify import verify

        return verify(dataclasses.replace(self, **changes))

    @staticmethod
    def from_nested(trees: Sequence[Mapping[str, Any]], n_features: int, **fields: Any) -> Forest:
        """A forest from nested dictionaries; see `woodpecker.nested.from_nested`."""
        from .nested import from_nested

        return from_nested(trees, n_features, **fields)


def tree_slice(forest: Forest, t: int) -> slice:
    """The nodes of tree ``t``, as a slice of the node arrays."""
    return slice(int(forest.tree_offset[t]), int(forest.tree_offset[t + 1]))


def tree_of_node(forest: Forest) -> np.ndarray:
    """(N,) int64: the tree that each node belongs to."""
    return np.repeat(np.arange(forest.n_trees), np.diff(forest.tree_offset))


def node_depth(forest: Forest) -> np.ndarray:
    """(N,) int32: edges between each node and its root. All trees advance together, one level a step."""
    depth = np.zeros(forest.n_nodes, np.int32)
    base = forest.tree_offset[:-1][tree_of_node(forest)]
    level = forest.tree_offset[:-1]
    d = 0
    while len(level):
        depth[level] = d
        inner = level[forest.kind[level] != LEAF]
        level = np.concatenate([base[inner] + forest.left[inner], base[inner] + forest.right[inner]])
        d += 1
    return depth


def tree_depth(forest: Forest) -> np.ndarray:
    """(T,) int32: the depth of each tree; 0 for a single leaf."""
    if forest.n_trees == 0:
        return np.zeros(0, np.int32)
    return np.maximum.reduceat(node_depth(forest), forest.tree_offset[:-1])


def leaf_depth(forest: Forest) -> tuple[np.ndarray, np.ndarray]:
    """(T,) float64 each: the mean depth of the leaves that rows reach, and its standard deviation.

    Rows are taken to fall into leaves by the training cover, or evenly where the model has none.
    """
    leaves = np.flatnonzero(forest.kind == LEAF)
    tree = tree_of_node(forest)[leaves]
    depth = node_depth(forest)[leaves].astype(np.float64)
    # A cover is whatever the model file says.
    weight = None if forest.cover is None else np.clip(np.nan_to_num(forest.cover[leaves]), 1e-9, 1e18)

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.bincount(tree, weight, forest.n_trees)
        return np.bincount(tree, values if weight is None else values * weight, forest.n_trees) / total

    middle = mean(depth)
    return middle, np.sqrt(mean((depth - middle[tree]) ** 2))


def tree_leaves(forest: Forest) -> np.ndarray:
    """(T,) int64: leaves of each tree."""
    if forest.n_trees == 0:
        return np.zeros(0, np.int64)
    return np.add.reduceat((forest.kind == LEAF).astype(np.int64), forest.tree_offset[:-1])


def bfs_order(forest: Forest, t: int) -> np.ndarray:
    """Node numbers of tree ``t`` (from its root), level by level, left before right."""
    s = tree_slice(forest, t)
    kind, left, right = forest.kind[s], forest.left[s], forest.right[s]
    levels, level = [], np.zeros(1, np.int64)
    while len(level):
        levels.append(level)
        inner = level[kind[level] != LEAF]
        level = np.stack([left[inner], right[inner]], 1).reshape(-1).astype(np.int64)
    return np.concatenate(levels)


def dfs_order(forest: Forest, t: int) -> np.ndarray:
    """Node numbers of tree ``t`` (from its root) in preorder, left before right."""
    s = tree_slice(forest, t)
    kind, left, right = forest.kind[s], forest.left[s], forest.right[s]
    order, stack = [], [0]
    while stack:
        i = stack.pop()
        order.append(i)
        if kind[i] != LEAF:
            stack += [int(right[i]), int(left[i])]
    return np.array(order, np.int64)


def decision_values(forest: Forest, t: int) -> dict[str, np.ndarray]:
    """The tests of tree ``t`` in preorder: "node", "feature", "kind", "threshold", one entry per inner node."""
    order = dfs_order(forest, t)
    s = tree_slice(forest, t)
    node = order[forest.kind[s][order] != LEAF]
    return {
        "node": node,
        "feature": forest.feature[s][node],
        "kind": forest.kind[s][node],
        "threshold": forest.threshold[s][node],
    }


def leaf_values(forest: Forest, t: int) -> np.ndarray:
    """(leaves, V): the leaf values of tree ``t``, from left to right."""
    order = dfs_order(forest, t)
    leaf = forest.leaf[tree_slice(forest, t)][order]
    return forest.values[leaf[leaf >= 0]]


def select_trees(forest: Forest, trees: Sequence[int] | np.ndarray) -> Forest:
    """The forest of these trees, in this order; leaf values that no tree uses any more are dropped."""
    trees = np.asarray(trees)
    if trees.size == 0:
        trees = trees.astype(np.int64)
    whole = trees.ndim == 1 and trees.dtype.kind in "iu"
    if not whole or ((trees < 0) | (trees >= forest.n_trees)).any():
        raise InputError(f"trees must be a list of tree numbers from 0 to {forest.n_trees - 1}")
    sizes = np.diff(forest.tree_offset)[trees]
    offset = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    node = np.repeat(forest.tree_offset[:-1][trees] - offset[:-1], sizes) + np.arange(offset[-1])
    per_node = ("kind", "feature", "threshold", "missing", "default_left", "left", "right", "category_set", "leaf_id")
    changes: dict[str, Any] = {name: getattr(forest, name)[node] for name in per_node}
    old_leaf = forest.leaf[node]
    rows = old_leaf[old_leaf >= 0]
    leaf = np.full(len(node), -1, np.int32)
    leaf[old_leaf >= 0] = np.arange(len(rows), dtype=np.int32)
    if forest.linear_offset is not None and forest.linear_feature is not None and forest.linear_coef is not None:
        counts = np.diff(forest.linear_offset)[rows]
        linear_offset = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        term = np.repeat(forest.linear_offset[:-1][rows] - linear_offset[:-1], counts) + np.arange(linear_offset[-1])
        changes |= {"linear_offset": linear_offset, "linear_feature": forest.linear_feature[term]}
        changes |= {"linear_coef": forest.linear_coef[term]}
        changes |= {"linear_const": None if forest.linear_const is None else forest.linear_const[rows]}
    return dataclasses.replace(
        forest,
        tree_offset=offset,
        tree_output=forest.tree_output[trees],
        leaf=leaf,
        values=forest.values[rows],
        cover=None if forest.cover is None else forest.cover[node],
        **changes,
    )


def reorder_by_output(forest: Forest) -> Forest:
    """The same forest with its trees grouped by output. Raw scores keep their bits: the order within each output,
    which is all that a sum depends on, is unchanged; columns of ``apply`` follow the trees."""
    return select_trees(forest, np.argsort(forest.tree_output, kind="stable"))


def check_array(name: str, array: Any, dtype: Any, shape: tuple[int | None, ...]) -> None:
    """Raise InvalidModelError unless ``array`` has exactly this dtype and shape (None: any length)."""
    if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype):
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise InvalidModelError(f"Forest.{name} must be an array of {np.dtype(dtype)}, found {found}")
    if array.ndim != len(shape) or any(
        want is not None and want != have for want, have in zip(shape, array.shape, strict=True)
    ):
        wanted = tuple("any" if n is None else n for n in shape)
        raise InvalidModelError(f"Forest.{name} must have shape {wanted}, found {array.shape}")
