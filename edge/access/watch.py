"""Notes in the audit log which keys come, change and go, whoever has written their files.

What changes while the daemon does not run shows in the list that it notes at its start. Owned by
the event loop.
"""

from __future__ import annotations

from edge.access.key import Key
from edge.access.keyring import Keyring
from edge.audit.audit import Audit
from edge.audit.event import Event
from edge.loops import Loop

TICK = 1.0


class KeyWatch:
    """`run` it in a task."""

    def __init__(self, keyring: Keyring, audit: Audit) -> None:
        self._keyring = keyring
        self._audit = audit
        self._known: dict[str, Key] | None = None
        self._loop = Loop("keys", self._look, tick=TICK)

    async def run(self) -> None:
        await self._loop.run()

    async def stop(self) -> None:
        self._loop.stop()

    async def _look(self) -> None:
        now = {key.name: key for key in self._keyring.known()}
        before, self._known = self._known, now
        if before is None:
            self._audit.note(Event(what="keys", detail=", ".join(sorted(now)) or "none"))
            return
        for name in sorted(now.keys() | before.keys()):
            if name not in before:
                self._note("added", name)
            elif name not in now:
                self._note("removed", name)
            elif now[name] != before[name]:
                self._note("changed", name)

    def _note(self, what: str, name: str) -> None:
        self._audit.note(Event(what=f"key {what}", detail=name))
