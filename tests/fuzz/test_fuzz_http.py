"""No request, whatever is in it, has an answer that says that the appliance has failed."""

from __future__ import annotations

import collections
import contextlib
import random
import time
from collections.abc import Callable
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
import seeds
from daemon_process import PATIENCE, DaemonProcess
from duration import LONG, rounds
from mutator import AWKWARD, payload
from schemathesis import GenerationMode

LATER = {"overloaded", "loading", "no_route", "queue_full"}
"""Codes of answers of 500 and more that are none of a failure: it cannot be done now, or here."""

BODIES: list[tuple[str, Any]] = [
    ("/v1/chat/completions", seeds.CHAT),
    ("/v1/chat/completions", seeds.FORMED),
    ("/v1/completions", seeds.COMPLETION),
    ("/v1/completions", seeds.TOKENS),
    ("/v1/responses", seeds.RESPONSE),
    ("/v1/embeddings", seeds.EMBEDDING),
    ("/v1/rerank", seeds.RERANK),
    ("/v1/vision", seeds.PICTURE),
    ("/v1/batches", seeds.BATCH),
    ("/v2/models/adder/infer", seeds.TENSORS),
    ("/v2/models/adder/infer", seeds.ADDER),
    ("/admin/v1/models/quick/use", {"version": 1}),
]
HEADERS = (
    *("X-Edge-Priority", "X-Edge-Route", "X-Edge-Deadline-Ms", "Prefer", "Idempotency-Key"),
    *("Content-Type", "Content-Encoding", "Accept-Encoding", "Inference-Header-Content-Length"),
    *("Authorization", "X-Edge-Signature", "X-Edge-Key", "X-Request-Id", "Expect"),
)


class Seen:
    """Answers, by their status."""

    def __init__(self) -> None:
        self.statuses: collections.Counter[int] = collections.Counter()

    def check(self, what: object, status: int, body: Callable[[], Any]) -> None:
        self.statuses[status] += 1
        if status < 500:
            return
        said = body()
        error = said.get("error", said) if isinstance(said, dict) else said
        code = error.get("code") if isinstance(error, dict) else None
        assert status in (503, 507), f"{status} {said} of {what}"
        assert code in LATER, f"{status} {said} of {what}"


@pytest.fixture
def schema(daemon: DaemonProcess) -> Any:
    return schemathesis.openapi.from_url(f"{daemon.url}/openapi.json")


def test_the_openapi_document(daemon: DaemonProcess, schema: Any) -> None:
    """Each operation that it describes, with what fits the description; the long form also with
    what does not, which takes schemathesis seconds to find."""
    seen, began = Seen(), time.monotonic()
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 30
    modes = [*GenerationMode] if LONG else [GenerationMode.POSITIVE]
    for chance in rounds(1):
        for operation in operations:
            for mode in modes:
                _examples(operation, mode, seen, chance)
    print(f"{seen.statuses} in {time.monotonic() - began:.0f} s")  # noqa: T201


def _examples(operation: Any, mode: GenerationMode, seen: Seen, chance: random.Random) -> None:
    """hypothesis makes them; in the short form one, always the same."""

    @hypothesis.seed(chance.randrange(2**32))
    @hypothesis.settings(
        max_examples=20 if LONG else 1,
        phases=[hypothesis.Phase.generate],
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(mode))
    def ask(case: Any) -> None:
        answer = case.call(timeout=PATIENCE)
        seen.check(case.as_curl_command(), answer.status_code, answer.json)

    with contextlib.suppress(hypothesis.errors.Unsatisfiable):  # whatever is sent there is right
        ask()


def test_bodies_over_http(daemon: DaemonProcess) -> None:
    """Wrong ones made of right ones, and headers that mean something."""
    seen = Seen()
    # Without keep-alive: who answers before the whole body is there ends the connection.
    once = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=daemon.url, timeout=PATIENCE, limits=once) as http:
        for chance in rounds(15):
            for path, value in BODIES:
                raw, headers = payload(chance, value), dict[str, str]()
                while chance.random() < 0.2:
                    text = str(chance.choice(AWKWARD))[:200]
                    headers[chance.choice(HEADERS)] = (
                        text.encode("ascii", "ignore").decode().strip("\0\n ")
                    )
                answer = http.post(path, content=raw, headers=headers)
                seen.check((path, headers, raw), answer.status_code, answer.json)
    print(seen.statuses)  # noqa: T201
