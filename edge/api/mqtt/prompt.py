"""What a payload asks for: JSON, plain text, or a picture as it is. Pure.

A message is read in two steps, so that an error in the second can still be answered where the
first found out: the envelope (`id`, `reply_to`), then what is inside it, here a chat body (and in
`inboxes.py` the others).
"""

from __future__ import annotations

import re

import msgspec

from edge.errors import EdgeError, InvalidRequest, PayloadTooLarge
from edge.openai import parse
from edge.openai.schema import ChatBody, TurnBody

Id = str | int

USABLE_ID = re.compile(r"[^+#/]{1,128}")
"""An id is a level of the default reply topic."""


class Envelope(msgspec.Struct):
    """`fields`: the JSON object without the three others, or `text`: plain text, or `raw`: bytes
    that are neither, or `problem`: why there is none of them. `id`, `reply_to` and `api_key` are
    there in any case where they could be read; the last is kept nowhere else."""

    id: Id | None = None
    reply_to: str | None = None
    api_key: str | None = None
    fields: dict[str, msgspec.Raw] = {}
    text: str | None = None
    raw: bytes | None = None
    problem: EdgeError | None = None

    def check(self) -> None:
        """Raises what is wrong with the message."""
        if self.problem is not None:
            raise self.problem


def too_large(size: int, limit: int) -> Envelope:
    return Envelope(problem=PayloadTooLarge(f"{size} bytes; at most {limit} are accepted"))


def open_envelope(payload: bytes, request_id: str | None = None, *, raw: bool = False) -> Envelope:
    """request_id: of the message's properties, for a payload that has no id. raw: what is not JSON
    need not be text."""
    # Controllers send whole buffers, and some programs begin a text with a byte order mark.
    text = payload.rstrip(b"\0").removeprefix(b"\xef\xbb\xbf")
    envelope = Envelope()
    try:
        if text.lstrip()[:1] in (b"{", b"["):
            _read_object(text, envelope)
        elif not raw:
            envelope.text = _read_text(text)
        elif text:
            envelope.raw = payload
        else:
            raise InvalidRequest("the payload is empty")
        if envelope.id is None and request_id is not None:
            _check_id(request_id, "X-Request-Id")
            envelope.id = request_id
    except EdgeError as error:
        envelope.problem = error
    return envelope


def chat_body(envelope: Envelope) -> ChatBody:
    """Raises `InvalidRequest` with the field at fault."""
    if envelope.text is not None:
        return ChatBody(messages=[TurnBody(role="user", content=envelope.text)])
    fields = dict(envelope.fields)
    if "prompt" in fields:
        if "messages" in fields:
            raise InvalidRequest("give `prompt` or `messages`, not both", param="prompt")
        prompt = msgspec.json.decode(fields.pop("prompt"))
        if not isinstance(prompt, str):
            raise InvalidRequest("`prompt` is text", param="prompt")
        if not prompt.strip():
            raise InvalidRequest("the prompt is empty", param="prompt")
        turn = TurnBody(role="user", content=prompt)
        fields["messages"] = msgspec.Raw(msgspec.json.encode([turn]))
    return parse.decode(msgspec.json.encode(fields), ChatBody)


def _read_object(payload: bytes, envelope: Envelope) -> None:
    try:
        # Raw fields are not looked into: first all of it, so that bad JSON is found anywhere.
        whole = msgspec.json.decode(payload)
        if not isinstance(whole, dict):
            raise InvalidRequest("a JSON payload is an object")
        envelope.fields = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the payload is not valid JSON: {error}") from None
    for name in ("id", "reply_to", "api_key"):
        envelope.fields.pop(name, None)
    reply_to, prompt_id, api_key = whole.get("reply_to"), whole.get("id"), whole.get("api_key")
    if isinstance(reply_to, str):
        envelope.reply_to = reply_to
    if isinstance(api_key, str):
        envelope.api_key = api_key
    if prompt_id is not None:
        _check_id(prompt_id, "id")
        envelope.id = prompt_id
    if not isinstance(reply_to, str | None):
        raise InvalidRequest("`reply_to` is text", param="reply_to")
    if not isinstance(api_key, str | None):
        raise InvalidRequest("`api_key` is text", param="api_key")


def _check_id(prompt_id: object, param: str) -> None:
    if not _usable(prompt_id):
        raise InvalidRequest(
            f"`{param}` is a whole number, or text of 1 to 128 characters, none of them `/`, `+`,"
            " `#` or what cannot be printed",
            param=param,
        )


def _usable(prompt_id: object) -> bool:
    if isinstance(prompt_id, str):
        # A broker hangs up at topics with what Unicode calls no character, as U+FFFF is.
        return USABLE_ID.fullmatch(prompt_id) is not None and prompt_id.isprintable()
    whole = isinstance(prompt_id, int) and not isinstance(prompt_id, bool)
    return whole and abs(prompt_id) < 2**63  # type: ignore[arg-type]


def _read_text(payload: bytes) -> str:
    try:
        text = payload.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"the payload is neither JSON nor UTF-8 text: {error}") from None
    if not text.strip():
        raise InvalidRequest("the payload is empty")
    return text
