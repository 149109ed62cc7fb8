"""WebAssembly engines for tests: Node.js, through woodpecker.mjs, or the package wasmtime, by the module's exports."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .qemu_support import needs_zig

NODE = shutil.which("node")
HERE = Path(__file__).parent
SCRIPTS = HERE / "js"

needs_node = pytest.mark.skipif(NODE is None, reason="there is no node")
needs_wasmtime = pytest.mark.skipif(
    importlib.util.find_spec("wasmtime") is None, reason="wasmtime, of the extra dev, is not installed"
)
ENGINES = [
    pytest.param("node", marks=[needs_zig, needs_node]),
    pytest.param("wasmtime", marks=[needs_zig, needs_wasmtime]),
]
Call = tuple[str, str, str]
"""(module, method, key of the rows)"""


def node(*arguments: Any, folder: Path | None = None, text: str = "") -> str:
    """What Node.js prints; it has to succeed."""
    command = [str(NODE), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, input=text, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def results(engine: str, folder: Path, calls: Sequence[Call], rows: Mapping[str, np.ndarray]) -> list[bytes | str]:
    """The bytes of what each call gives, or the text of its error.

    Args:
        engine: "node" or "wasmtime".
        folder: Where the modules are.
        calls: The calls.
        rows: Key -> X, float32 or float64.
    """
    if engine == "wasmtime":
        modules = {name: Module(folder / name) for name, _, _ in calls}
        return [modules[module].predict(rows[key], method) for module, method, key in calls]
    for key, X in rows.items():
        X.tofile(folder / f"{key}.rows")
    keys = ("module", "method", "rows", "wide")
    listed = [
        dict(zip(keys, (*call[:2], f"{call[2]}.rows", rows[call[2]].itemsize == 8), strict=True)) for call in calls
    ]
    (folder / "calls.json").write_text(json.dumps(listed))
    node(SCRIPTS / "run.mjs", folder)
    errors = json.loads((folder / "errors.json").read_text())
    return [errors.get(str(i)) or (folder / f"{i}.bin").read_bytes() for i in range(len(calls))]


class Module:
    """A module in wasmtime, with no imports, called as wasm.h describes it."""

    def __init__(self, path: Path) -> None:
        import wasmtime

        self.store = wasmtime.Store()
        instance = wasmtime.Instance(self.store, wasmtime.Module.from_file(self.store.engine, str(path)), [])
        self.exports = instance.exports(self.store)
        self.call("_initialize")

    def call(self, name: str, *arguments: int) -> Any:
        return self.exports[name](self.store, *arguments)

    def text(self, start: int, size: int | None = None) -> str:
        memory = self.exports["memory"]
        end = start + size if size is not None else memory.read(self.store, start, start + 200).index(0) + start
        return bytes(memory.read(self.store, start, end)).decode()

    def predict(self, X: np.ndarray, method: str) -> bytes | str:
        names = ["raw", "apply", *(self.text(self.call("wp_method_name", i)) for i in range(self.call("wp_n_methods")))]
        what = {"raw": -1, "apply": -2}.get(method, names.index(method) - 2)
        width = self.call("wp_n_outputs") if what == -1 else self.call("wp_n_trees")
        width = width if what < 0 else self.call("wp_method_width", what)
        item = 4 if what == -2 or self.call("wp_output_type") == 1 else 8
        sizes = (X.nbytes, len(X) * width * item, self.call("wp_scratch_size"))
        x, out, scratch = addresses = [self.call("malloc", max(size, 1)) for size in sizes]
        assert all(addresses)
        memory = self.exports["memory"]
        memory.write(self.store, X.tobytes(), x)
        n = self.call("wp_n_features")
        status = self.call("wp_predict", what, X.itemsize // 4, x, len(X), n, out, sizes[1], scratch, sizes[2])
        found = bytes(memory.read(self.store, out, out + sizes[1]))
        for address in addresses:
            self.call("free", address)
        return found if status == 0 else self.text(self.call("wp_status_message", status))
