"""On disk before it is acknowledged, and refused when there is no room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from daemon_process import DaemonProcess, Start, poll
from factory import Join, behind
from mosquitto import Mosquitto
from small_disk import SmallDisk
from system_calls import assert_synced_before, traced

PUBACK = r'send(to|msg)?\(\d+<[^>]*>, (\{.*)?"\\x40\\x0[234]'
"""Control packet 4 (MQTT 5, section 3.4): the broker is told that it need not keep the prompt."""


def test_synced_before_it_is_acknowledged(
    daemon: DaemonProcess, shared_broker: Mosquitto, join: Join, tmp_path: Path
) -> None:
    """strace of the daemon: the log is written, synced, and only then a PUBACK goes out."""
    client = join(shared_broker, "line7/reply/kept")
    with traced(daemon.pid, tmp_path / "trace") as lines:
        client.ask({"prompt": "The sea is", "max_tokens": 4}, ResponseTopic="line7/reply/kept")
        client.one("line7/reply/kept")
    assert_synced_before(lines, PUBACK)


def test_a_full_queue(broker: Mosquitto, start: Start, join: Join) -> None:
    """An error reply, and room again when the queue has been worked off."""
    daemon = start(**behind(broker, queue__max_jobs=1, engine__slots=1)).wait_ready()
    poll(lambda: daemon.metrics()["edge_mqtt_connected"], "a subscription")
    client = join(broker, "line7/reply/#")
    long = {"prompt": "The sea is", "max_tokens": 200, "edge": {}}
    client.ask({**long, "id": "first", "reply_to": "line7/reply/first"})
    daemon.wait_running(1)
    client.ask({**long, "id": "second", "reply_to": "line7/reply/second"})
    refusal = client.one("line7/reply/second").json
    assert refusal["status"] == "failed"
    assert refusal["error"]["code"] == "queue_full"
    assert client.one("line7/reply/first").json["status"] == "done"
    client.ask({"prompt": "Hi", "max_tokens": 4, "reply_to": "line7/reply/third"})
    assert client.one("line7/reply/third").json["status"] == "done"
    assert daemon.stop() == 0


def test_a_full_disk(disk: SmallDisk, broker: Mosquitto, start: Start, join: Join) -> None:
    """Prompts are refused with a reply, live requests are served, and what was taken before, and
    what comes once there is room again, is answered."""
    daemon = start(folder=disk.folder / "edge", **behind(broker)).wait_ready()
    poll(lambda: daemon.metrics()["edge_mqtt_connected"], "a subscription")
    client = join(broker, "line7/reply/#")
    sent: list[str] = []

    def ask(**options: Any) -> None:
        sent.append(f"line7/reply/{len(sent)}")
        client.ask({"prompt": "The sea is", "max_tokens": 1, "reply_to": sent[-1], **options})

    def refused() -> list[Any]:
        return [reply for one in list(client.heard) if (reply := one.json)["status"] == "failed"]

    def refused_when_asked() -> list[Any]:
        ask()
        return refused()

    def done_when_asked() -> bool:
        ask()
        return bool(client.one(sent[-1]).json["status"] == "done")

    ask(max_tokens=100, ignore_eos=True)
    daemon.wait_running(1)
    disk.fill(daemon)
    # The ledger's files have a little room left in them.
    refusal = poll(refused_when_asked, "a refusal")[0]
    assert refusal["error"]["code"] == ("queue_full" if disk.mounted else "store_broken")
    live = {"prompt": "The sea is", "max_tokens": 1}
    assert daemon.post("/v1/completions", live).status_code == 200
    disk.free(daemon)
    assert client.one(sent[0]).json["status"] == "done"
    poll(done_when_asked, "room again")
    for topic in sent:
        client.one(topic)
    assert daemon.stop() == 0
