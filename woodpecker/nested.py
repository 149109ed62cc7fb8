"""A forest from nested dictionaries: the short way for a third-party tree library, for tests and for examples."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .errors import InvalidModelError
from .forest import IN, LE, LEAF, LT, MAX_OUTPUTS, MISSING_NAN, MISSING_ZERO, Forest
from .verify import verify

_KINDS = {"<": LT, "<=": LE, "in": IN}
_INNER_KEYS = {"feature", "op", "threshold", "categories", "missing", "missing_rule", "left", "right", "cover"}
_LEAF_KEYS = {"value", "id", "cover", "const", "coef"}
_FIELDS = {
    *("divisor", "input_dtype", "integer_dtype", "missing_value", "zero_band", "category_rule", "known_categories"),
    *("methods", "classes", "feature_names", "frame_categories", "unknown_category", "source"),
}
"""The fields of `Forest` that do not follow from the trees."""


def from_nested(
    trees: Sequence[Mapping[str, Any]],
    n_features: int,
    *,
    dtype: Any = np.float64,
    n_outputs: int | None = None,
    tree_output: Sequence[int] | None = None,
    base_score: Any = 0.0,
    **fields: Any,
) -> Forest:
    """A verified `Forest` from nested dictionaries.

    An inner node is ``{"feature": 0, "op": "<=", "threshold": 1.5, "left": node, "right": node}`` or, with
    ``"op": "in"``, ``{"feature": 0, "op": "in", "categories": [1, 4], "left": ..., "right": ...}``. Optional:
    ``"missing": "left" | "right"`` (default: right), ``"missing_rule": "nan" | "zero"``, ``"cover"``. A leaf is
    ``{"value": 0.25}`` or ``{"value": [0.1, 0.9]}``; optional: ``"id"`` (default: its node number in preorder), and
    for linear leaves ``"const"`` and ``"coef": {feature: coefficient}``.

    Args:
        trees: One dictionary per tree, in the order of the sum.
        n_features: Columns of X.
        dtype: Of leaf values and of the sum: float32 or float64.
        n_outputs: Raw scores per row; default: the length of vector leaves, else one more than the largest of
            ``tree_output``.
        tree_output: The output that each tree adds to; default: all 0.
        base_score: Scalar or (n_outputs,): where the sum starts.
        **fields: Further fields of `Forest`, such as ``input_dtype`` or ``methods``.

    Raises:
        InvalidModelError: names the tree and what is wrong.
    """
    if isinstance(trees, (str, bytes, Mapping)) or not isinstance(trees, Iterable):
        raise InvalidModelError(f"trees must be a list of dictionaries, found {type(trees).__name__}")
    if unknown := set(fields) - _FIELDS:
        raise InvalidModelError(f"unknown fields {sorted(unknown)}; known: {', '.join(sorted(_FIELDS))}")
    build = _Builder()
    for t, tree in enumerate(trees):
        build.add_tree(t, tree)
    width = build.width or 1
    try:
        outputs = _outputs(tree_output, len(build.offset) - 1)
        if n_outputs is None:
            n_outputs = width if width > 1 else int(outputs.max(initial=0)) + 1
        if not 1 <= operator.index(n_outputs) <= MAX_OUTPUTS:
            raise InvalidModelError(f"n_outputs must be from 1 to {MAX_OUTPUTS}, found {n_outputs}")
        with np.errstate(over="ignore"):  # verify() names what has become infinite
            forest = build.forest(outputs, n_features, np.dtype(dtype), n_outputs, base_score, fields)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, InvalidModelError):
            raise
        raise InvalidModelError(f"the numbers do not fit: {error}") from error
    return verify(forest)


def _listed(keys: Iterable[Any]) -> list[Any]:
    """In order, also where keys are of types that don't compare."""
    return sorted(keys, key=repr)


def _outputs(tree_output: Any, n_trees: int) -> np.ndarray:
    if tree_output is None:
        return np.zeros(n_trees, np.int32)
    found = np.asarray(tree_output)
    if found.size == 0:
        return np.zeros(found.shape, np.int32)
    if found.dtype.kind not in "iu" or found.min() < 0 or found.max() >= MAX_OUTPUTS:
        raise InvalidModelError(f"tree_output must be integers in [0, {MAX_OUTPUTS})")
    return found.astype(np.int32)


class _Builder:
    """Flattens dictionaries to node arrays, without recursion: trees may be thousands deep."""

    def __init__(self) -> None:
        self.node: dict[str, list[Any]] = {
            name: []
            for name in [
                "kind",
                "feature",
                "threshold",
                "missing",
                "default_left",
                "left",
                "right",
                "category_set",
                "leaf",
                "leaf_id",
                "cover",
            ]
        }
        self.offset, self.set_offset = [0], [0]
        self.set_values: list[float] = []
        self.values: list[list[float]] = []
        self.linear: list[tuple[float, dict[int, float]]] = []
        self.width: int | None = None

    def add_tree(self, t: int, tree: Mapping[str, Any]) -> None:
        base = self.offset[-1]
        stack: list[tuple[Mapping[str, Any], int, str]] = [(tree, -1, "")]
        seen: set[int] = set()
        while stack:
            node, parent, side = stack.pop()
            number = len(self.node["kind"]) - base
            if not isinstance(node, Mapping):
                raise InvalidModelError(f"tree {t}, node {number}: expected a dictionary, found {type(node).__name__}")
            if parent >= 0:
                self.node[side][base + parent] = number
            if "value" in node:
                self._leaf(t, number, node)
                continue
            if id(node) in seen:
                raise InvalidModelError(f"tree {t}, node {number}: the same dictionary stands in two places")
            seen.add(id(node))
            self._inner(t, number, node)
            stack += [(node["right"], number, "right"), (node["left"], number, "left")]
        self.offset.append(len(self.node["kind"]))

    def _append(self, **node: Any) -> None:
        default = dict(feature=0, threshold=0.0, missing=MISSING_NAN, default_left=False, left=0, right=0)
        default |= dict(category_set=-1, leaf=-1, leaf_id=-1, cover=np.nan)
        for name, column in self.node.items():
            column.append((default | node)[name])

    def _leaf(self, t: int, number: int, node: Mapping[str, Any]) -> None:
        if unknown := set(node) - _LEAF_KEYS:
            raise InvalidModelError(f"tree {t}, node {number}: unknown keys {_listed(unknown)} in a leaf")
        try:
            value = np.atleast_1d(np.asarray(node["value"], np.float64))
        except (TypeError, ValueError, OverflowError):
            raise InvalidModelError(f"tree {t}, node {number}: the value {node['value']!r} is no number") from None
        try:
            leaf_id = operator.index(node.get("id", number))
            const = float(node.get("const", value.flat[0] if value.size else 0.0))
            coef = {operator.index(f): float(c) for f, c in dict(node.get("coef", {})).items()}
            cover = float(node.get("cover", np.nan))
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidModelError(f"tree {t}, node {number}: {error}") from None
        if value.ndim != 1 or (self.width is not None and len(value) != self.width):
            raise InvalidModelError(f"tree {t}, node {number}: leaves must have {self.width} values each")
        self.width = len(value)
        row = len(self.values)
        self._append(kind=LEAF, leaf=row, leaf_id=leaf_id, cover=cover)
        self.values.append(value.tolist())
        self.linear.append((const, coef))

    def _inner(self, t: int, number: int, node: Mapping[str, Any]) -> None:
        where = f"tree {t}, node {number}"
        if unknown := set(node) - _INNER_KEYS:
            raise InvalidModelError(f"{where}: unknown keys {_listed(unknown)} in an inner node")
        if absent := {"feature", "op", "left", "right"} - set(node):
            raise InvalidModelError(f"{where}: keys {sorted(absent)} are absent (a leaf has 'value')")
        if not isinstance(node["op"], str) or node["op"] not in _KINDS:
            raise InvalidModelError(f"{where}: op must be one of {', '.join(_KINDS)}, found {node['op']!r}")
        if node.get("missing", "right") not in ("left", "right"):
            raise InvalidModelError(f"{where}: missing must be 'left' or 'right', found {node['missing']!r}")
        if node.get("missing_rule", "nan") not in ("nan", "zero"):
            raise InvalidModelError(f"{where}: missing_rule must be 'nan' or 'zero', found {node['missing_rule']!r}")
        operand = "categories" if node["op"] == "in" else "threshold"
        if operand not in node:
            raise InvalidModelError(f"{where}: op {node['op']!r} needs {operand!r}")
        category_set, threshold = -1, 0.0
        try:
            if operand == "categories":
                category_set = len(self.set_offset) - 1
                self.set_values += sorted({float(c) for c in node["categories"]})
                self.set_offset.append(len(self.set_values))
            else:
                threshold = float(node["threshold"])
            feature = operator.index(node["feature"])
            cover = float(node.get("cover", np.nan))
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidModelError(f"{where}: {error}") from None
        self._append(
            kind=_KINDS[node["op"]],
            feature=feature,
            threshold=threshold,
            missing=MISSING_ZERO if node.get("missing_rule") == "zero" else MISSING_NAN,
            default_left=node.get("missing") == "left",
            category_set=category_set,
            cover=cover,
        )

    def forest(
        self,
        tree_output: np.ndarray,
        n_features: int,
        dtype: np.dtype,
        n_outputs: int,
        base_score: Any,
        fields: Mapping[str, Any],
    ) -> Forest:
        dtypes = dict(kind=np.uint8, missing=np.uint8, threshold=np.float64, default_left=np.bool_, cover=np.float64)
        arrays: dict[str, Any] = {k: np.array(v, dtypes.get(k, np.int32)) for k, v in self.node.items()}
        if np.isnan(arrays["cover"]).any():
            arrays["cover"] = None
        if any(coef for _, coef in self.linear):
            terms = [(f, c) for _, coef in self.linear for f, c in coef.items()]
            arrays["linear_offset"] = np.cumsum([0] + [len(coef) for _, coef in self.linear], dtype=np.int64)
            arrays["linear_feature"] = np.array([f for f, _ in terms], np.int32)
            arrays["linear_coef"] = np.array([c for _, c in terms], np.float64)
            arrays["linear_const"] = np.array([const for const, _ in self.linear], np.float64)
        return Forest(
            tree_offset=np.array(self.offset, np.int64),
            tree_output=tree_output,
            set_offset=np.array(self.set_offset, np.int64),
            set_values=np.array(self.set_values, np.float64),
            values=np.array(self.values, dtype).reshape(len(self.values), self.width or 1),
            base_score=np.full(n_outputs, base_score, dtype),
            n_features=n_features,
            **arrays,
            **fields,
        )
