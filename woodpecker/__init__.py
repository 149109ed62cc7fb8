"""woodpecker: an ahead-of-time compiler for decision-tree ensembles.

    import woodpecker as wp

    model = wp.compile(booster)             # a trained scikit-learn, XGBoost or LightGBM model
    model.save("model.so")
    wp.load("model.so").predict(X)          # needs numpy and apache-tvm-ffi only

This module is the whole public surface. Names are resolved on first use, so that loading an artifact never imports
the compiler.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import errors
    from .compiler import compile
    from .forest import Forest, Method
    from .frontend import SupportsForest, register_frontend
    from .frontend import to_forest as from_model
    from .runtime import CompiledModel, Predictor, load
    from .tuning.offline import TuningRecords, tune

_HOME = {
    "CompiledModel": ".runtime",
    "compile": ".compiler",
    "Forest": ".forest",
    "Method": ".forest",
    "SupportsForest": ".frontend",
    "from_model": ".frontend",
    "register_frontend": ".frontend",
    "Predictor": ".runtime",
    "load": ".runtime",
    "tune": ".tuning.offline",
    "TuningRecords": ".tuning.offline",
}

_ALIASES = {"from_model": "to_forest"}

__all__ = [
    "CompiledModel",
    "Forest",
    "Method",
    "Predictor",
    "SupportsForest",
    "TuningRecords",
    "__version__",
    "compile",
    "errors",
    "from_model",
    "load",
    "register_frontend",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module(".errors", __name__)
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name], __name__), _ALIASES.get(name, name))
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
