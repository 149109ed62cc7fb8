"""GradientBoostingClassifier and GradientBoostingRegressor."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import InvalidModelError, UnsupportedModelError
from ..forest import Forest, Method
from .sklearn_parts import class_labels, common_fields, fitted, member_trees, public_name, stages, tree_fields

_PROBABILITY_LINKS = {
    "HalfBinomialLoss": "sigmoid",
    "ExponentialLoss": "sk_sigmoid2",
    "HalfMultinomialLoss": "sk_softmax",
}


def gradient_boosting(model: Any, *, classifier: bool, iteration_range: tuple[int, int] | None) -> Forest:
    """``acc = init; acc += learning_rate * value``, stage by stage and class by class within a stage."""
    members = np.asarray(fitted(model, "estimators_"), object)
    if members.ndim != 2:
        raise InvalidModelError(f"estimators_ must have two axes, found {members.ndim}")
    n, k = stages(iteration_range, members.shape[0]), members.shape[1]
    trees = member_trees(members[:n].reshape(-1).tolist(), classifier=False)
    if any(tree.n_outputs != 1 for tree in trees):
        raise InvalidModelError("a boosted tree has more than one output")
    fields, value = tree_fields(trees)
    fields["tree_output"] = np.tile(np.arange(k, dtype=np.int32), n)
    methods = {"predict": Method("value")}
    if classifier:
        loss = type(fitted(model, "_loss")).__name__
        if loss not in _PROBABILITY_LINKS:
            raise UnsupportedModelError(f"GradientBoostingClassifier with the loss {loss} is not supported")
        methods = {
            # predict() decides on raw scores, and an exact tie is the second class.
            "predict": Method("label", args={"at_least": 0.0} if k == 1 else {}),
            "predict_proba": Method("proba", _PROBABILITY_LINKS[loss]),
            "decision_function": Method("value"),
        }
    return Forest(
        # The library multiplies for each row; the product is the same each time.
        values=np.float64(model.learning_rate) * value[:, :, 0],
        base_score=_init_scores(model, k),
        methods=methods,
        classes=class_labels(model) if classifier else (),
        input_dtype="float32",
        integer_dtype="float32",
        **common_fields(model),
        **fields,
    )


def _init_scores(model: Any, k: int) -> np.ndarray:
    """(k,) float64: what every row's sum starts with.

    The library computes it, from a row of zeros: its clipping of probabilities changed between versions.
    """
    init = fitted(model, "init_")
    if isinstance(init, str) and init == "zero":
        return np.zeros(k)
    name = public_name(type(init))
    constant = name == "sklearn.dummy.DummyRegressor" or (
        name == "sklearn.dummy.DummyClassifier" and init.strategy != "stratified"
    )
    if not constant:
        raise UnsupportedModelError(
            f"{type(model).__name__} with init={init!r} is not supported: its start depends on the row; supported are "
            "the default, 'zero', DummyRegressor, and DummyClassifier but for strategy='stratified'"
        )
    scores: np.ndarray = np.asarray(
        model._raw_predict_init(np.zeros((1, int(model.n_features_in_)), np.float32)), np.float64
    )
    if scores.shape != (1, k):
        raise InvalidModelError(f"the init estimator gives {scores.shape[1:]} scores for {k} outputs")
    return scores.reshape(k)
