"""`edge keys`: who may ask this appliance. A running daemon sees every change at once."""

from __future__ import annotations

import re
import time
from typing import Any, get_args

import click
import msgspec

from edge.access.key import Door, Key, Quota, Scope
from edge.access.keyring import Keyring
from edge.cli import options, output
from edge.config.place import state_dir
from edge.types import Priority

DAY = 86_400.0
_UNITS = {"m": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY}


class Duration(click.ParamType[float]):
    """`90d`, `12h`, `30m`, `4w`, as seconds."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d{1,6})([mhdw])", str(value))
        if found is None:
            self.fail(f"{value} is no time such as 30m, 12h, 90d or 4w", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


_expires = click.option(
    "--expires", metavar="TIME", type=Duration(), help="Valid for so long, such as 90d or 12h."
)


@click.group("keys")
def command() -> None:
    """The keys with which machines and programs ask this appliance."""


@command.command()
@click.argument("name")
@click.option("--door", "doors", multiple=True, type=click.Choice(get_args(Door)), help="Only it.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Only these; `*` for any.")
@click.option(
    "--priority",
    "priorities",
    multiple=True,
    type=click.Choice(get_args(Priority)),
    help="Only requests of it.",
)
@click.option("--local-only", is_flag=True, help="Its requests never leave the appliance.")
@click.option("--admin", is_flag=True, help="Also for /admin and /metrics.")
@click.option("--requests-per-minute", type=click.IntRange(min=1), metavar="N", help="At most.")
@click.option("--concurrent", type=click.IntRange(min=1), metavar="N", help="Requests at once.")
@click.option("--tokens-per-day", type=click.IntRange(min=1), metavar="N", help="Of both kinds.")
@click.option("--from", "addresses", multiple=True, metavar="NETWORK", help="Only from there.")
@click.option("--signed", is_flag=True, help="Only for requests that are signed with it.")
@_expires
@options.as_json
def add(
    name: str,
    doors: tuple[Any, ...],
    models: tuple[str, ...],
    priorities: tuple[Any, ...],
    local_only: bool,
    admin: bool,
    requests_per_minute: int | None,
    concurrent: int | None,
    tokens_per_day: int | None,
    addresses: tuple[str, ...],
    signed: bool,
    expires: float | None,
    as_json: bool,
) -> None:
    """Make a key, and show it for the only time."""
    scope = Scope(
        list(doors) or None, list(models) or None, list(priorities) or None, local_only, admin
    )
    token = _keyring().add(
        name,
        scope,
        Quota(requests_per_minute, concurrent, tokens_per_day),
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
    type=Duration(),
    default=7 * DAY,
    help="How long the old one is valid beside it; 7d if left out.",
)
@_expires
@options.as_json
def rotate(name: str, overlap: float, expires: float | None, as_json: bool) -> None:
    """Give a key another secret, and show it for the only time."""
    ending = None if expires is None else time.time() + expires
    _tell(name, _keyring().rotate(name, overlap, ending), as_json)


@command.command("list")
@options.as_json
def list_(as_json: bool) -> None:
    """Show the keys and what they are for."""
    keys = _keyring().all()
    if as_json:
        output.json([_facts(key) for key in keys])
        return
    if not keys:
        click.echo("no keys: edge keys add NAME")
        return
    table = output.columns("NAME", "ENDS", "FOR", "LIMITS", "FROM")
    for key in keys:
        table.add_row(key.name, _ends(key), _purpose(key), _limits(key), _origin(key))
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
