"""The one form of every error on the terminal: what happened, and what to try."""

from __future__ import annotations

import click


def report(message: str, hint: str | None) -> None:
    click.echo(f"Error: {message}", err=True)
    if hint:
        click.echo(f"Try: {hint}", err=True)
