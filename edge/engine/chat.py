"""A model's own chat template, laid out in a sandbox, to prompt tokens.

Templates come with model files and are not trusted: they run in Jinja's immutable sandbox, with
a deadline, and cannot build huge strings. What users write is not trusted either: control tokens
spelled out in a message (`<|im_end|>`) stay text. To know which part of the laid-out prompt
came from a message, contents carry marks while the template runs; the marks are gone before
tokenizing. A prompt without such spellings is tokenized exactly as the model's authors do it.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from types import FrameType
from typing import Any, Protocol

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from edge.engine.backend import Vocabulary
from edge.errors import InvalidRequest
from edge.types import Message

DEADLINE_SECONDS = 2.0
LARGEST_PRODUCT = 1_000_000

# Unicode non-characters, which the standard sets aside for use inside a program.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
MARKS = re.compile(f"[{OPEN}{CLOSE}]")


class Content(str):
    """A message's text between marks, which stay around it through what templates do to texts."""

    __slots__ = ()

    def __new__(cls, text: str) -> Content:
        return super().__new__(cls, OPEN + MARKS.sub("\ufffd", text) + CLOSE)

    @property
    def inner(self) -> str:
        return str(self)[1:-1]

    def strip(self, chars: str | None = None, /) -> Content:
        return Content(self.inner.strip(chars))

    def lstrip(self, chars: str | None = None, /) -> Content:
        return Content(self.inner.lstrip(chars))

    def rstrip(self, chars: str | None = None, /) -> Content:
        return Content(self.inner.rstrip(chars))

    def split(self, sep: str | None = None, maxsplit: Any = -1) -> list[str]:
        return [Content(part) for part in self.inner.split(sep, maxsplit)]

    def replace(self, old: str, new: str, count: Any = -1, /) -> Content:
        return Content(self.inner.replace(old, new, count))

    def startswith(self, *args: Any) -> bool:
        return self.inner.startswith(*args)

    def endswith(self, *args: Any) -> bool:
        return self.inner.endswith(*args)

    def upper(self) -> Content:
        return Content(self.inner.upper())

    def lower(self) -> Content:
        return Content(self.inner.lower())

    def __getitem__(self, key: Any) -> Content:
        return Content(self.inner[key])

    def __len__(self) -> int:
        return len(self.inner)

    def __bool__(self) -> bool:
        return bool(self.inner)

    def __eq__(self, other: object) -> bool:
        return self.inner == other

    __hash__ = str.__hash__


class ChatVocabulary(Vocabulary, Protocol):
    """What laying out a chat needs of the tokenizer."""

    adds_bos: bool
    bos: int
    eos: int

    def text(self, token: int) -> str: ...

    def control_texts(self) -> list[str]: ...


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with products and powers bounded so that no huge string can be made."""

    intercepted_binops = frozenset(["*", "**"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            raise jinja2.TemplateError("powers are not available in chat templates")
        sizes = [len(x) if hasattr(x, "__len__") else 1 for x in (left, right)]
        factors = [abs(x) if isinstance(x, int) else 1 for x in (left, right)]
        if max(sizes) * max(factors) > LARGEST_PRODUCT and max(sizes) > 1:
            raise jinja2.TemplateError("a repeated text is too long")
        return super().call_binop(context, operator, left, right)


class ChatTemplate:
    """A compiled template with the vocabulary that it belongs to. Thread-safe for one caller.

    Raises `InvalidRequest` at construction for a template that does not compile.
    """

    def __init__(self, source: str, vocabulary: ChatVocabulary) -> None:
        self.vocabulary = vocabulary
        environment = _Environment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols"],
            autoescape=False,
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise InvalidRequest(f"the model's chat template is broken: {error}") from None
        controls = sorted(set(vocabulary.control_texts()), key=len, reverse=True)
        # A look-ahead, so that spellings that overlap are all found.
        self._controls = re.compile(f"(?=({'|'.join(map(re.escape, controls))}))")
        self._has_controls = bool(controls)

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """Prompt tokens up to where the assistant's answer begins.

        Raises `InvalidRequest` when the template refuses the messages (roles out of order, a
        role it does not know) or does not come to an end.
        """
        text, spans = _unmark(self._render(messages))
        vocabulary = self.vocabulary
        tokens: list[int] = []
        start = 0
        for cut in [*self._cuts(text, spans), len(text)]:
            tokens += vocabulary.tokenize(text[start:cut], special=True, bos=False)
            start = cut
        if vocabulary.adds_bos and tokens[:1] != [vocabulary.bos]:
            tokens.insert(0, vocabulary.bos)
        return tokens

    def _render(self, messages: Sequence[Message]) -> str:
        turns = []
        for message in messages:
            turn: dict[str, Any] = {"role": message.role, "content": Content(message.content)}
            if message.name is not None:
                turn["name"] = Content(message.name)
            turns.append(turn)
        vocabulary = self.vocabulary
        try:
            with _Deadline(DEADLINE_SECONDS):
                return self._template.render(
                    messages=turns,
                    add_generation_prompt=True,
                    bos_token=vocabulary.text(vocabulary.bos),
                    eos_token=vocabulary.text(vocabulary.eos),
                )
        except jinja2.TemplateError as error:
            reason = MARKS.sub("", str(error))
        except (TimeoutError, RecursionError, MemoryError, OverflowError) as error:
            reason = f"it did not come to an end ({error or type(error).__name__})"
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            reason = MARKS.sub("", str(error))
        raise InvalidRequest(
            f"the model's chat template refuses these messages: {reason}", param="messages"
        )

    def _cuts(self, text: str, spans: list[tuple[int, int]]) -> list[int]:
        """Where to cut so that no control token's spelling that a user wrote stays whole."""
        cuts: set[int] = set()
        if not self._has_controls:
            return []
        for start, end in spans:
            # A spelling may begin in the template and end in the message, or the reverse.
            for found in self._controls.finditer(text, max(0, start - 64), end + 64):
                first, last = found.start(), found.start() + len(found[1])
                if first < end and last > start:
                    cuts.add(min(max(first + 1, start), last - 1) if last - first > 1 else first)
        return sorted(cuts)


class _Deadline:
    """Ends Python code of this thread that runs for too long, by tracing its lines.

    Signals reach the main thread only and a thread cannot be killed; a template is a few hundred
    lines of generated Python, so tracing it costs next to nothing.
    """

    def __init__(self, seconds: float) -> None:
        self.until = time.monotonic() + seconds
        self._before: Any = None

    def __enter__(self) -> None:
        self._before = sys.gettrace()
        sys.settrace(self._trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        if time.monotonic() > self.until:
            raise TimeoutError("time limit")
        return self._trace


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


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)
