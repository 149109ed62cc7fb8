"""Predictors: compiled code, the model it reads, and the source model's own methods on top.

A `Program` is what in-process compilation and `load` have in common: entries of one calling convention and one model
blob. A `Predictor` reads rows, runs entries on them, and turns raw scores into what the source model returns. It has
the methods that the source model had, and no others.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm_ffi

from ..errors import InputError, TargetError, UnsupportedModelError
from . import labels, machine, outputs, threads
from .format import aligned
from .rows import InputSpec, direct, read_rows

INT32 = np.dtype(np.int32)

Entry = Callable[..., Any]


@dataclass(frozen=True)
class Program:
    """Compiled entries and the model that they read.

    Args:
        entry: name -> function ``(X, out, scratch, model, row_begin, row_end)``; ``<name>_parallel`` takes
            ``num_tasks`` as well.
        model: The blob: 64-byte aligned uint8, in memory that stays mapped as long as this object lives.
        manifest: See `woodpecker.manifest`; with the fields of the CPU level that runs, `format.in_level`.
        save: Writes the artifact, see `CompiledModel.save`; None where it was not compiled here.
        to_relax: Builds the Relax module for a dtype of X and a method, or None likewise.
    """

    entry: Callable[[str], Entry]
    model: np.ndarray
    manifest: Mapping[str, Any]
    save: Callable[..., None] | None = None
    to_relax: Callable[[str, str | None], Any] | None = None


class _NotHereError(TargetError, AttributeError):
    """Both: a caller sees why, and `hasattr` that the method is absent."""


class CompiledModel:
    """A compiled model, which `save` writes to a file. `woodpecker.compile` returns a bare one where its target can't
    run on this machine, else a `Predictor`. A bare one has no methods that predict: asking for one raises `TargetError`
    (an `AttributeError` as well), which says where it can run.

    Attributes:
        n_features_in_: Columns of X.
        n_outputs_: K, the width of a row of raw scores.
        n_trees_: T.
        feature_names_in_: (n_features,) names; absent where the model has none.
        classes_: The labels of a classifier (a list of them for several outputs); absent for other models.
        strategy: The name of the strategy that runs.
    """

    def __init__(self, program: Program, post_transform: Callable[..., Any] | None = None) -> None:
        manifest = program.manifest
        self._program = program
        self._post_transform = post_transform
        self._spec = InputSpec.from_json(manifest["input"])
        self._classes = tuple(labels.decode(c) for c in manifest["classes"])
        self.n_features_in_: int = manifest["input"]["n_features"]
        self.n_outputs_: int = manifest["n_outputs"]
        self.n_trees_: int = manifest["n_trees"]
        self.strategy: str = manifest["plan"][-1]["strategy"]
        if self._spec.feature_names is not None:
            self.feature_names_in_ = np.array(self._spec.feature_names, dtype=object)
        if self._classes:
            self.classes_ = self._classes[0] if len(self._classes) == 1 else list(self._classes)

    def save(self, path: Any, *, format: str | None = None, symbol: str | None = None) -> str:
        """Write the artifact, one library, atomically. The same model and options give the same bytes.

        Args:
            path: The file.
            format: "shared": a shared library, which `load` and C programs load; "static": a static library, to link
                into a C program; None: static where the name ends in .a or .lib, else shared.
            symbol: The name of a C function that returns the model, beside the artifact's own, which is unique.

        Returns:
            A line for people: the path, its size, and where it runs.

        Raises:
            UnsupportedModelError: this predictor can't be saved: it was loaded, or has a callable post_transform.
            TargetError: no C compiler was found, or it failed. MissingExtraError: the target is another platform, and
                no compiler for that was found.
            InputError: ``path`` is no path of a file, ``format`` is unknown, or ``symbol`` is no name of C, or is
                one of the C library's.
            OSError: the path can't be written.
        """
        if self._post_transform is not None:
            raise UnsupportedModelError(
                "a callable post_transform can't be shipped: compile without it and apply it to predict_raw(X)"
            )
        if self._program.save is None:
            raise UnsupportedModelError("a loaded artifact can't be saved again: copy its file")
        self._program.save(path, format=format, symbol=symbol)
        targets = [level["target"] for level in self._program.manifest["levels"]]
        return f"{os.fspath(path)}: {os.path.getsize(path):,} bytes; runs on {machine.requirement(targets)}"

    def inspect(self) -> dict[str, Any]:
        """What is in the model, why it is compiled as it is, and for what: JSON values.

        ``levels`` lists the CPU levels and says which one is in use; ``target``, ``plan``, ``tuning`` and
        ``ns_per_row`` beside it are that one's, or the last one's where this machine can run none.
        """
        hidden = {"input", "classes", "methods", "entries", "links", "level"}
        of_calls = {"prefix", "suffix", "scratch_bytes", "row_block", "terms"}
        manifest = self._program.manifest
        shown = {k: v for k, v in manifest.items() if k not in hidden | of_calls}
        shown["levels"] = [
            {**{k: v for k, v in level.items() if k not in of_calls}, "in_use": number == manifest["level"]}
            for number, level in enumerate(manifest["levels"])
        ]
        shown["n_features"] = self.n_features_in_
        shown["feature_names"] = None if self._spec.feature_names is None else list(self._spec.feature_names)
        shown["methods"] = ["predict_raw", "apply", *self._program.manifest["methods"]]
        shown["n_classes"] = [len(c) for c in self._classes]
        shown["model_bytes"] = len(self._program.model)
        return shown

    def to_relax(self, x_dtype: str = "float32", method: str | None = None) -> Any:
        """The ensemble as a Relax `tvm.IRModule`: ``main``, X (n, n_features) of ``x_dtype`` -> scores.

        Build it with ``tvm.compile(module, target="llvm")``, run it in ``tvm.relax.VirtualMachine``; raw scores have
        the bits of `predict_raw`.

        Args:
            x_dtype: "float32" or "float64".
            method: None: raw scores (n, K). The name of a method of the source model, such as "predict_proba": the
                scores (n, K') after the link of that method, before they become labels.

        Raises:
            InputError: ``x_dtype`` or ``method`` is unknown.
            UnsupportedModelError: this predictor was loaded; an artifact holds no graph.
        """
        if self._program.to_relax is None:
            raise UnsupportedModelError(
                "a loaded artifact holds no graph: compile the model and call to_relax() on that"
            )
        if x_dtype not in ("float32", "float64"):
            raise InputError(f"x_dtype must be 'float32' or 'float64', found {x_dtype!r}")
        known = [name for name, m in self._program.manifest["methods"].items() if m["kind"] != "leaves_onehot"]
        if method is not None and method not in known:
            raise InputError(f"method must be None or one of {', '.join(known) or 'none'}, found {method!r}")
        return self._program.to_relax(x_dtype, method)

    if not TYPE_CHECKING:  # it would tell type checkers that there is every attribute

        def __getattr__(self, name: str) -> Any:
            program = self.__dict__.get("_program")
            calls = () if program is None else ("predict_raw", "apply", *program.manifest["methods"])
            if name not in calls:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            targets = [level["target"] for level in program.manifest["levels"]]
            raise _NotHereError(
                f"{name} can't run here: the model was compiled for {machine.why_not(targets)}. What is compiled "
                "already runs where it is loaded: save() it, and load() the file there"
            )

    def __repr__(self) -> str:
        source = self._program.manifest["source"]
        name = source.get("estimator") or source.get("library") or "forest"
        return (
            f"<woodpecker.{type(self).__name__} of {name}: {self.n_trees_} trees, {self.n_features_in_} features, "
            f"{self.n_outputs_} outputs, {self.strategy}>"
        )

    def __reduce__(self) -> Any:
        raise UnsupportedModelError(
            "a compiled model can't be pickled or copied: save() it, and load() the file in the other process"
        )


class Predictor(CompiledModel):
    """A compiled model that runs on this machine. Made by `woodpecker.compile` and `woodpecker.load`. Thread-safe.

    X is (n, n_features): numpy float32, float64 or integers, a pandas, polars or pyarrow frame, a scipy CSR matrix, or
    anything with DLPack in CPU memory. A torch tensor comes back as a torch tensor, everything else as numpy.

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
        self._model = tvm_ffi.from_dlpack(_writable_alias(program.model))
        self._local = threading.local()
        self._acc_dtype = np.dtype(program.manifest["acc_dtype"])
        self._ns_per_row: float = program.manifest["ns_per_row"]
        self._row_block: int = program.manifest["row_block"]
        self._scratch_bytes: int = program.manifest["scratch_bytes"]
        self._terms: Mapping[str, Any] | None = program.manifest.get("terms")
        # The row counts for which trees are shared out: the check must cost next to nothing.
        self._by_trees = range(0)
        if self._terms is not None:
            end = self._terms["max_rows"] + 1
            least = next((n for n in range(1, end) if self._tree_tasks(n) > 1), end)
            self._by_trees = range(least, end)

    def predict_raw(self, X: Any, *, out: np.ndarray | None = None) -> Any:
        """Raw scores (margins) before the link: (n, K), in the source library's accumulator dtype and to its bits.

        Args:
            X: (n, n_features).
            out: C-ordered (n, K) array of that dtype, to write to instead of a new one; none of X's memory.

        Raises:
            InputError: X or ``out`` is not what the model expects.
        """
        scores, restore = self._scores("raw", X, self.n_outputs_, self._acc_dtype, out)
        return restore(scores) if restore else scores

    def apply(self, X: Any, *, out: np.ndarray | None = None) -> Any:
        """Leaf ids: (n, T) int32, numbered as the source library numbers its leaves.

        Args and errors: see `predict_raw`; ``out`` is (n, T) int32.
        """
        ids, restore = self._scores("apply", X, self.n_trees_, INT32, out)
        return restore(ids) if restore else ids

    def _method(self, name: str, X: Any) -> Any:
        """What the source model's method ``name`` returns for X."""
        method = self._program.manifest["methods"][name]
        if method["kind"] == "leaves_onehot":
            return outputs.leaves_onehot(self._scores("apply", X, self.n_trees_, INT32)[0], method["args"])
        raw, restore = self._scores("raw", X, self.n_outputs_, self._acc_dtype)
        if self._post_transform is not None:
            result = self._post_transform(raw)
        else:
            linked = raw if method["link"] is None else self._linked(method["link"], raw)
            result = outputs.KINDS[method["kind"]](linked, self._classes, method["args"])
        return restore(result) if restore else result

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
        rows = read_rows(X, self._spec)
        given = scores = self._out(out, (rows.n, width), dtype)
        if out is not None:
            # Later blocks are converted after scores of earlier ones are written.
            if rows.memory is None:
                scores = np.empty_like(given)
            elif any(np.may_share_memory(part, given) for part in rows.memory):
                raise InputError("out shares memory with X, which is read while out is written: pass another array")
        name = f"{kind}_{'f32' if rows.dtype == np.float32 else 'f64'}"
        for begin, end, block in rows.blocks():
            self._call(name, block, scores[begin:end])
        if scores is not given:
            given[...] = scores
        return scores if out is None else out, rows.restore

    def _call(self, name: str, X: np.ndarray, out: np.ndarray) -> None:
        """Run an entry over all rows of a block, in as many tasks as pay."""
        n = len(X)
        if n == 0 or out.size == 0:
            return
        if n in self._by_trees and name in ("raw_f32", "raw_f64"):
            self._by_terms(name, X, out)
            return
        tasks = 1 if n <= self._row_block else threads.tasks(self._num_threads, n, self._ns_per_row, self._row_block)
        scratch = self._scratch(tasks * self._scratch_bytes)
        if not X.flags.writeable:
            X = _writable_alias(X)
        if tasks == 1:
            self._program.entry(name)(X, out, scratch, self._model, 0, n)
        else:
            self._program.entry(name + "_parallel")(X, out, scratch, self._model, 0, n, tasks)

    def _tree_tasks(self, n: int) -> int:
        assert self._terms is not None
        return threads.tree_tasks(self._num_threads, n, self._terms["ns_per_row"], self._terms["groups"])

    def _by_terms(self, name: str, X: np.ndarray, out: np.ndarray) -> None:
        """Raw scores of a few rows, in tasks that share the trees out."""
        assert self._terms is not None
        n, tasks = len(X), self._tree_tasks(len(X))
        held: np.ndarray | None = getattr(self._local, "terms", None)
        if held is None:
            held = np.empty((self._terms["max_rows"], self._terms["width"]), self._acc_dtype)
            self._local.terms = held
        found, scratch = held[:n], self._scratch(tasks * self._scratch_bytes)
        if not X.flags.writeable:
            X = _writable_alias(X)
        entry = self._program.entry(f"terms_{name.removeprefix('raw_')}_parallel")
        entry(X, found, scratch, self._model, 0, self._terms["groups"], tasks)
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
