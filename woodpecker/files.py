"""Writing a file all or nothing: a temporary file beside it takes its place when it is complete."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


def check_output(path: Path) -> None:
    """Find out before the work, not after it, that a file cannot be written.

    Raises:
        OSError: the folder does not exist or cannot be written to, or ``path`` is a directory.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: name a file to write")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"the folder {path.parent} cannot be written to")


@contextlib.contextmanager
def atomic_path(path: Path, mode: int = 0o666) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block succeeds, and is removed when it fails.

    Args:
        path: The file to write; it keeps its content until the block ends.
        mode: Permissions of the new file, less the process's umask.

    Raises:
        OSError: see `check_output`.
    """
    check_output(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}{path.suffix}")
    # Opened by us, not by tempfile, because the system applies the umask to a mode given here; reading the umask
    # would mean setting it, for all threads.
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, mode))
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
