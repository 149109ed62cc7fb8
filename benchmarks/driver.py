"""The other end of a worker's pipe: start it, give orders with a time limit, watch its memory, end it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .shapes import Info, Shape

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TBB_NUM_THREADS": "1",
    "TVM_NUM_THREADS": "1",
    "WOODPECKER_NUM_THREADS": "1",
}
POLL_SECONDS = 0.05
START_SECONDS = 120.0


class Refused(Exception):
    """A contestant declined a model, with a reason."""


class Failed(Exception):
    """A contestant raised an error, crashed, or took too long."""


def environment(threads: int | None = None) -> dict[str, str]:
    """Of a worker: it finds this package, and runs on one thread, or on as many as are given."""
    found = {**os.environ, **ONE_THREAD}
    if threads is not None:
        found["OMP_NUM_THREADS"] = str(threads)
    root = str(Path(__file__).resolve().parents[1])
    found["PYTHONPATH"] = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    return found


class Worker:
    """A running worker process.

    Args:
        settings: See `benchmarks.worker.main`.
        log: What the process prints to stderr is appended here.
        threads: None: one thread, by every library's own variable. Else a count, for training.
    """

    def __init__(self, settings: Mapping[str, Any], log: Path, threads: int | None = None) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self.peak_bytes = 0
        self._ready = False
        self._buffer = b""
        with log.open("ab") as errors:
            # A session of its own, so that compilers which it starts end with it.
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "benchmarks.worker", json.dumps(dict(settings))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment(threads),
                start_new_session=True,
            )

    def order(self, do: str, *, limit: float, watch_memory: bool = False, **arguments: Any) -> dict[str, Any]:
        """Carry out one order and return the reply.

        Args:
            do: The name of a handler of the worker.
            limit: Seconds after which the worker is ended.
            watch_memory: Sample the memory of the worker and its children meanwhile; see `peak_bytes`.
            **arguments: Of the handler.

        Raises:
            Refused: the contestant declined. Failed: an error, a crash, or the time limit.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise Failed("it has no pipes")
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise Failed(self._ended()) from None
        if not self._ready:
            # Starting Python is no part of what is limited.
            self._line(START_SECONDS, watch_memory=False)
            self._ready = True
        line = self._line(limit, watch_memory)
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise (Refused if reply["refused"] else Failed)(reply["error"])
        return reply

    def close(self) -> None:
        """End the process and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def _line(self, limit: float, watch_memory: bool) -> bytes:
        deadline = time.monotonic() + limit
        stdout = self._process.stdout
        if stdout is None:
            raise Failed("it has no pipes")
        while b"\n" not in self._buffer:
            wait = POLL_SECONDS if watch_memory else max(deadline - time.monotonic(), 0)
            if select.select([stdout], [], [], wait)[0]:
                chunk = os.read(stdout.fileno(), 65536)
                if not chunk:
                    raise Failed(self._ended())
                self._buffer += chunk
            if watch_memory:
                self.peak_bytes = max(self.peak_bytes, tree_memory(self._process.pid))
            if b"\n" not in self._buffer and time.monotonic() >= deadline:
                self.close()
                raise Failed(f"it took more than {limit:,.0f} s")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _ended(self) -> str:
        code = self._process.wait()
        if code < 0:
            return f"the process was ended by signal {signal.Signals(-code).name}"
        return f"the process exited with code {code}"


@contextlib.contextmanager
def worker(
    name: str | None, info: Info | None, folder: Path, log: Path, memory_bytes: int, threads: int | None = None
) -> Iterator[Worker]:
    """A worker for one contestant and one model, or for training (name and info None), for the block's duration."""
    settings: dict[str, Any] = {"memory_bytes": memory_bytes}
    if name is not None and info is not None:
        folder.mkdir(parents=True, exist_ok=True)
        settings |= {"contestant": name, "info": info.to_json(), "folder": str(folder)}
    running = Worker(settings, log, threads)
    try:
        yield running
    finally:
        running.close()


def train(shape: Shape, n_rows: int, threads: int, output: Path) -> Info:
    """`benchmarks.shapes.prepare` in a process of its own.

    Raises:
        Failed: the library is not installed, or training failed.
    """
    arguments: dict[str, Any] = {"shape": dataclasses.asdict(shape), "cache": str(output / "models"), "n_rows": n_rows}
    with worker(None, None, output, output / "logs" / f"{shape.name}-train.log", 0, threads) as one:
        return Info.from_json(one.order("train", limit=3600.0, threads=threads, **arguments))


def tree_memory(pid: int) -> int:
    """Resident bytes of a process and its descendants."""
    total, todo = 0, [pid]
    while todo:
        one = todo.pop()
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            for task in Path(f"/proc/{one}/task").iterdir():
                todo += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, ValueError, IndexError):
            continue
    return total
