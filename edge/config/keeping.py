"""The sections of what is kept on disk until somebody has it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from edge.config.section import Section


class Queue(Section, frozen=True):
    max_jobs: Annotated[int, Meta(ge=1, description="Unfinished jobs kept at most")] = 100_000
    max_mb: Annotated[float, Meta(gt=0, description="Bytes of unfinished jobs kept at most")] = 1024
    when_full: Annotated[
        Literal["reject", "drop_oldest_batch"],
        Meta(description="What gives way to a new job: it, or the oldest of priority `batch`"),
    ] = "reject"
    result_ttl_seconds: Annotated[
        float, Meta(gt=0, description="How long a finished job, its result or a file is kept")
    ] = 604_800
    max_file_mb: Annotated[float, Meta(gt=0, description="Largest file that may be uploaded")] = 200
    max_files_mb: Annotated[
        float, Meta(gt=0, description="Bytes of all files kept; beyond it uploads are refused")
    ] = 2048


class Sync(Section, frozen=True):
    report_url: Annotated[
        Annotated[str, Meta(pattern=r"^https?://[^\s/]")] | None,
        Meta(description="Where finished work is reported to, as gzipped lines of JSON"),
    ] = None
    report: Annotated[
        Literal["usage", "full", "none"],
        Meta(description="Counts and times only, or prompts and answers with them"),
    ] = "usage"
    api_key_file: Annotated[str | None, Meta(description="File with the key for it")] = None
    batch: Annotated[int, Meta(ge=1, le=10000, description="Lines in one report at most")] = 200
    interval_seconds: Annotated[float, Meta(gt=0, description="Time between two reports")] = 15
    max_kbps: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Kilobits a second for the queue and the reports, both ways together"),
    ] = None
    max_attempts: Annotated[
        int, Meta(ge=1, le=1000, description="Tries at a kept request before it has failed")
    ] = 5


class Audit(Section, frozen=True):
    enabled: Annotated[bool, Meta(description="Write down who asked what kind of thing when")] = (
        True
    )
    content: Annotated[
        Literal["none", "hash", "full"],
        Meta(description="What of prompts and answers is kept: nothing, a salted digest, or all"),
    ] = "none"
    keep_days: Annotated[
        int, Meta(ge=1, le=36500, description="Days that the audit log is kept")
    ] = 180
    max_mb: Annotated[
        float,
        Meta(
            ge=1,
            description="Its size at most; beyond it the oldest days go, however young",
        ),
    ] = 1024
