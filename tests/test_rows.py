"""Every kind of input becomes the same blocks: safe to read, and equal to what the source library would have read."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from woodpecker.errors import InputError, MissingExtraError
from woodpecker.runtime import rows as rows_module
from woodpecker.runtime.rows import InputSpec, direct, read_rows

NAN = float("nan")
SPEC = InputSpec(3)
BEYOND = 2**54 + 2**30 + 1
"""An integer that float32 holds in two ways: rounded once, or by way of float64."""


def matrix(n: int = 10, dtype: Any = np.float32) -> np.ndarray:
    return (np.random.default_rng(n).normal(size=(n, 3)) * 100).astype(dtype)


def read(X: Any, spec: InputSpec = SPEC) -> np.ndarray:
    """All blocks of X, each checked against what native code relies on, as one matrix."""
    rows = read_rows(X, spec)
    parts, at = [], 0
    for begin, end, block in rows.blocks():
        assert begin == at < end
        at = end
        assert type(block) is np.ndarray
        assert block.shape == (end - begin, spec.n_features)
        assert block.dtype == rows.dtype
        assert block.dtype in (np.float32, np.float64)
        assert block.dtype.isnative
        assert block.flags.aligned
        assert block.ctypes.data % block.itemsize == 0
        if spec.n_features:
            assert block.strides[1] == block.itemsize
            assert block.strides[0] % block.itemsize == 0
            assert block.strides[0] >= spec.n_features * block.itemsize
        parts.append(block.copy())
    assert at == rows.n
    return np.concatenate(parts) if parts else np.empty((0, spec.n_features), rows.dtype)


def same(X: Any, want: np.ndarray, spec: InputSpec = SPEC) -> None:
    got = read(X, spec)
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert got.tobytes() == want.tobytes() or np.array_equal(got, want, equal_nan=True)


@pytest.fixture(params=[None, 4], ids=["one block", "blocks of 4"])
def small_blocks(request, monkeypatch):
    """Tests run with the usual blocks, and with blocks so small that every input has several and a remainder."""
    if request.param:
        monkeypatch.setattr(rows_module, "BLOCK_ROWS", request.param)
        monkeypatch.setattr(rows_module, "BLOCK_BYTES", 3 * 8 * request.param)


class TestArrays:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_a_c_ordered_matrix_is_one_block_of_its_own_memory(self, dtype):
        X = matrix(10_000, dtype)
        X.flags.writeable = False
        ((begin, end, block),) = read_rows(X, SPEC).blocks()
        assert (begin, end) == (0, 10_000)
        assert block.ctypes.data == X.ctypes.data
        assert np.shares_memory(block, X)

    def test_a_row_stride_is_no_reason_to_copy(self):
        X = matrix(10)
        for view in (X[::2], np.hstack([X, X])[:, :3], X[2:5]):
            assert direct(view, 3)
            ((_, _, block),) = read_rows(view, SPEC).blocks()
            assert np.shares_memory(block, view)
            same(view, np.ascontiguousarray(view))

    @pytest.mark.usefixtures("small_blocks")
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_other_layouts_are_converted(self, dtype):
        X = matrix(10, dtype)
        packed = np.zeros(10, [("tag", "u1"), ("row", dtype, 3)])
        packed["row"] = X
        shifted = np.zeros(X.nbytes + 1, np.uint8)[1:].view(dtype).reshape(10, 3)
        shifted[:] = X
        layouts = {
            "fortran": np.asfortranarray(X),
            "reversed rows": X[::-1][::-1][::-1],
            "reversed columns": X[:, ::-1],
            "odd stride": packed["row"],
            "unaligned": shifted,
            "big-endian": X.astype(np.dtype(dtype).newbyteorder(">")),
            "broadcast": np.broadcast_to(X[0], (10, 3)),
            "every second column": np.repeat(X, 2, 1)[:, ::2],
            "overlapping": np.lib.stride_tricks.sliding_window_view(X.reshape(-1), 3)[:10],
        }
        for name, layout in layouts.items():
            assert not direct(layout, 3), name
            same(layout, np.ascontiguousarray(layout).astype(dtype))

    def test_one_row_of_an_odd_array_is_safe(self):
        packed = np.zeros(5, [("tag", "u1"), ("row", np.float32, 3)])
        packed["row"] = matrix(5)
        same(packed["row"][3:4], matrix(5)[3:4])

    @pytest.mark.parametrize("n", [0, 1, 3, 4095, 4096, 4097])
    def test_any_number_of_rows(self, n):
        same(matrix(n), matrix(n))
        same(np.asfortranarray(matrix(n)), matrix(n))

    @pytest.mark.usefixtures("small_blocks")
    @pytest.mark.parametrize("dtype", ["i1", "u1", "<i4", ">i8", "u8", "?", "<f2", ">f2"])
    @pytest.mark.parametrize("target", ["float32", "float64"])
    def test_other_numbers_are_cast_to_the_integer_dtype(self, dtype, target):
        spec = InputSpec(3, integer_dtype=target)
        X = np.random.default_rng(0).integers(0, 100, (10, 3)).astype(dtype)
        same(X, X.astype(target), spec)

    def test_integers_are_rounded_once(self):
        X = np.array([[BEYOND, 0, 1]])
        once, twice = X.astype(np.float32), X.astype(np.float64).astype(np.float32)
        assert once[0, 0] != twice[0, 0]
        same(X, once)
        same(X, X.astype(np.float64), InputSpec(3, integer_dtype="float64"))

    def test_float_dtypes_are_kept_whatever_the_model_compares_in(self):
        same(matrix(5, np.float64), matrix(5, np.float64), InputSpec(3, input_dtype="float32"))
        same(matrix(5, np.float32), matrix(5, np.float32), InputSpec(3, input_dtype="float64"))

    def test_no_features_and_one_feature(self):
        assert read(np.zeros((5, 0)), InputSpec(0)).shape == (5, 0)
        column = np.arange(6.0)[::2]
        same(column[:, None], np.array([[0.0], [2], [4]]), InputSpec(1))

    def test_wide_rows_make_small_blocks(self):
        assert rows_module.block_rows(28, 4) == 4096
        assert rows_module.block_rows(2000, 8) * 2000 * 8 <= rows_module.BLOCK_BYTES
        assert rows_module.block_rows(2**24, 8) == 1
        assert rows_module.block_rows(0, 8) == 4096

    @pytest.mark.usefixtures("small_blocks")
    def test_lists(self):
        X = matrix(6, np.float64)
        same(X.tolist(), X)
        same(tuple(X), X)
        same([[1, 2, 3]], np.array([[1, 2, 3]], np.float32))
        same([[1, 2, 3.5]], np.array([[1, 2, 3.5]]))

    @pytest.mark.filterwarnings("ignore:the matrix subclass")
    def test_subclasses(self, tmp_path):
        X = matrix(6)
        same(np.asmatrix(X), X)
        mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=(6, 3))
        mapped[:] = X
        ((_, _, block),) = read_rows(mapped, SPEC).blocks()
        assert np.shares_memory(block, mapped)
        same(mapped, X)

    def test_masked_values_need_a_meaning(self):
        X = matrix(6)
        same(np.ma.masked_array(X), X)
        with pytest.raises(InputError, match="masked"):
            read_rows(np.ma.masked_array(X, X > 0), SPEC)

    def test_objects_that_numpy_reads(self):
        class Table:
            def __array__(self, dtype=None, copy=None):
                return matrix(4)

        same(Table(), matrix(4))

    @pytest.mark.parametrize(
        ("X", "message"),
        [
            (np.zeros(3), r"X\.reshape\(1, -1\)"),
            ([1.0, 2.0, 3.0], r"X\.reshape\(1, -1\)"),
            (np.zeros((2, 3, 1)), "3 dimensions"),
            (np.float64(3), "must be a table"),
            (np.array(3.0), "0 dimensions"),
            (np.zeros((2, 4)), "4 columns; the model has 3"),
            (np.zeros((0, 2)), "2 columns"),
            (np.zeros((2, 3), np.longdouble), "float64 is the widest"),
            (np.zeros((2, 3), complex), "complex"),
            (np.zeros((2, 3), object), "Python objects"),
            ([[1.0, None, 2.0]], "Python objects"),
            ([["a", "b", "c"]], "text"),
            (np.zeros((2, 3), "S3"), "text"),
            (np.zeros((2, 3), "M8[s]"), "dates"),
            (np.zeros((2, 3), "m8[s]"), "durations"),
            (np.zeros((2, 3), [("a", float)]), "not supported"),
            ([[1.0, 2.0], [3.0]], "cannot be read as an array"),
            (None, "NoneType"),
            ("rows.csv", "a str; it must be a table"),
            (b"x", "a bytes"),
            ({"a": [1]}, "a dict"),
            (object(), "builtins.object; supported are"),
            (iter([[1, 2, 3]]), "list_iterator; supported are"),
        ],
    )
    def test_what_is_refused(self, X, message):
        with pytest.raises(InputError, match=message):
            read_rows(X, SPEC)

    @pytest.mark.parametrize("name", ["__array__", "tocsr", "__dlpack__", "__narwhals_dataframe__"])
    @pytest.mark.parametrize("as_property", [False, True])
    def test_an_object_that_raises(self, name, as_property):
        def fail(*args: Any, **options: Any) -> Any:
            raise RuntimeError("no such luck")

        part = property(fail) if as_property else fail
        members = {"__dlpack_device__": lambda self: (1, 0)} if name == "__dlpack__" else {"shape": (2, 3)}
        foreign = type("Foreign", (), members | {name: part})
        with pytest.raises(InputError, match="no such luck") as raised:
            read_rows(foreign(), SPEC)
        assert isinstance(raised.value.__cause__, RuntimeError)

    def test_an_object_that_raises_is_named(self):
        class Table:
            def __array__(self, dtype=None, copy=None):
                raise KeyError("no rows")

        with pytest.raises(InputError, match=r"tests.test_rows.*Table that cannot be read: KeyError: 'no rows'"):
            read_rows(Table(), SPEC)
        with pytest.raises(InputError, match=r"X is a builtins.list that cannot be read: KeyError"):
            read_rows([Table()], SPEC)

    def test_the_hint_for_one_feature(self):
        with pytest.raises(InputError, match=r"X\.reshape\(-1, 1\) for one feature"):
            read_rows(np.zeros(5), InputSpec(1))


@st.composite
def views(draw: st.DrawFn) -> np.ndarray:
    """Any view of an array: steps of any sign, broadcast and swapped axes, byte orders, odd offsets."""
    dtype = np.dtype(draw(st.sampled_from(["f4", "f8", ">f4", ">f8", "f2", "i4", "u1", ">i8", "?"])))
    offset = draw(st.integers(0, 9))
    raw = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2, offset + 24 * 24 * dtype.itemsize, np.uint8)
    X = raw[offset:].view(dtype).reshape(24, 24)
    if draw(st.booleans()):
        X = X.T
    for axis in (0, 1):
        start, stop = draw(st.integers(0, 23)), draw(st.integers(0, 24))
        step = draw(st.sampled_from([1, 1, 2, -1, -3, 5]))
        X = X[(slice(None),) * axis + (slice(start, stop, step),)]
    if draw(st.booleans()) and len(X):
        X = np.broadcast_to(X[:1], (draw(st.integers(0, 9)), X.shape[1]))
    X.flags.writeable = False
    return X


@given(views(), st.sampled_from([4096, 3]))
@settings(max_examples=300, deadline=None)
def test_any_view_of_any_array(X, n):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "BLOCK_ROWS", n)
        dtype = X.dtype.newbyteorder("=") if X.dtype.kind == "f" and X.dtype.itemsize > 2 else np.dtype("f4")
        same(X, np.array(X, dtype, order="C"), InputSpec(X.shape[1]))


class TestSpec:
    def test_json_round_trip(self):
        import json

        spec = InputSpec(
            2, ("a", "b"), "float64", "float32", NAN, {1: ("x", 3, 2.5, True, np.int64(7))}, "nan", 1e-35, "xgboost"
        )
        again = InputSpec.from_json(json.loads(json.dumps(spec.to_json(), allow_nan=False)))
        assert repr(again) == repr(spec).replace("np.int64(7)", "7")
        assert InputSpec.from_json(SPEC.to_json()) == SPEC

    @pytest.mark.parametrize("library", ["xgboost", "lightgbm", "scikit-learn", None])
    def test_of_forest(self, library):
        from woodpecker.forest import Forest

        forest = Forest.from_nested(
            [{"value": 1.0}],
            2,
            feature_names=("a", "b"),
            frame_categories={1: ["u"]},
            zero_band=1e-35,
            source={"library": library} if library else {},
        )
        spec = InputSpec.of_forest(forest)
        assert (spec.n_features, spec.feature_names, spec.frame_categories) == (2, ("a", "b"), {1: ("u",)})
        assert (spec.library, spec.zero_band) == (library or "", 1e-35)
        assert np.isnan(spec.sparse_fill) == (library == "xgboost")


def test_reading_rows_imports_nothing_but_numpy():
    # Where torch is installed, tvm_ffi imports it.
    code = """
import sys
import numpy as np
from woodpecker.runtime.rows import InputSpec, read_rows
list(read_rows(np.zeros((2, 3)), InputSpec(3)).blocks())
list(read_rows([[1, 2, 3]], InputSpec(3)).blocks())
loaded = {"narwhals", "pandas", "polars", "pyarrow", "scipy", "tvm", "sklearn", "xgboost"} & set(sys.modules)
raise SystemExit(f"imported {loaded}" if loaded else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_frame_without_narwhals(monkeypatch):
    pandas = pytest.importorskip("pandas")
    monkeypatch.setitem(sys.modules, "narwhals", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'woodpecker\[frames\]'"):
        read_rows(pandas.DataFrame(matrix(3)), SPEC)
