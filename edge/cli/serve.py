"""`edge serve`: the daemon in the foreground, as systemd wants it."""

from __future__ import annotations

import click

from edge import config_reader
from edge.cli import options


@click.command("serve")
@options.config_file
def command(config_file: str | None) -> int:
    """Run the appliance until it is told to stop."""
    settings = config_reader.load(config_file)
    # Brings in uvicorn, FastAPI and all the rest; a refused configuration need not wait for it.
    from edge import daemon

    return daemon.run(settings)
