"""Server-sent events, as far as OpenAI's streams use them: the `data` of each, nothing else.

https://html.spec.whatwg.org/multipage/server-sent-events.html, without lone CR as a line's end,
which no such server sends.
"""

from __future__ import annotations

LONGEST_LINE = 1_000_000
LONGEST_EVENT = 4 * LONGEST_LINE
"""Bytes."""


class TooLong(ValueError):
    """A line or an event that is longer than any honest one."""


class EventParser:
    """Bytes in, as they come; the data of complete events out. Comments yield nothing."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._scanned = 0
        self._data: list[bytes] = []
        self._size = 0
        self._first = True

    def feed(self, some: bytes) -> list[bytes]:
        """Raises `TooLong`."""
        self._rest += some
        events: list[bytes] = []
        begin = 0
        while (end := self._rest.find(b"\n", max(begin, self._scanned))) >= 0:
            self._line(bytes(self._rest[begin:end]), events)
            begin = end + 1
        del self._rest[:begin]
        self._scanned = len(self._rest)
        if self._scanned > LONGEST_LINE:
            raise TooLong(f"a line of more than {LONGEST_LINE} bytes")
        return events

    def end(self) -> list[bytes]:
        """The stream is over: what has come of an event that lacks only its blank line."""
        events: list[bytes] = []
        self._line(bytes(self._rest), events)
        self._line(b"", events)
        self._rest.clear()
        return events

    def _line(self, line: bytes, events: list[bytes]) -> None:
        if self._first:
            line, self._first = line.removeprefix(b"\xef\xbb\xbf"), False
        line = line.removesuffix(b"\r")
        if len(line) > LONGEST_LINE:
            raise TooLong(f"a line of more than {LONGEST_LINE} bytes")
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._data, self._size = [], 0
            return
        field, _, value = line.partition(b":")
        if field != b"data":
            return
        self._data.append(value.removeprefix(b" "))
        self._size += len(value)
        if self._size > LONGEST_EVENT:
            raise TooLong(f"an event of more than {LONGEST_EVENT} bytes")
