"""A process that runs one contestant, on orders from a pipe.

One JSON object a line: orders on stdin, replies on stdout. What libraries print goes to stderr, a log file. Times are
taken in here, around the contestant's call alone.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .contestants import LINK, Contestant, Predict, resolve
from .shapes import Info, Pool, open_pool, prepare

WARM_UP_SHARE = 0.2
"""Part of a turn that is spent on calls that do not count: the contestants before it took its caches."""

Reply = dict[str, Any]


def memory(field: str) -> int:
    """VmRSS or VmHWM of this process in bytes. (getrusage's maximum also counts the process that started this one.)"""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


CLOCKS = {"wall": time.perf_counter_ns, "cpu": time.process_time_ns}
"""What a call is timed by. "cpu" is CPU time over all threads: on a busy machine it leaves out what others take."""


def time_calls(
    predict: Predict, pool: Pool, batch: int, seconds: float, first: int, expected_ns: float, clock: str = "wall"
) -> Reply:
    """Time whole calls on fresh rows for about ``seconds``, one at least.

    Returns:
        "ns": the time of each call; "cpu_ns" and "wall_ns": of all of them, over all threads of the process.
    """
    most = int(min(max(seconds * 1e9 / max(expected_ns, 100.0), 1), 5_000))
    warm = int(most * WARM_UP_SHARE)
    views = pool.batches(batch, warm + most, first)
    for view in views[:warm]:
        predict(view)
    taken = []
    now, wall_now = CLOCKS[clock], time.perf_counter_ns
    gc.collect()
    gc.disable()
    cpu, begin = time.process_time_ns(), wall_now()
    for view in views[warm:]:
        start = now()
        answer = predict(view)
        taken.append(now() - start)
        del answer
        if wall_now() - begin > seconds * 1e9:
            break
    wall, cpu = wall_now() - begin, time.process_time_ns() - cpu
    gc.enable()
    return {"ns": taken, "cpu_ns": cpu, "wall_ns": wall}


class Server:
    """The state of a worker: one contestant, one model."""

    def __init__(self, contestant: Contestant, info: Info, folder: Path) -> None:
        self.contestant, self.info, self.folder = contestant, info, folder
        self.model: Any = None
        self.pool: Pool | None = None
        self.predict: dict[str, Predict] = {}

    def build(self) -> Reply:
        """Compile the model into the folder. Imports and reading the model are done before."""
        if self.contestant.build is None:
            return {"seconds": None}
        self._import(self.contestant.requires)
        self._read()
        before, start = memory("VmRSS"), time.perf_counter()
        self.contestant.build(self.info, self.model, self.folder)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "rss_before": before, "peak_bytes": memory("VmHWM")}

    def load(self) -> Reply:
        self._import(self.contestant.requires if self.contestant.build is None else self.contestant.runs_with)
        if self.contestant.build is None:
            self._read()
        self.pool = open_pool(self.info)
        start = time.perf_counter()
        form = self.contestant.form(self.info)
        self.predict[form] = self.contestant.load(self.info, self.model, self.folder)
        seconds = time.perf_counter() - start
        if self.contestant.load_link is not None:
            self.predict[LINK] = self.contestant.load_link(self.info, self.model, self.folder)
        return {"seconds": seconds}

    def probe(self, n: int, seed: int, to: str) -> Reply:
        """Write rows at the model's thresholds."""
        self._read()
        if self.contestant.probe is None:
            raise LookupError(f"{self.contestant.name} has no probe")
        X = self.contestant.probe(self.model, n, seed).astype(self.info.shape.dtype)
        X.tofile(to)
        return {"rows": len(X)}

    def answer(self, form: str, batch: int, rows: int, to: str, source: str | None = None) -> Reply:
        """Write the answers to the pool's first rows, or to those of a file, in calls of ``batch`` rows; "leaves" and
        "predict" are forms too."""
        call, pool = self._call(form)
        X = pool.X[:rows]
        if source is not None:
            X = np.fromfile(source, self.info.shape.dtype).reshape(-1, self.info.shape.features)
        answers, taken = [], []
        for start in range(0, len(X), batch):
            begin = time.perf_counter_ns()
            got = call(X[start : start + batch])
            taken.append(time.perf_counter_ns() - begin)
            # A contestant may hand out the same buffer again with its next call.
            answers.append(np.array(got))
        np.save(to, np.concatenate(answers))
        return {"ns": float(np.median(taken))}

    def time(self, batch: int, seconds: float, first: int, expected_ns: float, clock: str) -> Reply:
        if self.pool is None:
            raise LookupError("nothing is loaded")
        predict = self.predict[self.contestant.form(self.info)]
        return time_calls(predict, self.pool, batch, seconds, first, expected_ns, clock)

    def latency(self, form: str, calls: int, seconds: float, first: int) -> Reply:
        """Time calls with a row of its own each, slicing included: ``calls`` of them, or about ``seconds``.

        The collector of garbage stays on, as it does where rows are served.
        """
        call, pool = self._call(form)
        X, taken, now = pool.X, [], time.perf_counter_ns
        end = now() + int(seconds * 1e9)
        for i in range(first, first + calls):
            at = i % len(X)
            start = now()
            call(X[at : at + 1])
            stop = now()
            taken.append(stop - start)
            if stop > end:
                break
        return {"ns": taken[int(len(taken) * WARM_UP_SHARE) :]}

    def _call(self, form: str) -> tuple[Predict, Pool]:
        """The function that answers in a form, loaded when it is first asked for."""
        more = {"leaves": self.contestant.leaves, "predict": self.contestant.load_predict}.get(form)
        if form not in self.predict and more is not None:
            self.predict[form] = more(self.info, self.model, self.folder)
        if form not in self.predict or self.pool is None:
            raise LookupError(f"{self.contestant.name} has no answers of form {form!r}")
        return self.predict[form], self.pool

    def _read(self) -> None:
        if self.model is None:
            self.model = self.contestant.read(self.info)

    def _import(self, modules: Iterable[str]) -> None:
        for hidden in self.contestant.hides:
            sys.modules[hidden] = None  # type: ignore[assignment]
        for module in modules:
            importlib.import_module(module)


def serve(orders: Any, replies: Any, handlers: dict[str, Callable[..., Reply]]) -> None:
    """Say that it is ready, then obey until stdin ends. What goes wrong is a reply too: ``{"error", "refused"}``."""
    replies.write("{}\n")
    replies.flush()
    for line in orders:
        order = json.loads(line)
        try:
            reply = handlers[order.pop("do")](**order)
        except MemoryError:
            reply = {"error": "it ran out of the memory allowed", "refused": False}
        except Exception as error:
            text = " ".join(str(error).split())
            kinds = {cls.__name__ for cls in type(error).__mro__}
            refused = bool(kinds & {"StrategyError", "UnsupportedModelError"})
            reply = {"error": text if refused else f"{type(error).__name__}: {text}"[:300], "refused": refused}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


def main() -> None:
    """Arguments: a JSON object with "memory_bytes", and "contestant", "info" and "folder", or nothing of them for a
    worker that trains, or that measures a cell of a study."""
    settings = json.loads(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if settings["memory_bytes"]:
        resource.setrlimit(resource.RLIMIT_AS, (settings["memory_bytes"], settings["memory_bytes"]))

    def train(shape: dict[str, Any], cache: str, n_rows: int, threads: int) -> Reply:
        from .shapes import Shape

        return prepare(Shape(**shape), Path(cache), n_rows, threads).to_json()

    def study(module: str, arguments: dict[str, Any]) -> Reply:
        measure: Callable[..., Reply] = importlib.import_module(f"benchmarks.studies.{module}").measure
        return measure(**arguments)

    handlers: dict[str, Callable[..., Reply]] = {"train": train, "study": study}
    if "contestant" in settings:
        info = Info.from_json(settings["info"])
        server = Server(resolve(settings["contestant"]), info, Path(settings["folder"]))
        handlers |= {name: getattr(server, name) for name in ("build", "load", "probe", "answer", "time", "latency")}
    serve(sys.stdin, replies, handlers)


if __name__ == "__main__":
    main()
