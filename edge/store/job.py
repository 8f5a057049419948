"""A job as callers give it, as the store returns it, and the columns that it is read from."""

from __future__ import annotations

import math
import secrets
import sqlite3
import time
from typing import Literal, TypeAlias, get_args

import msgspec

from edge.types import Priority

Door: TypeAlias = Literal["http", "mqtt", "batch"]
State: TypeAlias = Literal["queued", "running", "done", "failed", "expired", "cancelled"]

PRIORITIES: tuple[Priority, ...] = get_args(Priority)
"""The number of a priority in the file is its place here: the most urgent is 0."""

STATES: tuple[State, ...] = get_args(State)


def new_id() -> str:
    """32 hex digits: 14 of microseconds since 1970, so that ids sort by time; 72 random bits."""
    return f"{time.time_ns() // 1000:014x}{secrets.token_hex(9)}"


class Idempotency(msgspec.Struct, frozen=True):
    """What makes a second request the same one: `key` within `scope`, as long as the job is kept.

    digest: of the body; the same key with another digest is refused.
    reuse_when_finished: take the key over for a new job where the first one has finished and had
        another digest (a controller that counts from 1 again after a restart).
    """

    scope: str
    key: str
    digest: bytes
    reuse_when_finished: bool = False


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job to add.

    line: the queue that it waits in, named after what it waits for, such as "local smollm2". Lines
        do not hold each other up; there should be few (see schema.py).
    client: whom fairness is about: a reply topic, an address.
    caller: whose it is, by the name of his key or a digest of what came instead; empty without.
    kind: what the request is (`chat`, `completion`, `response`…); not interpreted here.
    deadline: epoch seconds after which the answer is worthless; None for no such time.
    target: where the door delivers the outcome, in the door's own words; None when it is polled.
    id: made here, so that the caller can tell a new job from one that was there already.
    """

    line: str
    client: str
    door: Door
    kind: str
    request: bytes
    caller: str = ""
    priority: Priority = "normal"
    deadline: float | None = None
    target: bytes | None = None
    idempotency: Idempotency | None = None
    id: str = msgspec.field(default_factory=new_id)

    @property
    def size(self) -> int:
        """Bytes, as counted against the queue's bound."""
        return len(self.request) + len(self.target or b"")


class JobFacts(msgspec.Struct, frozen=True):
    """All about a job except for what it carries. Times are epoch seconds.

    attempts: how often it was claimed, without the times when that was taken back.
    started: the last claim. size: bytes of request and target.
    delivery_due: when its outcome is to be sent (again); None where nothing is owed.
    delivered: when the receiver had it.
    """

    id: str
    line: str
    client: str
    door: Door
    kind: str
    priority: Priority
    state: State
    deadline: float | None
    created: float
    started: float | None
    finished: float | None
    attempts: int
    error_code: str | None
    error_message: str | None
    size: int
    delivery_due: float | None
    delivered: float | None


class Job(JobFacts, frozen=True):
    """A job with its request, its result once it is done, and its delivery target if it has one."""

    caller: str
    request: bytes
    result: bytes | None
    target: bytes | None


_FACTS = """
    jobs.id, line, client, jobs.door, kind, priority, state, deadline, created, started, finished,
    jobs.attempts, error_code, error_message, size, due, delivered
"""
_DELIVERY = "LEFT JOIN deliveries ON deliveries.job = jobs.seq"

SELECT_FACTS = f"SELECT {_FACTS} FROM jobs {_DELIVERY}"
SELECT_JOB = f"""
    SELECT {_FACTS}, caller, requests.body, results.body, target FROM jobs {_DELIVERY}
    JOIN requests ON requests.job = jobs.seq
    LEFT JOIN results ON results.job = jobs.seq
"""


def facts(row: tuple[object, ...]) -> JobFacts:
    """From a row of SELECT_FACTS."""
    return JobFacts(*_values(row))  # type: ignore[arg-type]


def job(row: tuple[object, ...]) -> Job:
    """From a row of SELECT_JOB."""
    return Job(*_values(row))  # type: ignore[arg-type]


def find(connection: sqlite3.Connection, job_id: str) -> Job | None:
    row = connection.execute(f"{SELECT_JOB} WHERE jobs.id = ?", (job_id,)).fetchone()
    return job(row) if row else None


def _values(row: tuple[object, ...]) -> list[object]:
    values = list(row)
    values[5] = PRIORITIES[values[5]]  # type: ignore[call-overload]
    values[7] = None if values[7] == math.inf else values[7]
    return values
