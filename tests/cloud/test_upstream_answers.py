"""Answers of a cloud model, as the router gets them, over real sockets."""

from __future__ import annotations

import time

import fake_cloud
import pytest
from asking import Make, ask, chat, finish_of, text_of, until
from fake_cloud import FakeCloud

from edge.cloud.upstream import Upstream
from edge.errors import NoRoute
from edge.types import Delta, Grammar, Sampling, TextPrompt, TokenPrompt


async def test_pieces_of_a_stream(upstream: Upstream, cloud: FakeCloud) -> None:
    """Words come one by one, and the end tells the upstream's own counts."""
    parts = await ask(upstream, chat("Say six words, and no more."))
    assert text_of(parts) == fake_cloud.text_of(20)
    assert sum(isinstance(part.event, Delta) for part in parts) == 20
    end = finish_of(parts)
    assert (end.reason, end.id) == ("stop", "req-1.0")
    assert (end.usage.prompt_tokens, end.usage.cached_tokens) == (6, 1)
    assert end.usage.completion_tokens == 20
    assert 0 < end.usage.prompt_seconds < 1
    assert 0 <= end.usage.generation_seconds < 1
    assert upstream.latency is not None
    assert abs(upstream.latency - end.usage.prompt_seconds) < 0.1


async def test_what_is_sent(make: Make, cloud: FakeCloud) -> None:
    """Only what the caller set, by the names of OpenAI's API and of llama-server."""
    upstream = make(model="words-large")
    sampling = Sampling(temperature=0.5, seed=7, top_k=40, repeat_penalty=1.1)
    await ask(upstream, chat("Hi.", max_tokens=3, stop=["x"], sampling=sampling))
    (call,) = cloud.calls()
    assert call["path"] == "/v1/chat/completions"
    assert call["body"] == {
        "model": "words-large",
        "messages": [{"role": "user", "content": "Hi."}],
        "max_tokens": 3,
        "stop": ["x"],
        "temperature": 0.5,
        "seed": 7,
        "top_k": 40,
        "repeat_penalty": 1.1,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert call["headers"]["x-request-id"] == "req-1"
    assert "idempotency-key" not in call["headers"]
    assert "authorization" not in call["headers"]
    assert upstream.model == "words-large"


async def test_several_answers(upstream: Upstream, cloud: FakeCloud) -> None:
    """Each of them is a call of its own, at once, with a seed of its own."""
    cloud.fault("slow", delay=0.02)
    request = chat(n=3, max_tokens=5, sampling=Sampling(seed=1), kept=True)
    parts = await ask(upstream, request)
    for index in range(3):
        assert text_of(parts, index) == fake_cloud.text_of(5)
        assert finish_of(parts, index).reason == "length"
    calls = cloud.calls()
    assert sorted(call["body"]["seed"] for call in calls) == [1, 2, 3]
    keys = {call["headers"]["idempotency-key"] for call in calls}
    assert keys == {"req-1-0", "req-1-1", "req-1-2"}
    assert len({call["connection"] for call in calls}) == 3


async def test_a_completion(upstream: Upstream, cloud: FakeCloud) -> None:
    """Raw text goes to the older API."""
    parts = await ask(upstream, chat(prompts=[TextPrompt("Once upon"), TextPrompt("a time")]))
    assert text_of(parts, 0) == text_of(parts, 1) == fake_cloud.text_of(20)
    assert sorted(call["body"]["prompt"] for call in cloud.calls()) == ["Once upon", "a time"]
    assert {call["path"] for call in cloud.calls()} == {"/v1/completions"}


@pytest.mark.parametrize("stream", [True, False])
async def test_whole_answers(make: Make, cloud: FakeCloud, stream: bool) -> None:
    """A server that cannot stream, known or not, gives one piece."""
    upstream = make(stream=stream)
    if stream:
        cloud.fault("whole")
    parts = await ask(upstream, chat(max_tokens=4))
    assert text_of(parts) == "w0 w1 w2 w3"
    assert finish_of(parts).usage.completion_tokens == 4
    assert ("stream" in cloud.calls()[0]["body"]) == stream


@pytest.mark.parametrize("kind", ["chat", "text"])
async def test_log_probabilities(upstream: Upstream, kind: str) -> None:
    """They are the upstream's; ids of its tokens are not known here."""
    prompts = {"prompts": [TextPrompt("Hi.")]} if kind == "text" else {}
    parts = await ask(upstream, chat(logprobs=2, max_tokens=2, **prompts))
    entries = [e for p in parts if isinstance(p.event, Delta) for e in p.event.logprobs]
    assert [entry.chosen.raw for entry in entries] == [b"w0", b" w1"]
    assert entries[1].chosen.token == -1
    assert [(a.raw, a.logprob) for a in entries[1].top] == [(b" w1", -0.5), (b" w1?", -1.5)]


@pytest.mark.parametrize(
    ("way", "fields"),
    [
        ("assistant_prefix", {}),
        (
            "continue_final_message",
            {"continue_final_message": True, "add_generation_prompt": False},
        ),
        ("prefix", {}),
    ],
)
async def test_going_on(make: Make, cloud: FakeCloud, way: str, fields: dict[str, bool]) -> None:
    """An answer that was begun elsewhere goes to the upstream as it wants it."""
    parts = await ask(make(continuation=way), chat("Say words.", "w0 w1 w", max_tokens=3))
    assert text_of(parts) == "2 w3 w4 w5"
    body = cloud.calls()[0]["body"]
    assert body["messages"][-1].pop("prefix", False) == (way == "prefix")
    assert body["messages"][-1] == {"role": "assistant", "content": "w0 w1 w"}
    assert {key: body[key] for key in body if "_generation" in key or "_final_" in key} == fields


async def test_starting_over(upstream: Upstream, cloud: FakeCloud) -> None:
    """The fake can be told to ignore what was said."""
    cloud.set(start_over=True)
    assert text_of(await ask(upstream, chat("Hi.", "w0 w1"))) == fake_cloud.text_of(20)


async def test_structured_output(upstream: Upstream, cloud: FakeCloud) -> None:
    """Formats that are OpenAI's are passed on as they came."""
    schema = Grammar("json_schema", '{"type":"object"}', "pump", True, "A pump.")
    for grammar in (Grammar("json_object"), schema, Grammar("json_schema", "{}", "x")):
        await ask(upstream, chat(grammar=grammar, max_tokens=1))
    assert [call["body"]["response_format"] for call in cloud.calls()] == [
        {"type": "json_object"},
        {
            "type": "json_schema",
            "json_schema": {
                "name": "pump",
                "schema": {"type": "object"},
                "strict": True,
                "description": "A pump.",
            },
        },
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
    ]


async def test_what_cannot_be_asked(make: Make, cloud: FakeCloud) -> None:
    """Token ids, and an answer to be gone on with where that is not possible, are not sent."""
    upstream = make(continuation="none")
    for request in (
        chat(prompts=[TokenPrompt([1, 2])]),
        chat(sampling=Sampling(logit_bias={5: 1.0})),
        chat(grammar=Grammar("regex", "a+")),
        chat(grammar=Grammar("lark", 'start: "a"')),
        chat(grammar=Grammar("gbnf", 'root ::= "a"')),
        chat("Hi.", "w0"),
    ):
        with pytest.raises(NoRoute):
            await ask(upstream, request)
    assert cloud.calls() == []
    assert upstream.unavailable() is None


async def test_one_connection(upstream: Upstream, cloud: FakeCloud) -> None:
    """Calls after each other use the same connection, refusals among them too."""
    for _ in range(3):
        await ask(upstream)
    cloud.fault("content_filter", times=1)
    with pytest.raises(Exception, match="not nice"):
        await ask(upstream)
    await ask(upstream)
    assert cloud.state()["connections"] == 1


async def test_gzip(upstream: Upstream, cloud: FakeCloud) -> None:
    """A compressed stream comes piece by piece."""
    cloud.set(gzip=True)
    cloud.fault("slow", delay=0.02)
    parts = await ask(upstream)
    assert text_of(parts) == fake_cloud.text_of(20)
    assert finish_of(parts).usage.prompt_seconds < finish_of(parts).usage.generation_seconds


async def test_leaving(upstream: Upstream, cloud: FakeCloud) -> None:
    """Closing the generator ends the calls at once, and the upstream sees it."""
    cloud.fault("slow", delay=0.05)
    source = upstream.stream(chat(n=2), time.monotonic())
    await source.__anext__()
    await source.aclose()
    await until(lambda: all(call["left"] for call in cloud.calls()))
    assert all(call["pieces"] < 20 for call in cloud.calls())
    assert upstream.unavailable() is None


async def test_computed_once(upstream: Upstream, cloud: FakeCloud) -> None:
    """A kept request that is sent again has the same key, so it is not computed again."""
    cloud.fault("cut", after=3, times=1)
    with pytest.raises(Exception, match="broke off"):
        await ask(upstream, chat(kept=True))
    assert text_of(await ask(upstream, chat(kept=True))) == fake_cloud.text_of(20)
    state = cloud.state()
    assert (state["computed"], state["replayed"]) == (1, 1)
