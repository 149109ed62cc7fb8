"""HistGradientBoostingClassifier and HistGradientBoostingRegressor."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InvalidModelError, UnsupportedModelError
from ..forest import IN, Forest, Method
from .sklearn_parts import Fields, class_labels, common_fields, fitted, node_fields, stages, version_before

_LINKS = {"IdentityLink": "identity", "LogLink": "exp", "LogitLink": "sigmoid", "MultinomialLogit": "sk_softmax"}

_CODES = 256
"""A bitset holds one bit per code of a uint8."""


def hist_gradient_boosting(model: Any, *, classifier: bool, iteration_range: tuple[int, int] | None) -> Forest:
    """Sums in float64 from the baseline, iteration by iteration and class by class within one; rows are float64."""
    iterations = fitted(model, "_predictors")
    baseline = np.asarray(fitted(model, "_baseline_prediction")).reshape(-1)
    k = len(baseline)
    if baseline.dtype != np.float64 or len(iterations) == 0 or any(len(it) != k for it in iterations):
        raise InvalidModelError(f"this {type(model).__name__} must have {k} trees per iteration and a float64 baseline")
    n = stages(iteration_range, len(iterations))
    predictors = [predictor for iteration in iterations[:n] for predictor in iteration]
    common = common_fields(model)
    known, labels = _categories(model)
    fields = _nodes(predictors, _column_order(model, common["n_features"]), known)
    fields["tree_output"] = np.tile(np.arange(k, dtype=np.int32), n)
    link = _LINKS.get(type(fitted(model, "_loss").link).__name__)
    if link is None:
        raise UnsupportedModelError(f"{type(model).__name__} with loss={model.loss!r} is not supported")
    return Forest(
        base_score=0.0 + baseline,
        methods=_class_methods(k, link) if classifier else {"predict": Method("value", link)},
        classes=class_labels(model) if classifier else (),
        input_dtype="float64",
        integer_dtype="float64",
        category_rule="exact",
        known_categories=known,
        frame_categories=labels,
        unknown_category="nan",
        **common,
        **fields,
    )


def _class_methods(k: int, link: str) -> dict[str, Method]:
    predict = Method("label", args={"above": 0.0} if k == 1 else {})
    if version_before(1, 5):
        # Until 1.4 probabilities decided, and a raw score too small to move one away from 0.5 lost.
        predict = Method("label", link)
    return {"predict": predict, "predict_proba": Method("proba", link), "decision_function": Method("value")}


def _column_order(model: Any, n_features: int) -> np.ndarray:
    """(n_features,): the column of X that each feature number of the trees means: categories were moved first."""
    is_categorical = fitted(model, "is_categorical_")
    if is_categorical is None:
        return np.arange(n_features)
    is_categorical = np.asarray(is_categorical, bool)
    if is_categorical.shape != (n_features,):
        raise InvalidModelError(f"is_categorical_ has shape {is_categorical.shape} for {n_features} features")
    return np.concatenate([np.flatnonzero(is_categorical), np.flatnonzero(~is_categorical)])


def _categories(model: Any) -> tuple[dict[int, np.ndarray], dict[int, list[str]]]:
    """Per categorical column its category values, and per column of strings also the strings, whose values are
    their indices: the ordinal encoder's categories without the missing one."""
    is_categorical = fitted(model, "is_categorical_")
    if is_categorical is None:
        return {}, {}
    columns = np.flatnonzero(is_categorical).tolist()
    encoder = model._preprocessor.named_transformers_["encoder"]
    known: dict[int, np.ndarray] = {}
    labels: dict[int, list[str]] = {}
    for column, found in zip(columns, encoder.categories_, strict=True):
        categories = np.asarray(found).tolist()
        if categories and isinstance(categories[-1], float) and np.isnan(categories[-1]):
            categories = categories[:-1]
        if len(categories) > _CODES:
            raise InvalidModelError(f"column {column} has {len(categories)} categories; at most {_CODES} are possible")
        if categories and all(isinstance(c, str) for c in categories):
            known[column], labels[column] = np.arange(len(categories), dtype=np.float64), categories
        else:
            known[column] = _numeric_categories(column, categories)
    return known, labels


def _numeric_categories(column: int, categories: Sequence[Any]) -> np.ndarray:
    if None in categories:
        # polars' nulls arrive as None, which the encoder makes a category of its own, unlike NaN.
        raise UnsupportedModelError(
            f"column {column} was trained with None as a category of its own, which is not supported; train with NaN "
            "for missing values, or fill them"
        )
    for c in categories:
        # Beyond 2**53 two integers that the library tells apart become one float64.
        if not isinstance(c, numbers.Real) or float(c) != c or abs(float(c)) > 2**53:
            raise UnsupportedModelError(
                f"column {column} has the category {c!r}: neither a string nor an exact float64"
            )
    return np.array([float(c) for c in categories], np.float64)


def _nodes(predictors: Sequence[Any], order: np.ndarray, known: dict[int, np.ndarray]) -> Fields:
    nodes = [predictor.nodes for predictor in predictors]

    def column(name: str) -> np.ndarray:
        return np.concatenate([n[name] for n in nodes])

    is_leaf = column("is_leaf") != 0
    feature = np.where(is_leaf, 0, column("feature_idx"))
    if feature.min() < 0 or feature.max() >= len(order):
        raise InvalidModelError(f"a node tests a feature outside of [0, {len(order)})")
    fields = node_fields(
        sizes=[len(n) for n in nodes],
        is_leaf=is_leaf,
        feature=order[feature],
        threshold=column("num_threshold"),
        default_left=column("missing_go_to_left") != 0,
        left=column("left").astype(np.int64),
        right=column("right").astype(np.int64),
        cover=column("count"),
    )
    fields["values"] = column("value")[is_leaf][:, None]
    splits = np.flatnonzero((column("is_categorical") != 0) & ~is_leaf)
    if len(splits):
        bitsets = [np.asarray(predictor.raw_left_cat_bitsets, np.uint32).reshape(-1, 8) for predictor in predictors]
        counts = np.array([len(b) for b in bitsets])
        tree = np.repeat(np.arange(len(nodes)), [len(n) for n in nodes])[splits]
        index = column("bitset_idx").astype(np.int64)[splits]
        if (index >= counts[tree]).any():
            raise InvalidModelError("a categorical node names a bitset that its tree does not have")
        words = np.concatenate(bitsets)[(np.cumsum(counts) - counts)[tree] + index]
        fields |= _left_sets(fields["feature"][splits], words, known)
        fields["kind"][splits] = IN
        fields["threshold"][splits] = 0.0
        fields["category_set"][splits] = np.arange(len(splits), dtype=np.int32)
    return fields


def _left_sets(feature: np.ndarray, words: np.ndarray, known: dict[int, np.ndarray]) -> Fields:
    """One category set per row of the (n, 8) uint32 bitsets of codes, as category values."""
    values = np.full((max(known, default=0) + 1, _CODES), np.nan)
    for column, categories in known.items():
        values[column, : len(categories)] = categories
    if not np.isin(feature, list(known)).all():
        raise InvalidModelError("a categorical node tests a column that is not categorical")
    bits = np.unpackbits(words.astype("<u4").view(np.uint8), axis=1, bitorder="little")
    row, code = np.nonzero(bits)
    members = values[feature[row], code]
    if np.isnan(members).any():
        raise InvalidModelError("a categorical node names a category that its column does not have")
    return {"set_offset": np.concatenate([[0], np.cumsum(bits.sum(1))]).astype(np.int64), "set_values": members}
