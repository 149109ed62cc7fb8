"""How a tree library that woodpecker does not know hands over its models: a method, a registration, an entry point.

All three end in the same thing, a `woodpecker.forest.Forest`:

- the library's model class has a method ``__woodpecker_forest__``;
- somebody calls `register_frontend` with the class, or with its qualified name where importing it has to wait;
- a package declares, for the class's qualified name, a function in the entry point group "woodpecker.frontends"::

      [project.entry-points."woodpecker.frontends"]
      "theirlib.models.TreeModel" = "theirlib_woodpecker:to_forest"
"""

from __future__ import annotations

import functools
import importlib.metadata
import threading
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol, runtime_checkable

from ..errors import InvalidModelError, UnsupportedModelError
from ..forest import Forest
from ..verify import verify

Frontend = Callable[..., Any]
"""function(model) -> Forest; it is also given ``missing`` or ``iteration_range`` by keyword, where the user gave it."""

ENTRY_POINTS = "woodpecker.frontends"


@runtime_checkable
class SupportsForest(Protocol):
    """A model that makes its own forest."""

    def __woodpecker_forest__(self) -> Forest: ...


# Replaced, never changed, so that readers need no lock.
_registered: Mapping[type | str, Frontend] = MappingProxyType({})
_lock = threading.Lock()


def register_frontend(type_or_qualified_name: type | str, function: Frontend) -> None:
    """Teach `woodpecker.from_model` and `woodpecker.compile` another model class.

    Args:
        type_or_qualified_name: The class, or "module.Class" (``cls.__module__ + "." + cls.__qualname__``), which does
            not import the module. Subclasses are meant too. A second registration replaces the first.
        function: ``function(model) -> Forest``. Where the user passed ``missing`` or ``iteration_range``, it is called
            with those by keyword.

    Raises:
        UnsupportedModelError: not a class or a qualified name, or not a function.
    """
    if isinstance(type_or_qualified_name, str):
        parts = type_or_qualified_name.split(".")
        if len(parts) < 2 or not all(part.isidentifier() for part in parts):
            raise UnsupportedModelError(
                f"register_frontend: {type_or_qualified_name!r} is not a qualified name such as 'package.module.Class'"
            )
    elif not isinstance(type_or_qualified_name, type):
        raise UnsupportedModelError(
            "register_frontend needs a class or its qualified name first, found an object of "
            f"{type(type_or_qualified_name).__name__}"
        )
    elif type_or_qualified_name in (object, Forest):
        raise UnsupportedModelError(f"register_frontend: {type_or_qualified_name.__name__} cannot have a frontend")
    if not callable(function):
        raise UnsupportedModelError(
            f"register_frontend needs a function(model) -> Forest second, found {type(function).__name__}"
        )
    global _registered  # noqa: PLW0603
    with _lock:
        _registered = MappingProxyType({**_registered, type_or_qualified_name: function})


def qualified_name(cls: type) -> str:
    """ "module.Class", as `register_frontend` and entry points name it."""
    return f"{cls.__module__}.{cls.__qualname__}"


def registered(model: Any) -> Frontend | None:
    """The function registered for the model's class, or for the nearest of its bases."""
    for cls in type(model).__mro__:
        for key in (cls, qualified_name(cls)):
            if key in _registered:
                return _registered[key]
    return None


@functools.cache
def _entry_points() -> Mapping[str, importlib.metadata.EntryPoint]:
    return {entry.name: entry for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)}


def from_entry_point(model: Any) -> Frontend | None:
    """The function that an installed package declares for the model's class; imported here, when it is needed.

    Raises:
        UnsupportedModelError: the entry point cannot be imported, or is no function.
    """
    known = _entry_points()
    for cls in type(model).__mro__:
        if entry := known.get(qualified_name(cls)):
            try:
                function = entry.load()
            except (ImportError, AttributeError) as error:
                raise UnsupportedModelError(
                    f"the frontend {entry.value!r} for {entry.name} cannot be loaded: {error}"
                ) from error
            if not callable(function):
                raise UnsupportedModelError(f"the frontend {entry.value!r} for {entry.name} is not a function")
            return function
    return None


def call(function: Frontend, model: Any, options: Mapping[str, Any]) -> Forest:
    """The verified forest that a third-party function makes of a model. Its own errors pass through.

    Raises:
        InvalidModelError: the result is not a forest, or contradicts itself.
    """
    forest = function(model, **options)
    if not isinstance(forest, Forest):
        name = getattr(function, "__qualname__", repr(function))
        raise InvalidModelError(f"the frontend {name} returned {type(forest).__name__}, expected woodpecker.Forest")
    return verify(forest)
