"""`edge serve`: the daemon in the foreground, as systemd wants it."""

from __future__ import annotations

import gc
import signal
from functools import partial

import click

from edge.backup import restore
from edge.cli import options
from edge.config import reader
from edge.config.place import state_dir
from edge.modelstore.store import ModelStore


@click.command("serve")
@options.config_file
def command(config_file: str | None) -> int:
    """Run the appliance until it is told to stop."""
    # One that comes before the daemon can read the configuration anew is answered then.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    restore.settle(state_dir(), reader.find_file(config_file) or reader.SYSTEM_FILE)
    # The configuration may be part of what an install was killed over.
    ModelStore(state_dir() / "models").settle()
    # Once: a file that was there at the start, and is not later, must not mean the defaults.
    path = reader.find_file(config_file)
    read = partial(reader.load, str(path) if path is not None else None)
    settings = read()
    # What the imports make stays for good: looking for garbage among it takes a fifth of their
    # time, and comes again with every search for the daemon's own, and at the exit.
    gc.disable()
    # Brings in uvicorn, FastAPI and all the rest; a refused configuration need not wait for it.
    from edge import daemon

    gc.freeze()
    gc.enable()
    return daemon.run(settings, read)
