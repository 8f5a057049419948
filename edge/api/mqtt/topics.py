"""The topics of this appliance, and which reply topics a caller may name. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from paho.mqtt.client import topic_matches_sub

from edge.errors import InvalidRequest

LONGEST = 1024
"""Characters of a reply topic: far less than MQTT allows, so that storms stay small."""

INBOXES = ("chat", "cancel", "embed", "recipe/#", "infer/#")
OWN = ("status", "telemetry")


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
        self.chat, self.cancel = f"{base}/chat", f"{base}/cancel"
        self.status, self.telemetry = f"{base}/status", f"{base}/telemetry"
        self.replies = f"{base}/reply"
        self.any_chat = f"{self.root}/any/chat"
        self.subscriptions = [self.chat, self.cancel]
        if group is not None:
            self.subscriptions.append(f"$share/{group}/{self.any_chat}")
        self._allowed = (
            [f"{self.root}/#", "+/reply/#"] if reply_allow is None else list(reply_allow)
        )
        self._refused = [f"{self.root}/+/{name}" for name in (*INBOXES, *OWN)]

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
