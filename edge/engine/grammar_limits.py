"""What a grammar may contain. Pure.

llguidance bounds most of its own work, but some of it not: an integer that is a multiple of a
large number becomes a table of that many states, counted repetitions inside of each other multiply
to a text without end, and a deep nesting ends a stack. Those are refused by looking at the text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from edge.errors import InvalidRequest, UnsupportedParameter
from edge.types import Grammar

PARAM = "response_format"

LARGEST = 128 * 1024
"""Characters."""

DEEPEST = 48
"""Levels of objects and arrays in a schema; an object in an object takes two of them."""

MOST_REFERENCES = 500
"""llguidance follows a chain of references on its stack; one of 2,000 ends the process."""

MOST_MULTIPLES = 2_000
"""Remainders that all `multipleOf` have, together; time and memory grow with them."""

MOST_COMBINED = 20_000
"""The same multiplied with each other, where parts of a schema may be put together."""

MOST_REPETITIONS = 20_000
"""Counted repetitions, where they are nested multiplied with each other."""

REPETITION = re.compile(r"\{\s*(\d*)\s*(?:,\s*(\d*)\s*)?\}")


class TooMuch(Exception):
    """It is larger than is allowed."""


class Unknown(Exception):
    """It has what cannot be had here."""


def check(grammar: Grammar, param: str = PARAM) -> None:
    """Raises `InvalidRequest` for what is too large, `UnsupportedParameter` for what cannot be.

    param: the field of the request that it stands in.
    """
    try:
        _check(grammar)
    except TooMuch as reason:
        raise InvalidRequest(f"`{param}` is refused: {reason}", param=param) from None
    except Unknown as reason:
        raise UnsupportedParameter(f"`{param}`: {reason}", param=param) from None
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"`{param}` has no valid JSON schema: {error}", param=param) from None


def _check(grammar: Grammar) -> None:
    text = grammar.text
    if len(text) > LARGEST:
        raise TooMuch(f"it has {len(text)} characters, and {LARGEST} are allowed")
    if grammar.kind == "json_schema":
        _check_schema(json.loads(text), combines='"allOf"' in text)
    elif grammar.kind == "regex":
        _check_pattern(text)
    elif grammar.kind in ("lark", "gbnf"):
        if "%json" in text:
            raise Unknown("%json cannot be had here; ask for a json_schema")
        # Names hide what is nested in what, so all of them count as nested.
        if math.prod(_counts(text)) > MOST_REPETITIONS:
            raise TooMuch("its counted repetitions multiply to too many")


def _check_schema(schema: Any, combines: bool) -> None:
    references = multiples = 0
    combined: set[int] = set()
    for part in _parts(schema):
        references += "$ref" in part
        if references > MOST_REFERENCES:
            raise TooMuch(f"it has more than {MOST_REFERENCES} references")
        if "x-guidance" in part:
            raise Unknown("x-guidance is not known")
        if isinstance(multiple := part.get("multipleOf"), (int, float)):
            multiples += _cases(multiple)
            combined.add(_cases(multiple))
            if multiples > MOST_MULTIPLES:
                raise TooMuch(f"its multipleOf have more than {MOST_MULTIPLES} cases")
        patterns = part.get("patternProperties")
        for pattern in (part.get("pattern"), *(patterns if isinstance(patterns, dict) else ())):
            if isinstance(pattern, str):
                _check_pattern(pattern)
    if (references or combines) and math.prod(combined) > MOST_COMBINED:
        raise TooMuch(f"its multipleOf have more than {MOST_COMBINED} cases together")


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """All objects in a schema."""
    rest = [(schema, 1)]
    while rest:
        value, depth = rest.pop()
        if depth > DEEPEST * 2:
            raise TooMuch(f"it is nested deeper than {DEEPEST} objects")
        if isinstance(value, dict):
            yield value
            rest += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list):
            rest += [(item, depth + 1) for item in value]


def _cases(multiple: float) -> int:
    """How many remainders there are: of 0.25 as many as of 25."""
    if not (multiple and math.isfinite(multiple) and 1e-9 <= multiple <= 1e9):
        raise TooMuch("multipleOf is out of range")
    digits = Decimal(str(multiple)).normalize().as_tuple().digits
    return max(int("".join(map(str, digits))), int(multiple))


def _check_pattern(pattern: str) -> None:
    """Sizes of the groups that are open, innermost last; a repetition multiplies the one before
    it. A character class counts as one character, and so does what is escaped."""
    sizes, last, at = [0], 0, 0
    while at < len(pattern):
        found = REPETITION.match(pattern, at)
        if found:
            sizes[-1] += last * (_count(found) - 1)
            last *= _count(found)
            at = found.end()
        else:
            character = pattern[at]
            at = _behind_class(pattern, at) if character == "[" else at + 1 + (character == "\\")
            if character == "(":
                sizes.append(0)
            elif character == ")" and len(sizes) > 1:
                last = sizes.pop()
                sizes[-1] += last
            elif character not in "*+?|":
                last = 1
                sizes[-1] += 1
        if max(sizes[-1], last) > MOST_REPETITIONS:
            raise TooMuch("the repetitions of its pattern multiply to too many")


def _behind_class(pattern: str, at: int) -> int:
    at += 2  # a bracket that comes first is one of the characters
    while at < len(pattern) and pattern[at] != "]":
        at += 2 if pattern[at] == "\\" else 1
    return at + 1


def _counts(text: str) -> Iterator[int]:
    return map(_count, REPETITION.finditer(text))


def _count(repetition: re.Match[str]) -> int:
    """The most repetitions, or where they have no end the fewest; at least 1."""
    digits = repetition[2] or repetition[1] or "1"
    return max(1, int(digits[:9]))
