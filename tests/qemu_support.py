"""What tests under QEMU share: the aarch64 Python that .ci/aarch64.py prepares, and the emulators."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
FOLDER = Path(os.environ.get("WOODPECKER_AARCH64", ROOT / "build" / "ci" / "aarch64"))
PYTHON = FOLDER / "python"

needs_zig = pytest.mark.skipif(
    importlib.util.find_spec("ziglang") is None, reason="ziglang, of the extra cross, is not installed"
)
prepared = pytest.mark.skipif(not PYTHON.exists(), reason="python .ci/aarch64.py build/ci/aarch64 was not run")


def on_qemu(test: Callable[..., Any]) -> Any:
    """Marks a test that runs programs under QEMU."""
    for mark in (pytest.mark.qemu, needs_zig, prepared):
        test = mark(test)
    return test


def python(*arguments: str | Path, cpu: str = "max", **variables: str) -> str:
    """What the aarch64 Python prints, in this checkout."""
    done = subprocess.run(
        [str(PYTHON), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "QEMU_CPU": cpu, **variables},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def emulator(arch: str) -> str:
    """The path of QEMU's user emulator: "aarch64", "arm" or "riscv64"."""
    return str(FOLDER / "bin" / f"qemu-{arch}")


def results(folder: Path, calls: Iterable[Mapping[str, Any]], rows: Mapping[str, np.ndarray], **more: str) -> list[Any]:
    """What artifacts give on aarch64.

    Args:
        folder: Where the artifacts are.
        calls: {"artifact": file name, "method", "rows": a key of ``rows``, "threads"} each.
        rows: Name -> X.
        more: See `python`.

    Returns:
        The array of each call; or, of a call that raised, the text of its error.
    """
    np.savez(folder / "rows.npz", **rows)
    (folder / "calls.json").write_text(json.dumps(list(calls)))
    errors = json.loads(python(ROOT / "tests" / "on_device.py", folder, **more))
    with np.load(folder / "results.npz") as found:
        return [errors.get(str(i)) or found[str(i)] for i in range(len(list(calls)))]
