"""A model's own chat template, laid out in a sandbox, to prompt tokens.

Templates come with model files and are not trusted (`sandbox.py`). What users write is
not trusted either: control tokens spelled out in a message (`<|im_end|>`) stay text. To know
which part of the laid-out prompt came from a message or a tool, contents carry marks while the
template runs; the marks are gone before tokenizing. A prompt without such spellings is laid out
again without any marks, and tokenized exactly as the model's authors do it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

from edge.engine.backend import Vocabulary
from edge.engine.chat_system import folded
from edge.engine.chat_tools import (
    PROBE,
    PROBE_TOOL,
    PROBED,
    call_turn,
    described,
    marked,
    written_out,
)
from edge.engine.seam import tokens_behind
from edge.errors import InvalidRequest
from edge.sandbox import FAILURES, Limits, Sandbox
from edge.types import Message, Tool, Tools

DEADLINE_SECONDS = 2.0
ROLE = re.compile(r"[A-Za-z0-9_.-]{1,64}")

# Unicode non-characters, which the standard sets aside for use inside a program.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
MARKS = re.compile(f"[{OPEN}{CLOSE}]")


class Content(str):
    """A user's text between marks. It answers as the text alone would, and its parts are marked.

    What puts texts together (`+`, `~`, printing) works on the characters and so keeps the marks.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> Content:
        return super().__new__(cls, OPEN + MARKS.sub("", text) + CLOSE)

    @property
    def inner(self) -> str:
        return str(self)[1:-1]

    def __iter__(self) -> Iterator[Content]:
        return map(Content, self.inner)

    def __bool__(self) -> bool:
        return bool(self.inner)


def _as_inner(name: str) -> Any:
    """A method of `str` for `Content`: on the text without marks, with marked results."""
    method = getattr(str, name)

    def call(self: Content, *args: Any, **kwargs: Any) -> Any:
        plain = [arg.inner if isinstance(arg, Content) else arg for arg in args]
        return _marked(method(self.inner, *plain, **kwargs))

    call.__name__ = name
    return call


def _marked(value: Any) -> Any:
    if isinstance(value, str):
        return Content(value)
    if isinstance(value, (list, tuple)):
        return type(value)(map(_marked, value))
    return value


for _name in dir(str):
    if not _name.startswith("_") and _name not in ("format", "format_map", "maketrans"):
        setattr(Content, _name, _as_inner(_name))
for _name in ("contains", "eq", "ge", "getitem", "gt", "hash", "le", "len", "lt", "ne", "repr"):
    setattr(Content, f"__{_name}__", _as_inner(f"__{_name}__"))


class ChatVocabulary(Vocabulary, Protocol):
    """What laying out a chat needs of the tokenizer."""

    adds_bos: bool
    bos: int
    eos: int

    def text(self, token: int) -> str: ...

    def control_texts(self) -> list[str]: ...


class ChatTemplate:
    """A compiled template with the vocabulary that it belongs to. Thread-safe for one caller.

    Raises `InvalidRequest` at construction for a template that does not compile.
    """

    def __init__(self, source: str, vocabulary: ChatVocabulary) -> None:
        self.vocabulary = vocabulary
        try:
            with Limits(DEADLINE_SECONDS):
                self._template = Sandbox().from_string(source)
        except FAILURES as error:
            raise InvalidRequest(f"the model's chat template is broken: {error}") from None
        controls = sorted(set(vocabulary.control_texts()), key=len, reverse=True)
        # A look-ahead, so that spellings that overlap are all found.
        self._controls = re.compile(f"(?=({'|'.join(map(re.escape, controls))}))")
        self._has_controls = bool(controls)

    def tokens(self, messages: Sequence[Message], tools: Tools | None = None) -> list[int]:
        """Prompt tokens up to where the assistant's answer begins.

        Where the last message is the assistant's, it goes on from the end of that. System messages
        that the template cannot take stand in the user's turns.
        tools: those that may be called are shown to the model.

        Raises `InvalidRequest` when the template refuses the messages (roles out of order, a
        role it does not know) or does not come to an end.
        """
        offered = tools.callable if tools is not None else []
        called = any(message.tool_calls or message.role == "tool" for message in messages)
        if (offered or called) and not self._knows_tools:
            messages, offered = written_out(messages, offered), []
        if any(message.role == "system" for message in messages) and not self._takes_system:
            messages = folded(messages)
        text, spans = _unmark(self._render(messages, offered, Content))
        cuts = self._cuts(text, spans)
        if not cuts:
            plain = self._render(messages, offered, str)
            # A template that takes texts apart may find in the whole what the marks kept apart.
            if self._spellings(plain) == self._spellings(text):
                text = plain
        vocabulary = self.vocabulary
        parts = [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]
        tokens = vocabulary.tokenize(parts[0], special=True, bos=False)
        for part in parts[1:]:
            tokens += tokens_behind(vocabulary, part, special=True)
        if vocabulary.adds_bos and tokens[:1] != [vocabulary.bos]:
            tokens.insert(0, vocabulary.bos)
        return tokens

    @cached_property
    def _knows_tools(self) -> bool:
        """Whether tools and their calls are laid out by the template."""
        try:
            return PROBED.search(self._render(PROBE, [PROBE_TOOL], str)) is not None
        except InvalidRequest:
            return False

    @cached_property
    def _takes_system(self) -> bool:
        probe = [Message("system", "probe_system"), Message("user", "probe_question")]
        try:
            return "probe_system" in self._render(probe, [], str)
        except InvalidRequest:
            return False

    def _render(
        self, messages: Sequence[Message], tools: Sequence[Tool], content: Callable[[str], str]
    ) -> str:
        vocabulary = self.vocabulary

        def clean(text: str) -> str:
            return content(MARKS.sub("\ufffd", text))

        try:
            turns = [_turn(message, clean) for message in messages]
            # Not left to the template, which would end the turn.
            said = turns.pop()["content"] if turns and turns[-1]["role"] == "assistant" else ""
            with Limits(DEADLINE_SECONDS):
                opening = self._template.render(
                    messages=turns,
                    tools=[marked(described(tool), clean) for tool in tools] or None,
                    add_generation_prompt=True,
                    bos_token=vocabulary.text(vocabulary.bos),
                    eos_token=vocabulary.text(vocabulary.eos),
                )
                return opening + said
        except FAILURES as error:
            reason = MARKS.sub("", str(error)) or type(error).__name__
        raise InvalidRequest(
            f"the model's chat template refuses these messages: {reason}", param="messages"
        )

    def _spellings(self, text: str) -> list[str]:
        """The control tokens that are spelled in a text."""
        return self._controls.findall(text) if self._has_controls else []

    def _cuts(self, text: str, spans: list[tuple[int, int]]) -> list[int]:
        """Where to cut so that no control token's spelling that a user wrote stays whole."""
        cuts: set[int] = set()
        if not self._has_controls:
            return []
        for start, end in spans:
            if start == end:
                continue
            # A spelling may begin in the template and end in the message, or the reverse.
            for found in self._controls.finditer(text, max(0, start - 64), end + 64):
                first, last = found.start(), found.start() + len(found[1])
                if first < end and last > start:
                    cuts.add(min(max(first + 1, start), last - 1) if last - first > 1 else first)
        return sorted(cuts)


def _turn(message: Message, content: Callable[[str], str]) -> dict[str, Any]:
    """A message as templates want it. Roles are compared and printed, so they stay plain."""
    if not ROLE.fullmatch(message.role):
        raise InvalidRequest(f"no role is called {message.role!r}", param="messages")
    turn: dict[str, Any] = {"role": message.role, "content": content(message.content)}
    if message.name is not None:
        turn["name"] = content(message.name)
    if message.tool_calls:
        turn["tool_calls"] = [marked(call_turn(call), content) for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = content(message.tool_call_id)
    return turn


def _unmark(marked: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without marks, and where the messages' contents stand in it.

    A template may have torn a pair of marks apart; what is between two marks of any kind after
    an opening one then counts as content, so doubt is resolved towards "a user wrote this".
    """
    parts: list[str] = []
    spans: list[tuple[int, int]] = []
    at, opened = 0, None
    for piece in re.split(f"([{OPEN}{CLOSE}])", marked):
        if piece == OPEN:
            opened = at if opened is None else opened
        elif piece == CLOSE:
            spans.append((0 if opened is None else opened, at))
            opened = None
        else:
            parts.append(piece)
            at += len(piece)
    if opened is not None:
        spans.append((opened, at))
    return "".join(parts), spans
