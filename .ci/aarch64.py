"""`aarch64.py FOLDER`: a 64-bit ARM Python that runs on this machine, under QEMU's user emulation, for the tests.

It unpacks Debian's Python for arm64 and the wheels of numpy and apache-tvm-ffi for it, and writes FOLDER/python, which
runs it, and FOLDER/bin/qemu-aarch64, -arm and -riscv64. FOLDER/tvm holds what a server of TVM's RPC needs beside them.
Nothing is installed on the machine, and no rights are needed: apt works on lists of its own. Where that can't be done,
it says why and leaves no FOLDER.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

EMULATORS = ("aarch64", "arm", "riscv64")
PACKAGES = ("python3", "libstdc++6", "libc6")
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
TVM, TVM_FFI = PROJECT["optional-dependencies"]["compiler"]
WHEELS = ("numpy", TVM_FFI)
SERVER = (TVM, "ml_dtypes", "psutil", "tornado", "cloudpickle")
GLIBC = ("2_17", "2_24", "2_26", "2_27", "2_28", "2_31", "2_34", "2_35")
CONFIG = """
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; "{host}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "2";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::main "/dev/null";
"""


def run(*command: str | Path, **variables: str) -> str:
    return subprocess.run(
        list(map(str, command)), check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**os.environ, **variables},
    ).stdout  # fmt: skip


def debian(folder: Path) -> None:
    """Unpack the packages, and all that they need, to FOLDER/root; QEMU to FOLDER/qemu where there is none."""
    apt = folder / "apt"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    host = run("dpkg", "--print-architecture").strip()
    (apt / "apt.conf").write_text(CONFIG.format(folder=apt, host=host))
    variables = {"APT_CONFIG": str(apt / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "--quiet", "update", "--error-on=any", **variables)
    missing = not all(shutil.which(f"qemu-{name}") for name in EMULATORS)
    emulator = [f"qemu-user-static:{host}"] if missing else []
    run("apt-get", "--quiet", "--yes", "--download-only", "install", *PACKAGES, *emulator, **variables)
    for package in (apt / "cache" / "archives").glob("*.deb"):
        run("dpkg-deb", "--extract", package, folder / ("qemu" if "qemu-user" in package.name else "root"))
    shutil.rmtree(apt)
    for other in (folder / "qemu" / "usr" / "bin").glob("qemu-*"):
        if other.name.removeprefix("qemu-").removesuffix("-static") not in EMULATORS:
            other.unlink()


def wheels(folder: Path, version: str, *options: str) -> None:
    """Unpack the wheels to a folder."""
    platforms = [f"--platform=manylinux_{glibc}_aarch64" for glibc in GLIBC]
    made = folder / "wheels"
    run(
        sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--implementation=cp",
        f"--python-version={version}", "--platform=manylinux2014_aarch64", *platforms, "--dest", made, *options,
    )  # fmt: skip
    for wheel in made.glob("*.whl"):
        shutil.unpack_archive(wheel, folder, "zip")
    shutil.rmtree(made)


def emulators(folder: Path) -> None:
    (folder / "bin").mkdir()
    for name in EMULATORS:
        installed = shutil.which(f"qemu-{name}")
        (folder / "bin" / f"qemu-{name}").symlink_to(
            installed or folder / "qemu" / "usr" / "bin" / f"qemu-{name}-static"
        )


def make(folder: Path) -> None:
    debian(folder)
    (python,) = (p for p in (folder / "root" / "usr" / "bin").glob("python3.*") if not p.is_symlink())
    version = python.name.removeprefix("python")
    wheels(folder / "site", version, *WHEELS)
    wheels(folder / "tvm", version, "--no-deps", *SERVER)
    emulators(folder)
    script = folder / "python"
    # Python takes what starts it (-0) for its own path, and so what it starts is emulated too.
    script.write_text(
        f'#!/bin/sh\nexport PYTHONHOME="{python.parents[1]}" PYTHONPATH="$PYTHONPATH:{folder}/site"\n'
        'export PYTHONDONTWRITEBYTECODE="${PYTHONDONTWRITEBYTECODE-1}"\n'
        f'exec "{folder}/bin/qemu-aarch64" -L "{folder}/root" -0 "{script}" "{python}" "$@"\n'
    )
    script.chmod(0o755)
    # What is imported is compiled once, and not by each of the tests.
    program = "import json, platform, subprocess, numpy, tvm_ffi, tvm.rpc; print(platform.machine(), tvm.__version__)"
    print(run(script, "-c", program, PYTHONPATH=f"{folder}/tvm", PYTHONDONTWRITEBYTECODE="").strip())


def main() -> None:
    folder = Path(sys.argv[1]).absolute()
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        print("no Debian packages can be unpacked here: what runs under QEMU is not tested")
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        make(folder)
    except (subprocess.CalledProcessError, OSError, ValueError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        print(f"{error}\n{getattr(error, 'output', '') or ''}")
        print("no Python for aarch64 could be made: what runs under QEMU is not tested")


main()
