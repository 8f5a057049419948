"""Tool calls with the real model, through the official SDK."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from daemon_process import MODEL, poll
from openai import OpenAI
from openai.types.responses import Response

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "machine": {"type": "string", "maxLength": 12},
        "bars": {"type": "integer", "minimum": 0, "maximum": 99},
        "unit": {"enum": ["bar", "psi"]},
    },
    "required": ["machine", "bars", "unit"],
    "additionalProperties": False,
}
STOP: dict[str, Any] = {
    "type": "object",
    "properties": {"line": {"enum": ["A", "B"]}},
    "required": ["line"],
    "additionalProperties": False,
}


def tool(name: str, parameters: Any, description: str = "") -> dict[str, Any]:
    described = {"description": description} if description else {}
    return {
        "type": "function",
        "function": {"name": name, **described, "parameters": parameters},
    }


TOOLS = [
    tool("set_pressure", PARAMETERS, "Sets the pressure of a machine."),
    tool("stop_line", STOP, "Stops a line at once."),
]
SCHEMAS = {"set_pressure": PARAMETERS, "stop_line": STOP}
QUESTION = [{"role": "user", "content": "Set the pressure of press 7 to 30 bar."}]
GREEDY: dict[str, Any] = {"model": MODEL, "temperature": 0, "max_tokens": 120}
ONE = {"parallel_tool_calls": False}


def ask(client: OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(
        **{**GREEDY, "messages": QUESTION, "tools": TOOLS, **fields}  # type: ignore[arg-type]
    )


def check(call: Any) -> None:
    """A call of one of the tools, its arguments as the schema wants them."""
    assert call.type == "function"
    assert call.id.startswith("call_")
    jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])


def streamed(chunks: Any) -> tuple[str, list[dict[str, str]], str | None]:
    """Content, calls and finish_reason of a stream, put together as its readers do."""
    text, calls, reason = "", [], None
    for chunk in chunks:
        for choice in chunk.choices:
            assert reason is None, "nothing comes after the end"
            text += choice.delta.content or ""
            for piece in choice.delta.tool_calls or []:
                if piece.id:
                    assert piece.index == len(calls)
                    assert piece.type == "function"
                    calls.append({"id": piece.id, "name": piece.function.name, "arguments": ""})
                calls[piece.index]["arguments"] += piece.function.arguments or ""
            reason = choice.finish_reason
    return text, calls, reason


@pytest.mark.parametrize("seed", range(4))
def test_a_call_that_is_required(client: OpenAI, seed: int) -> None:
    """Of one of the tools, valid whatever the model would rather say."""
    answer = ask(client, tool_choice="required", **ONE, temperature=1, seed=seed)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls
    check(call)


def test_a_call_by_name(client: OpenAI) -> None:
    """Of that tool and no other, once."""
    choice = {"type": "function", "function": {"name": "stop_line"}}
    answer = ask(client, tool_choice=choice).choices[0]
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls
    assert call.function.name == "stop_line"
    check(call)


def test_a_call_of_those_that_are_allowed(client: OpenAI) -> None:
    """Others are known to the caller, and not called."""
    allowed = {
        "mode": "required",
        "tools": [{"type": "function", "function": {"name": "stop_line"}}],
    }
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    answer = ask(client, tool_choice=choice, **ONE).choices[0]
    assert [call.function.name for call in answer.message.tool_calls] == ["stop_line"]


def test_a_stream_of_a_call(client: OpenAI) -> None:
    """First its id and its name, then its arguments as they come: the same as the whole."""
    fields = {"tool_choice": "required", **ONE}
    whole = ask(client, **fields).choices[0].message.tool_calls[0].function
    chunks = list(ask(client, **fields, stream=True))
    text, calls, reason = streamed(chunks)
    assert (text, reason) == ("", "tool_calls")
    assert [(call["name"], call["arguments"]) for call in calls] == [(whole.name, whole.arguments)]
    pieces = [chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.tool_calls]
    assert len(pieces) > 3


def test_the_sdks_own_reader_of_streams(client: OpenAI) -> None:
    """It puts the pieces together and parses them."""
    fields = {**GREEDY, "messages": QUESTION, "tool_choice": "required", **ONE}
    strict = [tool(name, SCHEMAS[name]) for name in SCHEMAS]
    for one in strict:
        one["function"]["strict"] = True
    with client.chat.completions.stream(**fields, tools=strict) as stream:
        kinds = {event.type for event in stream}
        (call,) = stream.get_final_completion().choices[0].message.tool_calls or []
    assert {"tool_calls.function.arguments.delta", "tool_calls.function.arguments.done"} <= kinds
    assert call.function.parsed_arguments == json.loads(call.function.arguments)


def test_no_call(client: OpenAI) -> None:
    """With `none` the answer is what it is without any tools."""
    answer = ask(client, tool_choice="none").choices[0]
    free = client.chat.completions.create(**GREEDY, messages=QUESTION)  # type: ignore[call-overload]
    assert answer.message.tool_calls is None
    assert answer.message.content == free.choices[0].message.content


@pytest.mark.parametrize("seed", range(4))
def test_the_model_decides(client: OpenAI, seed: int) -> None:
    """A text, or calls, or both: what is called is valid, and the text spells no call."""
    text, calls, reason = streamed(ask(client, temperature=1, seed=seed, stream=True))
    assert "<tool_call>" not in text
    assert reason in ("length", "tool_calls" if calls else "stop")
    for call in calls if reason == "tool_calls" else calls[:-1]:
        jsonschema.validate(json.loads(call["arguments"]), SCHEMAS[call["name"]])
    assert text or calls


def test_a_call_after_some_text(client: OpenAI) -> None:
    """The model goes on with a call that the caller has begun for it."""
    begun = [*QUESTION, {"role": "assistant", "content": "I will do that."}]
    chunks = ask(client, messages=begun, tool_choice="required", **ONE, stream=True)
    text, calls, reason = streamed(chunks)
    assert (text, len(calls), reason) == ("", 1, "tool_calls")


def test_several_calls_in_one_answer(client: OpenAI) -> None:
    """Each with an id of its own, streamed one after the other."""
    most = 0
    for seed in range(32):
        fields: dict[str, Any] = {"tool_choice": "required", "temperature": 1, "seed": seed}
        text, calls, reason = streamed(ask(client, **fields, max_tokens=200, stream=True))
        assert text == ""
        assert len({call["id"] for call in calls}) == len(calls)
        for call in calls if reason == "tool_calls" else calls[:-1]:
            jsonschema.validate(json.loads(call["arguments"]), SCHEMAS[call["name"]])
        most = max(most, len(calls))
        if most > 1 and seed >= 3:
            return
    pytest.fail("the model never called twice")


def test_results_in_the_history(client: OpenAI) -> None:
    """An answer goes back as it came, its result behind it; the model goes on from both."""
    choice = {"type": "function", "function": {"name": "stop_line"}}
    message = ask(client, tool_choice=choice).choices[0].message
    (call,) = message.tool_calls
    said = {"role": "tool", "tool_call_id": call.id, "content": "The line stands."}
    fields: dict[str, Any] = {"messages": [*QUESTION, message, said]}
    answers = [ask(client, **fields, tool_choice="none"), ask(client, **fields, max_tokens=16)]
    assert all(answer.choices[0].message.content for answer in answers)
    prompts = [answer.usage.prompt_tokens for answer in answers]
    assert prompts[1] > prompts[0], "with the tools, and without"


def test_a_call_that_is_cut(client: OpenAI) -> None:
    """`length`, and arguments that are not whole."""
    choice = {"type": "function", "function": {"name": "set_pressure"}}
    whole = ask(client, tool_choice=choice).choices[0].message.tool_calls[0].function.arguments
    answer = ask(client, tool_choice=choice, max_tokens=30)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 30
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "set_pressure"
    assert whole.startswith(call.function.arguments)
    assert whole != call.function.arguments


def test_choices_seeds_and_log_probabilities(client: OpenAI) -> None:
    """Several answers, each with a call; a seed repeats them; every token has its probability."""
    fields: dict[str, Any] = {
        **ONE,
        "tool_choice": "required",
        "n": 3,
        "seed": 5,
        "temperature": 1.2,
        "logprobs": True,
        "top_logprobs": 1,
    }
    answers = [ask(client, **fields).choices for _ in range(2)]
    for choice in answers[0]:
        (call,) = choice.message.tool_calls
        check(call)
        spelled = "".join(entry.token for entry in choice.logprobs.content)
        assert spelled.startswith(f'<tool_call>\n{{"name": "{call.function.name}"')
        assert call.function.arguments in spelled
    called = [[c.message.tool_calls[0].function for c in choices] for choices in answers]
    assert called[0] == called[1]
    assert len({call.arguments for call in called[0]}) > 1
    text, calls, reason = streamed(ask(client, **{**fields, "n": 1}, stream=True))
    assert (text, reason) == ("", "tool_calls")
    assert calls[0]["arguments"] == called[0][0].arguments


def test_a_stop_string_in_a_call(client: OpenAI) -> None:
    """Stops end texts, and a call is none."""
    answer = ask(client, tool_choice="required", **ONE, stop=["\n", '"']).choices[0]
    assert answer.finish_reason == "tool_calls"
    check(answer.message.tool_calls[0])


def test_a_form_beside_tools(client: OpenAI) -> None:
    """An answer that calls nothing has the form that was asked for."""
    schema = {"name": "x", "schema": {"enum": ["yes", "no"]}}
    form = {"type": "json_schema", "json_schema": schema}
    for seed in range(3):
        answer = ask(client, response_format=form, temperature=1, seed=seed, **ONE).choices[0]
        if answer.message.tool_calls:
            check(answer.message.tool_calls[0])
        else:
            assert answer.message.content in ('"yes"', '"no"')


FLAT = [{"type": "function", "strict": True, **one["function"]} for one in TOOLS]


def respond(client: OpenAI, **fields: Any) -> Any:
    fields = {"temperature": 0, "max_output_tokens": 120, "tools": FLAT, **ONE, **fields}
    return client.responses.create(model=MODEL, **{"input": QUESTION, **fields})


def test_a_response_with_a_call(client: OpenAI) -> None:
    """An item of its own, and the conversation goes on with it."""
    choice = {"type": "function", "name": "stop_line"}
    response = respond(client, tool_choice=choice)
    (item,) = response.output
    assert (item.type, item.name, item.status) == ("function_call", "stop_line", "completed")
    jsonschema.validate(json.loads(item.arguments), STOP)
    assert response.status == "completed"
    assert [tool.name for tool in response.tools] == ["set_pressure", "stop_line"]
    assert response.tool_choice.name == "stop_line"
    output = {"type": "function_call_output", "call_id": item.call_id, "output": "stands"}
    more = respond(client, input=[*QUESTION, *response.output, output], tool_choice="none")
    assert more.output[0].type == "message"
    assert more.usage.input_tokens > 0


def test_a_response_with_a_call_that_is_cut(client: OpenAI) -> None:
    """The item is incomplete, as the whole is."""
    response = respond(client, tool_choice="required", max_output_tokens=30)
    assert response.status == response.output[-1].status == "incomplete"


def test_a_stream_of_a_response_with_calls(client: OpenAI) -> None:
    """The typed events of items and of arguments, in order."""
    choice = {"type": "function", "name": "stop_line"}
    events = list(respond(client, tool_choice=choice, stream=True))
    kinds = [event.type for event in events]
    deltas = [e.delta for e in events if e.type == "response.function_call_arguments.delta"]
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        *["response.function_call_arguments.delta"] * len(deltas),
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    (item,) = events[-1].response.output
    assert item == events[-2].item
    assert item.arguments == "".join(deltas) == events[-3].arguments
    jsonschema.validate(json.loads(item.arguments), STOP)


def test_kept_answers(client: OpenAI) -> None:
    """In the background and for an idempotency key: the same calls under the same ids, also as a
    stream."""
    fields: dict[str, Any] = {"tool_choice": "required", **ONE, "temperature": 1}
    headers = {"Idempotency-Key": "tools-1"}
    first, again = (ask(client, **fields, extra_headers=headers) for _ in range(2))
    assert first.choices == again.choices
    check(first.choices[0].message.tool_calls[0])
    headers = {"Idempotency-Key": "tools-2"}
    streams = [streamed(ask(client, **fields, extra_headers=headers, stream=True)) for _ in "ab"]
    assert streams[0] == streams[1]
    assert streams[0][2] == "tool_calls"
    response = respond(client, tool_choice="required", background=True)

    def ended() -> Response | None:
        now = client.responses.retrieve(response.id)
        return None if now.status in ("queued", "in_progress") else now

    done = poll(ended, "the end of the response")
    assert done is not None
    (item,) = done.output
    jsonschema.validate(json.loads(item.arguments), SCHEMAS[item.name])
