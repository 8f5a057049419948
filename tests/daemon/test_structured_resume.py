"""Structured answers that are resumed after kill -9 of the worker."""

from __future__ import annotations

import json
from typing import Any

from daemon_process import DaemonProcess, poll
from streams import Stream, run_streams, streaming
from test_resume import PROMPTS, kill_worker

SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 30, "maxLength": 60},
        "numbers": {
            "type": "array",
            "items": {"type": "integer", "minimum": 0, "maximum": 999},
            "minItems": 8,
            "maxItems": 8,
        },
        "a field with a long name that nobody has to choose": {"type": "boolean"},
    },
    "required": ["title", "numbers", "a field with a long name that nobody has to choose"],
    "additionalProperties": False,
}


def body(prompt: str, **fields: Any) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "max_tokens": 200,
        "stream": True,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "story", "schema": SCHEMA},
        },
        "edge": {"cache": False},
        **fields,
    }


def check(stream: Stream) -> None:
    assert stream.error is None
    assert stream.done
    for heard in stream.choices:
        value = json.loads(heard.text)
        assert heard.reason == "stop"
        assert list(value) == list(SCHEMA["properties"])  # type: ignore[call-overload]
        assert len(value["numbers"]) == 8
        assert 30 <= len(value["title"]) <= 60


def test_structured_answers_live_through_a_crash(daemon: DaemonProcess) -> None:
    """Greedy and sampled: each is whole and valid, nothing lost or doubled."""
    bodies = [body(prompt, temperature=0) for prompt in PROMPTS[:2]]
    bodies += [body(prompt, temperature=1, seed=9) for prompt in PROMPTS[2:4]]
    with streaming(daemon, bodies) as streams:
        poll(lambda: all(len(s.first.text) > 25 for s in streams), "some text each")
        assert not any(stream.done for stream in streams)
        kill_worker(daemon)
    for stream in streams:
        check(stream)


def test_the_same_answer_with_a_crash(daemon: DaemonProcess) -> None:
    """Forced tokens among those that are replayed lead to the same state."""
    (plain,) = run_streams(daemon, [body(PROMPTS[0], temperature=0)])
    with streaming(daemon, [body(PROMPTS[0], temperature=0)]) as streams:
        poll(lambda: len(streams[0].first.text) > 25, "some text")
        kill_worker(daemon)
    check(streams[0])
    # A near tie may go either way in the title; what follows it is as long.
    assert streams[0].first.text[:20] == plain.first.text[:20]


def test_a_tool_call_lives_through_a_crash(daemon: DaemonProcess) -> None:
    """The same call goes on, under its id, and is whole."""
    question = {
        "messages": [{"role": "user", "content": PROMPTS[0]}],
        "tools": [{"type": "function", "function": {"name": "tell", "parameters": SCHEMA}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "max_tokens": 200,
        "stream": True,
    }
    pieces: list[dict[str, Any]] = []
    reason, killed = None, False
    url = f"{daemon.url}/v1/chat/completions"
    with daemon.http.stream("POST", url, json=question) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            (choice,) = json.loads(line.removeprefix("data: "))["choices"]
            pieces += choice["delta"].get("tool_calls", [])
            reason = choice["finish_reason"]
            if len(pieces) > 3 and not killed:
                kill_worker(daemon)
                killed = True
    assert (reason, killed) == ("tool_calls", True)
    assert [piece["id"] for piece in pieces if "id" in piece] == [pieces[0]["id"]]
    value = json.loads("".join(piece["function"]["arguments"] for piece in pieces))
    assert len(value["numbers"]) == 8
    assert 30 <= len(value["title"]) <= 60
