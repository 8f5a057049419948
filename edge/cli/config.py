"""`edge config`: is it valid, and what is in force."""

from __future__ import annotations

import os
import re

import click
import msgspec
import yaml

from edge.cli import options, output
from edge.config import reader


@click.group("config")
def command() -> None:
    """Check and show the configuration."""


@command.command()
@click.argument("file", required=False)
@options.config_file
def check(file: str | None, config_file: str | None) -> None:
    """Validate FILE, or the configuration that `edge serve` would read.

    Exit code 2, with file, line and key, where something is wrong.
    """
    reader.load(file or config_file)
    click.echo(f"ok: {_source(file or config_file)}")


@command.command()
@options.config_file
@options.as_json
def show(config_file: str | None, as_json: bool) -> None:
    """Print every value in force, defaults included."""
    tree = msgspec.to_builtins(reader.load(config_file))
    if as_json:
        output.json(tree)
        return
    click.echo(f"# from {_source(config_file)}")
    click.echo(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), nl=False)


def _source(explicit: str | None) -> str:
    path = reader.find_file(explicit)
    variables = [name for name in sorted(os.environ) if re.match(r"EDGE_[A-Z0-9_]+?__", name)]
    return ", ".join([str(path) if path else "defaults (no file)", *variables])
