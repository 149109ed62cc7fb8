"""What a tuning record is found by: the forest's digest and shape class, and the key of the target."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..forest import Forest, tree_leaves
from ..predicates import Canonical
from ..runtime.threads import available_cpus
from ..targets import CpuTarget

NEAR = 3.0
"""Shape classes further apart than this, in doublings of all sizes together, say nothing about each other."""

FEATURES = ("avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi", "gfni")
"""CPU features that decide on code: the width of vectors, and the stages of bitslice and scan."""


@dataclass(frozen=True)
class ShapeClass:
    """Forests of one class are expected to be served best by the same plan.

    Args:
        trees, leaves, depth, predicates, features: log2, rounded, of the trees, the leaves of a tree on average, the
            greatest depth, the distinct predicates and the columns of X.
        outputs: K.
        acc_dtype: Dtype of the sum.
        input_dtype: What values are compared in.
        leaf: "scalar", "vector" or "linear".
        missing: Whether a numeric split sends missing values elsewhere than where it sends 0.0.
        categories: Whether there are category sets.
    """

    trees: int
    leaves: int
    depth: int
    predicates: int
    features: int
    outputs: int
    acc_dtype: str
    input_dtype: str
    leaf: str
    missing: bool
    categories: bool

    @property
    def name(self) -> str:
        """A file name."""
        sizes = f"t{self.trees}-l{self.leaves}-d{self.depth}-p{self.predicates}-f{self.features}-k{self.outputs}"
        marks = [name for name in ("missing", "categories") if getattr(self, name)]
        marks += [self.leaf] if self.leaf != "scalar" else []
        marks += ["x64"] if self.input_dtype == "float64" else []
        return "-".join([sizes, self.acc_dtype, *marks])


def _log2(n: float) -> int:
    return round(math.log2(max(n, 1.0)))


def shape_class(canonical: Canonical) -> ShapeClass:
    """The shape class of a forest."""
    forest, columns = canonical.forest, canonical.columns
    leaves = tree_leaves(forest)
    numeric = slice(0, columns.n_numeric)
    return ShapeClass(
        trees=_log2(forest.n_trees),
        leaves=_log2(float(leaves.mean()) if len(leaves) else 1.0),
        depth=_log2(canonical.max_depth),
        predicates=_log2(canonical.n_predicates),
        features=_log2(forest.n_features),
        outputs=forest.n_outputs,
        acc_dtype=str(forest.values.dtype),
        input_dtype=forest.input_dtype,
        leaf="linear" if forest.linear_offset is not None else "vector" if forest.vector_leaves else "scalar",
        missing=bool((columns.fill[numeric] != 0.0).any() or columns.zero_missing[numeric].any()),
        categories=canonical.has_categories,
    )


def distance(a: ShapeClass, b: ShapeClass) -> float | None:
    """Doublings between two classes; None where they differ in kind, or lie further than `NEAR` apart."""
    kinds = ("acc_dtype", "input_dtype", "leaf", "missing", "categories")
    if any(getattr(a, name) != getattr(b, name) for name in kinds):
        return None
    sizes = ("trees", "leaves", "depth", "predicates", "features")
    apart = float(sum(abs(getattr(a, name) - getattr(b, name)) for name in sizes))
    apart += abs(math.log2(a.outputs / b.outputs))
    return apart if apart <= NEAR else None


def digest(forest: Forest) -> str:
    """32 hexadecimal digits of everything that scoring depends on."""
    state = hashlib.sha256()
    for name, array in scoring_arrays(forest).items():
        state.update(f"{name} {array.dtype.str} {array.shape};".encode())
        state.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    state.update(repr(sorted(scoring_scalars(forest).items())).encode())
    return state.hexdigest()[:32]


def scoring_arrays(forest: Forest) -> dict[str, np.ndarray]:
    """name -> array of a forest, of all that scoring depends on; category tables as ``known_<feature>``."""
    names = [
        *("tree_offset", "tree_output", "kind", "feature", "threshold", "missing", "default_left", "left", "right"),
        *("category_set", "set_offset", "set_values", "leaf", "leaf_id", "values", "base_score"),
        *("linear_offset", "linear_feature", "linear_coef", "linear_const"),
    ]
    arrays = {name: getattr(forest, name) for name in names if getattr(forest, name) is not None}
    return arrays | {f"known_{f}": np.asarray(known) for f, known in sorted(forest.known_categories.items())}


def scoring_scalars(forest: Forest) -> dict[str, Any]:
    """name -> value of a forest's other fields that scoring depends on; JSON values."""
    return {
        "n_features": int(forest.n_features),
        "divisor": int(forest.divisor),
        "input_dtype": forest.input_dtype,
        "integer_dtype": forest.integer_dtype,
        "missing_value": float(forest.missing_value).hex(),
        "zero_band": float(forest.zero_band).hex(),
        "category_rule": forest.category_rule,
    }


@dataclass(frozen=True)
class TargetKey:
    """Where times were measured.

    Args:
        kind: TVM's kind of target, "llvm" or "cuda".
        machine: Architecture, by LLVM's name, or of the GPU: "sm_90".
        cpu: LLVM's name of the CPU, or of the level; or the name of the GPU, in small letters with - between words.
        features: Those of `FEATURES` that code may use.
        cores: CPUs of the device, 0: unknown; or multiprocessors of the GPU.
    """

    kind: str
    machine: str
    cpu: str
    features: tuple[str, ...]
    cores: int

    @property
    def name(self) -> str:
        """The name of the folder of this key's records."""
        return f"{self.stem}-{self.cores}c"

    @property
    def stem(self) -> str:
        """The name without the number of cores: times are those of one thread, so that another number of cores does
        not rule a record out."""
        return "-".join([self.kind, self.machine, self.cpu, *(["+".join(self.features)] if self.features else [])])


def target_key(where: CpuTarget, cores: int | None = None) -> TargetKey:
    """The key of a resolved target, on this machine unless ``cores`` says of what device."""
    if cores is None:
        cores = available_cpus() if where.native else 0
    features = tuple(name for name in FEATURES if name in where.features)
    return TargetKey("llvm", where.machine, where.cpu, features, cores)


def gpu_key(gpu: Mapping[str, Any]) -> TargetKey:
    """The key of a GPU, of its "name", "arch" and "multiprocessors" as `runtime.cuda_driver.facts` tells them."""
    name = re.sub(r"[^a-z0-9]+", "-", gpu["name"].lower()).strip("-") or "unnamed"
    return TargetKey("cuda", gpu["arch"], name, (), gpu["multiprocessors"])


def to_json(value: ShapeClass | TargetKey) -> dict[str, Any]:
    return asdict(value)


def shape_from_json(data: Mapping[str, Any]) -> ShapeClass:
    """The inverse of `to_json`.

    Raises:
        InputError: it is none.
    """
    return _checked(ShapeClass, dict(data))


def target_from_json(data: Mapping[str, Any]) -> TargetKey:
    """The inverse of `to_json`.

    Raises:
        InputError: it is none.
    """
    fields = dict(data)
    if isinstance(fields.get("features"), (list, tuple)) and all(isinstance(f, str) for f in fields["features"]):
        fields["features"] = tuple(fields["features"])
    return _checked(TargetKey, fields)


def _checked(cls: Any, fields: dict[str, Any]) -> Any:
    types = {"int": int, "str": str, "bool": bool, "tuple[str, ...]": tuple}
    wanted = {name: types[annotation] for name, annotation in cls.__annotations__.items()}
    for name in sorted(wanted.keys() ^ fields.keys()):
        raise InputError(f"{cls.__name__}: the field {name!r} is {'absent' if name in wanted else 'unknown'}")
    for name, kind in wanted.items():
        if type(fields[name]) is not kind:
            raise InputError(f"{cls.__name__}: {name} must be {kind.__name__}, found {fields[name]!r}")
    if cls is ShapeClass and fields["outputs"] < 1:
        raise InputError(f"ShapeClass: outputs must be at least 1, found {fields['outputs']}")
    return cls(**fields)
