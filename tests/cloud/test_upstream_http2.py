"""The same over HTTP/2, with a server that speaks nothing else."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from asking import Make, ask, chat, text_of, until
from certificates import certificate
from http2_server import Http2Server

from edge.errors import UpstreamTimeout


async def test_answers(make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Calls after each other share a connection, and the key is in no log here either."""
    caplog.set_level(logging.DEBUG)
    pair = certificate(tmp_path)
    (tmp_path / "key").write_text("sk-canary")
    async with Http2Server(pair) as server:
        upstream = make(
            base_url=server.url,
            ca_file=str(pair[0]),
            api_key_file=str(tmp_path / "key"),
            timeouts={"connect": 5.0},
        )
        for _ in range(3):
            assert text_of(await ask(upstream)) == "one two"
        assert (server.connections, server.requests) == (1, 3)
        shown = "sk-canary" in caplog.text
        assert not shown
        await upstream.stop()


async def test_leaving(make: Make, tmp_path: Path) -> None:
    """A call that is given up, or falls silent, is seen to end, and disturbs no other."""
    pair = certificate(tmp_path)
    async with Http2Server(pair) as server:
        upstream = make(base_url=server.url, ca_file=str(pair[0]), timeouts={"connect": 5.0})
        server.endless = True
        source = upstream.stream(chat(n=2), time.monotonic())
        await source.__anext__()
        await source.aclose()
        await until(lambda: server.closed == 2)
        with pytest.raises(UpstreamTimeout, match="stall"):
            await ask(upstream)
        await until(lambda: server.closed == 3)
        server.endless = False
        assert text_of(await ask(upstream)) == "one two"
        await upstream.stop()
