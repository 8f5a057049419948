"""The appliance's own certificates, and serving with them over real sockets."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from edge.access import tls as tls_module
from edge.access.certs import Certificates, facts
from edge.access.tls import Tls
from edge.errors import BadCertificate

NAMES = ["press-07.local", "localhost", "127.0.0.1", "::1"]


@pytest.fixture
def store(tmp_path: Path) -> Certificates:
    made = Certificates(tmp_path / "certs")
    made.init(NAMES, "press-07")
    return made


@asynccontextmanager
async def served(tls: Tls) -> AsyncIterator[int]:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=tls.context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def peer(port: int, context: ssl.SSLContext, name: str = "localhost") -> ssl.SSLObject:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname=name
    )
    try:
        assert await reader.read() == b"hello"
        found: ssl.SSLObject = writer.get_extra_info("ssl_object")
        return found
    finally:
        writer.close()


async def test_clients_that_have_the_authority_believe_it(store: Certificates) -> None:
    """By name and by address, in TLS 1.3; others do not."""
    async with served(Tls(store.server, store.key)) as port:
        trusting = ssl.create_default_context(cafile=str(store.authority))
        for name in ("localhost", "127.0.0.1", "press-07.local"):
            assert (await peer(port, trusting, name)).version() == "TLSv1.3"
        with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
            await peer(port, trusting, "press-08.local")
        with pytest.raises(ssl.SSLCertVerificationError):
            await peer(port, ssl.create_default_context())
        old = ssl.create_default_context(cafile=str(store.authority))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await peer(port, old)


async def test_renewal_while_serving(
    store: Certificates, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Open connections go on; new ones get the new certificate, which the clients trust already."""
    monkeypatch.setattr(tls_module, "LOOK_SECONDS", 0.02)
    tls = Tls(store.server, store.key, own=store)
    trusting = ssl.create_default_context(cafile=str(store.authority))
    running = asyncio.create_task(tls.run())
    async with served(tls) as port:
        first = (await peer(port, trusting)).getpeercert(True)
        store.renew()
        end = time.monotonic() + 20
        while (await peer(port, trusting)).getpeercert(True) == first:
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        assert facts(store.server).names == NAMES
        second = (await peer(port, trusting)).getpeercert(True)
        store.server.write_text("nonsense")
        while "cannot be read" not in caplog.text:
            assert time.monotonic() < end
            await asyncio.sleep(0.02)
        assert (await peer(port, trusting)).getpeercert(True) == second
    await tls.stop()
    running.cancel()


async def test_the_daemon_renews_in_time(
    store: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its end, where the authority's key is here; else it warns."""
    monkeypatch.setattr(tls_module, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(tls_module, "RENEW_SECONDS", 10 * 365 * 86_400.0)
    before = facts(store.server).fingerprint
    tls = Tls(store.server, store.key, own=store)
    running = asyncio.create_task(tls.run())
    end = time.monotonic() + 20
    while facts(store.server).fingerprint == before:
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
    await tls.stop()
    running.cancel()


async def test_only_who_shows_a_certificate(store: Certificates, tmp_path: Path) -> None:
    others = Certificates(tmp_path / "others")
    others.init(["client"], "clients")
    tls = Tls(store.server, store.key, client_ca=others.authority)

    def known(by: Certificates | None) -> ssl.SSLContext:
        trusting = ssl.create_default_context(cafile=str(store.authority))
        if by is not None:
            (tmp_path / "c.pem").write_bytes(b"".join(by.client("panel-3")))
            trusting.load_cert_chain(tmp_path / "c.pem")
        return trusting

    async with served(tls) as port:
        await peer(port, known(others))
        for stranger in (None, store):
            # In TLS 1.3 the client is done with the handshake before it is refused.
            with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
                await peer(port, known(stranger))


def test_an_authority_stays(store: Certificates) -> None:
    """What clients trust is not made anew."""
    before = facts(store.authority).fingerprint
    store.init(["other"], "x")
    assert facts(store.authority).fingerprint == before
    assert facts(store.server).names == ["other"]
    for private in (store.key, store.folder / "ca.key"):
        assert private.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_used(store: Certificates, tmp_path: Path) -> None:
    with pytest.raises(BadCertificate, match=r"none\.crt"):
        Tls(tmp_path / "none.crt", tmp_path / "none.key")
    other = Certificates(tmp_path / "other")
    other.init(["x"], "x")
    with pytest.raises(BadCertificate):
        Tls(store.server, other.key)
    with pytest.raises(BadCertificate, match="client"):
        Tls(store.server, store.key, client_ca=tmp_path / "client.crt")
    with pytest.raises(BadCertificate, match="no host name"):
        store.renew(["ä ö"])
    (store.folder / "ca.key").unlink()
    assert not store.renewable
    with pytest.raises(BadCertificate, match="which signs"):
        store.renew()
