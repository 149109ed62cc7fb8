"""LightGBM models as forests: Booster, LGBMClassifier, LGBMRegressor, LGBMRanker, and model text files.

Live models are read through ``model_to_string``, so a model and its saved file are one forest. Nothing here imports
lightgbm.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, InvalidModelError, UnsupportedModelError
from ..forest import ZERO_BAND, Forest
from ..verify import verify
from .lightgbm_objective import link, live_sigmoid, methods
from .lightgbm_text import ModelText, parse
from .lightgbm_trees import node_arrays

_ESTIMATORS = ("LGBMClassifier", "LGBMRegressor", "LGBMRanker", "LGBMModel")


def matches(model: Any) -> bool:
    """Whether this is a model object of the lightgbm package."""
    return _kind(model) is not None


def from_model(model: Any, *, missing: float = float("nan"), iteration_range: tuple[int, int] | None = None) -> Forest:
    """The forest of a lightgbm Booster, LGBMClassifier, LGBMRegressor or LGBMRanker.

    Args:
        model: A trained model.
        missing: NaN; LightGBM has no other missing value.
        iteration_range: Iterations ``[start, stop)``; default: those that the model's own ``predict`` uses, which end
            at ``best_iteration`` if there is one.

    Raises:
        InvalidModelError: the model is not fitted, or contradicts itself.
        UnsupportedModelError: it uses something that has no exact translation; the message names it.
        InputError: ``missing`` is not NaN, or the model does not have these iterations.
    """
    kind = _kind(model)
    if kind is None or kind == "CVBooster" or kind.startswith("Dask"):
        hint = {"CVBooster": "; pass one of its boosters"}.get(kind or "", "; pass model.to_local()" if kind else "")
        raise UnsupportedModelError(f"{type(model).__name__} is no single LightGBM model{hint}")
    booster = model if kind == "Booster" else getattr(model, "_Booster", None)
    if booster is None:
        raise InvalidModelError(f"this {kind} is not fitted: call fit first")
    parsed = parse(booster.model_to_string(num_iteration=-1, start_iteration=0).encode())
    if iteration_range is None and booster.best_iteration > 0:
        iteration_range = (0, min(booster.best_iteration, booster.current_iteration()))
    source = {"library": "lightgbm", "version": str(sys.modules["lightgbm"].__version__), "estimator": kind}
    sigmoid = live_sigmoid(booster, parsed)
    return _forest(parsed, missing, iteration_range, sigmoid, source, None if kind == "Booster" else model)


def from_file(
    path_or_bytes: str | os.PathLike[str] | bytes,
    *,
    missing: float = float("nan"),
    iteration_range: tuple[int, int] | None = None,
) -> Forest:
    """The forest of a LightGBM model text, as ``Booster.save_model`` writes it; lightgbm is not needed.

    Args:
        path_or_bytes: A file's path, or the text itself as bytes.
        missing: NaN; LightGBM has no other missing value.
        iteration_range: Iterations ``[start, stop)``; default: all.

    Raises:
        InvalidModelError: the text is damaged or contradicts itself; names the tree and the field.
        UnsupportedModelError: a version or an objective that is unknown; names it.
        InputError: ``missing`` is not NaN, or the model does not have these iterations.
        OSError: the file cannot be read.
    """
    data = path_or_bytes if isinstance(path_or_bytes, bytes) else Path(path_or_bytes).read_bytes()
    parsed = parse(data)
    return _forest(parsed, missing, iteration_range, None, {"library": "lightgbm", "estimator": "Booster"}, None)


def _kind(model: Any) -> str | None:
    for cls in type(model).__mro__:
        if cls.__module__.split(".")[0] == "lightgbm":
            known = cls.__name__ in (*_ESTIMATORS, "Booster", "CVBooster") or cls.__name__.startswith("DaskLGBM")
            return cls.__name__ if known else None
    return None


def _forest(
    parsed: ModelText,
    missing: float,
    iteration_range: tuple[int, int] | None,
    sigmoid: float | None,
    source: Mapping[str, Any],
    estimator: Any,
) -> Forest:
    if not (isinstance(missing, (int, float, np.number)) and math.isnan(missing)):
        raise InputError(
            f"missing={missing!r}: LightGBM knows no missing value but NaN (and zeros, where a model was trained with "
            "zero_as_missing); leave missing at its default"
        )
    k = parsed.n_outputs
    start, stop = _iterations(parsed, iteration_range)
    name, args = link(parsed, sigmoid)
    if parsed.average_output:
        args["divide"] = stop - start
    rules, classes = methods(estimator, source["estimator"], k, name, args)
    default_names = tuple(f"Column_{i}" for i in range(parsed.n_features))
    return verify(
        Forest(
            **node_arrays(parsed.trees[start * k : stop * k]),
            tree_output=np.tile(np.arange(k, dtype=np.int32), stop - start),
            n_features=parsed.n_features,
            base_score=np.zeros(k, np.float64),
            input_dtype="float64",
            integer_dtype="float32",
            zero_band=ZERO_BAND,
            category_rule="truncate",
            methods=rules,
            classes=classes,
            feature_names=None if parsed.feature_names == default_names else parsed.feature_names,
            frame_categories=_frame_categories(parsed),
            unknown_category="nan",
            source={**source, "format": parsed.version, "objective": parsed.objective},
        )
    )


def _iterations(parsed: ModelText, iteration_range: tuple[int, int] | None) -> tuple[int, int]:
    total, rest = divmod(len(parsed.trees), parsed.n_outputs)
    if rest:
        raise InvalidModelError(f"{len(parsed.trees)} trees are no whole number of iterations of {parsed.n_outputs}")
    start, stop = (0, total) if iteration_range is None else iteration_range
    if iteration_range is not None and not 0 <= start < stop <= total:
        raise InputError(
            f"iteration_range={iteration_range!r}: expected (start, stop) with 0 <= start < stop <= {total}, the "
            "number of iterations of this model"
        )
    if parsed.average_output and stop == start:
        raise InvalidModelError("a random forest without trees has no average")
    return int(start), int(stop)


def _frame_categories(parsed: ModelText) -> dict[int, list[Any]]:
    """feature -> categories, where the text tells.

    The lists of ``pandas_categorical`` belong to the frame's columns of dtype category, in order; the text does not
    name these columns. It names the categorical features: where there are as many of both, and all trained codes have a
    category, they are the same. Elsewhere (ordered categories are numbers to LightGBM) there is no telling.
    """
    lists = parsed.pandas_categorical or []
    codes = [[] if i == "none" or i.startswith("[") else i.split(":") for i in parsed.feature_infos]
    features = parsed.categorical_features or tuple(f for f, c in enumerate(codes) if c)
    if len(features) != len(lists):
        return {}
    categories = dict(zip(features, lists, strict=True))
    try:
        fits = all(int(c) < len(categories.get(f, ())) for f, known in enumerate(codes) for c in known)
    except ValueError:
        raise InvalidModelError("header: feature_infos holds a category code that is no integer") from None
    return categories if fits else {}
