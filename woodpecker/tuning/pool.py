"""Worker processes, seen from the job: each has one job at a time, and a limit of time for it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import TargetError
from .store import TEMPORARY

START_SECONDS = 300.0

Job = Mapping[str, Any]
Result = dict[str, Any]


@dataclass
class Worker:
    """A process, its folder of temporary files, and what it is doing. ``job`` None: it is idle; ``ready`` False: it is
    still starting."""

    process: subprocess.Popen[bytes]
    deadline: float
    temporary: Path
    ready: bool = False
    job: Job | None = None
    text: bytes = b""


class Pool:
    """Workers that are started when there are jobs, and ended when the block ends.

    Args:
        command: Starts a worker.
        log: The file for what workers print; their temporary files are in a folder ``tmp`` beside it.
        seconds: The limit of time of a job.
    """

    def __init__(self, command: Sequence[str], log: Path, seconds: Callable[[Job], float]) -> None:
        self._command, self._log, self._seconds = command, log, seconds
        self._selector = selectors.DefaultSelector()
        self._alive: list[Worker] = []

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in list(self._alive):
            self._stop(worker)
        self._selector.close()
        with contextlib.suppress(OSError):
            (self._log.parent / TEMPORARY).rmdir()

    def run(self, next_job: Callable[[], Job | None], workers: int = 1) -> Generator[tuple[Job, Result], None, None]:
        """Run jobs until there are no more, and yield each with its result.

        Args:
            next_job: The next job, or None: there is none before another result is known, or at all. It is asked only
                when a worker is free, since what to try depends on the results before.
            workers: How many processes.

        Yields:
            (job, result). A result has a "status": what the worker answered, "timeout" or "crashed". A worker whose
            result is "ended" has done its last job.

        Raises:
            TargetError: a worker does not start.
        """
        waiting: list[Job] = []
        try:
            while True:
                busy = [w for w in self._alive if w.job is not None]
                while len(busy) + len(waiting) < workers and (job := next_job()) is not None:
                    waiting.append(job)
                for worker in self._alive:
                    if waiting and worker.ready and worker.job is None:
                        _send(worker, waiting.pop(0), self._seconds)
                while len([w for w in self._alive if w.job is None]) < len(waiting):
                    self._alive.append(_start(self._command, self._log, self._selector))
                if not waiting and all(w.job is None for w in self._alive):
                    return
                for worker, result in list(_events(self._alive, self._selector, self._log)):
                    finished, worker.job = worker.job, None
                    over = result["status"] in ("timeout", "crashed") or result.pop("ended", False)
                    if over and worker in self._alive:
                        self._stop(worker)
                    if finished is not None:
                        yield finished, result
        finally:
            for worker in [w for w in self._alive if w.job is not None]:
                self._stop(worker)

    def _stop(self, worker: Worker) -> None:
        self._alive.remove(worker)
        process = worker.process
        assert process.stdin is not None and process.stdout is not None
        self._selector.unregister(process.stdout)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        # One that was ended has not removed the files of its candidate.
        shutil.rmtree(worker.temporary, ignore_errors=True)


def _start(command: Sequence[str], log: Path, selector: selectors.BaseSelector) -> Worker:
    temporary = log.parent.absolute() / TEMPORARY / os.urandom(6).hex()
    temporary.mkdir(parents=True)
    pipe, environment = subprocess.PIPE, {**os.environ, "TMPDIR": str(temporary)}
    with log.open("ab") as said:
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=said, start_new_session=True, env=environment
        )
    worker = Worker(process, time.monotonic() + START_SECONDS, temporary)
    assert process.stdout is not None
    selector.register(process.stdout, selectors.EVENT_READ, worker)
    return worker


def _send(worker: Worker, job: Job, seconds: Callable[[Job], float]) -> None:
    assert worker.process.stdin is not None
    worker.job, worker.deadline = job, time.monotonic() + seconds(job)
    with contextlib.suppress(BrokenPipeError):  # it has died, which `_events` finds out
        worker.process.stdin.write(json.dumps(job).encode() + b"\n")
        worker.process.stdin.flush()


def _events(alive: Sequence[Worker], selector: selectors.BaseSelector, log: Path) -> Iterator[tuple[Worker, Result]]:
    """(worker, result) of the workers that have finished a job, or have died; waits until something happens."""
    now = time.monotonic()
    limits = [w.deadline for w in alive if w.job is not None or not w.ready]
    for key, _ in selector.select(max(0.0, min(limits, default=now + 1.0) - now)):
        worker: Worker = key.data
        chunk = os.read(key.fd, 1 << 16)
        worker.text += chunk
        if not chunk:
            worker.process.wait()
            if not worker.ready:
                raise TargetError(f"the measuring process does not start: {_last_line(log)}")
            yield worker, {"status": "crashed", "message": _ending(worker.process.returncode)}
            continue
        while b"\n" in worker.text:
            line, _, worker.text = worker.text.partition(b"\n")
            if not worker.ready:
                worker.ready = True
            else:
                yield worker, json.loads(line)
    now = time.monotonic()
    for worker in alive:
        if worker.job is not None and now > worker.deadline:
            yield worker, {"status": "timeout", "message": "it took longer than the limit of time"}
        elif not worker.ready and now > worker.deadline:
            raise TargetError(f"the measuring process does not start within {START_SECONDS:.0f} s: see {log}")


def _ending(code: int) -> str:
    if code >= 0:
        return f"the process ended with code {code}"
    name = signal.Signals(-code).name
    return f"the process was ended by {name}" + (", by the system where memory ran out" if name == "SIGKILL" else "")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"
