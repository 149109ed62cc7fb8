"""``woodpecker device serve``: let this machine measure for tuning jobs elsewhere."""

from __future__ import annotations

from typing import Annotated

import typer

from .common import EXIT_CODES, command

app = typer.Typer(no_args_is_help=True, help="Serve as a device of tuning jobs.", epilog=EXIT_CODES)


@app.callback()
def top() -> None:
    """Serve as a device of tuning jobs."""


@app.command("serve", epilog=EXIT_CODES)
@command
def serve(
    tracker: Annotated[str, typer.Option(metavar="HOST:PORT", help="TVM RPC tracker.", show_default=False)],
    key: Annotated[str, typer.Option(help="What jobs ask for, such as the kind of device.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0: all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The first port to try.")] = 9090,
    port_end: Annotated[int, typer.Option(min=1, max=65536, help="The first port not to try.")] = 9199,
) -> None:
    """Run TVM's RPC server on this machine until interrupted, and start it again where a candidate crashes it.

    The server runs whatever code it is sent, for anyone who can connect: use it in networks that you trust.

    \b
    Examples:
      python -m tvm.exec.rpc_tracker --port 9190
      woodpecker device serve --tracker 127.0.0.1:9190 --key board
    """
    from ..tuning import remote

    remote.address(tracker)
    typer.echo(f"serving as {key} for {tracker}; interrupt to stop")
    remote.serve(tracker, key, host, port, port_end)
