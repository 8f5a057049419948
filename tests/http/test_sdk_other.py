"""The rest of the API through the official SDK: completions, models, headers, errors, asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from daemon_process import MODEL, PATIENCE, DaemonProcess
from openai import AsyncOpenAI, OpenAI

PROMPT = "The capital of France is"
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 8}
CHAT = [{"role": "user", "content": "Name the capital of France."}]


def complete(client: OpenAI, prompt: Any, **fields: Any) -> Any:
    return client.completions.create(prompt=prompt, **{**GREEDY, **fields})


def test_a_completion(client: OpenAI) -> None:
    """The text goes on where the prompt ends."""
    answer = complete(client, PROMPT)
    assert answer.choices[0].text.startswith(" Paris")
    assert answer.choices[0].finish_reason == "length"
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert answer.usage.completion_tokens == 8


def test_a_completion_in_pieces(daemon: DaemonProcess, client: OpenAI) -> None:
    """The stream is the text; the SDK's own type wrongly demands a reason in every chunk."""
    with OpenAI(base_url=f"{daemon.url}/v1", api_key="none", max_retries=0) as lenient:
        chunks = list(lenient.completions.create(prompt=PROMPT, **GREEDY, stream=True))
    assert "".join(c.choices[0].text for c in chunks) == complete(client, PROMPT).choices[0].text
    assert [c.choices[0].finish_reason for c in chunks][-1] == "length"


def test_several_prompts(client: OpenAI) -> None:
    """n answers to each, numbered prompt by prompt, as if asked one by one."""
    prompts = [PROMPT, "One, two, three,"]
    answer = complete(client, prompts, n=2)
    alone = [complete(client, prompt) for prompt in prompts]
    assert [c.index for c in answer.choices] == [0, 1, 2, 3]
    assert [c.text for c in answer.choices] == [
        alone[0].choices[0].text,
        alone[0].choices[0].text,
        alone[1].choices[0].text,
        alone[1].choices[0].text,
    ]
    assert answer.usage.prompt_tokens == sum(a.usage.prompt_tokens for a in alone)


def test_prompts_of_tokens(client: OpenAI, token_id: Callable[[str], int]) -> None:
    """Token ids, and lists of them, are taken as they are."""
    ids = [token_id(piece) for piece in ("The", " capital", " of", " France", " is")]
    one = complete(client, ids)
    assert one.usage.prompt_tokens == len(ids)
    assert one.choices[0].text == complete(client, PROMPT).choices[0].text
    many = complete(client, [ids, ids])
    assert [c.text for c in many.choices] == [one.choices[0].text] * 2


def test_logprobs_of_a_completion(client: OpenAI) -> None:
    """The older object: four lists of the same length; offsets point into the text."""
    choice = complete(client, PROMPT, logprobs=3).choices[0]
    tokens, offsets = choice.logprobs.tokens, choice.logprobs.text_offset
    assert "".join(tokens) == choice.text
    assert [choice.text[at : at + len(t)] for t, at in zip(tokens, offsets, strict=True)] == tokens
    for token, logprob, top in zip(
        tokens, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs, strict=True
    ):
        assert len(top) == 3
        assert top[token] == logprob == max(top.values())


def test_the_list_of_models(client: OpenAI) -> None:
    """The served ones, with what llama-server tells in `meta`."""
    (model,) = client.models.list().data
    assert (model.id, model.object, model.owned_by) == (MODEL, "model", "edge")
    assert model.model_extra is not None
    assert model.model_extra["meta"]["n_ctx"] == 512
    assert client.models.retrieve(MODEL) == model


def test_a_model_that_is_not_there(client: OpenAI) -> None:
    """404 with the field and the code, for a look-up as for a request; never a substitute."""
    for ask in (
        lambda: client.models.retrieve("gpt-4o"),
        lambda: client.chat.completions.create(model="gpt-4o", messages=CHAT),
        lambda: client.completions.create(model="gpt-4o", prompt="x", stream=True),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            ask()
        assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
        assert "gpt-4o" in caught.value.message


def test_a_bad_request_is_the_sdks(client: OpenAI) -> None:
    """400 names the field."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=MODEL, messages=CHAT, temperature=3)
    assert (caught.value.code, caught.value.param) == ("invalid_request_error", "temperature")
    assert caught.value.type == "invalid_request_error"


def test_no_route_is_the_sdks(client: OpenAI) -> None:
    """503 has the time to come back."""
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(
            model=MODEL, messages=CHAT, extra_body={"edge": {"route": "cloud"}}
        )
    assert (caught.value.status_code, caught.value.code) == (503, "no_route")
    assert caught.value.param == "edge.route"
    assert int(caught.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("stream", [False, True])
def test_headers(daemon: DaemonProcess, stream: bool) -> None:
    """The caller's request id comes back, and who answered, streamed or not."""
    body = {**GREEDY, "messages": CHAT, "stream": stream}
    answer = daemon.post("/v1/chat/completions", body, X_Request_Id="press-07/4711")
    assert answer.headers["x-request-id"] == "press-07/4711"
    assert answer.headers["x-edge-route"] == "local"
    assert answer.headers["x-edge-model"] == MODEL
    assert answer.headers["x-edge-attempts"] == "1"
    kind = "text/event-stream" if stream else "application/json"
    assert answer.headers["content-type"].startswith(kind)


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é"], ids=["none", "blank", "long", "é"])
def test_a_request_id_is_made(daemon: DaemonProcess, given: str) -> None:
    """Where the caller has none that could be logged and sent back."""
    headers = {b"x-request-id": given.encode()} if given else {}
    answers = [httpx.get(f"{daemon.url}/health", headers=headers) for _ in range(2)]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 2
    assert all(made.isalnum() for made in ids)


def test_errors_have_a_request_id(daemon: DaemonProcess) -> None:
    """Refusals can be traced too."""
    answer = daemon.post("/v1/chat/completions", {}, X_Request_Id="mine")
    assert (answer.status_code, answer.headers["x-request-id"]) == (400, "mine")


def test_the_edge_object_and_its_headers(daemon: DaemonProcess) -> None:
    """Both say the same; the header wins."""
    body = {**GREEDY, "messages": CHAT, "edge": {"route": "cloud", "priority": "critical"}}
    assert daemon.post("/v1/chat/completions", body).status_code == 503
    kept = daemon.post("/v1/chat/completions", body, X_Edge_Route="local")
    assert kept.status_code == 200
    full = {"route": "auto", "priority": "batch", "deadline_ms": 60000, "on_cut": "fail"}
    full |= {"cache": False, "allow_queue": False}
    assert daemon.post("/v1/chat/completions", {**body, "edge": full}).status_code == 200


def test_openapi_describes_the_routes(daemon: DaemonProcess) -> None:
    """Every route, and the bodies with their bounds; no reference leads nowhere."""
    document = daemon.get("/openapi.json").json()
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics"):
        assert path in document["paths"]
    schemas = document["components"]["schemas"]
    assert "messages" in schemas["ChatBody"]["properties"]
    text = str(document)
    references = {part.split("'")[0] for part in text.split("#/components/schemas/")[1:]}
    assert references <= set(schemas)


async def test_eight_streams_at_once(daemon: DaemonProcess, token_id: Callable[[str], int]) -> None:
    """The asyncio SDK: each stream has the one word that it was made to say, and all of it."""
    words = [" river", " window", " purple", " music", " doctor", " silver", " garden", " house"]

    async def ask(sdk: AsyncOpenAI, word: str) -> str:
        bias = {str(token_id(word)): 100}
        stream = await sdk.chat.completions.create(
            messages=CHAT, **GREEDY, logit_bias=bias, stream=True
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async with AsyncOpenAI(
        base_url=f"{daemon.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE
    ) as sdk:
        answers = await asyncio.gather(*(ask(sdk, word) for word in words))
    assert answers == [word * 8 for word in words]
