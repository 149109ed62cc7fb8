"""Layout: the numbers that a kernel reads, by name; and the signature, which is all of them that code depends on.

A kernel finds its scalars and the byte offsets of its tables in the *directory*, an array of int64 at a fixed place of
the model blob, so the same code serves every model of one signature: compile time does not grow with the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .runtime.format import DIRECTORY_SLOTS


@dataclass(frozen=True)
class Layout:
    """What a strategy prepares from a forest.

    Args:
        scalars: name -> integer, read by the kernel when it starts.
        tables: name -> C-contiguous array.
        constants: name -> integer that the code is specialised on, such as the depth of unrolled loops.
        flags: Names of the cases that the code has to handle, such as "categories".
    """

    scalars: Mapping[str, int]
    tables: Mapping[str, np.ndarray]
    constants: Mapping[str, int]
    flags: frozenset[str]

    def __or__(self, other: Layout) -> Layout:
        return Layout(
            {**self.scalars, **other.scalars},
            {**self.tables, **other.tables},
            {**self.constants, **other.constants},
            self.flags | other.flags,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return sum(t.nbytes for t in self.tables.values())


@dataclass(frozen=True)
class Signature:
    """Everything that generated code depends on; hashable, the key under which code is cached.

    Args:
        strategy: Name of the strategy.
        input_dtype: What values are compared in, "float32" or "float64".
        acc_dtype: Dtype of leaf values and of the sum.
        scalars: Names of the scalars, in the order of their directory slots.
        tables: (name, dtype) of the tables, in the order of their directory slots, which follow the scalars'.
        constants: (name, value) pairs.
        flags: See `Layout`.
    """

    strategy: str
    input_dtype: str
    acc_dtype: str
    scalars: tuple[str, ...]
    tables: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, int], ...]
    flags: frozenset[str]

    def constant(self, name: str) -> int:
        return dict(self.constants)[name]

    @property
    def slots(self) -> dict[str, int]:
        """name -> directory slot, of scalars and tables."""
        return {name: i for i, name in enumerate((*self.scalars, *(name for name, _ in self.tables)))}


def signature(layout: Layout, strategy: str, input_dtype: str, acc_dtype: str) -> Signature:
    """The signature of a layout."""
    found = Signature(
        strategy=strategy,
        input_dtype=input_dtype,
        acc_dtype=acc_dtype,
        scalars=tuple(sorted(layout.scalars)),
        tables=tuple((name, str(layout.tables[name].dtype)) for name in sorted(layout.tables)),
        constants=tuple(sorted(layout.constants.items())),
        flags=layout.flags,
    )
    if len(found.slots) > DIRECTORY_SLOTS:
        raise AssertionError(f"{len(found.slots)} directory entries; the format has {DIRECTORY_SLOTS}")
    return found


def directory(layout: Layout, signature: Signature) -> tuple[dict[int, int], dict[int, np.ndarray]]:
    """Slot -> scalar and slot -> table, as `woodpecker.runtime.format.pack` takes them."""
    slots = signature.slots
    scalars = {slots[name]: value for name, value in layout.scalars.items()}
    return scalars, {slots[name]: table for name, table in layout.tables.items()}
