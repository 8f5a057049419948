"""`edge backup`: all that this appliance is, but for its models' weights, in one file."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from edge.backup.make import STDOUT, make
from edge.backup.parts import Manifest
from edge.cli import options, output
from edge.config import reader
from edge.config.place import state_dir
from edge.errors import ConfigError


@click.command("backup")
@click.argument("file")
@click.option("--state", type=click.Path(path_type=Path), metavar="DIR", help="Of this directory.")
@options.config_file
@options.as_json
def command(file: str, state: Path | None, config_file: str | None, as_json: bool) -> None:
    """Write configuration, keys, certificates, queue, files, audit log and manifests to FILE.

    The daemon may run. `-` is the standard output. The file holds secrets.
    """
    try:
        device = reader.load(config_file).device.id
    except ConfigError:  # a backup is of what there is
        device = ""
    manifest = make(file, state or state_dir(), reader.find_file(config_file), device)
    if as_json:
        output.json({"file": file, **facts(manifest)}, err=file == STDOUT)
    else:
        click.echo(f"{file} is written: {told(manifest)}", err=file == STDOUT)
        click.echo("It holds secrets: keep it as you keep keys.", err=True)


def facts(manifest: Manifest) -> dict[str, object]:
    """For programs."""
    members = msgspec.to_builtins(manifest)
    return {**members, "entries": [{"path": e.path, "size": e.size} for e in manifest.entries]}


def told(manifest: Manifest) -> str:
    """What is in it."""
    counts = {
        "keys": len(manifest.of("keys")),
        "files": len(manifest.of("files")),
        "names of models": len(manifest.of("models/names")),
    }
    there = ["queue"] * bool(manifest.of("jobs.sqlite"))
    there += [f"{count} {what}" for what, count in counts.items() if count]
    there += [part for part in ("certs", "audit") if manifest.of(part)]
    return f"{', '.join(there)}; {output.size(manifest.bytes)}"
