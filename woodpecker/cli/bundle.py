"""``woodpecker bundle``: a folder with everything that a device needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .common import check_input, command, parse_options, progress, size


@command
def main(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="XGBoost .json or .ubj, LightGBM .txt, or a .so.", show_default=False),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to make.", show_default=False)],
    target: Annotated[
        list[str] | None,
        typer.Option(help="As for compile; may be repeated. Of a .so it is checked.", show_default=False),
    ] = None,
    strategy: Annotated[str | None, typer.Option(help="As for compile.", show_default=False)] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the strategy, as name=value; may be repeated.")
    ] = None,
) -> None:
    """Make a folder with MODEL for a device: the artifact, its C header, a C program, rows to check with, a README; for
    WebAssembly, the JavaScript that loads it.

    Nothing of it needs Python. The folder appears when it is complete.

    \b
    Examples:
      woodpecker bundle model.ubj --target aarch64 -o device
      woodpecker bundle model.ubj --target wasm32 -o web
      woodpecker bundle model.so -o device
    """
    check_input(model)
    from .. import bundle

    options: dict[str, Any] = parse_options(option or [])
    if strategy is not None:
        options["strategy"] = strategy
    with progress(f"bundling {model.name}"):
        names = bundle.write(model, output, target=target or None, **options)
    total = sum((output / name).stat().st_size for name in names)
    typer.echo(f"{output}: {', '.join(names)}; {size(total)}")
