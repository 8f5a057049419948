"""One version of an ONNX model: whether it is loaded, and who uses it. Owned by `OnnxModels`."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from typing import Literal

from edge.errors import BadModelFile, EdgeError, ModelLoadFailed
from edge.loops import Backoff
from edge.onnx.protocol import ModelSpec
from edge.tensors import OnnxFacts

State = Literal["unloaded", "loading", "ready", "failed", "unloading"]

FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0
"""Seconds for which a model that could not be loaded is left alone, as they double."""


class Entry:
    """users: requests that were given it and have not ended. used_at: monotonic clock.

    promised_bytes: that it may come to take, 0 while it has nothing. loading: under way, for all
    who wait for it. held: what keeps its file.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.facts: OnnxFacts | None = None
        self.users = 0
        self.used_at = time.monotonic()
        self.promised_bytes = 0
        self.loading: asyncio.Task[None] | None = None
        self.unloading = False
        self.held = ExitStack()
        self.error: EdgeError | None = None
        self.retry_at = 0.0
        self.backoff = Backoff(FIRST_RETRY, LONGEST_RETRY)

    @property
    def state(self) -> State:
        if self.unloading:
            return "unloading"
        if self.loading is not None:
            return "loading"
        if self.facts is not None:
            return "ready"
        return "unloaded" if self.error is None else "failed"

    @property
    def idle(self) -> bool:
        """Its memory can be given to another."""
        return self.state == "ready" and not self.users

    def came(self, facts: OnnxFacts) -> None:
        self.facts, self.error = facts, None
        self.used_at = time.monotonic()
        self.backoff.reset()

    def went(self) -> None:
        self.facts, self.promised_bytes = None, 0
        self.held.close()

    def failed(self, error: EdgeError) -> None:
        """It could not be loaded, and is left alone for a while."""
        self.went()
        self.error = error
        self.retry_at = time.monotonic() + self.backoff.next()

    def refusal(self) -> EdgeError | None:
        """Why it is not loaded for a request now; None if it is tried."""
        left = self.retry_at - time.monotonic()
        if self.error is None or left <= 0:
            return None
        error = self.error
        known = isinstance(error, (BadModelFile, ModelLoadFailed))
        kind = type(error) if known else ModelLoadFailed
        again = max(1.0, left)
        said = f"{self.spec.name} could not be loaded: {error.message}"
        return kind(said, hint=error.hint, retry_after=again)
