"""Devices behind a TVM RPC tracker: candidates are compiled here, and checked and timed there.

Tracker and servers are TVM's own. A session serves one job: it is asked for, used and given back, so that devices are
shared, and one that goes away takes one attempt with it, no more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, MissingExtraError, TargetError
from ..runtime import measure
from ..targets import import_tvm
from . import candidate
from .candidate import SYMBOL, Code
from .task import Device, DeviceLostError, Open, Task, scores_of

CONNECT_SECONDS = 5.0
PLACES = 4
"""Calls of a sample start at this many different rows: each start is a request of its own to the device."""
RESTART_SECONDS = 1.0
WATCHED = "watched"


def address(tracker: str) -> tuple[str, int]:
    """(host, port) of "HOST:PORT".

    Raises:
        InputError: it is something else.
    """
    host, colon, port = tracker.rpartition(":") if isinstance(tracker, str) else ("", "", "")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise InputError(f"a tracker must look like HOST:PORT, found {tracker!r}")
    return host, int(port)


def _rpc() -> Any:
    """TVM's RPC, whose own messages stay out of the user's terminal.

    Raises:
        MissingExtraError: something that it needs is not installed.
    """
    import_tvm()
    for name in ("cloudpickle", "psutil", "tornado"):
        if find_spec(name) is None:
            raise MissingExtraError(
                f"remote devices need {name}, which is not installed: pip install 'woodpecker[tune]'"
            )
    from tvm import rpc

    for name in ("RPCServer", "RPCTracker"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return rpc


def devices(tracker: str, key: str) -> int:
    """How many servers a tracker has under a key.

    Raises:
        InputError: ``tracker`` is no HOST:PORT. TargetError: nothing answers there, or it has no such server.
        MissingExtraError: something that TVM's RPC needs is not installed.
    """
    host, port = address(tracker)
    rpc = _rpc()
    try:
        socket.create_connection((host, port), CONNECT_SECONDS).close()
        summary = rpc.connect_tracker(host, port).summary()
    except (OSError, RuntimeError) as error:
        raise TargetError(f"no RPC tracker answers at {tracker}: {error}") from error
    count = sum(server["key"] == f"server:{key}" for server in summary["server_info"])
    if count == 0:
        known = sorted({server["key"].removeprefix("server:") for server in summary["server_info"]})
        raise TargetError(
            f"the tracker at {tracker} has no server with key {key!r}; its keys: {', '.join(known) or 'none'}. Start "
            "one on the device: woodpecker device serve"
        )
    return count


def rpc_device(tracker: str, key: str, seconds: float) -> Device:
    """Devices of a tracker, for a worker.

    Args:
        tracker: "HOST:PORT".
        key: Key of the devices.
        seconds: How long a session with one candidate may last; the server ends it then.
    """
    host, port = address(tracker)

    @contextlib.contextmanager
    def device(plans: float) -> Iterator[Open]:
        sessions: list[Any] = []

        def opened(task: Task, code: Code, entry: str, X: np.ndarray) -> tuple[measure.Compute, measure.Clock]:
            with tempfile.TemporaryDirectory(prefix="woodpecker-") as folder:
                # Loaded libraries are known by their names on the device.
                path = Path(folder) / f"{os.urandom(6).hex()}.so"
                candidate.write(code, task.cpu, entry, path)
                with _or_lost():
                    if not sessions:
                        asked = _rpc().connect_tracker(host, port)
                        sessions.append(asked.request(key, session_timeout=seconds * plans))
                    return _open(sessions[0], path, code, scores_of(task, entry, len(X)), X)

        yield opened
        sessions.clear()

    return device


@contextlib.contextmanager
def _or_lost() -> Iterator[None]:
    """What goes wrong in a session is the device's doing, unless the device itself reports an error of the code.

    A candidate that crashes its session looks like a device that went away: a further attempt tells them apart.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        if any("Error caught from RPC call" in line for line in lines):
            raise
        raise DeviceLostError(f"the session ended: {lines[-1][:300]}") from error


def _open(
    session: Any, path: Path, code: Code, out: np.ndarray, X: np.ndarray
) -> tuple[measure.Compute, measure.Clock]:
    import tvm

    session.upload(bytearray(path.read_bytes()), target=path.name)
    module = session.load_module(path.name)
    cpu = session.cpu(0)
    there = tvm.runtime.tensor(measure.unwritten(out), device=cpu)
    scratch = np.zeros(code.scratch_bytes, np.uint8)
    given = [tvm.runtime.tensor(a, device=cpu) for a in (X, scratch, code.blob)]
    tensors = (given[0], there, given[1], given[2])
    function = module[SYMBOL]

    @_or_lost()
    def compute(calls: Sequence[tuple[int, int]]) -> np.ndarray:
        there.copyfrom(measure.unwritten(out))
        for begin, end in calls:
            function(*tensors, begin, end)
        found: np.ndarray = there.numpy()
        return found

    @_or_lost()
    def clock(rows: int, starts: Sequence[int]) -> float:
        places = list(starts)[:: -(-len(starts) // PLACES)]
        number = -(-len(starts) // len(places))
        evaluator = module.time_evaluator(SYMBOL, cpu, number=number, repeat=1)
        seconds = [evaluator(*tensors, start, start + rows).mean for start in places]
        return float(np.mean(seconds)) * 1e9 * len(starts)

    return compute, clock


def serve(tracker: str, key: str, host: str, port: int, port_end: int) -> None:
    """Keep an RPC server running on this machine until interrupted.

    TVM's server stops serving when a session of it crashes, as one does whose candidate crashes: another one is
    started then.

    Raises:
        InputError: ``tracker`` is no HOST:PORT. TargetError: nothing answers there. MissingExtraError: something that
        TVM's RPC needs is not installed.
    """
    where = address(tracker)
    _rpc()
    try:
        socket.create_connection(where, CONNECT_SECONDS).close()
    except OSError as error:
        raise TargetError(f"no RPC tracker answers at {tracker}: {error}") from error
    command = [sys.executable, "-m", "woodpecker.tuning.remote", tracker, key, host, str(port), str(port_end), WATCHED]
    while True:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        try:
            process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        time.sleep(RESTART_SECONDS)


def _end_with_parent() -> None:
    """End this process and its sessions when whoever started it has gone, in whichever way."""
    # Not through sys.stdin: a process that is forked meanwhile would wait for its lock for ever.
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGKILL)


def main(arguments: Sequence[str]) -> None:
    """TRACKER KEY HOST PORT PORT_END [WATCHED]: one server, until it stops serving."""
    tracker, key, host, port, port_end, *watched = arguments
    if watched:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    _rpc()
    from tvm.rpc.server import PopenRPCServerState

    state = PopenRPCServerState(host, int(port), int(port_end), tracker_addr=address(tracker), key=key, silent=True)
    state.thread.join()


if __name__ == "__main__":
    main(sys.argv[1:])
