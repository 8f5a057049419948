"""What `edge doctor` finds about kept work and about the broker, from a running daemon's status."""

from __future__ import annotations

from edge.cli import output
from edge.cli.checks import Check
from edge.cli.daemon_status import Status
from edge.config.doors import Mqtt
from edge.config.tree import is_loopback
from edge.errors import EdgeError
from edge.types import BrokerFacts

OLD_SECONDS = 3600
"""A request that waits for so long waits for something that somebody has to see to."""

UNKNOWN_USER = ("Not authorized", "Bad user name or password")
"""A broker's reason codes 0x87 and 0x86 (MQTT 5.0, 3.2.2.2), as paho puts them."""


def queue_checks(settings: Mqtt, status: Status | EdgeError | None) -> list[Check]:
    """Nothing where no daemon answers: it alone knows."""
    if not isinstance(status, Status):
        return []
    found = [] if status.broker is None else [_broker(settings, status.broker)]
    return [*_queue(status), *found]


def _queue(status: Status) -> list[Check]:
    backlog = status.queue
    if backlog is None:  # an older daemon
        return []
    if backlog.error:
        return [Check("queue", "fail", backlog.error, "look at the disk, and at the daemon's log")]
    finding = f"{backlog.queued} waiting, {backlog.running} running, {backlog.failed} failed"
    if backlog.nearly_full:
        finding += f", {output.size(backlog.bytes)} of {output.size(backlog.max_bytes)}"
        fix = "edge jobs list --state queued; what waits for, `upstreams` in edge status may tell"
        return [Check("queue", "warn", f"nearly full: {finding}", fix)]
    oldest = backlog.oldest_seconds
    if oldest is not None and oldest > OLD_SECONDS:
        finding += f", the first of them for {output.duration(oldest)}"
        return [Check("queue", "warn", finding, "edge jobs list --state queued")]
    return [Check("queue", "ok", finding)]


def _broker(settings: Mqtt, broker: BrokerFacts) -> Check:
    where = f"{broker.host}:{broker.port}"
    if broker.version is not None:
        return Check("broker", "ok", f"{where}, MQTT {broker.version}")
    if broker.reason is None:
        return Check("broker", "warn", f"{where} has not answered yet", "ask again in a minute")
    finding = f"{where}: {broker.reason}"
    if any(refusal in broker.reason for refusal in UNKNOWN_USER):
        return Check("broker", "fail", finding, _user_fix(settings))
    if is_loopback(broker.host):
        # A machine that is asked over HTTP alone needs none.
        fix = "start one (docs/mqtt.md), or set mqtt.enabled: false where none is wanted"
        return Check("broker", "warn", finding, fix)
    fix = "see whether it runs and lets this machine in: mqtt.host, mqtt.port, mqtt.tls"
    return Check("broker", "fail", finding, fix)


def _user_fix(settings: Mqtt) -> str:
    if settings.username is None:
        return "set mqtt.username, edge where the installer set the broker up, and its password"
    return f"the broker has to know {settings.username} by this password: mosquitto_passwd"
