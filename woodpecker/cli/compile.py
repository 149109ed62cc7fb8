"""``woodpecker compile``: a model file to an artifact."""

from __future__ import annotations

import time
from inspect import signature
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from .common import check_input, command, parse_options, parse_range, progress, size


@command
def main(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="XGBoost .json or .ubj, or LightGBM .txt file.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", help="The .so or .wasm to write, or a static library .a.", show_default=False),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            help='"llvm" (this machine, the default), "x86-64-v3", ..., "aarch64", "armv7", "riscv64", "wasm32", a '
            "triple like aarch64-linux-musl, or a TVM target; may be repeated for code of several CPU levels; "
            '"x86-64" is v2, v3 and v4; "cuda" or "cuda -arch=sm_90" adds code for GPUs.'
        ),
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="auto, gemm, tree_traversal, perfect_tree_traversal, bitslice, scan or depth_rule.")
    ] = "auto",
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the strategy, as name=value; may be repeated.")
    ] = None,
    precision: Annotated[str, typer.Option(help='"exact", or "fast" for float32 sums.')] = "exact",
    post_transform: Annotated[
        str | None, typer.Option(help="What predict applies to the raw scores, instead of the model's own.")
    ] = None,
    missing: Annotated[float, typer.Option(help="XGBoost: the value that counts as missing, beside NaN.")] = float(
        "nan"
    ),
    iteration_range: Annotated[
        str | None, typer.Option(metavar="START:STOP", help="Compile these boosting rounds only.")
    ] = None,
    symbol: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A name for the C function that returns the model.", show_default=False),
    ] = None,
    tuning_logs: Annotated[
        list[Path] | None,
        typer.Option(help="Tuning records to look into, instead of the user's; may be repeated.", show_default=False),
    ] = None,
) -> None:
    """Compile MODEL to a shared library, or to a static one.

    The result predicts with the bits of the library that trained the model. It runs where numpy and apache-tvm-ffi
    are installed, and from C without Python; neither the compiler nor that library is needed there.

    \b
    Examples:
      woodpecker compile model.ubj -o model.so
      woodpecker compile model.txt -o model.so --strategy tree_traversal --option unroll=4
      woodpecker compile model.json -o model.so --target x86-64-v3 --iteration-range 0:50
      woodpecker compile model.json -o model.so --target x86-64
      woodpecker compile model.json -o model.so --target aarch64
      woodpecker compile model.json -o model.wasm --target wasm32
      woodpecker compile model.json -o model.so --target "cuda -arch=sm_80,sm_90"
    """
    options = parse_options(option or [])
    rounds = parse_range(iteration_range)
    check_input(model)
    import woodpecker

    from ..runtime.files import check_output

    check_output(output, model)

    taken = [name for name, p in signature(woodpecker.compile).parameters.items() if p.kind is not p.VAR_KEYWORD]
    if mistaken := [name for name in options if name in taken]:
        raise InputError(f"--option {mistaken[0]} is no option of a strategy; compile --help lists what else there is")
    started = time.perf_counter()
    with progress(f"compiling {model.name}"):
        predictor = woodpecker.compile(
            str(model),
            target=target or "llvm",
            strategy=strategy,
            precision=precision,
            post_transform=post_transform,
            missing=missing,
            iteration_range=rounds,
            tuning_logs=tuning_logs or None,
            **options,
        )
        predictor.save(output, symbol=symbol)
    seconds = time.perf_counter() - started
    facts: dict[str, Any] = predictor.inspect()
    levels = f"{len(facts['levels'])} CPU levels, " if len(facts["levels"]) > 1 else ""
    from ..runtime import machine
    from ..runtime.cuda_facts import gpus

    also = f"\nand on {gpus(facts)}" if "cuda" in facts else ""
    typer.echo(
        f"{output}: {facts['n_trees']:,} trees, strategy {predictor.strategy} "
        f"({facts['plan'][-1]['reason']}), {levels}{size(output.stat().st_size)}, {seconds:.1f} s\n"
        f"runs on {machine.requirement([level['target'] for level in facts['levels']])}{also}"
    )
