"""What LightGBM does with raw scores: the link of an objective, and what each method of a model returns."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InvalidModelError, UnsupportedModelError
from ..forest import Method
from .lightgbm_text import ModelText

_IDENTITY = ("huber", "lambdarank", "rank_xendcg", "custom")
_IDENTITY_OR_SQRT = ("regression", "regression_l1", "fair", "quantile", "mape")
_EXP = ("poisson", "gamma", "tweedie")


def link(parsed: ModelText, sigmoid: float | None) -> tuple[str, dict[str, Any]]:
    """The link of an objective and its arguments: ``ConvertOutput`` of src/objective/*_objective.hpp.

    ``sigmoid`` replaces the parameter of that name in the text.
    """
    k = parsed.n_outputs
    name, words, parameters = _split(parsed)
    if name in ("multiclass", "multiclassova"):
        if parameters.get("num_class") != str(k):
            raise InvalidModelError(f"the objective {parsed.objective!r} does not fit a model of {k} classes")
    elif k != 1 and name != "custom":
        raise InvalidModelError(f"the objective {parsed.objective!r} has one output, the model has {k}")
    if name in ("binary", "multiclassova"):
        alpha = atof(parameters.get("sigmoid", "")) if sigmoid is None else sigmoid
        if not 0 < alpha < math.inf:
            raise InvalidModelError(f"the objective {parsed.objective!r} has no positive sigmoid")
        return "lgb_sigmoid" if name == "binary" else "lgb_ova", {"sigmoid": alpha}
    if name == "multiclass":
        return "lgb_softmax", {}
    if name == "cross_entropy":
        return "lgb_sigmoid", {"sigmoid": 1.0}
    if name == "cross_entropy_lambda":
        return "lgb_cross_entropy_lambda", {}
    if name in _EXP:
        return "exp", {}
    if name in _IDENTITY_OR_SQRT:
        return "lgb_sqrt" if "sqrt" in words else "identity", {}
    if name in _IDENTITY:
        return "identity", {}
    raise UnsupportedModelError(f"unknown LightGBM objective {parsed.objective!r}")


def _split(parsed: ModelText) -> tuple[str, list[str], dict[str, str]]:
    """(name, words, parameters) of an objective such as "binary sigmoid:1"; without one, raw scores are returned."""
    name, *words = (parsed.objective if parsed.objective is not None else "custom").split(" ")
    return name, words, dict(word.split(":") for word in words if word.count(":") == 1)


def live_sigmoid(booster: Any, parsed: ModelText) -> float | None:
    """The sigmoid parameter that a live booster computes with.

    The model text holds 6 digits of it. A booster that has been through the text (``lgb.train`` sends it there, so does
    unpickling) has lost the others; one that was kept in training has not. Which of both it is shows in its answers.
    """
    written = _split(parsed)[2].get("sigmoid")
    given = getattr(booster, "params", {}).get("sigmoid")
    if written is None or given is None:
        return None
    candidates = [atof(written), atof(str(given))]
    if candidates[0] == candidates[1]:
        return candidates[0]
    X = _rows_at_thresholds(parsed)
    raw = booster.predict(X, raw_score=True, num_iteration=-1)
    p = booster.predict(X, num_iteration=-1)
    if parsed.average_output:
        raw = raw / (len(parsed.trees) // parsed.n_outputs)
    with np.errstate(over="ignore"):
        error = [float(np.abs(1 / (1 + np.exp(-alpha * raw)) - p).max()) for alpha in candidates]
    best = int(np.argmin(error))
    # A few units in the last place of exp; two candidates differ by far more, wherever the difference matters.
    if not error[best] < 1e-14:
        raise UnsupportedModelError(
            f"this booster's sigmoid is neither {candidates[0]} nor {candidates[1]}; reload it from model_to_string()"
        )
    return candidates[best]


def _rows_at_thresholds(parsed: ModelText) -> np.ndarray:
    n = max(1, min(64, 10**6 // max(1, parsed.n_features)))
    X = np.zeros((n, parsed.n_features))
    feature = np.concatenate([tree.feature for tree in parsed.trees] or [np.zeros(0, np.int64)])
    threshold = np.concatenate([tree.threshold for tree in parsed.trees] or [np.zeros(0)])
    rng = np.random.default_rng(0)
    for f in np.unique(feature):
        X[:, f] = rng.choice(threshold[feature == f], n)
    return X


def methods(
    estimator: Any, kind: str, k: int, link: str, args: Mapping[str, Any]
) -> tuple[dict[str, Method], tuple[np.ndarray, ...]]:
    """(methods, classes) of a Booster or an estimator: lightgbm/sklearn.py, ``predict`` and ``predict_proba``."""
    value = Method("value", link, args)
    if estimator is None:
        return {"predict": value}, ()
    if str(estimator.get_params().get("pred_early_stop", False)).lower() in ("true", "1", "+"):
        raise UnsupportedModelError("pred_early_stop=True, which stops sums early, is not supported; set it to False")
    if kind != "LGBMClassifier":
        return {"predict": value}, ()
    raw = {"decision_function": Method("value")} if hasattr(estimator, "decision_function") else {}
    if callable(estimator._objective):
        return {"predict": value, "predict_proba": value, **raw}, ()
    classes = np.asarray(estimator.classes_)
    if (k if k > 1 else 2) != max(len(classes), 2):
        raise UnsupportedModelError(f"an LGBMClassifier of {len(classes)} classes with {k} trees per iteration")
    if k == 2 and not getattr(estimator, "_LGBMClassifier__is_multiclass", False):
        raise UnsupportedModelError("an LGBMClassifier of 2 classes with a multiclass objective; use 'binary'")
    return {"predict": Method("label", link, args), "predict_proba": Method("proba", link, args), **raw}, (classes,)


def atof(text: str) -> float:
    """The double that LightGBM's ``Common::Atof`` reads (include/LightGBM/utils/common.h): digits are accumulated in
    doubles, so the last bit may differ from the nearest double. Plain decimal notation only, as ``sigmoid:`` has it.

    Raises:
        InvalidModelError: not such a number.
    """
    match = re.fullmatch(r"([+-]?)([0-9]{0,400})(?:\.([0-9]{0,400}))?(?:[eE]([+-]?)([0-9]{1,9}))?", text)
    if match is None or not (match[2] or match[3]):
        raise InvalidModelError(f"{text[:40]!r} is no number")
    value = 0.0
    for digit in match[2]:
        value = value * 10.0 + int(digit)
    if match[3]:
        right = 0.0
        for digit in match[3]:
            right = int(digit) + right * 10.0
        value += right / _power_of_ten(len(match[3]))
    scale, exponent = 1.0, min(int(match[5] or 0), 308)
    for step, factor in ((50, 1e50), (8, 1e8), (1, 10.0)):
        while exponent >= step:
            scale *= factor
            exponent -= step
    return (-1.0 if match[1] == "-" else 1.0) * (value / scale if match[4] == "-" else value * scale)


def _power_of_ten(power: int) -> float:
    """``Common::Pow(10.0, power)``, with its order of multiplications."""
    base, result = 10.0, 1.0
    while power:
        if power % 2 == 0:
            base, power = base * base, power // 2
        elif power % 3 == 0:
            base, power = base * base * base, power // 3
        else:
            result, power = result * base, power - 1
    return result
