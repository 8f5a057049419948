"""Pictures fetched by their address: from listed hosts, and within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from edge.cloud import pictures
from edge.cloud.pictures import PictureSource, is_address
from edge.errors import EdgeError, InvalidRequest, PayloadTooLarge, UpstreamError, UpstreamTimeout

LIMIT = 1000


class Camera:
    """A web server that answers every request with the bytes that are set; `asked` has them."""

    def __init__(self) -> None:
        self.answer = ok(b"a picture")
        self.asked: list[str] = []
        self.port = 0
        self.hangs = False

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Camera]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append((await reader.readuntil(b"\r\n\r\n")).decode())
        if self.hangs:
            await reader.read()
        else:
            writer.write(self.answer)
            await writer.drain()
        writer.close()


def ok(body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"content-length: {len(body) if length is None else length}"]
    return "\r\n".join([*lines, *headers, "connection: close", "", ""]).encode() + body


def redirect(target: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n".encode()


@pytest.fixture
async def camera() -> AsyncIterator[Camera]:
    async with Camera().serving() as serving:
        yield serving


def source(camera: Camera, name: str = "127.0.0.1") -> PictureSource:
    return PictureSource([f"{name}:{camera.port}"], LIMIT)


def address(camera: Camera, path: str = "/snapshot.jpg", name: str = "127.0.0.1") -> str:
    return f"http://{name}:{camera.port}{path}"


async def refused(source: PictureSource, address: str) -> EdgeError:
    with pytest.raises(EdgeError) as refusal:
        await source.fetch(address)
    assert refusal.value.param == "image"
    return refusal.value


def test_what_an_address_is() -> None:
    """base64 and data: URLs are none."""
    assert is_address("http://camera/a.jpg")
    assert is_address("HTTPS://camera/a.jpg")
    assert not is_address("data:image/png;base64,AAAA")
    assert not is_address("httpAAAA")


async def test_a_listed_host(camera: Camera) -> None:
    """The bytes as they are, asked for by the name that was given, without packing."""
    assert await source(camera).fetch(address(camera, "/a.jpg?b=1")) == b"a picture"
    (asked,) = camera.asked
    assert asked.startswith("GET /a.jpg?b=1 HTTP/1.1\r\n")
    assert f"host: 127.0.0.1:{camera.port}" in asked.lower()
    assert "accept-encoding: identity" in asked.lower()


async def test_a_camera_with_a_password(camera: Camera) -> None:
    """Basic authentication out of the address; no error repeats it."""
    given = address(camera).replace("http://", "http://user:secret@")
    assert await source(camera).fetch(given) == b"a picture"
    assert "Basic dXNlcjpzZWNyZXQ=" in camera.asked[0]
    camera.answer = b"HTTP/1.1 500 No\r\n\r\n"
    assert "secret" not in (await refused(source(camera), given)).message


@pytest.mark.parametrize(
    "address",
    [
        "http://elsewhere/a.jpg",
        "http://camera.evil.example/",
        "http://camera:81/",
        "https://camera/",
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://[::1]/",
        "http://camera@elsewhere/",
        "http://",
        "http://camera:99999/",
        "http:///etc/passwd",
    ],
)
async def test_any_other_host(address: str) -> None:
    """Refused before any name is looked up; the hint names the key."""
    listed = PictureSource(["camera:80", "cam2:443"], LIMIT)
    assert isinstance(await refused(listed, address), InvalidRequest)
    unlisted = await refused(PictureSource([], LIMIT), "http://camera/a.jpg")
    assert unlisted.hint is not None
    assert "onnx.picture_hosts" in unlisted.hint


async def test_ports(camera: Camera) -> None:
    """A name alone stands for the usual port of the address."""
    found = await refused(PictureSource(["127.0.0.1"], LIMIT), address(camera))
    assert f"127.0.0.1:{camera.port}" in found.message
    assert not camera.asked


async def test_a_name_that_means_this_machine(
    camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listed name that somebody made point here is not called; `localhost` says what it means."""
    own = await source(camera, "localhost").fetch(address(camera, name="localhost"))
    assert own == b"a picture"

    for there in ("127.0.0.1", "::1", "169.254.169.254", "0.0.0.0"):

        async def resolved(*_: object, there: str = there, **__: object) -> list[object]:
            return [(2, 1, 6, "", (there, camera.port))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
        found = await refused(source(camera, "cam"), address(camera, name="cam"))
        assert isinstance(found, InvalidRequest)
        assert there in found.message
    assert len(camera.asked) == 1


async def test_a_name_in_the_plants_network(
    camera: Camera, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Private addresses are where cameras are. The name is asked for, the number is called."""
    called: list[str] = []

    async def resolved(*_: object, **__: object) -> list[object]:
        return [(2, 1, 6, "", ("10.1.2.3", camera.port))]

    async def connect(*, remote_host: str, **_: object) -> None:
        called.append(remote_host)
        raise OSError("out of reach")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolved)
    monkeypatch.setattr("anyio.connect_tcp", connect)
    assert isinstance(
        await refused(source(camera, "cam"), address(camera, name="cam")), UpstreamError
    )
    assert called == ["10.1.2.3"]


async def test_redirects(camera: Camera) -> None:
    """Within the host they are followed, a few of them; to another one they are not."""
    for target in ("http://elsewhere/a.jpg", "http://localhost/", "//elsewhere/", "file:///etc"):
        camera.answer = redirect(target)
        assert "another host" in (await refused(source(camera), address(camera))).message
    asked = len(camera.asked)
    camera.answer = redirect("/again")
    assert "on and on" in (await refused(source(camera), address(camera))).message
    assert len(camera.asked) == asked + 4
    camera.answer = redirect("http://127.0.0.1:1/")
    assert isinstance(await refused(source(camera), address(camera)), InvalidRequest)


async def test_a_redirect_to_the_picture(camera: Camera) -> None:
    """What is behind it is the picture."""
    serve = camera._serve

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        camera.answer = ok(b"behind it") if camera.asked else redirect("/snapshot/")
        await serve(reader, writer)

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    camera.port = server.sockets[0].getsockname()[1]
    async with server:
        assert await source(camera).fetch(address(camera)) == b"behind it"
    assert camera.asked[1].startswith("GET /snapshot/ ")


async def test_too_many_bytes(camera: Camera) -> None:
    """Whatever their number was said to be."""
    camera.answer = ok(bytes(LIMIT))
    assert len(await source(camera).fetch(address(camera))) == LIMIT
    for answer in (
        ok(bytes(LIMIT + 1)),
        b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + bytes(LIMIT + 1),
    ):
        camera.answer = answer
        assert isinstance(await refused(source(camera), address(camera)), PayloadTooLarge)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 500 No\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n",
        b"",
        ok(b"half of it", length=50),
        ok(b"\x1f\x8b", "content-encoding: gzip"),
        redirect("http://["),
    ],
)
async def test_a_host_that_gives_none(camera: Camera, answer: bytes) -> None:
    """It is that host's fault, and worth another try."""
    camera.answer = answer
    found = await refused(source(camera), address(camera))
    assert isinstance(found, UpstreamError)
    assert "127.0.0.1" in found.message


async def test_a_host_that_says_nothing(camera: Camera, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for all of it is bounded."""
    monkeypatch.setattr(pictures, "SECONDS", 0.05)
    camera.hangs = True
    assert isinstance(await refused(source(camera), address(camera)), UpstreamTimeout)


async def test_nobody_there(camera: Camera) -> None:
    """A camera that is off, and a name that nobody knows."""
    nobody = PictureSource(["127.0.0.1:1", "no-such-camera.invalid"], LIMIT)
    for address in ("http://127.0.0.1:1/", "http://no-such-camera.invalid/"):
        assert isinstance(await refused(nobody, address), UpstreamError)
