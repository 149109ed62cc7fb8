"""One candidate for GPUs: from a plan to code and a model blob, and to files of them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import levels_cuda
from ..predicates import Canonical
from ..relay_ops.plan import Step
from ..runtime.cuda import Code, Launch
from ..runtime.files import atomic_path
from ..runtime.format import pack
from ..runtime.measure_cuda import Candidate
from ..targets_cuda import CudaTarget


@dataclass(frozen=True)
class GpuCode:
    """A candidate's code, and the model that it reads."""

    candidate: Candidate
    blob: np.ndarray


def code_of(canonical: Canonical, plan: Sequence[Step], where: CudaTarget) -> GpuCode:
    """The code and the tables of a plan.

    Raises:
        StrategyError, MissingExtraError, TargetError: see `levels_cuda.make`.
    """
    (step,) = plan
    made = levels_cuda.make(canonical, where, levels_cuda.Plan(step, None), 0)
    first, (_, images), *others = made.directories
    codes = [
        Code(told["kind"], told["arch"], zlib.decompress(np.asarray(image).tobytes()))
        for told, image in zip(made.manifest["codes"], images.values(), strict=True)
    ]
    told = {**made.manifest["launches"], **made.manifest["spread"]}
    launches = {entry: Launch(*how) for entry, how in told.items()}
    candidate = Candidate(tuple(codes), launches, step.options["cuda_few_rows"])
    # Without the code, plans that differ in it alone have the same blob; directories keep their numbers.
    return GpuCode(candidate, pack([first, ({}, {}), *others], {}))


def write(code: GpuCode, path: Path) -> None:
    """A file of the code. The blob is not in it."""
    with atomic_path(path) as staged:
        staged.write_text(code.candidate.to_text(), encoding="utf-8")
