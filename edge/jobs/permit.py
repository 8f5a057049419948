"""Whether a request is what its key is for, at every door the same. Pure."""

from __future__ import annotations

import msgspec

from edge.access.visitor import Visitor
from edge.openai import ask
from edge.openai.ask import Body
from edge.openai.schema import EdgeOptions


def permit(visitor: Visitor, options: EdgeOptions, *models: str) -> EdgeOptions:
    """The options with which a request to these models may go on. Raises `Forbidden`.

    They are what a kept request is made of again, so that it stays within the key's scope.
    """
    for model in models:
        visitor.check(model, options.priority, options.route)
    if visitor.local_only and options.route == "auto":
        return msgspec.structs.replace(options, route="local")
    return options


def permit_text(visitor: Visitor, body: Body, default: str) -> None:
    """The same for a body that asks for a text. default: the model where it names none."""
    model = default if body.model in (None, "", "default") else body.model
    body.edge = permit(visitor, ask.options(body), model or "")
