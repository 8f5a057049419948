"""Token bytes to text that may be sent: whole UTF-8 characters, and nothing of a stop string.

A stop string may be spread over several tokens, so text that could still become one is held
back until it is clear. What calls a tool is no text, and nothing stops in it. Owned by one
sequence.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """`push` bytes, get text; `stopped` turns true when a stop string was met.

    last: the text up to and with which stop strings count; None for all of it.
    """

    def __init__(self, stops: Sequence[str] = (), last: str | None = None) -> None:
        self.stops = [stop for stop in stops if stop]
        self._last = last if self.stops else None
        self.stopped = False
        self.sent = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    @property
    def length(self) -> int:
        """Characters seen so far, the held ones included."""
        return self.sent + len(self._held)

    @property
    def clear(self) -> bool:
        """Nothing is held back: no beginning of a stop string and no half character."""
        return not self._held and not self._decoder.getstate()[0]

    def push(self, raw: bytes) -> str:
        """Add a token's bytes; returns what has become certain."""
        self._held += self._decoder.decode(raw)
        return self._release(self._certain())

    def finish(self) -> str:
        """The answer ended by itself: what was held back is text after all."""
        if self.stopped:
            return ""
        self._held += self._decoder.decode(b"", final=True)
        return self._release(len(self._held))

    def _release(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        self.sent += len(text)
        return text

    def _certain(self) -> int:
        """How many held characters can be sent; cuts at the first stop string if there is one."""
        at_last = -1 if self._last is None else self._held.find(self._last)
        counts = self._held if at_last < 0 else self._held[: at_last + len(self._last or "")]
        found = [at for at in (counts.find(stop) for stop in self.stops) if at >= 0]
        if found:
            self.stopped = True
            self._held = self._held[: min(found)]
            return len(self._held)
        if at_last >= 0:
            self.stops, self._last = [], None
        watched = self.stops if self._last is None else [*self.stops, self._last]
        return len(self._held) - max((_overlap(self._held, stop) for stop in watched), default=0)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    for size in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:size]):
            return size
    return 0
