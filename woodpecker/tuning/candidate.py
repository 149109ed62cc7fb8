"""One candidate: from a plan to code and a model blob, in this process or in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from ..build import kernel
from ..layout import Signature
from ..levels import level_of
from ..predicates import Canonical
from ..relay_ops.plan import Step
from ..runtime.format import pack
from ..schedules.cpu import tables_of
from ..targets import CpuTarget, tvm_target

SYMBOL = "entry"


@dataclass(frozen=True)
class Code:
    """What a candidate's code is made of, and the model that it reads."""

    signatures: tuple[Signature, ...]
    blob: np.ndarray
    scratch_bytes: int


def code_of(canonical: Canonical, plan: Sequence[Step], where: CpuTarget) -> Code:
    """The tables of a plan, and what its code depends on."""
    level, directories = level_of(canonical, tables_of(canonical), tuple(plan), where)
    return Code(level.signatures, pack(directories, {}), level.scratch_bytes)


def build(code: Code, where: CpuTarget, entry: str) -> Any:
    """The compiled module of one entry, such as "raw_f32"; its symbol is SYMBOL."""
    return tvm.compile(kernel(code.signatures, SYMBOL, entry), target=tvm_target(where.config))


def write(code: Code, where: CpuTarget, entry: str, path: Path) -> None:
    """A shared library of one entry. The blob is not in it.

    Raises:
        RuntimeError: the linker failed, or there is none.
    """
    build(code, where, entry).export_library(str(path))
