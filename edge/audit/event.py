"""What the audit log tells of: one event for each request, refusal and act of administration.

Pure. `asking` tells those who answer a request where it came from, without every layer between
passing it on.
"""

from __future__ import annotations

import datetime
import time
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import msgspec


class Event(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename={"origin": "from"}
):
    """One line of the log, but for its place in the chain.

    seq: 1, 2, 3… without a gap, whatever the clock does; the log gives it. time: UTC, RFC 3339.
    up: seconds since the machine was started (CLOCK_BOOTTIME), by which jumps of the clock show.
    what: `chat`, `completion`, `embed`, `rerank`, `look`, `infer`: an answer or its failure.
        `http`: any other request over HTTP. `job`: the end of a kept request that nobody answered.
        `refused`: by the gate. `start`, `stop`, `reload`, `keys` (all that there are), `key added`,
        `key changed`, `key removed`, `restore`, `update`: of the appliance. `file`, `cut`, `lost`,
        `break`, `forget`: of the log itself.
    who: the key's name, or `anybody`. origin: the client's address, or the reply topic of MQTT.
    model: that was asked for; answered_by: that answered. status: `ok`, an error's code, or the
    number that HTTP gives. seconds: from its arrival to its end.
    detail: what else there is to say, such as method and path.
    content: of what was said, as `contents.py` makes it; empty for none. previous: of the first
    line of a file, the `chain` that it goes on from.
    """

    seq: int = 0
    time: str = ""
    up: float = 0.0
    what: str
    who: str = ""
    origin: str = ""
    door: str = ""
    id: str = ""
    model: str = ""
    answered_by: str = ""
    route: str = ""
    status: str = ""
    seconds: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    detail: str = ""
    content: str = ""
    previous: str = ""


def now() -> dict[str, Any]:
    """The members of an event that tell when it was."""
    return {"time": utc(time.time()), "up": round(time.clock_gettime(time.CLOCK_BOOTTIME), 3)}


def utc(seconds: float) -> str:
    """Epoch seconds as RFC 3339 has them."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass
class Asking:
    """Where the request that is being answered came from. noted: an event tells of it already."""

    origin: str
    noted: bool = False


asking: ContextVar[Asking | None] = ContextVar("asking", default=None)
"""Of the task that answers, and of those that it starts."""
