"""Links: each against its formula with correctly rounded functions, and all methods against the libraries'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import woodpecker as wp
from woodpecker.errors import InputError, InvalidModelError, UnsupportedModelError
from woodpecker.forest import Forest, Method
from woodpecker.nested import from_nested
from woodpecker.relay_ops.link import LINKS, POST_TRANSFORMS, ULP_BOUND

from .gallery import FORESTS, compiled, leaf, rows, split
from .support import assert_bits_equal

ARGS = {
    "lgb_sigmoid": {"sigmoid": 0.7312345678},
    "lgb_ova": {"sigmoid": 1.3},
    "isolation_score": {"denominator": 7.123456789},
}


def ordinal(a: np.ndarray) -> np.ndarray:
    """Integers in the order of the floats; neighbours differ by one, and -0.0 is 0.0."""
    raw = a.view({4: np.int32, 8: np.int64}[a.itemsize]).astype(object)
    top = 2 ** (8 * a.itemsize - 1)
    return np.where(np.signbit(a), -(raw + top), raw)


def ulps(got: np.ndarray, want: np.ndarray) -> int:
    """The largest distance in units in the last place; NaN and infinities must agree."""
    assert got.dtype == want.dtype and got.shape == want.shape, f"{got.dtype}{got.shape}, {want.dtype}{want.shape}"
    np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
    finite = np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite])
    if not finite.any():
        return 0
    return int(np.abs(ordinal(got[finite].reshape(-1)) - ordinal(want[finite].reshape(-1))).max())


def rounded(function: Any, *x: np.ndarray) -> np.ndarray:
    """A function computed with a 64-bit significand and rounded once."""
    return function(*(np.asarray(v, np.longdouble) for v in x)).astype(x[0].dtype)


def formula(name: str, x: np.ndarray) -> np.ndarray:
    """The library's formula in the dtype of x, its functions correctly rounded."""
    d = x.dtype.type
    args = ARGS.get(name, {})
    one = d(1)
    match name:
        case "sigmoid" | "lgb_sigmoid" | "lgb_ova":
            return one / (one + rounded(np.exp, d(-args.get("sigmoid", 1.0)) * x))
        case "sk_sigmoid2":
            return one / (one + rounded(np.exp, -(d(2) * x)))
        case "xgb_sigmoid":
            return one / (rounded(np.exp, np.minimum(-x, d(88.7))) + one + d(1e-16))
        case "log_sigmoid":
            return np.minimum(x, d(0)) - rounded(np.log1p, rounded(np.exp, -np.abs(x)))
        case "exp":
            return rounded(np.exp, x)
        case "lgb_cross_entropy_lambda":
            return rounded(np.log1p, rounded(np.exp, x))
        case "xgb_hinge":
            return (x > 0).astype(x.dtype)
        case "lgb_sqrt":
            return np.sign(x) * x * x
        case "isolation_score":
            return -rounded(np.exp2, -(x / d(args["denominator"])))
        case "argmax":
            return x.argmax(1).astype(x.dtype)[:, None]
        case "xgb_sort":
            return np.sort(x, axis=1)
    shifted = x - x.max(1, keepdims=True)
    e = rounded(np.exp, shifted)
    total = np.zeros((len(x), 1), np.float64 if name == "xgb_softmax" else x.dtype)
    for k in range(x.shape[1]):
        total += e[:, k : k + 1]
    total = total.astype(x.dtype)
    return shifted - rounded(np.log, total) if name == "log_softmax" else e / total


def scores(dtype: str, width: int) -> np.ndarray:
    """Raw scores over many magnitudes, signed zeros, denormals, ties and overflows of exp."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(3000, width)) * 10.0 ** rng.integers(-12, 3, (3000, 1))
    special = [0.0, -0.0, 1e-45, -1e-45, 1e-310, 1.0, -1.0, 88.7, -88.7, 88.8, 103.0, -103.9, 36.0, -36.7, 16.6, -17.3]
    special += [709.7, -709.7, -744.0, 745.2]
    x[:500] = rng.choice(special, (500, width))
    x[500:600] = x[500:600, :1]
    return x.astype(dtype)


def predictor_of(name: str, width: int, dtype: str, **more: Any) -> wp.Predictor:
    methods = {"predict": Method("value", name, {"squeeze": False, **ARGS.get(name, {}), **more})}
    return wp.compile(from_nested([], 1, n_outputs=width, dtype=dtype, methods=methods), strategy="tree_traversal")


def linked(predictor: wp.Predictor, x: np.ndarray) -> np.ndarray:
    return predictor._linked(predictor._program.manifest["methods"]["predict"]["link"], x)


ROWWISE = [n for n in LINKS if "softmax" in n or n in ("argmax", "xgb_sort")]


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="needs a long double wider than float64")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", LINKS)
def test_links_to_two_ulp(name, dtype):
    widths = (2, 5) if name in ROWWISE else (1,)
    for width in widths:
        x = scores(dtype, width)
        with np.errstate(all="ignore"):
            want = formula(name, x)
        got = linked(predictor_of(name, width, dtype), x)
        assert len(np.unique(want)) > (1 if name in ("xgb_hinge", "argmax") else 100)
        assert ulps(got, want) <= ULP_BOUND


@pytest.mark.parametrize("name", ["exp", "softmax", "argmax", "identity"])
def test_division_before_the_link(name):
    x = scores("float64", 3)
    got = linked(predictor_of(name, 3, "float64", divide=7), x)
    with np.errstate(all="ignore"):
        want = x / 7.0 if name == "identity" else formula(name, x / 7.0)
    assert ulps(got, want) <= ULP_BOUND


def test_ulps_can_fail():
    a = np.array([1.0, -0.0, 3.0])
    assert ulps(a, a) == 0 and ulps(np.array([0.0]), np.array([-0.0])) == 0
    assert ulps(np.nextafter(np.nextafter(a, 9), 9), a) == 2
    assert ulps(np.array([5e-324]), np.array([-5e-324])) == 2
    with pytest.raises(AssertionError):
        ulps(np.array([np.inf]), np.array([1.7e308]))


def test_softmax_rows_are_distributions():
    x = scores("float64", 5)[600:]
    for name in ("softmax", "sk_softmax", "xgb_softmax", "lgb_softmax"):
        p = linked(predictor_of(name, 5, "float64"), x)
        assert (p >= 0).all() and np.abs(p.sum(1) - 1).max() < 1e-15 * 5


def test_argmax_takes_the_first_of_equals():
    x = np.array([[1.0, 1.0, 0.5], [0.0, -0.0, -1.0], [-0.0, 0.0, 0.0], [-np.inf, -np.inf, -np.inf], [1.0, 2.0, 2.0]])
    assert linked(predictor_of("argmax", 3, "float64"), x)[:, 0].tolist() == [0, 0, 0, 0, 1]


def test_links_of_rows_past_a_block_and_of_slices():
    predictor = predictor_of("softmax", 5, "float32")
    x = scores("float32", 5)
    whole = linked(predictor, x)
    for n in (1, 63, 64, 65, 129):
        assert_bits_equal(linked(predictor, x[:n]), whole[:n])


@pytest.fixture
def forest() -> Forest:
    return FORESTS["outputs"]()


class TestPostTransform:
    @pytest.mark.parametrize("name", POST_TRANSFORMS)
    def test_names(self, forest, name):
        X = rows(forest, 200, 1, "float32")
        predictor = wp.compile(forest, strategy="tree_traversal", post_transform=name)
        raw = predictor.predict_raw(X)
        got = predictor.predict(X)
        if name == "none":
            assert_bits_equal(got, raw)
            return
        with np.errstate(all="ignore"):
            assert ulps(got, formula(name, raw)) <= ULP_BOUND

    def test_callable(self, forest):
        X = rows(forest, 50, 1, "float32")
        predictor = wp.compile(forest, strategy="tree_traversal", post_transform=lambda raw: raw.sum(1) * 2)
        np.testing.assert_array_equal(predictor.predict(X), predictor.predict_raw(X).sum(1) * 2)

    def test_unknown(self, forest):
        with pytest.raises(InputError, match="unknown post_transform 'tanh'; known: none, sigmoid, softmax"):
            wp.compile(forest, post_transform="tanh")

    def test_unknown_link_of_a_method(self):
        forest = from_nested([leaf(1.0)], 1)
        with pytest.raises((InvalidModelError, UnsupportedModelError), match="tanh"):
            wp.compile(forest.replace(methods={"predict": Method("value", "tanh")}))


def test_labels_and_probabilities_of_a_classifier_of_any_dtype():
    for classes in (np.array(["no", "yes"]), np.array([-3, 7]), np.array([False, True]), np.array([0.5, 1.5])):
        methods = {"predict": Method("label", "sigmoid"), "predict_proba": Method("proba", "sigmoid")}
        tree = split(0, 0.0, leaf(-1.0), leaf(1.0))
        predictor = wp.compile(from_nested([tree], 1, methods=methods, classes=(classes,)), strategy="gemm")
        X = np.array([[-1.0], [1.0], [np.nan]])
        got = predictor.predict(X)
        assert got.dtype == classes.dtype and got.tolist() == classes[[0, 1, 1]].tolist()
        assert predictor.predict_proba(X).shape == (3, 2) and predictor.classes_.tolist() == classes.tolist()


def parts(result: Any) -> list[np.ndarray]:
    return [np.asarray(r) for r in result] if isinstance(result, list) else [np.asarray(result)]


def distance(got: Any, want: Any) -> int:
    """Largest distance in ULP over all parts of a result; labels and dtypes must be equal."""
    assert len(parts(got)) == len(parts(want))
    worst = 0
    for a, b in zip(parts(got), parts(want), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        if b.dtype.kind == "f":
            worst = max(worst, ulps(np.ascontiguousarray(a), np.ascontiguousarray(b)))
        else:
            np.testing.assert_array_equal(a, b)
    return worst


def sample(module: str, library: str, wanted: Any) -> list[Any]:
    try:
        __import__(library)
        zoo = __import__(f"tests.{module}", fromlist=["CASES"]).CASES
    except ImportError:
        return []
    return [pytest.param(case, id=case.name) for case in zoo if wanted(case.name)]


XGB = (
    "classifier/",
    "regressor/logistic",
    "regressor/poisson",
    "ranker/rank:ndcg",
    "targets/one_output_per_tree-class",
)
LGB = (
    "classifier-",
    "gbdt-binary",
    "gbdt-cross_entropy",
    "gbdt-poisson",
    "gbdt-sqrt",
    "gbdt-multiclass",
    "gbdt-sigmoid",
)
SKL = ("RandomForestClassifier-c3-10", "ExtraTreesClassifier-multi", "IsolationForest", "DecisionTreeClassifier-str")
SKL += ("GradientBoostingClassifier", "HistGradientBoostingClassifier", "HistGradientBoostingRegressor")


NUMPY_EXP32 = 3
"""ULP by which numpy's own float32 exp is off where it is vectorised; XGBoost's wrapper calls it for multi:softmax."""


def check_methods(model: Any, predictor: wp.Predictor, X: np.ndarray, call: dict[str, Any]) -> None:
    assert "predict" in call
    manifest = predictor._program.manifest
    for name, function in call.items():
        method = manifest["methods"][name]
        got, want = getattr(predictor, name)(X), function(X)
        if "subtract" in method["args"] and method["kind"] == "value":
            # A difference of two scores: the bound is that of the score.
            offset = want.dtype.type(method["args"]["subtract"])
            assert np.abs(got - want).max() <= ULP_BOUND * np.spacing(np.abs(want + offset).max()), name
            continue
        by_numpy = method["link"] is not None and manifest["links"][method["link"]]["name"] == "softmax"
        slack = NUMPY_EXP32 if by_numpy and want.dtype == np.float32 else 0
        assert distance(got, want) <= ULP_BOUND + slack, name


@pytest.mark.parametrize("case", sample("zoo_xgboost", "xgboost", lambda name: name.startswith(XGB))[::2])
def test_methods_of_xgboost(case):
    model = case.make()
    predictor = compiled(wp.from_model(model), "tree_traversal")
    X = np.random.default_rng(4).normal(size=(500, predictor.n_features_in_)).astype(np.float32)
    methods = [m for m in ("predict", "predict_proba") if hasattr(predictor, m)]
    check_methods(model, predictor, X, {m: getattr(model, m) for m in methods})


@pytest.mark.parametrize("case", sample("zoo_lightgbm", "lightgbm", lambda name: name.startswith(LGB)))
def test_methods_of_lightgbm(case):
    from .zoo_lightgbm import rows as training_rows

    model = case.make()
    predictor = compiled(wp.from_model(model), "tree_traversal")
    X = training_rows(11)
    methods = [m for m in ("predict", "predict_proba") if hasattr(predictor, m)]
    check_methods(model, predictor, X, {m: getattr(model, m) for m in methods})


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "case", sample("zoo_sklearn", "sklearn", lambda name: name.startswith(SKL) and "strings" not in name)[::7]
)
def test_methods_of_sklearn(case):
    model = case.make()
    forest = wp.from_model(model)
    predictor = compiled(forest, "tree_traversal")
    X = np.random.default_rng(4).normal(size=(400, predictor.n_features_in_))
    check_methods(model, predictor, X, {m: getattr(model, m) for m in forest.methods})


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Method("value", "isolation_score"), "needs the argument 'denominator'"),
        (Method("value", "isolation_score", {"denominator": 0.0}), "'denominator' of link 'isolation_score' must be"),
        (Method("value", "lgb_sigmoid", {"sigmoid": 10**400}), "'sigmoid' of link 'lgb_sigmoid' must be"),
        (Method("value", "lgb_sigmoid", {"sigmoid": "2"}), "'sigmoid' of link 'lgb_sigmoid' must be"),
        (Method("value", "identity", {"divide": True}), "'divide' of link 'identity' must be"),
        (Method("value", "logistic"), "unknown link 'logistic'; known: identity, "),
    ],
)
def test_wrong_links_are_named(method, message):
    with pytest.raises(UnsupportedModelError, match=message):
        wp.compile(from_nested([{"value": 1.0}], 1, methods={"predict": method}))


def test_arguments_of_links_may_be_numpy_scalars():
    forests = [
        from_nested([{"value": 1.5}], 1, methods={"predict": Method("value", "lgb_sigmoid", {"sigmoid": two})})
        for two in (2, np.float32(2), np.int64(2))
    ]
    scores = [wp.compile(forest).predict(np.zeros((1, 1))) for forest in forests]
    assert scores[0] == scores[1] == scores[2]
