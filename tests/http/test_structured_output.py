"""Structured output with the real model, through the official SDK."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import httpx
import jsonschema
import openai
import pytest
from daemon_process import MODEL, DaemonProcess
from openai import OpenAI
from pydantic import BaseModel, Field

QUESTION = "Describe a water pump in a factory as JSON."
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 300}
CHAT: dict[str, Any] = {**GREEDY, "messages": [{"role": "user", "content": QUESTION}]}


class Part(BaseModel, extra="forbid"):
    name: str = Field(max_length=12)
    weight: int = Field(ge=0, le=500)


class Pump(BaseModel, extra="forbid"):
    """What the model has to fill in."""

    kind: Literal["water", "oil"]
    running: bool
    parts: list[Part] = Field(min_length=1, max_length=2)


def closed(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SHORT = {"type": "string", "maxLength": 12}
SMALL = {"type": "integer", "minimum": 0, "maximum": 9}

SCHEMAS: dict[str, dict[str, Any]] = {
    "flat": closed(name=SHORT, on={"type": "boolean"}),
    "nested": closed(a=closed(b=closed(c=SMALL))),
    "array": {"type": "array", "items": SMALL, "minItems": 2, "maxItems": 4},
    "array of objects": {"type": "array", "items": closed(x=SMALL), "minItems": 1, "maxItems": 2},
    "tuple": {"type": "array", "prefixItems": [SHORT, SMALL], "items": False, "minItems": 2},
    "enum": {"enum": ["red", "green", 7, None, True]},
    "const": closed(version={"const": 3}, kind={"const": "pump"}),
    "integer range": closed(i={"type": "integer", "minimum": -5, "maximum": 5}),
    "number range": closed(n={"type": "number", "minimum": 0.5, "exclusiveMaximum": 2}),
    "multiple": closed(n={"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 95}),
    "pattern": closed(id={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"}),
    "lengths": closed(s={"type": "string", "minLength": 3, "maxLength": 6}),
    "date": closed(d={"type": "string", "format": "date"}),
    "optional": {
        "type": "object",
        "properties": {"a": SMALL, "b": SHORT, "c": SMALL},
        "required": ["b"],
        "additionalProperties": False,
    },
    "ref": {"$defs": {"p": closed(x=SMALL, y=SMALL)}, **closed(a={"$ref": "#/$defs/p"})},
    "oneOf": {"oneOf": [SHORT, SMALL, closed(a=SMALL)]},
    "anyOf": closed(v={"anyOf": [SMALL, SHORT, {"type": "null"}]}),
    "types": closed(v={"type": ["integer", "null"], "minimum": 1, "maximum": 3}),
    "allOf": {"allOf": [{"type": "integer", "minimum": 3}, {"maximum": 12}]},
    "map": {"type": "object", "additionalProperties": SMALL, "maxProperties": 2},
    "unicode": closed(größe={"enum": ["groß", "klein 日本"]}),
}


def form(schema: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **fields}}


def ask(daemon: DaemonProcess, path: str = "chat/completions", **fields: Any) -> httpx.Response:
    body = {**(CHAT if path.startswith("chat") else GREEDY), **fields}
    return daemon.http.post(f"{daemon.url}/v1/{path}", json=body, timeout=120)


def content(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    assert choice["finish_reason"] == "stop"
    return str(choice["message"]["content"] if "message" in choice else choice["text"])


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_is_valid(daemon: DaemonProcess, name: str) -> None:
    """Greedy and sampled, with every part of JSON Schema that people use."""
    for sampling in ({}, {"temperature": 1, "seed": 1}):
        text = content(ask(daemon, response_format=form(SCHEMAS[name], strict=True), **sampling))
        jsonschema.validate(json.loads(text), SCHEMAS[name])


def test_parse_a_chat(client: OpenAI) -> None:
    """The SDK makes the schema from a class and the answer an object of it."""
    answer = client.chat.completions.parse(**CHAT, response_format=Pump)
    pump = answer.choices[0].message.parsed
    assert isinstance(pump, Pump)
    assert answer.choices[0].finish_reason == "stop"


def test_parse_a_response(client: OpenAI) -> None:
    """The same of the newer API, which says the format back."""
    answer = client.responses.parse(
        model=MODEL, input=QUESTION, temperature=0, max_output_tokens=300, text_format=Pump
    )
    assert isinstance(answer.output_parsed, Pump)
    assert answer.text is not None
    assert answer.text.format is not None
    assert answer.text.format.type == "json_schema"
    free = client.responses.create(
        model=MODEL,
        input=QUESTION,
        temperature=0,
        max_output_tokens=400,
        text={"format": {"type": "json_object"}},
    )
    assert free.status == "incomplete" or isinstance(json.loads(free.output_text), dict)


def test_a_stream(client: OpenAI) -> None:
    """Pieces that make the same text as unstreamed."""
    fields: dict[str, Any] = {**CHAT, "response_format": form(Pump.model_json_schema())}
    chunks = list(client.chat.completions.create(**fields, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "stop"
    Pump.model_validate_json(text)
    with client.chat.completions.stream(**CHAT, response_format=Pump) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Pump)


def test_any_object(daemon: DaemonProcess) -> None:
    """json_object is an object or was cut; json_schema without any rule is JSON."""
    answer = ask(daemon, response_format={"type": "json_object"}, max_tokens=400)
    choice = answer.json()["choices"][0]
    assert choice["message"]["content"].startswith("{")
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["message"]["content"]), dict)


@pytest.mark.parametrize("path", ["chat/completions", "completions"])
@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        ({"type": "regex", "regex": "[A-Z][a-z]{2,8}"}, "[A-Z][a-z]{2,8}"),
        ({"type": "lark", "lark": 'start: "a" B "c"\nB: /[0-9]{2}/'}, "a[0-9]{2}c"),
        ({"type": "gbnf", "gbnf": 'root ::= "yes" | "no" [!?]'}, "yes|no[!?]"),
    ],
    ids=lambda value: value["type"] if isinstance(value, dict) else "",
)
def test_other_grammars(
    daemon: DaemonProcess, path: str, grammar: dict[str, str], pattern: str
) -> None:
    """The appliance's own kinds, for chats and for completions."""
    prompt = {} if path.startswith("chat") else {"prompt": "The town of"}
    assert re.fullmatch(pattern, content(ask(daemon, path, response_format=grammar, **prompt)))


def test_choices_with_all_that_changes_sampling(daemon: DaemonProcess) -> None:
    """Several choices, penalties, a bias, top_k: each is valid, and a seed repeats them."""
    fields = {
        "n": 3,
        "seed": 5,
        "temperature": 1.2,
        "presence_penalty": 1,
        "frequency_penalty": 1,
        "repeat_penalty": 1.2,
        "top_k": 40,
        "min_p": 0.01,
        "logit_bias": {"100": 50},
        "response_format": form(Pump.model_json_schema()),
        "edge": {"cache": False},
    }
    answers = [ask(daemon, **fields).json()["choices"] for _ in range(2)]
    for choice in answers[0]:
        Pump.model_validate_json(choice["message"]["content"])
    assert len({choice["message"]["content"] for choice in answers[0]}) > 1


def test_log_probabilities(daemon: DaemonProcess) -> None:
    """One for every token, of the model's own distribution."""
    answer = ask(daemon, response_format=form(SCHEMAS["flat"]), logprobs=True, top_logprobs=2)
    entries = answer.json()["choices"][0]["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == content(answer)
    assert all(entry["logprob"] <= 0 for entry in entries)
    assert entries[0]["top_logprobs"][0]["logprob"] > entries[0]["logprob"]


def test_a_limit_cuts(daemon: DaemonProcess) -> None:
    """Then it says `length`, and nobody takes it for whole."""
    answer = ask(daemon, response_format=form(Pump.model_json_schema()), max_tokens=4)
    assert answer.json()["choices"][0]["finish_reason"] == "length"
    assert answer.json()["usage"]["completion_tokens"] == 4


def test_eight_at_once(daemon: DaemonProcess) -> None:
    """Bound and free side by side; the metric tells what was fixed."""
    name = "edge_forced_tokens_total"
    before = daemon.metrics()[name]

    def one(number: int) -> str:
        fields = {"response_format": form(Pump.model_json_schema())} if number % 2 else {}
        tokens = 120 if number % 2 else 30
        answer = ask(daemon, **fields, max_tokens=tokens, seed=number, temperature=1).json()
        return str(answer["choices"][0]["message"]["content"])

    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(one, range(8)))
    for text in texts[1::2]:
        Pump.model_validate_json(text)
    assert all(texts[0::2])
    assert daemon.metrics()[name] > before + 20


HOSTILE: dict[str, dict[str, Any]] = {
    "large": form({"enum": ["x" * 5_000_000]}),
    "deep": form(json.loads('{"items":' * 150 + "{}" + "}" * 150)),
    "multiple": form({"type": "integer", "multipleOf": 999983}),
    "references": form(
        {
            "$defs": {f"d{i}": {"$ref": f"#/$defs/d{(i + 1) % 3000}"} for i in range(3000)},
            "$ref": "#/$defs/d0",
        }
    ),
    "forms that overlap": form({"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]}),
    "multiples": form({"allOf": [{"type": "integer", "multipleOf": p} for p in (997, 991, 983)]}),
    "product": form(
        {
            "allOf": [
                {"anyOf": [{"properties": {f"a{i}": {"minLength": k}}} for k in range(2)]}
                for i in range(12)
            ]
        }
    ),
    "pattern": form({"type": "string", "pattern": "^(a{1000}){1000}$"}),
    "unknown": form({"type": "array", "uniqueItems": True}),
    "remote": form({"$ref": "http://127.0.0.1:9/x.json"}),
    "endless": form({"$ref": "#"}),
    "impossible": form({"type": "integer", "minimum": 3, "maximum": 2}),
    "x-guidance": form({"type": "object", "x-guidance": {"lenient": True}}),
    "regex": {"type": "regex", "regex": "((a{1,200}){1,200}){1,200}"},
    "parentheses": {"type": "regex", "regex": "(" * 50_000},
    "look-ahead": {"type": "regex", "regex": "(?=a)b"},
    "lark": {"type": "lark", "lark": 'start: x x\nx: "a"{1000} "b"{1000}'},
    "lark with a schema": {"type": "lark", "lark": 'start: %json {"multipleOf": 999983}'},
    "no lark": {"type": "lark", "lark": "start: :::"},
    "no gbnf": {"type": "gbnf", "gbnf": "root ::= " + "(" * 5000},
}


def test_hostile_grammars(daemon: DaemonProcess) -> None:
    """Each is refused by name, soon, while a stream beside it goes on."""
    gaps: list[float] = []

    def stream() -> int:
        fields = {"prompt": "Once", "ignore_eos": True, "max_tokens": 400, "stream": True}
        last, count = time.monotonic(), 0
        url = f"{daemon.url}/v1/completions"
        with daemon.http.stream("POST", url, json={**GREEDY, **fields}, timeout=120) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    gaps.append(time.monotonic() - last)
                    last, count = time.monotonic(), count + 1
        return count

    with ThreadPoolExecutor(1) as pool:
        beside = pool.submit(stream)
        for name, wrong in HOSTILE.items():
            began = time.monotonic()
            answer = ask(daemon, response_format=wrong)
            seconds = time.monotonic() - began
            print(f"{name}: {seconds:.2f} s, {answer.text[:200]}")  # noqa: T201
            assert answer.status_code == 400, (name, answer.text)
            error = answer.json()["error"]
            assert error["param"].startswith("response_format"), (name, error)
        # Fewer pieces than tokens: where it repeats itself, several come at once.
        assert beside.result() >= 400 / 16
    print(f"longest gap {max(gaps[1:]):.2f} s")  # noqa: T201


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"type": "yaml"}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, "response_format.json_schema"),
        (form({}, colour=1), "response_format.json_schema.colour"),
        ({"type": "regex"}, "response_format.regex"),
    ],
    ids=str,
)
def test_a_wrong_format(client: OpenAI, wrong: Any, param: str) -> None:
    """Refused with the name of what is wrong."""
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(**CHAT, response_format=wrong)
    assert (refusal.value.param or "").startswith(param)
