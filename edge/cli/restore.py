"""`edge restore`: an appliance as it was when it was backed up."""

from __future__ import annotations

import time
from pathlib import Path

import click

from edge.backup import restore
from edge.backup.parts import Manifest
from edge.cli import options, output
from edge.cli.backup import facts, told
from edge.config import reader
from edge.config.place import state_dir
from edge.errors import EdgeError
from edge.modelstore.store import ModelStore


@click.command("restore")
@click.argument("file")
@click.option("--check", is_flag=True, help="Only read all of it, and say what it has.")
@click.option("--replace", is_flag=True, help="Also where there is an appliance already.")
@click.option("--state", type=click.Path(path_type=Path), metavar="DIR", help="To this directory.")
@options.config_file
@options.as_json
def command(
    file: str,
    check: bool,
    replace: bool,
    state: Path | None,
    config_file: str | None,
    as_json: bool,
) -> None:
    """Make the state directory what it was. The daemon has to be stopped.

    All of it or nothing, also when it is cut off. `-` is the standard input.
    """
    if check:
        manifest = restore.check(file)
        _tell(file, manifest, None, [], as_json)
        return
    place = state or state_dir()
    config = reader.find_file(config_file) or reader.SYSTEM_FILE
    restored = restore.restore(file, place, config, replace=replace)
    _tell(file, restored.manifest, restored.config, _missing(place, restored.manifest), as_json)


def _missing(state: Path, manifest: Manifest) -> list[str]:
    """Models whose weights are not here, or whose name says nothing."""
    store = ModelStore(state / "models")
    names = [Path(entry.path).stem for entry in manifest.of("models/names")]

    def there(name: str) -> bool:
        try:
            return store.find(name) is not None
        except EdgeError:  # what was restored is as it was
            return False

    return [name for name in names if not there(name)]


def _tell(
    file: str, manifest: Manifest, config: Path | None, missing: list[str], as_json: bool
) -> None:
    if as_json:
        place = None if config is None else str(config)
        output.json({**facts(manifest), "config": place, "missing_models": missing})
        return
    when = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(manifest.made))
    click.echo(f"{file}: of {manifest.device or 'an appliance'}, {when}, {told(manifest)}")
    if config is not None:
        click.echo(f"configuration: {config}")
    for name in missing:
        click.echo(f"without weights: {name}; edge models pull {name}, or import")
