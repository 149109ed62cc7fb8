"""Everyone else on the GPU. None of this has run on one."""

from __future__ import annotations

import gc
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..contestants import LINK, RAW
from ..shapes import TRAINERS, Shape
from .making import PEERS

Predict = Callable[[Any], Any]
"""Rows in the memory of the GPU -> answers, wherever they are."""


class AbsentError(Exception):
    """Why a peer does not take part."""


@dataclass(frozen=True)
class Opened:
    """A peer that holds a model.

    Args:
        predict: See `Predict`.
        form: RAW or LINK.
        what: What is timed, for people.
    """

    predict: Predict
    form: str
    what: str


@dataclass(frozen=True)
class Peer:
    """A way to run a model on a GPU.

    Args:
        name: For people.
        open: (shape, folder) -> it, or an AbsentError.
    """

    name: str
    open: Callable[[Shape, Path], Opened]


def torch_on_gpu() -> Any:
    """PyTorch, or None: it is not installed, or sees no GPU."""
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def free_memory() -> None:
    """Give back the memory of the GPU that PyTorch and CuPy keep for their next tensors: the next one needs it."""
    gc.collect()
    if (torch := sys.modules.get("torch")) is not None:
        torch.cuda.empty_cache()
    if (cupy := sys.modules.get("cupy")) is not None:
        cupy.get_default_memory_pool().free_all_blocks()


def _needed(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise AbsentError(f"package {name} does not import: {error}") from None


def _torch() -> Any:
    torch = torch_on_gpu()
    if torch is None:
        raise AbsentError("PyTorch, which holds the rows, is not installed or sees no GPU")
    return torch


def model_file(shape: Shape, place: Path) -> Path:
    return place / f"model{TRAINERS[shape.library][1]}"


def _xgboost(shape: Shape, place: Path) -> Opened:
    if shape.library != "xgboost":
        raise AbsentError("it predicts its own models")
    _torch()
    xgboost = _needed("xgboost")
    if not xgboost.build_info().get("USE_CUDA"):
        raise AbsentError("this build of XGBoost has no CUDA")
    booster = xgboost.Booster(model_file=str(model_file(shape, place)))
    booster.set_param({"device": "cuda"})
    # XGBoost imports it for any rows of the GPU. `predict` is no way round: of a DMatrix it was asked about before it
    # only copies the predictions that it has kept.
    _needed("cupy")
    return Opened(
        lambda X: booster.inplace_predict(X, predict_type="margin", validate_features=False), RAW, "inplace_predict"
    )


def _forest_file(shape: Shape, place: Path) -> tuple[str, str]:
    """(path, type) as nvForest and FIL want it."""
    if shape.library == "xgboost":
        return str(model_file(shape, place)), "xgboost_ubj"
    if shape.library == "lightgbm":
        return str(model_file(shape, place)), "lightgbm"
    if (place / "model.tl").exists():
        return str(place / "model.tl"), "treelite_checkpoint"
    raise AbsentError(f"no Treelite checkpoint was made: {converted(place).get('treelite')}")


def _column(shape: Shape, model: Any) -> Predict:
    """Answers as the library's link form has them."""
    if shape.task == "regression":
        predict: Predict = model.predict
        return predict
    if shape.task == "binary":
        return lambda X: _second(model.predict_proba(X))
    proba: Predict = model.predict_proba
    return proba


def _second(answers: Any) -> Any:
    """The second class's share, of (n,), (n, 1) or (n, 2)."""
    return answers[:, -1] if answers.ndim == 2 else answers


def _with_cupy(predict: Predict) -> Predict:
    cupy = _needed("cupy")
    return lambda X: predict(cupy.from_dlpack(X))


def _nvforest(shape: Shape, place: Path) -> Opened:
    nvforest = _needed("nvforest")
    _torch()
    path, kind = _forest_file(shape, place)
    model = nvforest.load_model(path, device="gpu", model_type=kind)
    return Opened(_with_cupy(_column(shape, model)), LINK, "predict of a CuPy array")


def _fil(shape: Shape, place: Path) -> Opened:
    fil = _needed("cuml.fil")
    _torch()
    path, kind = _forest_file(shape, place)
    model = fil.ForestInference.load(path, is_classifier=shape.task != "regression", model_type=kind)
    return Opened(_with_cupy(_column(shape, model)), LINK, "predict of a CuPy array")


def _hummingbird(shape: Shape, place: Path) -> Opened:
    torch = _torch()
    if not (place / "model.pt").exists():
        raise AbsentError(f"no TorchScript was made: {converted(place).get('hummingbird')}")
    script = torch.jit.load(str(place / "model.pt"), map_location="cuda").eval()
    # Without Hummingbird around it, a LightGBM Booster answers with raw scores, a classifier with (labels, shares).
    classifier = shape.task != "regression" and shape.library != "lightgbm"

    def predict(X: Any) -> Any:
        with torch.inference_mode():
            answers = script(X)
        shares = answers[-1] if isinstance(answers, (tuple, list)) else answers
        return _second(shares) if classifier and shape.task == "binary" else shares

    return Opened(predict, LINK if classifier else RAW, "TorchScript of a tensor")


ALL = (
    Peer("XGBoost on CUDA", _xgboost),
    Peer("nvForest", _nvforest),
    Peer("cuML's FIL", _fil),
    Peer("Hummingbird, TorchScript on CUDA", _hummingbird),
)


def converted(place: Path) -> Mapping[str, Any]:
    """What `make` could not convert, and why."""
    told: Mapping[str, Any] = json.loads((place / PEERS).read_text()) if (place / PEERS).exists() else {}
    return told


def to_numpy(answers: Any) -> np.ndarray:
    """Answers in the memory of the host."""
    if hasattr(answers, "detach"):
        answers = answers.detach().cpu().numpy()
    elif hasattr(answers, "get"):
        answers = answers.get()
    return np.asarray(answers)


def opened(shape: Shape, place: Path) -> Iterator[tuple[Peer, Opened | str]]:
    """Each peer, or why it is absent."""
    for peer in ALL:
        try:
            yield peer, peer.open(shape, place)
        except AbsentError as error:
            yield peer, str(error)
        except Exception as error:  # a peer that fails is a result
            yield peer, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"[:300]
