"""compile(): the pipeline from a trained model to a predictor."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from .errors import InputError, UnsupportedModelError
from .forest import Forest, Method
from .frontend import to_forest
from .predicates import canonicalise
from .runtime import machine, threads
from .runtime.compiled import CompiledModel, Program
from .runtime.predictor import Predictor, make_predictor
from .targets import import_tvm, resolve_targets


def compile(
    model: Any,
    *,
    target: Any = "llvm",
    strategy: str = "auto",
    precision: str = "exact",
    post_transform: str | Callable[[np.ndarray], Any] | None = None,
    num_threads: int | None = None,
    missing: float = math.nan,
    iteration_range: tuple[int, int] | None = None,
    tuning_logs: Any = None,
    **strategy_options: int,
) -> Predictor:
    """Compile a trained tree ensemble.

    Args:
        model: A scikit-learn, XGBoost or LightGBM model; a model file (XGBoost .json or .ubj, LightGBM text); a
            `Forest`; or any object with ``__woodpecker_forest__`` or a registered frontend.
        target: "llvm" or "cpu" for this machine's CPU, "x86-64-v2", "x86-64-v3", "x86-64-v4", or a TVM target of kind
            llvm (tag, dictionary, JSON or object) for this architecture; or a sequence of these, CPU levels of which
            the last that a CPU can run is chosen when the model is loaded. "x86-64" is short for those three.
            "aarch64", "armv7", "riscv64", "wasm32" (WebAssembly) or a triple: other platforms. "cuda", "cuda
            -arch=sm_90,sm_100" or a TVM target of kind cuda: code for NVIDIA GPUs besides, beside this machine's CPU or
            those that a sequence names; needs the extra cuda, and no GPU.
        strategy: "auto", "gemm", "tree_traversal", "perfect_tree_traversal", "bitslice", "scan" or "depth_rule".
        precision: "exact": raw scores have the bits of the source library. "fast": leaf values and sums are float32,
            so a float64 library's raw scores differ by at most ``(T + 1) * 2**-24 * sum(abs(terms))``, to first order.
        post_transform: What `predict` returns of the raw scores instead of the source's own: "none", "sigmoid",
            "softmax", "log_sigmoid", "log_softmax", "exp", or a function of the raw scores (n, K), which is not saved.
        num_threads: Threads per call; None: by the amount of work, up to the CPUs available.
        missing: XGBoost boosters: the value that counts as missing, beside NaN.
        iteration_range: XGBoost and LightGBM: compile the trees of these boosting rounds only, [begin, end).
        tuning_logs: Folders or files of tuning records that "auto" looks into, before the shipped ones; None: the
            user's own folder, see `woodpecker.tuning.logs`; an empty list: no records, not even the shipped ones.
        **strategy_options: Options of the strategy; an unknown one is an error that lists the known ones. With CUDA
            code, also those of the walk on a GPU: "cuda_trees", "cuda_threads", "cuda_ranks", "cuda_few_rows" and
            "cuda_spread_trees".

    Returns:
        A `Predictor` with the methods of the source model; or, where code for the target can't run on this CPU, a
        `CompiledModel`, which can be saved. With CUDA code it predicts on this process's first GPU, where there is one
        that the code serves, else on the CPU, to the same bits; `inspect` says which, and why.

    Raises:
        InvalidModelError: the model contradicts itself. UnsupportedModelError: it has something that is not compiled;
            the message names it. StrategyError: the strategy or an option of it does not fit. TargetError: the target
            is unknown. InputError: another argument is wrong, or the environment variable WOODPECKER_CPU_LEVEL.
            MissingExtraError: TVM, or for CUDA code NVRTC, is not installed.
    """
    threads.resolve(num_threads)
    tvm = import_tvm()
    from .build import export, jit
    from .levels import make_levels
    from .manifest import build_manifest, link_stages
    from .relay_ops.relax import build_module
    from .runtime.format import in_level, pack

    targets, gpu_target = resolve_targets(target)
    number = machine.choose([where.manifest() for where in targets])
    forest = to_forest(model, missing=missing, iteration_range=iteration_range)
    forest = _with_post_transform(with_precision(forest, precision), post_transform)

    canonical = canonicalise(forest)
    half = None
    if gpu_target is not None:
        from . import levels_cuda

        strategy_options, half = levels_cuda.split_plan(canonical, gpu_target, strategy, strategy_options, tuning_logs)
    levels, directories = make_levels(canonical, targets, strategy, strategy_options, tuning_logs)
    links = link_stages(forest)

    manifest = build_manifest(canonical, levels, "", tvm.__version__)
    if gpu_target is not None and half is not None:
        made = levels_cuda.make(canonical, gpu_target, half, len(directories))
        manifest["cuda"], directories = made.manifest, [*directories, *made.directories]
    manifest["prefix"] = f"wp_{_digest(pack(directories, manifest))}"
    blob = pack(directories, manifest)

    gpu, no_gpu = None, None
    if gpu_target is not None and number is not None:
        from .runtime import cuda_model

        gpu, no_gpu = cuda_model.here(manifest, blob)

    best = levels[-1 if number is None else number]
    program = Program(
        entry=jit(best, links),
        model=blob,
        manifest=in_level(manifest, number),
        save=lambda path, **form: export(path, levels, manifest, blob, **form),
        to_relax=lambda x_dtype, method: build_module(
            canonical, x_dtype, forest.methods[method] if method else None, best.plan
        ),
        gpu=gpu,
        no_gpu=no_gpu,
    )
    custom = post_transform if callable(post_transform) else None
    if number is None:
        # Typed as what nearly every caller has: cross-compiling is the one case without `predict`.
        return cast(Predictor, CompiledModel(program, custom))
    for entry in ("raw_f32", *(["few_f32"] if best.few else [])):
        program.entry(entry)  # compile errors belong here, not in the first prediction
    return make_predictor(program, num_threads, custom)


def _digest(blob: np.ndarray) -> str:
    return hashlib.sha256(blob.data).hexdigest()[:16]


def with_precision(forest: Forest, precision: str) -> Forest:
    """A forest whose scores are computed as `compile` does for ``precision``.

    Raises:
        InputError: ``precision`` is neither "exact" nor "fast". UnsupportedModelError: it is "fast", and the forest
            has linear leaves.
    """
    if precision == "exact":
        return forest
    if precision != "fast":
        raise InputError(f"precision must be 'exact' or 'fast', found {precision!r}")
    if forest.linear_offset is not None:
        raise UnsupportedModelError("precision='fast' does not support linear leaves; use precision='exact'")
    with np.errstate(over="ignore"):
        narrow = {"values": forest.values.astype(np.float32), "base_score": forest.base_score.astype(np.float32)}
    return forest.replace(**narrow)


def _with_post_transform(forest: Forest, post_transform: Any) -> Forest:
    if post_transform is None:
        return forest
    if callable(post_transform):
        methods: Mapping[str, Method] = {"predict": Method("value")}
    else:
        from .relay_ops.link import LINKS, POST_TRANSFORMS

        name = "identity" if post_transform in ("none", "identity") else post_transform
        parametric = ("isolation_score",)  # its denominator is a number of the source model
        if not isinstance(name, str) or (name != "identity" and (name not in LINKS or name in parametric)):
            known = ", ".join(n for n in dict.fromkeys([*POST_TRANSFORMS, *LINKS]) if n not in parametric)
            raise InputError(f"unknown post_transform {post_transform!r}; known: {known}, or a callable")
        methods = {"predict": Method("value", name)}
    return forest.replace(methods=methods)
