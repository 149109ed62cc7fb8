"""The documents are true: their code runs, their links lead somewhere, their tables list what there is."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import woodpecker as wp
from woodpecker import targets_cuda
from woodpecker.errors import WoodpeckerError
from woodpecker.manifest import ENTRIES
from woodpecker.predicates import canonicalise
from woodpecker.relay_ops import bitslice, circuit, gemm, link, numbered, perfect_tree_traversal, scan
from woodpecker.relay_ops.plan import STRATEGIES
from woodpecker.runtime import format as fmt
from woodpecker.runtime import machine, threads
from woodpecker.schedules import cuda_plan
from woodpecker.schedules.cuda_strategies import STRATEGIES as CUDA_STRATEGIES
from woodpecker.tuning import gpu, logs
from woodpecker.tuning.job import BATCHES
from woodpecker.tuning.records import Record

from .cuda_support import skip_without_nvrtc

ROOT = Path(__file__).parents[1]
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(name: str) -> str:
    return (ROOT / name).read_text()


def blocks(document: Path) -> Iterator[tuple[str, str]]:
    """(language, code) of each fenced block."""
    for found in FENCE.finditer(document.read_text()):
        yield found.group(1), found.group(2)


def documents_that_run() -> list[Any]:
    """Those with commands, or that compile many models, take many seconds: they are left to the full tier."""
    found = [(d, {language for language, _ in blocks(d)}) for d in DOCS]
    slow = {d for d, has in found if "bash" in has or d.read_text().count("wp.compile(") > 3}
    return [
        pytest.param(d, marks=pytest.mark.full if d in slow else ()) for d, has in found if has & {"python", "bash"}
    ]


def name_of(document: Path) -> str:
    return document.relative_to(ROOT).as_posix()


@pytest.mark.sampled(5)
@pytest.mark.parametrize("document", documents_that_run(), ids=name_of)
def test_code_runs(document, tmp_path, monkeypatch):
    """Blocks of Python and of shell commands share one folder and run in their order; an `output` block is what the
    Python before it prints."""
    if any(
        re.search(r'target[= ]"cuda', code) for language, code in blocks(document) if language in ("python", "bash")
    ):
        skip_without_nvrtc()
    monkeypatch.chdir(tmp_path)
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    namespace: dict[str, object] = {"__name__": "document"}
    printed = ""
    for language, code in blocks(document):
        if language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(code, str(document), "exec"), namespace)
            printed = out.getvalue()
        elif language == "bash":
            command = ["bash", "-e", "-o", "pipefail", "-c", code]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
        elif language == "output":
            assert printed == code


@pytest.mark.parametrize("document", DOCS, ids=name_of)
def test_links_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)]+)\)", FENCE.sub("", document.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        assert file.exists(), target
        if anchor:
            content = file.read_text()
            headings = re.findall(r"^#+ (.*)$", content, re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
            assert anchor in slugs or f'id="{anchor}"' in content, target


@pytest.mark.parametrize("document", DOCS, ids=name_of)
def test_blocks_say_what_they_are(document):
    """Only `python` and `bash` run; `sh` blocks are set-up commands, and are checked below or by .ci/run."""
    assert {language for language, _ in blocks(document)} <= {"python", "bash", "output", "sh", "js", "text", "toml"}


def test_set_up_commands_are_what_ci_runs():
    commands = [line for language, code in blocks(ROOT / "README.md") if language == "sh" for line in code.splitlines()]
    assert len(commands) == 2
    example, tests = (command.split(" && ") for command in commands)
    ci = text_of(".ci/run")
    assert tests[1].removeprefix(".venv/bin/pip ") == "install -e '.[dev]'"
    assert "-e '.[dev]'" in ci
    assert tests[2] == ".venv/bin/python -m pytest -n auto"
    assert "-m pytest -n auto" in ci
    assert "tests -m full" in ci
    assert example[2] == ".venv-demo/bin/python examples/flights.py"
    assert "examples/flights.py" in ci


def test_api_lists_every_public_name():
    text = text_of("docs/api.md")
    for name in wp.__all__:
        assert name.startswith("__") or f"wp.{name}" in text or name == "errors", name
    assert "(errors.md)" in text
    assert threads.VARIABLE in text and machine.LEVEL_VARIABLE in text


def test_errors_lists_every_error():
    table = dict(re.findall(r"^\| `(\w+Error)` \| `(\w+)` \|", text_of("docs/errors.md"), re.MULTILINE))
    classes = {c.__name__: c for c in vars(wp.errors).values() if isinstance(c, type) and c is not WoodpeckerError}
    assert set(table) == set(classes)
    for name, builtin in table.items():
        assert builtin in [base.__name__ for base in classes[name].__mro__[1:]]


def test_strategies_lists_every_option_and_limit():
    text = text_of("docs/strategies.md")
    rows = [
        f"| `{name}` | `{key}` | {option.default} | {option.low} to {option.high} | {option.help} |"
        for name, module in STRATEGIES.items()
        for key, option in module.OPTIONS.items()
    ]
    found = [line for line in text.splitlines() if re.match(r"\| `\w+` \| `\w+` \|", line) and "depth_rule" not in line]
    assert found == rows
    limits = f"more than {gemm.MAX_LEAVES:,} leaves; path matrices of more than {gemm.MAX_BYTES >> 20} MiB"
    assert limits in text
    tree = perfect_tree_traversal
    assert f"deeper than {tree.MAX_DEPTH}; padded trees of more than {tree.MAX_BYTES >> 20} MiB" in text
    assert f"more than {2**bitslice.MAX_BITS:,} leaves; more than {circuit.MAX_ROWS // 2:,} distinct tests" in text
    tables = f"leaf tables, or ranks of a row block, of more than {numbered.MAX_BYTES >> 20} MiB"
    assert f"a tree of more than {2**scan.MAX_BITS:,} leaves; {tables}" in text


def test_cuda_lists_every_option_and_architecture():
    text = text_of("docs/cuda.md")
    known: dict[Any, list[str]] = {}
    for name, module in CUDA_STRATEGIES.items():
        for key, option in module.OPTIONS.items():
            known.setdefault((key, option), []).append(f"`{name}`")
    rows = [
        f"| {', '.join(names)} | `{key}` | {o.default} | {o.low} to {o.high} | {o.help} |"
        for (key, o), names in known.items()
    ]
    assert re.findall(r"^\| `.*` \| `cuda_\w+` \|.*$", text, re.MULTILINE) == rows
    for key, o in cuda_plan.COMMON.items():
        assert f"| all | `{key}` | {o.default} | {o.low} to {o.high} | {o.help} |" in text
        tried = cuda_plan.COMMON_SPACE[key]
        assert f"{', '.join(map(str, tried[:-1]))} and {tried[-1]:,}" in text_of("docs/tuning.md")
    assert f"{', '.join(f'{n:,}' for n in gpu.BATCHES[:-1])} and {gpu.BATCHES[-1]:,} rows" in text_of("docs/tuning.md")
    assert ", ".join(targets_cuda.DEFAULT) in text


def test_tuning_lists_every_option_that_is_tried():
    canonical = canonicalise(wp.Forest.from_nested([{"value": 1.0}], 1))
    rows = []
    for name, module in STRATEGIES.items():
        space = module.space(canonical)
        assert set(space) <= set(module.OPTIONS)
        tried = ", ".join(f"`{key}`" for key in module.OPTIONS if key in space)
        rows.append(f"| `{name}` | {tried} |")
    found = re.findall(r"^\| `\w+` \| `.*` \|$", text_of("docs/tuning.md"), re.MULTILINE)
    assert found == rows
    text = " ".join(text_of("docs/tuning.md").split())
    assert ", ".join(f"{n:,}" for n in BATCHES[:-1]) + f" and {BATCHES[-1]:,} rows" in text
    fields = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`\w+`.*?) \|", text_of("docs/tuning.md"), re.MULTILINE)))
    assert {"format", *Record.__dataclass_fields__} <= set(fields)
    assert logs.VARIABLE in text
    assert logs.VARIABLE in text_of("docs/api.md")


def test_exactness_lists_every_link():
    text = text_of("docs/semantics/exactness.md")
    section = text[text.index("## Links") : text.index('## precision="fast"')]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(listed) == sorted(link.LINKS)
    assert link.ULP_BOUND == 2
    assert "at most 2 units in" in text


def test_artifact_format_is_described_as_it_is():
    text = text_of("docs/artifact-format.md")
    (table,) = (code for language, code in blocks(ROOT / "docs/artifact-format.md") if "offset  bytes" in code)
    assert table in (fmt.__doc__ or "")
    assert f"now {fmt.FORMAT};" in text
    assert f"now {fmt.ABI}. Readers" in text
    for entry in ENTRIES:
        assert f"`{entry}`" in text
    model = wp.compile(wp.Forest.from_nested([{"value": 1.0}], 1))
    keys = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE))))
    assert keys == {*model._program.manifest, "cuda"} - {"level"}


def test_the_map_lists_every_module():
    text = text_of("CONTRIBUTING.md")
    listed = set()
    for head, body in re.findall(r"^\| `(woodpecker/.*?)` \|.*\n\|---\|---\|\n((?:\|.*\n)+)", text, re.MULTILINE):
        for row in body.splitlines():
            listed |= {head + name for name in re.findall(r"`([\w/]+\.\w+)`", row.split("|")[1])}
    files = [p for p in (ROOT / "woodpecker").rglob("*") if p.suffix in (".py", ".c", ".h", ".mjs")]
    assert listed == {p.relative_to(ROOT).as_posix() for p in files}
