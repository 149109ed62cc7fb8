"""The command line: ``woodpecker compile | predict | inspect | verify | bundle | bench | tune | measure | device``.

Each command is a module of its own, `app` joins them, and `common` holds what they share. Nothing heavy is imported
before a command needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; see `woodpecker.cli.common` for the codes.

    Args:
        arguments: Without the program's name; default: the process's own.
    """
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        given = sys.argv[1:] if arguments is None else list(arguments)
        if given[:1] == ["measure"]:  # runs on devices that have the runtime alone
            from ..runtime.on_device import main as measure

            return measure(given[1:])
        # Also with --help: without the parser there is nothing else to say.
        sys.stderr.write(
            f"error: the command line needs {error.name}, which is not installed: pip install 'woodpecker[cli]'\n"
        )
        return 3
    from .app import run

    return run(sys.argv[1:] if arguments is None else list(arguments))
