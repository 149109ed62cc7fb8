"""WebAssembly: modules that engines run with the interpreter's bits, and what is said where one is given elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import woodpecker as wp
from woodpecker import bundle, reference
from woodpecker.errors import ArtifactError, InputError, TargetError
from woodpecker.nested import from_nested
from woodpecker.predicates import canonicalise
from woodpecker.runtime.loader import read_header
from woodpecker.targets import resolve

from .bundle_support import classifier, run
from .gallery import ALONE, FORESTS, compiled, fitting, grown, leaf, rows, split
from .qemu_support import needs_zig
from .support import assert_bits_equal
from .wasm_support import ENGINES, NODE, SCRIPTS, needs_node, needs_wasmtime, node, results

MANY_LEAVES = {"many": lambda: grown(17, 9, 6, n_features=7), "many32": lambda: grown(18, 9, 6, dtype=np.float32)}
"""Leaf numbers of 6 bits: values are looked up among several vectors."""
FOR_WASM = {**FORESTS, **MANY_LEAVES}
FEW = (
    ("many", "bitslice"),
    ("many32", "scan"),
    ("wide64", "bitslice"),  # masks of float64 comparisons
    ("ranked64", "bitslice"),  # and of float64 searches
    ("float32", "bitslice"),  # missing values, denormals, float32 sums
    ("zero_rule", "scan"),  # float64 rows, zero as missing, thresholds that are denormal float32 numbers
    ("truncate", "tree_traversal"),  # categories
    ("outputs", "perfect_tree_traversal"),  # several outputs
    ("linear", "tree_traversal"),  # products and sums of float64, which must not be fused
)
SIZES = (0, 7, 600)
EXAMPLES = Path(__file__).parents[1] / "examples"
WALK = {"strategy": "tree_traversal", **ALONE["tree_traversal"]}
SCALAR = {"kind": "llvm", "mtriple": "wasm32-wasi", "mattr": ["-simd128"]}


@pytest.fixture(scope="module", name="module")
def module_fixture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("module") / "model.wasm"
    said = wp.compile(classifier(), target="wasm32", **WALK).save(path)
    assert said.endswith("; runs on WebAssembly (wasm32), an engine with simd128; not in Python")
    return path


def check(engine: str, folder: Path, pairs: list[tuple[str, str]], sizes: tuple[int, ...]) -> None:
    """Fail unless these forests and strategies give the interpreter's bits in an engine."""
    forests, X, calls = {name: FOR_WASM[name]() for name, _ in pairs}, {}, []
    for name, forest in forests.items():
        for dtype in ("float32", "float64"):
            whole = rows(forest, max(sizes), 1, dtype)
            X |= {f"{name} {dtype} {n}": whole[:n] for n in sizes}
    for name, strategy in pairs:
        file = f"{name}-{strategy}.wasm"
        if not (folder / file).exists():
            compiled(forests[name], strategy, target="wasm32").save(folder / file)
        calls += [(file, method, key) for key in X if key.split()[0] == name for method in ("raw", "apply")]
    want = {}
    for key, values in X.items():
        forest = forests[key.split()[0]]
        want[key, "raw"] = reference.predict_raw(forest, values).tobytes()
        want[key, "apply"] = reference.apply(forest, values).astype(np.int32).tobytes()
    for call, got in zip(calls, results(engine, folder, calls, X), strict=True):
        assert got == want[call[2], call[1]], call


@pytest.fixture(scope="module", name="shared")
def shared_fixture(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("modules")


@pytest.mark.parametrize("engine", ENGINES)
def test_bits_of_one(engine, shared):
    check(engine, shared, [("truncate", "tree_traversal")], SIZES)


@pytest.mark.full
@pytest.mark.parametrize("engine", ENGINES)
def test_bits(engine, shared):
    check(engine, shared, list(FEW[:: 1 if engine == "node" or NODE is None else 2]), SIZES)


def test_leaf_numbers_of_several_vectors():
    assert [canonicalise(make()).leaf_bits for make in MANY_LEAVES.values()] == [6, 6]


@pytest.mark.full
@needs_zig
@pytest.mark.parametrize("strategy", sorted({strategy for _, strategy in fitting("wasm")}))
def test_every_strategy(strategy, tmp_path):
    if NODE is None:
        pytest.importorskip("wasmtime")
    pairs = [pair for pair in fitting("wasm") if pair[1] == strategy]
    check("wasmtime" if NODE is None else "node", tmp_path, pairs, (9, 1100))


@pytest.mark.parametrize("engine", ENGINES)
def test_methods(engine, module):
    here = wp.compile(classifier(), **WALK)
    X = rows(classifier(), 700, 2)
    calls = [("model.wasm", method, "X") for method in ("predict_proba", "predict", "raw")]
    proba, label, raw = (np.frombuffer(data) for data in results(engine, module.parent, calls, {"X": X}))
    np.testing.assert_array_max_ulp(proba.reshape(-1, 2), here.predict_proba(X), 2)
    assert [here.classes_[int(v)] for v in label] == here.predict(X).tolist()
    assert_bits_equal(raw[:, None], here.predict_raw(X))


@needs_zig
@needs_node
def test_what_the_javascript_promises(module):
    assert node(SCRIPTS / "check.mjs", module) == "ok\n"


@needs_zig
@needs_wasmtime
def test_a_module_needs_nothing_of_its_host(module):
    import wasmtime

    made = wasmtime.Module.from_file(wasmtime.Engine(), str(module))
    assert made.imports == []
    exported = {export.name for export in made.exports} - {"memory", "malloc", "free", "_initialize"}
    header = (Path(wp.__file__).parent / "runtime" / "c" / "wasm.h").read_text()
    assert exported == {f"wp_{name}" for name in re.findall(r"^WP_WASM\([^,]+, (\w+)", header, re.MULTILINE)}


@needs_zig
@needs_wasmtime
def test_without_vectors(module, tmp_path):
    import wasmtime

    path = tmp_path / "float32-tree_traversal.wasm"
    compiled(FORESTS["float32"](), "tree_traversal", target=SCALAR).save(path)
    assert read_header(path).manifest["levels"][0]["target"]["features"] == []
    config = wasmtime.Config()
    config.wasm_relaxed_simd = config.wasm_simd = False
    old = wasmtime.Engine(config)
    wasmtime.Module.from_file(old, str(path))
    with pytest.raises(wasmtime.WasmtimeError, match="SIMD"):
        wasmtime.Module.from_file(old, str(module))
    check("wasmtime", tmp_path, [("float32", "tree_traversal")], (9, 1100))


FILES = ["LICENSE", "README.md", "expected.csv", "libmodel.a", "model.wasm", "predict.c", "predict.mjs", "rows.csv"]


@needs_zig
class TestBundle:
    @pytest.mark.full
    @needs_node
    def test_the_commands_of_its_readme(self, module, tmp_path):
        folder = tmp_path / "device"
        names = bundle.write(classifier(), folder, target="wasm32", **WALK)
        assert names == [*FILES, "woodpecker.h", "woodpecker.mjs"] == sorted(p.name for p in folder.iterdir())
        text, want = (folder / "README.md").read_text(), (folder / "expected.csv").read_text()
        assert "It runs on WebAssembly (wasm32):\n\n- wasm32: generic, with simd128" in text and "pip" not in text
        script, program = re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)
        assert len(want.split()) == bundle.ROWS
        assert run(script, folder) == want
        compiling, running = program.splitlines()
        run(compiling.replace("zig", f"'{sys.executable}' -m ziglang", 1), folder)
        wasi = f"node --no-warnings '{SCRIPTS / 'wasi.mjs'}'"
        assert run(running.replace("wasmtime", wasi, 1), folder) == want
        for method in ("apply", "predict_proba", "predict"):
            said = run(f"node predict.mjs model.wasm {method} < rows.csv", folder)
            assert said == run(f"{wasi} predict.wasm {method} < rows.csv", folder)
        assert bundle.write(module, tmp_path / "copy") == [
            "LICENSE", "README.md", "model.wasm", "predict.mjs", "woodpecker.mjs"
        ]  # fmt: skip
        assert (tmp_path / "copy" / "model.wasm").read_bytes() == module.read_bytes()
        script = re.findall(r"^```sh\n(.*?)^```$", (tmp_path / "copy" / "README.md").read_text(), re.M | re.S)
        assert len(script) == 1
        assert run(f"cp ../device/rows.csv .; {script[0]}", tmp_path / "copy") == want

    @needs_node
    def test_the_page_of_the_examples(self, tmp_path):
        folder = tmp_path / "web"
        bundle.write(FORESTS["float32"](), folder, target="wasm32", **WALK)
        shutil.copy(EXAMPLES / "webassembly" / "index.html", folder)
        said = f"6 trees; {bundle.ROWS} raw scores, {{}} with other bits than Python's.\n"
        assert node(SCRIPTS / "page.mjs", folder) == said.format(0)
        first, *others = (folder / "expected.csv").read_text().splitlines()
        other = np.nextafter(np.float32(first), np.float32(9))
        (folder / "expected.csv").write_text("\n".join([f"{other:.9g}", *others]))
        assert node(SCRIPTS / "page.mjs", folder) == said.format(1)
        (folder / "expected.csv").write_text("1\n")
        assert "do not belong together" in node(SCRIPTS / "page.mjs", folder)

    @needs_node
    def test_the_program_says_what_is_wrong(self, module, tmp_path):
        shutil.copy(module, tmp_path / "m.wasm")
        (tmp_path / "cut.wasm").write_bytes(module.read_bytes()[:1000])
        predict = f"node '{bundle.JS_FILES[1]}'"
        cases = {
            predict: "usage: predict.mjs MODEL.wasm",
            f"{predict} absent.wasm": "no such file",
            f"{predict} cut.wasm": "this is no WebAssembly module that runs here",
            f"{predict} m.wasm nothing": "the model has no method nothing; it has raw, apply",
            f"echo 1,2 | {predict} m.wasm": "line 1 does not hold 5 numbers",
            f"printf '1,2,3,4,5\\n1,2,3,4,x' | {predict} m.wasm": "line 2 does not hold 5 numbers",
            f"echo 0x1,2,3,4,5 | {predict} m.wasm": "line 1 does not hold 5 numbers",
        }
        for command, message in cases.items():
            done = subprocess.run(
                ["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False, input="1,2,3,4,5\n"
            )
            assert done.returncode == 1 and message in done.stderr and not done.stdout, (command, done)
        assert run(f"printf ' 1 ,,-inf,1e-3, nan\\n' | {predict} m.wasm raw", tmp_path).count("\n") == 1
        assert run(f"{predict} m.wasm raw < /dev/null", tmp_path) == ""


@needs_zig
@needs_node
@pytest.mark.full
def test_the_guide(tmp_path):
    """docs/webassembly.md: its commands, but for the installation, and its program."""
    guide = (Path(wp.__file__).parents[1] / "docs" / "webassembly.md").read_text()
    code = {lang: re.findall(rf"^```{lang}\n(.*?)^```$", guide, re.M | re.S) for lang in ("python", "bash", "sh", "js")}
    shell = f"""
        python() {{ '{sys.executable}' "$@"; }}
        woodpecker() {{ python -m woodpecker.cli "$@"; }}
        wasmtime() {{ node --no-warnings '{SCRIPTS / "wasi.mjs"}' "$@"; }}
    """
    (tmp_path / "train.py").write_text(code["python"][0])
    run(f"{shell}python train.py\n{code['bash'][0]}", tmp_path)
    (tmp_path / "program.mjs").write_text(code["js"][0])
    assert run("node program.mjs", tmp_path) == "raw,apply,predict 1 false\n"
    _, _, script, program = code["sh"]
    want = (tmp_path / "web" / "expected.csv").read_text()
    assert run(script, tmp_path) == want == run(shell + program, tmp_path)


@needs_zig
class TestFiles:
    def test_the_model_in_it(self, module, tmp_path):
        header = read_header(module, verify=True)
        assert header.manifest["levels"][0]["target"] == resolve("wasm32").manifest()
        wp.compile(classifier(), target="wasm32-wasi", **WALK).save(tmp_path / "again.so")
        again = (tmp_path / "again.so").read_bytes()
        assert again[:4] == b"\0asm" == module.read_bytes()[:4], "the name decides nothing"
        # A variable, i32: the stack pointer, which begins at 1 MiB and ends at 0, where it traps.
        assert b"\x7f\x01\x41\x80\x80\xc0\x00\x0b" in again

    def test_the_same_bytes_again(self, module, tmp_path):
        wp.compile(classifier(), target="wasm32", **WALK).save(tmp_path / "again.wasm")
        assert (tmp_path / "again.wasm").read_bytes() == module.read_bytes()

    def test_zeros_in_the_model(self, tmp_path):
        trees = [split(0, 0.0, leaf(0.0), split(0, 0.0, leaf(0.0), leaf(1.0))) for _ in range(3000)]
        wp.compile(from_nested(trees, 1), target="wasm32", **WALK).save(tmp_path / "m.wasm")
        header = read_header(tmp_path / "m.wasm", verify=True)
        start = header.start
        assert bytes(5000) in (tmp_path / "m.wasm").read_bytes()[start : start + header.length]

    def test_damaged_ones(self, module, tmp_path):
        data = module.read_bytes()
        start = read_header(module).start
        for cut in (1, 40, len(data) // 3, len(data) - start - 100, len(data) - 5):
            (tmp_path / "m.wasm").write_bytes(data[:-cut])
            with pytest.raises(ArtifactError):
                read_header(tmp_path / "m.wasm")
        for at in (start + 20, start + 300, start + 700):
            (tmp_path / "m.wasm").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            with pytest.raises(ArtifactError):
                read_header(tmp_path / "m.wasm", verify=True)
        (tmp_path / "m.wasm").write_bytes(b"\0asm\1\0\0\0")
        with pytest.raises(ArtifactError, match="holds no model"):
            wp.load(tmp_path / "m.wasm")

    def test_loaded_into_python(self, module):
        with pytest.raises(
            ArtifactError, match=r"was compiled for WebAssembly \(wasm32\), and runs in a browser, Node\.js .* bundle"
        ):
            wp.load(module)

    def test_the_commands(self, module, tmp_path, capsys):
        pytest.importorskip("typer")
        from woodpecker.cli import main

        assert main(["inspect", str(module)]) == 0
        said = capsys.readouterr().out
        assert "wasm32: wasi wasm32, generic (simd128)" in said and "C function" not in said
        assert main(["inspect", "--json", str(module)]) == 0
        assert json.loads(capsys.readouterr().out)["c_function"] is None
        assert main(["predict", str(module), str(module), "-o", str(tmp_path / "out.npy")]) == 2
        assert "WebAssembly" in capsys.readouterr().err

    def test_a_name_for_its_function(self, tmp_path):
        with pytest.raises(InputError, match="leave it out, or save a static library"):
            wp.compile(classifier(), target="wasm32", **WALK).save(tmp_path / "m.wasm", symbol="my_model")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (["wasm32", "x86-64-v2"], r"are for WebAssembly \(wasm32\) and for x86_64 on Linux with glibc: an artifact is"),
        (["wasm32", SCALAR], "can't be in one WebAssembly module"),
        (["wasm32", "wasm32-wasi"], "'wasm32-wasi' is listed twice"),
        ({**SCALAR, "mattr": ["+sse2"]}, r"found '\+sse2'; llc -march=wasm32"),
        ({**SCALAR, "mattr": ["+relaxed-simd"]}, r"'\+relaxed-simd' contradicts"),
        ({**SCALAR, "mattr": ["+atomics"]}, r"'\+atomics' contradicts"),
        ({**SCALAR, "mattr": ["-sign-ext"]}, "'-sign-ext' takes away"),
        ({**SCALAR, "mcpu": "bleeding-edge"}, "for wasm32 mcpu is generic, found 'bleeding-edge'"),
        ("wasm32-unknown-emscripten", "which this version does not compile for"),
    ],
    ids=repr,
)
def test_targets_that_are_refused(target, message):
    with pytest.raises(TargetError, match=message):
        wp.compile(classifier(), target=target)


def test_tuning_is_refused():
    with pytest.raises(TargetError, match="code for target 'wasm32' runs in WebAssembly engines"):
        wp.tune(classifier(), target="wasm32")
