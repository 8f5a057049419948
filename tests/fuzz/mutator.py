"""Wrong bodies made of right ones: a value in the tree is put in the place of another, doubled,
left out or replaced by one that programs stumble over, and then bytes are changed.

Most of what bytes at random can be is refused by the first line of a parser; what is wrong in one
place only gets further. Everything follows from the `Random` that is given.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

AWKWARD: Sequence[Any] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**53 + 1, 2**64, -(2**63), 10**400, 0.1, -0.0, 1e308),
    *(
        "",
        " ",
        "\0",
        "a",
        "é",
        "\ud800",
        "\u202e",
        "\uffff",
        "\ufeff",
        "😀",
        "{{7*7}}",
        "../../etc/passwd",
    ),
    *(
        "%s%n",
        "default",
        "edge",
        "true",
        "1e999",
        "x" * 300,
        "[" * 50,
        "data:image/png;base64,AA==",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        {"": 0},
        {"type": "text"},
        [[[[[[]]]]]],
        ["a", 1, None],
        {"a": {"a": {}}},
    ),
)
TOKENS = (
    b"\0",
    b"\xff",
    b"\xef\xbb\xbf",
    b"{",
    b"[",
    b'"',
    b"\\",
    b",",
    b":",
    b"NaN",
    b"1e999",
    b"-",
)
DEEP = 3000
"""Levels that no recursive reader gets through."""

Node = tuple[Any, Any]
"""A dict or a list, and the key or index of one value in it."""


def mutated(chance: random.Random, value: Any) -> Any:
    """A copy with one to four changes."""
    whole = [copy.deepcopy(value)]
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        nodes = [*_nodes(whole)]
        chance.choice(CHANGES)(chance, chance.choice(nodes), nodes)
    return whole[0] if whole else None


def payload(chance: random.Random, value: Any) -> bytes:
    """As JSON: of a mutated value, of the value with broken bytes, or of both."""
    kind = chance.random()
    if kind < 0.02:
        return chance.choice((b"[", b'{"a":')) * DEEP
    text = json.dumps(
        value if 0.6 < kind < 0.8 else mutated(chance, value), ensure_ascii=kind < 0.5
    )
    raw = text.encode("utf-8", "surrogatepass")
    return broken(chance, raw) if kind > 0.6 else raw


def broken(chance: random.Random, raw: bytes) -> bytes:
    """Some bytes changed, cut out, doubled or put in."""
    data = bytearray(raw)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at, end = sorted(chance.choices(range(len(data) + 1), k=2))
        kind = chance.randrange(5)
        if kind == 0:
            data[at:at] = chance.choice(TOKENS)
        elif kind == 1:
            del data[at : min(end, at + 20)]
        elif kind == 2:
            data[at:at] = data[at : min(end, at + 200)]
        elif kind == 3:
            del data[at:]
        elif at < len(data):
            data[at] = chance.randrange(256)
    return bytes(data)


def _nodes(value: Any) -> Iterator[Node]:
    keys: Any = ()
    if isinstance(value, dict):
        keys = value.keys()
    elif isinstance(value, list):
        keys = range(len(value))
    for key in keys:
        yield value, key
        yield from _nodes(value[key])


def _awkward(chance: random.Random, node: Node, nodes: list[Node]) -> None:
    node[0][node[1]] = copy.deepcopy(chance.choice(AWKWARD))


def _swap(chance: random.Random, node: Node, nodes: list[Node]) -> None:
    """In the place of one value that of another place, which may be what it is in."""
    holder, key = chance.choice(nodes)
    node[0][node[1]] = copy.deepcopy(holder[key])


def _double(chance: random.Random, node: Node, nodes: list[Node]) -> None:
    value = node[0][node[1]]
    if isinstance(value, list):
        value.extend(copy.deepcopy(value))
    elif isinstance(value, str):
        node[0][node[1]] = value * chance.choice((2, 20))
    else:
        node[0][node[1]] = [value, copy.deepcopy(value)]


def _leave_out(chance: random.Random, node: Node, nodes: list[Node]) -> None:
    if len(node[0]) > 1:
        del node[0][node[1]]


def _rename(chance: random.Random, node: Node, nodes: list[Node]) -> None:
    if isinstance(node[0], dict):
        names = [key for holder, key in nodes if isinstance(holder, dict)]
        node[0][chance.choice([*names, "", "x", "$schema"])] = node[0].pop(node[1])


CHANGES: Sequence[Callable[[random.Random, Node, list[Node]], None]] = (
    *(_awkward, _awkward, _swap, _double, _leave_out, _rename),
)
