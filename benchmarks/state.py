"""What a run has done so far: JSON lines, appended, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class StateMismatch(Exception):
    """The folder holds a run of another machine, another version, or other settings."""


class State:
    """The records of a run, by key, and the file that they are in.

    Args:
        path: The file. A last line that was cut off is dropped.
        header: What the results depend on. A file with another header is refused.

    Raises:
        StateMismatch: see there.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self._records: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = _read(path)
        for record in whole:
            self._records[record.pop("key")] = record
        old, new = self._records.get("header"), json.loads(json.dumps(dict(header)))
        if old is None:
            self.put("header", new)
        elif old != new:
            changed = _differences(old, new)
            raise StateMismatch(
                f"{path} was begun with another {', '.join(changed)}; --fresh starts anew, --output DIR elsewhere"
            )

    def get(self, *key: Any) -> dict[str, Any] | None:
        return self._records.get("/".join(map(str, key)))

    def put(self, *key_and_record: Any) -> None:
        """``put(*key, record)``: remember it, and write it through to the disk."""
        *key, record = key_and_record
        name = "/".join(map(str, key))
        self._records[name] = json.loads(json.dumps(dict(record)))
        with self.path.open("a") as file:
            file.write(json.dumps({"key": name, **self._records[name]}) + "\n")
            file.flush()
            os.fsync(file.fileno())


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The keys that differ, those of inner objects as "outer.inner"."""
    found = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += [f"{key}.{inner}" for inner in _differences(a, b)]
        elif a != b:
            found.append(key)
    return found


def _read(path: Path) -> list[dict[str, Any]]:
    """All whole lines; what follows them is cut off the file."""
    if not path.exists():
        return []
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1
    if end < len(data):
        with path.open("r+b") as file:
            file.truncate(end)
    return [json.loads(line) for line in data[:end].splitlines()]
