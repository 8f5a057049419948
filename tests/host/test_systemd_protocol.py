"""sd_listen_fds(3), credentials and the journal's lines, as systemd's manual pages have them."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from edge import logs
from edge.config import reader
from edge.errors import ConfigError
from edge.host import systemd


def handed(monkeypatch: pytest.MonkeyPatch, *sockets: socket.socket, **more: str) -> dict[str, str]:
    """The environment of a process that has them; they follow each other as they would there."""
    fds = [sock.detach() for sock in sockets]
    first = 200
    for place, fd in enumerate(fds):
        os.dup2(fd, first + place)
        os.close(fd)
    monkeypatch.setattr(systemd, "FIRST_DESCRIPTOR", first)
    return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(fds)), **more}


def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_several_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are taken; children inherit neither them nor the variables."""
    environ = handed(monkeypatch, listener(), listener())
    found = systemd.inherited_sockets(environ)
    assert len(found) == 2
    assert environ == {}
    for sock in found:
        assert not sock.get_inheritable()
        sock.close()


def test_those_named_http(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a name is given the others are not ours, and are closed."""
    one, other = listener(), listener()
    port = other.getsockname()[1]
    environ = handed(monkeypatch, one, other, LISTEN_FDNAMES="mqtt:http")
    (found,) = systemd.inherited_sockets(environ)
    assert found.getsockname()[1] == port
    found.close()
    assert not Path("/proc/self/fd/200").exists()


@pytest.mark.parametrize("environ", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}])
def test_those_of_another_process(environ: dict[str, str]) -> None:
    """LISTEN_PID tells whose they are: a child of the process inherits the variables."""
    assert systemd.inherited_sockets(environ) == []


def unix() -> socket.socket:
    return socket.socket(socket.AF_UNIX)


def datagrams() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def silent() -> socket.socket:
    """As a connection is, it does not listen."""
    return socket.socket()


@pytest.mark.parametrize(
    ("kind", "said"), [(unix, "AF_UNIX"), (datagrams, "not for TCP"), (silent, "a connection")]
)
def test_other_kinds_are_refused(
    monkeypatch: pytest.MonkeyPatch, kind: Callable[[], socket.socket], said: str
) -> None:
    environ = handed(monkeypatch, kind())
    with pytest.raises(ConfigError, match=said):
        systemd.inherited_sockets(environ)


def test_a_descriptor_that_is_no_socket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with open(tmp_path / "file", "w") as file:
        os.dup2(file.fileno(), 200)
    monkeypatch.setattr(systemd, "FIRST_DESCRIPTOR", 200)
    with pytest.raises(ConfigError, match="no socket"):
        systemd.inherited_sockets({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1"})
    os.close(200)


def test_credentials_stand_in_for_files(tmp_path: Path) -> None:
    """Where the configuration names none, and needs one."""
    for name in ("mqtt.password", "webhook.secret", "tls.key"):
        (tmp_path / name).write_text("secret")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "EDGE_CONFIG": "/dev/null"}
    config = reader.load(None, environ)
    assert (config.mqtt.password_file, config.http.tls_key) == (None, None)
    assert config.webhooks.secret_file == str(tmp_path / "webhook.secret")
    environ |= {"EDGE_MQTT__USERNAME": "press", "EDGE_HTTP__TLS_CERTIFICATE": "/c"}
    config = reader.load(None, environ)
    assert config.mqtt.password_file == str(tmp_path / "mqtt.password")
    assert config.http.tls_key == str(tmp_path / "tls.key")
    environ |= {"EDGE_MQTT__PASSWORD_FILE": "/own", "EDGE_WEBHOOKS__SECRET_FILE": "/mine"}
    config = reader.load(None, environ)
    assert (config.mqtt.password_file, config.webhooks.secret_file) == ("/own", "/mine")


def test_one_event_is_one_line_of_the_journal() -> None:
    """With its priority in front, and a traceback in it."""
    try:
        raise ValueError("first\nsecond")
    except ValueError as error:
        record = logging.LogRecord(
            "edge",
            logging.ERROR,
            "",
            0,
            "it %s",
            ("failed",),
            (ValueError, error, error.__traceback__),
        )
    line = logs.JournalFormatter("%(name)s: %(message)s").format(record)
    assert line.startswith("<3>edge: it failed | Traceback (most recent call last): | File")
    assert line.endswith("ValueError: first | second")
    assert "\n" not in line


def test_whether_it_is_the_journal(tmp_path: Path) -> None:
    """A child whose stderr goes elsewhere has the variable as well."""
    with open(tmp_path / "stream", "w") as stream:
        facts = os.fstat(stream.fileno())
        named = {"JOURNAL_STREAM": f"{facts.st_dev}:{facts.st_ino}"}
        assert logs.to_journal(named, stream.fileno())
        assert not logs.to_journal(named, 2)
        assert not logs.to_journal({}, stream.fileno())
