"""A reader of UBJSON (draft 12), for the part of it that XGBoost writes.

Objects without a count, arrays with or without one, and arrays of one number type, which become numpy arrays without
a copy per element. Nothing is allocated on the word of a length: it is compared with the bytes that are left first.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from ..errors import InvalidModelError

MAX_DEPTH = 64
"""Nesting that is followed; an XGBoost model needs 8 levels."""

_STRUCTS = {"d": ">f", "D": ">d", "i": "b", "U": "B", "I": ">h", "l": ">i", "L": ">q", "C": "b"}
_DTYPES = {"d": ">f4", "D": ">f8", "i": "i1", "U": "u1", "I": ">i2", "l": ">i4", "L": ">i8"}
_SCALARS = {ord(c): struct.Struct(f) for c, f in _STRUCTS.items()}
_ARRAYS = {ord(c): np.dtype(t) for c, t in _DTYPES.items()}
_CONSTANTS = {ord("Z"): None, ord("T"): True, ord("F"): False}
_LENGTH_MARKERS = frozenset(b"iUIlL")


def loads(data: bytes) -> Any:
    """The value that ``data`` holds; arrays of one number type as one-dimensional numpy arrays in native byte order.

    Time and memory are linear in ``len(data)``.

    Raises:
        InvalidModelError: names the byte where the data is truncated or not UBJSON.
    """
    value, end = _value(data, 0, 0)
    if end != len(data):
        raise InvalidModelError(f"UBJSON: {len(data) - end} bytes follow the end of the document at byte {end}")
    return value


def _take(data: bytes, at: int, n: int) -> int:
    """The position ``n`` bytes further."""
    if n < 0 or n > len(data) - at:
        raise InvalidModelError(f"UBJSON: {n} bytes announced at byte {at}, {len(data) - at} are left")
    return at + n


def _marker(data: bytes, at: int) -> int:
    if at >= len(data):
        raise InvalidModelError(f"UBJSON: truncated after {len(data)} bytes")
    return data[at]


def _scalar(data: bytes, at: int, marker: int) -> tuple[Any, int]:
    form = _SCALARS[marker]
    end = _take(data, at, form.size)
    return form.unpack_from(data, at)[0], end


def _length(data: bytes, at: int) -> tuple[int, int]:
    marker = _marker(data, at)
    if marker not in _LENGTH_MARKERS:
        raise InvalidModelError(f"UBJSON: expected a length at byte {at}, found {bytes([marker])!r}")
    return _scalar(data, at + 1, marker)


def _string(data: bytes, at: int) -> tuple[str, int]:
    length, begin = _length(data, at)
    end = _take(data, begin, length)
    try:
        return data[begin:end].decode("utf-8"), end
    except UnicodeDecodeError as error:
        raise InvalidModelError(f"UBJSON: the text at byte {begin} is not UTF-8 ({error.reason})") from None


def _value(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if depth > MAX_DEPTH:
        raise InvalidModelError(f"UBJSON: nested more than {MAX_DEPTH} levels deep at byte {at}")
    marker = _marker(data, at)
    at += 1
    if marker == ord("{"):
        return _object(data, at, depth)
    if marker == ord("["):
        return _array(data, at, depth)
    if marker == ord("S"):
        return _string(data, at)
    if marker in _SCALARS:
        return _scalar(data, at, marker)
    if marker in _CONSTANTS:
        return _CONSTANTS[marker], at
    raise InvalidModelError(f"UBJSON: unknown marker {bytes([marker])!r} at byte {at - 1}")


def _object(data: bytes, at: int, depth: int) -> tuple[dict[str, Any], int]:
    members: dict[str, Any] = {}
    while _marker(data, at) != ord("}"):
        begin = at
        key, at = _string(data, at)
        if key in members:
            raise InvalidModelError(f"UBJSON: the key {key[:80]!r} at byte {begin} occurs twice in one object")
        members[key], at = _value(data, at, depth + 1)
    return members, at + 1


def _array(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    marker = _marker(data, at)
    if marker == ord("$"):
        return _typed_array(data, at + 1)
    items: list[Any] = []
    if marker == ord("#"):
        count, at = _length(data, at + 1)
        _take(data, at, count)  # every item takes a byte or more
        for _ in range(count):
            item, at = _value(data, at, depth + 1)
            items.append(item)
        return items, at
    while _marker(data, at) != ord("]"):
        item, at = _value(data, at, depth + 1)
        items.append(item)
    return items, at + 1


def _typed_array(data: bytes, at: int) -> tuple[np.ndarray, int]:
    dtype = _ARRAYS.get(_marker(data, at))
    if dtype is None or _marker(data, at + 1) != ord("#"):
        raise InvalidModelError(f"UBJSON: no array type and count at byte {at}")
    count, begin = _length(data, at + 2)
    end = _take(data, begin, count * dtype.itemsize)
    return np.frombuffer(data, dtype, count, begin).astype(dtype.newbyteorder("="), copy=False), end
