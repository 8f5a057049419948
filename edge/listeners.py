"""The sockets that HTTP is served on: bound here, or handed over by systemd, which holds them while
the daemon is away.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

import msgspec

from edge.config.tree import Config, is_loopback
from edge.errors import ConfigError
from edge.host import systemd

logger = logging.getLogger("edge")


class Listeners:
    """inherited: they are systemd's, and go on listening when this process has ended."""

    def __init__(self, sockets: Sequence[socket.socket], *, inherited: bool) -> None:
        self.sockets = list(sockets)
        self.inherited = inherited

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [sock.getsockname()[:2] for sock in self.sockets]


def listeners(config: Config) -> tuple[Config, Listeners]:
    """What HTTP is served on: sockets from systemd, or one that is bound here, before anything is
    loaded, so that a taken port is known at once.

    With the configuration in which `http.host` and `http.port` are those of the sockets; of several
    the one that others can reach, for it decides whether keys are needed. Raises `ConfigError`.
    """
    sockets = systemd.inherited_sockets()
    if not sockets:
        return config, Listeners([_bound(config.http.host, config.http.port)], inherited=False)
    found = Listeners(sockets, inherited=True)
    host, port = min(found.addresses, key=lambda address: is_loopback(address[0]))
    if config.http.port and (host, port) != (config.http.host, config.http.port):
        logger.warning(
            "systemd hands over %s port %d: http.host %s and http.port %d mean nothing",
            *(host, port, config.http.host, config.http.port),
        )
    http = msgspec.structs.replace(config.http, host=host, port=port)
    return msgspec.structs.replace(config, http=http), found


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        return sock
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            param="http.port",
            hint="stop what holds the port, or set http.host and http.port",
        ) from None
