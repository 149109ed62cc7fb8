"""Writing a file all or nothing: a temporary file beside it takes its place when it is complete; or line by line, each
all or nothing."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError


def check_path(path: Any) -> Path:
    """A path that a caller gave, as a `Path`.

    Raises:
        InputError: it is no str or `os.PathLike` of str, or holds a character that no file name may.
    """
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(name, str):
        raise InputError(f"a path must be a str or an os.PathLike of str, found {type(name).__name__}")
    try:
        encoded = os.fsencode(name)
    except UnicodeEncodeError as error:
        raise InputError(f"the path {name!r} can't be a file's: {error}") from None
    if b"\0" in encoded:
        raise InputError(f"the path {name!r} holds a null character, which no file name may")
    return Path(name)


def check_output(path: Path, *inputs: Path) -> Path:
    """Find out before the work, not after it, that a file cannot be written.

    Args:
        path: The file to write. It may exist, or be a symbolic link to a file: the link stays, its target is written.
        inputs: Files that it must not be, since they would be lost.

    Returns:
        The file, links followed.

    Raises:
        InputError: ``path`` is one of ``inputs``, or is no path.
        OSError: the folder does not exist or cannot be written to, the name is too long, or ``path`` is a directory,
            device, pipe or socket.
    """
    try:
        mode = check_path(path).stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(f"{path} is a directory: name a file to write")
    if not stat.S_ISREG(mode):
        raise OSError(f"{path} is a device, pipe or socket, which a file would replace: name a regular file")
    final = path.resolve()
    if not final.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to")
    if not os.access(final.parent, os.W_OK):
        raise PermissionError(f"the folder {path.parent} cannot be written to")
    for given in inputs:
        if final.exists() and given.exists() and final.samefile(given):
            raise InputError(f"the output {path} is the input {given}, which would be lost: name another file")
    return final


@contextlib.contextmanager
def atomic_path(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block succeeds, and is removed when it fails.

    Args:
        path: The file to write; it keeps its content until the block ends.
        mode: Permissions of the new file, less the process's umask.

    Raises:
        InputError, OSError: see `check_output`.
    """
    final = check_output(path)
    # Of the file's name nothing is kept: any addition could make it longer than the system allows.
    temporary = final.with_name(f".woodpecker-{os.urandom(6).hex()}")
    # Opened by us, not by tempfile, because the system applies the umask to a mode given here; reading the umask
    # would mean setting it, for all threads.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode))
    try:
        yield temporary
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)


def append_line(path: Path, text: str) -> None:
    """Add a line to a file in one write. A line that a killed process left half-written is closed first."""
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + text.encode()
        if os.write(descriptor, data) != len(data):
            raise OSError(f"{path}: the line was cut short; is the disk full?")
    finally:
        os.close(descriptor)
