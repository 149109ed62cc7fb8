"""Decision trees, forests, IsolationForest and RandomTreesEmbedding."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidModelError, UnsupportedModelError
from ..forest import Forest, Method
from .sklearn_parts import Fields, class_labels, common_fields, fitted, member_trees, tree_fields


def single_tree(model: Any, *, classifier: bool) -> Forest:
    """DecisionTree and ExtraTree. The library returns the stored value as it is, so the sum starts at -0.0, the
    only start that keeps a leaf of -0.0."""
    trees = member_trees([model], classifier=classifier)
    return _averaged(model, trees, classifier=classifier, start=-0.0)


def averaged_forest(model: Any, *, classifier: bool) -> Forest:
    """RandomForest and ExtraTrees: the values are added in order from 0.0, and the sum is divided by their number.

    The reference is the library with one job; with more, it adds in the order in which threads arrive.
    """
    trees = member_trees(fitted(model, "estimators_"), classifier=classifier)
    return _averaged(model, trees, classifier=classifier, start=0.0)


def _averaged(model: Any, trees: list[Any], *, classifier: bool, start: float) -> Forest:
    widths = [int(n) for n in np.atleast_1d(fitted(model, "n_classes_"))] if classifier else []
    n_outputs = len(widths) or int(fitted(model, "n_outputs_"))
    for t, tree in enumerate(trees):
        if tree.n_outputs != n_outputs or (classifier and tree.n_classes.tolist() != widths):
            raise InvalidModelError(f"tree {t} has other outputs or classes than its {type(model).__name__}")
    fields, value = tree_fields(trees)
    if classifier:
        # `tree_.value` pads every output to the largest number of classes.
        fields["values"] = np.concatenate([value[:, k, :width] for k, width in enumerate(widths)], axis=1)
        fields["classes"] = class_labels(model)
        if [len(c) for c in fields["classes"]] != widths:
            raise InvalidModelError(f"classes_ and n_classes_ of this {type(model).__name__} disagree")
    else:
        fields["values"] = value[:, :, 0]
    return Forest(
        base_score=np.full(fields["values"].shape[1], start),
        divisor=len(trees),
        methods=_class_methods(widths) if classifier else {"predict": Method("value")},
        **_float32_rows(model),
        **fields,
    )


def _float32_rows(model: Any) -> Fields:
    """All of these estimators cast every X, integers too, to float32."""
    return {**common_fields(model), "input_dtype": "float32", "integer_dtype": "float32"}


def _class_methods(widths: list[int]) -> dict[str, Method]:
    """`widths`: the number of classes of each output."""
    if len(widths) > 1:
        return {
            "predict": Method("label", args={"groups": widths}),
            "predict_proba": Method("proba", args={"groups": widths}),
        }
    if widths == [1]:
        # A single class: its probability is the only column, not the second of two; no value exceeds 2.
        return {
            "predict": Method("label", args={"above": 2.0}),
            "predict_proba": Method("value", args={"squeeze": False}),
        }
    return {"predict": Method("label"), "predict_proba": Method("proba")}


def isolation_forest(model: Any) -> Forest:
    """IsolationForest: raw scores are the sums of depths, ``(node_depth[leaf] + apl[leaf]) - 1.0`` with a root of
    depth 1, where apl is the average path length of the leaf's training rows."""
    members = fitted(model, "estimators_")
    trees = member_trees(members, classifier=False)
    common = _float32_rows(model)
    # The library looks at estimators_features_ only where the trees see fewer columns than X has.
    sampled = int(fitted(model, "_max_features")) != common["n_features"]
    fields, _ = tree_fields(trees, fitted(model, "estimators_features_") if sampled else None)
    depth, length = fitted(model, "_decision_path_lengths"), fitted(model, "_average_path_length_per_tree")
    counts = [int(tree.node_count) for tree in trees]
    if [len(d) for d in depth] != counts or [len(a) for a in length] != counts:
        raise InvalidModelError("the path lengths of this IsolationForest do not match its trees")
    value = (np.concatenate(depth) + np.concatenate(length)) - 1.0
    denominator = len(members) * _average_path_length(int(fitted(model, "_max_samples")))
    offset = float(fitted(model, "offset_"))
    link = "isolation_score"
    score: dict[str, float] = {"denominator": denominator}
    shifted = {**score, "subtract": offset}
    if denominator == 0:
        # Trained on one row per tree: the library puts 1 for the quotient 0 / 0, so that every score is -(2**-1).
        if value[fields["leaf"] >= 0].any():
            raise InvalidModelError("an IsolationForest of one row per tree has depths other than 0")
        link, score, shifted = "identity", {"subtract": 0.5}, {"subtract": 0.5 + offset}
    return Forest(
        values=value[fields["leaf"] >= 0].astype(np.float64)[:, None],
        base_score=np.zeros(1),
        methods={
            "predict": Method("outlier", link, shifted),
            "decision_function": Method("value", link, shifted),
            "score_samples": Method("value", link, score),
        },
        **common,
        **fields,
    )


def _average_path_length(n: int) -> float:
    """`sklearn.ensemble._iforest._average_path_length` of one number, in its order of operations."""
    if n <= 2:
        return 1.0 if n == 2 else 0.0
    one = np.array([n])
    return float((2.0 * (np.log(one - 1.0) + np.euler_gamma) - 2.0 * (one - 1.0) / one)[0])


def trees_embedding(model: Any) -> Forest:
    """RandomTreesEmbedding: ``transform`` one-hot encodes leaf ids.

    The encoder's categories are the leaves that training rows reached; `woodpecker.runtime.outputs.leaves_onehot`.
    """
    trees = member_trees(fitted(model, "estimators_"), classifier=False)
    fields, value = tree_fields(trees)
    encoder = fitted(model, "one_hot_encoder_")
    categories = [np.asarray(c).tolist() for c in fitted(encoder, "categories_")]
    plain = encoder.drop is None and encoder.min_frequency is None and encoder.max_categories is None
    if len(categories) != len(trees) or not plain or encoder.handle_unknown != "error":
        raise UnsupportedModelError("the one_hot_encoder_ of this RandomTreesEmbedding is not the one that fit() makes")
    # scikit-learn decides between a sparse matrix and a sparse array, and its version and settings decide with it.
    sample = encoder.transform([[c[0] for c in categories]])
    args = {"categories": categories, "container": type(sample).__name__, "dtype": str(sample.dtype)}
    return Forest(
        values=value[:, :, 0],
        base_score=np.zeros(1),
        divisor=len(trees),
        methods={"transform": Method("leaves_onehot", args=args)},
        **_float32_rows(model),
        **fields,
    )
