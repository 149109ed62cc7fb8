"""Where tuning logs are: the one function that finds them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..runtime.files import check_path

VARIABLE = "WOODPECKER_TUNING_LOGS"
DEFAULTS = "defaults"
"""What a plan is from where no record applied."""


def shipped() -> Path:
    """The records that come with woodpecker: inside the package where it was installed from a wheel, beside it in a
    checkout."""
    package = Path(__file__).parents[1]
    inside = package / "tuning_logs"
    return inside if inside.is_dir() else package.parent / "tuning_logs"


def user_folders() -> list[Path]:
    """The folders of $WOODPECKER_TUNING_LOGS, or the one in the user's home. They need not exist."""
    if given := [Path(part) for part in os.environ.get(VARIABLE, "").split(os.pathsep) if part]:
        return given
    home = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return [Path(home) / "woodpecker" / "tuning_logs"]


def find(tuning_logs: Any = None) -> list[tuple[str, Path]]:
    """("user" or "shipped", folder or file) of all logs, in the order of their precedence.

    Args:
        tuning_logs: A path or a sequence of paths, of folders or of files: these take the place of the user's
            folders. None: see `user_folders`. An empty sequence: no logs at all, not even the shipped ones.

    Raises:
        InputError: a path that was given does not exist, or is none.
    """
    given = paths(tuning_logs)
    if given is not None and not given:
        return []
    for path in given or ():
        if not path.exists():
            raise InputError(f"tuning_logs: there is no folder or file {path}")
    places = [("user", path) for path in (user_folders() if given is None else given)]
    return [(kind, path) for kind, path in [*places, ("shipped", shipped())] if path.exists()]


def paths(tuning_logs: Any) -> list[Path] | None:
    """The paths of an argument ``tuning_logs``; None for None.

    Raises:
        InputError: it holds something else.
    """
    if tuning_logs is None:
        return None
    if isinstance(tuning_logs, (str, os.PathLike)):
        return [check_path(tuning_logs)]
    if not isinstance(tuning_logs, Sequence):
        raise InputError(f"tuning_logs must be a path or a list of paths, found {type(tuning_logs).__name__}")
    return [check_path(path) for path in tuning_logs]


def summary(tuning: Mapping[str, Any]) -> str:
    """What `inspect` prints of what `woodpecker.tuning.lookup.tuned_plan` says; needs no TVM."""
    if tuning["from"] == DEFAULTS:
        text = "the default plan; no record applies"
    else:
        text = f"by a record ({tuning['logs']}) of {tuning['from']}: {tuning['model']}"
    return text + "".join(f"; skipped: {reason}" for reason in tuning["skipped"])
