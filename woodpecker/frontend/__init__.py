"""From a model, whichever library it comes from, to a verified forest. Adapters are imported when a model needs one."""

from __future__ import annotations

import importlib
import math
import operator
import os
import reprlib
import stat
from pathlib import Path
from typing import Any

from ..errors import InputError, InvalidModelError, UnsupportedModelError
from ..forest import Forest
from ..verify import verify
from .protocol import SupportsForest, call, from_entry_point, qualified_name, register_frontend, registered

__all__ = ["SupportsForest", "from_model", "register_frontend", "to_forest"]

_ADAPTERS = ("xgboost", "lightgbm", "sklearn")
"""Libraries with an adapter of their own, by the package that their classes live in."""

_SUPPORTED = (
    "supported are XGBoost, LightGBM and scikit-learn tree ensembles, XGBoost .json and .ubj files, LightGBM .txt "
    "files, objects with __woodpecker_forest__, and classes given to register_frontend"
)

_HEAD = 4096


def to_forest(
    model_or_path: Any, *, missing: float = float("nan"), iteration_range: tuple[int, int] | None = None
) -> Forest:
    """The verified forest of a model. The first that applies decides:

    1. a `Forest`: itself;
    2. a class given to `register_frontend`, or the nearest base that was;
    3. a method ``__woodpecker_forest__``;
    4. an entry point of the group "woodpecker.frontends" for the class or its nearest base;
    5. a class of xgboost, lightgbm or scikit-learn, or of a subclass of one; none of them is imported to find out;
    6. a path, as str or PathLike: an XGBoost .json or .ubj file or a LightGBM text file, told by its content.

    Args:
        model_or_path: The trained model, or the path of a saved one.
        missing: The value that XGBoost was told to take as missing, beside NaN.
        iteration_range: Boosting iterations ``[start, stop)``; default: those that the model's own ``predict`` uses.

    Raises:
        InvalidModelError: no such file, or the model contradicts itself.
        UnsupportedModelError: not a model that woodpecker compiles, or a file format that it does not read.
        InputError: ``missing`` or ``iteration_range`` is malformed, or has no meaning for this model.
    """
    model = model_or_path
    missing = _missing(missing)
    given: dict[str, Any] = {} if math.isnan(missing) else {"missing": missing}
    if iteration_range is not None:
        given["iteration_range"] = _iteration_range(iteration_range)
    if isinstance(model, Forest):
        _refuse_options(given, "a Forest")
        return verify(model)
    if function := registered(model):
        return call(function, model, given)
    if method := getattr(type(model), "__woodpecker_forest__", None):
        _refuse_options(given, f"{type(model).__name__}.__woodpecker_forest__")
        return call(method, model, {})
    if function := from_entry_point(model):
        return call(function, model, given)
    if adapter := _adapter(model):
        forest: Forest = adapter.from_model(model, missing=missing, iteration_range=given.get("iteration_range"))
        return verify(forest)
    if isinstance(model, (str, os.PathLike)):
        path = Path(os.fsdecode(os.fspath(model)))
        reader = importlib.import_module(f".{_library_of_file(path)}", __name__)
        read: Forest = reader.from_file(path, missing=missing, iteration_range=given.get("iteration_range"))
        return verify(read)
    if isinstance(model, type):
        raise UnsupportedModelError(f"{qualified_name(model)} is a class: pass a trained model")
    raise UnsupportedModelError(f"{qualified_name(type(model))} is not a model that woodpecker knows; {_SUPPORTED}")


from_model = to_forest
"""The public name, `woodpecker.from_model`."""


def _missing(value: Any) -> float:
    try:
        return float(value + 0.0)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"missing must be a number, found {value!r}") from None


def _iteration_range(value: Any) -> tuple[int, int]:
    try:
        start, stop = (operator.index(v) for v in value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"iteration_range must be two integers (start, stop), found {value!r}") from None
    return start, stop


def _refuse_options(given: dict[str, Any], what: str) -> None:
    if given:
        raise InputError(
            f"{' and '.join(given)} cannot be given with {what}: a forest holds its own missing_value and trees (see "
            "Forest.replace and woodpecker.forest.select_trees)"
        )


def _adapter(model: Any) -> Any:
    """The adapter module of the library that the model's class, or the nearest of its bases, belongs to."""
    roots = [cls.__module__.partition(".")[0] for cls in type(model).__mro__]
    for name in dict.fromkeys(root for root in roots if root in _ADAPTERS):
        adapter = importlib.import_module(f".{name}", __name__)
        if adapter.matches(model):
            return adapter
    return None


def _library_of_file(path: Path) -> str:
    """Which adapter reads this file, told by its first bytes."""
    try:
        mode = path.stat().st_mode
        head = b""
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                head = file.read(_HEAD)
    except FileNotFoundError as error:
        raise InvalidModelError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise InvalidModelError(f"{reprlib.repr(str(path))} cannot be read: {error.__class__.__name__}") from error
    if stat.S_ISDIR(mode):
        raise InvalidModelError(f"{path} is a directory: pass the model file itself")
    if not stat.S_ISREG(mode):
        raise InvalidModelError(f"{path} is not a regular file")
    text = head.lstrip(b" \t\r\n")
    if head.startswith(b"{") and head[1:2] in b"LlIiU$#}N":
        return "xgboost"  # UBJSON: a length or a type follows the brace, where JSON has a quote or white space
    if text.startswith(b"{") and text[1:].lstrip(b" \t\r\n").startswith(b'"'):
        if text[1:].lstrip(b" \t\r\n").startswith(b'"name"'):
            raise UnsupportedModelError(
                f"{path} looks like LightGBM's dump_model, which rounds numbers: use booster.save_model('model.txt')"
            )
        return "xgboost"
    if text.startswith((b"tree\n", b"tree\r\n")):
        return "lightgbm"
    raise UnsupportedModelError(f"{path} {_what(path, head)}")


def _what(path: Path, head: bytes) -> str:
    """What a file is that is not a model file, and what to do about it."""
    # Pickles are code: loading one runs whatever its author wrote.
    pickled = head[:1] == b"\x80" or path.suffix.lower() in (".pkl", ".pickle", ".joblib", ".sav", ".skops")
    if pickled:
        return "looks like a pickle, which woodpecker never opens: load it yourself and pass the model object"
    if not head:
        return "is empty"
    if head.startswith(b"\x7fELF"):
        return "is a compiled library: if it is a woodpecker artifact, use woodpecker.load"
    if head.startswith((b"binf", b"bs64")) or b"gbtree" in head[:256] or path.suffix.lower() == ".model":
        return "looks like XGBoost's old binary format: load it with xgboost and save it as .json or .ubj"
    if head.lstrip().startswith(b"["):
        return "looks like XGBoost's text dump, which rounds numbers: use booster.save_model('model.json')"
    return "is not a model file that woodpecker reads: XGBoost .json or .ubj, or LightGBM .txt"
