"""What a contestant is, and woodpecker's own: one per strategy, `auto`, and `tuned`."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .shapes import Info

Predict = Callable[[np.ndarray], Any]

WOODPECKER, LIBRARY, PEER = "woodpecker", "library", "peer"
AUTO, TUNED = "auto", "tuned"
"""Beside the strategies: the plan by estimates alone, and the plan of the tuning record that applies."""
NO_LOGS: Sequence[str] = ()
"""What `compile` gets as its tuning logs: records that somebody's home holds would make two runs two programs."""
RAW, LINK = "raw", "link"
"""What a contestant answers with. RAW: raw scores (n, K). LINK: what the library makes of them: values, the probability
of the second of two classes, or (n, classes) probabilities."""


def model_file(info: Info) -> Any:
    """The model as contestants that parse files themselves want it."""
    return str(info.model)


def no_refusal(info: Info) -> str | None:
    return None


def raw_form(info: Info) -> str:
    return RAW


@dataclass(frozen=True)
class Contestant:
    """One way to run a model. Everything but the declaration happens in processes of its own.

    Args:
        name: Unique; woodpecker's are "woodpecker:<strategy>".
        kind: WOODPECKER: must equal the library bit for bit, or the run fails. LIBRARY: the reference, timed too.
            PEER: its error is reported.
        load: (info, model, folder) -> the function that is timed, float32 (n, features) rows to answers. ``model`` is
            None where there is a `build`: what that left in ``folder`` is all that is needed.
        requires: Modules that it needs, imported before `build`, or before `load` where there is no `build`.
        runs_with: Modules that are imported before `load` where there is a `build`.
        refuses: Why it can't take a model, or None, as far as is known in advance.
        form: RAW or LINK.
        read: The model as `build`, `load` and `probe` want it; not timed.
        build: Compiles the model into `folder`, in a fresh process whose time and peak memory are reported.
        leaves: LIBRARY and WOODPECKER have it: like `load`, but the function returns leaf ids (n, trees).
        load_link: LIBRARY has it: like `load`, with answers in the form LINK.
        load_predict: LIBRARY and WOODPECKER have it: like `load`, with what the model's own `predict` returns.
        probe: WOODPECKER has it: (model, n, seed) -> rows at and next to the model's own thresholds.
        hides: Modules that its packages must not find.
    """

    name: str
    kind: str
    load: Callable[[Info, Any, Path], Predict]
    requires: tuple[str, ...] = ()
    runs_with: tuple[str, ...] = ()
    refuses: Callable[[Info], str | None] = no_refusal
    form: Callable[[Info], str] = raw_form
    read: Callable[[Info], Any] = model_file
    build: Callable[[Info, Any, Path], None] | None = None
    leaves: Callable[[Info, Any, Path], Predict] | None = None
    load_link: Callable[[Info, Any, Path], Predict] | None = None
    load_predict: Callable[[Info, Any, Path], Predict] | None = None
    probe: Callable[[Any, int, int], np.ndarray] | None = None
    hides: tuple[str, ...] = ()


def missing_module(contestant: Contestant) -> str | None:
    """The first top-level package that it needs and that is not installed. Imports nothing."""
    for name in contestant.requires:
        top = name.partition(".")[0]
        if importlib.util.find_spec(top) is None:
            return top
    return None


def resolve(name: str) -> Contestant:
    """The contestant of this name; "package.module:ATTRIBUTE" names one defined elsewhere.

    Raises:
        LookupError: there is none.
    """
    if name.startswith(f"{WOODPECKER}:"):
        return woodpecker(name.partition(":")[2])
    module, _, attribute = name.partition(":")
    if attribute:
        found = getattr(importlib.import_module(module), attribute)
        if not isinstance(found, Contestant):
            raise LookupError(f"{name} is a {type(found).__name__}, no Contestant")
        return found
    from .peers import ALL

    for contestant in ALL:
        if contestant.name == name:
            return contestant
    raise LookupError(f"unknown contestant {name!r}; known: {', '.join(c.name for c in ALL)}")


def woodpecker_names() -> list[str]:
    """Every strategy that is installed, then `auto`."""
    from woodpecker.relay_ops.plan import STRATEGIES

    return [f"{WOODPECKER}:{name}" for name in (*STRATEGIES, AUTO)]


def woodpecker(strategy: str) -> Contestant:
    """A strategy, AUTO or TUNED, which is refused where no record applies: it would be AUTO."""

    def build(info: Info, model: Any, folder: Path) -> None:
        import woodpecker as wp
        from woodpecker.errors import StrategyError
        from woodpecker.tuning.logs import DEFAULTS

        if strategy == TUNED:
            compiled = wp.compile(model)
            if compiled.inspect()["tuning"]["from"] == DEFAULTS:
                raise StrategyError("no tuning record applies")
        else:
            compiled = wp.compile(model, strategy=strategy, tuning_logs=NO_LOGS)
        compiled.save(folder / "model.so")

    return Contestant(
        name=f"{WOODPECKER}:{strategy}",
        kind=WOODPECKER,
        requires=("tvm", "woodpecker.compiler", "woodpecker.build", "woodpecker.relay_ops.plan"),
        runs_with=("woodpecker.runtime",),
        read=own_model,
        build=build,
        load=lambda info, model, folder: _artifact(folder).predict_raw,
        leaves=lambda info, model, folder: _artifact(folder).apply,
        load_predict=lambda info, model, folder: _artifact(folder).predict,
        probe=threshold_rows,
    )


def _artifact(folder: Path) -> Any:
    import woodpecker as wp

    return wp.load(folder / "model.so", num_threads=1)


def own_model(info: Info) -> Any:
    """The model as `woodpecker.compile` takes it."""
    return pickle.loads(info.model.read_bytes()) if info.model.suffix == ".pkl" else str(info.model)


def threshold_rows(model: Any, n: int, seed: int, dtype: str = "float32") -> np.ndarray:
    """(n, features) rows of the model's own thresholds and categories, and the floats of ``dtype`` next to them."""
    import woodpecker as wp
    from woodpecker.forest import IN, LEAF

    forest = wp.from_model(model)
    rng = np.random.default_rng(seed)
    special = [0.0, -0.0, 1e-40, -1e-35, 1e30]
    if forest.source.get("library") != "scikit-learn":
        special.append(np.nan)
    real = np.dtype(dtype).type
    X = np.empty((n, forest.n_features), real)
    for f in range(forest.n_features):
        at = (forest.feature == f) & (forest.kind != LEAF)
        points: Sequence[np.ndarray] = [forest.threshold[at & (forest.kind != IN)]]
        for s in np.unique(forest.category_set[at & (forest.kind == IN)]):
            members = forest.set_values[forest.set_offset[s] : forest.set_offset[s + 1]]
            points = [*points, members, members + 1]
        pool = np.unique(np.concatenate(points))
        pool = pool[np.isfinite(pool)] if np.isfinite(pool).any() else np.linspace(-2, 2, 9)
        values = rng.choice(pool, n).astype(real)
        step = rng.integers(0, 3, n)
        values = np.where(step == 1, np.nextafter(values, real(np.inf)), values)
        values = np.where(step == 2, np.nextafter(values, real(-np.inf)), values)
        X[:, f] = np.where(rng.random(n) < 0.05, rng.choice(np.array(special, real), n), values)
    return X
