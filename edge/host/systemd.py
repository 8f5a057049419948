"""What the daemon and systemd say to each other: sd_notify(3), sd_listen_fds(3), sd-daemon(3),
without a library.

All of it is without effect where systemd did not start us.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager

from edge.errors import ConfigError

FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START: the descriptors that are handed over count from here."""

LONGEST_EXTENSION, EXTENSION_TICK = 3600, 5
"""Seconds."""

NOTIFY_SECONDS = 1.0

HTTP = "http"
"""`FileDescriptorName=` of what the HTTP API listens on."""


def notify(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send one message, such as `READY=1`. A manager that cannot be reached is no error."""
    address = environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        # A manager that does not read must not hold up the event loop for long.
        sock.settimeout(NOTIFY_SECONDS)
        try:
            sock.connect(address)
            sock.send(state.encode())
        except OSError:
            return


@contextmanager
def extending(what: str) -> Iterator[None]:
    """Ask for more time to start while the block runs, for an hour at most: it computes digests, or
    fetches a model over a slow line. From a thread, because nothing else turns yet."""
    done = threading.Event()

    def ask() -> None:
        for _ in range(LONGEST_EXTENSION // EXTENSION_TICK):
            notify(f"EXTEND_TIMEOUT_USEC={4 * EXTENSION_TICK * 1_000_000}\nSTATUS={what}")
            if done.wait(EXTENSION_TICK):
                return

    thread = threading.Thread(target=ask, name="notifications", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def monotonic_usec() -> str:
    """What goes with `RELOADING=1`, so that systemd can tell one reload from another."""
    return f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


def watchdog_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """How often systemd wants a `WATCHDOG=1`, None when it does not."""
    usec = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()) or not usec.isdecimal():
        return None
    return int(usec) / 1_000_000


def inherited_sockets(environ: MutableMapping[str, str] = os.environ) -> list[socket.socket]:
    """The listening sockets that were handed over, with which nothing is bound here.

    Of several those named `http` are taken, all if none is; the others are closed. The variables
    are taken out of the environment, since they mean nothing to children. Raises `ConfigError` for
    a socket that HTTP over TCP cannot be served on.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    found = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    named = {fd: name for fd, name in zip(found, names, strict=False) if name == HTTP}
    for fd in found:
        if named and fd not in named:
            os.close(fd)
    return [_listening(fd) for fd in named or found]


def _listening(fd: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise _refused(f"descriptor {fd}, which is no socket ({error.strerror})") from None
    sock.set_inheritable(False)
    if fault := _fault(sock):
        sock.close()
        raise _refused(fault)
    return sock


def _fault(sock: socket.socket) -> str | None:
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return f"a socket of the family {socket.AddressFamily(sock.family).name}"
    if sock.type != socket.SOCK_STREAM:
        return "a socket that is not for TCP"
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "a connection in place of what listens for them"
    return None


def _refused(what: str) -> ConfigError:
    return ConfigError(
        f"systemd handed over {what}",
        hint="edge.socket needs ListenStream=ADDRESS:PORT, and Accept=no",
    )
