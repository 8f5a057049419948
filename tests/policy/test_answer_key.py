"""What decides an answer, and which answers are shared when nobody says so."""

from __future__ import annotations

import math
from typing import Any

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from edge.answers.keys import cacheable, key
from edge.types import (
    ChatPrompt,
    Grammar,
    Message,
    Request,
    Sampling,
    TextPrompt,
    TokenPrompt,
    Tool,
    Tools,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
NUMBER = st.sampled_from([0.0, -0.0, 0.5, 1.0, 2.0])
TOKENS = st.integers(0, 50_000)

PROMPT = st.one_of(
    st.builds(TextPrompt, TEXT),
    st.builds(TokenPrompt, st.lists(TOKENS, max_size=3)),
    st.builds(
        ChatPrompt,
        st.lists(
            st.builds(Message, st.sampled_from(["user", "system"]), TEXT, st.none() | TEXT),
            max_size=3,
        ),
    ),
)

SAMPLING = {
    "temperature": NUMBER,
    "top_p": NUMBER,
    "top_k": st.integers(0, 100),
    "min_p": NUMBER,
    "presence_penalty": NUMBER,
    "frequency_penalty": NUMBER,
    "repeat_penalty": NUMBER,
    "seed": st.none() | st.integers(0, 2**64 - 1),
    "logit_bias": st.dictionaries(TOKENS, NUMBER, max_size=3),
}
DECIDING = {
    "prompts": st.lists(PROMPT, min_size=1, max_size=3),
    "sampling": st.builds(Sampling, **SAMPLING),
    "max_tokens": st.none() | st.integers(1, 1000),
    "stop": st.lists(TEXT, max_size=3),
    "ignore_eos": st.booleans(),
    "logprobs": st.none() | st.integers(0, 20),
    "n": st.integers(1, 4),
    "grammar": st.none()
    | st.builds(
        Grammar,
        st.sampled_from(["json_schema", "regex", "lark", "gbnf"]),
        TEXT,
        TEXT,
        st.none() | st.booleans(),
        st.none() | TEXT,
    ),
}
OTHERS = {
    "id": TEXT,
    "model": st.none() | TEXT,  # the name asked for; the target names what answers
    "priority": st.sampled_from(["critical", "normal", "batch"]),
    "route": st.sampled_from(["auto", "local", "cloud", "queue"]),
    "on_cut": st.sampled_from(["continue", "fail"]),
    "deadline": st.none() | NUMBER,
    "kept": st.booleans(),
    "may_wait": st.booleans(),
    "cache": st.none() | st.booleans(),
    "caller": TEXT,  # what the namespace is made of
    "shared_prefix": st.booleans(),  # saves computing, and changes no numbers
}
REQUEST = st.builds(Request, **DECIDING, **OTHERS)


def names(struct: type[msgspec.Struct]) -> set[str]:
    return {field.name for field in msgspec.structs.fields(struct)}


def of(request: Request, target: str = "local:m@1", namespace: str = "") -> bytes:
    return key(request, target, namespace)


def test_every_field_is_judged() -> None:
    """A field that is added has to be put among those that decide, or among the others."""
    assert names(Request) == {*DECIDING, *OTHERS}
    assert names(Sampling) == {*SAMPLING}


@given(REQUEST, st.sampled_from(list(DECIDING)), st.data())
def test_every_deciding_field_is_in_the_key(request: Request, name: str, data: Any) -> None:
    """Two requests that differ in one of them have different keys; equal ones have the same."""
    value = data.draw(DECIDING[name])
    other = msgspec.structs.replace(request, **{name: value})
    if name == "sampling" and request.sampling.temperature == 0 == value.temperature:
        value.seed = request.sampling.seed
    assert (of(request) == of(other)) == (getattr(request, name) == value)


@given(REQUEST, st.sampled_from(list(SAMPLING)), st.data())
def test_every_way_to_sample_is_in_the_key(request: Request, name: str, data: Any) -> None:
    """But the seed at temperature 0, which changes nothing."""
    sampling = request.sampling
    assume(name != "seed" or sampling.temperature != 0)
    value = data.draw(SAMPLING[name])
    other = msgspec.structs.replace(
        request, sampling=msgspec.structs.replace(sampling, **{name: value})
    )
    if name == "temperature" and 0 in (value, sampling.temperature):
        assume(value != sampling.temperature)
    assert (of(request) == of(other)) == (getattr(sampling, name) == value)


@given(REQUEST, st.sampled_from(list(OTHERS)), st.data())
def test_no_other_field_is_in_the_key(request: Request, name: str, data: Any) -> None:
    """Who asks, how urgently and by which way does not matter."""
    other = msgspec.structs.replace(request, **{name: data.draw(OTHERS[name])})
    assert of(request) == of(other)


@given(REQUEST, st.none() | st.integers(0, 100))
def test_the_seed_of_a_greedy_request(request: Request, seed: int | None) -> None:
    """Nothing is drawn by lot, so it is left out."""
    request.sampling.temperature = 0.0
    sampling = msgspec.structs.replace(request.sampling, seed=seed)
    assert of(request) == of(msgspec.structs.replace(request, sampling=sampling))


@given(REQUEST, TEXT, TEXT, TEXT, TEXT)
def test_targets_and_namespaces_never_share(
    request: Request, target: str, namespace: str, other_target: str, other_namespace: str
) -> None:
    """Whatever they are called: one cannot be written so that it runs into the other."""
    same = (target, namespace) == (other_target, other_namespace)
    assert (of(request, target, namespace) == of(request, other_target, other_namespace)) == same


@given(REQUEST)
def test_a_key_is_the_same_tomorrow(request: Request) -> None:
    """After the request went through its encoding, and with its numbers written otherwise."""
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=Request)
    bias = request.sampling.logit_bias
    again.sampling.logit_bias = {token: bias[token] for token in reversed(bias)}
    for name, value in msgspec.structs.asdict(again.sampling).items():
        if isinstance(value, float) and value == math.floor(value):
            setattr(again.sampling, name, int(value))
    assert of(request) == of(again)


def test_the_key_of_a_known_request() -> None:
    """What changes it makes all kept answers useless: then `VERSION` has to change too."""
    request = Request("id", [TextPrompt("The sea is")], Sampling(temperature=0), max_tokens=8)
    assert of(request).hex() == "8358051698b2a9e7cfda365c27233e3b181abd1ffc5fecbe6e29551ddaf53801"


def test_what_is_shared() -> None:
    """By default what the request alone decides; else what the caller said."""

    def request(**sampling: Any) -> Request:
        return Request("id", [TextPrompt("text")], Sampling(**sampling))

    assert cacheable(request(temperature=0), None)
    assert cacheable(request(temperature=0.7, seed=0), None)
    assert not cacheable(request(temperature=0.7), None)
    assert cacheable(request(temperature=0.7), True)
    assert not cacheable(request(temperature=0, seed=1), False)


def test_tools_decide_the_answer() -> None:
    """Which of them there are, what they take, and whether one has to be called."""
    tools = [Tool("f", "{}", "tools[0]"), Tool("g", "{}", "tools[1]")]
    more = [Tool("f", '{"type":"object"}', "tools[0]"), tools[1]]
    offers = [
        *(None, Tools(tools[:1]), Tools(tools), Tools(more), Tools(tools, "required")),
        *(Tools(tools, "auto", ["f"]), Tools(tools, parallel=False)),
    ]
    hi = [Message("user", "Hi")]
    keys = {of(Request("id", [ChatPrompt(hi, offer)], Sampling())) for offer in offers}
    assert len(keys) == len(offers)
