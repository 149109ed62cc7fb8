"""How models arrive: by object, by protocol, by registration, by entry point, by file."""

from __future__ import annotations

import importlib.metadata
import pickle
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from woodpecker import reference
from woodpecker.errors import InputError, InvalidModelError, UnsupportedModelError, WoodpeckerError
from woodpecker.forest import Forest
from woodpecker.frontend import SupportsForest, protocol, register_frontend, to_forest

EXAMPLE = Path(__file__).parents[1] / "examples" / "third_party_library.py"


def stump(value: float = 1.0) -> Forest:
    tree = {"feature": 0, "op": "<", "threshold": 0.5, "left": {"value": -value}, "right": {"value": value}}
    return Forest.from_nested([tree], 2)


class Plain:
    pass


class Child(Plain):
    pass


class Speaks:
    def __woodpecker_forest__(self) -> Forest:
        return stump(2.0)


@pytest.fixture(autouse=True)
def _no_registrations(monkeypatch):
    monkeypatch.setattr(protocol, "_registered", {})
    protocol._entry_points.cache_clear()
    yield
    protocol._entry_points.cache_clear()


def value(forest: Forest) -> float:
    return float(reference.predict_raw(forest, np.ones((1, 2)))[0, 0])


def test_a_forest_is_itself():
    forest = stump()
    assert to_forest(forest) is forest


def test_a_broken_forest_is_refused():
    import dataclasses

    broken = dataclasses.replace(stump(), left=np.array([0, 0, 0], np.int32))
    with pytest.raises(InvalidModelError, match="tree 0, node 0"):
        to_forest(broken)


def test_the_protocol():
    assert isinstance(Speaks(), SupportsForest)
    assert not isinstance(Plain(), SupportsForest)
    assert value(to_forest(Speaks())) == 2.0


def test_a_class_is_not_a_model():
    with pytest.raises(UnsupportedModelError, match="Speaks is a class: pass a trained model"):
        to_forest(Speaks)


@pytest.mark.parametrize("key", [Plain, f"{__name__}.Plain"])
def test_registration_covers_subclasses(key):
    register_frontend(key, lambda model: stump(3.0))
    assert value(to_forest(Plain())) == 3.0
    assert value(to_forest(Child())) == 3.0


def test_the_nearest_base_decides_and_the_last_registration_wins():
    register_frontend(Plain, lambda model: stump(3.0))
    register_frontend(Child, lambda model: stump(4.0))
    register_frontend(Child, lambda model: stump(5.0))
    assert value(to_forest(Child())) == 5.0
    assert value(to_forest(Plain())) == 3.0


def test_registration_precedes_the_method():
    register_frontend(Speaks, lambda model: stump(6.0))
    assert value(to_forest(Speaks())) == 6.0


def test_options_reach_a_registered_function_only_where_given():
    seen = []

    def function(model, **options):
        seen.append(options)
        return stump()

    register_frontend(Plain, function)
    to_forest(Plain())
    to_forest(Plain(), missing=-1, iteration_range=(np.int64(0), 2))
    assert seen == [{}, {"missing": -1.0, "iteration_range": (0, 2)}]


@pytest.mark.parametrize("model", [stump(), Speaks()], ids=["forest", "protocol"])
@pytest.mark.parametrize("options", [{"missing": 0.0}, {"iteration_range": (0, 1)}], ids=["missing", "range"])
def test_options_that_would_be_ignored_are_refused(model, options):
    with pytest.raises(InputError, match=next(iter(options))):
        to_forest(model, **options)


@pytest.mark.parametrize("bad", [(1,), (1, 2, 3), 5, "ab", (0.5, 2), (0, float("inf"))])
def test_wrong_iteration_range(bad):
    with pytest.raises(InputError, match="two integers"):
        to_forest(stump(), iteration_range=bad)


def test_wrong_missing():
    with pytest.raises(InputError, match="missing must be a number"):
        to_forest(stump(), missing="NA")


@pytest.mark.parametrize(
    ("key", "function", "message"),
    [
        (Plain(), stump, "a class or its qualified name"),
        ("Plain", stump, "not a qualified name"),
        ("a..b", stump, "not a qualified name"),
        ("a.b c", stump, "not a qualified name"),
        (object, stump, "object cannot have"),
        (Forest, stump, "Forest cannot have"),
        (Plain, "stump", "needs a function"),
    ],
)
def test_wrong_registrations(key, function, message):
    with pytest.raises(UnsupportedModelError, match=message):
        register_frontend(key, function)
    assert not protocol._registered


def test_a_frontend_that_returns_something_else():
    register_frontend(Plain, lambda model: {"trees": []})
    with pytest.raises(InvalidModelError, match="returned dict, expected"):
        to_forest(Plain())


def test_a_frontends_own_error_passes():
    def function(model):
        raise KeyError("its own")

    register_frontend(Plain, function)
    with pytest.raises(KeyError, match="its own"):
        to_forest(Plain())


def entry_points(monkeypatch, value: str) -> None:
    entry = importlib.metadata.EntryPoint(f"{__name__}.Plain", value, protocol.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry])
    protocol._entry_points.cache_clear()


def entry_point_function(model: Plain) -> Forest:
    return stump(7.0)


def test_entry_points(monkeypatch):
    entry_points(monkeypatch, f"{__name__}:entry_point_function")
    assert value(to_forest(Child())) == 7.0


@pytest.mark.parametrize("target", ["no_such_module:f", f"{__name__}:no_such_name", f"{__name__}:EXAMPLE"])
def test_a_broken_entry_point(monkeypatch, target):
    entry_points(monkeypatch, target)
    with pytest.raises(UnsupportedModelError, match="frontend"):
        to_forest(Plain())


@pytest.mark.parametrize("thing", [None, 5, b"bytes", [1], Plain(), np.zeros(3)])
def test_unknown_things(thing):
    with pytest.raises(UnsupportedModelError, match="not a model that woodpecker knows"):
        to_forest(thing)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was opened",))


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("m.pkl", pickle.dumps(Trap()), UnsupportedModelError, "looks like a pickle"),
        ("m.txt", pickle.dumps(Trap()), UnsupportedModelError, "looks like a pickle"),
        ("m.joblib", b"\x78\x9c", UnsupportedModelError, "looks like a pickle"),
        ("m.txt", b"", UnsupportedModelError, "is empty"),
        ("m.so", b"\x7fELF\x02\x01", UnsupportedModelError, "woodpecker.load"),
        ("m.model", b"binf\0\0", UnsupportedModelError, "old binary format"),
        ("m.json", b'[{"nodeid": 0}]', UnsupportedModelError, "text dump"),
        ("m.json", b'{"name":"tree","version":"v4"}', UnsupportedModelError, "dump_model"),
        ("m.txt", b"Tree=0\n", UnsupportedModelError, "not a model file"),
        ("m.onnx", b"\x08\x07\x12", UnsupportedModelError, "not a model file"),
        ("m.json", b'{"learner":', InvalidModelError, None),
        ("m.json", b"{}", InvalidModelError, None),
        ("m.ubj", b"{L\0\0\0\0\0\0\0\x07learner", InvalidModelError, None),
        ("m.txt", b"tree\nversion=v4\n", InvalidModelError, None),
    ],
)
def test_files_that_are_no_models(tmp_path, name, content, error, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(error, match=message):
        to_forest(path)


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(InvalidModelError, match="there is no file"):
        to_forest(tmp_path / "none.json")
    with pytest.raises(InvalidModelError, match="is a directory"):
        to_forest(str(tmp_path))
    with pytest.raises(InvalidModelError, match="not a regular file"):
        to_forest("/dev/zero")
    for path in ("a\0b", "x" * 100_000):
        with pytest.raises(InvalidModelError, match="cannot be read") as caught:
            to_forest(path)
        assert len(str(caught.value)) < 200


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(seed).normal(size=(60, 3))
    return X, X[:, 0] + (X[:, 1] > 0)


def test_xgboost_by_content_whatever_the_suffix(tmp_path):
    xgb = pytest.importorskip("xgboost")
    X, y = data()
    model = xgb.train({"max_depth": 2, "nthread": 1}, xgb.DMatrix(X, y), 3)
    want = model.predict(xgb.DMatrix(X), output_margin=True)
    assert np.array_equal(reference.predict_raw(to_forest(model), X)[:, 0], want)
    for kind in ("json", "ubj"):
        path = tmp_path / f"{kind}.bin"
        path.write_bytes(bytes(model.save_raw(kind)))
        assert np.array_equal(reference.predict_raw(to_forest(path), X)[:, 0], want)
        assert to_forest(str(path), iteration_range=(0, 2)).n_trees == 2


def test_lightgbm_by_content_whatever_the_suffix(tmp_path):
    lgb = pytest.importorskip("lightgbm")
    X, y = data()
    model = lgb.train({"num_threads": 1, "verbose": -1, "min_data_in_leaf": 2}, lgb.Dataset(X, y), 3)
    path = tmp_path / "m.json"
    model.save_model(path)
    want = model.predict(X, raw_score=True)
    for source in (model, path, str(path)):
        assert np.array_equal(reference.predict_raw(to_forest(source), X)[:, 0], want)


def test_sklearn_and_what_only_looks_like_it():
    sklearn_tree = pytest.importorskip("sklearn.tree")
    from sklearn.base import BaseEstimator

    X, y = data()
    model = sklearn_tree.DecisionTreeRegressor(max_depth=3).fit(X, y)
    assert np.array_equal(reference.predict_raw(to_forest(model), X)[:, 0], model.predict(X))

    class Mine(BaseEstimator):
        pass

    with pytest.raises(WoodpeckerError):
        to_forest(Mine())


def test_no_library_is_imported_to_tell_what_a_model_is():
    code = """
import sys
from woodpecker.errors import WoodpeckerError
from woodpecker.frontend import to_forest
class Fake: pass
for module in ("theirs", "__main__"):
    Fake.__module__ = module
    try:
        to_forest(Fake())
    except WoodpeckerError:
        pass
    else:
        raise SystemExit("accepted")
loaded = {"xgboost", "lightgbm", "sklearn", "pandas", "scipy", "tvm", "narwhals", "torch"} & set(sys.modules)
raise SystemExit(f"imported {loaded}" if loaded else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_example_of_a_third_party_library():
    example = runpy.run_path(str(EXAMPLE))
    X = np.random.default_rng(1).normal(size=(80, 3))
    X[::7, 1] = np.nan
    model = example["TinyBoost"]().fit(np.nan_to_num(X), X[:, 0] ** 2, rounds=5)
    got = reference.predict_raw(to_forest(model), X)[:, 0]
    assert np.array_equal(got.view(np.uint64), model.predict(X).view(np.uint64))
    assert example["main"]() == 0
