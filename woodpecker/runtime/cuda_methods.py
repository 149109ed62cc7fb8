"""Methods of rows in the memory of a GPU: links and rules are computed there after the raw scores; nothing waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import TargetError
from . import cuda, outputs
from .cuda import Model
from .cuda_driver import Current
from .cuda_host import Check
from .cuda_rows import beside, head, keep, launch_entry, library_of, matrix, new, on_device, rows_of, stream_of
from .rows import InputSpec

LINK_ULPS = 8
"""How far links of the GPU may be off the CPU's before the GPU is thought broken: both are within 2 of the formula, but
for what cancels out."""


@dataclass(frozen=True)
class Method:
    """A method that the GPU computes.

    Args:
        kind, args: The rule, and its parameters.
        inputs: K.
        link: The entry of its link, and K'; None: it has none.
        rule: The entry of its rule, and the columns and dtype of its answer; None: the linked scores are that.
        labels: The labels that the answer numbers; None: it is no label.
    """

    kind: str
    args: Mapping[str, Any]
    inputs: int
    link: tuple[str, int] | None
    rule: tuple[str, int, np.dtype[Any]] | None
    labels: np.ndarray | None

    @property
    def vector(self) -> bool:
        """Whether a single column is (n,)."""
        return self.kind == "label" or (self.kind in ("value", "outlier") and bool(self.args.get("squeeze", True)))


def methods(manifest: Mapping[str, Any], classes: outputs.Classes) -> dict[str, Method]:
    """Name -> method, of those that the GPU computes."""
    half, found = manifest["cuda"], {}
    for name, how in half.get("methods", {}).items():
        described = manifest["methods"][name]
        link, rule, labels = how["link"], None, None
        if how["rule"] is not None:
            _, _, _, columns, dtype = half["rules"][how["rule"]]
            rule = f"rule_{how['rule']}", int(columns), np.dtype(dtype)
        if described["kind"] == "label":
            labels = np.asarray(classes[0])
            if labels.dtype.kind not in "fiub":
                continue  # which no GPU holds
        width = None if link is None else (f"link_{link}", int(manifest["links"][link]["width"]))
        found[name] = Method(described["kind"], described["args"], int(manifest["n_outputs"]), width, rule, labels)
    return found


def compute(
    model: Model,
    method: Method,
    X: Any,
    spec: InputSpec,
    dtype: np.dtype[Any],
    known: dict[Any, Any],
    check: Check,
    check_method: Callable[[Callable[[], list[np.ndarray]]], None],
) -> Any:
    """What a method makes of rows in the memory of the model's GPU, there, on the current stream of PyTorch or CuPy.

    Args:
        model: The model.
        method: The method.
        X: (n, F) float32 or float64 of PyTorch or CuPy, with unit column stride.
        spec: What the model expects.
        dtype: Of raw scores.
        known: Keeps labels on the GPU for the next call.
        check: Called with the kernel of the raw scores.
        check_method: Called with what gives some raw scores, and what link and rule made of them.

    Returns:
        The answer; or NotImplemented: the library has no such labels, or X is of another one.

    Raises:
        InputError: X is not what is expected. TargetError: the driver fails.
    """
    library, number = library_of(X), model.device.number
    if not library:
        return NotImplemented
    with on_device(library, number, X):
        stream = stream_of(library, number)
        x = rows_of(model, X, spec, stream)
        table = _table(library, X, method.labels, known)
        if table is NotImplemented:
            return table
        rows = x.shape[0]
        stages = [("", method.inputs, dtype)]
        stages += [(*method.link, dtype)] if method.link else []
        stages += [method.rule] if method.rule else []
        tensors = [new(library, number, (rows, width), made) for _, width, made in stages]
        keep(model, library, stream, tensors[:-1] if table is None else tensors)  # the last one is the caller's
        if rows:
            parts = [matrix(tensor, stream, "answers") for tensor in tensors]
            with Current(model.device.context):
                kernel = launch_entry(model, "raw", x, (parts[0].address, parts[0].strides[0]), stream, library)
                for (entry, _, _), read, written in zip(stages[1:], parts, parts[1:], strict=False):
                    given, out = ((part.address, part.strides[0]) for part in (read, written))
                    cuda.launch(model, entry, given, out, rows, 0, stream)
                check(kernel, "raw", lambda: (head(x, stream), head(parts[0], stream)))
                check_method(lambda: [head(part, stream) for part in parts])
        result = tensors[-1]
        result = result[:, 0] if method.vector and stages[-1][1] == 1 else result
        return result if table is None else table[result]


def _table(library: str, X: Any, labels: np.ndarray | None, known: dict[Any, Any]) -> Any:
    if labels is None:
        return None
    if library not in known:
        table = beside(library, X, labels)
        known[library] = NotImplemented if isinstance(table, np.ndarray) else table
    return known[library]


def check(
    method: Method, name: str, parts: list[np.ndarray], link: Callable[[np.ndarray], np.ndarray], cancels: bool
) -> None:
    """Raise TargetError where link or rule made something else of raw scores than the CPU, whose link is given;
    ``cancels``: it is one of logarithms."""
    linked = parts[1] if method.link else parts[0]
    if method.link:
        with np.errstate(all="ignore"):
            want = link(parts[0])
            unit = np.finfo(want.dtype)
            # What a log link takes away from 1 may leave next to nothing.
            scale = np.maximum(np.abs(want), unit.dtype.type(cancels))
            most = LINK_ULPS * (unit.eps * scale + unit.smallest_subnormal)
            near = (np.abs(linked - want) <= most) | (linked == want) | (np.isnan(linked) & np.isnan(want))
        if not near.all():
            row, column = map(int, np.argwhere(~near)[0])
            found, right = linked[row, column], want[row, column]
            raise TargetError(f"{_WRONG} (link of {name}, row {row}, column {column}: {found}, not {right}); {_DO}")
    if method.rule:
        with np.errstate(all="ignore"):
            places = [np.arange(len(method.labels))] if method.labels is not None else []
            wanted = np.asarray(outputs.KINDS[method.kind](linked, places, method.args)).reshape(len(linked), -1)
        if not np.array_equal(wanted, parts[-1], equal_nan=wanted.dtype.kind == "f"):
            raise TargetError(f"{_WRONG} (what {name} makes of linked scores); {_DO}")


_WRONG = "the GPU computes other numbers than the CPU"
_DO = "load the model with device='cpu', and report this"
