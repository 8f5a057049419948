"""Which requests may have the answer of one that asked nearly the same. Pure.

All but the last message of a chat has to be the same, the caller and the model included, and so
have the literals of that message; of what is left, vectors are compared.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import msgspec

from edge.answers.keys import key
from edge.answers.literals import literals
from edge.types import ChatPrompt, Request

MOST_CHARACTERS = 250
"""Of a message: every character makes one token of WordPiece at most, and small embedding models
read 256. What is behind the last one would have no part in the vector."""


@dataclass(frozen=True)
class Likeness:
    """group: the digest of all that has to be the same. text: what may be written differently."""

    group: bytes
    text: str


def likeness(request: Request, target: str, namespace: str, embedder: str) -> Likeness | None:
    """None for a request that is answered for itself only.

    target, namespace: as in `key`. embedder: the model that makes the vectors.
    """
    prompt = request.prompts[0] if len(request.prompts) == 1 else None
    if not isinstance(prompt, ChatPrompt) or not prompt.messages:
        return None
    last = prompt.messages[-1]
    if last.role != "user" or not 0 < len(last.content) <= MOST_CHARACTERS:
        return None
    blank = [*prompt.messages[:-1], msgspec.structs.replace(last, content="")]
    rest = msgspec.structs.replace(
        request, prompts=[msgspec.structs.replace(prompt, messages=blank)]
    )
    deciding = (embedder, key(rest, target, namespace), literals(last.content))
    return Likeness(hashlib.sha256(msgspec.msgpack.encode(deciding)).digest(), last.content)
