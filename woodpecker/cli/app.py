"""The command line's top: joins the commands."""

from __future__ import annotations

from typing import Annotated

import typer

from . import bench, bundle, compile, device, inspect, measure, predict, tune, verify
from .common import BAD_INPUT, EXIT_CODES, OK, flushed, report

app = typer.Typer(
    name="woodpecker",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)


def _version(asked: bool) -> None:
    if asked:
        from woodpecker import __version__

        typer.echo(f"woodpecker {__version__}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Compile tree ensembles to shared libraries that predict with the bits of the library that trained them.

    \b
    A model file is XGBoost's .json or .ubj, or LightGBM's .txt. For scikit-learn
    models, which have no safe file format, use woodpecker.compile in Python.

    \b
    Example, from a model to checked predictions:
      woodpecker compile model.ubj -o model.so
      woodpecker verify model.ubj model.so --data rows.parquet
      woodpecker predict model.so rows.parquet -o predictions.parquet
    """


for _module in (compile, predict, inspect, verify, bundle, bench, tune, measure):
    app.command(_module.__name__.rpartition(".")[2], epilog=EXIT_CODES)(_module.main)
app.add_typer(device.app, name="device")


def run(arguments: list[str]) -> int:
    """The exit code of the command line with these arguments."""
    try:
        app(args=arguments, prog_name="woodpecker")
    except SystemExit as done:
        return flushed(done.code if isinstance(done.code, int) else int(done.code is not None))
    except OSError as error:  # the text of --help, or a usage error, could not be written
        return flushed(report(error, BAD_INPUT))
    return flushed(OK)
