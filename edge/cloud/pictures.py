"""Pictures that a request names by their address, fetched from hosts that the configuration lists.

A request may make the appliance call an address, so every call is bounded: listed hosts only, no
redirect to another one, no name that means this machine unless the list says so, and limits on
bytes and time. Owned by the event loop; it keeps no connections.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Sequence
from functools import cached_property

import httpx

from edge.errors import InvalidRequest, PayloadTooLarge, UpstreamError, UpstreamTimeout

SECONDS = 10.0
"""For all of it, redirects included."""

MOST_REDIRECTS = 3

PORTS = {"http": 80, "https": 443}


def is_address(image: str) -> bool:
    """Whether a request's `image` is where a picture is, and not the picture itself."""
    return image[:8].lower().startswith(("http://", "https://"))


class PictureSource:
    """hosts: as the configuration has them, `name`, `name:port` or an address. limit: bytes of a
    picture at most."""

    def __init__(self, hosts: Sequence[str], limit: int) -> None:
        self._hosts = {host.lower() for host in hosts}
        self._limit = limit

    async def fetch(self, address: str) -> bytes:
        """The bytes that are there, whatever they are.

        Raises `InvalidRequest` for an address that is not allowed, `PayloadTooLarge`, and
        `UpstreamError` and `UpstreamTimeout` for a host that does not give them.
        """
        url = self._allowed(address)
        try:
            return await asyncio.wait_for(self._fetch(url), SECONDS)
        except asyncio.TimeoutError:
            raise UpstreamTimeout(
                f"{url.host} did not give the picture within {SECONDS:.0f} s", param="image"
            ) from None
        except (httpx.HTTPError, OSError) as error:
            what = str(error) or type(error).__name__
            raise UpstreamError(
                f"the picture could not be fetched from {url.host}: {what}", param="image"
            ) from None

    @cached_property
    def _authorities(self) -> ssl.SSLContext:
        return ssl.create_default_context()

    def _allowed(self, address: str) -> httpx.URL:
        """Raises `InvalidRequest`."""
        try:
            url = httpx.URL(address)
        except (httpx.InvalidURL, ValueError):
            raise InvalidRequest("`image` is no usable address", param="image") from None
        if url.scheme not in PORTS or not url.host:
            raise InvalidRequest(
                "`image`: an address begins with http:// or https://", param="image"
            )
        usual = url.port in (None, PORTS[url.scheme])
        named = f"[{url.host}]" if ":" in url.host else url.host
        if not ((usual and named in self._hosts) or f"{named}:{_port(url)}" in self._hosts):
            raise InvalidRequest(
                f"pictures are not fetched from {named}:{_port(url)}",
                param="image",
                hint="list it in onnx.picture_hosts, or send the picture itself",
            )
        return url

    async def _fetch(self, url: httpx.URL) -> bytes:
        # The names of the environment's proxies are not for what stands beside the appliance.
        verify = self._authorities if url.scheme == "https" else False
        async with httpx.AsyncClient(
            verify=verify, trust_env=False, timeout=SECONDS, headers={"accept-encoding": "identity"}
        ) as client:
            for _ in range(MOST_REDIRECTS + 1):
                host, there = url.host, await self._resolved(url)
                request = client.build_request(
                    "GET",
                    url.copy_with(host=there),
                    headers={"host": url.netloc.decode("ascii")},
                    extensions={"sni_hostname": host},
                )
                response = await client.send(request, stream=True)
                try:
                    if not response.has_redirect_location:
                        return await self._contents(response, host)
                    target = url.join(response.headers["location"])
                finally:
                    await response.aclose()
                if target.host != host or target.scheme not in PORTS:
                    raise UpstreamError(f"{host} sends us on to another host", param="image")
                url = self._allowed(str(target))
        raise UpstreamError(f"{host} sends us on and on", param="image")

    async def _resolved(self, url: httpx.URL) -> str:
        """The numeric address to call, looked at before the call: the name may mean anything.

        Raises `InvalidRequest` for one that means this machine or nobody, unless it is listed.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(url.host, _port(url), type=1)
        there = str(found[0][4][0])
        if there == url.host or url.host == "localhost":
            return there
        address = ipaddress.ip_address(there.split("%")[0])
        if address.is_loopback or address.is_link_local or address.is_unspecified:
            raise InvalidRequest(
                f"{url.host} means {there}, from which pictures are not fetched",
                param="image",
                hint="list that address itself in onnx.picture_hosts",
            )
        return there

    async def _contents(self, response: httpx.Response, host: str) -> bytes:
        if response.status_code != 200:
            raise UpstreamError(f"{host} answers {response.status_code}", param="image")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise UpstreamError(f"{host} sends the picture packed", param="image")
        data = bytearray()
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > self._limit:
                raise PayloadTooLarge(
                    f"the picture at {host} is larger than {self._limit} bytes "
                    "(limits.max_body_mb)",
                    param="image",
                )
        return bytes(data)


def _port(url: httpx.URL) -> int:
    return url.port or PORTS[url.scheme]
