"""A mosquitto with the certificate that `edge certs broker` makes, asked with and without those
that `edge certs client` makes."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from daemon_process import PATIENCE, Start
from factory import DEVICE, STATUS, Factory, Join, behind
from mosquitto import Mosquitto
from ports import free_port
from users import password_of, production_lines

from edge.access.certs import Certificates
from edge.access.keyring import Keyring

SHORT = {"prompt": "Say hello.", "temperature": 0, "max_tokens": 4}


def edge(state: Path, *arguments: str) -> None:
    environment = {**os.environ, "EDGE_STATE_DIR": str(state)}
    command = [sys.executable, "-m", "edge", *arguments]
    subprocess.run(command, env=environment, check=True, capture_output=True)


def speak(port: int, context: ssl.SSLContext) -> None:
    """Until the broker has anything to say."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as encrypted,
    ):
        encrypted.recv(1)


def test_a_certificate_is_a_user_and_a_user_is_a_key(
    tmp_path: Path, start_quick: Start, join: Join
) -> None:
    """The appliance comes with its password over TLS; a caller with no more than a certificate."""
    state = tmp_path / "daemon" / "state"
    state.mkdir(parents=True)
    certificates = Certificates(state / "certs")
    certificates.init(["localhost", "127.0.0.1"], DEVICE)
    edge(state, "certs", "broker", str(tmp_path))
    for name, content in zip(("crt", "key"), certificates.client("line1"), strict=True):
        (tmp_path / f"line1.{name}").write_bytes(content)
    Keyring(state / "keys").add("line1")
    authority = certificates.authority
    served = [f"certfile {tmp_path}/broker.crt", f"keyfile {tmp_path}/broker.key"]
    asking = [f"cafile {authority}", "require_certificate true", "use_identity_as_username true"]
    encrypted, strict = free_port(), free_port()
    lines = production_lines(tmp_path, "edge", "watcher")
    lines += [f"listener {encrypted} 127.0.0.1", *served]
    lines += [f"listener {strict} 127.0.0.1", *served, *asking]
    broker = Mosquitto(tmp_path / "broker", *lines)
    try:
        secret = tmp_path / "secret"
        secret.write_text(password_of("edge"))
        settings = behind(broker) | {"mqtt__port": encrypted, "mqtt__tls": authority}
        login = {"mqtt__username": "edge", "mqtt__password_file": secret}
        start_quick(**settings, **login, auth__required="true")
        watcher = join(broker, STATUS, username="watcher", password=password_of("watcher"))
        watcher.one(STATUS)
        trusts = ssl.create_default_context(cafile=authority)
        trusts.load_cert_chain(tmp_path / "line1.crt", tmp_path / "line1.key")
        line1 = Factory(strict, "line1/reply/#", tls=trusts)
        topic = f"edge/{DEVICE}/as/line1/chat"
        line1.publish(topic, SHORT, ResponseTopic="line1/reply/1")
        assert line1.one("line1/reply/1").json["status"] == "done"
        line1.close()
        with pytest.raises(ssl.SSLError, match="certificate required"):
            speak(strict, ssl.create_default_context(cafile=authority))
    finally:
        broker.end()
