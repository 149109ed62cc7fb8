"""Class labels of any dtype as JSON values, and back, without a change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import UnsupportedModelError


def encode(classes: np.ndarray) -> dict[str, Any]:
    """Labels as JSON values. Floats travel as text that reads back to the same bits.

    Raises:
        UnsupportedModelError: a label is no number, text, bool, date or None.
    """
    classes = np.asarray(classes)
    dtype = classes.dtype
    if dtype.kind in "biu":
        values: list[Any] = classes.tolist()
    elif dtype.kind == "U":
        values = classes.tolist()
    elif dtype.kind == "f":
        values = [float(v).hex() for v in classes]
    elif dtype.kind == "S":
        values = [bytes(v).hex() for v in classes]
    elif dtype.kind in "mM":
        values = classes.astype(np.int64).tolist()
    elif dtype.kind == "O":
        values = [_encode_object(v) for v in classes]
    else:
        raise UnsupportedModelError(f"class labels of dtype {dtype} are not supported")
    return {"dtype": dtype.str, "values": values}


def _encode_object(value: Any) -> list[Any]:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, str)):
        return ["json", value]
    if isinstance(value, float):
        return ["float", value.hex()]
    raise UnsupportedModelError(
        f"the class label {value!r} is a {type(value).__name__}; supported are numbers and text"
    )


def decode(encoded: Mapping[str, Any]) -> np.ndarray:
    """The inverse of `encode`."""
    dtype, values = np.dtype(encoded["dtype"]), encoded["values"]
    if dtype.kind == "f":
        return np.array([float.fromhex(v) for v in values], dtype)
    if dtype.kind == "S":
        return np.array([bytes.fromhex(v) for v in values], dtype)
    if dtype.kind in "mM":
        return np.array(values, np.int64).astype(dtype)
    if dtype.kind == "O":
        out = np.empty(len(values), object)
        out[:] = [float.fromhex(v) if tag == "float" else v for tag, v in values]
        return out
    return np.array(values, dtype)
