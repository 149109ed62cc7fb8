"""What .ci/run does in the base environment: `make FOLDER` with the compiler, then `check FOLDER` without it.

`check` proves that artifacts give the same bits where only numpy, apache-tvm-ffi and the base package are installed,
that nothing else is, and prints what that costs: installed bytes, import and load times.
"""

import importlib.metadata
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np

import woodpecker as wp
from woodpecker.runtime import machine

BASE = {"woodpecker", "numpy", "apache-tvm-ffi", "typing-extensions"}
INSTALLERS = {"pip", "setuptools", "wheel"}


def make(folder: Path) -> None:
    """Artifacts, rows, and the answers of the libraries themselves."""
    import lightgbm
    import xgboost
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 8)).astype(np.float32)
    X[rng.random(X.shape) < 0.1] = np.nan
    y = np.nansum(X[:, :3], axis=1) > 0
    xgb = xgboost.XGBClassifier(n_estimators=50, max_depth=5, n_jobs=1).fit(X, y)
    lgb = lightgbm.LGBMClassifier(n_estimators=50, num_leaves=15, n_jobs=1, verbose=-1).fit(X, y)
    forest = RandomForestClassifier(n_estimators=20, n_jobs=1, random_state=0).fit(X, y)
    raw = {
        "xgboost": (xgb, xgb.predict(X, output_margin=True)),
        "lightgbm": (lgb, lgb.booster_.predict(X, raw_score=True)),
        "sklearn": (forest, forest.predict_proba(X)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "X.npy", X)
    for name, (model, scores) in raw.items():
        wp.compile(model, target="x86-64" if name == "lightgbm" else "llvm").save(folder / f"{name}.so")
        np.save(folder / f"{name}-raw.npy", scores)
        np.save(folder / f"{name}-predict.npy", model.predict(X))


def milliseconds(code: str) -> float:
    """Median over fresh processes of what ``code`` takes; it may set ``begin`` anew."""
    text = f"import time; begin = time.perf_counter(); {code}"
    text += "; print((time.perf_counter() - begin) * 1e3)"
    # -P: without it the checkout, where this runs, would be imported instead of the installed wheel.
    runs = [
        subprocess.run([sys.executable, "-P", "-c", text], capture_output=True, text=True, check=True) for _ in range(9)
    ]
    return statistics.median(float(run.stdout) for run in runs)


def check(folder: Path) -> None:
    """Everything equal, nothing else installed; prints sizes and times."""
    installed = {d.metadata["Name"].lower().replace("_", "-"): d for d in importlib.metadata.distributions()}
    extra = set(installed) - BASE - INSTALLERS
    if extra:
        sys.exit(f"not a base environment: it has {', '.join(sorted(extra))}")
    total = 0
    for name in sorted(BASE & set(installed)):
        size = size_of(installed[name])
        total += size
        print(f"{name} {installed[name].version}: {size / 1e6:.1f} MB installed")
    print(f"together: {total / 1e6:.1f} MB, {(total - size_of(installed['numpy'])) / 1e6:.1f} MB without numpy")

    X = np.load(folder / "X.npy")
    levels = []
    for artifact in sorted(folder.glob("*.so")):
        raw = np.load(folder / f"{artifact.stem}-raw.npy")
        for target in (level["target"] for level in wp.load(artifact).inspect()["levels"]):
            if not machine.runs(target):
                continue
            levels.append(target["name"])
            os.environ[machine.LEVEL_VARIABLE] = target["name"]
            model = wp.load(artifact, verify=True)
            if model.predict_raw(X).reshape(raw.shape).tobytes() != raw.tobytes():
                sys.exit(f"{artifact.name}: raw scores differ from the library's")
            if not (model.predict(X) == np.load(folder / f"{artifact.stem}-predict.npy")).all():
                sys.exit(f"{artifact.name}: predictions differ from the library's")
        os.environ.pop(machine.LEVEL_VARIABLE, None)
    print(f"{len(X):,} rows of 3 models, code for {', '.join(levels)}: every bit equal to the library's")

    path = str(folder / "xgboost.so")
    numpy = milliseconds("import numpy")
    runtime = milliseconds("import woodpecker.runtime")
    load = milliseconds(f"import woodpecker.runtime as r; begin = time.perf_counter(); r.load({path!r})")
    print(f"import woodpecker: {milliseconds('import woodpecker'):.1f} ms")
    print(f"import woodpecker.runtime: {runtime:.0f} ms, of which numpy takes {numpy:.0f} ms")
    print(f"woodpecker.load of {Path(path).stat().st_size / 1024:.0f} KB: {load:.1f} ms")


def size_of(distribution: importlib.metadata.Distribution) -> int:
    """Installed bytes."""
    places = (Path(str(file.locate())) for file in distribution.files or ())
    return sum(place.stat().st_size for place in places if place.exists())


if __name__ == "__main__":
    action, folder = sys.argv[1:]
    {"make": make, "check": check}[action](Path(folder))
