"""The topics of this appliance, and which reply topics a caller may name. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from paho.mqtt.client import topic_matches_sub

from edge.errors import InvalidRequest

LONGEST = 1024
"""Characters of a reply topic: far less than MQTT allows, so that storms stay small."""

TOPIC_RIGHTS: dict[str, Literal["model", "own"]] = {
    "chat": "model",
    "embed": "model",
    "infer/+": "model",
    "cancel": "own",
}
"""All topics that are listened on, behind the device's name, and what each asks of a key: to be for
the model that is asked, or what is its own."""

WORK = tuple(topic for topic, right in TOPIC_RIGHTS.items() if right == "model")
"""That come behind `any` too."""

AS = "as"
"""Behind it come the name of a key, for which the broker vouches, and what is above."""

INBOXES = ("chat", "cancel", "embed", "recipe/#", "infer/#", f"{AS}/#")
OWN = ("status", "telemetry")


class Inlet(NamedTuple):
    """Where a message came in. kind: `chat`, `embed`, `infer` or `cancel`. name: the level behind
    it, if there is one. key: the name of one, if there is one."""

    kind: str
    name: str
    key: str | None


class Topics:
    """`{root}/{device}/…`; the device's `+` is written `-`, for it is a wildcard here."""

    def __init__(
        self,
        root: str,
        device: str,
        group: str | None = None,
        reply_allow: Sequence[str] | None = None,
    ) -> None:
        self.root = root.rstrip("/")
        base = f"{self.root}/{device.replace('+', '-')}"
        self.status, self.telemetry = f"{base}/status", f"{base}/telemetry"
        self.replies = f"{base}/reply"
        self._prefixes = (f"{base}/", f"{self.root}/any/")
        own, shared = _inlets(*TOPIC_RIGHTS), _inlets(*WORK)
        self.subscriptions = [f"{base}/{one}" for one in own]
        if group is not None:
            self.subscriptions += [f"$share/{group}/{self.root}/any/{one}" for one in shared]
        self._allowed = (
            [f"{self.root}/#", "+/reply/#"] if reply_allow is None else list(reply_allow)
        )
        self._refused = [f"{self.root}/+/{name}" for name in (*INBOXES, *OWN)]

    def inlet(self, topic: str) -> Inlet:
        """What a message on one of the subscribed topics is for."""
        for prefix in self._prefixes:
            topic = topic.removeprefix(prefix)
        key = None
        if topic.startswith(f"{AS}/") and topic.count("/") > 1:
            _, key, topic = topic.split("/", 2)
        kind, _, name = topic.partition("/")
        return Inlet(kind, name, key)

    def default_reply(self, prompt_id: str | int) -> str:
        return f"{self.replies}/{prompt_id}"

    def check_reply(self, topic: str) -> None:
        """Raises `InvalidRequest` for a topic that nothing will be published to.

        Topics where appliances listen are among those: a reply there would be the next prompt.
        """
        problem = self._problem(topic)
        if problem is not None:
            raise InvalidRequest(
                f"the reply topic {topic[:LONGEST]!r} {problem}",
                param="reply_to",
                hint="mqtt.reply_allow says which are allowed",
            )

    def _problem(self, topic: str) -> str | None:
        if not topic or len(topic) > LONGEST:
            return f"does not have 1 to {LONGEST} characters"
        if any(sign in topic for sign in "+#\0"):
            return "has a wildcard"
        if not topic.isprintable():
            return "has a character that cannot be printed"
        if topic.startswith("$"):
            return "belongs to the broker"
        if any(topic_matches_sub(taken, topic) for taken in self._refused):
            return "is one where appliances listen or tell their state"
        if not any(topic_matches_sub(allowed, topic) for allowed in self._allowed):
            return "is not allowed"
        return None


def _inlets(*topics: str) -> list[str]:
    """The topics, and the same for keys by their names."""
    return [*topics, *(f"{AS}/+/{one}" for one in topics)]
