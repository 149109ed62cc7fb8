"""What the methods of XGBoost's objects return: `python-package/xgboost/sklearn.py` as rules over raw scores."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import UnsupportedModelError
from ..forest import Method

Classes = tuple[np.ndarray, ...]


def methods_of(
    model: Any, names: frozenset[str], objective: str, link: str, n_outputs: int
) -> tuple[dict[str, Method], Classes]:
    """The methods of the source object, and the labels of a classifier.

    Args:
        model: The live object, or None for a file, which stands for a Booster.
        names: The names of its classes within XGBoost.
        objective: The objective that is stored in the model.
        link: The link of that objective.
        n_outputs: The width of a row of raw scores.
    """
    if "XGBClassifier" not in names:
        return {"predict": Method("value", link)}, ()
    # An estimator decides by its own attribute, which is a callable for a custom objective.
    by_softmax = isinstance(model.objective, str) and model.objective == "multi:softmax"
    n_classes = int(model.n_classes_)
    width = 1 if link == "argmax" else n_outputs
    if width > 1 and n_classes not in (2, width):
        raise UnsupportedModelError(f"a classifier of {n_classes} classes with {width} outputs is not supported")
    # XGBoost's labels of a single class are 0 and 1 nonetheless.
    classes = (np.arange(max(n_classes, 2)),)
    methods: dict[str, Method] = {}
    if width > 1 and n_classes != 2:
        methods["predict"] = Method("label", link)
    elif width > 1:
        methods["predict"] = Method("indicator", link, {"dtype": "float64"})
    elif by_softmax:
        methods["predict"] = Method("value", link, {"dtype": "int32"})
    else:
        methods["predict"] = Method("label", link, {"above": 0.5})
    if not by_softmax:
        methods["predict_proba"] = Method("proba", link)
    elif n_outputs > 1:
        methods["predict_proba"] = Method("value", "softmax")  # scipy.special.softmax
    return methods, classes
