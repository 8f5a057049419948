"""Right bodies, one of everything that callers may send, for the mutator to begin with."""

from __future__ import annotations

from typing import Any

TOOL = {
    "type": "function",
    "function": {
        "name": "set_speed",
        "description": "Of the belt",
        "parameters": {"type": "object", "properties": {"rpm": {"type": "integer"}}},
    },
}
CALL = {"id": "c1", "type": "function", "function": {"name": "set_speed", "arguments": "{}"}}
SCHEMA = {
    "name": "part",
    "strict": True,
    "schema": {"type": "object", "properties": {"id": {"type": "string", "pattern": "^[a-z]+$"}}},
}
EDGE = {"route": "auto", "priority": "normal", "deadline_ms": 5000, "cache": True}
PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAAC0lEQVR42mNgAAIAAAUAAen63NgAAAAASUVORK5CYII="
)
CHAT: dict[str, Any] = {
    "model": "default",
    "messages": [
        {"role": "system", "content": "You answer."},
        {"role": "user", "content": [{"type": "text", "text": "Stop the belt"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "done"},
        {"role": "user", "content": "And now?"},
    ],
    "tools": [TOOL],
    "tool_choice": {"type": "function", "function": {"name": "set_speed"}},
    "max_tokens": 2,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "stop": ["\n", "end"],
    "seed": 1,
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"5": -100},
    "n": 1,
    "stream": False,
    "edge": EDGE,
}
FORMED: dict[str, Any] = {
    "messages": [{"role": "user", "content": "A part"}],
    "response_format": {"type": "json_schema", "json_schema": SCHEMA},
    "max_completion_tokens": 2,
    "stream": True,
    "stream_options": {"include_usage": True},
    "metadata": {"line": "4"},
}
COMPLETION: dict[str, Any] = {
    "prompt": ["A lathe is", "A mill is"],
    "max_tokens": 2,
    "logprobs": 1,
    "response_format": {"type": "regex", "regex": "[a-z]{1,3}"},
    "presence_penalty": 0.1,
    "frequency_penalty": 0.1,
    "repeat_penalty": 1.1,
}
TOKENS: dict[str, Any] = {"prompt": [1, 2, 3], "max_tokens": 1, "min_p": 0.1, "ignore_eos": True}
RESPONSE: dict[str, Any] = {
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {"type": "function_call", "call_id": "c1", "name": "set_speed", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "done"},
    ],
    "instructions": "Be short.",
    "max_output_tokens": 2,
    "text": {"format": {"type": "json_schema", **SCHEMA}},
    "tools": [{"type": "function", "name": "set_speed", "parameters": {"type": "object"}}],
    "edge": EDGE,
}
EMBEDDING: dict[str, Any] = {
    "input": ["a", "b"],
    "model": "minilm",
    "encoding_format": "base64",
    "dimensions": 8,
}
RERANK: dict[str, Any] = {"query": "a", "documents": ["a", {"text": "b"}], "top_n": 1}
TENSORS: dict[str, Any] = {
    "id": "1",
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [1, 3], "data": [[0.5, 1, 2]]},
        {"name": "t", "datatype": "BYTES", "shape": [1], "data": ["a"]},
    ],
    "outputs": [{"name": "y", "parameters": {"classification": 2}}],
    "parameters": {"binary_data_output": False, "priority": 1, "timeout": 1000000},
}
ADDER: dict[str, Any] = {
    "inputs": [
        {"name": name, "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]} for name in "ab"
    ]
}
PICTURE: dict[str, Any] = {"image": PIXEL, "model": "parts", "top_k": 3, "threshold": 0.5}
BATCH: dict[str, Any] = {
    "input_file_id": "file-1",
    "endpoint": "/v1/chat/completions",
    "completion_window": "24h",
    "metadata": {"a": "b"},
}
LINE: dict[str, Any] = {
    "custom_id": "1",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": CHAT,
}
PROMPT: dict[str, Any] = {"id": "42", "prompt": "Hello", "max_tokens": 2, "reply_to": "a/reply/1"}
