"""Options of `edge bundle make`: what goes into a bundle, as the contents that they make."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from edge.bundles.make import Contents

FILE = click.Path(path_type=Path)


def contents(command: Callable[..., None]) -> Callable[..., None]:
    """What goes in, as `contents`."""

    @click.option("--name", required=True, help="Of this line of bundles.")
    @click.option("--version", type=int, required=True, help="Higher than that of the one before.")
    @click.option(
        "--model",
        "models",
        multiple=True,
        metavar="NAME[@VERSION]",
        help="An installed model, to be used as soon as it is installed there; may be repeated.",
    )
    @click.option(
        "--waiting",
        multiple=True,
        metavar="NAME[@VERSION]",
        help="The same, but it waits there for `edge models use`.",
    )
    @click.option("--catalog", type=FILE, help="Entries as in models/catalog.yaml.")
    @click.option("--config", "config", type=FILE, help="The configuration to lay down there.")
    @click.option("--wheels", type=FILE, multiple=True, help="A wheel, or a folder of wheels.")
    @click.option("--architecture", help="As `uname -m` has it; else that of the wheels, or any.")
    @functools.wraps(command)
    def gathered(
        name: str,
        version: int,
        models: tuple[str, ...],
        waiting: tuple[str, ...],
        catalog: Path | None,
        config: Path | None,
        wheels: tuple[Path, ...],
        architecture: str | None,
        **others: Any,
    ) -> None:
        found = tuple(
            one for path in wheels for one in (path.glob("*.whl") if path.is_dir() else [path])
        )
        made = Contents(name, version, models, waiting, catalog, config, found, architecture)
        command(contents=made, **others)

    return gathered
