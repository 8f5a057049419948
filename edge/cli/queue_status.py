"""What `edge status` shows of kept work, of what is owed to others, and of the broker."""

from __future__ import annotations

import time

from rich.text import Text

from edge.cli import output
from edge.jobs.backlog import Backlog
from edge.types import BrokerFacts


def queue_lines(backlog: Backlog | None) -> list[Text]:
    """Nothing where there is nothing."""
    if backlog is None:
        return []
    if backlog.error:
        return [Text(f"queue: {output.harmless(backlog.error)}", style="bold red")]
    lines = []
    if backlog.queued or backlog.running:
        lines.append(Text(_kept(backlog), style="bold yellow" if backlog.nearly_full else ""))
    owed = [
        (backlog.replies, "replies over MQTT"),
        (backlog.webhooks, "webhooks"),
        (backlog.reports, "reports of finished work"),
    ]
    if told := ", ".join(f"{number} {what}" for number, what in owed if number):
        lines.append(Text(f"to be sent: {told}"))
    if backlog.batches:
        lines.append(Text(f"batches under way: {backlog.batches}"))
    return lines


def _kept(backlog: Backlog) -> str:
    line = f"queue: {backlog.running} running, {backlog.queued} waiting"
    if backlog.queued and backlog.oldest_seconds is not None:
        each = ", ".join(f"{number} for {name}" for name, number in backlog.lines.items())
        line += f" ({output.harmless(each)}), longest for "
        line += output.duration(backlog.oldest_seconds)
    line += f"; {output.size(backlog.bytes)} of {output.size(backlog.max_bytes)}"
    return f"{line}, {backlog.queued + backlog.running} of {backlog.max_jobs} requests"


def broker_lines(broker: BrokerFacts | None) -> list[Text]:
    if broker is None:
        return []
    line = f"mqtt: {output.harmless(broker.host)}:{broker.port}"
    age = "" if broker.since is None else output.duration(max(0.0, time.time() - broker.since))
    if broker.version is not None:
        return [Text(f"{line}, MQTT {broker.version}, for {age}")]
    line += ", not connected" + (f" for {age}" if age else "")
    reason = f": {output.harmless(broker.reason)}" if broker.reason else ""
    return [Text(line + reason, style="yellow")]
