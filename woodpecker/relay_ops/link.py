"""The link stage: raw scores (n, K) -> linked scores (n, K'), by the source library's own formula, dtype and order.

`exp`, `log1p` and `pow` are libm's. Where a library calls libm too (XGBoost, LightGBM, scipy's expit) the results are
normally equal to the bit; where it uses numpy's vector loops they may differ in the last place. The stated bound for
every link is 2 ULP.
"""

from __future__ import annotations

import contextlib
import math
import numbers
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import te, tirx

from ..errors import UnsupportedModelError
from .predicate import Expr, unbound

ULP_BOUND = 2


@dataclass(frozen=True)
class Elementwise:
    """A link that maps each score by itself. ``formula(x, args)`` keeps the dtype of x."""

    formula: Callable[[Expr, Mapping[str, Any]], Expr]


@dataclass(frozen=True)
class Softmax:
    """exp(x - max) / sum, or x - max - log(sum) where ``log``; ``sum_dtype`` None: the dtype of the scores."""

    sum_dtype: str | None = None
    log: bool = False


@dataclass(frozen=True)
class Argmax:
    """The index of the largest score, the first of equals, as a number of the scores' dtype: (n, 1)."""


@dataclass(frozen=True)
class Sort:
    """The scores of a row in ascending order."""


Link = Elementwise | Softmax | Argmax | Sort


_SPELLING: ContextVar[Callable[[float, str], Expr]] = ContextVar("spelling", default=tirx.const)


@contextlib.contextmanager
def spelled(constant: Callable[[float, str], Expr]) -> Iterator[None]:
    """Links that are emitted meanwhile have their constants from ``constant(value, dtype)``: a code generator may not
    print every number as it is."""
    token = _SPELLING.set(constant)
    try:
        yield
    finally:
        _SPELLING.reset(token)


def const(x: Expr, value: float) -> Expr:
    """A constant of the dtype of ``x``."""
    return _SPELLING.get()(value, str(x.ty.dtype))


def _sigmoid(x: Expr, args: Mapping[str, Any]) -> Expr:
    return const(x, 1.0) / (const(x, 1.0) + tirx.exp(const(x, -1.0) * x))


def _log_sigmoid(x: Expr, args: Mapping[str, Any]) -> Expr:
    # min(x, 0) - log1p(exp(-|x|)): neither overflows nor cancels.
    zero = const(x, 0.0)
    return tirx.Select(x < zero, x, zero) - tirx.log1p(tirx.exp(const(x, -1.0) * tirx.abs(x)))


def _xgb_sigmoid(x: Expr, args: Mapping[str, Any]) -> Expr:
    # XGBoost src/common/math.h, Sigmoid: exp saturates at 88.7, and the 1e-16 vanishes in float32 unless exp is tiny.
    negated = const(x, -1.0) * x
    limit = const(x, 88.7)
    capped = tirx.Select(negated < limit, negated, limit)
    return const(x, 1.0) / (tirx.exp(capped) + const(x, 1.0) + const(x, 1e-16))


def _lgb_sigmoid(x: Expr, args: Mapping[str, Any]) -> Expr:
    return const(x, 1.0) / (const(x, 1.0) + tirx.exp(const(x, -float(args.get("sigmoid", 1.0))) * x))


def _lgb_sqrt(x: Expr, args: Mapping[str, Any]) -> Expr:
    # LightGBM's Common::Sign(x) * x * x; Sign(0) is 0.
    sign = tirx.Select(x > const(x, 0.0), const(x, 1.0), tirx.Select(x < const(x, 0.0), const(x, -1.0), const(x, 0.0)))
    return sign * x * x


def _isolation_score(x: Expr, args: Mapping[str, Any]) -> Expr:
    exponent = const(x, -1.0) * (x / const(x, float(args["denominator"])))
    return const(x, -1.0) * tirx.pow(const(x, 2.0), exponent)


LINKS: dict[str, Link] = {
    "sigmoid": Elementwise(_sigmoid),
    "log_sigmoid": Elementwise(_log_sigmoid),
    "exp": Elementwise(lambda x, args: tirx.exp(x)),
    "softmax": Softmax(),
    "log_softmax": Softmax(log=True),
    "argmax": Argmax(),
    "xgb_sigmoid": Elementwise(_xgb_sigmoid),
    "xgb_softmax": Softmax(sum_dtype="float64"),
    "xgb_sort": Sort(),
    "xgb_hinge": Elementwise(lambda x, args: tirx.Select(x > const(x, 0.0), const(x, 1.0), const(x, 0.0))),
    "lgb_sigmoid": Elementwise(_lgb_sigmoid),
    "lgb_ova": Elementwise(_lgb_sigmoid),
    "lgb_softmax": Softmax(),
    "lgb_cross_entropy_lambda": Elementwise(lambda x, args: tirx.log1p(tirx.exp(x))),
    "lgb_sqrt": Elementwise(_lgb_sqrt),
    "sk_softmax": Softmax(),
    "sk_sigmoid2": Elementwise(lambda x, args: _sigmoid(const(x, 2.0) * x, args)),
    "isolation_score": Elementwise(_isolation_score),
}
"""Name -> link. "identity" is no stage, so it is not here."""

PARAMETERS = ("divide", "sigmoid", "denominator")

POST_TRANSFORMS = ("none", "sigmoid", "softmax", "log_sigmoid", "log_softmax", "exp")
"""The links that `compile(post_transform=...)` takes by a library-neutral name; those of LINKS work as well."""


def find(name: str) -> Link:
    """The link of this name.

    Raises:
        UnsupportedModelError: there is none.
    """
    if name not in LINKS:
        raise UnsupportedModelError(f"unknown link {name!r}; known: identity, {', '.join(LINKS)}")
    return LINKS[name]


def arguments(name: str, args: Mapping[str, Any]) -> dict[str, float]:
    """The parameters among ``args`` that the code of a link depends on.

    Raises:
        UnsupportedModelError: one that it needs is absent, or one is no finite number other than 0.
    """
    if name == "isolation_score" and "denominator" not in args:
        raise UnsupportedModelError("the link 'isolation_score' needs the argument 'denominator'")
    found: dict[str, float] = {}
    for key in (k for k in PARAMETERS if k in args):
        value = args[key]
        try:
            found[key] = int(value) if isinstance(value, numbers.Integral) else float(value)
            sound = isinstance(value, numbers.Real) and not isinstance(value, bool)
            sound = sound and math.isfinite(found[key]) and found[key] != 0
        except (TypeError, ValueError, OverflowError):
            sound = False
        if not sound:
            raise UnsupportedModelError(
                f"the argument {key!r} of link {name!r} must be a finite number other than 0, found {value!r}"
            )
    return found


def prescale(x: Expr, args: Mapping[str, Any]) -> Expr:
    """LightGBM's random forests divide the sum by the iterations before the objective's transform."""
    x = unbound(x)
    return x / const(x, float(args["divide"])) if "divide" in args else x


def precedes(x: Expr, i: Expr, y: Expr, j: Expr) -> Expr:
    """Whether score x at i comes before score y at j in ascending order; equals keep their order."""
    return tirx.Or(x < y, tirx.And(x <= y, tirx.And(y <= x, i < j)))


def forward(raw: te.Tensor, name: str, args: Mapping[str, Any]) -> te.Tensor:
    """TE graph: raw scores (n, K) -> linked scores (n, K')."""
    n, width = raw.shape[0], int(raw.shape[1])
    if name == "identity":
        return te.compute((n, width), lambda r, k: prescale(raw[r, k], args), "linked")
    link = find(name)
    if isinstance(link, Elementwise):
        return te.compute((n, width), lambda r, k: link.formula(prescale(raw[r, k], args), args), "linked")
    dtype = str(raw.dtype)
    x = te.compute((n, width), lambda r, k: prescale(raw[r, k], args), "scaled")
    if isinstance(link, Argmax):
        # Strictly larger replaces, so the first of equals stays: a fold over (value, index) from (-inf, 0).
        first = te.comm_reducer(
            lambda a, b: (tirx.Select(b[0] > a[0], b[0], a[0]), tirx.Select(b[0] > a[0], b[1], a[1])),
            lambda d0, d1: (tirx.const(-np.inf, d0), tirx.const(0, d1)),
        )
        k = te.reduce_axis((0, width), "k")
        _, best = te.compute((n,), lambda r: first((x[r, k], k), axis=k), "best")
        return te.compute((n, 1), lambda r, _: tirx.Cast(dtype, best[r]), "linked")
    if isinstance(link, Sort):
        j, k = te.reduce_axis((0, width), "j"), te.reduce_axis((0, width), "k")
        place = te.compute(
            (n, width), lambda r, i: te.sum(tirx.Select(precedes(x[r, j], j, x[r, i], i), 1, 0), axis=j), "place"
        )
        lowest = tirx.const(-np.inf, dtype)
        return te.compute(
            (n, width), lambda r, p: te.max(tirx.Select(place[r, k] == p, x[r, k], lowest), axis=k), "linked"
        )
    sum_dtype = link.sum_dtype or dtype
    k, j = te.reduce_axis((0, width), "k"), te.reduce_axis((0, width), "j")
    top = te.compute((n,), lambda r: te.max(x[r, k], axis=k), "top")
    e = te.compute((n, width), lambda r, k: tirx.exp(x[r, k] - top[r]), "exp")
    total = te.compute((n,), lambda r: te.sum(tirx.Cast(sum_dtype, e[r, j]), axis=j), "total")
    if link.log:
        return te.compute((n, width), lambda r, k: x[r, k] - top[r] - tirx.log(tirx.Cast(dtype, total[r])), "linked")
    return te.compute((n, width), lambda r, k: e[r, k] / tirx.Cast(dtype, total[r]), "linked")
