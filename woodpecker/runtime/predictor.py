"""Predictors: compiled code, the model it reads, and the source model's own methods on top.

A `Predictor` reads rows, runs entries on them, and turns raw scores into what the source model returns. It has
the methods that the source model had, and no others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm_ffi

from ..errors import InputError, TargetError
from . import outputs, threads
from .compiled import CompiledModel, Program
from .format import aligned
from .rows import direct, on_gpu, read_rows

INT32 = np.dtype(np.int32)
_FEW = {"raw_f32": "few_f32", "raw_f64": "few_f64"}
"""Raw scores -> the entries for a few rows, where a level has them."""


class Predictor(CompiledModel):
    """A compiled model that runs on this machine. Made by `woodpecker.compile` and `woodpecker.load`. Thread-safe.

    X is (n, n_features): numpy float32, float64 or integers, a pandas, polars or pyarrow frame, a scipy CSR matrix, or
    anything with DLPack in CPU memory. A torch tensor comes back as a torch tensor, everything else as numpy.
    On a GPU it may also lie in its memory, see `woodpecker.runtime.cuda_rows`: answers do then, too.

    Beside `predict_raw` and `apply` it has the methods of the source model. Attributes: see `CompiledModel`.
    """

    # For type checkers: an instance has those of these methods that its source model has.
    predict: Callable[[Any], Any]
    predict_proba: Callable[[Any], Any]
    decision_function: Callable[[Any], Any]
    score_samples: Callable[[Any], Any]
    transform: Callable[[Any], Any]

    def __init__(
        self, program: Program, num_threads: int | None = None, post_transform: Callable[..., Any] | None = None
    ) -> None:
        super().__init__(program, post_transform)
        self._num_threads = threads.resolve(num_threads)
        self._gpu = program.gpu
        self._compared: set[str] = set()
        self._methods: Mapping[str, Any] | None = None
        self._labels: dict[str, dict[Any, Any]] = {}
        self._model = tvm_ffi.from_dlpack(_writable_alias(program.model))
        self._local = threading.local()
        self._acc_dtype = np.dtype(program.manifest["acc_dtype"])
        self._ns_per_row: float = program.manifest["ns_per_row"]
        self._row_block: int = program.manifest["row_block"]
        self._scratch_bytes: int = program.manifest["scratch_bytes"]
        self._few_rows: int = program.manifest.get("few_rows", 0)
        self._terms: Mapping[str, Any] | None = program.manifest.get("terms")
        # The row counts for which trees are shared out: the check must cost next to nothing.
        self._by_trees = range(0)
        if self._terms is not None:
            end = self._terms["max_rows"] + 1
            least = next((n for n in range(1, end) if self._tree_tasks(self._terms, n) > 1), end)
            self._by_trees = range(least, end)

    def predict_raw(self, X: Any, *, out: np.ndarray | None = None) -> Any:
        """Raw scores (margins) before the link: (n, K), in the source library's accumulator dtype and to its bits.

        Args:
            X: (n, n_features).
            out: C-ordered (n, K) array of that dtype, to write to instead of a new one; none of X's memory. Where X is
                in the memory of a GPU, so must ``out`` be.

        Raises:
            InputError: X or ``out`` is not what the model expects. TargetError: the model runs on a GPU, and its driver
                fails, or its first answers are not the CPU's.
        """
        if self._gpu is not None and on_gpu(X):
            return self._resident("raw", X, self.n_outputs_, self._acc_dtype, out)
        scores, restore = self._scores("raw", X, self.n_outputs_, self._acc_dtype, out)
        return restore(scores) if restore else scores

    def apply(self, X: Any, *, out: np.ndarray | None = None) -> Any:
        """Leaf ids: (n, T) int32, numbered as the source library numbers its leaves.

        Args and errors: see `predict_raw`; ``out`` is (n, T) int32.
        """
        if self._gpu is not None and on_gpu(X):
            return self._resident("apply", X, self.n_trees_, INT32, out)
        ids, restore = self._scores("apply", X, self.n_trees_, INT32, out)
        return restore(ids) if restore else ids

    def _resident(self, kind: str, X: Any, width: int, dtype: np.dtype[Any], out: Any) -> Any:
        """An entry over rows in the memory of the GPU, with answers there."""
        from .cuda_rows import compute

        return compute(self._gpu, kind, X, self._spec, width, dtype, out, self._compare)

    def _compare(self, kernel: str, kind: str, heads: Callable[[], tuple[np.ndarray, np.ndarray]]) -> None:
        """The first rows that a kernel computes in this predictor are computed on the CPU as well: it may run on a GPU
        that no one has tried it on, as code that a driver has compiled anew.

        Args:
            kernel: Its name.
            kind: "raw" or "apply".
            heads: What gives some rows of the host, and the kernel's answers to them.

        Raises:
            TargetError: the bits differ.
        """
        if kernel in self._compared:
            return
        X, got = heads()
        want = np.empty_like(got)
        self._call(f"{kind}_f{8 * X.itemsize}", X, want, on_cpu=True)
        from .measure import difference

        if wrong := difference(_plain_nans(got), _plain_nans(want)):
            raise TargetError(
                f"the GPU computes other numbers than the CPU (kernel {kernel}, {len(X)} rows compared): {wrong}; load "
                "the model with device='cpu', and report this"
            )
        self._compared.add(kernel)

    def _method(self, name: str, X: Any) -> Any:
        """What the source model's method ``name`` returns for X."""
        method = self._program.manifest["methods"][name]
        if self._gpu is not None and self._post_transform is None and on_gpu(X):
            found = self._there(name, X)
            if found is not NotImplemented:
                return found
        if method["kind"] == "leaves_onehot":
            return outputs.leaves_onehot(self._scores("apply", X, self.n_trees_, INT32)[0], method["args"])
        raw, restore = self._scores("raw", X, self.n_outputs_, self._acc_dtype)
        if self._post_transform is not None:
            result = self._post_transform(raw)
        else:
            linked = raw if method["link"] is None else self._linked(method["link"], raw)
            result = outputs.KINDS[method["kind"]](linked, self._classes, method["args"])
        return restore(result) if restore else result

    def _there(self, name: str, X: Any) -> Any:
        """The same of rows in the memory of the GPU, in its memory; NotImplemented: the host has to compute it."""
        from . import cuda_methods

        if self._methods is None:
            self._methods = cuda_methods.methods(self._program.manifest, self._classes)
        if name not in self._methods:
            return NotImplemented
        method = self._methods[name]
        index = self._program.manifest["methods"][name]["link"]

        def check(parts: Callable[[], list[np.ndarray]]) -> None:
            if name not in self._compared:
                cancels = index is not None and "log" in self._program.manifest["links"][index]["name"]
                cuda_methods.check(method, name, parts(), lambda raw: self._linked(index, raw), cancels)
                self._compared.add(name)

        known = self._labels.setdefault(name, {})
        return cuda_methods.compute(self._gpu, method, X, self._spec, self._acc_dtype, known, self._compare, check)

    def _linked(self, index: int, raw: np.ndarray) -> np.ndarray:
        width = self._program.manifest["links"][index]["width"]
        out = np.empty((len(raw), width), self._acc_dtype)
        self._call(f"link_{index}", raw, out)
        return out

    def _scores(
        self, kind: str, X: Any, width: int, dtype: np.dtype[Any], out: np.ndarray | None = None
    ) -> tuple[np.ndarray, Callable[[Any], Any] | None]:
        """(n, width) of an entry over all rows, and what makes of it the kind of tensor that X is, if it is another."""
        if out is None and direct(X, self.n_features_in_):  # the hot path: nothing to read, nothing to restore
            scores = np.empty((len(X), width), dtype)
            self._call(f"{kind}_f32" if X.dtype == np.float32 else f"{kind}_f64", X, scores)
            return scores, None
        if self._gpu is not None and on_gpu(X):
            from .cuda_rows import to_host

            return to_host(self._gpu, kind, X, self._spec, width, dtype, self._compare)
        rows = read_rows(X, self._spec)
        given = scores = self._out(out, (rows.n, width), dtype)
        if out is not None:
            # Later blocks are converted after scores of earlier ones are written.
            if rows.memory is None:
                scores = np.empty_like(given)
            elif any(np.may_share_memory(part, given) for part in rows.memory):
                raise InputError("out shares memory with X, which is read while out is written: pass another array")
        if self._gpu is not None and rows.n and width and rows.block_rows < rows.n:
            from .cuda_host import run_blocks

            run_blocks(self._gpu, kind, (block for _, _, block in rows.blocks()), scores, self._compare)
            if scores is not given:
                given[...] = scores
            return given if out is None else out, rows.restore
        name = f"{kind}_{'f32' if rows.dtype == np.float32 else 'f64'}"
        for begin, end, block in rows.blocks():
            self._call(name, block, scores[begin:end])
        if scores is not given:
            given[...] = scores
        return scores if out is None else out, rows.restore

    def _call(self, name: str, X: np.ndarray, out: np.ndarray, on_cpu: bool = False) -> None:
        """Run an entry over all rows of a block, in as many tasks as pay; on the CPU, or where the model is."""
        n = len(X)
        if n == 0 or out.size == 0:
            return
        if self._gpu is not None and not on_cpu and not name.startswith("link_"):
            from .cuda_host import run

            run(self._gpu, name.partition("_")[0], X, out, self._compare)
            return
        if self._terms is not None and n in self._by_trees and name in _FEW:
            self._by_terms(self._terms, name, X, out)
            return
        tasks = 1 if n <= self._row_block else threads.tasks(self._num_threads, n, self._ns_per_row, self._row_block)
        scratch = self._scratch(tasks * self._scratch_bytes)
        if not X.flags.writeable:
            X = _writable_alias(X)
        if tasks == 1:
            name = _FEW.get(name, name) if n < self._few_rows else name
            self._program.entry(name)(X, out, scratch, self._model, 0, n)
        else:
            self._program.entry(name + "_parallel")(X, out, scratch, self._model, 0, n, tasks)

    def _tree_tasks(self, terms: Mapping[str, Any], n: int) -> int:
        return threads.tree_tasks(self._num_threads, n, terms["ns_per_row"], terms["groups"])

    def _by_terms(self, terms: Mapping[str, Any], name: str, X: np.ndarray, out: np.ndarray) -> None:
        """Raw scores of a few rows, in tasks that share the trees out."""
        n, tasks = len(X), self._tree_tasks(terms, len(X))
        held: np.ndarray | None = getattr(self._local, "terms", None)
        if held is None:
            held = np.empty((terms["max_rows"], terms["width"]), self._acc_dtype)
            self._local.terms = held
        found, scratch = held[:n], self._scratch(tasks * self._scratch_bytes)
        if not X.flags.writeable:
            X = _writable_alias(X)
        entry = self._program.entry(f"terms_{name.removeprefix('raw_')}_parallel")
        entry(X, found, scratch, self._model, 0, terms["groups"], tasks)
        self._program.entry("total")(found, out, scratch, self._model, 0, n)

    def _scratch(self, nbytes: int) -> Any:
        """This thread's scratch, at least ``nbytes``."""
        held: tuple[int, Any] = getattr(self._local, "scratch", (0, None))
        if held[0] < nbytes:
            held = (nbytes, tvm_ffi.from_dlpack(aligned(nbytes)))
            self._local.scratch = held
        return held[1]

    @staticmethod
    def _out(out: np.ndarray | None, shape: tuple[int, int], dtype: np.dtype[Any]) -> np.ndarray:
        if out is None:
            return np.empty(shape, dtype)
        if not isinstance(out, np.ndarray) or out.dtype != dtype or out.shape != shape:
            found = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
            raise InputError(f"out must be a numpy array of {dtype}, shape {shape}; found {found}")
        if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned):
            raise InputError("out must be C-contiguous, writable and aligned")
        # The strides of an axis of length 1 are arbitrary in numpy and checked in an entry.
        return np.ndarray(shape, dtype, buffer=out)


def _plain_nans(a: np.ndarray) -> np.ndarray:
    """Without what NaNs carry, which arithmetic does not keep."""
    return a if a.dtype.kind != "f" else np.where(np.isnan(a), a.dtype.type(np.nan), a)


def _writable_alias(X: np.ndarray) -> np.ndarray:
    """The same memory as an array that says it is writable, which DLPack asks for; entries only read X."""
    interface = dict(X.__array_interface__)
    interface["data"] = (interface["data"][0], False)
    return np.asarray(_Alias(interface, X))


@dataclass(frozen=True)
class _Alias:
    __array_interface__: dict[str, Any]
    owner: np.ndarray


_DOCS = {
    "predict": "What the source model's own `predict` returns: values, or labels for a classifier.",
    "predict_proba": "Class probabilities (n, n_classes), as the source model's `predict_proba` returns them.",
    "decision_function": "What the source model's `decision_function` returns.",
    "score_samples": "What the source model's `score_samples` returns.",
    "transform": "What the source model's `transform` returns.",
}


def _named(name: str) -> Callable[[Predictor, Any], Any]:
    def method(self: Predictor, X: Any) -> Any:
        return self._method(name, X)

    method.__name__ = name
    method.__doc__ = f"""{_DOCS.get(name, f"What the source model's `{name}` returns.")}

        Args:
            X: (n, n_features); see `Predictor`.

        Raises:
            InputError: X is not what the model expects.
        """
    return method


def make_predictor(
    program: Program, num_threads: int | None = None, post_transform: Callable[..., Any] | None = None
) -> Predictor:
    """A predictor with the methods of its source model."""
    cls = type("Predictor", (Predictor,), {name: _named(name) for name in program.manifest["methods"]})
    made: Predictor = cls(program, num_threads, post_transform)
    return made
