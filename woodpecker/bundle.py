"""Bundles: a folder with everything that a device needs to predict with a model, with or without Python."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import c_config
from .errors import InputError, TargetError, WoodpeckerError
from .runtime import machine
from .runtime.files import check_path
from .runtime.loader import is_library, is_static, read_header

HERE = Path(__file__).parent
C_FILES = (HERE / "runtime" / "c" / "woodpecker.h", HERE / "runtime" / "c" / "predict.c")
JS_FILES = (HERE / "runtime" / "js" / "woodpecker.mjs", HERE / "runtime" / "js" / "predict.mjs")
ROWS = 200
SYMBOL = "bundled_model"
LIBRARY = {"linux": "model.so", "darwin": "model.dylib", "win32": "model.dll", "wasi": "model.wasm"}


def write(
    model: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    target: Any = None,
    **options: Any,
) -> list[str]:
    """Write the bundle of a model: a new folder, complete or not at all.

    Args:
        model: An artifact, of whatever target; or anything that `woodpecker.compile` takes.
        folder: It may exist if it is empty.
        target: See `woodpecker.compile`; for an artifact, what it has to be for, or None.
        **options: Other arguments of `woodpecker.compile`; for an artifact, none.

    Returns:
        The names of the files.

    Raises:
        InputError: the folder is not empty, ``folder`` is no path, or ``options`` are given for an artifact.
        TargetError: the artifact is for another target. ArtifactError: it is damaged or static.
        OSError: the folder can't be written. Else see `woodpecker.compile` and `CompiledModel.save`.
    """
    final = _checked(check_path(folder))
    staged = final.with_name(f".woodpecker-{os.urandom(6).hex()}")
    staged.mkdir()
    try:
        if isinstance(model, (str, os.PathLike)) and Path(model).is_file() and is_library(model):
            if options:
                raise InputError(f"{model} is compiled already: {', '.join(sorted(options))} can't be chosen any more")
            library = _copied(Path(model), staged, target)
        else:
            library = _compiled(model, staged, "llvm" if target is None else target, options)
        # A module alone is of no use to C: its static library is.
        in_c = library.suffix != ".wasm" or (staged / "libmodel.a").exists()
        in_js = library.suffix == ".wasm"
        for file in (*(C_FILES if in_c else ()), *(JS_FILES if in_js else ()), _license()):
            shutil.copy(file, staged)
        names = sorted([*(p.name for p in staged.iterdir()), "README.md"])
        (staged / "README.md").write_text(_readme(library, names), encoding="utf-8")
        staged.chmod(0o777 & ~_umask_of(staged / "README.md"))
        staged.replace(final)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return names


def _checked(path: Path) -> Path:
    final = path.resolve()
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise InputError(f"{path} exists and is no empty folder: name a new one")
    if final == Path.cwd() or final in Path.cwd().parents:
        raise InputError(f"{path} is the working folder, which can't be replaced by a bundle: name a new one")
    if not final.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} to")
    if not os.access(final.parent, os.W_OK):
        raise PermissionError(f"the folder {path.parent} cannot be written to")
    return final


def _umask_of(file: Path) -> int:
    """The process's umask, seen on a file that it made: to ask for it would mean setting it, for all threads."""
    return 0o666 & ~file.stat().st_mode


def _copied(path: Path, folder: Path, target: Any) -> Path:
    levels = read_header(path, verify=True).manifest["levels"]
    if is_static(path):
        raise InputError(f"{path} is a static library: give the shared one, or the model file")
    place = levels[0]["target"]
    if target is not None:
        from .targets import resolve_levels

        keys = ("system", "machine", "libc", "cpu", "features")
        wanted = [{key: level.manifest()[key] for key in keys} for level in resolve_levels(target)]
        if wanted != [{key: level["target"].get(key) for key in keys} for level in levels]:
            raise TargetError(
                f"{path} was compiled for {', '.join(level['target']['name'] for level in levels)} "
                f"({machine.platform_text(place)}), not for target {target!r}: give the model file instead"
            )
    return Path(shutil.copy(path, folder / LIBRARY.get(place["system"], "model.so")))


def _compiled(model: Any, folder: Path, target: Any, options: Mapping[str, Any]) -> Path:
    from .compiler import compile
    from .frontend import to_forest

    compiling = {key: options[key] for key in ("missing", "iteration_range") if key in options}
    forest = to_forest(model, **compiling)
    rest = {key: value for key, value in options.items() if key not in compiling}
    compiled = compile(forest, target=target, **rest)
    place = compiled.inspect()["levels"][0]["target"]
    library = folder / LIBRARY.get(place["system"], "model.so")
    compiled.save(library)
    compiled.save(folder / ("model.lib" if place["system"] == "win32" else "libmodel.a"), symbol=SYMBOL)
    _write_rows(forest, options.get("precision", "exact"), folder)
    return library


def _write_rows(forest: Any, precision: str, folder: Path) -> None:
    """rows.csv, at the thresholds of the model, and expected.csv: what a slow, obvious interpreter makes of them."""
    from . import reference
    from .compiler import with_precision
    from .predicates import canonicalise
    from .tuning.rows import boundary, sampled

    canonical = canonicalise(forest)
    X = boundary(canonical, sampled(canonical, ROWS, 0, forest.input_dtype), ROWS, 0).astype(np.float64)
    if forest.linear_offset is not None:
        X = np.clip(X, -1e30, 1e30)
    scores = reference.predict_raw(with_precision(forest, precision), X)
    (folder / "rows.csv").write_text(_csv(X, 17))
    (folder / "expected.csv").write_text(_csv(scores, 9 if scores.dtype == np.float32 else 17))


def _csv(values: np.ndarray, digits: int) -> str:
    """As C's printf("%.9g") writes them; a NaN is an empty field."""
    lines = (",".join("" if v != v else f"{v:.{digits}g}" for v in row) for row in values.tolist())
    return "".join(f"{line}\n" for line in lines)


def _license() -> Path:
    """LICENSE: in a wheel beside the modules, in a checkout above them."""
    for path in (HERE / "LICENSE", HERE.parent / "LICENSE"):
        if path.is_file():
            return path
    raise WoodpeckerError("the installation is incomplete: it has no LICENSE; install woodpecker again")


_TEXTS = {
    "model.so": "the artifact: load it from C, or from Python",
    "model.dylib": "the artifact: load it from C, or from Python",
    "model.dll": "the artifact: load it from C, or from Python",
    "model.wasm": "the artifact: a WebAssembly module",
    "woodpecker.mjs": "loads the module in browsers and Node.js; its comments are its documentation",
    "predict.mjs": "a program for Node.js that predicts the rows of a CSV file",
    "libmodel.a": f"the same model as a static library, whose function is `{SYMBOL}`",
    "model.lib": f"the same model as a static library, whose function is `{SYMBOL}`",
    "woodpecker.h": "the C interface; its comments are its documentation",
    "predict.c": "a program that predicts the rows of a CSV file",
    "rows.csv": "rows at the model's own thresholds",
    "expected.csv": "the raw scores that they must give, to the last bit",
    "LICENSE": "Apache-2.0: the licence of woodpecker's files and of the C code in the artifact. The model is yours",
    "README.md": "this file",
}


def _readme(library: Path, names: Sequence[str]) -> str:
    header = read_header(library)
    manifest = header.manifest
    levels, source = manifest["levels"], manifest["source"]
    origin = " ".join(str(source[k]) for k in ("library", "version", "estimator", "objective") if source.get(k))
    scratch = max(level["scratch_bytes"] for level in levels)
    methods = ", ".join(f"`{name}`" for name in ("raw", "apply", *manifest["methods"]))
    lines = [
        "# A compiled model",
        "",
        f"Trees: {manifest['n_trees']:,}. Features: {manifest['input']['n_features']:,}. Raw scores: "
        f"{manifest['n_outputs']:,}, {manifest['acc_dtype']}. {origin and f'From: {origin}. '}Results: {methods}.",
        "",
        f"It runs on {machine.platform_text(levels[0]['target'])}:",
        "",
        *(_level_line(level["target"]) for level in levels),
        "",
        f"The model takes {header.length:,} bytes of memory, and each thread about {scratch:,} of scratch; "
        "`wp_scratch_size` says how much exactly.",
        "",
        "| file | |",
        "|---|---|",
        *(f"| `{name}` | {_TEXTS[name]} |" for name in names),
        "",
    ]
    lines += _in_javascript(names) if library.suffix == ".wasm" else _in_c(library, names)
    if "rows.csv" in names:
        lines += ["To check this device: `... raw < rows.csv | cmp - expected.csv` says nothing.", ""]
    if library.suffix == ".wasm":
        return "\n".join(lines[:-1]) + "\n"
    lines += [
        "## In Python",
        "",
        "```sh",
        "pip install woodpecker",
        "```",
        "",
        "```python",
        "import woodpecker as wp",
        "",
        f'model = wp.load("{library.name}")',
        "model.predict_raw(X)  # and the methods of the source model",
        "```",
    ]
    if names and "libmodel.a" not in names:
        lines += ["", f"The C function that returns the model is `{c_config.getter(manifest['prefix'])}`."]
    return "\n".join(lines) + "\n"


def _in_c(library: Path, names: Sequence[str]) -> list[str]:
    lines = ["## In C", "", "```sh", "cc -O2 -o predict predict.c -ldl", f"./predict ./{library.name} raw < rows.csv"]
    lines += ["```", ""]
    if "libmodel.a" in names:
        lines += [
            "or linked with the program, with nothing to load:",
            "",
            "```sh",
            f"cc -O2 -DMODEL={SYMBOL} -o predict predict.c libmodel.a -lm -lpthread",
            "./predict raw < rows.csv",
            "```",
            "",
        ]
    return lines


def _in_javascript(names: Sequence[str]) -> list[str]:
    lines = [
        "## In JavaScript",
        "",
        "```sh",
        "node predict.mjs model.wasm raw < rows.csv",
        "```",
        "",
        "or in a program, with `fetch` in a browser and `readFile` in Node.js:",
        "",
        "```js",
        'import { load } from "./woodpecker.mjs";',
        "",
        'const model = await load(await (await fetch("model.wasm")).arrayBuffer());',
        "const scores = model.predict(rows); // a Float32Array or Float64Array, row after row",
        "```",
        "",
    ]
    if "libmodel.a" in names:
        lines += [
            "## In C, for WASI",
            "",
            "```sh",
            f"zig cc -target wasm32-wasi -O2 -DMODEL={SYMBOL} -o predict.wasm predict.c libmodel.a",
            "wasmtime predict.wasm raw < rows.csv",
            "```",
            "",
        ]
    return lines


def _level_line(target: Mapping[str, Any]) -> str:
    needs = f", with {', '.join(target['features'])}" if target["features"] else ""
    return f"- {target['name']}: {target['cpu']}{needs}"
