"""Options that several commands share, so that they are spelled the same everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from edge.config.tree import Config
from edge.errors import ConfigError

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def config_file(function: Decorated) -> Decorated:
    return click.option(
        "--config",
        "config_file",
        metavar="FILE",
        help="Configuration to read; else $EDGE_CONFIG, else /etc/edge/edge.yaml.",
    )(function)


def as_json(function: Decorated) -> Decorated:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(
        function
    )


def url(function: Decorated) -> Decorated:
    return click.option(
        "--url",
        metavar="URL",
        callback=checked_url,
        help="Address of the daemon; by default http.host and http.port of the configuration.",
    )(function)


def checked_url(ctx: click.Context, option: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise click.BadParameter(f"{value} is not an address such as http://127.0.0.1:8080")
    return value.rstrip("/")


def daemon_url(config: Config) -> str:
    """Where the daemon of this configuration answers, as seen from this machine.

    Raises `ConfigError` when only the daemon knows its port.
    """
    host, port = config.http.host, config.http.port
    if port == 0:
        raise ConfigError(
            "http.port is 0, so the daemon takes a free port that its log names",
            param="http.port",
            hint="name it with --url http://127.0.0.1:PORT",
        )
    # A listener on all addresses is reached over loopback.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    scheme = "https" if config.http.tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
