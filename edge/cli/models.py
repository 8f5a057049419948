"""`edge models`: what can be fetched, fetching it, which version a name means, taking it away."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import click
import msgspec

from edge.cli import options, output, progress
from edge.cli.advice import advice, packed_here
from edge.cli.switching import reference, rollback, use
from edge.config import reader
from edge.config.models import Engine
from edge.config.place import state_dir
from edge.errors import EdgeError, ModelNotFound
from edge.fleet.installed import guard_of
from edge.modelstore import folders, gguf
from edge.modelstore.catalog import Entry, FileSource, UrlSource, Wanted, load_catalog
from edge.modelstore.folders import InstalledFolder
from edge.modelstore.pace import Pace
from edge.modelstore.parts import model_name, parts_at
from edge.modelstore.pull import pull as fetch
from edge.modelstore.store import Installed, ModelStore
from edge.modelstore.sweep import Swept, remove, sweep
from edge.modelstore.versions import Measured

KINDS = {"adapter": "LoRA adapter, for MODEL+ADAPTER", "folder": "ONNX model in a folder"}
"""What stands for a title where nobody has given one."""


class Commands(click.Group):
    """Those below, and one that is imported on use, for it brings all with it that runs models."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), "optimize"])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name != "optimize":
            return super().get_command(ctx, cmd_name)
        return import_module("edge.cli.optimize").command  # type: ignore[no-any-return]


@click.group("models", cls=Commands)
def command() -> None:
    """The models on this machine, and those that can be fetched."""


command.add_command(use)
command.add_command(rollback)


@command.command("list")
@options.as_json
def list_(as_json: bool) -> None:
    """Show the catalog and what is installed."""
    store = _store()
    catalog = load_catalog(added=store.catalogs)
    installed = {model.name: model for model in store.installed()}
    in_folders = {folder.name: folder for folder in folders.installed(store)}
    names = dict.fromkeys([*catalog, *installed, *in_folders])
    facts = [
        _folder_facts(in_folders[name], catalog.get(name))
        if name in in_folders and name not in installed
        else _facts(store, name, catalog.get(name), installed.get(name))
        for name in names
    ]
    if as_json:
        output.json(facts)
        return
    table = output.columns("NAME", "INSTALLED", "SIZE", "CONTEXT", "MEMORY", "LICENCE", "TITLE")
    for row in facts:
        table.add_row(
            row["name"],
            _which(row),
            output.size(row["size_bytes"]),
            str(row["context"] or "-"),
            output.size(row["memory_bytes"]) if row["memory_bytes"] else "-",
            row["licence"] or "-",
            row["title"] or KINDS.get(row["kind"], "-"),
        )
    output.show(table)
    for model in installed.values():
        kind = model.manifest.quantization if model.manifest else None
        if found := advice(store, model, kind, packed_here()):
            output.show(f"{model.name}: {found.finding}", f"  {found.command}")


@command.command()
@click.argument("model", metavar="NAME_OR_URL")
@click.option("--sha256", metavar="DIGEST", help="What the file at a URL has to be.")
@click.option("--name", help="What to call a model from a URL; else as its file.")
@click.option("--max-kbps", type=click.FloatRange(min=1), help="Use no more of the network.")
@options.as_json
def pull(
    model: str, sha256: str | None, name: str | None, max_kbps: float | None, as_json: bool
) -> None:
    """Fetch a model of the catalog, or of a web server; check and install it.

    A download that was cut is taken up where it stopped. A name that is there already gets
    another version, and keeps its meaning until `edge models use`.
    """
    wanted = _wanted(model, sha256, name)
    pace = Pace(max_kbps) if max_kbps else None
    with progress.shown(wanted.name) as watch:
        installed = fetch(_store(), wanted, watch, pace)
    _tell(installed, as_json)


@command.command("import")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--name", help="What to call the model; else as its file.")
@options.as_json
def import_(path: Path, name: str | None, as_json: bool) -> None:
    """Copy a model from a file, as on a USB stick; check and install it.

    Of one in parts, PATH is any of them or their folder; they are joined.
    """
    wanted = Wanted(
        name=name or model_name(parts_at(path)[0]), source=FileSource(str(path.absolute()))
    )
    with progress.shown(wanted.name) as watch:
        installed = fetch(_store(), wanted, watch)
    _tell(installed, as_json)


@command.command()
@click.argument("name")
@options.as_json
def show(name: str, as_json: bool) -> None:
    """Show one model, or NAME@VERSION; an installed file is checked and read."""
    store = _store()
    entry = load_catalog(added=store.catalogs).get(name)
    installed = store.find(name)
    folder = folders.find(store, name) if installed is None else None
    if installed is None and folder is None and entry is None:
        store.path(name)  # raises the error that has the names there are
    facts = _facts(store, name, entry, installed)
    if folder is not None:
        facts = _folder_facts(folder, entry)
        facts["problem"] = folders.problem(store, name)
    if installed is not None:
        header = gguf.read_installable(installed.path)
        facts["file"] = msgspec.to_builtins(header)
        if isinstance(header, gguf.GgufHeader):
            facts["advice"] = advice(store, installed, header.file_type, packed_here())
    if as_json:
        output.json(facts)
        return
    file, known = facts.pop("file", {}), facts.pop("versions")
    found = facts.pop("advice", None)
    table = output.columns("", "")
    table.show_header = False
    for key, value in [*facts.items(), *((f"file.{key}", value) for key, value in file.items())]:
        table.add_row(key, _for_people(key, value))
    for one in known:
        active = f", active since {one['activated_at']} by {one['activated_by']}"
        what = f"{one['source']}, {one['sha256'][:12]}, {one['pulled_at']}"
        state = active if one["active"] else ""
        if one["refused"]:
            state = f", refused {one['refused']['at']}: {output.harmless(one['refused']['reason'])}"
        table.add_row(f"version {one['version']}", what + state)
        if one["measured"]:
            table.add_row("", _told(Measured(**one["measured"])))
    output.show(table)
    if found:
        output.show(found.finding, f"  {found.command}")


@command.command()
@click.argument("name")
@options.as_json
def rm(name: str, as_json: bool) -> None:
    """Remove a model with all its versions, or NAME@VERSION. One that is served stays."""
    _tell_swept(remove(_store(), name), as_json)


@command.command()
@options.as_json
def gc(as_json: bool) -> None:
    """Remove files that no name needs, and downloads that nobody went on with for a week."""
    _tell_swept(sweep(_store()), as_json)


def _store() -> ModelStore:
    return ModelStore(state_dir() / "models")


def _wanted(model: str, sha256: str | None, name: str | None) -> Wanted:
    """Raises `ModelNotFound` for what the catalog does not have, `click.UsageError`."""
    if "://" in model:
        if sha256 is None or not re.fullmatch("[0-9a-f]{64}", sha256.lower()):
            raise click.UsageError("a URL needs --sha256, the 64 hexadecimal digits of its file")
        called = name or Path(unquote(urlsplit(model).path)).name.removesuffix(".gguf")
        return Wanted(name=called, source=UrlSource(model, sha256.lower()))
    if sha256 is not None or name is not None:
        raise click.UsageError("--sha256 and --name are for a URL; the catalog has its own")
    entry = load_catalog(added=_store().catalogs).get(model)
    if entry is None:
        raise ModelNotFound(
            f"the catalog has no model {model!r}", param="name", hint="edge models list"
        )
    return entry


def _tell(model: Installed, as_json: bool) -> None:
    if as_json:
        output.json(reference(model))
    elif model.active:
        click.echo(f"{model.name} is installed: {model.path}")
    else:
        click.echo(f"{model.name}@{model.version} is installed: {model.path}")
        click.echo(f"{model.name} means what it did. To change that:")
        click.echo(f"  edge models use {model.name}@{model.version}")


def _tell_swept(swept: Swept, as_json: bool) -> None:
    if as_json:
        output.json(swept)
        return
    for path in swept.removed:
        click.echo(f"removed {path}")
    for path in swept.busy:
        click.echo(f"in use, stays for now: {path}")
    click.echo(f"{output.size(swept.freed_bytes)} are free again")


def _facts(
    store: ModelStore, name: str, entry: Entry | None, installed: Installed | None
) -> dict[str, Any]:
    """What is known of a model; None where nobody says."""
    manifest = installed.manifest if installed else None
    return {
        "name": name,
        "installed": installed is not None,
        "path": str(installed.path) if installed else None,
        "size_bytes": installed.size if installed else entry and entry.size_mb * 1_000_000,
        "title": entry and entry.title,
        "kind": manifest.kind if manifest else None,
        "licence": manifest.licence or None if manifest else entry and entry.licence,
        "context": (manifest and manifest.context) or (entry and entry.context),
        "memory_bytes": _memory(installed) if installed else entry and entry.memory_mb * 1_000_000,
        "source": manifest.source if manifest else entry and str(entry.source),
        "version": installed.version if installed else None,
        "versions": _versions(store, installed) if installed else [],
    }


def _folder_facts(folder: InstalledFolder, entry: Entry | None) -> dict[str, Any]:
    """The same of a model in a folder, whose versions are its own."""
    record = folder.record
    return {
        "name": folder.name,
        "installed": True,
        "path": str(folder.path),
        "size_bytes": folder.size,
        "title": entry and entry.title,
        "kind": "folder",
        "licence": record.licence or None if record else None,
        "context": entry and entry.context,
        "memory_bytes": entry and entry.memory_mb * 1_000_000,
        "source": record.source if record else None,
        "version": None,
        "versions": [],
    }


def _memory(installed: Installed) -> int | None:
    """What it is predicted to take with the settings in force, if memory is no question; None for
    a file that no model can be loaded from, and where that is not known."""
    try:
        engine = reader.load().engine
    except EdgeError:  # a matter for `edge config check`
        engine = Engine()
    try:
        guard = guard_of(installed.name, gguf.read_header(installed.path), engine)
    except EdgeError:
        return None
    return None if guard is None else guard.predict().predicted_bytes


def _versions(store: ModelStore, model: Installed) -> list[dict[str, Any]]:
    known = store.known(model.name)
    return [
        {"version": one.number, "active": one.number == known.active}
        | msgspec.to_builtins(one.manifest)
        | {"activated_at": one.activated_at, "activated_by": one.activated_by}
        | {"refused": msgspec.to_builtins(one.refused)}
        for one in known.versions
    ]


def _told(measured: Measured) -> str:
    """Figures of a version in one line."""
    speed = f"{measured.speed:.2f} ({measured.slowest:.2f} to {measured.fastest:.2f})"
    perplexity = f"{measured.perplexity:.2f} after {measured.source_perplexity:.2f}"
    return (
        f"{speed} times as fast as version {measured.against} on {measured.machine}; "
        f"KL {measured.divergence:.4f}, {measured.agreement:.1%} of the tokens the same, "
        f"perplexity {perplexity}"
    )


def _which(row: dict[str, Any]) -> str:
    count = len(row["versions"])
    if count < 2 or not row["version"]:
        return "yes" if row["installed"] else "-"
    return f"{row['version']} of {count}"


def _for_people(key: str, value: Any) -> str:
    if value is None:
        return "-"
    return output.size(value) if key.endswith("_bytes") else output.harmless(str(value))
