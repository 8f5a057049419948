"""The broker away, restarted, old, or behind a password; the daemon killed and stopped."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from daemon_process import PATIENCE, DaemonProcess, Start, poll
from factory import CHAT, DEVICE, REPLIES, STATUS, Factory, Join, behind
from mosquitto import Mosquitto
from ports import free_port

SHORT = {"prompt": "Say hello.", "temperature": 0, "max_tokens": 4}
LONG = {"prompt": "Count to a million.", "max_tokens": 60, "ignore_eos": True}


def wait_state(client: Factory, state: str) -> dict[str, object]:
    """The status, once it says so."""

    def says() -> dict[str, object] | None:
        latest = client.on(STATUS)[-1:]
        return latest[0].json if latest and latest[0].json["state"] == state else None

    found = poll(says, state)
    assert found is not None
    return found


def kill(daemon: DaemonProcess) -> None:
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait(PATIENCE)


def test_status_and_telemetry(broker: Mosquitto, start_quick: Start, join: Join) -> None:
    """Online while it runs, stopped when it was told to, offline when it died; all retained."""
    client = join(broker, f"edge/{DEVICE}/+")
    daemon = start_quick(**behind(broker)).wait_ready()
    status = wait_state(client, "online")
    assert status["models"] == ["smollm2-135m-instruct"]
    assert status["version"]
    telemetry = client.one(f"edge/{DEVICE}/telemetry").json
    assert set(telemetry) >= {"queue", "tokens_per_second", "memory", "connectivity"}
    assert telemetry["queue"]["queued"] == 0

    def audit_head() -> str:
        """Empty until there is an entry, which the first telemetry may come before."""
        head: str = client.on(f"edge/{DEVICE}/telemetry")[-1].json["audit"]
        return head

    assert re.fullmatch(r"\d+:[0-9a-f]{64}", poll(audit_head, "an entry of the audit log"))
    assert daemon.metrics()["edge_mqtt_connected"] == 1
    assert daemon.stop() == 0
    wait_state(client, "stopped")
    daemon = start_quick(**behind(broker))
    wait_state(client, "online")
    kill(daemon)
    wait_state(client, "offline")
    late = join(broker, STATUS)
    assert late.one(STATUS).retain
    assert late.one(STATUS).json["state"] == "offline"


def test_no_broker_at_the_start(broker: Mosquitto, start_quick: Start, join: Join) -> None:
    """HTTP is served, one line is logged, and prompts are taken as soon as there is one."""
    broker.stop()
    daemon = start_quick(**behind(broker)).wait_ready()
    poll(lambda: "no broker at" in daemon.log, "a line")

    def known() -> dict[str, Any]:
        facts: dict[str, Any] = daemon.get("/admin/v1/status").json()["broker"]
        return facts

    assert (known()["port"], known()["version"], known()["connects"]) == (broker.port, None, 0)
    assert "refused" in known()["reason"]
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}
    assert daemon.post("/v1/chat/completions", chat).status_code == 200
    assert daemon.metrics()["edge_mqtt_connected"] == 0
    assert daemon.log.count("no broker at") == 1
    broker.start()
    client = join(broker, f"{REPLIES}/#", STATUS)
    wait_state(client, "online")
    assert (known()["version"], known()["connects"], known()["reason"]) == ("5", 1, None)
    client.ask({**SHORT, "id": "1"})
    assert client.one(f"{REPLIES}/1").json["status"] == "done"
    broker.stop()
    poll(lambda: known()["reason"], "it is known to be gone")
    assert known()["version"] is None


def test_the_broker_restarts(broker: Mosquitto, start: Start, join: Join) -> None:
    """What was running goes on meanwhile; its reply, and all the others, come afterwards."""
    client = join(broker, f"{REPLIES}/#", STATUS, name="line1")
    daemon = start(**behind(broker)).wait_ready()
    wait_state(client, "online")
    ids = [f"over {number}" for number in range(4)]
    numbers = [client.ask({**LONG, "max_tokens": 16, "id": one}) for one in ids]
    poll(lambda: all(map(client.acked, numbers)), "acknowledgements")
    poll(lambda: daemon.metrics().get('edge_jobs{state="running"}', 0) > 0, "running jobs")
    broker.stop()
    poll(lambda: daemon.metrics()["edge_mqtt_connected"] == 0, "a lost connection")
    poll(lambda: daemon.metrics().get('edge_jobs{state="done"}', 0) == len(ids), "an end")
    broker.start()
    for one in ids:
        assert client.one(f"{REPLIES}/{one}").json["status"] == "done"


def test_killed_while_it_answers(
    broker: Mosquitto, start: Start, join: Join, tmp_path: Path
) -> None:
    """An acknowledged prompt is answered by the next process; the broker keeps the others."""
    client = join(broker, f"{REPLIES}/#", STATUS)
    daemon = start(**behind(broker)).wait_ready()
    wait_state(client, "online")
    client.ask({**LONG, "id": "kept"}, CorrelationData=b"kept")
    poll(lambda: daemon.metrics().get("edge_num_requests_running", 0) > 0, "running")
    kill(daemon)
    client.ask({**SHORT, "id": "while it was dead"})
    start(**behind(broker))
    kept = client.one(f"{REPLIES}/kept")
    assert kept.json["status"] == "done"
    assert kept.correlation == b"kept"
    assert client.one(f"{REPLIES}/while it was dead").json["status"] == "done"


class Deaf:
    """Stands between daemon and broker, and swallows what the broker sends while it is told to."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.swallow = threading.Event()
        self.swallowed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, deaf: bool) -> None:
        try:
            while data := source.recv(65536):
                if deaf and self.swallow.is_set():
                    self.swallowed.set()
                else:
                    sink.sendall(data)
        except OSError:
            pass
        source.close()
        sink.close()

    def close(self) -> None:
        self._listener.close()


def test_killed_before_the_brokers_acknowledgement(
    broker: Mosquitto, start: Start, join: Join
) -> None:
    """A reply that the broker has, and that the daemon does not know of, comes again: the same
    bytes, the same Correlation Data."""
    deaf = Deaf(broker.port)
    client = join(broker, f"{REPLIES}/#", STATUS)
    settings = behind(broker)
    daemon = start(**settings | {"mqtt__port": deaf.port}).wait_ready()
    wait_state(client, "online")
    client.ask({**LONG, "max_tokens": 30, "id": "twice"}, CorrelationData=b"\0\xff")
    poll(lambda: daemon.metrics().get("edge_num_requests_running", 0) > 0, "running")
    deaf.swallow.set()
    client.wait(f"{REPLIES}/twice")
    assert deaf.swallowed.wait(PATIENCE)
    kill(daemon)
    deaf.close()
    start(**settings)
    first, second = client.wait(f"{REPLIES}/twice", 2)
    assert first.payload == second.payload
    assert first.correlation == second.correlation == b"\0\xff"


def test_a_password(tmp_path: Path, start_quick: Start, join: Join) -> None:
    """From a file; a wrong one is a line in the log, and a corrected one is taken."""
    passwords, secret = tmp_path / "passwords", tmp_path / "secret"
    command = ["mosquitto_passwd", "-b", "-c", str(passwords), "edge", "right"]
    subprocess.run(command, check=True, capture_output=True)
    passwords.chmod(0o644)
    lines = ("allow_anonymous false", f"password_file {passwords}")
    broker = Mosquitto(tmp_path / "broker", *lines)
    try:
        secret.write_text("wrong\n")
        login = {"mqtt__username": "edge", "mqtt__password_file": secret}
        daemon = start_quick(**behind(broker, **login))
        poll(lambda: "the broker refuses: Not authorized" in daemon.log, "a refusal")
        told = daemon.wait_ready().get("/admin/v1/status").json()["broker"]
        assert told["reason"] == "the broker refuses: Not authorized"
        assert told["version"] is None
        secret.write_text("right\n")
        client = join(broker, f"{REPLIES}/#", STATUS, username="edge", password="right")
        wait_state(client, "online")
        client.ask({**SHORT, "id": "1"})
        assert client.one(f"{REPLIES}/1").json["status"] == "done"
        assert daemon.stop() == 0
    finally:
        broker.end()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Certificate and key of a broker on loopback, signed by itself."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "broker.crt", folder / "broker.key"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate), "-days", "2"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *subject]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def test_tls(
    tmp_path: Path, start_quick: Start, join: Join, certificate: tuple[Path, Path]
) -> None:
    """Only a broker whose certificate the named authorities signed is spoken to."""
    file, key = certificate
    port = free_port()
    lines = (f"listener {port} 127.0.0.1", f"certfile {file}", f"keyfile {key}")
    broker = Mosquitto(tmp_path / "broker", *lines)
    try:
        settings = behind(broker) | {"mqtt__port": port}
        stranger = start_quick(folder=tmp_path / "stranger", **settings, mqtt__tls="true")
        poll(lambda: "certificate verify failed" in stranger.log, "a refusal")
        start_quick(**settings, mqtt__tls=file)
        client = join(broker, f"{REPLIES}/#", STATUS)
        wait_state(client, "online")
        client.ask({**SHORT, "id": "1"})
        assert client.one(f"{REPLIES}/1").json["status"] == "done"
    finally:
        broker.end()


def test_a_broker_of_3_1_1(start_quick: Start) -> None:
    """Refused with version 5, the daemon asks with 3.1.1, with the same identity."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        port = listener.getsockname()[1]
        start_quick(mqtt__enabled="true", mqtt__port=port, device__id=DEVICE)
        levels = []
        for _ in range(2):
            connection, _ = listener.accept()
            with connection:
                packet = connection.recv(4096)
                levels.append(packet[packet.index(b"MQTT") + 4])
                assert f"edge-{DEVICE}".encode() in packet
                # CONNACK: unacceptable protocol version, as 3.1.1 has it.
                connection.sendall(b"\x20\x02\x00\x01")
        assert levels == [5, 4]


def test_reply_allow(broker: Mosquitto, start_quick: Start, join: Join) -> None:
    """The list in the configuration replaces the default one."""
    start_quick(**behind(broker), mqtt__reply_allow="[plc/+/in]")
    client = join(broker, "plc/#", f"{REPLIES}/#", STATUS)
    wait_state(client, "online")
    client.publish(CHAT, {**SHORT, "id": "1"}, ResponseTopic="plc/3/in")
    client.publish(CHAT, {**SHORT, "id": "2"}, ResponseTopic="line1/reply/2")
    assert client.one("plc/3/in").json["status"] == "done"
    assert client.one(f"{REPLIES}/2").json["error"]["param"] == "reply_to"
