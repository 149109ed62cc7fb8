"""LightGBM's model text as plain data: an own parser that trusts nothing and needs numpy alone.

The text is a header of ``key=value`` lines, one ``Tree=i`` section per tree, ``end of trees``, and trailing sections of
which only ``pandas_categorical`` matters here. Versions v3 (LightGBM 2.3 to 3.3) and v4 (4.0 and later) differ in
nothing that is read. An unknown field is refused rather than skipped: a field that changes predictions, or the damaged
name of one, must not go unnoticed.

Numbers: LightGBM prints thresholds and leaves with ``%.17g`` and reads them back with fast_double_parser, which rounds
correctly; so does `float`. Only the parameters of the objective are read otherwise: `lightgbm_objective.atof`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InvalidModelError, UnsupportedModelError

VERSIONS = ("v3", "v4")

_HEADER_KEYS = (
    b"version num_class num_tree_per_iteration label_index max_feature_idx objective average_output feature_names "
    b"monotone_constraints feature_infos tree_sizes"
).split()
_TREE_KEYS = (
    b"num_leaves num_cat split_feature split_gain threshold decision_type left_child right_child leaf_value "
    b"leaf_weight leaf_count internal_value internal_weight internal_count cat_boundaries cat_threshold is_linear "
    b"leaf_const num_features leaf_features leaf_coeff shrinkage"
).split()
_NUMBER_CHARACTERS = b"0123456789+-.eEinfatyINFATY "
_MAX_INT = 2**31 - 1


@dataclass(frozen=True)
class Tree:
    """One tree as the text has it: I inner nodes, I + 1 leaves; a child c < 0 is leaf ``~c``."""

    feature: np.ndarray
    threshold: np.ndarray
    decision_type: np.ndarray
    left: np.ndarray
    right: np.ndarray
    leaf_value: np.ndarray
    internal_count: np.ndarray | None
    leaf_count: np.ndarray | None
    cat_boundaries: np.ndarray
    cat_words: np.ndarray
    linear: Linear | None


@dataclass(frozen=True)
class Linear:
    """The linear leaves of a tree: per leaf a constant and a number of terms; the terms of all leaves in order."""

    const: np.ndarray
    count: np.ndarray
    feature: np.ndarray
    coef: np.ndarray


@dataclass(frozen=True)
class ModelText:
    """A parsed model text; ``feature_infos`` holds "none", "[min:max]" or, for categories, "0:3:1" per feature."""

    version: str
    n_outputs: int
    n_features: int
    objective: str | None
    average_output: bool
    feature_names: tuple[str, ...]
    feature_infos: tuple[str, ...]
    trees: tuple[Tree, ...]
    pandas_categorical: list[list[Any]] | None
    categorical_features: tuple[int, ...]


def parse(data: bytes) -> ModelText:
    """Parse a model text. Time and memory are linear in its length, whatever sizes it declares.

    Raises:
        InvalidModelError: names the tree and the field that contradict themselves.
        UnsupportedModelError: a version of the text other than `VERSIONS`.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    head, *sections = data.split(b"\nTree=")
    lines = head.split(b"\n")
    if lines[0] != b"tree":
        raise InvalidModelError("this is no LightGBM model text: its first line is not 'tree'")
    last, end, tail = (sections[-1] if sections else head).partition(b"\nend of trees\n")
    if not end:
        raise InvalidModelError("the LightGBM model text is truncated: it has no line 'end of trees'")
    if sections:
        sections[-1] = last
    else:
        lines = last.split(b"\n")
    header = _fields(lines[1:], _HEADER_KEYS, "header")
    model = _header(header)
    declared = header.get(b"tree_sizes")
    if declared is not None and len(declared.split()) != len(sections):
        raise InvalidModelError(f"tree_sizes declares {len(declared.split())} trees, the text has {len(sections)}")
    n_features = model["n_features"]
    trees = tuple(_tree(t, section, n_features) for t, section in enumerate(sections))
    parameters = _parameters(tail)
    return ModelText(
        **model,
        trees=trees,
        pandas_categorical=_pandas_categorical(tail),
        categorical_features=_categorical_features(parameters, n_features),
    )


def _fields(lines: list[bytes], known: list[bytes], where: str) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for line in lines:
        if not line:
            continue
        key, _, value = line.partition(b"=")
        if key not in known:
            raise InvalidModelError(f"{where}: unknown field {_show(key)}")
        if key in fields:
            raise InvalidModelError(f"{where}: the field {_show(key)} stands twice")
        fields[key] = value
    return fields


def _header(header: Mapping[bytes, bytes]) -> dict[str, Any]:
    version = _text(_get(header, b"version", "header"), "version")
    if version not in VERSIONS:
        raise UnsupportedModelError(
            f"LightGBM model text of version {version[:40]!r}; supported are {', '.join(VERSIONS)}: load the model and "
            "save it again with a LightGBM release from 3.0 on"
        )
    n_classes = _int(_get(header, b"num_class", "header"), "num_class")
    per_iteration = _int(header.get(b"num_tree_per_iteration", b"%d" % n_classes), "num_tree_per_iteration")
    if n_classes < 1 or per_iteration != n_classes:
        raise InvalidModelError(
            f"header: num_class={n_classes} and num_tree_per_iteration={per_iteration}; they must be equal and positive"
        )
    n_features = _int(_get(header, b"max_feature_idx", "header"), "max_feature_idx") + 1
    names = tuple(n for n in _text(_get(header, b"feature_names", "header"), "feature_names").split(" ") if n)
    infos = tuple(n for n in _text(_get(header, b"feature_infos", "header"), "feature_infos").split(" ") if n)
    for key, items in (("feature_names", names), ("feature_infos", infos)):
        if len(items) != n_features:
            raise InvalidModelError(f"header: {len(items)} {key} for {n_features} features")
    return dict(
        version=version,
        n_outputs=n_classes,
        n_features=n_features,
        objective=_text(header[b"objective"], "objective") if b"objective" in header else None,
        average_output=b"average_output" in header,
        feature_names=names,
        feature_infos=infos,
    )


def _tree(t: int, section: bytes, n_features: int) -> Tree:
    where = f"tree {t}"
    number, *lines = section.split(b"\n")
    if number != b"%d" % t:
        raise InvalidModelError(f"expected the section 'Tree={t}', found 'Tree=' followed by {_show(number)}")
    fields = _fields(lines, _TREE_KEYS, where)
    n_leaves = _int(_get(fields, b"num_leaves", where), f"{where}: num_leaves")
    if n_leaves < 1:
        raise InvalidModelError(f"{where}: num_leaves={n_leaves}")
    inner = n_leaves - 1

    def ints(key: bytes, n: int) -> np.ndarray:
        return _numbers(_get(fields, key, where) if n else b"", n, int, np.int64, f"{where}: {key.decode()}")

    def floats(key: bytes, n: int) -> np.ndarray:
        return _numbers(_get(fields, key, where) if n else b"", n, float, np.float64, f"{where}: {key.decode()}")

    leaf_value = floats(b"leaf_value", n_leaves)
    left, right = ints(b"left_child", inner), ints(b"right_child", inner)
    _within(np.concatenate([left, right]), -n_leaves, inner, f"{where}: a child")
    feature = ints(b"split_feature", inner)
    _within(feature, 0, n_features, f"{where}: split_feature")
    threshold, decision_type = floats(b"threshold", inner), ints(b"decision_type", inner)
    _within(decision_type, 0, 16, f"{where}: decision_type")
    n_sets = _int(_get(fields, b"num_cat", where), f"{where}: num_cat")
    if n_sets < 0:
        raise InvalidModelError(f"{where}: num_cat={n_sets}")
    boundaries, words = np.zeros(1, np.int64), np.zeros(0, np.int64)
    if inner and n_sets:
        boundaries = ints(b"cat_boundaries", n_sets + 1)
        if boundaries[0] != 0 or (np.diff(boundaries) < 0).any():
            raise InvalidModelError(f"{where}: cat_boundaries must ascend from 0")
        words = ints(b"cat_threshold", int(boundaries[-1]))
        _within(words, 0, 2**32, f"{where}: cat_threshold")
        # LightGBM truncates the threshold of a categorical split to the number of its set.
        named = threshold[decision_type & 1 == 1]
        if not np.isfinite(named).all():
            raise InvalidModelError(f"{where}: the threshold of a categorical split is not finite")
        _within(np.trunc(named), 0, n_sets, f"{where}: the threshold of a categorical split")
    # Releases before 4.0 write an empty leaf_count for a single leaf.
    counts = bool(fields.get(b"leaf_count")) and (b"internal_count" in fields or not inner)
    return Tree(
        feature=feature,
        threshold=threshold,
        decision_type=decision_type,
        left=left,
        right=right,
        leaf_value=leaf_value,
        internal_count=ints(b"internal_count", inner) if counts else None,
        leaf_count=ints(b"leaf_count", n_leaves) if counts else None,
        cat_boundaries=boundaries,
        cat_words=words,
        linear=_linear(fields, n_leaves, n_features, ints, floats, where),
    )


def _linear(
    fields: Mapping[bytes, bytes],
    n_leaves: int,
    n_features: int,
    ints: Callable[[bytes, int], np.ndarray],
    floats: Callable[[bytes, int], np.ndarray],
    where: str,
) -> Linear | None:
    flag = fields.get(b"is_linear", b"0")
    if flag not in (b"0", b"1"):
        raise InvalidModelError(f"{where}: is_linear={_show(flag)}; expected 0 or 1")
    if flag == b"0":
        return None
    count = ints(b"num_features", n_leaves)
    _within(count, 0, _MAX_INT, f"{where}: num_features")
    feature = ints(b"leaf_features", int(count.sum()))
    _within(feature, 0, n_features, f"{where}: leaf_features")
    return Linear(
        const=floats(b"leaf_const", n_leaves),
        count=count,
        feature=feature,
        coef=floats(b"leaf_coeff", len(feature)),
    )


def _parameters(tail: bytes) -> bytes:
    _, found, rest = tail.partition(b"\nparameters:\n")
    parameters, end, _ = rest.partition(b"\nend of parameters\n")
    if found and not end:
        raise InvalidModelError("the LightGBM model text is truncated: it has no line 'end of parameters'")
    return parameters


def _categorical_features(parameters: bytes, n_features: int) -> tuple[int, ...]:
    """The columns that were declared categorical, where the training parameters tell by number; else ()."""
    match = re.search(rb"^\[categorical_feature: ([0-9,]+)\]$", parameters, re.MULTILINE)
    features = sorted({int(f[:10]) for f in match[1].split(b",") if f}) if match else []
    return tuple(f for f in features if f < n_features)


def _pandas_categorical(tail: bytes) -> list[list[Any]] | None:
    _, found, rest = tail.rpartition(b"\npandas_categorical:")
    if not found:
        return None
    try:
        value = json.loads(rest.decode("utf-8"))
    except (ValueError, RecursionError):
        raise InvalidModelError("pandas_categorical, the last line of the model text, is not valid JSON") from None
    if value is None:
        return None
    scalars = (str, int, float, bool)
    if not isinstance(value, list) or not all(
        isinstance(c, list) and all(isinstance(v, scalars) for v in c) for c in value
    ):
        raise InvalidModelError("pandas_categorical must be null or a list of lists of strings and numbers")
    return value


def _get(fields: Mapping[bytes, bytes], key: bytes, where: str) -> bytes:
    if key not in fields:
        raise InvalidModelError(f"{where}: the field {key.decode()} is absent")
    return fields[key]


def _text(value: bytes, where: str) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidModelError(f"header: {where} is not valid UTF-8") from None


def _int(value: bytes, where: str) -> int:
    if re.fullmatch(rb"-?[0-9]{1,10}", value) is None or not -_MAX_INT <= int(value) <= _MAX_INT:
        raise InvalidModelError(f"{where} is no 32-bit integer: {_show(value)}")
    return int(value)


def _numbers(line: bytes, n: int, convert: type, dtype: type, where: str) -> np.ndarray:
    """The n numbers of a line; counted before anything of that size is allocated."""
    tokens = line.split()
    if len(tokens) != n:
        raise InvalidModelError(f"{where}: {len(tokens)} values, expected {n}")
    try:
        # Python's float and int also read '1_0'; LightGBM does not.
        if line.translate(None, _NUMBER_CHARACTERS):
            raise ValueError
        return np.fromiter(map(convert, tokens), dtype, n)
    except (ValueError, OverflowError):
        raise InvalidModelError(f"{where}: not {'integers' if convert is int else 'numbers'}") from None


def _within(values: np.ndarray, low: int, high: int, what: str) -> None:
    bad = (values < low) | (values >= high)
    if bad.any():
        raise InvalidModelError(f"{what} is {values[bad][0]}, outside of [{low}, {high})")


def _show(value: bytes) -> str:
    return repr(value[:40].decode("utf-8", "backslashreplace"))
