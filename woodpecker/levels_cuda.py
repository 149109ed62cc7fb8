"""The CUDA half of a model: plan, tables and code for GPUs, beside the CPU levels.

It has two or three directories of the model blob, which follow those of the levels: the one that kernels read, one
whose tables are the code, compressed, and one for the kernel that serves a few rows, where that is a walk beside
another strategy.
"""

from __future__ import annotations

import functools
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import tvm

from . import build_cuda, methods_cuda
from .layout import Signature, directory
from .predicates import Canonical
from .relay_ops.plan import Step
from .runtime.cuda import Code
from .runtime.format import Directory
from .runtime.threads import available_cpus
from .schedules import cuda_link, cuda_plan
from .targets_cuda import CudaTarget
from .tuning.lookup import tuned_plan

COMPRESSION = 6


@dataclass(frozen=True)
class Made:
    """What a model has for GPUs.

    Args:
        manifest: What its manifest says of that, under "cuda".
        directories: To be appended to those of the CPU levels.
    """

    manifest: Mapping[str, Any]
    directories: Sequence[Directory]


@dataclass(frozen=True)
class Plan:
    """The GPU's plan.

    Args:
        step: From `cuda_plan`.
        tuning: Which tuning record it comes from, see `tuned_plan`; None: a strategy was named.
    """

    step: Step
    tuning: Mapping[str, Any] | None


def split_plan(
    canonical: Canonical, target: CudaTarget, strategy: str, options: Mapping[str, Any], tuning_logs: Any
) -> tuple[dict[str, Any], Plan]:
    """The options of the CPU's strategy, and the GPU's plan; "auto" takes that of a tuning record, if one applies.

    Raises:
        StrategyError: see `cuda_plan.make_plan`. InputError, OSError: see `tuned_plan`.
    """
    mine, given = cuda_plan.split(options)
    step, tuning = cuda_plan.make_plan(canonical, strategy, given, mine), None
    if strategy == "auto":
        found, tuning = tuned_plan(canonical, target, tuning_logs, tvm.__version__)
        step = found[0] if found else step
    return mine, Plan(step, tuning)


def make(canonical: Canonical, target: CudaTarget, plan: Plan, first_directory: int) -> Made:
    """Tables and code of a plan.

    Args:
        canonical: The forest.
        target: The architectures.
        plan: The plan.
        first_directory: How many directories come before.

    Raises:
        StrategyError: a block of rows would not fit into memory that 32 bits reach.
        MissingExtraError: NVRTC is not installed. TargetError: it does not know an architecture.
    """
    step = plan.step
    prepared = build_cuda.prepare(canonical, step.strategy, step.options)
    described = methods_cuda.describe(canonical.forest)
    methods = methods_cuda.text_of(canonical.forest, described)
    codes = _codes(prepared.signatures, first_directory, target.archs, methods)
    launches = {**prepared.launches, **dict.fromkeys(methods_cuda.entries(methods), cuda_link.LAUNCH)}
    stored = [np.frombuffer(zlib.compress(code.image, COMPRESSION), np.uint8) for code in codes]
    manifest = {
        "directory": first_directory,
        "plan": step.manifest(),
        "tuning": plan.tuning,
        # Linear leaves read them again, one after the other.
        "rows_once": canonical.forest.linear_offset is None,
        "launches": {entry: list(astuple(how)[:4]) for entry, how in launches.items() if not how.row_blocks},
        "spread": {entry: list(astuple(how)) for entry, how in launches.items() if how.row_blocks},
        **described,
        "codes": [
            {
                "kind": code.kind,
                "arch": code.arch,
                "bytes": len(code.image),
                "stored": packed.nbytes,
                "sha256": hashlib.sha256(code.image).hexdigest(),
            }
            for code, packed in zip(codes, stored, strict=True)
        ],
    }
    first, *few = (directory(part.layout, part.signature) for part in prepared.parts)
    return Made(manifest, [first, ({}, dict(enumerate(stored))), *few])


@functools.lru_cache(maxsize=64)
def _codes(
    found: tuple[Signature, ...], first_directory: int, archs: tuple[str, ...], methods: str
) -> tuple[Code, ...]:
    """A cubin for each architecture, and PTX of the oldest, which the driver compiles for all that have no cubin."""
    directories = (first_directory, first_directory + 2)
    kernels = build_cuda.kernels(found, directories=directories) | methods_cuda.kernels(methods)
    text = build_cuda.source(kernels, archs[0])
    wanted = [*((arch, "cubin") for arch in archs), (archs[0], "ptx")]
    # NVRTC takes a second or two for each, outside of Python's lock.
    with ThreadPoolExecutor(min(len(wanted), available_cpus())) as pool:
        return tuple(pool.map(lambda one: build_cuda.assemble(text, *one), wanted))
