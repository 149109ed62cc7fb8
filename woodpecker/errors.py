"""The few errors that woodpecker raises on purpose. All derive from `WoodpeckerError`.

Each also derives from the builtin that users of the field expect there (`ValueError`, `TypeError`, `ImportError`,
...), so that existing `except` clauses keep working. A message says what was wrong, where, and what to do.
"""


class WoodpeckerError(Exception):
    """Base of every error that woodpecker raises on purpose."""


class InvalidModelError(WoodpeckerError, ValueError):
    """A model, or a model file, contradicts itself: truncated, cyclic, out of range, wrongly typed."""


class UnsupportedModelError(WoodpeckerError, ValueError):
    """A valid model that woodpecker does not compile; the message names the feature that is missing."""


class StrategyError(WoodpeckerError, ValueError):
    """A strategy cannot serve this forest, or an option of it is unknown or out of range."""


class TargetError(WoodpeckerError, ValueError):
    """An unknown target, or one whose tools are missing."""


class InputError(WoodpeckerError, ValueError):
    """Rows given to a predictor have a wrong shape, dtype, name, order or category."""


class ArtifactError(WoodpeckerError, ValueError):
    """A file is not an artifact, is damaged, or belongs to another platform, CPU or format version."""


class MissingExtraError(WoodpeckerError, ImportError):
    """An optional dependency is not installed; the message holds the pip command that installs it."""
