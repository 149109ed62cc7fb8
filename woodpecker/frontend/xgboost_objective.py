"""XGBoost's objectives: which link a model's scores go through, and what its base score is as a margin."""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
from collections.abc import Callable

import numpy as np

from ..errors import InvalidModelError, UnsupportedModelError

Version = tuple[int, int, int]

RT_EPS = np.float32(1e-6)
"""XGBoost's kRtEps (include/xgboost/base.h)."""

# Objective -> (link, how the base score becomes a margin). PredTransform and ProbToMargin in src/objective/.
_OBJECTIVES: dict[str, tuple[str, str]] = {
    "reg:squarederror": ("identity", "identity"),
    "reg:linear": ("identity", "identity"),
    "reg:squaredlogerror": ("identity", "identity"),
    "reg:pseudohubererror": ("identity", "identity"),
    "reg:absoluteerror": ("identity", "identity"),
    "reg:quantileerror": ("identity", "identity"),
    "reg:expectileerror": ("identity", "identity"),
    "reg:logistic": ("xgb_sigmoid", "logit"),
    "reg:gamma": ("exp", "log"),
    "reg:tweedie": ("exp", "log"),
    "binary:logistic": ("xgb_sigmoid", "logit"),
    "binary:logitraw": ("identity", "identity"),
    "binary:hinge": ("xgb_hinge", "identity"),
    "multi:softprob": ("xgb_softmax", "identity"),
    "multi:softmax": ("argmax", "identity"),
    "count:poisson": ("exp", "log"),
    "survival:cox": ("exp", "log"),
    "survival:aft": ("exp", "log"),
    "rank:pairwise": ("identity", "identity"),
    "rank:ndcg": ("identity", "identity"),
    "rank:map": ("identity", "identity"),
}


def link_of(objective: str, n_outputs: int, version: Version) -> str:
    """The link that ``predict`` applies to the raw scores of a model that this version of XGBoost wrote.

    Raises:
        UnsupportedModelError: an unknown objective, or one whose link is not available.
    """
    if objective not in _OBJECTIVES:
        known = ", ".join(sorted(_OBJECTIVES))
        raise UnsupportedModelError(f"the objective {objective[:60]!r} of XGBoost is not supported; known: {known}")
    if objective == "reg:expectileerror" and n_outputs > 1:
        raise UnsupportedModelError(
            "reg:expectileerror with several alphas is not supported; train one model per alpha"
        )
    if objective == "reg:quantileerror" and n_outputs > 1 and version >= (3, 4, 0):
        return "xgb_sort"  # XGBoost 3.4 sorts the quantiles of each row so that they cannot cross
    return _OBJECTIVES[objective][0]


def margins(objective: str, base_score: np.ndarray, version: Version) -> np.ndarray:
    """(K,) float32: where the sum starts, from the (K,) float32 base scores of the model file.

    Raises:
        InvalidModelError: a base score outside of the objective's range.
    """
    transform = _OBJECTIVES[objective][1]
    if transform == "identity":
        return base_score
    score = base_score
    if transform == "logit":
        if version >= (3, 2, 0):  # LogisticRegression::ProbToMargin bounds it, from this version on
            score = np.minimum(np.maximum(score, RT_EPS), np.float32(1) - RT_EPS)
        if not ((score > 0) & (score < 1)).all():
            raise InvalidModelError(f"base_score {base_score.tolist()} is outside of (0, 1), as {objective} needs it")
        return np.array([-_logf()(float(v)) for v in np.float32(1) / score - np.float32(1)], np.float32)
    if not (score > 0).all():
        raise InvalidModelError(f"base_score {base_score.tolist()} is not positive, as {objective} needs it")
    return np.array([_logf()(float(v)) for v in score], np.float32)


@functools.cache
def _logf() -> Callable[[float], float]:
    """libm's logf, which XGBoost calls. numpy's float32 log has other bits for one value in six."""
    name = ctypes.util.find_library("m") or ctypes.util.find_library("ucrtbase")
    function = ctypes.CDLL(name).logf
    function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float]
    return function
