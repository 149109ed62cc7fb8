"""From linked scores to what a method of the source model returns: labels, probabilities, anomaly scores.

Each rule is a function of the linked scores ``z`` (n, K'), the labels of each output, and the rule's parameters. The
rule and its parameters are plain data (`woodpecker.forest.Method`) and travel in the manifest of an artifact.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError, MissingExtraError

Classes = Sequence[np.ndarray]
Rule = Callable[[np.ndarray, Classes, Mapping[str, Any]], Any]


def value(z: np.ndarray, classes: Classes, args: Mapping[str, Any]) -> np.ndarray:
    """The linked scores: (n,) for one output, else (n, K').

    Parameters: ``squeeze`` (default true), ``subtract`` (a constant taken off), ``dtype``, ``columns`` (how many of
    the first columns to keep).
    """
    if "columns" in args:
        z = z[:, : args["columns"]]
    if "subtract" in args:
        z = z - z.dtype.type(args["subtract"])
    if "dtype" in args:
        z = z.astype(args["dtype"])
    return z[:, 0] if z.shape[1] == 1 and args.get("squeeze", True) else z


def proba(z: np.ndarray, classes: Classes, args: Mapping[str, Any]) -> Any:
    """Probabilities (n, n_classes); a single column p becomes [1 - p, p].

    Parameters: ``groups``: the widths of several outputs, which are returned as a list (scikit-learn's multi-output).
    """
    if "groups" in args:
        return np.split(z, np.cumsum(args["groups"])[:-1], axis=1)
    return np.stack([z.dtype.type(1) - z[:, 0], z[:, 0]], axis=1) if z.shape[1] == 1 else z


def label(z: np.ndarray, classes: Classes, args: Mapping[str, Any]) -> np.ndarray:
    """The label of the largest probability, the first of equals: (n,), or (n, outputs) with ``groups``.

    Parameters: ``groups`` as in `proba`; ``above``: with one column, the second label where z > above, instead of
    comparing p with 1 - p; ``at_least``: likewise with >=.

    Raises:
        InputError: the model has one label, and a row is of the second class.
    """
    if "above" in args or "at_least" in args:
        second = z[:, 0] > args["above"] if "above" in args else z[:, 0] >= args["at_least"]
        return _labels(classes[0], second.astype(np.intp))
    p = proba(z, classes, args)
    if "groups" in args:
        columns = [np.asarray(c)[part.argmax(axis=1)] for c, part in zip(classes, p, strict=True)]
        return np.stack(columns, axis=1)
    return _labels(classes[0], p.argmax(axis=1))


def _labels(known: np.ndarray, index: np.ndarray) -> np.ndarray:
    beyond = np.flatnonzero(index >= len(known))
    if len(beyond):  # a model trained on one class: the source libraries fail here as well
        raise InputError(f"row {beyond[0]} is of the second class, and the model knows the label of one class only")
    return np.asarray(known)[index]


def indicator(z: np.ndarray, classes: Classes, args: Mapping[str, Any]) -> np.ndarray:
    """(n, K') of 0 and 1: z > 0.5 (XGBoost's multi-label). Parameters: ``dtype`` (default int64)."""
    return (z > 0.5).astype(args.get("dtype", "int64"))


def outlier(z: np.ndarray, classes: Classes, args: Mapping[str, Any]) -> np.ndarray:
    """(n,) int64: -1 where z - ``subtract`` < 0, else 1 (scikit-learn's outlier detectors)."""
    return np.where(value(z, classes, args) < 0, -1, 1).astype(np.int64)


def leaves_onehot(ids: np.ndarray, args: Mapping[str, Any]) -> Any:
    """Leaf ids (n, T) as one-hot rows (scikit-learn's RandomTreesEmbedding).

    Parameters: ``categories``: per tree, the ascending ids of the leaves that have a column, the columns of tree t
    following those of tree t - 1; ``container``: "csr_matrix", "csr_array" (both of scipy.sparse) or "ndarray";
    ``dtype``.

    Raises:
        InputError: a row reached a leaf that no training row reached, which scikit-learn refuses as well.
        MissingExtraError: the container is sparse and scipy is not installed.
    """
    n, n_trees = ids.shape
    columns = np.empty((n, n_trees), np.int32)
    start = 0
    for t, category in enumerate(args["categories"]):
        known = np.asarray(category, np.int32)
        at = np.minimum(np.searchsorted(known, ids[:, t]), len(known) - 1)
        unknown = np.flatnonzero(known[at] != ids[:, t])
        if len(unknown):
            raise InputError(f"row {unknown[0]} reaches leaf {ids[unknown[0], t]} of tree {t}, as no training row did")
        columns[:, t] = start + at
        start += len(known)
    dtype = np.dtype(args["dtype"])
    if args["container"] == "ndarray":
        dense = np.zeros((n, start), dtype)
        dense[np.arange(n)[:, None], columns] = 1
        return dense
    try:
        import scipy.sparse
    except ImportError as error:
        raise MissingExtraError("transform() of this model returns a scipy sparse matrix: pip install scipy") from error
    indptr = np.arange(0, n * n_trees + 1, n_trees, dtype=np.int32)
    data = (np.ones(n * n_trees, dtype), columns.reshape(-1), indptr)
    return getattr(scipy.sparse, args["container"])(data, shape=(n, start))


CONTAINERS = ("csr_matrix", "csr_array", "ndarray")


def check(kind: str, args: Mapping[str, Any], width: int, labels: Sequence[int], n_trees: int) -> str | None:
    """What is wrong with the parameters of a rule, as the rest of a sentence about them; None: nothing.

    Args:
        kind: A key of `KINDS`, or "leaves_onehot".
        args: The parameters. Others than the rule's own are not looked at.
        width: K', the columns of the linked scores.
        labels: How many labels each output has.
        n_trees: T.
    """
    for name in ("subtract", "above", "at_least"):
        if name in args and not is_finite(args[name]):
            return f"has {name}={args[name]!r}, which is no finite number"
    if "columns" in args and not (is_integer(args["columns"]) and 1 <= args["columns"] <= width):
        return f"has columns={args['columns']!r}; it must be an integer from 1 to {width}"
    if "dtype" in args and not _is_dtype(args["dtype"]):
        return f"has dtype={args['dtype']!r}, which is not the name of a dtype of numbers"
    if kind == "leaves_onehot":
        return _check_onehot(args, n_trees)
    if kind not in ("proba", "label"):
        return None
    groups = args.get("groups", [width])
    if not isinstance(groups, (list, tuple)) or not all(is_integer(n) and n > 0 for n in groups):
        return f"has groups={groups!r}; they must be a list of positive integers"
    if sum(groups) != width:
        return f"has groups={groups!r}, and their sum must be the number of scores, {width}"
    if kind == "proba":
        return None
    if len(labels) != len(groups):
        return f"returns labels, and classes holds {len(labels)} arrays of them; expected {len(groups)}"
    if "groups" in args:
        return None if list(labels) == list(groups) else f"has groups={groups!r}, and classes have {labels} labels"
    # One label with one score is a model trained on one class.
    fitting = (1, 2) if width == 1 else (width,)
    if not labels[0] or (labels[0] not in fitting and "above" not in args and "at_least" not in args):
        return f"returns labels, and {labels[0]} of them do not fit {width} scores"
    return None


def _check_onehot(args: Mapping[str, Any], n_trees: int) -> str | None:
    if absent := [name for name in ("categories", "container", "dtype") if name not in args]:
        return f"needs the argument {absent[0]!r}"
    if args["container"] not in CONTAINERS:
        return f"has container={args['container']!r}; known: {', '.join(CONTAINERS)}"
    categories = args["categories"]
    if not isinstance(categories, (list, tuple)) or len(categories) != n_trees:
        return f"needs categories for each of its {n_trees} trees"
    for t, category in enumerate(categories):
        try:
            known = np.asarray(category)
        except ValueError:  # lists of unequal lengths
            known = np.empty(0)
        ids = known.ndim == 1 and known.size > 0 and known.dtype.kind in "iu"
        if not ids or not -(2**31) <= known[0] <= known[-1] < 2**31 or (known[1:] <= known[:-1]).any():
            return f"has categories of tree {t} that are not ascending leaf ids"
    return None


def is_integer(value: Any) -> bool:
    """Whether a value is an integer of Python or numpy, and no bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is an integer or float of Python or numpy, and no bool, that fits a float64, or is not finite."""
    if not is_integer(value) and not isinstance(value, (float, np.floating)):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number; see `is_number`."""
    return is_number(value) and bool(np.isfinite(float(value)))


def _is_dtype(value: Any) -> bool:
    try:
        return isinstance(value, str) and np.dtype(value).kind in "fiub"
    except TypeError:
        return False


KINDS: dict[str, Rule] = {
    "value": value,
    "proba": proba,
    "label": label,
    "indicator": indicator,
    "outlier": outlier,
}
"""Rule name -> function. "leaves_onehot" is not here: it reads leaf ids, not scores (see `predictor`)."""
