"""The families of the catalog over HTTP, each under its own template."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import families
import pytest
from daemon_process import DaemonProcess, running
from families import CHATS, NAMES, ids

Json = dict[str, Any]

ASK = {"role": "user", "content": "how hot is it?"}
SYSTEM = {"role": "system", "content": "You watch press 7."}

OPENINGS = {
    "tinyllama": [
        *("<s>", " <|system|>\nYou watch press 7.", "</s>"),
        *(" \n<|user|>\nhow hot is it?", "</s>", " \n<|assistant|>\n"),
    ],
    "phi-3": [
        *("<s>", "<|system|>", " You watch press 7.", "<|end|>"),
        *("<|user|>", " how hot is it?", "<|end|>", "<|assistant|>"),
    ],
    "phi-3-gguf": [
        *("<s>", "<|user|>", " You watch press 7.\n\nhow hot is it?", "<|end|>", "<|assistant|>"),
    ],
    "gemma": [
        *("<bos>", "<start_of_turn>", "user\nYou watch press 7.\n\nhow hot is it?"),
        *("<end_of_turn>", "\n", "<start_of_turn>", "model\n"),
    ],
}
OPENINGS["gemma-2"] = OPENINGS["gemma"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """One daemon that serves them all."""
    folder = tmp_path_factory.mktemp("families")
    models = folder / "state" / "models"
    models.mkdir(parents=True)
    for name in NAMES:
        (models / f"{name}.gguf").symlink_to(families.write(folder / f"{name}.gguf", name))
    settings: Json = {"preload": NAMES, "models__default": "gemma", "engine__slots": 2}
    with running(folder, Path("none"), **settings) as daemon:
        yield daemon


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def chat(house: DaemonProcess, name: str, *messages: Json, **fields: Any) -> Json:
    body = {"model": name, "messages": messages, "temperature": 0, "max_tokens": 8, **fields}
    answer = house.post("/v1/chat/completions", body)
    assert answer.status_code == 200, answer.text
    heard: Json = answer.json()
    return heard


def complete(house: DaemonProcess, name: str, tokens: list[int]) -> Json:
    body = {"model": name, "prompt": tokens, "temperature": 0, "max_tokens": 8}
    answer = house.post("/v1/completions", body)
    assert answer.status_code == 200, answer.text
    heard: Json = answer.json()
    return heard


def cached(answer: Json) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def bias(name: str, token: str, value: float) -> Json:
    return {str(ids(name, token)[0]): value}


def test_prompt_to_the_token(house: DaemonProcess, name: str) -> None:
    """The chat's prompt and the tokens spelled out here are the same, for what was computed for
    the one is all that the other needs; and so is the answer."""
    expected = ids(name, *OPENINGS[name])
    answer = chat(house, name, SYSTEM, ASK)
    assert answer["usage"]["prompt_tokens"] == len(expected)
    spelled = complete(house, name, [*expected, *ids(name, "x")])
    assert cached(spelled) == len(expected)
    assert (
        complete(house, name, expected)["choices"][0]["text"]
        == (answer["choices"][0]["message"]["content"])
    )


@pytest.mark.parametrize(
    ("name", "end"), [(name, end) for name in NAMES for end in CHATS[name].ends]
)
def test_end_of_turn_ends_the_answer(house: DaemonProcess, name: str, end: str) -> None:
    """At once where it is sure to be chosen; in the middle where it is likely; and it is never
    seen, not in a stream either."""
    sure = chat(house, name, ASK, max_tokens=50, logit_bias=bias(name, end, 100))
    assert sure["choices"][0]["finish_reason"] == "stop"
    assert sure["choices"][0]["message"]["content"] == ""
    likely: Json = {"temperature": 1, "seed": 4, "max_tokens": 400, "n": 4}
    likely["logit_bias"] = bias(name, end, 4)
    choices = chat(house, name, ASK, **likely)["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["stop"] * 4
    texts = [choice["message"]["content"] for choice in choices]
    assert any(texts)
    assert not any(mark in text for text in texts for mark in CHATS[name].control)
    body = {"model": name, "messages": [ASK], "stream": True, **likely}
    assert end not in house.post("/v1/chat/completions", body).text


def test_answer_goes_on_where_it_does_not_end(house: DaemonProcess, name: str) -> None:
    """Up to the limit, where the model may not end it."""
    never = {str(ids(name, end)[0]): -100 for end in [*CHATS[name].ends, *_others(name)]}
    choice = chat(house, name, ASK, max_tokens=30, logit_bias=never)["choices"][0]
    assert choice["finish_reason"] == "length"


def _others(name: str) -> list[str]:
    return ["</s>"] if name.startswith("phi-3") else []


def test_two_turns_of_a_user(house: DaemonProcess, name: str) -> None:
    """A clear refusal where turns have to alternate."""
    messages = [ASK, {"role": "user", "content": "now?"}]
    body = {"model": name, "messages": messages, "max_tokens": 1}
    answer = house.post("/v1/chat/completions", body)
    if name.startswith("gemma"):
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["type"], error["param"]) == ("invalid_request_error", "messages")
        assert "user and assistant have to take turns" in error["message"]
    else:
        assert answer.status_code == 200


def test_answer_that_was_begun(house: DaemonProcess, name: str) -> None:
    """A last message of the assistant's is gone on with, and nothing of it comes again."""
    begun = {"role": "assistant", "content": "it is"}
    answer = chat(house, name, SYSTEM, ASK, begun)
    blank = " " if name.startswith("phi-3") else ""
    expected = ids(name, *OPENINGS[name], f"{blank}it is")
    text = complete(house, name, expected)["choices"][0]["text"]
    assert answer["choices"][0]["message"]["content"] == text
    assert answer["usage"]["prompt_tokens"] == len(expected)


def test_reused_prefix_changes_no_answer(house: DaemonProcess, name: str) -> None:
    """Longer than Gemma 2's window, from a slot that had another ending and after both slots had
    other prompts."""
    story = "".join(chr(97 + (number * number) % 26) for number in range(330))

    def ask(ending: str) -> Json:
        return chat(house, name, {"role": "user", "content": story + ending}, max_tokens=24)

    fresh = ask(" why?")
    for ending in (" how long ago?", " where?"):
        assert cached(ask(ending)) > 330
    again = ask(" why?")
    for number in range(4):
        chat(house, name, {"role": "user", "content": f"{number} " * 60})
    late = ask(" why?")
    assert cached(fresh) < 40
    assert cached(again) > 330
    assert cached(late) > 330
    texts = [one["choices"][0]["message"]["content"] for one in (fresh, again, late)]
    assert texts == [texts[0]] * 3


SCHEMA: Json = {
    "type": "object",
    "properties": {"warm": {"type": "boolean"}, "level": {"enum": ["high", "low"]}},
    "required": ["warm", "level"],
    "additionalProperties": False,
}


def test_answer_follows_a_schema(house: DaemonProcess, name: str) -> None:
    """Whatever the tokenizer puts before a text: nothing of it is in the answer."""
    form = {"type": "json_schema", "json_schema": {"name": "reading", "schema": SCHEMA}}
    answer = chat(house, name, ASK, max_tokens=60, response_format=form)
    text = answer["choices"][0]["message"]["content"]
    assert text.startswith('{"warm":')
    assert set(json.loads(text)) == {"warm", "level"}
