"""Compiled models: code and the model that it reads, and what can be done with them on every machine: save, inspect.

A `Program` is what in-process compilation and `load` have in common: entries of one calling convention and one model
blob.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, TargetError, UnsupportedModelError
from . import labels, machine
from .cuda_facts import gpus, summary
from .rows import InputSpec

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
        gpu: The model on a GPU, `woodpecker.runtime.cuda.Model`, which computes raw scores and leaf ids instead of
            the entries; None: they run on the CPU.
        no_gpu: Why it is None where the model has CUDA code and no one asked for the CPU.
    """

    entry: Callable[[str], Entry]
    model: np.ndarray
    manifest: Mapping[str, Any]
    save: Callable[..., None] | None = None
    to_relax: Callable[[str, str | None], Any] | None = None
    gpu: Any = None
    no_gpu: str | None = None


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
            format: "shared": a shared library, which `load` and C programs load, or a WebAssembly module; "static": a
                static library, to link into a C program; None: static where the name ends in .a or .lib, else shared.
            symbol: The name of a C function that returns the model, beside the artifact's own, which is unique. A
                module has none.

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
        places = "; and on ".join(filter(None, (machine.requirement(targets), gpus(self._program.manifest))))
        return f"{os.fspath(path)}: {os.path.getsize(path):,} bytes; runs on {places}"

    def inspect(self) -> dict[str, Any]:
        """What is in the model, why it is compiled as it is, and for what: JSON values.

        ``levels`` lists the CPU levels and says which one is in use; ``target``, ``plan``, ``tuning`` and
        ``ns_per_row`` beside it are that one's, or the last one's where this machine can run none. ``cuda`` is what
        there is for GPUs, and ``device`` where this model runs, None: not here; where there is CUDA code, and it was
        left to `woodpecker.compile` to use it, ``no_gpu`` is why it does not, or None.
        """
        hidden = {"input", "classes", "methods", "entries", "links", "level", "cuda"}
        of_calls = {"prefix", "suffix", "scratch_bytes", "row_block", "terms", "few_rows"}
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
        gpu = self._program.gpu
        shown["device"] = None if manifest["level"] is None else "cpu"
        if gpu is not None:
            shown["device"] = f"cuda:{gpu.device.number}"
        if half := summary(manifest):
            shown["cuda"] = {**half, "no_gpu": self._program.no_gpu}
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
