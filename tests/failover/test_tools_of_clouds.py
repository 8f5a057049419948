"""Calls of tools that a cloud makes, through the appliance's doors and the official SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from daemon_process import PATIENCE, DaemonProcess
from fake_cloud import FakeCloud
from openai import OpenAI
from scenarios import ALONE, CLOUD, LOCAL

PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["a"],
    "additionalProperties": False,
}
NAMES = ["f", "g"]
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": PARAMETERS}} for name in NAMES
]
CALLS = [["f", '{"a": 1234567890}'], ["g", '{"a": 2}']]


@pytest.fixture
def client(appliance: DaemonProcess) -> Iterator[OpenAI]:
    url = appliance.url + "/v1"
    checks = {"_strict_response_validation": True}
    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE, **checks) as sdk:  # type: ignore[arg-type]
        yield sdk


@pytest.fixture(autouse=True)
def calling(primary: FakeCloud, backup: FakeCloud) -> Iterator[None]:
    """Both clouds call the tools, as long as the test goes on."""
    primary.set(calls=CALLS)
    backup.set(calls=[["g", '{"a": 3}']])
    yield
    for cloud in (primary, backup):
        cloud.set(calls=None)
        cloud.clear()


def ask(client: OpenAI, model: str = ALONE, **fields: Any) -> Any:
    question: list[Any] = [{"role": "user", "content": "Go"}]
    return client.chat.completions.create(model=model, messages=question, tools=TOOLS, **fields)


def streamed(chunks: Any) -> tuple[list[list[str]], str | None]:
    calls: list[list[str]] = []
    reason = None
    for chunk in chunks:
        choice = chunk.choices[0]
        for piece in choice.delta.tool_calls or []:
            if piece.id:
                calls.append([piece.function.name, ""])
            calls[piece.index][1] += piece.function.arguments
        reason = choice.finish_reason
    return calls, reason


def test_calls_come_back(client: OpenAI) -> None:
    """As the cloud made them: whole, streamed, and as items of a Response."""
    choice = ask(client).choices[0]
    assert choice.finish_reason == "tool_calls"
    called = [[c.function.name, c.function.arguments] for c in choice.message.tool_calls]
    assert called == CALLS
    assert streamed(ask(client, stream=True)) == (CALLS, "tool_calls")
    flat: list[Any] = [
        {"type": "function", "name": name, "parameters": PARAMETERS, "strict": False}
        for name in NAMES
    ]
    response = client.responses.create(model=ALONE, input="Go", tools=flat)
    items: list[Any] = list(response.output)
    assert [[item.name, item.arguments] for item in items] == CALLS
    *_, last = client.responses.create(model=ALONE, input="Go", tools=flat, stream=True)
    assert last.type == "response.completed"
    assert [[item.name, item.arguments] for item in last.response.output] == CALLS  # type: ignore[union-attr]


def test_a_failure_before_a_call(client: OpenAI, primary: FakeCloud) -> None:
    """The next target calls; the model here does it by the schema."""
    primary.fault("reset", times=2)
    calls = ask(client, CLOUD).choices[0].message.tool_calls
    assert [(call.function.name, call.function.arguments) for call in calls] == [("g", '{"a": 3}')]
    primary.fault("reset", times=2)
    named = {"type": "function", "function": {"name": "f"}}
    (call,) = ask(client, LOCAL, tool_choice=named).choices[0].message.tool_calls
    assert call.function.name == "f"
    assert 0 <= json.loads(call.function.arguments)["a"] <= 99


@pytest.mark.parametrize("route", [CLOUD, LOCAL])
def test_a_call_that_is_cut(
    client: OpenAI, primary: FakeCloud, backup: FakeCloud, route: str
) -> None:
    """The stream ends with an error, and nobody is asked to go on."""
    primary.fault("cut", after=3, times=1)
    asked = len(backup.calls())
    pieces: list[Any] = []

    def read() -> None:
        for chunk in ask(client, route, stream=True):
            pieces.extend(chunk.choices[0].delta.tool_calls or [])

    with pytest.raises(openai.APIError, match="broke off"):
        read()
    assert "".join(piece.function.arguments for piece in pieces) == CALLS[0][1][:8]
    assert len(backup.calls()) == asked


def test_a_call_that_is_no_json(client: OpenAI, primary: FakeCloud) -> None:
    """A failure of the upstream: the next is asked where nothing is out."""
    primary.set(calls=[["f", '{"a": ']])
    primary.fault("whole", times=2)
    calls = ask(client, CLOUD).choices[0].message.tool_calls
    assert [call.function.arguments for call in calls] == ['{"a": 3}']
