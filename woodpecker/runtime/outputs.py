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
    """
    if "above" in args or "at_least" in args:
        second = z[:, 0] > args["above"] if "above" in args else z[:, 0] >= args["at_least"]
        return np.asarray(classes[0])[second.astype(np.intp)]
    p = proba(z, classes, args)
    if "groups" in args:
        columns = [np.asarray(c)[part.argmax(axis=1)] for c, part in zip(classes, p, strict=True)]
        return np.stack(columns, axis=1)
    return np.asarray(classes[0])[p.argmax(axis=1)]


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


KINDS: dict[str, Rule] = {
    "value": value,
    "proba": proba,
    "label": label,
    "indicator": indicator,
    "outlier": outlier,
}
"""Rule name -> function. "leaves_onehot" is not here: it reads leaf ids, not scores (see `predictor`)."""
