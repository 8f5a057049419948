"""The server that takes reports: one POST for a batch, with as much of the line as it may have."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType

import httpx

from edge.cloud.key import read_secret
from edge.cloud.throttle import Throttle
from edge.config.keeping import Sync as Settings
from edge.errors import ConfigError
from edge.store.reports import Row

PIECE_BYTES = 4096
SILENCE_SECONDS = 30.0


class Receiver:
    """Open with `async with`. It keeps no state but its connections."""

    def __init__(self, settings: Settings, throttle: Throttle | None) -> None:
        self._settings = settings
        self._throttle = throttle

    async def __aenter__(self) -> Receiver:
        # The environment's proxies are not used, as for all that the daemon sends.
        timeout = httpx.Timeout(SILENCE_SECONDS)
        self._client = httpx.AsyncClient(timeout=timeout, trust_env=False)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.aclose()

    async def post(self, rows: list[Row]) -> httpx.Response:
        """Its status and headers. Raises `httpx.HTTPError`, `httpx.InvalidURL`, `ConfigError`."""
        lines = b"".join(row.body + b"\n" for row in rows)
        body = await asyncio.to_thread(gzip.compress, lines)
        headers = {
            "Content-Type": "application/x-ndjson",
            "Content-Encoding": "gzip",
            "Content-Length": str(len(body)),
            "Idempotency-Key": _digest(rows),
            **self._authorization(),
        }
        url, content = self._settings.report_url or "", self._pieces(body)
        # The answer's body is of no interest, and could be endless.
        async with self._client.stream("POST", url, content=content, headers=headers) as answer:
            return answer

    async def _pieces(self, body: bytes) -> AsyncIterator[bytes]:
        """Small ones, because the throttle is for those who share the line."""
        for start in range(0, len(body), PIECE_BYTES):
            piece = body[start : start + PIECE_BYTES]
            if self._throttle is not None:
                await self._throttle.wait(len(piece))
            yield piece

    def _authorization(self) -> dict[str, str]:
        """Read for each report, so that a new key needs no restart."""
        file = self._settings.api_key_file
        if file is None:
            return {}
        try:
            return read_secret(Path(file)).headers()
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise ConfigError(str(error)) from None


def _digest(rows: list[Row]) -> str:
    """The same for the same records, so that a batch that comes again is known."""
    return hashlib.sha256("\n".join(row.id for row in rows).encode()).hexdigest()
