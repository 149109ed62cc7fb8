"""``woodpecker measure DIR``, where the runtime is all there is: ``python -m woodpecker.runtime.candidates DIR``.

DIR is what ``woodpecker tune --build DIR`` wrote, here or on another machine: candidates as shared libraries, their
models, rows, and the scores that these must have. Each candidate is checked and timed in a process of its own, so that
a hang or a crash costs only that one; results go to DIR at once, and a second run goes on where the first one stopped.
At the end the best ones are timed against the default in turn. ``woodpecker tune --import DIR`` makes a record of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from ..errors import ArtifactError, InputError, TargetError, WoodpeckerError
from . import machine, measure, strict_json
from .files import append_line, atomic_path, check_path
from .format import aligned
from .threads import available_cpus

LIST, ROWS, WANTED, TRIALS, PAIRED = "candidates.json", "rows.npy", "wanted.npy", "trials.jsonl", "paired.json"
FORMAT = 2
FINALISTS = 5
HOPEFUL = 1.05
"""A trial with this share of the default's time may still be faster: each was measured in a moment of its own."""
TOLERATED = 1.1
ROUNDS, PAIRED_ROUNDS = 5, 15
MAX_SECONDS = 1e6
LOCK = ".lock"

Trial = Mapping[str, Any]


def read_list(folder: Path) -> dict[str, Any]:
    """The candidates of a folder, and what they have in common.

    Raises:
        InputError: the folder holds none, or they are of another format.
    """
    path = check_path(folder) / LIST
    if not path.is_file():
        raise InputError(f"{folder} holds no candidates: woodpecker tune MODEL --build {folder} writes them")
    listed = strict_json.read(path)
    try:
        version = listed["format"]
        if version == FORMAT:
            sizes = [*listed["batches"], listed["n_rows"], *(c["scratch_bytes"] for c in listed["candidates"])]
            where = listed["resolved"]
            names = [where[name] for name in ("system", "machine", "libc", "cpu")] + where["features"]
            names += [
                listed["symbol"],
                listed["job"],
                *(c[name] for c in listed["candidates"] for name in ("code", "model")),
            ]
            names += [*listed["digests"], *listed["digests"].values()]
            whole = all(type(n) is int and n > 0 for n in sizes) and all(type(name) is str for name in names)
            if not whole or max(listed["batches"]) > listed["n_rows"]:
                raise ValueError("a size or a name is none")
            places = {key(c["plan"]) for c in listed["candidates"]}
            if key(listed["default"]) not in places:
                raise ValueError("the default plan is not among the candidates")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if version != FORMAT:
        raise InputError(f"{path} has format {version!r}; this woodpecker reads format {FORMAT}")
    return dict(listed)


def read_trials(folder: Path, batches: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """The results so far, of these batch sizes only where they are given; a line that was cut short is ignored."""
    path = folder / TRIALS
    trials = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            trial = strict_json.parse(line)
        except InputError:
            continue
        if _whole(trial) and (
            batches is None or trial["status"] != "ok" or trial["ns"].keys() == {str(n) for n in batches}
        ):
            trials.append(trial)
    return trials


def results(folder: Path, listed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The results so far of the candidates of a list.

    Raises:
        InputError: they are of other candidates, which may have the same plans.
    """
    trials = read_trials(folder, listed["batches"])
    if any(trial.get("job") != listed["job"] for trial in trials):
        raise InputError(
            f"{folder / TRIALS} holds results of another build, of another model, target or rows: bring those of this "
            "one, or remove the file and measure again"
        )
    return trials


def _whole(trial: Any) -> bool:
    if not isinstance(trial, dict) or not isinstance(trial.get("plan"), list) or "status" not in trial:
        return False
    times = trial.get("ns")
    return trial["status"] != "ok" or (
        isinstance(times, dict) and all(isinstance(ns, (int, float)) and 0 < ns < math.inf for ns in times.values())
    )


def succeeded(trials: Sequence[Trial]) -> list[Trial]:
    """Those that were measured, unless the same plan was found to be wrong later."""
    wrong = {key(t["plan"]) for t in trials if t["status"] == "wrong"}
    return [t for t in trials if t["status"] == "ok" and key(t["plan"]) not in wrong]


def key(plan: Any) -> str:
    """Equal for equal plans."""
    return json.dumps(list(plan), sort_keys=True)


def score(trial: Trial, default: Trial) -> float:
    """Geometric mean over the batch sizes of the time over the default's."""
    return float(np.exp(np.mean([math.log(trial["ns"][b] / default["ns"][b]) for b in default["ns"]])))


def _worst(trial: Trial, default: Trial) -> float:
    return max(float(trial["ns"][b] / default["ns"][b]) for b in default["ns"])


def faster(trials: Sequence[Trial], default: Any) -> list[Trial]:
    """The trials that may be faster than the default plan, the best first; none where that was not measured."""
    done = succeeded(trials)
    base = next((t for t in done if key(t["plan"]) == key(default)), None)
    if base is None:
        return []
    others = [t for t in done if t is not base and score(t, base) < HOPEFUL]
    # One that is clearly slower at a batch size will not be chosen, however fast it is at the others.
    return sorted(others, key=lambda t: (_worst(t, base) > TOLERATED, score(t, base)))


def check_positive(name: str, value: Any, most: float, unit: str) -> None:
    """Refuse what is no amount.

    Raises:
        InputError: ``value`` is no number, or not in (0, ``most``].
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= most:
        raise InputError(f"{name} must be positive, a number of at most {most:,.0f} {unit}, found {str(value)[:40]!r}")


@contextlib.contextmanager
def locked(folder: Path, advice: str = "wait for it") -> Iterator[None]:
    """One job at a time in a folder.

    Raises:
        InputError: another job is running there. OSError: the folder can't be written.
    """
    descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another tuning job is running in {folder}: {advice}") from None
        yield
    finally:
        os.close(descriptor)


def end_with_parent() -> None:
    """Let the system end this process when the thread that started it has gone, even inside a candidate that hangs.
    Systems other than Linux have nothing like it."""
    if sys.platform == "linux":
        set_death_signal = 1  # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(set_death_signal, int(signal.SIGKILL), 0, 0, 0)


def measure_all(
    folder: Any, *, timeout: float = 60.0, progress: Callable[[Trial], None] | None = None
) -> list[dict[str, Any]]:
    """Measure the candidates of a folder that have no result yet, then the best ones against the default.

    Args:
        folder: What ``woodpecker tune --build`` wrote.
        timeout: Seconds that a candidate may take.
        progress: Called with each result.

    Returns:
        All results.

    Raises:
        InputError: the folder holds no candidates, or was copied in part, or has results of another build; another job
            is running there; or ``timeout`` is none.
        ArtifactError: they are for another machine. TargetError: no further Python can be started here. OSError: a
            file can't be read or written.
    """
    check_positive("timeout", timeout, MAX_SECONDS, "s")
    folder = check_path(folder)
    _check_device(folder, read_list(folder))
    with locked(folder):
        return _measure_all(folder, read_list(folder), timeout, progress)


def _check_device(folder: Path, listed: Mapping[str, Any]) -> None:
    """Refuse candidates that can't run here, and folders that were copied in part."""
    if not machine.runs(listed["resolved"]):
        raise ArtifactError(
            f"the candidates in {folder} are for {machine.mismatch([listed['resolved']])}. Measure them on such a "
            "device, or make others for this one: woodpecker tune MODEL --build DIR --target TARGET"
        )
    names = {ROWS, WANTED, *(c[name] for c in listed["candidates"] for name in ("code", "model"))}
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise InputError(
            f"{folder} lacks {missing[0]}{f' and {len(missing) - 1} other files' if missing[1:] else ''}: copy all of "
            "the folder that woodpecker tune --build wrote"
        )
    if other := sorted(name for name in names if digest(folder / name) != listed["digests"].get(name)):
        raise InputError(
            f"{folder / other[0]} is not as woodpecker tune --build wrote it, cut short or of another build: copy all "
            "of that folder again"
        )


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _measure_all(
    folder: Path, listed: Mapping[str, Any], timeout: float, progress: Callable[[Trial], None] | None
) -> list[dict[str, Any]]:
    trials = results(folder, listed)
    done = {key(t["plan"]) for t in trials}
    for index, candidate in enumerate(listed["candidates"]):
        if key(candidate["plan"]) in done:
            continue
        best: dict[str, float] = {}
        for t in trials:
            for b, ns in t["ns"].items() if t["status"] == "ok" else ():
                best[b] = min(ns, best.get(b, math.inf))
        trials.append(_add(folder, listed, index, _apart(folder, timeout, "one", [index], best)))
        if progress is not None:
            progress(trials[-1])
    _pair(folder, listed, trials, timeout)
    return trials


def _add(folder: Path, listed: Mapping[str, Any], index: int, result: Mapping[str, Any]) -> dict[str, Any]:
    """The result of a candidate, which is in the folder now."""
    trial = {"plan": listed["candidates"][index]["plan"], "job": listed["job"], **result}
    append_line(folder / TRIALS, json.dumps(trial, sort_keys=True) + "\n")
    return trial


def _pair(folder: Path, listed: Mapping[str, Any], trials: list[dict[str, Any]], timeout: float) -> None:
    """The paired run of the best candidates and the default; its samples go to the folder."""
    places = {key(c["plan"]): i for i, c in enumerate(listed["candidates"])}
    default = places[key(listed["default"])]
    best = [places[key(t["plan"])] for t in faster(trials, listed["default"]) if key(t["plan"]) in places]
    chosen = [default, *best[:FINALISTS]]
    times: list[Any] = []
    while len(chosen) > 1:
        result = _apart(folder, timeout * (len(chosen) + 1), "paired", chosen, {})
        if result["status"] == "ok":
            times = result["times"]
            break
        if result["status"] == "wrong":  # it was right before: code whose scores vary is wrong code
            wrong = chosen[result.pop("place")]
            trials.append(_add(folder, listed, wrong, result))
            chosen = [i for i in chosen if i != wrong] if wrong != default else []
        else:
            chosen = chosen[:-1]
    plans = [listed["candidates"][i]["plan"] for i in chosen] if times else []
    paired = {"job": listed["job"], "trials": len(trials), "plans": plans, "times": times, "cores": available_cpus()}
    with atomic_path(folder / PAIRED) as staged:
        staged.write_text(json.dumps(paired) + "\n")


def _apart(
    folder: Path, timeout: float, what: str, indices: Sequence[int], best: Mapping[str, float]
) -> dict[str, Any]:
    """The result of candidates in a process of their own."""
    asked = json.dumps({"what": what, "indices": list(indices), "best": dict(best)})
    command = [sys.executable, "-m", "woodpecker.runtime.candidates", str(folder.absolute()), asked]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"status": "timeout", "message": "it took longer than the limit of time"}
    except OSError as error:
        raise TargetError(f"a Python for a candidate can't be started: {error}") from error
    if done.returncode or not done.stdout.endswith("}\n"):
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"status": "crashed", "message": f"the process ended with code {done.returncode}: {said}"[:500]}
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _answer(folder: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """In the process of its own: check and time candidates."""
    listed = read_list(folder)
    X = np.load(folder / ROWS, allow_pickle=False)
    wanted = np.load(folder / WANTED, allow_pickle=False)
    batches, n = [int(b) for b in listed["batches"]], int(listed["n_rows"])
    best = {int(b): float(ns) for b, ns in asked["best"].items()}
    clocks = []
    for place, index in enumerate(asked["indices"]):
        candidate = listed["candidates"][index]
        module = tvm_ffi.load_module(str((folder / candidate["code"]).absolute()))
        blob = np.fromfile(folder / candidate["model"], np.uint8)
        out = aligned(wanted.nbytes).view(wanted.dtype).reshape(wanted.shape)
        run = measure.bind(module[listed["symbol"]], X, out, candidate["scratch_bytes"], blob)
        clock = measure.clock_of(run)
        if asked["what"] == "one" and (slow := measure.too_slow(clock, n, batches, best)) is not None:
            return {"status": "slow", "message": f"{measure.TOO_SLOW:.0f} times slower than the best", "ns": slow}
        if wrong := measure.first_difference(measure.compute_of(run, out), wanted):
            return {"status": "wrong", "message": wrong} | ({"place": place} if asked["what"] == "paired" else {})
        clocks.append(clock)
    if asked["what"] == "one":
        (times,) = measure.sample(clocks, n, batches, ROUNDS, best)
        return {"status": "ok", "ns": measure.medians(times)}
    paired = measure.sample(clocks, n, batches, PAIRED_ROUNDS)
    return {"status": "ok", "times": [{str(b): samples for b, samples in t.items()} for t in paired]}


def main(arguments: Sequence[str]) -> int:
    """DIR [QUESTION]; without a question, all candidates of DIR are measured. Returns the exit code."""
    if len(arguments) == 2:
        end_with_parent()
        sys.stdout.write(json.dumps(_answer(Path(arguments[0]), json.loads(arguments[1]))) + "\n")
        return 0
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write("usage: woodpecker measure DIR\n")
        return 2
    try:
        trials = measure_all(Path(arguments[0]), progress=_say)
    except (WoodpeckerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: what was measured is kept; the same command goes on from there\n")
        return 130
    sys.stdout.write(f"{len(trials)} candidates measured; bring {arguments[0]} home: woodpecker tune --import DIR\n")
    return 0


def _say(trial: Trial) -> None:
    times = ", ".join(f"{ns:,.1f} ns/row at {int(b):,}" for b, ns in trial.get("ns", {}).items())
    sys.stdout.write(f"{trial['plan'][-1]['strategy']}: {times or trial['status']}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
