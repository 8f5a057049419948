"""systemd/mosquitto-edge.conf and its ACL file, as Debian's mosquitto reads them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_process import Start, poll
from factory import CHAT, DEVICE, REPLIES, STATUS, Join, behind
from mosquitto import Mosquitto
from users import password_of, production_lines

SHORT = {"prompt": "Say hello.", "temperature": 0, "max_tokens": 4}


@pytest.fixture
def production(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "broker", *production_lines(tmp_path, "edge", "line1", "line2"))
    yield broker
    broker.end()


def test_callers_read_only_their_own_replies(
    production: Mosquitto, start_quick: Start, join: Join, tmp_path: Path
) -> None:
    """A user's replies go to that user alone; nobody else can speak as the appliance."""
    secret = tmp_path / "secret"
    secret.write_text(password_of("edge") + "\n")
    start_quick(**behind(production), mqtt__username="edge", mqtt__password_file=secret)
    callers = {
        user: join(production, "#", username=user, password=password_of(user))
        for user in ("line1", "line2")
    }
    for caller in callers.values():
        caller.wait(STATUS)
    forged = callers["line2"].publish(STATUS, '{"state": "offline"}', retain=True)
    callers["line2"].publish("line1/reply/1", '{"forged": true}')
    poll(lambda: callers["line2"].acked(forged), "an answer of the broker")
    callers["line1"].publish(CHAT, {**SHORT, "id": "1"}, ResponseTopic="line1/reply/1")
    reply = callers["line1"].one("line1/reply/1").json
    assert reply["status"] == "done"
    callers["line2"].publish(CHAT, {**SHORT, "id": "2"}, ResponseTopic="line2/reply/2")
    callers["line2"].wait("line2/reply/2")
    callers["line2"].publish(CHAT, {**SHORT, "id": "3"})
    callers["line1"].publish(CHAT, {**SHORT, "id": "4"}, ResponseTopic="line1/reply/4")
    callers["line1"].wait("line1/reply/4")
    for user, other in (("line1", "line2"), ("line2", "line1")):
        topics = {heard.topic for heard in callers[user].heard}
        assert not any(topic.startswith((other, REPLIES)) for topic in topics)
    assert [one.json["state"] for one in callers["line1"].on(STATUS)] == ["online"]


def test_callers_may_send_all_requests(
    production: Mosquitto, start_quick: Start, join: Join, tmp_path: Path
) -> None:
    """Those that nothing is installed for are refused by the appliance, and not by the broker."""
    secret = tmp_path / "secret"
    secret.write_text(password_of("edge") + "\n")
    start_quick(**behind(production), mqtt__username="edge", mqtt__password_file=secret)
    caller = join(production, "#", username="line1", password=password_of("line1"))
    caller.wait(STATUS)
    for number, kind in enumerate(("embed", "infer/parts")):
        topic = f"line1/reply/{number}"
        caller.publish(f"edge/{DEVICE}/{kind}", "a text", ResponseTopic=topic)
        assert caller.one(topic).json["error"]["code"] == "model_not_found"
