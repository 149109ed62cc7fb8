"""Reading JSON that anyone may have written: what is none, or holds a number that is none, ends in a typed error."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from ..errors import InputError


def parse(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        InputError: it is no JSON. NaN and infinity are none either, nor are numbers that a float64 can't hold.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
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
