"""`edge certs`: the appliance's own certificate authority, and the certificate of its server."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import click
import msgspec
import psutil

from edge.access.certs import Certificates, facts
from edge.cli import options, output
from edge.config import reader
from edge.config.place import state_dir
from edge.disk import write_atomically


@click.group("certs")
def command() -> None:
    """Certificates for TLS."""


_names = click.option(
    "--name",
    "names",
    multiple=True,
    metavar="NAME",
    help="A name or address that clients use; beside those that this machine has.",
)


@command.command()
@_names
@options.config_file
@options.as_json
def init(names: tuple[str, ...], config_file: str | None, as_json: bool) -> None:
    """Make an authority, if there is none, and a certificate for the server.

    A running daemon takes a new certificate within a minute.
    """
    store = _store()
    there = store.authority.exists()
    device = reader.load(config_file).device.id or socket.gethostname()
    store.init(_all_names(names), device)
    if as_json:
        output.json(_facts(store))
        return
    _tell(store)
    click.echo("\nThe authority is as it was: clients trust it already." if there else TRUST)


@command.command()
@options.as_json
def renew(as_json: bool) -> None:
    """Make a new certificate with the same names. The daemon does it by itself in time."""
    store = _store()
    store.renew()
    if as_json:
        output.json(_facts(store))
    else:
        _tell(store)


@command.command()
@options.as_json
def show(as_json: bool) -> None:
    """Show what is there, and when it ends."""
    store = _store()
    if as_json:
        output.json(_facts(store))
    else:
        _tell(store)


@command.command()
@click.argument("name")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@options.as_json
def client(name: str, folder: Path, as_json: bool) -> None:
    """Make a certificate for a client, as NAME.crt and NAME.key in FOLDER, for
    `http.tls_client_ca`. It is valid for 397 days."""
    _write(folder, name, _store().client(name), as_json)


@command.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_names
@options.as_json
def broker(folder: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Make a certificate for the MQTT broker of this machine, as broker.crt and broker.key in
    FOLDER. It lasts as long as the authority."""
    _write(folder, "broker", _store().broker(_all_names(names)), as_json)


TRUST = """
Use it with `http: {tls: true}` in the configuration. Clients are given ca.crt, and nothing else:
  curl            --cacert ca.crt
  Python, openai  SSL_CERT_FILE=ca.crt
  Debian, Ubuntu  cp ca.crt /usr/local/share/ca-certificates/edge.crt && update-ca-certificates
  Windows         certutil -addstore Root ca.crt"""


def _write(folder: Path, name: str, made: tuple[bytes, bytes], as_json: bool) -> None:
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    write_atomically(key, made[1], mode=0o600)
    write_atomically(certificate, made[0])
    if as_json:
        output.json({"certificate": str(certificate), "key": str(key)})
    else:
        click.echo(f"{certificate}\n{key}")


def _all_names(names: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys([*names, *own_names()]))


def own_names() -> list[str]:
    """What clients may call this machine: its names, and the addresses of its interfaces."""
    host = socket.gethostname()
    names = [host, socket.getfqdn()]
    if "." not in host:
        names.append(f"{host}.local")
    addresses = [
        one.address.partition("%")[0]
        for found in psutil.net_if_addrs().values()
        for one in found
        if one.family in (socket.AF_INET, socket.AF_INET6)
    ]
    local = ["localhost", "127.0.0.1", "::1"]
    kept = [one for one in addresses if not one.startswith("fe80:")]
    return list(dict.fromkeys([*names, *local, *kept]))


def _store() -> Certificates:
    return Certificates(Path(state_dir()) / "certs")


def _facts(store: Certificates) -> dict[str, Any]:
    return {
        "folder": str(store.folder),
        "authority": msgspec.to_builtins(facts(store.authority)),
        "server": msgspec.to_builtins(facts(store.server)),
        "renewable": store.renewable,
    }


def _tell(store: Certificates) -> None:
    table = output.columns("", "")
    table.show_header = False
    for title, path in (("authority", store.authority), ("server", store.server)):
        found = facts(path)
        left = output.duration(max(0.0, found.ends - time.time()))
        table.add_row(title, str(path))
        table.add_row("", f"{found.subject}, ends in {left}")
        if found.names:
            table.add_row("", ", ".join(found.names))
        table.add_row("", f"SHA-256 {found.fingerprint}")
    output.show(table)
