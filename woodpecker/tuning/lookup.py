"""From a forest to the plan that a tuning job found for it, or for forests like it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import StrategyError, TargetError
from ..predicates import Canonical
from ..relay_ops.plan import Step, plan_of
from ..runtime.measure_cuda import chosen
from ..targets import CpuTarget
from ..targets_cuda import CudaTarget
from . import logs, records
from .logs import DEFAULTS
from .records import Record
from .shape import TargetKey, digest, distance, shape_class, target_key

MAX_SKIPPED = 5
"""Reasons that the manifest keeps: enough to see why, whatever the logs hold."""

EXACT = "this model"


@dataclass(frozen=True)
class _Sought:
    """What records are looked for.

    Args:
        stem: Whether the logs of targets with this `TargetKey.stem` are read.
        applies: Whether a record of this target applies.
        rank: The lower, the better the target of a record fits.
        plan_of: See `woodpecker.relay_ops.plan.plan_of`.
    """

    stem: Callable[[str], bool]
    applies: Callable[[TargetKey], bool]
    rank: Callable[[TargetKey], tuple[int, ...]]
    plan_of: Callable[[Canonical, Sequence[Mapping[str, Any]], str], tuple[Step, ...]]


def _for_cpu(where: CpuTarget) -> _Sought:
    key = target_key(where)
    return _Sought(
        stem=lambda stem: stem == key.stem,
        applies=lambda found: found.stem == key.stem,
        rank=lambda found: (found.cores != key.cores,),
        plan_of=plan_of,
    )


def _for_gpu(where: CudaTarget) -> _Sought:
    """One plan serves all architectures of a target: records apply of every GPU that would run the code; those that
    take a cubin come first, then those of the newest architecture."""
    from ..schedules import cuda_plan

    def code(arch: str) -> str | None:
        try:
            return chosen(where.archs, arch).kind if re.fullmatch(r"sm_[0-9]{2,4}", arch) else None
        except TargetError:
            return None

    return _Sought(
        stem=lambda stem: stem.startswith("cuda-"),
        applies=lambda found: found.kind == "cuda" and code(found.machine) is not None,
        rank=lambda found: (code(found.machine) != "cubin", -int(found.machine.removeprefix("sm_"))),
        plan_of=cuda_plan.plan_of,
    )


def tuned_plan(
    canonical: Canonical, where: CpuTarget | CudaTarget, tuning_logs: Any, tvm_version: str
) -> tuple[tuple[Step, ...] | None, dict[str, Any]]:
    """The plan of the best record, and what `inspect` says of it.

    The record of this very forest is the best, then those of its shape class, then those of the nearest one; the
    user's come before the shipped ones, those of as many cores before others, or those of the newest GPU whose cubin
    there is, and then the greatest gain decides. Where that one is of another model, and found nothing faster than the
    default, the default is the answer here too.

    Returns:
        The plan, or None where no record applies; and ``{"from", "skipped", ...}``: JSON values.

    Raises:
        InputError: ``tuning_logs`` names what is no log. OSError: a log can't be read.
    """
    sought = _for_gpu(where) if isinstance(where, CudaTarget) else _for_cpu(where)
    entries = [
        (place, kind, entry)
        for place, (kind, folder) in enumerate(logs.find(tuning_logs))
        for entry in records.read(folder, tvm_version, sought.stem)
    ]
    skipped = [f"{e.path.name}, line {e.line}: {e.refused}" for _, _, e in entries if e.record is None]
    ranked = _ranked(canonical, sought, [(p, k, e.record) for p, k, e in entries if e.record is not None])
    for source, kind, record in ranked:
        if record.gain <= 1 and source != EXACT:
            # Its default is not this forest's, whose own estimate knows more of it.
            skipped.append(f"{record.model}: no plan was faster there than the default")
            break
        what = f"tuned on {source}, {record.gain:.2f} times as fast as the default there ({record.date})"
        try:
            plan = sought.plan_of(canonical, record.plan, what)
        except StrategyError as error:
            skipped.append(f"{record.model}: {error}")
            continue
        found = {"from": source, "logs": kind, "model": record.model, "gain": record.gain, "date": record.date}
        return plan, {**found, "skipped": skipped[:MAX_SKIPPED]}
    return None, {"from": DEFAULTS, "skipped": skipped[:MAX_SKIPPED]}


def _ranked(
    canonical: Canonical, sought: _Sought, found: list[tuple[int, str, Record]]
) -> list[tuple[str, str, Record]]:
    """(what it was tuned on, whose logs, record), the best first."""
    # A file may hold records of any target.
    found = [(place, kind, record) for place, kind, record in found if sought.applies(record.target)]
    if not found:
        return []
    mine, shape = digest(canonical.forest), shape_class(canonical)
    ranked = []
    for place, kind, record in found:
        exact = record.digest == mine
        apart = 0.0 if exact else distance(shape, record.shape)
        if apart is None:
            continue
        source = EXACT if exact else "a model of its shape class" if apart == 0 else "a model of a near shape class"
        rank = (not exact, apart, place, sought.rank(record.target), -record.gain, _newest_first(record))
        ranked.append((rank, source, kind, record))
    ranked.sort(key=lambda entry: entry[0])
    return [(source, kind, record) for _, source, kind, record in ranked]


def _newest_first(record: Record) -> tuple[int, ...]:
    return tuple(-ord(c) for c in record.date)
