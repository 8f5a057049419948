"""Keys over MQTT: shown in three ways, with scope and limits as over HTTP, and floods of bad ones.

The broker is the production one, whose access list lets each user publish in his own name only.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import MODEL, DaemonProcess, poll, running
from factory import CANCEL, CHAT, DEVICE, STATUS, Factory, behind
from mosquitto import Mosquitto
from ports import free_port
from users import password_of, production_lines

from edge.access.gate import Gate
from edge.access.keyring import Keyring
from edge.api.mqtt.callers import Callers
from edge.api.mqtt.message import Incoming
from edge.api.mqtt.topics import Topics
from edge.errors import InvalidKey, InvalidRequest

USERS = ("edge", "line1", "line2", "guest")
SHORT = {"prompt": "Say hello.", "temperature": 0, "max_tokens": 4}
FAR = """
routes: {far: ["cloud:far"]}
upstreams: {far: {base_url: "http://127.0.0.1:%d/v1", model: m}}
"""
"""What goes there waits for an upstream that nobody has ever reached."""

MakeKey = Callable[..., str]
Ask = Callable[..., Any]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    folder = tmp_path_factory.mktemp("broker")
    broker = Mosquitto(folder, *production_lines(folder, *USERS))
    yield broker
    broker.end()


@pytest.fixture(scope="module")
def keyed(
    broker: Mosquitto, tmp_path_factory: pytest.TempPathFactory, quick_model_path: Path
) -> Iterator[DaemonProcess]:
    """One that wants keys."""
    folder = tmp_path_factory.mktemp("keyed")
    (folder / "secret").write_text(password_of("edge"))
    settings = behind(broker, auth__required="true", mqtt__username="edge")
    settings |= {"mqtt__password_file": folder / "secret", "yaml": FAR % free_port()}
    with running(folder, quick_model_path, **settings) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def make(keyed: DaemonProcess) -> MakeKey:
    def make(name: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "edge", "keys", "add", name, *arguments, "--json"],
            env={**os.environ, "EDGE_STATE_DIR": str(keyed.folder / "state")},
            capture_output=True,
            text=True,
            check=True,
        )
        return str(json.loads(done.stdout)["key"])

    return make


@pytest.fixture(scope="module")
def clients(broker: Mosquitto, keyed: DaemonProcess) -> Iterator[dict[str, Factory]]:
    """By user. Each hears the replies to itself, once the appliance is there."""
    clients = {
        user: Factory(
            broker.port, f"{user}/reply/#", STATUS, username=user, password=password_of(user)
        )
        for user in USERS[1:]
    }
    for client in clients.values():
        client.wait(STATUS)
    yield clients
    for client in clients.values():
        client.close()


@pytest.fixture(scope="module")
def ask(clients: dict[str, Factory]) -> Ask:
    """A prompt and its final reply."""

    def ask(user: str, payload: Any = SHORT, topic: str = CHAT, **properties: Any) -> Any:
        place = f"{user}/reply/{uuid.uuid4().hex}"
        clients[user].publish(topic, payload, ResponseTopic=place, **properties)
        return clients[user].one(place).json

    return ask


def named(user: str, kind: str = "chat") -> str:
    return f"edge/{DEVICE}/as/{user}/{kind}"


def code(reply: Any) -> str:
    return str(reply["error"]["code"])


def get(daemon: DaemonProcess, path: str, token: str) -> Any:
    headers = {"Authorization": f"Bearer {token}"}
    return daemon.http.get(daemon.url + path, headers=headers).json()


def test_a_key_is_shown_in_three_ways(keyed: DaemonProcess, make: MakeKey, ask: Ask) -> None:
    """And what was asked with it counts as its own; the key itself is kept nowhere."""
    token = make("line1")
    assert ask("line1", topic=named("line1"))["status"] == "done"
    assert ask("guest", UserProperty=[("api-key", token)])["status"] == "done"
    assert ask("guest", {**SHORT, "api_key": token})["status"] == "done"
    assert get(keyed, "/v1/usage", token)["requests"] == 3
    admin = make("admin", "--admin")
    jobs = get(keyed, "/admin/v1/jobs", admin)["jobs"]
    assert {job["client"] for job in jobs} == {"key line1"}
    mine = get(keyed, f"/v1/responses/resp_{jobs[0]['id']}", token)
    assert mine["status"] == "incomplete"  # at four tokens
    other = get(keyed, f"/v1/responses/resp_{jobs[0]['id']}", admin)
    assert code(other) == "job_not_found"
    secret = token.rpartition("_")[2].encode()
    files = [path for path in keyed.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if secret in path.read_bytes()]


def test_what_is_no_key_here(make: MakeKey, ask: Ask, clients: dict[str, Factory]) -> None:
    web = make("web", "--door", "http")
    near = make("near", "--from", "127.0.0.0/8")
    signed = make("signed", "--signed")
    assert code(ask("guest")) == "invalid_api_key"
    assert code(ask("guest", "plain text")) == "invalid_api_key"
    assert code(ask("guest", "{ no JSON")) == "invalid_api_key"
    assert code(ask("guest", {**SHORT, "api_key": "edge_wrong"})) == "invalid_api_key"
    assert code(ask("guest", {**SHORT, "api_key": 7})) == "invalid_api_key"
    assert code(ask("guest", topic=named("guest"))) == "invalid_api_key"  # a user without a key
    assert code(ask("guest", {**SHORT, "api_key": signed})) == "invalid_api_key"
    for token in (web, near):
        assert code(ask("guest", {**SHORT, "api_key": token})) == "permission_denied"
    # In another's name the broker lets nobody publish.
    clients["guest"].publish(
        named("line1"), {**SHORT, "id": "forged"}, ResponseTopic="guest/reply/f"
    )
    assert ask("guest")["status"] == "failed"
    assert not clients["guest"].on("guest/reply/f")


def test_what_keys_are_for(make: MakeKey, ask: Ask) -> None:
    token = make("narrow", "--model", f"{MODEL}*", "--priority", "normal", "--local-only")

    def sent(**more: Any) -> Any:
        return ask("guest", {**SHORT, **more, "api_key": token})

    assert sent()["status"] == "done"
    for refused in (
        {"model": "far"},
        {"edge": {"priority": "critical"}},
        {"edge": {"route": "cloud"}},
    ):
        assert code(sent(**refused)) == "permission_denied"
    for kind in ("embed", "infer/far"):
        body = {"input": "x", "model": "far", "api_key": token}
        reply = ask("guest", body, topic=f"edge/{DEVICE}/{kind}")
        assert code(reply) == "permission_denied", kind


def test_limits_of_a_key(keyed: DaemonProcess, make: MakeKey, ask: Ask) -> None:
    rate = make("rate", "--requests-per-minute", "1", "--tokens-per-day", "1000")
    assert ask("guest", {**SHORT, "api_key": rate})["status"] == "done"
    assert code(ask("guest", {**SHORT, "api_key": rate})) == "rate_limit_exceeded"
    used = get(keyed, "/v1/usage", rate)
    assert (used["requests"], used["completion_tokens"]) == (1, 4)


def test_prompts_at_once(
    keyed: DaemonProcess, make: MakeKey, ask: Ask, clients: dict[str, Factory]
) -> None:
    """Until they have ended, and not only until they were taken."""
    token = make("two", "--concurrent", "2")
    waiting = {**SHORT, "model": "far", "api_key": token}
    for number in range(2):
        clients["guest"].publish(
            CHAT, {**waiting, "id": f"two-{number}"}, ResponseTopic=f"guest/reply/two-{number}"
        )
    poll(lambda: get(keyed, "/v1/usage", token)["running"] == 2, "two that wait")
    assert code(ask("guest", {**SHORT, "api_key": token})) == "rate_limit_exceeded"
    clients["guest"].publish(CANCEL, {"id": "two-0", "api_key": token})
    assert clients["guest"].one("guest/reply/two-0").json["status"] == "cancelled"
    poll(lambda: get(keyed, "/v1/usage", token)["running"] == 1, "one that waits")
    assert ask("guest", {**SHORT, "api_key": token})["status"] == "done"
    clients["guest"].publish(CANCEL, {"id": "two-1", "api_key": token})
    clients["guest"].wait("guest/reply/two-1")


def test_ids_are_each_keys_own(make: MakeKey, ask: Ask, clients: dict[str, Factory]) -> None:
    """The same id on the same reply topic is another prompt, and nobody else can cancel it."""
    mine, other = make("mine"), make("other")
    place, guest = "guest/reply/own", clients["guest"]
    for token in (mine, other):
        prompt = {**SHORT, "model": "far", "id": "7", "api_key": token}
        guest.publish(CHAT, prompt, ResponseTopic=place)
    stranger = make("stranger")
    guest.publish(CANCEL, {"id": "7", "api_key": stranger}, ResponseTopic="guest/reply/never")
    assert code(guest.one("guest/reply/never").json) == "job_not_found"
    guest.publish(CANCEL, {"id": "7", "api_key": stranger}, ResponseTopic=place)
    assert code(guest.one(place).json) == "job_not_found"
    for number, token in ((2, mine), (3, other)):
        guest.publish(CANCEL, {"id": "7", "api_key": token})
        assert guest.wait(place, number)[-1].json["status"] == "cancelled"


def test_a_flood_of_bad_keys(
    keyed: DaemonProcess, make: MakeKey, ask: Ask, clients: dict[str, Factory]
) -> None:
    """Is neither kept nor answered one by one, and others are served meanwhile."""
    good, admin = make("good"), make("counts", "--admin")
    kept = len(get(keyed, "/admin/v1/jobs?limit=1000", admin)["jobs"])
    flood = [{**SHORT, "id": f"f{n}", "api_key": "edge_wrong"} for n in range(300)]
    for number, prompt in enumerate(flood):
        last = clients["line2"].publish(CHAT, prompt, ResponseTopic="line2/reply/flood")
        if number % 100 == 50:
            assert ask("guest", {**SHORT, "api_key": good})["status"] == "done"
    named_flood = named("line2")
    for _ in range(100):
        last = clients["line2"].publish(named_flood, SHORT, ResponseTopic="line2/reply/flood")
    poll(lambda: clients["line2"].acked(last), "all taken from the broker")
    assert ask("guest", {**SHORT, "api_key": good})["status"] == "done"
    metrics = keyed.http.get(keyed.url + "/metrics", headers={"Authorization": f"Bearer {admin}"})
    (line,) = [
        one
        for one in metrics.text.splitlines()
        if one.startswith('edge_mqtt_refused_total{reason="invalid_api_key"}')
    ]
    assert float(line.rpartition(" ")[2]) >= 400
    assert len(get(keyed, "/admin/v1/jobs?limit=1000", admin)["jobs"]) == kept + 4
    assert len(clients["line2"].on("line2/reply/flood")) < 400


def test_nobody_gets_replies_where_keys_are_named() -> None:
    """Else an answer would be the next prompt, in another's name."""
    topics = Topics("edge", DEVICE)
    for device in (DEVICE, "press-08", "any"):
        for kind in ("chat", "infer/parts"):
            with pytest.raises(InvalidRequest, match="appliances listen"):
                topics.check_reply(f"edge/{device}/as/line1/{kind}")


def test_a_broker_without_passwords_vouches_for_nobody(tmp_path: Path) -> None:
    gate = Gate(Keyring(tmp_path), required={"mqtt"})
    token = gate.keyring.add("line1")
    message = Incoming(
        topic=named("line1"), payload=b"", size=0, qos=1, number=1, again=False, retained=False
    )
    with pytest.raises(InvalidKey, match="no password"):
        Callers(gate, has_password=False).recognize(message, "line1", None)
    assert Callers(gate, has_password=True).recognize(message, "line1", None).name == "line1"
    assert Callers(gate, has_password=False).recognize(message, None, token).name == "line1"
    # Where none is needed, a name still has its key's limits, and nobody else may be named.
    gate = Gate(gate.keyring, required=())
    assert Callers(gate, has_password=False).recognize(message, "line1", None).name == "line1"
    assert Callers(gate, has_password=False).recognize(message, None, None).key is None
    with pytest.raises(InvalidKey):
        Callers(gate, has_password=False).recognize(message, "edge-cli", None)
