"""A batch as callers give it, as the store returns it, and what becomes of its lines."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from edge.store.job import NewJob, new_id

PREFIX = "batch_"

Ending: TypeAlias = Literal["completed", "failed", "expired", "cancelled"]
Status: TypeAlias = Literal["validating", "in_progress", "finalizing", "cancelling"] | Ending


class NewBatch(msgspec.Struct, frozen=True, kw_only=True):
    """A batch to add. window: seconds until it expires. metadata: JSON.

    key: what makes a second request of its owner the same one, if the digest is the same too.
    owner: whose it is, by the name of his key; empty where there was none.
    id: made here, so that the caller can tell a new batch from one that was there already.
    """

    input: str
    endpoint: str
    window: float
    metadata: str | None = None
    output_ttl: float | None = None
    key: str | None = None
    digest: bytes | None = None
    owner: str = ""
    id: str = msgspec.field(default_factory=lambda: f"{PREFIX}{new_id()}")


class Batch(msgspec.Struct, frozen=True):
    """A batch as it stands. Times are epoch seconds; see the columns in schema.py."""

    id: str
    input: str
    endpoint: str
    metadata: str | None
    output_ttl: float | None
    created: float
    expires: float
    status: Status
    ending: Ending | None
    started: float | None
    finalizing: float | None
    cancelling: float | None
    ended: float | None
    total: int
    fed: int
    line: int
    position: int
    unfinished: int
    completed: int
    failed: int
    errors: str | None
    output: str | None
    error: str | None
    owner: str


class Feed(msgspec.Struct, frozen=True):
    """A line to feed: its job, or why there is none (code, message, param)."""

    line: int
    end: int
    custom_id: str
    job: NewJob | None
    refusal: tuple[str, str, str | None] | None = None


class Outcome(msgspec.Struct, frozen=True):
    """What has become of a line that was fed. Without a job: of a request that was refused.

    state is None then, or when the job is gone.
    """

    line: int
    custom_id: str
    job: str | None
    kind: str | None
    state: str | None
    created: float | None
    request: bytes | None
    result: bytes | None
    error_code: str | None
    error_message: str | None
    error_param: str | None


SELECT = f"SELECT {', '.join(Batch.__struct_fields__)} FROM batches"
