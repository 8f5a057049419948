"""How an answer that was cut goes on elsewhere: what to ask, and what of the reply is new. Pure.

Whoever goes on gets the text so far as a last message of the assistant's, or as more of the
prompt. Its tokens are not those of the one who was cut, so that the text is all there is to go by.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from edge.types import (
    ChatPrompt,
    Delta,
    Finished,
    Message,
    Prompt,
    Request,
    TextPrompt,
    TokenPrompt,
    Usage,
)


class Said(msgspec.Struct):
    """What was heard of one answer so far. tokens: where nobody counts them, pieces of text.

    calling: it has begun to call a tool.
    """

    text: str = ""
    tokens: int = 0
    finished: bool = False
    calling: bool = False

    @property
    def begun(self) -> bool:
        """The caller has something of it."""
        return bool(self.text) or self.calling or self.finished

    def hear(self, event: Delta | Finished) -> None:
        if isinstance(event, Finished):
            self.finished = True
        else:
            self.text += event.text
            self.calling |= bool(event.calls)
            self.tokens += len(event.tokens) or bool(event.text or event.calls)


def can_continue(request: Request, answers: Iterable[Said]) -> bool:
    """False where the text alone does not tell how to go on: for prompts that are token ids,
    where a log probability was promised for each token, in the middle of a grammar, and in that
    of a tool call."""
    tokens = any(isinstance(prompt, TokenPrompt) for prompt in request.prompts)
    calling = any(said.calling and not said.finished for said in answers)
    return not (tokens or calling) and request.logprobs is None and request.grammar is None


def continuation(request: Request, index: int, said: Said, number: int) -> Request:
    """The request for the rest of answer `index`. number: how often this request was cut before.

    Its id is another, because it is another request to whoever has seen the first.
    """
    sampling = request.sampling
    if sampling.seed is not None:
        sampling = msgspec.structs.replace(sampling, seed=sampling.seed + index)
    limit = request.max_tokens
    return msgspec.structs.replace(
        request,
        id=f"{request.id}.{index}-{number}",
        prompts=[_behind(request.prompts[index // request.n], said.text)],
        sampling=sampling,
        max_tokens=None if limit is None else max(1, limit - said.tokens),
        n=1,
    )


def exhausted(request: Request, said: Said) -> bool:
    """True where the answer was cut just when it had reached its limit."""
    return request.max_tokens is not None and said.tokens >= request.max_tokens


def whole_usage(usage: Usage, said: Said) -> Usage:
    """Of an answer made in two parts, from what the second one counted: its prompt held the first
    part, and its completion is the rest. What the first one took is not known."""
    return msgspec.structs.replace(
        usage,
        prompt_tokens=max(usage.prompt_tokens - said.tokens, 0),
        cached_tokens=max(min(usage.cached_tokens, usage.prompt_tokens - said.tokens), 0),
        completion_tokens=usage.completion_tokens + said.tokens,
        energy=None,
    )


class Trimmer:
    """Takes away the text so far, where a model begins with it again instead of going on."""

    def __init__(self, said: str) -> None:
        self._said = said
        self._held = ""

    def feed(self, text: str) -> str:
        """What of this piece is new. Held back as long as it may be a repetition."""
        if not self._said:
            return text
        self._held += text
        if self._said.startswith(self._held) and len(self._held) < len(self._said):
            return ""
        new = self._held.removeprefix(self._said)
        self._said = self._held = ""
        return new

    def rest(self) -> str:
        """What is still held when the answer ends: less than a repetition, so it was none."""
        held, self._held = self._held, ""
        return held


def _behind(prompt: Prompt, text: str) -> Prompt:
    if isinstance(prompt, ChatPrompt):
        *before, last = prompt.messages
        messages = [*prompt.messages, Message("assistant", text)]
        if last.role == "assistant":  # the caller's own beginning of it
            messages = [*before, msgspec.structs.replace(last, content=last.content + text)]
        return ChatPrompt(messages, prompt.tools)
    if isinstance(prompt, TextPrompt):
        return TextPrompt(prompt.text + text)
    return prompt
