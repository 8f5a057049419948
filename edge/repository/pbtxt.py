"""Protocol buffers' text format, as far as Triton's config.pbtxt uses it.

Without a schema: the answer is a tree, and whoever reads it knows the fields. The format:
https://protobuf.dev/reference/protobuf/textformat-spec/
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple, Union

from edge.errors import BadModelFile

LARGEST = 1 << 20
DEEPEST = 32

Value = Union[str, int, float, "Word", "Message"]
"""A text in quotes, a number, a name of an enumeration (true and false are such), or a block."""

Message = dict[str, list[Value]]
"""All values of each field, in order."""


class Word(str):
    """A name without quotes."""

    __slots__ = ()


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


_TOKENS = re.compile(
    r"(?P<blank>[ \t\r\f\v]+|\#[^\n]*)"
    r"|(?P<newline>\n)"
    r"|(?P<string>\"(?:[^\"\\\n]|\\.)*\"|'(?:[^'\\\n]|\\.)*')"
    r"|(?P<number>-?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[fF]?)(?![\w.]))"
    r"|(?P<word>-?[A-Za-z_][\w.]*)"
    r"|(?P<mark>[{}<>\[\]:,;])"
)
_CLOSING = {"{": "}", "<": ">"}


def parse(text: str) -> Message:
    """Raises `BadModelFile` with the line at fault."""
    if len(text) > LARGEST:
        raise BadModelFile(f"it has {len(text)} characters, {LARGEST} at most are read")
    return _Parser(text).message()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0

    def message(self, until: str = "", depth: int = 0) -> Message:
        """Fields up to the closing mark, or to the end."""
        if depth > DEEPEST:
            raise self._wrong(f"more than {DEEPEST} blocks within each other")
        found: Message = {}
        while not self._take(until):
            name = self._next()
            if name.kind != "word":
                raise self._wrong("a field's name is expected", name)
            found.setdefault(str(name.text), []).extend(self._values(depth))
            if not self._take(","):
                self._take(";")
        return found

    def _values(self, depth: int) -> list[Value]:
        colon = self._take(":")
        if not self._take("["):
            return [self._value(depth, colon)]
        values: list[Value] = []
        if self._take("]"):
            return values
        while True:
            values.append(self._value(depth, colon))
            if self._take("]"):
                return values
            if not self._take(","):
                raise self._wrong("`,` or `]` is expected")

    def _value(self, depth: int, colon: bool) -> Value:
        token = self._next()
        if token.text in _CLOSING and token.kind == "mark":
            return self.message(_CLOSING[token.text], depth + 1)
        if not colon:
            raise self._wrong("`:` is expected", token)
        if token.kind == "string":
            text = _unquoted(token)
            while self._at < len(self._tokens) and self._tokens[self._at].kind == "string":
                text += _unquoted(self._next())
            return text
        if token.kind == "number":
            return _number(token.text)
        if token.kind == "word":
            return Word(token.text)
        raise self._wrong("a value is expected", token)

    def _take(self, mark: str) -> bool:
        """Step over that mark, if it is next; the empty one is the end."""
        if self._at >= len(self._tokens):
            return not mark
        if not mark or self._tokens[self._at].kind != "mark":
            return False
        taken = self._tokens[self._at].text == mark
        self._at += taken
        return taken

    def _next(self) -> _Token:
        if self._at >= len(self._tokens):
            raise self._wrong("it ends too early")
        self._at += 1
        return self._tokens[self._at - 1]

    def _wrong(self, what: str, token: _Token | None = None) -> BadModelFile:
        if token is None and self._tokens:
            token = self._tokens[min(self._at, len(self._tokens) - 1)]
        if token is None:
            return BadModelFile(what)
        return BadModelFile(f"line {token.line}: {what}, and `{token.text[:40]}` stands there")


def _tokens(text: str) -> Iterator[_Token]:
    line, at = 1, 0
    while at < len(text):
        found = _TOKENS.match(text, at)
        if found is None:
            raise BadModelFile(f"line {line}: `{text[at : at + 20]}` cannot be read")
        at, kind = found.end(), found.lastgroup or ""
        if kind == "newline":
            line += 1
        elif kind != "blank":
            yield _Token(kind, found[0], line)


def _unquoted(token: _Token) -> str:
    try:
        return str(ast.literal_eval(token.text))
    except (ValueError, SyntaxError):
        raise BadModelFile(f"line {token.line}: {token.text[:40]} is no text") from None


def _number(text: str) -> int | float:
    if text.lower().removeprefix("-").startswith("0x"):
        return int(text, 16)
    try:
        return int(text)
    except ValueError:
        return float(text.rstrip("fF"))
