"""`edge models`: what can be fetched, fetching it, and what a file says about itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from edge import config
from edge.cli import options, output
from edge.errors import ModelNotFound
from edge.modelstore import gguf
from edge.modelstore.catalog import Entry, load_catalog
from edge.modelstore.pull import pull as fetch
from edge.modelstore.store import Installed, ModelStore
from edge.modelstore.workspace import Progress as Watcher


@click.group("models")
def command() -> None:
    """The models on this machine, and those that can be fetched."""


@command.command("list")
@options.as_json
def list_(as_json: bool) -> None:
    """Show the catalog and what is installed."""
    catalog = load_catalog()
    installed = {model.name: model for model in _store().installed()}
    names = [*catalog, *(name for name in installed if name not in catalog)]
    facts = [_facts(name, catalog.get(name), installed.get(name)) for name in names]
    if as_json:
        output.json(facts)
        return
    table = output.columns("NAME", "INSTALLED", "SIZE", "CONTEXT", "MEMORY", "LICENCE", "TITLE")
    for row in facts:
        table.add_row(
            row["name"],
            "yes" if row["installed"] else "-",
            output.size(row["size_bytes"]),
            str(row["context"] or "-"),
            output.size(row["memory_bytes"]) if row["memory_bytes"] else "-",
            row["licence"] or "-",
            row["title"] or "-",
        )
    output.show(table)


@command.command()
@click.argument("name")
@options.as_json
def pull(name: str, as_json: bool) -> None:
    """Fetch a model of the catalog, check it and install it."""
    entry = load_catalog().get(name)
    if entry is None:
        raise ModelNotFound(
            f"the catalog has no model {name!r}", param="name", hint="edge models list"
        )
    with _progress(name) as watch:
        path = fetch(_store(), entry, watch)
    if as_json:
        output.json({"name": name, "path": str(path)})
    else:
        click.echo(f"{name} is installed: {path}")


@command.command()
@click.argument("name")
@options.as_json
def show(name: str, as_json: bool) -> None:
    """Show one model; an installed file is checked and read."""
    store, entry = _store(), load_catalog().get(name)
    installed = store.find(name)
    if installed is None and entry is None:
        store.path(name)  # raises the error that has the names there are
    facts = _facts(name, entry, installed)
    if installed is not None:
        facts["file"] = msgspec.to_builtins(gguf.read_header(installed.path))
    if as_json:
        output.json(facts)
        return
    file = facts.pop("file", {})
    table = output.columns("", "")
    table.show_header = False
    for key, value in [*facts.items(), *((f"file.{key}", value) for key, value in file.items())]:
        table.add_row(key, _for_people(key, value))
    output.show(table)


def _store() -> ModelStore:
    return ModelStore(config.state_dir() / "models")


def _facts(name: str, entry: Entry | None, installed: Installed | None) -> dict[str, Any]:
    """What is known of a model without opening its file; None where nobody says."""
    manifest = installed.manifest if installed else None
    return {
        "name": name,
        "installed": installed is not None,
        "path": str(installed.path) if installed else None,
        "size_bytes": installed.size if installed else entry and entry.size_mb * 1_000_000,
        "title": entry and entry.title,
        "licence": manifest.licence if manifest else entry and entry.licence,
        "context": entry and entry.context,
        "memory_bytes": entry and entry.memory_mb * 1_000_000,
        "source": manifest.source if manifest else entry and str(entry.source),
    }


def _for_people(key: str, value: Any) -> str:
    if value is None:
        return "-"
    return output.size(value) if key.endswith("_bytes") else output.harmless(str(value))


@contextmanager
def _progress(name: str) -> Iterator[Watcher]:
    """A bar on a terminal, else a line for each tenth, as logs and CI can bear."""
    if not sys.stderr.isatty():
        yield _Lines(name)
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """Says how far a pull is whenever another tenth of it is there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tenths = -1

    def __call__(self, done: int, total: int) -> None:
        tenths = 10 * done // total if total else 0
        if tenths > self.tenths:
            self.tenths = tenths
            of = f"{output.size(done)} of {output.size(total)}"
            click.echo(f"{self.name}: {of} ({10 * tenths} %)", err=True)
