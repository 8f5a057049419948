"""Keys and certificates: used, exchanged while running, and shown nowhere."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from asking import Make, ask, chat, until
from certificates import certificate
from fake_cloud import FakeCloud
from tunnel import Tunnel

from edge.cloud.key import read_key
from edge.cloud.upstream import Upstream
from edge.config import answering
from edge.errors import EdgeError, UpstreamError, UpstreamTimeout
from edge.metrics import Metrics

CANARY = "sk-canary-0123456789abcdef"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text(f"{CANARY}\n")
    return file


async def test_key_is_shown_nowhere(
    key_file: Path, metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in logs down to the last detail, not in errors that echo it, not in metrics or reprs."""
    caplog.set_level(logging.DEBUG)
    with FakeCloud(key=CANARY) as cloud:
        settings = answering.Upstream(base_url=cloud.url, api_key_file=str(key_file))
        upstream = Upstream("words", settings, metrics)
        running = asyncio.create_task(upstream.run())
        await ask(upstream)
        cloud.fault("key_echo", times=1)
        cloud.fault("status", status=400, message=f"{'x' * 490}{CANARY} {'y' * 900}", times=1)
        cloud.fault("status", status=500, message=CANARY, times=1)
        texts = []
        for _ in range(3):
            with pytest.raises(EdgeError) as caught:
                await ask(upstream)
            texts += [str(caught.value), repr(caught.value), str(caught.value.hint)]
            assert len(caught.value.message) < 600
        assert "***" in texts[0]
        await until(lambda: upstream.link == "up")
        await upstream.stop()
        await running
        key = read_key("words", settings)
        texts += [caplog.text, metrics.render().decode(), repr(key), repr(upstream)]
        shown = "sk-canary" in "".join(texts)  # apart, lest the failed test shows it itself
        assert not shown
        assert key.headers() == {"Authorization": f"Bearer {CANARY}"}


async def test_new_key(make: Make, tmp_path: Path, cloud: FakeCloud) -> None:
    """It is read for every request."""
    file = tmp_path / "key"
    upstream = make(api_key_file=str(file))
    for key in ("one", "two"):
        file.write_text(f" {key}\r\n")
        await ask(upstream)
    sent = [call["headers"]["authorization"] for call in cloud.calls()]
    assert sent == ["Bearer one", "Bearer two"]


@pytest.mark.parametrize("content", [None, b"", b"\n", b"two\nrows", "schlüssel".encode()])
async def test_bad_key_files(
    make: Make, tmp_path: Path, cloud: FakeCloud, content: bytes | None
) -> None:
    """The error names the file, and nothing of what is in it; nothing is sent."""
    file = tmp_path / "the-file"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UpstreamError, match="the-file") as caught:
        await ask(make(api_key_file=str(file)))
    assert not caught.value.again
    assert "rows" not in caught.value.message.rpartition("the-file")[2]
    assert cloud.calls() == []


def test_systemd_credential(tmp_path: Path) -> None:
    """It is looked for where systemd puts it."""
    (tmp_path / "cloud-key").write_text("abc\n")
    settings = answering.Upstream(base_url="http://x", api_key_credential="cloud-key")
    found = read_key("x", settings, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert found.headers() == {"Authorization": "Bearer abc"}
    with pytest.raises(UpstreamError, match="systemd"):
        read_key("x", settings, {})


async def test_refused_key_is_logged_once(
    make: Make, cloud: FakeCloud, caplog: pytest.LogCaptureFixture
) -> None:
    """The probe tells of it, and goes on telling nothing."""
    with FakeCloud(key="another") as strict:
        upstream = make(base_url=strict.url)
        for _ in range(3):
            await upstream._probe.ask()
        assert upstream.link == "up"
        assert caplog.text.count("does not accept the key") == 1
        await upstream.stop()


async def test_tls(make: Make, tmp_path: Path) -> None:
    """A certificate is believed by the authorities in `ca_file`, and not without."""
    cert, key = certificate(tmp_path)
    with FakeCloud(tls=(cert, key)) as cloud:
        trusting = make(base_url=cloud.url, ca_file=str(cert), timeouts={"connect": 5.0})
        for _ in range(2):
            await ask(trusting)
        assert cloud.state()["connections"] == 1
        source = trusting.stream(chat(), 1e9)
        cloud.fault("slow", delay=0.05)
        await source.__anext__()
        await source.aclose()
        await until(lambda: cloud.calls()[-1]["left"])
        wary = make(base_url=cloud.url, timeouts={"connect": 5.0})
        with pytest.raises(UpstreamError, match=r"cannot be reached.*CERTIFICATE_VERIFY_FAILED"):
            await ask(wary)
        await trusting.stop()


async def test_proxy(make: Make, tmp_path: Path) -> None:
    """TLS goes through its tunnel; a proxy that refuses is an upstream out of reach."""
    cert, key = certificate(tmp_path)
    async with Tunnel() as tunnel:
        with FakeCloud(tls=(cert, key)) as cloud:
            upstream = make(
                base_url=cloud.url, ca_file=str(cert), proxy=tunnel.url, timeouts={"connect": 5.0}
            )
            for _ in range(2):
                await ask(upstream)
            assert tunnel.targets == [f"CONNECT 127.0.0.1:{cloud.port}"]
            await upstream.stop()
            tunnel.answer = b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n"
            with pytest.raises(UpstreamError, match=r"cannot be reached: 407"):
                await ask(upstream)
            assert upstream.link == "down"


async def test_tls_through_a_proxy_that_hangs(make: Make) -> None:
    """The limit for connecting holds until the request itself goes out."""

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silence, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Tunnel() as tunnel:
        url = f"https://127.0.0.1:{port}/v1"
        with pytest.raises(UpstreamTimeout, match=r"timeouts\.connect"):
            await ask(make(base_url=url, proxy=tunnel.url, timeouts={"first_token": 9.0}))
        assert tunnel.targets == [f"CONNECT 127.0.0.1:{port}"]
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_bad_ca_file(make: Make, tmp_path: Path, content: str | None) -> None:
    """The error names the file."""
    file = tmp_path / "authorities"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UpstreamError, match="authorities"):
        await ask(make(base_url="https://127.0.0.1:1/v1", ca_file=str(file)))


async def test_http2_is_offered(make: Make) -> None:
    """The TLS greeting names it (ALPN, RFC 7301)."""
    greeting = asyncio.get_running_loop().create_future()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting.set_result(await reader.read(4096))
        writer.close()

    server = await asyncio.start_server(listen, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(UpstreamError):
        await ask(make(base_url=f"https://127.0.0.1:{port}/v1"))
    assert b"\x02h2" in await greeting
    server.close()
    await server.wait_closed()
