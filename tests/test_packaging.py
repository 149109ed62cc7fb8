"""The wheel and the sdist: what is in them and what they say of themselves."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import woodpecker

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
NAMED = [
    "compiler",
    "cli",
    "xgboost",
    "lightgbm",
    "sklearn",
    "frames",
    "torch",
    "tune",
    "cross",
    "cuda",
    "bench",
    "dev",
    "all",
]


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def built(dist):
    """(names in the wheel, its metadata, names in the sdist)."""
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about = email.message_from_bytes(archive.read(metadata))
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    return names, about, sources


def package_files() -> set[str]:
    """Every file of the package that is no build output."""
    files = (p for p in (ROOT / "woodpecker").rglob("*") if p.is_file())
    return {p.relative_to(ROOT).as_posix() for p in files if "__pycache__" not in p.parts and p.suffix != ".so"}


def test_the_wheel_holds_the_package_and_nothing_else(built):
    names, _, _ = built
    inside = {name for name in names if ".dist-info/" not in name}
    logs = (p for p in (ROOT / "tuning_logs").rglob("*") if p.suffix in (".md", ".jsonl"))
    placed = {f"woodpecker/{p.relative_to(ROOT).as_posix()}" for p in logs} | {"woodpecker/LICENSE"}
    assert inside == package_files() | placed
    assert {"woodpecker/tuning_logs/README.md", "woodpecker/py.typed"} <= inside
    assert {f"woodpecker/runtime/c/{name}" for name in ("woodpecker.h", "artifact.c", "predict.c")} <= inside


def test_shipped_tuning_records_are_found_in_the_wheel_and_in_a_checkout(dist, tmp_path):
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = "from woodpecker.tuning import logs; print(logs.shipped())"
    for home, folder in ((tmp_path, tmp_path / "woodpecker" / "tuning_logs"), (ROOT, ROOT / "tuning_logs")):
        environment = {**os.environ, "PYTHONPATH": str(home)}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=home, env=environment)
        assert Path(done.stdout.strip()) == folder
        assert (folder / "README.md").is_file()


def test_the_sdist_holds_what_a_packager_needs(built):
    _, _, sources = built
    wanted = {"README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "pyproject.toml", ".ci/run"}
    wanted |= {"tests/support.py", "docs/api.md", "examples/flights.py", *package_files()}
    assert wanted <= sources
    assert [name for name in sources if name.endswith((".so", ".pyc"))] == ["tests/data/format-1.so"]


def test_versions_agree(built):
    _, about, _ = built
    assert about["Version"] == woodpecker.__version__
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest.group(1) == woodpecker.__version__


def test_metadata(built):
    names, about, _ = built
    assert about["Name"] == "woodpecker"
    assert about["License-Expression"] == "Apache-2.0"
    assert about["Requires-Python"] == ">=3.11"
    assert set(about.get_all("Provides-Extra")) == set(NAMED) == set(EXTRAS)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_base_is_small():
    assert sorted(re.match(r"[\w-]+", line).group() for line in PROJECT["dependencies"]) == ["apache-tvm-ffi", "numpy"]


def test_all_is_everything_but_torch_dev_and_bench():
    (requirement,) = EXTRAS["all"]
    inside = requirement.removeprefix("woodpecker[").removesuffix("]").split(",")
    assert set(inside) == set(NAMED) - {"all", "torch", "dev", "bench"}


def test_the_compiler_is_pinned_to_what_was_proved():
    assert EXTRAS["compiler"] == ["apache-tvm==0.27.0.post1", "apache-tvm-ffi>=0.1.14.post0,<0.1.15"]
    lowest = (ROOT / ".ci" / "run").read_text()
    for line in PROJECT["dependencies"]:
        name, _, version = line.partition(">=")
        assert f"{name}=={version}" in lowest, "the oldest dependencies are tested by .ci/run"


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import woodpecker", {"numpy", "tvm_ffi", "tvm"}),
        ("import woodpecker; woodpecker.errors", {"numpy", "tvm_ffi", "tvm"}),
        ("import woodpecker.runtime", {"tvm", "pandas", "narwhals", "xgboost", "lightgbm", "sklearn", "scipy"}),
    ],
)
def test_imports_are_cheap(statement, unwanted):
    code = f"import sys; {statement}; print(*(set(sys.modules) & {unwanted!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []
