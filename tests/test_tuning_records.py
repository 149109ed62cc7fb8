"""Tuning records: what they are found by, how they are kept, and which of them a compilation uses."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm

import woodpecker as wp
from woodpecker import reference
from woodpecker.errors import InputError
from woodpecker.levels import make_levels
from woodpecker.predicates import canonicalise
from woodpecker.relay_ops.plan import make_plan
from woodpecker.runtime import machine, strict_json
from woodpecker.targets import resolve, resolve_levels
from woodpecker.tuning import logs, records
from woodpecker.tuning.logs import (
    shipped,  # as it is before conftest.py changes it
    summary,
)
from woodpecker.tuning.shape import digest, distance, shape_class, target_key

from .gallery import FORESTS, grown, rows
from .support import assert_bits_equal
from .tuning_support import WALK, record

HEAP = {"min_rows": 3, "strategy": "perfect_tree_traversal", "options": {"trees": 2, "interleave": 4}}


@pytest.fixture
def forest():
    return grown(1, 6, 4, dtype=np.float32)


def steps(model: wp.Predictor) -> list[tuple[int, str]]:
    return [(step["min_rows"], step["strategy"]) for step in model.inspect()["plan"]]


def test_digest_is_of_what_scoring_depends_on(forest):
    assert digest(forest) == digest(grown(1, 6, 4, dtype=np.float32))
    assert digest(forest) == digest(forest.replace(source={"library": "other"}))
    values = forest.values.copy()
    values[0] = np.nextafter(values[0], np.float32(9))
    for change in ({"values": values}, {"divisor": 3}, {"missing_value": 1.0}, {"base_score": forest.base_score + 1}):
        assert digest(forest.replace(**change)) != digest(forest)
    assert len({digest(make()) for make in FORESTS.values()}) == len(FORESTS)


def test_shape_classes_and_their_distances(forest):
    mine = shape_class(canonicalise(forest))
    assert mine == shape_class(canonicalise(grown(2, 6, 4, dtype=np.float32)))
    assert distance(mine, mine) == 0
    assert distance(mine, dataclasses.replace(mine, trees=mine.trees + 1)) == 1
    assert distance(mine, dataclasses.replace(mine, trees=mine.trees + 2, depth=mine.depth - 2)) is None
    for kind in ({"acc_dtype": "float64"}, {"categories": True}, {"leaf": "vector"}):
        assert distance(mine, dataclasses.replace(mine, **kind)) is None
    found = {name: shape_class(canonicalise(make())) for name, make in FORESTS.items()}
    assert found["linear"].leaf == "linear"
    assert found["vector"].leaf == "vector"
    assert found["exact"].categories
    assert found["zero_rule"].missing
    assert not found["stumps"].categories


def test_records_survive_their_file(forest, tmp_path):
    first, second = record(forest), record(grown(2, 40, 6, dtype=np.float32), plan=(WALK, HEAP))
    for made in (first, second):
        path = records.append(tmp_path, made)
        assert path.parent.name == target_key(resolve("llvm")).name
    assert sorted(e.record.line for e in records.read(tmp_path)) == sorted([first.line, second.line])
    assert records.from_json(json.loads(second.line)) == dataclasses.replace(second, plan=(WALK, HEAP))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 99}, "format 99; this woodpecker reads format 1"),
        ({"versions": {"tvm": "0.1"}}, "measured with TVM 0.1; this is TVM"),
        ({"gain": -1.0}, "gain must be above 0 and at most 1,000,000, found -1.0"),
        ({"gain": 1e308}, "gain must be above 0 and at most 1,000,000, found 1e"),
        ({"dtype": "int8"}, "dtype must be float32 or float64, found 'int8'"),
        ({"rows": "zzz"}, "rows must be given or sampled, found 'zzz'"),
        ({"ns_per_row": {"1": -5}}, "ns_per_row must hold times by numbers of rows, found '1'"),
        ({"default_ns_per_row": {"x": 5.0}}, "default_ns_per_row must hold times by numbers of rows, found 'x'"),
        ({"versions": {"tvm": tvm.__version__, "woodpecker": 5}}, "versions must be strings"),
        ({"model": "\x1b]0;own\x07"}, "holds a control character"),
        ({"date": "2026\r\n"}, "holds a control character"),
        ({"gain": "2"}, "gain must be float"),
        ({"extra": 1}, "'extra' is unknown"),
        ({"shape": {"trees": 3}}, "ShapeClass: the field 'acc_dtype' is absent"),
        ({"shape": []}, "shape must be an object"),
        ({"plan": [{"strategy": "gemm"}]}, "must hold min_rows"),
        ({"target": {"kind": "llvm", "machine": "m", "cpu": "c", "features": [1], "cores": 2}}, "features must be"),
    ],
)
def test_records_that_do_not_fit_are_refused_with_the_reason(change, reason, forest, tmp_path):
    path = records.append(tmp_path, record(forest))
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}) + "\nno json\n[1]\n")
    entries = records.read(tmp_path, tvm.__version__)
    assert [e.record for e in entries] == [None, None, None]
    assert reason in entries[0].refused
    model = wp.compile(forest, tuning_logs=tmp_path)
    assert model.inspect()["tuning"]["from"] == "defaults"
    assert reason in model.inspect()["tuning"]["skipped"][0]
    assert "no tuning record" in model.inspect()["tuning"]["skipped"][2]


def test_a_record_that_says_a_thing_twice_is_refused(forest, tmp_path):
    path = records.append(tmp_path, record(forest))
    path.write_text(path.read_text().replace('"gain": 2.0', '"gain": 9.0, "gain": 2.0'))
    (entry,) = records.read_file(path)
    assert "the key 'gain' stands there twice" in entry.refused


@pytest.mark.parametrize(("part", "name"), [("shape", "trees"), ("shape", "outputs"), ("target", "cores")])
@pytest.mark.parametrize("value", [-1, 2**31])
def test_sizes_out_of_range_are_named(part, name, value, forest, tmp_path):
    good = record(forest).to_json()
    (tmp_path / "one.jsonl").write_text(json.dumps({**good, part: {**good[part], name: value}}) + "\n")
    (entry,) = records.read_file(tmp_path / "one.jsonl")
    least = "at least 1" if (name, value) == ("outputs", -1) else "from 0 to 2,147,483,647"
    assert f"{name} must be {least}, found {value}" in entry.refused


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("target", {"kind": "/abs/path"}),
        ("target", {"cpu": "../.."}),
        ("target", {"machine": "a\0b"}),
        ("target", {"features": ["avx2", "a/b"]}),
        ("target", {"cpu": "c" * 300}),
        ("shape", {"acc_dtype": ""}),
        ("shape", {"input_dtype": "float64\n"}),
        ("shape", {"leaf": "a/b"}),
        ("shape", {"outputs": 10**400}),
    ],
)
def test_a_record_cannot_name_a_file_elsewhere(part, change, forest, tmp_path):
    good = record(forest).to_json()
    source = tmp_path / "given.jsonl"
    source.write_text("\n" + json.dumps({**good, part: {**good[part], **change}}) + "\n")
    added, (refused,) = records.merge(tmp_path / "logs", [source], tvm.__version__)
    assert (added, refused.line) == (0, 2)
    assert next(iter(change)) in refused.refused or "names of at most 200" in refused.refused
    assert not (tmp_path / "logs").exists()


def test_appends_of_several_processes_stay_whole(forest, tmp_path):
    (tmp_path / "line").write_text(record(forest, model="m" * 20_000).line)
    program = (
        "import json, sys; from pathlib import Path; from woodpecker.tuning import records\n"
        "made = records.from_json(json.loads(Path('line').read_text()))\n"
        "for _ in range(40): records.append(Path('logs'), made)"
    )
    environment = {"PYTHONPATH": str(Path(wp.__file__).parents[1])}
    jobs = [subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment) for _ in range(3)]
    assert [job.wait(60) for job in jobs] == [0, 0, 0]
    entries = records.read(tmp_path / "logs")
    assert len(entries) == 120
    assert all(entry.record is not None for entry in entries)


def test_a_line_that_was_cut_short_costs_itself_only(forest, tmp_path):
    path = records.append(tmp_path, record(forest))
    with path.open("a") as file:
        file.write('{"format": 1, "dig')
    records.append(tmp_path, record(forest, gain=3.0))
    assert [e.record and e.record.gain for e in records.read(tmp_path)] == [2.0, None, 3.0]


def test_merge_export_and_prune(forest, tmp_path):
    a, b, out = tmp_path / "a", tmp_path / "b", tmp_path / "out.jsonl"
    other = grown(2, 6, 4, dtype=np.float32)
    for made in (record(forest, gain=1.5), record(forest, gain=2.5), record(other)):
        records.append(a, made)
    records.append(b, record(forest, gain=1.5))
    added, refused = records.merge(b, [a], tvm.__version__)
    assert (added, refused) == (2, [])
    assert records.merge(b, [a], tvm.__version__) == (0, [])
    assert records.prune(b, tvm.__version__) == (2, 1)
    assert sorted(e.record.gain for e in records.read(b)) == [2.0, 2.5]
    assert records.export(a, out, tvm.__version__) == (2, [])
    assert sorted(e.record.gain for e in records.read(out)) == [2.0, 2.5]
    assert wp.compile(forest, tuning_logs=out).inspect()["tuning"]["gain"] == 2.5
    path = records.log_path(b, record(forest))
    path.write_text("rubbish\n")
    assert records.prune(b, tvm.__version__) == (0, 1)
    assert not path.exists()
    with pytest.raises(InputError, match="no folder or file"):
        records.merge(b, [tmp_path / "nothing"], tvm.__version__)


def test_logs_are_found_in_their_order(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.setenv(logs.VARIABLE, f"{here}:{there}:{tmp_path / 'absent'}")
    monkeypatch.setattr(logs, "shipped", shipped)
    assert logs.find() == [("user", here), ("user", there), ("shipped", shipped())]
    assert logs.find(there) == [("user", there), ("shipped", shipped())]
    assert logs.find([]) == []
    monkeypatch.setenv(logs.VARIABLE, ":")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert logs.user_folders() == [tmp_path / "woodpecker" / "tuning_logs"]
    monkeypatch.delenv(logs.VARIABLE)
    (tmp_path / "woodpecker" / "tuning_logs").mkdir(parents=True)
    assert logs.find()[0] == ("user", tmp_path / "woodpecker" / "tuning_logs")
    assert (shipped() / "README.md").is_file()
    for wrong in (3, [3], tmp_path / "absent"):
        with pytest.raises(InputError):
            logs.find(wrong)


def test_compile_uses_the_record_of_the_forest_then_of_its_class_then_of_a_near_one(forest, tmp_path):
    shape = shape_class(canonicalise(forest))
    near = dataclasses.replace(shape, trees=shape.trees + 2)
    other = {"digest": "0" * 32}
    X = rows(forest, 300, dtype="float32")
    found = []
    for made in (
        record(forest, plan=(WALK,), shape=dataclasses.replace(shape, leaf="vector"), **other),
        record(forest, plan=(WALK,), shape=near, gain=9.0, **other),
        record(forest, plan=(WALK, HEAP), gain=8.0, **other),
        record(forest, plan=({**HEAP, "min_rows": 0},), gain=1.1),
    ):
        records.append(tmp_path, made)
        model = wp.compile(forest, tuning_logs=tmp_path)
        assert_bits_equal(model.predict_raw(X), reference.predict_raw(forest, X))
        found.append((model.inspect()["tuning"]["from"], steps(model)))
    default = steps(wp.compile(forest, tuning_logs=[]))
    assert found == [
        ("defaults", default),
        ("a model of a near shape class", [(0, "tree_traversal")]),
        ("a model of its shape class", [(0, "tree_traversal"), (3, "perfect_tree_traversal")]),
        ("this model", [(0, "perfect_tree_traversal")]),
    ]
    named = wp.compile(forest, strategy="gemm", tuning_logs=tmp_path)
    assert named.inspect()["tuning"] is None
    assert "tuned on this model" in model.inspect()["plan"][0]["reason"]
    assert "by a record (user) of this model: a forest" in summary(model.inspect()["tuning"])


def test_where_another_model_gained_nothing_the_forests_own_default_stays(forest, tmp_path):
    """The default of that one is an estimate for other trees; a record farther away knows less still."""
    shape = shape_class(canonicalise(forest))
    other = {"digest": "0" * 32}
    records.append(tmp_path, record(forest, shape=dataclasses.replace(shape, trees=shape.trees + 2), gain=9.0, **other))
    records.append(tmp_path, record(forest, plan=(WALK,), gain=1.0, model="a model like it", **other))
    model = wp.compile(forest, tuning_logs=tmp_path)
    assert steps(model) == steps(wp.compile(forest, tuning_logs=[]))
    assert model.inspect()["tuning"] == {
        "from": "defaults",
        "skipped": ["a model like it: no plan was faster there than the default"],
    }
    records.append(tmp_path, record(forest, plan=(WALK,), gain=1.0))  # of this very forest: measured, so it counts
    assert steps(wp.compile(forest, tuning_logs=tmp_path)) == [(0, "tree_traversal")]


def test_of_two_records_the_greater_gain_counts_and_the_users_before_the_shipped(forest, tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "shipped", lambda: tmp_path / "shipped")
    records.append(tmp_path / "shipped", record(forest, gain=5.0))
    for gain in (1.5, 3.0, 2.0):
        records.append(tmp_path / "user", record(forest, gain=gain))
    assert wp.compile(forest, tuning_logs=tmp_path / "user").inspect()["tuning"]["gain"] == 3.0
    monkeypatch.setenv(logs.VARIABLE, str(tmp_path / "none"))
    tuning = wp.compile(forest).inspect()["tuning"]
    assert (tuning["gain"], tuning["logs"]) == (5.0, "shipped")


@pytest.mark.parametrize(
    ("plan", "reason"),
    [
        (({**WALK, "strategy": "magic"},), "must name a strategy"),
        (({**WALK, "options": {"trees": 99}},), "trees of strategy 'tree_traversal' must be an integer from 0 to 32"),
        (({**WALK, "options": {"speed": 9}},), "has no option 'speed'"),
        (({**WALK, "min_rows": 3},), "must ascend from 0"),
        ((WALK, {**HEAP, "min_rows": 0}), "must ascend from 0"),
        ((WALK, {**HEAP, "min_rows": True}), "must ascend from 0"),
        ((WALK, {**HEAP, "min_rows": 513}), "from 0 to at most 512"),
        ((WALK, {**HEAP, "min_rows": 2**70}), "from 0 to at most 512"),
        ((), "1 to 4 steps"),
    ],
)
def test_a_record_that_does_not_apply_is_skipped_with_the_reason(plan, reason, forest, tmp_path):
    records.append(tmp_path, record(forest, plan=plan))
    tuning = wp.compile(forest, tuning_logs=tmp_path).inspect()["tuning"]
    assert tuning["from"] == "defaults"
    assert reason in tuning["skipped"][0]


def test_a_strategy_that_refuses_this_forest_leaves_the_next_record(tmp_path):
    chain = FORESTS["chain"]()
    records.append(tmp_path, record(chain, plan=({**HEAP, "min_rows": 0},), gain=3.0))
    records.append(tmp_path, record(chain, plan=(WALK,), gain=2.0))
    tuning = wp.compile(chain, tuning_logs=tmp_path).inspect()["tuning"]
    assert tuning["gain"] == 2.0
    assert "would be padded" in tuning["skipped"][0]


def test_records_of_another_target_do_not_count(forest, tmp_path):
    records.append(tmp_path, record(forest, target=target_key(resolve("x86-64-v2"))))
    assert wp.compile(forest, tuning_logs=tmp_path).inspect()["tuning"] == {"from": "defaults", "skipped": []}
    assert wp.compile(forest, target="x86-64-v2", tuning_logs=tmp_path).inspect()["tuning"]["from"] == "this model"
    cores = dataclasses.replace(target_key(resolve("llvm")), cores=99)
    path = records.append(tmp_path, record(forest, target=cores))
    assert wp.compile(forest, tuning_logs=tmp_path).inspect()["tuning"]["from"] == "this model"
    assert wp.compile(forest, tuning_logs=path).inspect()["tuning"]["from"] == "this model"


@pytest.mark.full
def test_each_cpu_level_has_a_record_of_its_own(forest, tmp_path, monkeypatch):
    v2, v3 = (target_key(resolve(name)) for name in ("x86-64-v2", "x86-64-v3"))
    scanned = ({**WALK, "options": {}}, {"min_rows": 20, "strategy": "scan", "options": {}})
    records.append(tmp_path / "logs", record(forest, target=v2, plan=(WALK,), gain=2.0))
    records.append(tmp_path / "logs", record(forest, target=v3, plan=scanned, gain=3.0))
    canonical = canonicalise(forest)
    levels, _ = make_levels(canonical, resolve_levels("x86-64"), "auto", {}, tmp_path / "logs")
    assert [level.tuning.get("gain") for level in levels] == [2.0, 3.0, None]
    found = [[(step.min_rows, step.strategy) for step in level.plan] for level in levels]
    assert found[:2] == [[(0, "tree_traversal")], [(0, "tree_traversal"), (20, "scan")]]
    assert levels[2].plan == make_plan(canonical, "auto", {}, levels[2].target.features)
    named, _ = make_levels(canonical, resolve_levels("x86-64"), "gemm", {}, tmp_path / "logs")
    assert [level.tuning for level in named] == [None, None, None]

    wp.compile(forest, target=["x86-64-v2", "x86-64-v3"], tuning_logs=tmp_path / "logs").save(tmp_path / "m.so")
    X = rows(forest, 300, dtype="float32")
    for level in levels[:2]:
        if level.target.native:
            monkeypatch.setenv(machine.LEVEL_VARIABLE, level.target.name)
            loaded = wp.load(tmp_path / "m.so")
            assert loaded.inspect()["tuning"] == level.tuning
            for n in (1, 30, 300):
                assert_bits_equal(loaded.predict_raw(X[:n]), reference.predict_raw(forest, X[:n]))


def test_the_artifact_says_what_it_was_tuned_by(forest, tmp_path):
    records.append(tmp_path / "logs", record(forest))
    wp.compile(forest, tuning_logs=tmp_path / "logs").save(tmp_path / "model.so")
    tuning = wp.load(tmp_path / "model.so").inspect()["tuning"]
    assert tuning["from"] == "this model"
    assert str(tmp_path) not in json.dumps(tuning)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d["plan"][0].update(options=None), "options"),
        (lambda d: d["plan"][0].update(min_rows=float("nan")), "no NaN"),
        (lambda d: d["ns_per_row"].update({"16": float("inf")}), "no Infinity"),
        (lambda d: d["ns_per_row"].update({"16": "fast"}), "numbers"),
        (lambda d: d.update(model="\ud800"), "surrogates"),
    ],
    ids=["options", "nan", "infinity", "text", "surrogate"],
)
def test_a_line_that_could_not_be_written_again_is_refused(forest, tmp_path, edit, message):
    path = tmp_path / "one.jsonl"
    data = record(forest).to_json()
    data["plan"] = [dict(step) for step in data["plan"]]
    edit(data)
    path.write_text(json.dumps(data) + "\n")
    (entry,) = records.read_file(path)
    assert entry.record is None and message in entry.refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is damaged: Expecting property name"),
        ('{"a": -Infinity}', "is damaged: there is no -Infinity in JSON"),
        ('[{"a": 1, "b": {}, "a": 1}]', "is damaged: the key 'a' stands there twice"),
        ("[1e999]", "is damaged: the number 1e999 is beyond a float64"),
        ("[" * 10_000, "is damaged: maximum recursion depth"),
        ("\udcff", "is damaged: 'utf-8' codec can't decode"),
    ],
)
def test_what_is_no_json_is_refused_and_the_file_named(tmp_path, content, message):
    path = tmp_path / "x.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=f"x.json {message}"):
        strict_json.read(path)
    path.write_text('{"a": [1.5, -1e-400, 3]}')
    assert strict_json.read(path) == {"a": [1.5, 0.0, 3]}


def test_pipes_among_logs_are_not_read(forest, tmp_path):
    os.makedirs(tmp_path / "x")
    os.mkfifo(tmp_path / "x" / "a.jsonl")
    assert records.read(tmp_path) == []
