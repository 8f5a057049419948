"""`edge doctor` about kept work and the broker: what it finds in a daemon's status."""

from __future__ import annotations

from typing import Any

import pytest

from edge.cli.checks import Check
from edge.cli.daemon_status import DeviceStatus, Status
from edge.cli.queue_checks import queue_checks
from edge.config.doors import Mqtt
from edge.errors import EdgeError
from edge.jobs.backlog import Backlog
from edge.types import BrokerFacts


def found(settings: Mqtt | None = None, **known: Any) -> Check:
    status = Status("0.1.0", DeviceStatus("d", ""), 1.0, [], **known)
    (check,) = queue_checks(settings or Mqtt(), status)
    return check


@pytest.mark.parametrize("status", [None, EdgeError("garbage")])
def test_without_a_daemon_nothing_is_known(status: EdgeError | None) -> None:
    assert queue_checks(Mqtt(), status) == []


@pytest.mark.parametrize(
    ("backlog", "status", "finding"),
    [
        ({"queued": 3, "oldest_seconds": 3599.0}, "ok", "3 waiting, 0 running, 0 failed"),
        ({"queued": 3, "oldest_seconds": 7200.0}, "warn", "the first of them for 2 h"),
        ({"queued": 80}, "warn", "nearly full: 80 waiting"),
        ({"bytes": 900}, "warn", "900 B of 1 kB"),
        ({"error": "jobs.sqlite is damaged"}, "fail", "jobs.sqlite is damaged"),
    ],
)
def test_queue(backlog: dict[str, Any], status: str, finding: str) -> None:
    check = found(queue=Backlog(**{"max_jobs": 100, "max_bytes": 1000, **backlog}))
    assert (check.name, check.status) == ("queue", status)
    assert finding in check.finding
    assert bool(check.fix) == (status != "ok")


@pytest.mark.parametrize(
    ("settings", "facts", "status", "cure"),
    [
        ({}, {"version": "5"}, "ok", None),
        ({}, {}, "warn", "again"),
        ({}, {"reason": "Connection refused"}, "warn", "mqtt.enabled"),
        ({"host": "10.0.0.5"}, {"reason": "timed out"}, "fail", "mqtt.host"),
        ({}, {"reason": "the broker refuses: Not authorized"}, "fail", "mqtt.username"),
        (
            {"username": "press"},
            {"reason": "the broker refuses: Bad user name or password"},
            "fail",
            "has to know press",
        ),
    ],
)
def test_broker(
    settings: dict[str, Any], facts: dict[str, Any], status: str, cure: str | None
) -> None:
    """A machine that nobody asks over MQTT needs none; one that somebody named has to answer."""
    mqtt = Mqtt(**settings)
    check = found(mqtt, broker=BrokerFacts(mqtt.host, mqtt.port, **facts))
    assert (check.name, check.status) == ("broker", status)
    assert str(facts.get("reason", "")) in check.finding
    assert cure is None if check.fix is None else cure is not None and cure in check.fix
