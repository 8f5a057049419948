"""`edge serve`: the daemon in the foreground, as systemd wants it."""

from __future__ import annotations

import gc

import click

from edge.cli import options
from edge.config import reader
from edge.config.place import state_dir
from edge.modelstore.store import ModelStore


@click.command("serve")
@options.config_file
def command(config_file: str | None) -> int:
    """Run the appliance until it is told to stop."""
    # The configuration may be part of what an install was killed over.
    ModelStore(state_dir() / "models").settle()
    settings = reader.load(config_file)
    # What the imports make stays for good: looking for garbage among it takes a fifth of their
    # time, and comes again with every search for the daemon's own, and at the exit.
    gc.disable()
    # Brings in uvicorn, FastAPI and all the rest; a refused configuration need not wait for it.
    from edge import daemon

    gc.freeze()
    gc.enable()
    return daemon.run(settings)
