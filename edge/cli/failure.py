"""How failures end a command: one form on the terminal, and the exit codes.

FAILED: the command could not do its work. MISUSED: bad usage or configuration, which systemd does
not restart on. INTERRUPTED: stopped with Ctrl-C, as shells report it.
"""

from __future__ import annotations

import logging

import click

from edge.logs import PRIORITIES, to_journal

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


def report(message: str, hint: str | None) -> None:
    priority = f"<{PRIORITIES[logging.ERROR]}>" if to_journal() else ""
    click.echo(f"{priority}Error: {message}", err=True)
    if hint:
        click.echo(f"{priority}Try: {hint}", err=True)
