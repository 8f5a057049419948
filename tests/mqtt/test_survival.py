"""The promise: what was acknowledged is answered, exactly once content-wise.

The ledger that counts is kept here, outside the daemon: which prompts the broker acknowledged,
and what came back. `./scripts/soak` runs this for longer.
"""

from __future__ import annotations

import os
import random
import signal
from collections import defaultdict

from daemon_process import PATIENCE, DaemonProcess, Start, poll
from factory import Factory, Heard, Join, behind
from mosquitto import Mosquitto

KILLS = int(os.environ.get("SOAK_KILLS", "3"))
BROKER_RESTARTS = int(os.environ.get("SOAK_BROKER_RESTARTS", "1"))
PROMPTS_EACH = 8
REPLY = "line1/reply/survival"


def publish(client: Factory, number: int) -> int:
    """Every other prompt has an id; the others are told apart by their Correlation Data."""
    name = f"p{number}"
    body = {"prompt": f"Tell a story about {number}.", "max_tokens": 3 + number % 6}
    if number % 2:
        body["id"] = name
    return client.ask(body, ResponseTopic=REPLY, CorrelationData=name.encode())


def kill(daemon: DaemonProcess) -> None:
    daemon.process.send_signal(signal.SIGKILL)
    daemon.process.wait(PATIENCE)


def answers(client: Factory) -> dict[bytes, list[Heard]]:
    found: dict[bytes, list[Heard]] = defaultdict(list)
    for reply in client.on(REPLY):
        assert reply.correlation is not None
        found[reply.correlation].append(reply)
    return found


def test_everything_acknowledged_is_answered_once(
    broker: Mosquitto, start: Start, join: Join
) -> None:
    """The daemon is killed at random moments, the broker restarted; nothing is missing, and what
    comes twice is the same."""
    client = join(broker, REPLY, name="line1")
    chance = random.Random(7)
    daemon = start(**behind(broker)).wait_alive()
    # What is published before the first subscription ever, a broker gives to nobody.
    poll(lambda: daemon.metrics()["edge_mqtt_connected"], "a subscription")
    published: dict[bytes, int] = {}
    restarts = 0
    for turn in range(KILLS):
        for _ in range(PROMPTS_EACH):
            number = len(published)
            published[f"p{number}".encode()] = publish(client, number)
        wanted = len(answers(client)) + chance.randrange(PROMPTS_EACH)
        poll(lambda wanted=wanted: len(answers(client)) >= wanted, "some answers")
        kill(daemon)
        if turn % (KILLS // BROKER_RESTARTS) == KILLS // BROKER_RESTARTS // 2:
            restarts += 1
            broker.stop()
            broker.start()
        daemon = start(**behind(broker))
    poll(lambda: all(map(client.acked, published.values())), "acknowledgements")
    poll(lambda: set(answers(client)) == set(published), "all answers")
    for correlation, replies in answers(client).items():
        assert len({reply.payload for reply in replies}) == 1, correlation
        assert replies[0].json["status"] == "done"
    # A last prompt comes behind whatever might still be owed.
    publish(client, len(published))
    poll(lambda: len(answers(client)) == len(published) + 1, "a last answer")
    daemon.wait_idle()
    ledger = daemon.get("/admin/v1/jobs?limit=1000").json()["jobs"]
    assert len(ledger) == len(published) + 1
    assert {job["state"] for job in ledger} == {"done"}
    poll(
        lambda: all(
            job["delivered"] for job in daemon.get("/admin/v1/jobs?limit=1000").json()["jobs"]
        ),
        "nothing owed",
    )
    _report(client, published, restarts)


def _report(client: Factory, published: dict[bytes, int], restarts: int) -> None:
    found = answers(client)
    acknowledged = {name for name, number in published.items() if client.acked(number)}
    again = [replies for replies in found.values() if len(replies) > 1]
    differing = [replies for replies in again if len({one.payload for one in replies}) > 1]
    print(  # noqa: T201 - the soak is run to see this
        f"\nkills of the daemon: {KILLS}, restarts of the broker: {restarts}\n"
        f"prompts acknowledged: {len(acknowledged)}, answered: {len(acknowledged & set(found))},"
        f" missing: {len(acknowledged - set(found))}\n"
        f"answers delivered more than once: {len(again)}, with other bytes: {len(differing)}"
    )
