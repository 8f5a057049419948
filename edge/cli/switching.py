"""`edge models use` and `rollback`: which version a name means, in the daemon that serves it.

Where none does, only the store's pointer moves, which the next start follows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import click
import msgspec

from edge.cli import options, output
from edge.cli.client import Client
from edge.config import reader
from edge.config.place import state_dir
from edge.errors import EdgeError, SwitchRefused
from edge.modelstore.store import Installed, ModelStore
from edge.modelstore.versions import current_user
from edge.switching.switch import ENDED, Progress

LOOK_SECONDS = 0.2


def anyway(function: options.Decorated) -> options.Decorated:
    return click.option(
        "--anyway", is_flag=True, help="Whatever the canaries say; it is watched all the same."
    )(function)


@click.command()
@click.argument("model", metavar="NAME@VERSION")
@anyway
@options.url
@options.config_file
@options.as_json
def use(model: str, anyway: bool, url: str | None, config_file: str | None, as_json: bool) -> None:
    """Have a name mean that version of it.

    A running daemon loads it, tries it out beside the old one and only then answers with it; what
    is being answered ends on the old one. It goes back by itself where the new one fails.
    """
    match = re.fullmatch(r"(.+)@([0-9]{1,9})", model)
    if match is None:
        raise click.UsageError(f"{model} is not NAME@VERSION, such as my-model@2")
    with _daemon(match[1], url, config_file) as client:
        if client is None:
            _tell_moved(_store().activate(match[1], int(match[2])), as_json)
        else:
            body = {"version": int(match[2]), "anyway": anyway, "by": current_user()}
            _follow(client, f"/admin/v1/models/{match[1]}/use", body, as_json)


@click.command()
@click.argument("name")
@anyway
@options.url
@options.config_file
@options.as_json
def rollback(
    name: str, anyway: bool, url: str | None, config_file: str | None, as_json: bool
) -> None:
    """Have a name mean the version that it meant before, in the same way."""
    with _daemon(name, url, config_file) as client:
        if client is None:
            _tell_moved(_store().roll_back(name), as_json)
        else:
            body = {"anyway": anyway, "by": current_user()}
            _follow(client, f"/admin/v1/models/{name}/rollback", body, as_json)


def reference(model: Installed) -> dict[str, Any]:
    return {
        "name": model.name,
        "version": model.version,
        "active": model.active,
        "path": str(model.path),
    }


def _store() -> ModelStore:
    return ModelStore(state_dir() / "models")


@contextmanager
def _daemon(name: str, url: str | None, config_file: str | None) -> Iterator[Client | None]:
    """The daemon that serves the name out of this very store; None where there is none."""
    if url is not None:
        with Client(url) as client:
            yield client
        return
    with ExitStack() as stack:
        try:
            address = options.daemon_url(reader.load(config_file))
            client = stack.enter_context(Client(address))
            status = client.status()
        except EdgeError:
            yield None
            return
        served = any(model.name == name for model in status.models)
        same = status.state_dir == str(state_dir().resolve())
        yield client if served and same else None


def _follow(client: Client, path: str, body: dict[str, Any], as_json: bool) -> None:
    """Begin, and wait for the end. Raises `SwitchRefused` for one that nobody wanted."""
    progress = client.shaped(client.call("POST", path, body), Progress)
    name = f"{progress.name}@{progress.version}"
    told = None
    while True:
        if progress.state != told:
            told = progress.state
            click.echo(f"{name}: {told}", err=True)
        if progress.state in ENDED:
            break
        time.sleep(LOOK_SECONDS)
        place = f"/admin/v1/models/{progress.name}/switch"
        progress = client.shaped(client.call("GET", place), Progress)
    if progress.state != "done":
        what = "is not used" if progress.state == "refused" else "was given up again"
        waited = f" Requests waited {progress.waited_seconds:.1f} s." * bool(
            progress.waited_seconds
        )
        raise SwitchRefused(
            output.harmless(f"{name} {what}: {progress.reason}.{waited}"),
            hint=f"{progress.name} is version {progress.previous} as before; --anyway leaves the "
            "canaries aside",
        )
    if as_json:
        output.json(msgspec.to_builtins(progress))
    else:
        output.show(*_told(progress))


def _told(progress: Progress) -> list[str]:
    lines = [f"{progress.name} means version {progress.version} now, and is answered with it."]
    new, old = progress.new, progress.old
    if progress.waited_seconds:
        lines.append(
            f"Both did not fit into the memory: requests waited {progress.waited_seconds:.1f} s."
        )
    if new is not None:
        speed, size = (
            f"{new.tokens_per_second:.0f} tokens per second",
            output.size(new.memory_bytes),
        )
        if old is not None:
            speed += f", before {old.tokens_per_second:.0f}"
            size += f", before {output.size(old.memory_bytes)}"
        lines.append(f"{speed}; {size}")
    return lines


def _tell_moved(model: Installed, as_json: bool) -> None:
    if as_json:
        output.json(reference(model))
    else:
        click.echo(
            f"{model.name} means version {model.version} now. "
            "The daemon serves it from its next start on."
        )
