"""What a model zoo is: trained models with the source library's own answers, for the exactness ladder.

Each `tests/zoo_<library>.py` holds `CASES`, at least 300 of them, deterministic, cheap to train and wide in parameters.
The fast tier takes every n-th case with a few rows, the full tier all of them with 100,000 rows each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """One model of a zoo.

    Args:
        name: Unique within the zoo; the id of its tests.
        make: Trains and returns the model.
        raw: (model, X) -> the library's raw scores (n, K), in the accumulator's dtype.
        leaves: (model, X) -> the library's leaf ids (n, T), or None where it has no such call.
        dtypes: The dtypes of rows that the library accepts without a change of meaning.
        infinities: Whether the library accepts infinite values.
        options: Keyword arguments of `woodpecker.from_model`.
    """

    name: str
    make: Callable[[], Any]
    raw: Callable[[Any, np.ndarray], np.ndarray]
    leaves: Callable[[Any, np.ndarray], np.ndarray | None]
    dtypes: tuple[str, ...] = ("float32", "float64")
    infinities: bool = True
    options: tuple[tuple[str, Any], ...] = ()
