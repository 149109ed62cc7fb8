"""What is imported when: running never needs the compiler, compiling never a source library, unless it is asked for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import reference

from .gallery import FORESTS, rows
from .support import SHORT

ROOT = Path(wp.__file__).parent.parent
COMPILER = ["tvm", "woodpecker.compiler", "woodpecker.build", "woodpecker.frontend", "woodpecker.relay_ops"]
LIBRARIES = ["sklearn", "xgboost", "lightgbm", "pandas", "polars", "pyarrow", "narwhals", "scipy", "torch", "onnx"]
TOOLS = ["typer", "rich", "click", "pytest", "hypothesis"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with an artifact, rows, and the scores that they should have."""
    folder = tmp_path_factory.mktemp("isolation")
    forest = FORESTS["outputs"]()
    X = rows(forest, 700, 1, "float32")
    wp.compile(forest, strategy="tree_traversal").save(folder / "model.so")
    np.save(folder / "X.npy", X)
    np.save(folder / "raw.npy", reference.predict_raw(forest, X))
    return folder


def run(program: str, cwd: Path, *flags: str, python: str = sys.executable) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "PYTEST"))}
    environment |= {"PYTHONPATH": str(ROOT)} if python == sys.executable else {}
    command = [python, *flags, "-c", program]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported(program: str, cwd: Path) -> set[str]:
    """The modules that a fresh interpreter holds after a program."""
    report = "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    return set(json.loads(run(program + report, cwd).splitlines()[-1]))


PREDICT = """
import numpy as np, woodpecker as wp
X, raw = np.load("X.npy"), np.load("raw.npy")
model = wp.load("model.so", num_threads=2)
assert model.predict_raw(X).tobytes() == raw.tobytes()
model.apply(X), model.predict(X), model.inspect(), repr(model)
model.predict(X[0].tolist() and X[:3].tolist())
"""


def test_the_package_itself_imports_nothing(folder):
    modules = imported("import woodpecker; woodpecker.__version__; dir(woodpecker)", folder)
    assert "woodpecker" in modules
    assert modules.isdisjoint([*COMPILER, *LIBRARIES, *TOOLS, "numpy", "tvm_ffi", "woodpecker.runtime"])


def test_predicting_imports_no_compiler_and_no_library(folder):
    modules = imported(PREDICT, folder)
    assert {"numpy", "tvm_ffi", "woodpecker.runtime"} <= modules
    assert modules.isdisjoint([*COMPILER, *LIBRARIES, *TOOLS])
    ours = {m for m in modules if m.startswith("woodpecker")}
    assert all(m in ("woodpecker", "woodpecker.errors") or m.startswith("woodpecker.runtime") for m in ours), ours


def test_predicting_works_where_the_compiler_cannot_be_imported(folder):
    blocked = [*COMPILER[:1], *LIBRARIES, *TOOLS]
    block = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""
    run(block + PREDICT, folder)
    text = run(
        block + "import woodpecker as wp\ntry:\n    wp.compile(wp.Forest.from_nested([], 1))\n"
        "except wp.errors.MissingExtraError as e:\n    print(e)\n",
        folder,
    )
    assert "pip install 'woodpecker[compiler]'" in text


@pytest.mark.full
def test_compiling_a_forest_imports_no_library(folder):
    program = """
import numpy as np, woodpecker as wp
forest = wp.Forest.from_nested([{"feature": 0, "op": "<", "threshold": 1.0,
                                 "left": {"value": 1.0}, "right": {"value": 2.0}}], 1)
model = wp.compile(forest)
assert model.predict(np.zeros((2, 1))).tolist() == [1.0, 1.0]
"""
    modules = imported(program, folder)
    # What TVM itself imports is TVM's business: only what woodpecker adds counts.
    allowed = imported("import tvm, tvm.relax, tvm.te", folder)
    assert (modules - allowed).isdisjoint([*LIBRARIES, *TOOLS])
    assert modules.isdisjoint(["xgboost", "lightgbm", "sklearn", "polars", "narwhals"])


@pytest.mark.parametrize(("library", "suffix"), [("xgboost", "ubj"), ("lightgbm", "txt")])
def test_model_files_are_read_without_their_library(folder, library, suffix, tmp_path):
    module = pytest.importorskip(library)
    X = np.random.default_rng(0).normal(size=(60, 3))
    path = tmp_path / f"model.{suffix}"
    if library == "xgboost":
        module.train({"nthread": 1, "verbosity": 0}, module.DMatrix(X, X[:, 0]), 2).save_model(path)
    else:
        params = {"verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5}
        module.train(params, module.Dataset(X, X[:, 0]), 2).save_model(path)
    modules = imported(f"import woodpecker as wp; wp.from_model({str(path)!r})", folder)
    assert modules.isdisjoint([*LIBRARIES, *TOOLS, "tvm"])


@pytest.mark.full
@pytest.mark.parametrize("library", ["xgboost", "lightgbm", "sklearn"])
def test_a_live_model_imports_its_own_library_only(folder, library):
    pytest.importorskip(library)
    make = {
        "xgboost": "import xgboost as x; m = x.train({'nthread': 1}, x.DMatrix(X, X[:, 0]), 2)",
        "lightgbm": "import lightgbm as x; m = x.train({'verbosity': -1, 'num_threads': 1}, x.Dataset(X, X[:, 0]), 2)",
        "sklearn": "from sklearn.tree import DecisionTreeRegressor as D; m = D(max_depth=2).fit(X, X[:, 0])",
    }[library]
    start = f"import numpy as np; X = np.random.default_rng(0).normal(size=(60, 3)); {make}\n"
    before = imported(start, folder)
    after = imported(start + "import woodpecker as wp; wp.from_model(m)", folder)
    others = {"xgboost", "lightgbm", "sklearn", "tvm", "torch"} - {library}
    assert (after - before).isdisjoint(others | set(TOOLS))


def import_times(folder: Path, program: str, python: str = sys.executable) -> float:
    """CPU seconds, which other work on the machine does not lengthen, of the fastest of five imports."""
    timed = f"import time; t = time.process_time()\n{program}\nprint(time.process_time() - t)"
    return min(float(run(timed, folder, python=python).split()[-1]) for _ in range(5))


@pytest.mark.full
def test_import_time(folder):
    numpy = import_times(folder, "import numpy, tvm_ffi")
    ours = import_times(folder, "import woodpecker as wp; wp.load")
    assert import_times(folder, "import woodpecker") < 0.05
    assert ours - numpy < 0.15, f"numpy and tvm_ffi: {numpy:.3f} s, with woodpecker: {ours:.3f} s"
    assert ours < 3 * 0.15 + numpy


@pytest.mark.full
@pytest.mark.skipif(shutil.which("uv") is None and find_spec("pip") is None, reason="needs uv or pip")
@pytest.mark.skipif(SHORT, reason="the short form goes with .ci/run, which installs the wheel by itself")
def test_the_wheel_in_an_environment_of_its_own(folder, tmp_path):
    """Only numpy, apache-tvm-ffi and the wheel: an artifact runs, and nothing else can be imported."""
    wheels = tmp_path / "wheels"
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", "*.so", "__pycache__", ".*cache", "benchmarks"))
    uv = shutil.which("uv")
    build = (
        [uv, "build", "--wheel", "-o", wheels]
        if uv
        else [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", wheels]
    )
    subprocess.run([*build, source], check=True, capture_output=True, timeout=300)
    (wheel,) = wheels.glob("*.whl")
    assert wheel.stat().st_size < 1 << 20
    home = tmp_path / "venv"
    venv.create(home, with_pip=uv is None)
    python = home / "bin" / "python"
    install = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    subprocess.run([*install, wheel], check=True, capture_output=True, timeout=300)
    assert find_installed(python) - {"pip", "setuptools"} == {
        "woodpecker",
        "numpy",
        "apache-tvm-ffi",
        "typing-extensions",
    }
    run(PREDICT, folder, "-W", "error", python=str(python))
    text = run(
        "import woodpecker as wp\ntry:\n    wp.compile(None)\nexcept wp.errors.MissingExtraError as e:\n    print(e)",
        folder,
        python=str(python),
    )
    assert "woodpecker[compiler]" in text
    assert import_times(folder, "import woodpecker as wp; wp.load", str(python)) < 3 * 0.15
    size = sum(p.stat().st_size for p in (home / "lib").rglob("*") if p.is_file() and "pip" not in p.parts)
    assert size < 150 * 2**20


def find_installed(python: Path) -> set[str]:
    program = (
        "from importlib.metadata import distributions as d; print(*sorted(x.metadata['Name'].lower() for x in d()))"
    )
    done = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True)
    return set(done.stdout.replace("_", "-").split())
