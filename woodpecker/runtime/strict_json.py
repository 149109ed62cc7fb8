"""Reading JSON that anyone may have written: what is none, holds a number that is none, or says a thing twice, ends in
a typed error."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..errors import InputError


def parse(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        InputError: it is no JSON. NaN and infinity are none either, nor are numbers that a float64 can't hold, nor
            objects with a key that stands there twice.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise InputError(str(error)) from None


def read(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        InputError: see `parse`; the message names the file. OSError: it can't be read.
    """
    content = path.read_bytes()
    try:
        return parse(content)
    except InputError as error:
        raise InputError(f"{path} is damaged: {error}") from None


def _refuse(name: str) -> None:
    raise ValueError(f"there is no {name} in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:40]} is beyond a float64")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Of a key that stands there twice, readers take one or the other value."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:40]!r} stands there twice")
        found[key] = value
    return found
