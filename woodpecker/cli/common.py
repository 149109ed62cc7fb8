"""What the commands share: exit codes, errors as one line, progress, parsing of options."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from ..errors import InputError, MissingExtraError, WoodpeckerError

OK = 0
DISAGREE = 1
"""A check ran, and failed."""
BAD_INPUT = 2
"""Wrong usage, or something about the files given."""
MISSING_EXTRA = 3
"""An optional dependency is not installed."""
INTERRUPTED = 130

EXIT_CODES = (
    "Exit codes: 0 success; 1 a check found a disagreement; 2 wrong usage or bad input; 3 an optional dependency is "
    "not installed; 130 interrupted."
)

_LONGEST_OPTION = 100

Header = Annotated[
    bool, typer.Option("--header/--no-header", help="Whether the first line of a .csv or .tsv names columns.")
]
Drop = Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="A column that is no feature; may be repeated.")]
Missing = Annotated[float, typer.Option(help="As for compile.")]
IterationRange = Annotated[str | None, typer.Option(metavar="START:STOP", help="As for compile.")]
Device = Annotated[str, typer.Option(help='"cpu"; "cuda", or "cuda:1" and the like, where the artifact has code.')]
"""Options of several commands."""

P = ParamSpec("P")


def command(function: Callable[P, int | None]) -> Callable[P, None]:
    """A command whose expected errors become one line on stderr and an exit code. Anything else is a bug and keeps
    its traceback."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = function(*args, **kwargs) or OK
            if sys.stdout is not None:
                sys.stdout.flush()
        except MissingExtraError as error:
            code = report(error, MISSING_EXTRA)
        except (WoodpeckerError, MemoryError) as error:
            code = report(error, BAD_INPUT)
        except BrokenPipeError:
            # The reader has gone (`| head`): no error.
            _discard_stdout()
            code = OK
        except OSError as error:
            code = report(error, BAD_INPUT)
        except KeyboardInterrupt:
            code = report("interrupted", INTERRUPTED)
        raise typer.Exit(code)

    return guarded


def report(error: BaseException | str, code: int) -> int:
    """Say in one line on stderr what went wrong, and return the code."""
    text = " ".join(str(error).split()) or type(error).__name__
    _stderr(f"error: {text}\n")
    return code


def note(text: str) -> None:
    """Something worth knowing, on stderr, so that it never mixes with output."""
    _stderr(f"note: {text}\n")


def _stderr(text: str) -> None:
    if sys.stderr is not None:  # it was closed (`2>&-`)
        sys.stderr.write(text)


def flushed(code: int) -> int:
    """The exit code after what is left of the output is written, which is an error where it can't be."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _discard_stdout()
        return code or report(error, BAD_INPUT)
    return code


def _discard_stdout() -> None:
    """Let what is left of the output go nowhere: Python would write it once more when it exits, and fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar (with a total) or a spinner on stderr while the block runs; nothing where stderr is no terminal.

    Yields:
        A function that advances the bar.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    bar = (BarColumn(), TextColumn("{task.completed:,.0f} of {task.total:,.0f}")) if total is not None else ()
    columns = (SpinnerColumn(), TextColumn("{task.description}"), *bar, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=total)
        yield lambda n: shown.advance(task, n)


def parse_options(pairs: list[str]) -> dict[str, Any]:
    """``["unroll=4"]`` as ``{"unroll": 4}``.

    Raises:
        InputError: not of the form key=value, too long, or a key that is given twice.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        if len(pair) > _LONGEST_OPTION:
            raise InputError(f"--option {pair[:20]}...: {len(pair):,} characters are too many for name=value")
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise InputError(f"--option must look like name=value, found {pair!r}")
        if key in options:
            raise InputError(f"--option {key} is given twice")
        options[key] = _value(text)
    return options


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_range(text: str | None) -> tuple[int, int] | None:
    """``"0:50"`` as ``(0, 50)``.

    Raises:
        InputError: not two integers with a colon between.
    """
    if text is None:
        return None
    try:
        start, stop = (int(part) for part in text.split(":"))
    except ValueError:
        raise InputError(f"--iteration-range must look like 0:50, found {text!r}") from None
    return start, stop


def check_input(path: Path) -> None:
    """Refuse what is no file to read: opening a pipe would wait for a writer, maybe for ever.

    Raises:
        OSError: there is no such file, or it is a directory, device, pipe or socket.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no file {path}") from None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a directory: name a file to read")
    if not stat.S_ISREG(mode):
        raise OSError(f"{path} is a device, pipe or socket: name a regular file to read")


def size(n: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KB", "MB"):
        if n < 1024:
            return f"{n:,.0f} {unit}" if unit == "bytes" else f"{n:,.1f} {unit}"
        n /= 1024
    return f"{n:,.1f} GB"
