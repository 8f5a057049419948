"""The prompt of a chain: a template of the configuration, filled with what was seen in a picture
and with what the caller sent along.

A request never brings a template, only values for one: what is spelled `{{ … }}` in a value stays
as it is. Nothing here has state.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edge.errors import InvalidRequest
from edge.sandbox import FAILURES, Limits, StrictSandbox, UndefinedError
from edge.tensors import Detection, Label, Sighting

SEEN = ("detections", "labels", "width", "height")
"""What a template may name, beside the fields that its chain declares."""

SECONDS = 5.0
"""For filling one prompt, which takes a millisecond: far more, because a busy machine may leave
the thread alone for a while."""

Fields = Mapping[str, Any]

_SAMPLES = (
    Sighting(
        640, 480, [Label("sample", 0.5, 0)], [Detection("sample", 0.5, 0, (0, 0, 8, 8), "sample")]
    ),
    Sighting(640, 480),
)


class BadPrompt(Exception):
    """What is wrong with a template, for who wrote it. line: within it, None where unknown."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class ReportPrompt:
    """A template that has compiled. fields: the names of those that its chain declares.

    Raises `BadPrompt`: it is no template, or names what it will not be given.
    """

    def __init__(self, source: str, fields: Fields) -> None:
        sandbox = StrictSandbox()
        try:
            with Limits(SECONDS):
                self._template = sandbox.from_string(source)
                wanted = sandbox.names(source)
        except FAILURES as error:
            raise BadPrompt(str(error), getattr(error, "lineno", None)) from None
        if unknown := sorted(wanted.difference(SEEN, fields)):
            known = ", ".join([*SEEN, *fields])
            raise BadPrompt(f"nothing is called `{unknown[0]}` here; there are: {known}")
        self._try(fields)

    def fill(self, sighting: Sighting, fields: Fields) -> str:
        """The prompt's text. Raises `InvalidRequest` where the fields do not go with it."""
        try:
            with Limits(SECONDS):
                return self._template.render({**fields, **seen(sighting)})
        except FAILURES as error:
            reason = str(error) or type(error).__name__
        raise InvalidRequest(f"the chain's prompt cannot be made of these fields: {reason}")

    def _try(self, fields: Fields) -> None:
        """With something and with nothing seen. What is not there counts as wrong, and what does
        not end; all else may be due to the fields, which may be of other kinds than these."""
        for sample in _SAMPLES:
            try:
                with Limits(SECONDS):
                    self._template.render({**dict.fromkeys(fields, ""), **seen(sample)})
            except UndefinedError as error:
                nothing = "" if sample.detections else ", where nothing was seen"
                raise BadPrompt(f"{error}{nothing}") from None
            except (TimeoutError, MemoryError) as error:
                raise BadPrompt(f"it does not come to an end: {error}") from None
            except FAILURES:
                continue


def seen(sighting: Sighting) -> dict[str, Any]:
    """What was seen as a template has it: both lists always there, numbers short enough to read."""
    return {
        "width": sighting.width,
        "height": sighting.height,
        "labels": [
            {"label": one.label, "score": round(one.score, 3), "number": one.number}
            for one in sighting.labels or []
        ],
        "detections": [
            {
                "label": one.label,
                "score": round(one.score, 3),
                "number": one.number,
                "box": [round(side) for side in one.box],
                "text": one.text or "",
            }
            for one in sighting.detections or []
        ],
    }


def chosen_fields(declared: Fields, given: Fields) -> dict[str, Any]:
    """The declared fields with what the caller gave, else with their defaults.

    Raises `InvalidRequest` for one that is unknown, missing, or no single value.
    """
    for name, value in given.items():
        if name not in declared:
            known = ", ".join(declared) or "none are declared"
            raise InvalidRequest(
                f"`{name}`: the chain has no such field", param=name, hint=f"its fields: {known}"
            )
        if not isinstance(value, str | int | float | bool):
            raise InvalidRequest(f"`{name}` is text, a number, true or false", param=name)
    fields = {**declared, **given}
    for name, value in fields.items():
        if value is None:
            raise InvalidRequest(f"`{name}`: missing", param=name)
    return fields


def fields_of_texts(declared: Fields, given: Mapping[str, str]) -> dict[str, Any]:
    """What came as text alone, beside a picture: numbers where the default is one.

    Raises `InvalidRequest`. Names that are not declared are left as they are.
    """
    return {name: _of_text(name, declared.get(name), text) for name, text in given.items()}


def _of_text(name: str, default: object, text: str) -> str | int | float | bool:
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise InvalidRequest(f"`{name}` is true or false", param=name)
        return text == "true"
    if isinstance(default, int | float):
        try:
            return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else float(text)
        except ValueError:
            raise InvalidRequest(f"`{name}` is a number", param=name) from None
    return text
