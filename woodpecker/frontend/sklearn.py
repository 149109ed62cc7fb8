"""The scikit-learn frontend: a fitted estimator as a Forest.

scikit-learn itself is never imported here; a model that arrives has imported it. Estimators are told apart by the
names of their classes. A subclass is accepted where it inherits every method that decides a prediction: what it
overrides must be known to matter for training only (`_TRAINING_ONLY`), since an overridden method may return anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..errors import InputError, InvalidModelError, UnsupportedModelError, WoodpeckerError
from ..forest import Forest
from ..verify import verify
from .sklearn_boosting import gradient_boosting
from .sklearn_hist import hist_gradient_boosting
from .sklearn_parts import library_version, public_name, version_before
from .sklearn_trees import averaged_forest, isolation_forest, single_tree, trees_embedding

_BAGGED: dict[str, Callable[[Any], Forest]] = {
    "sklearn.tree.DecisionTreeClassifier": lambda model: single_tree(model, classifier=True),
    "sklearn.tree.DecisionTreeRegressor": lambda model: single_tree(model, classifier=False),
    "sklearn.tree.ExtraTreeClassifier": lambda model: single_tree(model, classifier=True),
    "sklearn.tree.ExtraTreeRegressor": lambda model: single_tree(model, classifier=False),
    "sklearn.ensemble.RandomForestClassifier": lambda model: averaged_forest(model, classifier=True),
    "sklearn.ensemble.RandomForestRegressor": lambda model: averaged_forest(model, classifier=False),
    "sklearn.ensemble.ExtraTreesClassifier": lambda model: averaged_forest(model, classifier=True),
    "sklearn.ensemble.ExtraTreesRegressor": lambda model: averaged_forest(model, classifier=False),
    "sklearn.ensemble.IsolationForest": isolation_forest,
    "sklearn.ensemble.RandomTreesEmbedding": trees_embedding,
}
_BOOSTED: dict[str, tuple[Callable[..., Forest], bool]] = {
    "sklearn.ensemble.GradientBoostingClassifier": (gradient_boosting, True),
    "sklearn.ensemble.GradientBoostingRegressor": (gradient_boosting, False),
    "sklearn.ensemble.HistGradientBoostingClassifier": (hist_gradient_boosting, True),
    "sklearn.ensemble.HistGradientBoostingRegressor": (hist_gradient_boosting, False),
}

_TRAINING_ONLY = frozenset(
    [
        "_abc_impl",
        "_compute_oob_predictions",
        "_estimator_type",
        "_get_oob_predictions",
        "_get_param_names",
        "_make_estimator",
        "_more_tags",
        "_parameter_constraints",
        "_set_oob_score_and_attributes",
        "_validate_estimator",
        "_validate_params",
        "_validate_y_class_weight",
        "feature_importances_",
        "fit",
        "fit_transform",
        "get_metadata_routing",
        "get_params",
        "score",
        "set_params",
    ]
)
_ATTRIBUTE_HOOKS = frozenset({"__getattribute__", "__getattr__"})


def matches(model: Any) -> bool:
    """Whether ``model`` is scikit-learn's: an instance of one of its classes, or of a subclass of one that is more
    than a base or mixin (which other libraries' estimators inherit too)."""
    shared = ("sklearn.base", "sklearn.utils", "sklearn.externals")
    return any(
        cls.__module__.split(".")[0] == "sklearn" and ".".join(cls.__module__.split(".")[:2]) not in shared
        for cls in type(model).__mro__
    )


def from_model(model: Any, *, missing: float = math.nan, iteration_range: tuple[int, int] | None = None) -> Forest:
    """A verified forest from a fitted scikit-learn estimator.

    Args:
        model: A DecisionTree, ExtraTree, RandomForest, ExtraTrees, GradientBoosting or HistGradientBoosting
            classifier or regressor, an IsolationForest or a RandomTreesEmbedding.
        missing: NaN; scikit-learn has no other missing value.
        iteration_range: ``(0, end)`` keeps the first ``end`` stages of a boosted model, as its ``staged_predict``
            does; None keeps all.

    Raises:
        UnsupportedModelError: another estimator, a subclass that may predict otherwise, or an option of it.
        InputError: ``missing`` or ``iteration_range`` has no meaning for this estimator, or its stages end earlier.
        InvalidModelError: not fitted, or the fitted state contradicts itself.
    """
    name = _supported_name(model)
    if version_before(1, 4):
        raise UnsupportedModelError(f"scikit-learn {library_version()} is too old: 1.4 is the oldest supported version")
    if missing == missing:  # NaN alone differs from itself
        raise InputError(f"missing={missing!r}: scikit-learn has no missing value but NaN")
    if iteration_range is not None and name not in _BOOSTED:
        raise InputError(f"iteration_range has no meaning for {type(model).__name__}: it has no iterations")
    try:
        if name in _BAGGED:
            return verify(_BAGGED[name](model))
        build, classifier = _BOOSTED[name]
        return verify(build(model, classifier=classifier, iteration_range=iteration_range))
    except WoodpeckerError:
        raise
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError) as error:
        raise InvalidModelError(f"the fitted state of this {type(model).__name__} is damaged: {error!r}") from error


def _training_only(name: str) -> bool:
    routing = name.startswith("set_") and name.endswith("_request")
    return name in _TRAINING_ONLY or name.startswith("__") or routing


def _supported_name(model: Any) -> str:
    """The public name of the supported class that ``model`` is an instance of."""
    mro = type(model).__mro__
    at = next((i for i, cls in enumerate(mro) if public_name(cls) in _BAGGED or public_name(cls) in _BOOSTED), None)
    if at is None:
        hint = "compositions such as pipelines, searches, bagging and voting, and models without trees"
        raise UnsupportedModelError(
            f"{public_name(type(model))} is not supported yet ({hint}); compile its tree models"
        )
    inherited = mro[at]
    for cls in mro[:at]:
        for name in vars(cls):
            if name in _ATTRIBUTE_HOOKS or (hasattr(inherited, name) and not _training_only(name)):
                where = f"{cls.__module__}.{cls.__qualname__}"
                raise UnsupportedModelError(f"{where} overrides {inherited.__name__}.{name} and may predict otherwise")
    replaced = [name for name in getattr(model, "__dict__", {}) if callable(getattr(inherited, name, None))]
    if replaced:
        raise UnsupportedModelError(f"{replaced[0]} of this {type(model).__name__} was replaced on the object")
    return public_name(inherited)
