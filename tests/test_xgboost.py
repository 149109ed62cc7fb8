"""XGBoost models: the interpreter against the library itself, over the zoo."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from woodpecker.errors import InputError, InvalidModelError, UnsupportedModelError
from woodpecker.forest import Forest
from woodpecker.frontend import xgboost as frontend
from woodpecker.reference import apply, cast, predict_raw
from woodpecker.runtime.outputs import KINDS

from .support import FULL_ROWS, assert_bits_equal, boundary_rows
from .zoo import Case

xgb = pytest.importorskip("xgboost")
from .zoo_xgboost import (  # noqa: E402
    CASES,
    CATEGORIES,
    FEATURES,
    VERSION,
    booster,
    estimator,
    estimator_raw,
    features,
    labels,
    matrix,
)


def ids(cases: list[Case]) -> list[Any]:
    return [pytest.param(case, id=case.name) for case in cases]


def check(case: Case, n: int) -> None:
    """Leaf ids and raw scores on ordinary rows and on rows at the thresholds, in both float dtypes."""
    model = case.make()
    forest = frontend.from_model(model, **dict(case.options))
    ordinary = np.random.default_rng(1).normal(size=(n // 4, forest.n_features))
    for dtype in case.dtypes:
        at_thresholds = boundary_rows(forest, n, 7, dtype, case.infinities)
        for X in (at_thresholds, ordinary.astype(dtype)):
            assert_bits_equal(predict_raw(forest, X), case.raw(model, X))
            np.testing.assert_array_equal(apply(forest, X), case.leaves(model, X).reshape(len(X), forest.n_trees))


@pytest.mark.parametrize("case", ids(CASES[::12]))
def test_sample_of_the_zoo(case):
    check(case, 500)


@pytest.mark.full
@pytest.mark.parametrize("case", ids(CASES))
def test_whole_zoo(case):
    check(case, FULL_ROWS)


def test_zoo_is_wide():
    assert len(CASES) >= 300
    assert len({case.name for case in CASES}) == len(CASES)


def assert_forests_equal(got: Forest, want: Forest, *, but: tuple[str, ...] = ()) -> None:
    for field in dataclasses.fields(Forest):
        a, b = getattr(got, field.name), getattr(want, field.name)
        if field.name in but:
            continue
        if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
            assert a.dtype == b.dtype and a.tobytes() == b.tobytes(), field.name
        else:
            assert repr(a) == repr(b), field.name


@pytest.mark.parametrize("case", ids(CASES[5::29]))
def test_live_json_and_ubj_are_one_forest(case, tmp_path):
    model = case.make()
    # An estimator's file loads as a Booster, which is what the files are compared with.
    source = model if isinstance(model, xgb.Booster) else model.get_booster()
    options = dict(case.options)
    live = frontend.from_model(source, **options)
    assert_forests_equal(frontend.from_model(source, **options), live)
    for suffix in ("json", "ubj"):
        path = tmp_path / f"model.{suffix}"
        source.save_model(path)
        assert_forests_equal(frontend.from_file(path, **options), live)
        assert_forests_equal(frontend.from_file(str(path), **options), live)
        assert_forests_equal(frontend.from_file(path.read_bytes(), **options), live)


def link(name: str, raw: np.ndarray) -> np.ndarray:
    """XGBoost's transforms in numpy, to within an ULP or two of the library's libm."""
    if name == "xgb_sigmoid":
        return np.float32(1) / (np.exp(np.minimum(-raw, np.float32(88.7))) + np.float32(1))
    if name in ("xgb_softmax", "softmax"):
        e = np.exp(raw - raw.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
    if name == "argmax":
        return raw.argmax(axis=1).astype(np.float32)[:, None]
    return {"identity": lambda r: r, "xgb_hinge": lambda r: (r > 0).astype(np.float32), "exp": np.exp}[name](raw)


def assert_methods_agree(model: Any, forest: Forest, X: np.ndarray, call: dict[str, Any]) -> None:
    assert set(forest.methods) == set(call)
    raw = predict_raw(forest, X)
    for name, rule in forest.methods.items():
        got = KINDS[rule.kind](link(rule.link, raw), forest.classes, rule.args)
        want = call[name](X)
        assert got.dtype == want.dtype and got.shape == want.shape, name
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-7, err_msg=name)


ESTIMATORS = [case for case in CASES if case.raw is estimator_raw]
BOOSTERS = [case for case in CASES if case not in ESTIMATORS]


@pytest.mark.parametrize("case", ids(ESTIMATORS))
def test_methods_of_estimators(case):
    model = case.make()
    X = np.random.default_rng(3).normal(size=(200, FEATURES)).astype(np.float32)
    call = {"predict": model.predict}
    if isinstance(model, xgb.XGBClassifier):
        call["predict_proba"] = model.predict_proba
    forest = frontend.from_model(model)
    assert_methods_agree(model, forest, X, call)
    if isinstance(model, xgb.XGBClassifier):
        np.testing.assert_array_equal(forest.classes[0], model.classes_)


@pytest.mark.parametrize("case", ids([case for case in BOOSTERS if case.name.endswith(("/plain", "/base", "-labels"))]))
def test_predict_of_boosters(case):
    model = case.make()
    X = np.random.default_rng(3).normal(size=(200, FEATURES)).astype(np.float32)
    forest = frontend.from_model(model)
    assert_methods_agree(model, forest, X, {"predict": lambda rows: model.predict(xgb.DMatrix(rows))})


def test_every_category_and_missing_case():
    """One split per kind, direction of missing values and set, and every code around the sets."""
    seen = set()
    for kind in ("category", "category_missing"):
        for onehot in (1, 100):
            case = booster(f"walk/{kind}{onehot}", 20, kind, tree_method="hist", max_cat_to_onehot=onehot, max_depth=4)
            model = case.make()
            forest = frontend.from_model(model)
            splits = forest.kind[forest.leaf < 0]
            sizes = np.diff(forest.set_offset)[forest.category_set[forest.leaf < 0]]
            seen |= set(zip(splits, forest.default_left[forest.leaf < 0], sizes > 1, strict=True))
            codes = np.concatenate([[-2, -1, -0.5, -0.0, 0.5, 0.99], np.arange(50)])
            codes = np.concatenate([codes, [2**24 - 2, 2**24 - 1, 2**24, 3e9, 1e30, np.inf, -np.inf, np.nan]])
            X = np.full((len(codes), FEATURES), np.nan, np.float32)
            for f in range(len(CATEGORIES)):
                X[:, f] = codes
                assert_bits_equal(predict_raw(forest, X), case.raw(model, X))
                np.testing.assert_array_equal(apply(forest, X), case.leaves(model, X))
    numeric, in_set = {(1, False), (1, True)}, {(3, d, many) for d in (False, True) for many in (False, True)}
    assert {(k, bool(d)) for k, d, _ in seen if k == 1} == numeric
    assert {(k, bool(d), bool(many)) for k, d, many in seen if k == 3} == in_set


def test_pruned_slots_are_dropped_but_counted():
    model = booster("pruned", tree_method="exact", gamma=2.0, max_depth=8, updater="grow_colmaker,prune").make()
    forest = frontend.from_model(model)
    stored = [int(tree["tree_param"]["num_nodes"]) for tree in _document(model)["trees"]]
    sizes = np.diff(forest.tree_offset)
    assert (sizes < stored).any()
    assert (np.maximum.reduceat(forest.leaf_id, forest.tree_offset[:-1]) >= sizes).any()


def _document(model: Any) -> Any:
    import json

    return json.loads(bytes(model.save_raw("json")))["learner"]["gradient_booster"]["model"]


def test_missing_option_and_estimators_own():
    case = estimator("own", xgb.XGBRegressor, "value", "sentinel", missing=-1.0)
    model = case.make()
    assert frontend.from_model(model).missing_value == -1.0
    assert frontend.from_model(model, missing=7.0).missing_value == 7.0
    assert np.isnan(frontend.from_model(model.get_booster()).missing_value)
    tenth = frontend.from_model(model, missing=0.1)
    assert np.isnan(cast(tenth, np.array([[0.1] * FEATURES]))).all()


def own_logistic(y: np.ndarray, margin: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p = 1 / (1 + np.exp(-margin))
    return p - y, p * (1 - p)


def test_custom_objective_and_reloaded_estimators(tmp_path):
    X = features("dense", 0)
    model = xgb.XGBClassifier(n_estimators=3, max_depth=2, objective=own_logistic, n_jobs=1)
    model.fit(X, labels("binary", X, 0).astype(int))
    calls = {"predict": model.predict, "predict_proba": model.predict_proba}
    assert_methods_agree(model, frontend.from_model(model), X, calls)
    for name in ("classifier/softmax", "classifier/two-softprob", "classifier/logitraw"):
        original = next(case for case in CASES if case.name == name).make()
        original.save_model(tmp_path / "m.json")
        again = xgb.XGBClassifier()
        again.load_model(tmp_path / "m.json")
        calls = {"predict": again.predict, "predict_proba": again.predict_proba}
        assert_methods_agree(again, frontend.from_model(again), X, calls)


def test_sliced_boosters():
    model = booster("sliced", 8, booster="dart", rate_drop=0.5, objective="multi:softprob").make()[2:6]
    X = features("missing", 1)
    want = model.predict(xgb.DMatrix(X), output_margin=True)
    assert_bits_equal(predict_raw(frontend.from_model(model), X), want)


def test_integer_rows_are_cast_to_float32():
    model = booster("integers", kind="integer", max_depth=5).make()
    X = np.random.default_rng(0).integers(-5, 2**40, (100, FEATURES))
    want = model.inplace_predict(X, predict_type="margin").reshape(-1, 1)
    assert_bits_equal(predict_raw(frontend.from_model(model), X), want)


def test_feature_names_of_any_characters():
    names = ["a b", "é", '"quoted"\\', "\n", "=<[]", "{x}"]
    X = features("dense", 0)
    strange = xgb.DMatrix(X, labels("value", X, 0))
    try:
        strange.feature_names = names
    except ValueError:  # brackets and < are refused by most versions
        names[4:] = ["=", "{x}"]
        strange.feature_names = names
    model = xgb.train({"max_depth": 2, "verbosity": 0}, strange, 2)
    assert frontend.from_model(model).feature_names == tuple(names)
    assert frontend.from_file(model.save_raw("json")).feature_names == tuple(names)


@pytest.mark.skipif(VERSION < (3, 1), reason="XGBoost records categories from 3.1 on")
def test_recorded_categories():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(
        {
            "number": np.arange(40.0),
            "text": pandas.Categorical(list("zyx") * 13 + ["z"], categories=["z", "x", "y"]),
            "whole": pandas.Categorical([30, 10] * 20),
            "umlaut": pandas.Categorical(["ä", "bc"] * 20),
        }
    )
    model = xgb.XGBRegressor(n_estimators=2, max_depth=2, enable_categorical=True, n_jobs=1).fit(frame, np.arange(40))
    forest = frontend.from_model(model)
    assert forest.frame_categories == {1: ["z", "x", "y"], 2: [10, 30]}
    assert frontend.from_file(model.get_booster().save_raw("json")).frame_categories == forest.frame_categories
    assert forest.feature_names == ("number", "text", "whole", "umlaut")


def test_best_iteration_after_reloading(tmp_path):
    case = next(case for case in CASES if case.name == "early/class-gbtree")
    model = case.make()
    forest = frontend.from_model(model)
    assert forest.n_trees == 4 * (model.best_iteration + 1) < frontend.from_model(model.get_booster()).n_trees
    model.save_model(tmp_path / "m.ubj")
    again = xgb.XGBClassifier()
    again.load_model(tmp_path / "m.ubj")
    assert_forests_equal(frontend.from_model(again), forest)
    everything = frontend.from_model(model, iteration_range=(1, 3))
    assert everything.n_trees == 8


@pytest.mark.parametrize("rounds", [(0, 11), (-1, 2), (5, 3), (11, 0)])
def test_refuses_rounds_outside_of_the_model(rounds):
    model = booster("rounds", 10, max_depth=1).make()
    with pytest.raises(InputError, match="iteration_range"):
        frontend.from_model(model, iteration_range=rounds)


def test_refuses_gblinear():
    X = features("dense", 0)
    model = xgb.train({"booster": "gblinear", "verbosity": 0}, matrix(X, labels("value", X, 0)), 1)
    with pytest.raises(UnsupportedModelError, match="gblinear"):
        frontend.from_model(model)


def test_refuses_untrained_objects():
    for model in (xgb.Booster(), xgb.XGBClassifier(), xgb.XGBRegressor()):
        with pytest.raises(InvalidModelError, match="not trained"):
            frontend.from_model(model)


def test_refuses_other_objects():
    for other in (None, 3, object(), xgb.DMatrix):
        assert not frontend.matches(other)
        with pytest.raises(UnsupportedModelError, match="not an XGBoost model"):
            frontend.from_model(other)


def test_matches_subclasses():
    class Mine(xgb.XGBClassifier):
        pass

    assert frontend.matches(Mine()) and frontend.matches(xgb.Booster()) and frontend.matches(xgb.XGBRFRegressor())


def test_refuses_older_libraries(monkeypatch):
    monkeypatch.setattr(frontend, "MIN_VERSION", (99, 0, 0))
    with pytest.raises(UnsupportedModelError, match="older than 99"):
        frontend.from_model(booster("old", 1).make())


def test_never_imports_xgboost(tmp_path):
    booster("lazy", 2).make().save_model(tmp_path / "m.ubj")
    code = (
        "import sys; from woodpecker.frontend import xgboost as f; "
        f"assert f.from_file({str(tmp_path / 'm.ubj')!r}).n_trees == 2 and not f.matches(object()); "
        "assert not {'xgboost', 'sklearn', 'scipy', 'pandas', 'tvm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
