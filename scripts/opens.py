"""Writes the section `## What opens what` of docs/security.md from the code.

`.venv/bin/python scripts/opens.py`; a test compares the two, and asks a real appliance for every
route and topic with each kind of key.
"""

from __future__ import annotations

import re
import runpy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from edge.access.gate import Gate, Presented
from edge.access.key import Door, Scope
from edge.access.keyring import Keyring
from edge.access.visitor import Visitor
from edge.api.http.errors import STATUS
from edge.api.http.rights import Right, right_of
from edge.api.mqtt.topics import TOPIC_RIGHTS
from edge.errors import EdgeError, JobNotFound

ROOT = Path(__file__).parents[1]
HEADING = "## What opens what\n"
MODEL, OTHER = "asked", "another"
"""The model that requests ask for, and the one that a key is for."""

YES = "yes"


class Kind(NamedTuple):
    """One kind of key. name: of the key; None for none at all, empty for a wrong one."""

    label: str
    name: str | None
    scope: Scope = Scope()
    ended: bool = False


def kinds(door: Door) -> list[Kind]:
    other: Door = "mqtt" if door == "http" else "http"
    return [
        Kind("no key", None),
        Kind("a wrong one", ""),
        Kind("one that has ended", "ended", ended=True),
        Kind("any", "plain"),
        Kind("`--door` of the other", "other-door", Scope(doors=[other])),
        Kind("`--model` of another", "other-model", Scope(models=[OTHER])),
        Kind("`--priority normal`", "normal", Scope(priorities=["normal"])),
        Kind("`--local-only`", "local", Scope(local_only=True)),
        Kind("`--admin`", "admin", Scope(admin=True)),
    ]


def tokens(keyring: Keyring, door: Door) -> dict[str, str | None]:
    """By label, after all keys were made."""
    made: dict[str, str | None] = {}
    for kind in kinds(door):
        if kind.name:
            expires = time.time() - 1 if kind.ended else None
            made[kind.label] = keyring.add(kind.name, kind.scope, expires=expires)
        else:
            made[kind.label] = None if kind.name is None else "edge_wrong"
    return made


def _own(visitor: Visitor) -> None:
    if not visitor.finds("somebody else"):
        raise JobNotFound("not yours")


Check = Callable[[Visitor], None]

ASKED: dict[str, tuple[Right, Check]] = {
    "any key": ("key", lambda visitor: None),
    "a key for the model": ("model", lambda visitor: visitor.check(MODEL, "normal", "auto")),
    "the same, `priority: critical`": (
        "model",
        lambda visitor: visitor.check(MODEL, "critical", "auto"),
    ),
    "the same, `route: cloud`": ("model", lambda visitor: visitor.check(MODEL, "normal", "cloud")),
    "what is its own": ("own", lambda visitor: None),
    "what is another's": ("own", _own),
    "a batch": ("batch", lambda visitor: visitor.check_priority("batch")),
    "administration": ("admin", lambda visitor: visitor.check_admin()),
}
"""What is asked for, by what a route wants of a key."""


def outcomes(door: Door) -> dict[str, dict[str, str]]:
    """By what is asked for and the kind of key: `yes` or a status, as gate and visitor decide."""
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        gate = Gate(Keyring(Path(folder)), required={door})
        shown = tokens(gate.keyring, door)
        for what, (_, check) in ASKED.items():
            found[what] = {
                label: _outcome(gate, Presented(door, "10.0.0.9", token or ""), check)
                for label, token in shown.items()
            }
    return found


def _outcome(gate: Gate, presented: Presented, check: Check) -> str:
    try:
        check(gate.recognize(presented))
    except EdgeError as error:
        return str(STATUS[error.code])
    return YES


def routes() -> dict[tuple[str, str], Right | None]:
    """Path and method of all that the application has."""
    document = runpy.run_path(str(ROOT / "scripts/reference.py"))["application"]().openapi()
    found = [
        (path, method.upper())
        for path, operations in document["paths"].items()
        for method in operations
    ]
    return {(path, method): right_of(method, path) for path, method in sorted([*found, OPENAPI])}


OPENAPI = ("/openapi.json", "GET")
"""The one route that it does not describe."""

ROUTE_ASKS = {
    "nothing": "nothing",
    "key": "any key",
    "model": "a key for the model",
    "own": "what is its own",
    "batch": "a batch",
    "admin": "administration",
}


HEAD = f"""{HEADING}
Made from the code by `.venv/bin/python scripts/opens.py`; a test compares the two, and asks a real
appliance for every route and topic with each kind of key. It is so at doors where keys are needed
([keys.md](keys.md)); at the others everything is open to whoever gets there. A route that is not
here is there for nobody.

Over HTTP the figures are statuses; replies over MQTT have the same error codes. Beside these, the
network that a key comes from (`--from`) and its signatures (`--signed`) may refuse it.
"""

TOPICS = """
Topics, below `edge/press-07/` and in a group below `edge/any/`; each also as `as/NAME/…`. Who may
publish on them, and who reads `status`, `telemetry` and replies, is decided by the broker.
"""


def render() -> str:
    table = runpy.run_path(str(ROOT / "scripts/reference.py"))["table"]
    http = outcomes("http")
    assert http == outcomes("mqtt"), "the doors differ"
    titles = ["asked for", *(kind.label for kind in kinds("http"))]
    rights = table(titles, [[what, *cells.values()] for what, cells in http.items()])
    wants = [
        [f"`{method} {path}`", ROUTE_ASKS[right] if right else "is there for nobody"]
        for (path, method), right in routes().items()
    ]
    topics = [[f"`{topic}`", ROUTE_ASKS[right]] for topic, right in TOPIC_RIGHTS.items()]
    asked_of = [table(["route", "asks for"], wants), TOPICS, table(["topic", "asks for"], topics)]
    parts = [HEAD, rights, "", *asked_of]
    return "\n".join(parts) + "\n"


def written(document: str, section: str) -> str:
    """The document with this section in the place of the one it has."""
    return re.sub(
        rf"{HEADING}.*?(?=^## |\Z)", lambda _: section + "\n", document, flags=re.M | re.S
    )


if __name__ == "__main__":
    target = ROOT / "docs/security.md"
    text = written(target.read_text(encoding="utf-8"), render())
    target.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
