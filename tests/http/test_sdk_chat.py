"""/v1/chat/completions through the official SDK, field by field, with the real model."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from daemon_process import MODEL, DaemonProcess
from openai import OpenAI
from openai.types.chat import ChatCompletion

QUESTION = [{"role": "user", "content": "Name the capital of France."}]
GREEDY: dict[str, Any] = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 12}
LIVELY: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell me a story about a robot."}],
    "max_tokens": 12,
}


def ask(client: OpenAI, **fields: Any) -> ChatCompletion:
    return client.chat.completions.create(**{**GREEDY, **fields})


def text(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def test_an_answer(client: OpenAI) -> None:
    """The whole object: ids, model, role, text, reason, usage."""
    answer = ask(client)
    choice = answer.choices[0]
    assert "Paris" in text(answer)
    assert (choice.index, choice.message.role, choice.finish_reason) == (0, "assistant", "stop")
    assert choice.message.refusal is None
    assert choice.logprobs is None
    assert answer.object == "chat.completion"
    assert answer.model == MODEL
    assert answer.id.startswith("chatcmpl-")
    assert answer.created > 1_700_000_000
    usage = answer.usage
    assert usage is not None
    assert usage.prompt_tokens > 10
    assert usage.completion_tokens > 1
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_stream_is_the_answer_in_pieces(client: OpenAI) -> None:
    """Role first, then text, then the reason; together the same text as unstreamed."""
    chunks = list(client.chat.completions.create(**GREEDY, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == text(ask(client))
    reasons = [c.choices[0].finish_reason for c in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert {c.id for c in chunks} == {chunks[0].id}
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    assert {c.model for c in chunks} == {MODEL}
    assert all(c.usage is None for c in chunks)


def test_usage_at_the_end_of_a_stream(client: OpenAI) -> None:
    """With include_usage a last chunk without choices has it, and all others have it as null."""
    whole = ask(client).usage
    stream = client.chat.completions.create(
        **GREEDY, stream=True, stream_options={"include_usage": True}
    )
    *others, last = list(stream)
    assert last.choices == []
    assert last.usage is not None
    assert whole is not None
    assert last.usage.completion_tokens == whole.completion_tokens
    assert last.usage.prompt_tokens == whole.prompt_tokens
    assert all(c.usage is None and "usage" in c.model_fields_set for c in others)


def test_text_parts(client: OpenAI) -> None:
    """A content in parts is the parts one after another."""
    parts = [{"type": "text", "text": "Name the capital "}, {"type": "text", "text": "of France."}]
    assert text(ask(client, messages=[{"role": "user", "content": parts}])) == text(ask(client))


def test_the_developer_role_is_the_system_role(client: OpenAI) -> None:
    """OpenAI's newer word for it; both reach the model in the same way."""
    answers = [
        ask(client, messages=[{"role": role, "content": "You answer in German."}, *QUESTION])
        for role in ("system", "developer")
    ]
    assert text(answers[0]) == text(answers[1])
    assert answers[0].usage is not None
    assert answers[1].usage is not None
    assert answers[0].usage.prompt_tokens == answers[1].usage.prompt_tokens


def test_a_name_is_accepted(client: OpenAI) -> None:
    """Whether it reaches the model is the template's choice; this one ignores it."""
    assert text(ask(client, messages=[{**QUESTION[0], "name": "anna"}])) == text(ask(client))


def test_turns_of_a_conversation(client: OpenAI) -> None:
    """A conversation goes on where it was: the turns before are in the prompt, and cached."""
    turns = [{"role": "user", "content": "My name is Zebulon, and I grow potatoes in Iceland."}]
    first = ask(client, messages=turns)
    turns += [{"role": "assistant", "content": text(first)}, {"role": "user", "content": "And?"}]
    second = ask(client, messages=turns).usage
    assert first.usage is not None
    assert second is not None
    assert second.prompt_tokens_details is not None
    assert second.prompt_tokens > first.usage.prompt_tokens + first.usage.completion_tokens
    assert (second.prompt_tokens_details.cached_tokens or 0) >= first.usage.prompt_tokens


def test_several_choices(client: OpenAI) -> None:
    """n=3: three different answers to one prompt, which is counted once."""
    answer = client.chat.completions.create(**LIVELY, n=3, seed=5)
    assert [c.index for c in answer.choices] == [0, 1, 2]
    assert len({c.message.content for c in answer.choices}) == 3
    one = client.chat.completions.create(**LIVELY, seed=5)
    assert answer.usage is not None
    assert one.usage is not None
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens
    assert answer.usage.completion_tokens == 36


def test_several_choices_in_a_stream(client: OpenAI) -> None:
    """The pieces of all choices are told apart by their index; each has a role and a reason."""
    texts, roles, reasons = ["", ""], [0, 0], [0, 0]
    for chunk in client.chat.completions.create(**LIVELY, n=2, seed=5, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        roles[choice.index] += choice.delta.role == "assistant"
        reasons[choice.index] += choice.finish_reason is not None
    whole = client.chat.completions.create(**LIVELY, n=2, seed=5)
    assert texts == [c.message.content for c in whole.choices]
    assert roles == reasons == [1, 1]


def test_a_seed_repeats_an_answer(client: OpenAI) -> None:
    """Same seed, same text; another seed, another text."""
    first, again, other = (
        text(client.chat.completions.create(**LIVELY, seed=seed)) for seed in (7, 7, 8)
    )
    assert first == again
    assert first != other


def test_without_a_seed_answers_differ(client: OpenAI) -> None:
    """The default temperature is 1, and every request has random numbers of its own."""
    assert len({text(client.chat.completions.create(**LIVELY)) for _ in range(3)}) > 1


@pytest.mark.parametrize(
    "narrow",
    [
        {"top_p": 0.0001},
        {"extra_body": {"top_k": 1}},
        {"extra_body": {"min_p": 1.0}},
        {"temperature": 0.0},
    ],
    ids=str,
)
def test_narrow_sampling_is_greedy(client: OpenAI, narrow: dict[str, Any]) -> None:
    """top_p, top_k and min_p at their narrowest leave the likeliest token only."""
    greedy = text(client.chat.completions.create(**{**LIVELY, "temperature": 0}))
    assert text(client.chat.completions.create(**{**LIVELY, "seed": 3, **narrow})) == greedy


@pytest.mark.parametrize(
    "penalty",
    [{"presence_penalty": 2.0}, {"frequency_penalty": 2.0}, {"extra_body": {"repeat_penalty": 2}}],
    ids=str,
)
def test_penalties_avoid_repetition(client: OpenAI, penalty: dict[str, Any]) -> None:
    """A prompt that begs for repetition gets less of it."""
    prompt = [{"role": "user", "content": "Repeat the word echo twenty times: echo echo echo"}]
    plain = ask(client, messages=prompt, max_tokens=24, logprobs=True)
    fields = {"messages": prompt, "max_tokens": 24, "logprobs": True, **penalty}
    tokens = [
        [entry.token for entry in answer.choices[0].logprobs.content or []]
        for answer in (plain, ask(client, **fields))
        if answer.choices[0].logprobs
    ]
    assert len(set(tokens[1])) / len(tokens[1]) > len(set(tokens[0])) / len(tokens[0])


@pytest.mark.parametrize("temperature", [0, 1])
def test_a_bias_of_100_forces_a_token(
    client: OpenAI, token_id: Callable[[str], int], temperature: float
) -> None:
    """It is the only one that is ever chosen."""
    bias = {str(token_id(" river")): 100}
    answer = ask(client, max_tokens=4, logit_bias=bias, temperature=temperature, seed=1)
    assert text(answer) == " river river river river"


def test_a_bias_of_minus_100_forbids_a_token(
    client: OpenAI, token_id: Callable[[str], int]
) -> None:
    """The answer does without it."""
    assert " Paris" in text(ask(client))
    assert " Paris" not in text(ask(client, logit_bias={str(token_id(" Paris")): -100}))


def test_logprobs(client: OpenAI) -> None:
    """One entry a token: its bytes make the text, the best alternatives are in order."""
    answer = ask(client, logprobs=True, top_logprobs=4)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    entries = logprobs.content or []
    assert answer.usage is not None
    # The end token is counted and has no text.
    assert len(entries) == answer.usage.completion_tokens - 1
    assert b"".join(bytes(e.bytes or []) for e in entries).decode() == text(answer)
    for entry in entries:
        values = [top.logprob for top in entry.top_logprobs]
        assert len(values) == 4
        assert values == sorted(values, reverse=True)
        assert sum(math.exp(value) for value in values) <= 1 + 1e-6
        # At temperature 0 the chosen token is the best one.
        assert (entry.token, entry.logprob) == (
            entry.top_logprobs[0].token,
            entry.top_logprobs[0].logprob,
        )


def test_logprobs_without_alternatives(client: OpenAI) -> None:
    """`logprobs` alone gives the chosen tokens."""
    logprobs = ask(client, logprobs=True).choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content
    assert all(entry.top_logprobs == [] for entry in logprobs.content)


def test_logprobs_of_a_stream(client: OpenAI) -> None:
    """The pieces carry the entries of their own tokens."""
    fields = {**GREEDY, "logprobs": True, "top_logprobs": 2}
    entries: list[str] = []
    for chunk in client.chat.completions.create(**fields, stream=True):
        choice = chunk.choices[0]
        if choice.logprobs and choice.logprobs.content:
            entries += [entry.token for entry in choice.logprobs.content]
            assert "".join(e.token for e in choice.logprobs.content) == choice.delta.content
    whole = ask(client, logprobs=True).choices[0].logprobs
    assert whole is not None
    assert entries == [entry.token for entry in whole.content or []]


def test_all_probabilities_sum_to_one(client: OpenAI) -> None:
    """The log probabilities are of the model's distribution, not of the alternatives alone."""
    sure = ask(client, logprobs=True, top_logprobs=20).choices[0].logprobs
    assert sure is not None
    assert sure.content
    totals = [sum(math.exp(t.logprob) for t in entry.top_logprobs) for entry in sure.content]
    assert max(totals) > 0.95
    assert all(0 < total <= 1 + 1e-6 for total in totals)


@pytest.mark.parametrize("stop", ["Paris", ["London", "Paris"], " of Fr", "pital of"], ids=str)
@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings(client: OpenAI, stop: Any, stream: bool) -> None:
    """The text ends before the first of them, also where it lies across tokens."""
    full = text(ask(client))
    wanted = min((full.split(s)[0] for s in ([stop] if isinstance(stop, str) else stop)), key=len)
    if not stream:
        answer = ask(client, stop=stop)
        assert (text(answer), answer.choices[0].finish_reason) == (wanted, "stop")
        return
    chunks = list(client.chat.completions.create(**GREEDY, stop=stop, stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == wanted
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_stop_string_that_never_comes(client: OpenAI) -> None:
    """Text that was held back because it might have become one is sent at the end."""
    full = text(ask(client))
    assert text(ask(client, stop=[full[-1] + "no", "The end"])) == full


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_the_token_limit(client: OpenAI, field: str) -> None:
    """Exactly so many tokens, and `length` as the reason."""
    fields = {k: v for k, v in GREEDY.items() if k != "max_tokens"}
    answer = client.chat.completions.create(**fields, **{field: 3})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"


def test_the_second_request_finds_its_prompt(client: OpenAI) -> None:
    """cached_tokens: all of the prompt but what has to be computed for its logits."""
    prompt = [{"role": "user", "content": "Is a whale, which swims, a fish? Say yes or no."}]
    first, second = (ask(client, messages=prompt).usage for _ in range(2))
    assert first is not None
    assert first.prompt_tokens_details is not None
    assert second is not None
    assert second.prompt_tokens_details is not None
    assert first.prompt_tokens_details.cached_tokens < second.prompt_tokens
    assert second.prompt_tokens_details.cached_tokens == second.prompt_tokens - 1


def test_timings(client: OpenAI) -> None:
    """As llama-server has them: counts that agree with usage, times and rates that are numbers."""
    answer = ask(client)
    usage, extra = answer.usage, answer.model_extra
    assert usage is not None
    assert extra is not None
    timings = extra["timings"]
    assert timings["prompt_n"] + timings["cache_n"] == usage.prompt_tokens
    assert timings["predicted_n"] == usage.completion_tokens
    assert all(timings[name] > 0 for name in ("prompt_ms", "predicted_ms", "predicted_per_second"))
    *_, last = client.chat.completions.create(**GREEDY, stream=True)
    assert last.model_extra is not None
    assert last.model_extra["timings"]["predicted_n"] == usage.completion_tokens


@pytest.mark.parametrize("name", ["default", MODEL, ""])
def test_names_of_the_default_model(client: OpenAI, name: str) -> None:
    """The body has the name that was asked for."""
    assert ask(client, model=name).model == (name or MODEL)


def test_no_model_named(daemon: DaemonProcess) -> None:
    """The default answers, under its own name."""
    body = {k: v for k, v in GREEDY.items() if k != "model"}
    answer = daemon.post("/v1/chat/completions", body)
    assert answer.status_code == 200
    assert answer.json()["model"] == MODEL


def test_a_null_is_a_default(client: OpenAI) -> None:
    """Clients that fill in every field with null get what they would get without."""
    nulls = dict.fromkeys(
        ["top_p", "n", "stop", "seed", "presence_penalty", "frequency_penalty", "logit_bias"]
    )
    nulls |= dict.fromkeys(["logprobs", "top_logprobs", "max_completion_tokens", "tools", "user"])
    assert text(ask(client, **nulls, stream=None, response_format=None)) == text(ask(client))


def test_notes_of_the_caller(client: OpenAI) -> None:
    """Fields that do not change the answer are taken without complaint."""
    answer = ask(
        client,
        user="press-07",
        metadata={"shift": "2"},
        store=False,
        service_tier="auto",
        parallel_tool_calls=True,
        response_format={"type": "text"},
        modalities=["text"],
    )
    assert text(answer) == text(ask(client))
