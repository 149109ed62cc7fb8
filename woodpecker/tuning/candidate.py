"""One candidate: from a plan to code and a model blob, in this process or in a file."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from .. import toolchain
from ..build import kernel
from ..layout import Layout, Signature
from ..levels import level_of
from ..predicates import Canonical
from ..relay_ops.plan import Step
from ..runtime.files import atomic_path
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


def code_of(
    canonical: Canonical, plan: Sequence[Step], where: CpuTarget, tables: Callable[[Step], Layout] | None = None
) -> Code:
    """The tables of a plan, and what its code depends on. ``tables``: `tables_of` the forest, kept from before."""
    level, directories = level_of(canonical, tables or tables_of(canonical), tuple(plan), where)
    return Code(level.signatures, pack(directories, {}), level.scratch_bytes)


def build(code: Code, where: CpuTarget, entry: str) -> Any:
    """The compiled module of one entry, such as "raw_f32"; its symbol is SYMBOL."""
    return _built(code.signatures, where.config, entry)


@functools.lru_cache(maxsize=64)
def _built(signatures: tuple[Signature, ...], config: str, entry: str) -> Any:
    """Kept, since leaders are measured again, and plans that differ in their row counts alone have the same code."""
    return tvm.compile(kernel(signatures, SYMBOL, entry), target=tvm_target(config))


def write(code: Code, where: CpuTarget, entry: str, path: Path) -> None:
    """A shared library of one entry. The blob is not in it.

    Raises:
        TargetError: the linker failed, or there is none for this machine. MissingExtraError: there is none for the
            target's platform.
    """
    tools = toolchain.find(where.platform)

    def link(output: str, objects: Sequence[str], **_: Any) -> None:
        made = Path(output)
        files = [str(Path(name).absolute()) for name in objects]
        tools.run(["-shared", "-fPIC", *files, "-o", made.name, "-lm"], made.parent, made.name)

    # Compilers leave files of their own beside what they make.
    with tempfile.TemporaryDirectory(prefix="woodpecker-") as apart, atomic_path(path, mode=0o777) as staged:
        linked = Path(apart) / "candidate.so"
        build(code, where, entry).export_library(str(linked), fcompile=link)
        shutil.copyfile(linked, staged)
