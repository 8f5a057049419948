"""What the appliance has acknowledged, and whether it has kept its word."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from daemon_process import poll
from machine import PATIENCE, Machine


class Promises:
    """Requests that were accepted with 202: their addresses, and how long the answers are to be."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.places: dict[str, int] = {}

    def take(self, count: int, tokens: int = 16) -> Promises:
        """Have so many requests accepted."""
        for _ in range(count):
            answer = self._post(tokens)
            assert answer is not None
        return self

    def _post(self, tokens: int) -> str | None:
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": f"Count to {len(self.places) + 3}."}],
            "max_tokens": tokens,
            "ignore_eos": True,
        }
        answer = self.machine.ask("POST", "/v1/chat/completions", body, Prefer="respond-async")
        assert answer.status in (202, 503, 507), answer
        if answer.status != 202:
            return None
        place = answer.headers["location"]
        self.places[place] = tokens
        return place

    def meanwhile(self) -> Asking:
        """Go on asking in the background: what is accepted counts, what is not does not."""
        return Asking(self)

    def assert_kept(self) -> None:
        """Wait until each is answered, whole."""
        for place, tokens in self.places.items():
            answer = poll(lambda place=place: self._ended(place), f"{place} to end", PATIENCE)
            # So long and no longer: all of it was made.
            assert answer["status"] == "incomplete", answer
            assert answer["usage"]["output_tokens"] == tokens, answer

    def _ended(self, place: str) -> dict[str, Any] | None:
        with suppress(OSError):
            answer = self.machine.ask("GET", place)
            if answer.status == 200 and answer.body["status"] not in ("queued", "in_progress"):
                found: dict[str, Any] = answer.body
                return found
            assert answer.status in (200, 503), answer
        return None


class Asking:
    """Callers that go on whatever happens, as long as the `with` block: of one all that is accepted
    counts, of the other how its streams ended."""

    def __init__(self, promises: Promises) -> None:
        self.promises = promises
        self.streams: list[str] = []
        self._done = threading.Event()
        self._threads = [threading.Thread(target=run) for run in (self._ask, self._listen)]

    def assert_none_cut(self) -> None:
        """Each stream was short enough to end before the time to drain did."""
        assert self.streams
        assert all(one.rstrip().endswith("data: [DONE]") for one in self.streams), self.streams

    def _ask(self) -> None:
        while not self._done.is_set():
            with suppress(OSError):
                self.promises._post(8)
            self._done.wait(0.2)

    def _listen(self) -> None:
        messages = [{"role": "user", "content": "Count to ninety."}]
        body = {"messages": messages, "stream": True, "max_tokens": 40, "ignore_eos": True}
        while not self._done.is_set():
            with suppress(OSError):
                heard = self.promises.machine.stream("/v1/chat/completions", body)
                self.streams += [] if heard is None else [heard]
            self._done.wait(0.05)

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()
