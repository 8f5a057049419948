"""System messages for a template that has no place for them. Pure.

Gemma's templates refuse the role, and that in Microsoft's GGUF files of Phi-3 leaves it out without
a word. What Gemma's makers ask for is done for all of them: the instructions stand in the user's
turn, before the question (https://ai.google.dev/gemma/docs/formatting, "System instructions").
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edge.types import Message

BETWEEN = "\n\n"


def folded(messages: Sequence[Message]) -> list[Message]:
    """The same conversation without system messages, their texts in the user's turns.

    A text goes to the turn behind it, else to the one before it, else it is a turn of its own: a
    user does not speak twice in a row, and nothing is left out.
    """
    turns: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message.role == "system":
            waiting += [message.content] if message.content else []
        elif message.role == "user":
            turns.append(_with(message, [*waiting, message.content]))
            waiting = []
        else:
            _leave(turns, waiting)
            turns.append(message)
            waiting = []
    _leave(turns, waiting)
    return turns


def _leave(turns: list[Message], texts: list[str]) -> None:
    """Texts that no user's turn comes behind."""
    if texts and turns and turns[-1].role == "user":
        turns[-1] = _with(turns[-1], [turns[-1].content, *texts])
    elif texts:
        turns.append(Message("user", BETWEEN.join(texts)))


def _with(message: Message, texts: list[str]) -> Message:
    return msgspec.structs.replace(message, content=BETWEEN.join(texts))
