"""`edge keys`: who may ask this appliance. A running daemon sees every change at once."""

from __future__ import annotations

import time
from typing import Any

import click
import msgspec

from edge.access.key import Key, Quota, Scope
from edge.access.keyring import Keyring
from edge.access.meter import day_of
from edge.cli import key_options, options, output
from edge.config.place import state_dir
from edge.store.usage import DayUsage, usage_in


@click.group("keys")
def command() -> None:
    """The keys with which machines and programs ask this appliance."""


@command.command()
@click.argument("name")
@key_options.scope
@key_options.quota
@click.option("--from", "addresses", multiple=True, metavar="NETWORK", help="Only from there.")
@click.option("--signed", is_flag=True, help="Only for requests that are signed with it.")
@key_options.expires
@options.as_json
def add(
    name: str,
    scope: Scope,
    quota: Quota,
    addresses: tuple[str, ...],
    signed: bool,
    expires: float | None,
    as_json: bool,
) -> None:
    """Make a key, and show it for the only time."""
    token = _keyring().add(
        name,
        scope,
        quota,
        addresses=list(addresses) or None,
        signed=signed,
        expires=None if expires is None else time.time() + expires,
    )
    _tell(name, token, as_json)


@command.command()
@click.argument("name")
@click.option(
    "--overlap",
    metavar="TIME",
    type=key_options.Duration(),
    default=7 * key_options.DAY,
    help="How long the old one is valid beside it; 7d if left out.",
)
@key_options.expires
@options.as_json
def rotate(name: str, overlap: float, expires: float | None, as_json: bool) -> None:
    """Give a key another secret, and show it for the only time."""
    ending = None if expires is None else time.time() + expires
    _tell(name, _keyring().rotate(name, overlap, ending), as_json)


@command.command("list")
@options.as_json
def list_(as_json: bool) -> None:
    """Show the keys, what they are for, and what they have used on this day (UTC)."""
    keys, today = _keyring().all(), day_of(time.time())
    used = {row.name: row for row in usage_in(state_dir() / "jobs.sqlite", today)}
    rows = [(key, used.get(key.name) or DayUsage(today, key.name)) for key in keys]
    if as_json:
        output.json([_facts(key) | {"today": msgspec.to_builtins(row)} for key, row in rows])
        return
    if not keys:
        click.echo("no keys: edge keys add NAME")
        return
    table = output.columns("NAME", "ENDS", "FOR", "LIMITS", "FROM", "TODAY")
    for key, row in rows:
        cells = (_ends(key), _purpose(key), _limits(key), _origin(key), _used(row))
        table.add_row(key.name, *cells)
    output.show(table)


@command.command()
@click.argument("name")
@options.as_json
def rm(name: str, as_json: bool) -> None:
    """Take a key away: what it asks for is refused from now on."""
    _keyring().remove(name)
    if as_json:
        output.json({"removed": name})
    else:
        click.echo(f"{name} is gone")


def _keyring() -> Keyring:
    return Keyring(state_dir() / "keys")


def _tell(name: str, token: str, as_json: bool) -> None:
    if as_json:
        output.json({"name": name, "key": token})
        return
    click.echo(token)
    click.echo(
        f"This is the key of {name}. It is not kept here and cannot be shown again.", err=True
    )


def _facts(key: Key) -> dict[str, Any]:
    """Without the digests."""
    facts = msgspec.to_builtins(key)
    facts["secrets"] = [
        {"id": one.id, "created": one.created, "expires": one.expires} for one in key.secrets
    ]
    return dict(facts)


def _ends(key: Key) -> str:
    now = time.time()
    ends = [one.expires for one in key.secrets if one.valid(now)]
    if not ends:
        return "has ended"
    if None in ends:
        return "never"
    return f"in {output.duration(max(end for end in ends if end is not None) - now)}"


def _purpose(key: Key) -> str:
    scope = key.scope
    parts = [*(scope.doors or []), *(scope.models or []), *(scope.priorities or [])]
    parts += ["local only"] * scope.local_only + ["admin"] * scope.admin
    parts += ["signed"] * key.signed
    return ", ".join(parts) or "all but admin"


def _limits(key: Key) -> str:
    quota, parts = key.quota, []
    if quota.requests_per_minute is not None:
        parts.append(f"{quota.requests_per_minute} a minute")
    if quota.concurrent is not None:
        parts.append(f"{quota.concurrent} at once")
    if quota.tokens_per_day is not None:
        parts.append(f"{quota.tokens_per_day} tokens a day")
    return ", ".join(parts) or "-"


def _origin(key: Key) -> str:
    return ", ".join(key.addresses) if key.addresses is not None else "anywhere"


def _used(row: DayUsage) -> str:
    if not row.requests:
        return "-"
    energy = "" if row.energy_joules is None else f", {row.energy_joules:.0f} J"
    return f"{row.requests} requests, {row.prompt_tokens + row.completion_tokens} tokens{energy}"
