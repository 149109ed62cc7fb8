"""From a forest to the plan that a tuning job found for it, or for forests like it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import StrategyError
from ..predicates import Canonical
from ..relay_ops.plan import Step, plan_of
from ..targets import CpuTarget
from . import logs, records
from .records import Record
from .shape import TargetKey, digest, distance, shape_class, target_key

MAX_SKIPPED = 5
"""Reasons that the manifest keeps: enough to see why, whatever the logs hold."""

DEFAULTS = "defaults"
EXACT = "this model"


def tuned_plan(
    canonical: Canonical, where: CpuTarget, tuning_logs: Any, tvm_version: str
) -> tuple[tuple[Step, ...] | None, dict[str, Any]]:
    """The plan of the best record, and what `inspect` says of it.

    The record of this very forest is the best, then those of its shape class, then those of the nearest one; the
    user's come before the shipped ones, those of as many cores before others, and then the greatest gain decides. Where
    that one is of another model, and found nothing faster than the default, the default is the answer here too.

    Returns:
        The plan, or None where no record applies; and ``{"from", "skipped", ...}``: JSON values.

    Raises:
        InputError: ``tuning_logs`` names what is no log. OSError: a log can't be read.
    """
    key = target_key(where)
    entries = [
        (place, kind, entry)
        for place, (kind, folder) in enumerate(logs.find(tuning_logs))
        for entry in records.read(folder, tvm_version, key.stem)
    ]
    skipped = [f"{e.path.name}, line {e.line}: {e.refused}" for _, _, e in entries if e.record is None]
    ranked = _ranked(canonical, key, [(p, k, e.record) for p, k, e in entries if e.record is not None])
    for source, kind, record in ranked:
        if record.gain <= 1 and source != EXACT:
            # Its default is not this forest's, whose own estimate knows more of it.
            skipped.append(f"{record.model}: no plan was faster there than the default")
            break
        what = f"tuned on {source}, {record.gain:.2f} times as fast as the default there ({record.date})"
        try:
            plan = plan_of(canonical, record.plan, what)
        except StrategyError as error:
            skipped.append(f"{record.model}: {error}")
            continue
        found = {"from": source, "logs": kind, "model": record.model, "gain": record.gain, "date": record.date}
        return plan, {**found, "skipped": skipped[:MAX_SKIPPED]}
    return None, {"from": DEFAULTS, "skipped": skipped[:MAX_SKIPPED]}


def _ranked(
    canonical: Canonical, key: TargetKey, found: list[tuple[int, str, Record]]
) -> list[tuple[str, str, Record]]:
    """(what it was tuned on, whose logs, record), the best first."""
    # A file may hold records of any target.
    found = [(place, kind, record) for place, kind, record in found if record.target.stem == key.stem]
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
        rank = (not exact, apart, place, record.target.cores != key.cores, -record.gain, _newest_first(record))
        ranked.append((rank, source, kind, record))
    ranked.sort(key=lambda entry: entry[0])
    return [(source, kind, record) for _, source, kind, record in ranked]


def _newest_first(record: Record) -> tuple[int, ...]:
    return tuple(-ord(c) for c in record.date)


def summary(tuning: Mapping[str, Any]) -> str:
    """What `inspect` prints of it."""
    if tuning["from"] == DEFAULTS:
        text = "the default plan; no record applies"
    else:
        text = f"by a record ({tuning['logs']}) of {tuning['from']}: {tuning['model']}"
    return text + "".join(f"; skipped: {reason}" for reason in tuning["skipped"])
