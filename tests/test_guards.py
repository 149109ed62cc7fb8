"""Wrong uses that would give wrong numbers, hang, or end in an error of no type."""

from __future__ import annotations

import dataclasses
import multiprocessing

import numpy as np
import pytest

import woodpecker as wp
from woodpecker.errors import InputError, InvalidModelError, StrategyError
from woodpecker.forest import Method, select_trees
from woodpecker.frontend import to_forest
from woodpecker.nested import from_nested
from woodpecker.relay_ops import bitslice, circuit
from woodpecker.verify import verify

from .gallery import grown, leaf, split
from .support import assert_bits_equal


def forest():
    return grown(1, 40, 4, n_features=4, dtype=np.float32)


def _predict_in_child(predictor, X, queue):
    queue.put(predictor.predict_raw(X))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_predicts_without_the_parents_threads():
    predictor = wp.compile(forest(), num_threads=4)
    X = np.random.default_rng(0).normal(size=(20_000, 4)).astype(np.float32)
    want = predictor.predict_raw(X)  # starts the parent's workers
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_predict_in_child, args=(predictor, X, queue))
    child.start()
    try:
        assert_bits_equal(queue.get(timeout=60), want)
    finally:
        child.kill()
        child.join()


def test_out_must_not_share_memory_with_the_rows():
    predictor = wp.compile(grown(2, 5, 3, n_features=1, dtype=np.float32))
    buffer = np.zeros((101, 1), np.float32)
    with pytest.raises(InputError, match="shares memory with X"):
        predictor.predict_raw(buffer[:-1], out=buffer[1:])


def wrapped(array, *names):
    """An object of no known library that has these methods of an array."""

    def passed(name):
        return lambda self, *args, **options: getattr(array, name)(*args, **options)

    return type("Wrapped", (), {name: passed(name) for name in names})()


def arrow(buffer):
    """A column over the buffer's first half."""
    pa = pytest.importorskip("pyarrow")
    return pa.array(buffer.reshape(-1)[: len(buffer)])


def csr(buffer):
    sparse = pytest.importorskip("scipy.sparse")
    indices = np.tile(np.arange(2, dtype=np.int32), len(buffer))
    return sparse.csr_matrix((buffer.reshape(-1), indices, np.arange(0, buffer.size + 1, 2, dtype=np.int32)))


OVERLAPPING = {
    "itself": lambda b: b,
    "reversed": lambda b: b[::-1, ::-1],
    "transposed": lambda b: b.reshape(2, -1).T,
    "masked": lambda b: np.ma.masked_array(b[::-1]),
    "big-endian": lambda b: b.view(">f8"),
    "integers": lambda b: b.view(np.int64),
    "__array__": lambda b: wrapped(b[::-1], "__array__"),
    "dlpack": lambda b: wrapped(b.reshape(2, -1).T, "__dlpack__", "__dlpack_device__"),
    "torch": lambda b: pytest.importorskip("torch").from_numpy(b.reshape(2, -1)).t(),
    "csr": csr,
    "pandas": lambda b: pytest.importorskip("pandas").DataFrame(b[::-1], copy=False),
    "polars": lambda b: pytest.importorskip("polars").DataFrame({k: arrow(b) for k in "xy"}),
    "pyarrow": lambda b: pytest.importorskip("pyarrow").table({k: arrow(b) for k in "xy"}),
}


@pytest.fixture(scope="module")
def two_columns():
    return wp.compile(grown(3, 5, 3, n_features=2, input_dtype="float64"))


@pytest.mark.parametrize("kind", OVERLAPPING)
def test_out_must_not_share_memory_with_rows_that_are_converted(kind, two_columns):
    buffer = np.random.default_rng(0).normal(size=(10_000, 2))
    X, out = OVERLAPPING[kind](buffer), buffer.reshape(-1)[:10_000, None]
    before = buffer.copy()
    with pytest.raises(InputError, match="shares memory with X"):
        two_columns.predict_raw(X, out=out)
    assert_bits_equal(buffer, before, "rows")


def test_out_may_be_memory_that_only_the_frames_library_reads(two_columns):
    pd = pytest.importorskip("pandas")
    buffer = np.random.default_rng(0).normal(size=(2, 10_000))
    want = two_columns.predict_raw(np.ascontiguousarray(buffer.T[::-1]))
    none = np.zeros(10_000, bool)
    X = pd.DataFrame({k: pd.arrays.FloatingArray(buffer[k, ::-1], none) for k in range(2)}, copy=False)
    assert np.shares_memory(X[0].array._data, buffer)
    out = buffer[0][:, None]
    assert two_columns.predict_raw(X, out=out) is out
    assert_bits_equal(out, want)


def test_out_beside_the_rows_of_one_buffer(two_columns):
    buffer = np.random.default_rng(0).normal(size=30_000)
    X, out = buffer[:20_000].reshape(2, -1).T, buffer[20_000:, None]
    assert_bits_equal(two_columns.predict_raw(X, out=out), two_columns.predict_raw(np.ascontiguousarray(X)))


def test_out_of_one_column_with_any_strides():
    predictor = wp.compile(forest())
    X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    out = np.empty(30, np.float32)[:, None]
    assert predictor.predict_raw(X, out=out) is out
    assert_bits_equal(out, predictor.predict_raw(X))


@pytest.mark.parametrize("trees", [[True, False], [40], [-1], [0.5], [[0]], ["0"]])
def test_select_trees_takes_tree_numbers_only(trees):
    with pytest.raises(InputError, match="from 0 to 39"):
        select_trees(forest(), trees)


@pytest.mark.parametrize("name", ["isolation_score", ["exp"], "nonsense", 3])
def test_post_transform_must_be_complete(name):
    with pytest.raises(InputError, match="unknown post_transform"):
        wp.compile(forest(), post_transform=name)


@pytest.mark.parametrize("bad", [(0.5, 3, 7), (0, 1.5), (1,), 3])
def test_iteration_range_is_two_integers(bad):
    with pytest.raises(InputError, match="two integers"):
        to_forest(forest(), iteration_range=bad)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_score": np.float32(0.5)}, "base_score must be a numpy array"),
        ({"values": [[1.0]]}, "values must be a numpy array"),
        ({"missing_value": "x"}, "missing_value must be a number"),
        ({"zero_band": None}, "zero_band must be a number"),
        ({"source": {"when": float("nan")}}, "JSON"),
        ({"source": {"what": object()}}, "JSON"),
        ({"methods": {"predict": Method("label")}}, "returns labels"),
    ],
)
def test_verify_checks_types_first(changes, message):
    with pytest.raises(InvalidModelError, match=message):
        verify(dataclasses.replace(forest(), **changes))


@pytest.mark.parametrize("node", [{"feature": 1.7}, {"feature": 2**40}])
def test_nested_truncates_nothing(node):
    tree = split(0, 0.5, leaf(1.0), leaf(2.0)) | node
    with pytest.raises(InvalidModelError):
        from_nested([tree], 3)


def test_mask_rows_beyond_sixteen_bits_are_refused(monkeypatch):
    monkeypatch.setattr(bitslice, "applicable", lambda canonical, options: None)
    monkeypatch.setattr(bitslice, "perfect", lambda canonical: 0)
    monkeypatch.setattr(circuit, "MAX_ROWS", 60)
    with pytest.raises(StrategyError, match="mask rows"):
        wp.compile(forest(), strategy="bitslice")
