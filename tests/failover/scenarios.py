"""Everything that can happen to a request whose targets fail, as data: for tests and benchmark.

A scenario is a fault at the primary, on a route with it alone, with another cloud behind it, or
with the model here behind it. The clouds know one text only (`fake_cloud.py`), so that an answer
that was put together wrongly cannot pass for a right one.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from daemon_process import MODEL, SLOWER, DaemonProcess, poll
from fake_cloud import FakeCloud, text_of

WORDS = 20
TEXT = text_of(WORDS)
LIMITS = {"connect": 0.5, "first_token": 0.8, "stall": 0.6, "total": 6.0}
SLACK = 1.0 * SLOWER
"""Seconds that a scenario may take beyond its limits."""

ALONE, CLOUD, LOCAL = "alone", "backed-by-cloud", "backed-by-local"
ROUTES = {
    ALONE: ["cloud:primary"],
    CLOUD: ["cloud:primary", "cloud:backup"],
    LOCAL: ["cloud:primary", f"local:{MODEL}"],
}


@dataclass(frozen=True)
class Fault:
    """name, options: as `FakeCloud.fault` takes them. waits: the limits that it uses up.

    status: of the answer where the primary is alone; 200 where the fault does no harm.
    middle: it comes when some of the answer is out. final: nobody else is asked.
    """

    name: str
    options: dict[str, Any]
    status: int
    waits: float = 0.0
    middle: bool = False
    final: bool = False

    @property
    def title(self) -> str:
        status = str(self.options.get("status", ""))
        words = [self.name.replace("_", " "), status, "in mid-stream" if self.middle else ""]
        return " ".join(word for word in words if word)


def _status(status: int, answer: int, **options: Any) -> Fault:
    final = status in (400, 413, 422)
    return Fault("status", {"status": status, **options}, answer, final=final)


AFTER = 5
"""Words that are out before a fault in mid-stream."""

FAULTS = [
    Fault("refuse", {"seconds": 0.5}, 502),
    Fault("reset", {}, 502),
    Fault("hang", {}, 504, LIMITS["first_token"]),
    Fault("silence", {}, 504, LIMITS["first_token"]),
    Fault("comments", {}, 504, LIMITS["first_token"]),
    Fault("empty_deltas", {}, 504, LIMITS["first_token"]),
    Fault("html", {}, 502),
    Fault("broken_json", {}, 502),
    Fault("empty_choices", {}, 502),
    Fault("error_event", {}, 502),
    _status(401, 502),
    _status(404, 502),
    _status(429, 429, retry_after=1),
    _status(500, 502),
    _status(503, 502),
    _status(503, 502, retry_after=1),
    _status(400, 400),
    _status(413, 413),
    _status(422, 422),
    Fault("content_filter", {}, 400, final=True),
    Fault("cut", {"after": AFTER}, 502, middle=True),
    Fault("stall", {"after": AFTER}, 504, LIMITS["stall"], middle=True),
    Fault("broken_json", {"after": AFTER}, 502, middle=True),
    Fault("error_event", {"after": AFTER}, 502, middle=True),
    Fault("no_reason", {}, 502, middle=True),
    Fault("no_done", {}, 200),
    Fault("open_end", {}, 200, 2.0),
    Fault("whole", {}, 200),
    Fault("slow", {"delay": 0.02}, 200, 0.02 * WORDS),
]


def yaml(primary: FakeCloud, backup: FakeCloud, **breaker: Any) -> str:
    """The configuration of an appliance with these clouds and all routes."""
    never = {"failure_ratio": 1.0, "min_requests": 10_000, "consecutive": 10_000}
    upstreams = {
        name: {
            "base_url": cloud.url,
            "timeouts": LIMITS,
            "retries": 0,
            "breaker": breaker or never,
        }
        for name, cloud in (("primary", primary), ("backup", backup))
    }
    return json.dumps({"routes": ROUTES, "upstreams": upstreams})


@dataclass
class Outcome:
    """What a client got."""

    status: int
    text: str = ""
    done: bool = False
    error: dict[str, Any] | None = None
    headers: dict[str, str] | None = None
    seconds: float = 0.0


def ask(daemon: DaemonProcess, route: str, *, stream: bool, **fields: Any) -> Outcome:
    body = {
        "model": route,
        "messages": [{"role": "user", "content": "count"}],
        "stream": stream,
        **fields,
    }
    began = time.monotonic()
    url = daemon.url + "/v1/chat/completions"
    with daemon.http.stream("POST", url, json=body) as response:
        outcome = Outcome(response.status_code, headers=dict(response.headers))
        if stream and response.status_code == 200:
            _listen(outcome, response)
        else:
            answer = json.loads(response.read())
            outcome.error = answer.get("error")
            if outcome.error is None:
                outcome.text = answer["choices"][0]["message"]["content"]
                outcome.done = answer["choices"][0]["finish_reason"] is not None
    outcome.seconds = time.monotonic() - began
    return outcome


def _listen(outcome: Outcome, response: httpx.Response) -> None:
    for event in _events(response):
        if event == "[DONE]":
            outcome.done = True
        elif "error" in event:
            outcome.error = event["error"]
        else:
            for choice in event["choices"]:
                outcome.text += choice["delta"].get("content") or ""


def _events(response: httpx.Response) -> Iterator[Any]:
    for line in response.iter_lines():
        if line.startswith("data: "):
            data = line[6:]
            yield data if data == "[DONE]" else json.loads(data)


def _listens(cloud: FakeCloud) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", cloud.port)) == 0


def _may_be_asked(daemon: DaemonProcess) -> bool:
    """Once what it has asked for with Retry-After has passed."""
    upstreams = daemon.get("/admin/v1/status").json()["upstreams"]
    return all(upstream["reason"] is None for upstream in upstreams)


@contextmanager
def broken(fault: Fault, daemon: DaemonProcess, primary: FakeCloud) -> Iterator[None]:
    """The primary has the fault inside the block; behind it, it is asked again as ever."""
    primary.fault(fault.name, **fault.options)
    try:
        yield
    finally:
        primary.clear()
        poll(lambda: _listens(primary), "the primary is there again")
        poll(lambda: _may_be_asked(daemon), "the primary may be asked again")


@dataclass(frozen=True)
class Scenario:
    fault: Fault
    route: str
    stream: bool

    @property
    def title(self) -> str:
        return f"{self.fault.title}, {self.route}, {'stream' if self.stream else 'whole'}"

    def run(self, daemon: DaemonProcess, primary: FakeCloud) -> Outcome:
        """Break the primary, ask, mend it."""
        with broken(self.fault, daemon, primary):
            return self.ask(daemon)

    def ask(self, daemon: DaemonProcess) -> Outcome:
        return ask(daemon, self.route, stream=self.stream, **self.fields)

    @property
    def fields(self) -> dict[str, Any]:
        # What the model here has to say takes a while.
        return {"max_tokens": WORDS} if self.route == LOCAL else {}

    @property
    def limit(self) -> float:
        """Seconds that it may take."""
        return self.fault.waits + SLACK + (5.0 if self.route == LOCAL else 0.0)

    def wrong(self, outcome: Outcome) -> str | None:
        """What is wrong with the outcome, None if it is as it should be."""
        fault = self.fault
        if outcome.seconds > self.limit:
            return f"it took {outcome.seconds:.1f} s, {self.limit:.1f} were allowed"
        if outcome.error is not None and outcome.done:
            return "an answer that failed ended as if it were whole"
        if fault.status == 200 or not (fault.final or self.route == ALONE):
            return self._wrong_answer(outcome)
        if fault.middle and self.stream:
            if outcome.error is None:
                return "a stream that was cut ended without an error"
            begun = text_of(fault.options.get("after", WORDS))
            return None if outcome.text == begun else f"not {begun!r}: {outcome.text!r}"
        if outcome.status != fault.status:
            return f"status {outcome.status}, {outcome.error}"
        retry = "retry-after" in (outcome.headers or {})
        return "no Retry-After" if outcome.status in (429, 503) and not retry else None

    def _wrong_answer(self, outcome: Outcome) -> str | None:
        if outcome.status != 200 or outcome.error is not None or not outcome.done:
            return f"no whole answer: {outcome}"
        if self.route != LOCAL or self.fault.status == 200:
            return None if outcome.text == TEXT else f"not the text: {outcome.text!r}"
        begun = text_of(AFTER) if self.fault.middle and "after" in self.fault.options else ""
        if not outcome.text.startswith(begun) or not outcome.text:
            return f"does not go on from {begun!r}: {outcome.text!r}"
        return None


SCENARIOS = [
    Scenario(fault, route, stream)
    for fault in FAULTS
    for route in ROUTES
    for stream in (True, False)
]
