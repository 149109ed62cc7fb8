"""What the commands share: exit codes, errors as one line, progress, parsing of options."""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ParamSpec

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

P = ParamSpec("P")


def command(function: Callable[P, int | None]) -> Callable[P, None]:
    """A command whose expected errors become one line on stderr and an exit code. Anything else is a bug and keeps
    its traceback."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = function(*args, **kwargs) or OK
            sys.stdout.flush()
        except MissingExtraError as error:
            code = _report(error, MISSING_EXTRA)
        except (WoodpeckerError, MemoryError) as error:
            code = _report(error, BAD_INPUT)
        except BrokenPipeError:
            # The reader has gone (`| head`): no error, and Python must not write to the pipe again when it exits.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = OK
        except OSError as error:
            code = _report(error, BAD_INPUT)
        except KeyboardInterrupt:
            code = _report("interrupted", INTERRUPTED)
        raise typer.Exit(code)

    return guarded


def _report(error: BaseException | str, code: int) -> int:
    text = " ".join(str(error).split()) or type(error).__name__
    sys.stderr.write(f"error: {text}\n")
    return code


def note(text: str) -> None:
    """Something worth knowing, on stderr, so that it never mixes with output."""
    sys.stderr.write(f"note: {text}\n")


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
        InputError: not of the form key=value, or a key that is given twice.
    """
    options: dict[str, Any] = {}
    for pair in pairs:
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


def is_artifact(path: Path) -> bool:
    """Whether the file is a shared library, by its first bytes."""
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def size(n: float) -> str:
    """Bytes for people."""
    for unit in ("bytes", "KB", "MB"):
        if n < 1024:
            return f"{n:,.0f} {unit}" if unit == "bytes" else f"{n:,.1f} {unit}"
        n /= 1024
    return f"{n:,.1f} GB"
