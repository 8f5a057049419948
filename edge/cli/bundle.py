"""`edge bundle`: models, settings and wheels in one signed file, made here and installed there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from edge.bundles.install import Installer, Outcome
from edge.bundles.install import verify as check
from edge.bundles.keys import SigningKey, TrustedKeys, make_key
from edge.bundles.make import Contents
from edge.bundles.make import make as write
from edge.bundles.manifest import BundleManifest
from edge.cli import bundle_options, options, output, progress
from edge.cli.bundle_options import FILE
from edge.config import reader
from edge.config.place import state_dir
from edge.modelstore.store import ModelStore
from edge.updates.trust import FOLDER

_RESTART = "A daemon that runs serves it from its next start on."


@click.group("bundle")
def command() -> None:
    """Models, settings and wheels in one signed file, for machines without a network."""


@command.command()
@click.argument("file", type=FILE)
@options.as_json
def keygen(file: Path, as_json: bool) -> None:
    """Make a key that signs bundles, in FILE, and print the public one.

    It belongs into trusted-keys.d of each machine; one for software into update-keys.
    """
    key = make_key(file)
    if as_json:
        output.json({"public": key.public_pem(), "key": key.fingerprint})
        return
    click.echo(key.public_pem(), nl=False)
    click.echo(f"{file} has the private key: keep it. Its fingerprint: {key.fingerprint}", err=True)
    models = _trusted(None).folder
    click.echo(f"Each machine needs the lines above as {models}/NAME.pem,", err=True)
    click.echo(f"or for software, as {models.with_name(FOLDER)}/NAME.pem: never as both", err=True)


@command.command()
@click.argument("file", type=FILE)
@click.option("--key", type=FILE, required=True, help="The private key to sign with.")
@bundle_options.contents
@options.as_json
def make(file: Path, key: Path, contents: Contents, as_json: bool) -> None:
    """Write a bundle of models of this machine and other files to FILE."""
    signer = SigningKey(key)
    with progress.shown(file.name) as watch:
        manifest = write(file, contents, signer, _store(), watch)
    if as_json:
        output.json(_facts(manifest, signer.fingerprint))
    else:
        _tell(manifest, signer.fingerprint)
        click.echo(f"{file} is written: {output.size(file.stat().st_size)}")


def _allow_older(function: Any) -> Any:
    return click.option(
        "--allow-older", is_flag=True, help="Also one that is older than what is installed."
    )(function)


@command.command()
@click.argument("file", type=FILE)
@options.config_file
@_allow_older
@options.as_json
def verify(file: Path, config_file: str | None, allow_older: bool, as_json: bool) -> None:
    """Check signature and contents of a bundle, and whether it may be installed here.

    Trusted are the keys in trusted-keys.d beside the configuration.
    """
    with progress.shown(file.name) as watch:
        found = check(file, _store(), _trusted(config_file), allow_older, watch)
    if as_json:
        output.json(_facts(found.manifest, found.key))
    else:
        _tell(found.manifest, found.key)
        click.echo(f"{file} is whole, and may be installed here")


@command.command()
@click.argument("file", type=FILE)
@options.config_file
@_allow_older
@options.as_json
def install(file: Path, config_file: str | None, allow_older: bool, as_json: bool) -> None:
    """Install all of a bundle, or nothing. Needs no network.

    A configuration that was edited here stays, and the new one is laid beside it as .new.
    """
    installer = Installer(_store(), _config_place(config_file), _trusted(config_file))
    with progress.shown(file.name) as watch:
        outcome = installer.install(file, allow_older, watch)
    if as_json:
        output.json(_facts(outcome.manifest, outcome.key) | _changes(outcome))
    else:
        _tell_outcome(outcome)


def _store() -> ModelStore:
    return ModelStore(state_dir() / "models")


def _config_place(explicit: str | None) -> Path:
    """Where the configuration is, or would be looked for."""
    return reader.find_file(explicit) or reader.SYSTEM_FILE


def _trusted(config_file: str | None) -> TrustedKeys:
    return TrustedKeys(_config_place(config_file).absolute().parent / "trusted-keys.d")


def _facts(manifest: BundleManifest, key: str) -> dict[str, Any]:
    facts: dict[str, Any] = msgspec.to_builtins(manifest)
    return facts | {"key": key}


def _changes(outcome: Outcome) -> dict[str, Any]:
    return {
        "previous": outcome.previous,
        "installed": [
            {"name": one.name, "version": one.version, "active": one.active, "path": str(one.path)}
            for one in outcome.models
        ],
        "config": outcome.config and str(outcome.config),
        "wheels": outcome.wheels and str(outcome.wheels),
    }


def _tell(manifest: BundleManifest, key: str) -> None:
    table = output.columns("", "")
    table.show_header = False
    table.add_row("bundle", f"{manifest.reference}, made {manifest.made_at.isoformat()}")
    table.add_row("signed with", key)
    table.add_row("for", ", ".join(filter(None, [manifest.architecture, manifest.python])))
    names: dict[str, list[str]] = {}
    for one in manifest.models:
        called = one.name if one.activate else f"{one.name} (waits)"
        names.setdefault(one.sha256, []).append(called)
    for member in manifest.files:
        what = f"{', '.join(names.get(member.sha256, [member.path]))}, {output.size(member.size)}"
        table.add_row(member.kind, what)
    output.show(table)


def _tell_outcome(outcome: Outcome) -> None:
    before = f", after {outcome.manifest.name}@{outcome.previous}" if outcome.previous else ""
    click.echo(f"{outcome.manifest.reference} is installed{before}")
    for model in outcome.models:
        called = f"{model.name}@{model.version}"
        waits = "" if model.active else f", which waits for: edge models use {called}"
        click.echo(f"{called}: {model.path}{waits}")
    if outcome.config is not None and outcome.config.suffix == ".new":
        click.echo(f"The configuration was edited here and stays. The new one: {outcome.config}")
    elif outcome.config is not None:
        click.echo(f"configuration: {outcome.config}")
    if outcome.wheels is not None:
        click.echo(f"wheels, for pip install --no-index --find-links: {outcome.wheels}")
    if outcome.models or outcome.config:
        click.echo(_RESTART)
