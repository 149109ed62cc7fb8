"""What a result depends on: the CPU, the versions of everything, woodpecker's sources."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from .shapes import version

DISTRIBUTIONS = (
    "woodpecker",
    "apache-tvm",
    "apache-tvm-ffi",
    "numpy",
    "xgboost",
    "lightgbm",
    "scikit-learn",
    "onnxruntime",
    "onnxmltools",
    "skl2onnx",
    "scikit-learn-intelex",
    "daal",
    "treelite",
    "tl2cgen",
    "lleaves",
    "llvmlite",
    "hummingbird-ml",
    "torch",
)


def describe() -> dict[str, Any]:
    """JSON values. Holds no host name and no date."""
    import woodpecker

    versions = {name: version(name) for name in DISTRIBUTIONS}
    versions["woodpecker"] = woodpecker.__version__
    cpu = _cpuinfo()
    return {
        "cpu": cpu.get("model name", platform.processor() or platform.machine()),
        "cpu_family": "/".join(cpu.get(k, "?") for k in ("vendor_id", "cpu family", "model", "stepping")),
        "cpu_flags": sorted(cpu.get("flags", "").split()),
        "cpus": len(os.sched_getaffinity(0)),
        "caches": _caches(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "compiler": _compiler(),
        "versions": {name: found for name, found in versions.items() if found is not None},
        "woodpecker_sources": source_digest(),
    }


def slug(machine: dict[str, Any]) -> str:
    """A file name for results of this CPU."""
    text = f"{machine['cpu']} {machine['cpu_family'].partition('/')[2]}"
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\([^)]*\)|@.*", "", text.lower())).strip("-")


def today() -> str:
    """The date, as results hold it where it is asked for."""
    return datetime.date.today().isoformat()


def commit() -> str | None:
    """The commit of this checkout, with "-dirty" where tracked files differ from it; None outside of one."""
    command = ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def source_digest(root: Path | None = None) -> str:
    """Of every source file of a package, by default woodpecker: two runs that differ in it measured two programs."""
    import woodpecker

    digest = hashlib.sha256()
    root = root or Path(woodpecker.__file__).parent
    for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".c", ".h")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _cpuinfo() -> dict[str, str]:
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _caches() -> dict[str, str]:
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        found[f"L{level} {kind.lower()}"] = size
    return found


def _compiler() -> str | None:
    try:
        done = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.splitlines()[0] if done.stdout else None
