"""XGBoost models as forests: live objects, and .json and .ubj files without XGBoost.

Both go through the same document: a live object is asked for ``save_raw("ubj")``. What the trees mean is
`src/predictor/cpu_predictor.cc`: ``x < split_condition`` goes left in float32, a category in the stored set goes right,
a missing value follows the default child, and leaves are added to the base margin in float32, tree after tree.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError, InvalidModelError, UnsupportedModelError
from ..forest import MAX_FEATURES, MAX_OUTPUTS, Forest, select_trees
from ..verify import verify
from .xgboost_document import AmbiguousDecimal, decimals, float32_of, floats, integer, integers, items, load, member
from .xgboost_methods import methods_of
from .xgboost_objective import Version, link_of, margins
from .xgboost_trees import read_trees

MIN_VERSION = (1, 7, 0)
"""The oldest XGBoost whose live models are accepted; files of older versions are read as far as they are complete."""

IterationRange = tuple[int, int]


def matches(model: Any) -> bool:
    """Whether ``model`` is a Booster or one of XGBoost's scikit-learn estimators, or derives from one."""
    return bool({"Booster", "XGBModel"} & _ancestors(model))


def from_model(model: Any, *, missing: float = math.nan, iteration_range: IterationRange | None = None) -> Forest:
    """The forest of a trained Booster, XGBClassifier, XGBRegressor, XGBRanker, XGBRFClassifier or XGBRFRegressor.

    Args:
        model: The trained object.
        missing: A value that counts as missing beside NaN. An estimator has its own, which this one replaces.
        iteration_range: Boosting rounds ``(begin, end)`` to use; ``end`` 0 means all. Default: what the object's own
            ``predict`` uses, which is all rounds for a Booster and those up to ``best_iteration`` for an estimator.

    Raises:
        UnsupportedModelError: gblinear, an unsupported objective, or an XGBoost older than MIN_VERSION.
        InputError: ``missing`` is no number, or the model does not have these rounds.
        InvalidModelError: not trained, or inconsistent.
    """
    names = _ancestors(model)
    if "XGBModel" not in names and "Booster" not in names:
        raise UnsupportedModelError(f"{type(model).__qualname__} is not an XGBoost model")
    if any(cls.__module__.startswith(("xgboost.dask", "xgboost.spark")) for cls in type(model).__mro__):
        raise UnsupportedModelError(f"{type(model).__qualname__} is distributed; pass its get_booster() instead")
    estimator = model if "XGBModel" in names else None
    try:
        booster = model if estimator is None else model.get_booster()
        data = bytes(booster.save_raw("ubj"))
    except (ValueError, AttributeError) as error:  # XGBoostError is a ValueError, NotFittedError is both
        raise InvalidModelError(f"the {type(model).__qualname__} is not trained: {error}") from error
    document = load(data)
    version = _version(document)
    if version < MIN_VERSION:
        raise UnsupportedModelError(f"XGBoost {_dotted(version)} is older than {_dotted(MIN_VERSION)}; upgrade it")
    if estimator is not None:
        own = estimator.missing
        if math.isnan(missing) and own is not None:
            missing = own
        if iteration_range is None or iteration_range[1] == 0:  # XGBModel._get_iteration_range
            best = getattr(estimator, "best_iteration", None)
            iteration_range = None if best is None else (0, int(best) + 1)
    return _forest(document, missing, iteration_range, model, names)


def from_file(
    path_or_bytes: str | os.PathLike[str] | bytes | bytearray | memoryview,
    *,
    missing: float = math.nan,
    iteration_range: IterationRange | None = None,
) -> Forest:
    """The forest of a model file in XGBoost's JSON or UBJSON format; XGBoost need not be installed.

    It predicts what a `Booster` loaded from that file predicts: a file does not say which estimator wrote it.

    Args:
        path_or_bytes: The path of the file, or its content. Content decides the format, not the file's name.
        missing: A value that counts as missing beside NaN.
        iteration_range: Boosting rounds ``(begin, end)`` to use; ``end`` 0 or no range means all.

    Raises:
        InvalidModelError: damaged or inconsistent. Time and memory are linear in the size of the file.
        UnsupportedModelError: gblinear, an unsupported objective, or the old binary format.
        InputError: ``missing`` is no number, or the model does not have these rounds.
        OSError: the file cannot be read.
    """
    if isinstance(path_or_bytes, (bytes, bytearray, memoryview)):
        data = bytes(path_or_bytes)
    else:
        with open(path_or_bytes, "rb") as file:
            data = file.read()
    try:
        return _forest(load(data), missing, iteration_range, None, frozenset({"Booster"}))
    except AmbiguousDecimal:
        return _forest(load(data, exact=True), missing, iteration_range, None, frozenset({"Booster"}))


def _ancestors(model: Any) -> frozenset[str]:
    return frozenset(cls.__qualname__ for cls in type(model).__mro__ if cls.__module__.split(".")[0] == "xgboost")


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _version(document: Mapping[str, Any]) -> Version:
    version = integers(document, "version", "the document")
    if len(version) != 3 or version.min() < 0:
        raise InvalidModelError("the document: 'version' must be three numbers")
    return int(version[0]), int(version[1]), int(version[2])


def _forest(
    document: Mapping[str, Any],
    missing: float,
    iteration_range: IterationRange | None,
    model: Any,
    names: frozenset[str],
) -> Forest:
    version = _version(document)
    learner = member(document, "learner", dict, "the document")
    booster = member(learner, "gradient_booster", dict, "learner")
    name = member(booster, "name", str, "gradient_booster")
    if name not in ("gbtree", "dart"):
        raise UnsupportedModelError(f"the booster {name[:40]!r} of XGBoost is not supported; gbtree and dart are")
    inner = member(booster, "gbtree", dict, "gradient_booster") if name == "dart" else booster
    trees = member(inner, "model", dict, "gradient_booster")
    param = member(learner, "learner_model_param", dict, "learner")
    n_features = integer(param, "num_feature", "learner_model_param", high=MAX_FEATURES)
    n_outputs = _n_outputs(param)
    objective = member(member(learner, "objective", dict, "learner"), "name", str, "objective")
    link = link_of(objective, n_outputs, version)
    fields = read_trees(trees, n_features, n_outputs)
    base_score = _base_margins(param, objective, n_outputs, version, trained=len(fields["tree_output"]) > 0)
    holder = trees if "weight_drop" in trees else booster
    if "weight_drop" in holder:
        weights = floats(holder, "weight_drop", "gradient_booster")
        fields["values"] = _dart_values(fields, weights, base_score, version, in_place="XGBModel" in names)
    elif name == "dart":
        raise InvalidModelError("gradient_booster has no 'weight_drop'")
    methods, classes = methods_of(model, names, objective, link, n_outputs)
    feature_names = items(learner, "feature_names", str, "learner") if "feature_names" in learner else []
    forest = verify(
        Forest(
            **fields,
            n_features=n_features,
            base_score=base_score,
            missing_value=_missing_value(missing),
            category_rule="truncate_nonnegative",
            methods=methods,
            classes=classes,
            feature_names=tuple(feature_names) or None,
            frame_categories=_frame_categories(trees, n_features),
            source={
                "library": "xgboost",
                "version": _dotted(version),
                "estimator": "Booster" if model is None else type(model).__name__,
                "objective": objective,
                "booster": name,
            },
        )
    )
    first, last = _tree_range(trees, fields["tree_output"], iteration_range)
    return forest if (first, last) == (0, forest.n_trees) else select_trees(forest, np.arange(first, last))


def _n_outputs(param: Mapping[str, Any]) -> int:
    """LearnerModelParamLegacy::OutputLength."""
    n_classes = integer(param, "num_class", "learner_model_param", high=MAX_OUTPUTS)
    n_targets = integer(param, "num_target", "learner_model_param", default=1, high=MAX_OUTPUTS)
    if n_classes > 1 and n_targets > 1:
        raise UnsupportedModelError(
            f"a model of {n_classes} classes and {n_targets} targets; XGBoost allows one of them"
        )
    return max(n_classes, n_targets, 1)


def _base_margins(
    param: Mapping[str, Any], objective: str, n_outputs: int, version: Version, *, trained: bool
) -> np.ndarray:
    """(K,) float32 margins; one stored score stands for all outputs (before XGBoost 3.1 there was only one)."""
    text = member(param, "base_score", str, "learner_model_param")
    score = decimals(text, "learner_model_param, 'base_score'")
    if len(score) not in (1, n_outputs) or not np.isfinite(score).all():
        raise InvalidModelError(
            f"learner_model_param: base_score must be {n_outputs} finite numbers, found {text[:40]!r}"
        )
    score = np.broadcast_to(score, (n_outputs,)).copy()
    if version >= (3, 1, 0) and not trained and integer(param, "boost_from_average", "learner_model_param", default=1):
        return score  # not estimated yet: Intercept::InitModelUserParam takes it without the link
    return margins(objective, score, version)


def _dart_values(
    fields: Mapping[str, Any], weights: np.ndarray, base_score: np.ndarray, version: Version, *, in_place: bool
) -> np.ndarray:
    """The leaf values times their tree's weight, in float32, rounded as the call rounds that the object itself makes.

    `Dart::PredictBatchImpl` adds ``leaf * w``. `Dart::InplacePredict`, which estimators use, had taken the base margin
    off the score of one tree, ``((margin + leaf) - margin) * w``, until XGBoost 3.3 made both calls the same.
    """
    values, n_trees = fields["values"], len(fields["tree_output"])
    if len(weights) != n_trees:
        raise InvalidModelError(f"weight_drop has {len(weights)} weights for {n_trees} trees")
    if values.shape[1] > 1 and version < (3, 3, 0):
        raise UnsupportedModelError("DART with multi_output_tree is not supported, nor is it by this XGBoost")
    tree = np.repeat(np.arange(n_trees), np.diff(fields["tree_offset"]))[fields["leaf"] >= 0]
    with np.errstate(over="ignore", invalid="ignore"):
        if in_place and version < (3, 3, 0):
            margin = base_score[fields["tree_output"][tree]][:, None]
            values = (margin + values) - margin
        return np.asarray(values * weights[tree][:, None], np.float32)


def _missing_value(missing: float) -> float:
    """What XGBoost compares with, in float32: it reads the sentinel from decimal text."""
    try:
        return float32_of(repr(float(missing)))
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"missing must be a number, found {missing!r}") from None


def _tree_range(
    trees: Mapping[str, Any], tree_output: np.ndarray, iteration_range: IterationRange | None
) -> tuple[int, int]:
    """The trees of the boosting rounds (`detail::LayerToTree`)."""
    n_trees = len(tree_output)
    if "iteration_indptr" in trees:
        indptr = integers(trees, "iteration_indptr", "the model")
    else:  # MakeIndptr: before XGBoost 2.0 every round had the same number of trees
        parallel = integer(trees["gbtree_model_param"], "num_parallel_tree", "gbtree_model_param", default=1)
        per_round = max(parallel, 1) * (int(tree_output.max(initial=0)) + 1)
        indptr = np.arange(0, n_trees + 1, per_round)
    if not len(indptr) or indptr[0] != 0 or indptr[-1] != n_trees or (np.diff(indptr) < 0).any():
        raise InvalidModelError(f"the model: its boosting rounds do not add up to its {n_trees} trees")
    rounds = len(indptr) - 1
    begin, end = iteration_range if iteration_range is not None else (0, 0)
    end = rounds if end == 0 else end
    if not 0 <= begin <= end <= rounds:
        raise InputError(f"iteration_range {iteration_range} is outside of the model's {rounds} rounds")
    return int(indptr[begin]), int(indptr[end])


def _frame_categories(trees: Mapping[str, Any], n_features: int) -> dict[int, list[Any]]:
    """The categories of each categorical column that the model was trained on as a frame (XGBoost 3.1 and later)."""
    if "cats" not in trees:
        return {}
    columns = items(member(trees, "cats", dict, "the model"), "enc", dict, "cats")
    if len(columns) not in (0, n_features):
        raise InvalidModelError(f"cats: {len(columns)} columns for {n_features} features")
    categories: dict[int, list[Any]] = {}
    for feature, column in enumerate(columns):
        where = f"cats, column {feature}"
        values = integers(column, "values", where)
        if "offsets" not in column:
            categories[feature] = values.tolist()
            continue
        offsets = integers(column, "offsets", where)
        if len(offsets) and (offsets[0] != 0 or offsets[-1] > len(values) or (np.diff(offsets) < 0).any()):
            raise InvalidModelError(f"{where}: offsets must ascend from 0 to at most {len(values)}")
        # XGBoost's pandas adapter measures offsets in characters and cuts in bytes, so it garbles names beyond ASCII:
        # there is no telling which category such a code stood for.
        if len(offsets) and ((values >= 0) & (values < 128)).all():
            text = values.astype(np.uint8).tobytes().decode("ascii")
            categories[feature] = [text[a:b] for a, b in itertools.pairwise(offsets.tolist())]
    return {feature: names for feature, names in categories.items() if names}
