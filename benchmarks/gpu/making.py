"""What `run` needs: artifacts, rows and answers of each model, the model for its peers, candidates of a tuning job."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import woodpecker as wp
from woodpecker.errors import StrategyError

from ..contestants import own_model, threshold_rows
from ..peers import library_model, treelite_model
from ..shapes import Info, Shape, prepare

NEAR = 1000
"""Rows at thresholds."""
AUTO = "auto"
WAYS, PEERS = "ways.json", "peers.json"


def ways(forest: wp.Forest, every: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, arguments of `compile`) of the plan by estimates; or also of every strategy, with its defaults and with
    each value that tuning tries of its options."""
    from woodpecker.predicates import canonicalise
    from woodpecker.schedules import cuda_plan
    from woodpecker.schedules.cuda_strategies import STRATEGIES

    yield AUTO, {}
    for name, space in cuda_plan.space(canonicalise(forest)).items() if every else ():
        yield name, {"strategy": name}
        defaults = STRATEGIES[name].OPTIONS | cuda_plan.COMMON
        for option, values in space.items():
            for value in values:
                if value != defaults[option].default:
                    yield f"{name}, {option.removeprefix('cuda_')}={value}", {"strategy": name, option: value}


def make(folder: Path, shapes: Sequence[Shape], cache: Path, *, arch: str, cpu: str, every: bool, trials: int) -> None:
    """Write the folder of `run`.

    Args:
        folder: Where to.
        shapes: Models of the suite.
        cache: Trained models.
        arch: Architectures, with commas between.
        cpu: The target of the CPU code beside.
        every: All ways to walk, not only that by estimates.
        trials: Candidates of a tuning job for each model; 0: none.
    """
    for shape in shapes:
        place = folder / shape.name
        place.mkdir(parents=True, exist_ok=True)
        info = prepare(shape, cache, 16_384, 1)
        source = own_model(info)
        _answers(place, shape, source)
        _artifacts(place, shape, source, [cpu, f"cuda -arch={arch}"], every)
        shutil.copyfile(info.model, place / f"model{info.model.suffix}")
        (place / PEERS).write_text(json.dumps(_for_peers(place, info)))
        if trials:
            from woodpecker.tuning import halves

            made = halves.make(source, place / "tuning", target=f"cuda -arch={arch}", trials=trials)
            print(f"{shape.name}: {made} candidates", flush=True)
        print(f"{shape.name}: {mebibytes(place)}", flush=True)
    print(f"{folder}: {mebibytes(folder)}; --shape chooses models", flush=True)


def mebibytes(folder: Path) -> str:
    """The size of a folder, for people."""
    return f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 2**20:,.1f} MiB"


def _answers(place: Path, shape: Shape, source: Any) -> None:
    from woodpecker import reference

    forest = wp.from_model(source)
    near = threshold_rows(source, NEAR, 1, shape.dtype)
    arrays = {"near": near, "scores": reference.predict_raw(forest, near), "leaves": reference.apply(forest, near)}
    for name, array in arrays.items():
        np.save(place / f"{name}.npy", array)


def _artifacts(place: Path, shape: Shape, source: Any, target: Any, every: bool) -> None:
    made, forest = {}, wp.from_model(source)
    for number, (way, given) in enumerate(ways(forest, every)):
        try:
            model = wp.compile(source, target=target, tuning_logs=[], **given)
        except StrategyError as error:
            print(f"{shape.name}, {way}: {error}", flush=True)
            continue
        line = model.save(place / f"{number}.so")
        made[f"{number}.so"] = {"way": way, **estimates(forest, model.inspect()["cuda"]["plan"])}
        print(f"{shape.name}, {way}: {line.partition(';')[0]}", flush=True)
    (place / WAYS).write_text(json.dumps(made))


def estimates(forest: wp.Forest, plan: Mapping[str, Any]) -> dict[str, float]:
    """Of a row of a large batch: "cycles" of a multiprocessor, by the estimate that chooses plans; for walks also
    "wavefronts" of its shared memory, since 32 rows ask for 32 column values at a time, each in a bank of its own."""
    from woodpecker.predicates import canonicalise
    from woodpecker.schedules.cuda_strategies import STRATEGIES

    canonical, name = canonicalise(forest), plan["strategy"]
    found = {"cycles": float(STRATEGIES[name].cycles(canonical, plan["options"]))}
    mean, _ = canonical.leaf_depth
    steps = {
        "perfect_tree_traversal": float(forest.n_trees * canonical.max_depth),
        "tree_traversal": float(np.sum(mean)),
    }
    return found | ({"wavefronts": steps[name] / 32} if name in steps else {})


def _for_peers(place: Path, info: Info) -> dict[str, str | None]:
    """Peer -> why the model was not converted for it, or None."""
    found: dict[str, str | None] = {}
    for name, convert in {"treelite": _to_treelite, "hummingbird": _to_torch}.items():
        try:
            found[name] = convert(place, info)
        except Exception as error:  # a peer that can't take a model is a result
            found[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:300]
    return found


def _to_treelite(place: Path, info: Info) -> None:
    """A checkpoint for nvForest and FIL, which read no pickles; but the other libraries' own files."""
    if info.shape.library == "sklearn":
        treelite_model(info, library_model(info)).serialize(str(place / "model.tl"))


def _to_torch(place: Path, info: Info) -> None:
    """TorchScript, which `run` moves to the GPU: neither Hummingbird nor the library is needed there."""
    # Hummingbird takes any package of the name tvm for a TVM of years ago, and fails to import.
    hidden = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] == "tvm"}
    sys.modules["tvm"] = None  # type: ignore[assignment]
    try:
        from hummingbird.ml import convert

        model = library_model(info)
        if info.shape.library == "xgboost":
            import xgboost

            model = xgboost.XGBRegressor() if info.shape.task == "regression" else xgboost.XGBClassifier()
            model.load_model(info.model)
        converted = convert(model, "torch.jit", np.zeros((2, info.shape.features), np.float32))
        converted.model.save(str(place / "model.pt"))
    finally:
        del sys.modules["tvm"]
        sys.modules.update(hidden)
