"""/v1/responses through the official SDK: whole, streamed, and in the background."""

from __future__ import annotations

from typing import Any

import openai
import pytest
from daemon_process import MODEL, DaemonProcess, poll
from openai import OpenAI

GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_output_tokens": 12}
QUESTION = "Name the capital of Italy."


def ask(client: OpenAI, **fields: Any) -> Any:
    return client.responses.create(**{**GREEDY, "input": QUESTION, **fields})


def wait(client: OpenAI, response: Any) -> Any:
    """Poll until it has ended, as the SDK's users do."""
    return poll(
        lambda: (
            (now := client.responses.retrieve(response.id)).status not in ("queued", "in_progress")
            and now
        ),
        "an end",
    )


def test_a_response(client: OpenAI) -> None:
    """The text, the usage and what was asked for."""
    assert "Rome" in ask(client).output_text
    response = ask(client, instructions="You are a helpful assistant.", metadata={"line": "7"})
    assert response.status == "completed"
    assert response.model == MODEL
    assert response.instructions == "You are a helpful assistant."
    assert response.metadata == {"line": "7"}
    assert response.usage.output_tokens <= 12
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.background is False


def test_a_response_says_what_the_chat_says(client: OpenAI) -> None:
    """The same messages give the same text, in either API."""
    messages: Any = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "My machine is called Emma."},
        {"role": "assistant", "content": "That is a good name."},
        {"role": "user", "content": QUESTION},
    ]
    chat = client.chat.completions.create(
        model=MODEL, temperature=0, max_tokens=12, messages=messages
    )
    response = ask(client, instructions=messages[0]["content"], input=messages[1:])
    assert response.output_text == chat.choices[0].message.content


def test_an_output_can_be_sent_back(client: OpenAI) -> None:
    """As the SDK's documentation does it: the earlier output is part of the next input."""
    first = ask(client)
    history: Any = [{"role": "user", "content": QUESTION}]
    history += [item.model_dump(exclude={"phase"}) for item in first.output]
    history.append({"role": "user", "content": "And of France?"})
    assert ask(client, input=history).output_text


def test_a_response_that_is_cut(client: OpenAI) -> None:
    """At its limit it is incomplete, and says why."""
    response = ask(client, max_output_tokens=2)
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output[0].status == "incomplete"


@pytest.mark.parametrize("limit", [3, 12])
def test_a_stream(client: OpenAI, limit: int) -> None:
    """Its events are OpenAI's, in order, and its pieces are the text."""
    whole = ask(client, max_output_tokens=limit)
    events = list(ask(client, max_output_tokens=limit, stream=True))
    kinds = [event.type for event in events]
    pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * len(pieces),
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        f"response.{whole.status}",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(pieces) == whole.output_text == events[-1].response.output_text
    assert len(pieces) > 1
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens


def test_in_the_background(client: OpenAI) -> None:
    """Queued at once, answered later, with the text that it would have had at once."""
    queued = ask(client, background=True)
    assert queued.status in ("queued", "in_progress", "completed")
    assert queued.background is True
    response = wait(client, queued)
    assert response.id == queued.id
    assert response.status == "completed"
    assert response.output_text == ask(client).output_text
    assert client.responses.retrieve(queued.id) == response


def test_many_in_the_background(daemon: DaemonProcess, client: OpenAI) -> None:
    """More than there are slots: all are answered, and live requests meanwhile too."""
    inputs = [f"{number} plus one is" for number in range(20)]
    queued = [ask(client, background=True, input=text, max_output_tokens=6) for text in inputs]
    assert ask(client).output_text
    answers = [wait(client, response) for response in queued]
    assert all(answer.output_text for answer in answers)
    assert len({answer.id for answer in answers}) == 20
    poll(lambda: daemon.metrics()['edge_jobs{state="done"}'] >= 20, "the metric")


def test_cancelling(client: OpenAI) -> None:
    """It ends where it is, and stays cancelled."""
    long = {"max_output_tokens": 400, "extra_body": {"ignore_eos": True}}
    running = ask(client, background=True, **long)
    poll(lambda: client.responses.retrieve(running.id).status == "in_progress", "running")
    assert client.responses.cancel(running.id).status == "cancelled"
    assert client.responses.retrieve(running.id).status == "cancelled"
    done = wait(client, ask(client, background=True))
    assert client.responses.cancel(done.id) == done


def test_a_deadline_in_the_background(client: OpenAI) -> None:
    """What is late has failed, with the reason."""
    extra = {"ignore_eos": True, "edge": {"deadline_ms": 300}}
    response = ask(client, background=True, max_output_tokens=400, extra_body=extra)
    with OpenAI(base_url=client.base_url, api_key="none", max_retries=0) as lenient:
        late = wait(lenient, response)
    assert late.status == "failed"
    assert late.error.code == "deadline_exceeded"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"text": {"format": {"type": "regex", "regex": "a"}}}, "text.format.type"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"input": []}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input"),
        ({"background": True, "stream": True}, "stream"),
        ({"reasoning": {"effort": "low"}}, "reasoning"),
    ],
)
def test_what_is_not_possible(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    """Refused by name, kept or not."""
    with pytest.raises(openai.BadRequestError) as refusal:
        ask(client, **fields)
    assert (refusal.value.param or "").startswith(param)


def test_unknown_names(client: OpenAI) -> None:
    """404 for a Response that is not there, and for a model, before anything is kept."""
    with pytest.raises(openai.NotFoundError, match="no job"):
        client.responses.retrieve("resp_none")
    with pytest.raises(openai.NotFoundError, match="no job"):
        client.responses.cancel("resp_none")
    with pytest.raises(openai.NotFoundError, match="not served"):
        ask(client, model="gpt-4o", background=True)
