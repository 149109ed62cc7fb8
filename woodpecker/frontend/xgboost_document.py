"""XGBoost's model document, read from JSON or UBJSON, and checked access to its members.

The schema is `doc/model.schema` of XGBoost's repository. Numbers of `*_param` objects are strings there. Every accessor
names the place it looks at, so that a message says what is wrong and where.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, TypeVar

import numpy as np

from ..errors import InvalidModelError, UnsupportedModelError
from . import ubjson

T = TypeVar("T")
_INTEGER = re.compile(r"-?[0-9]{1,18}")
_DECIMAL = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,9})?")
_NAMES = {dict: "an object", list: "an array", str: "a string", int: "an integer"}


class AmbiguousDecimal(InvalidModelError):
    """A number halfway between two float32: in JSON, digits beyond float64's decide; read it again with ``exact``."""


def load(data: bytes, *, exact: bool = False) -> Mapping[str, Any]:
    """The document of a model file, whichever of the two formats it has.

    Args:
        data: The bytes of the file.
        exact: Round each JSON number to float32 from its digits, not by way of float64.

    Raises:
        InvalidModelError: neither JSON nor UBJSON, or damaged.
        UnsupportedModelError: XGBoost's old binary format.
    """
    if data[:4] in (b"binf", b"bs64"):
        raise UnsupportedModelError(
            "this is XGBoost's old binary format; load it with the XGBoost that wrote it and save it as .ubj or .json"
        )
    is_ubjson = re.match(rb"\{[iUIlL]", data)  # a length follows the brace, where JSON has a quote or a space
    document = ubjson.loads(data) if is_ubjson else _load_json(data, exact)
    if not isinstance(document, dict):
        raise InvalidModelError("the file is not an XGBoost model: its outermost value is not an object")
    return document


def _load_json(data: bytes, exact: bool) -> Any:
    try:
        parse_float = float32_of if exact else None
        return json.loads(data, object_pairs_hook=_unique_keys, parse_float=parse_float)
    except RecursionError:
        raise InvalidModelError("the JSON is nested too deeply") from None
    except InvalidModelError:
        raise
    except ValueError as error:
        raise InvalidModelError(f"the file is neither UBJSON nor JSON: {error}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise InvalidModelError(f"the key {twice[:80]!r} occurs twice in one JSON object")
    return members


def float32_of(text: str) -> float:
    """The float32 nearest to a decimal, as XGBoost reads it (`std::from_chars`, `strtof`): rounded once.

    By way of float64 it would be rounded twice, which misses where the float64 lies halfway between two float32.
    """
    value = float(text)
    with np.errstate(over="ignore"):
        near = float(np.float32(value))
    if near == value or not math.isfinite(near):
        return near
    other = float(np.nextafter(np.float32(near), np.float32(math.copysign(math.inf, value - near))))
    digits, middle = Decimal(text), Decimal(value)
    if (near + other) / 2 != value or digits == middle:
        return near
    return max(near, other) if digits > middle else min(near, other)


def member(parent: Mapping[str, Any], key: str, kind: type[T], where: str) -> T:
    """``parent[key]``, which must be of this kind."""
    if key not in parent:
        raise InvalidModelError(f"{where} has no {key!r}")
    value = parent[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InvalidModelError(f"{where}: {key!r} must be {_NAMES[kind]}, found {type(value).__name__}")
    return value


def integer(parent: Mapping[str, Any], key: str, where: str, *, default: int | None = None, high: int = 2**31) -> int:
    """The whole number in [0, high] that the string ``parent[key]`` holds."""
    if key not in parent and default is not None:
        return default
    text = member(parent, key, str, where)
    if not _INTEGER.fullmatch(text) or not 0 <= int(text) <= high:
        raise InvalidModelError(f"{where}: {key!r} must be a whole number in [0, {high}], found {text[:40]!r}")
    return int(text)


def decimals(text: str, where: str) -> np.ndarray:
    """(n,) float32: the numbers of ``"[4.8E-1,5E-1]"`` (XGBoost 3.1 and later) or of ``"5E-1"``."""
    inner = text.strip()
    if inner[:1] + inner[-1:] in ("[]", "()"):
        inner = inner[1:-1]
    parts = [part.strip() for part in inner.split(",")]
    if not all(_DECIMAL.fullmatch(part) for part in parts):
        raise InvalidModelError(f"{where} must hold numbers, found {text[:40]!r}")
    return np.array([float32_of(part) for part in parts], np.float32)


def items(parent: Mapping[str, Any], key: str, kind: type[T], where: str) -> list[T]:
    """The array ``parent[key]``, all of whose items are of one kind."""
    values = member(parent, key, list, where)
    for i, value in enumerate(values):
        if not isinstance(value, kind):
            raise InvalidModelError(f"{where}: {key}[{i}] must be {_NAMES[kind]}, found {type(value).__name__}")
    return values


def integers(parent: Mapping[str, Any], key: str, where: str, *, flags: bool = False) -> np.ndarray:
    """(n,) int64: the array ``parent[key]``; with ``flags``, JSON's true and false count as 1 and 0."""
    values = _numbers(parent, key, where, "iu", {int, bool} if flags else {int})
    try:
        return np.asarray(values, np.int64)
    except OverflowError:
        raise InvalidModelError(f"{where}: {key!r} holds a number beyond 64 bits") from None


def floats(parent: Mapping[str, Any], key: str, where: str) -> np.ndarray:
    """(n,) float32: the array ``parent[key]``.

    Raises:
        AmbiguousDecimal: the document comes from JSON and must be loaded with ``exact``.
    """
    values = _numbers(parent, key, where, "f", {float, int})
    if isinstance(values, np.ndarray):
        return values.astype(np.float32, copy=False)
    try:
        wide = np.array(values, np.float64)
    except OverflowError:
        raise InvalidModelError(f"{where}: {key!r} holds a number beyond float64") from None
    with np.errstate(over="ignore", invalid="ignore"):
        near = wide.astype(np.float32)
        other = np.nextafter(near, np.where(wide > near, np.float32(np.inf), np.float32(-np.inf)))
        halfway = (near != wide) & ((near.astype(np.float64) + other) / 2 == wide)
    if any(isinstance(values[i], float) for i in np.flatnonzero(halfway).tolist()):
        raise AmbiguousDecimal(f"{where}: {key!r} holds a number halfway between two float32")
    return near


def _numbers(
    parent: Mapping[str, Any], key: str, where: str, array_kinds: str, types: set[type]
) -> np.ndarray | Sequence[Any]:
    if key not in parent:
        raise InvalidModelError(f"{where} has no {key!r}")
    values = parent[key]
    if isinstance(values, np.ndarray):
        if values.dtype.kind in array_kinds:
            return values
    elif isinstance(values, list) and set(map(type, values)) <= types:
        return values
    wanted = "numbers" if "f" in array_kinds else "whole numbers"
    raise InvalidModelError(f"{where}: {key!r} must be an array of {wanted}")
