"""TLS for the HTTP API: what the server shows, taken anew from its files while it serves.

Owned by the event loop: one loop that looks at the files.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from pathlib import Path

from edge.access.certs import Certificates, facts
from edge.errors import BadCertificate, EdgeError
from edge.loops import Loop

logger = logging.getLogger(__name__)

LOOK_SECONDS = 60.0

RENEW_SECONDS = 30 * 86_400.0
"""Before its end, the daemon makes a new certificate, where it has the authority."""

WARN_SECONDS = 21 * 86_400.0
"""Before its end, it is warned of once a day."""


class Tls:
    """certificate, key: PEM files. client_ca: whoever does not show a certificate of it is not let
    in. own: the appliance's own authority, where the certificate is of it."""

    def __init__(
        self,
        certificate: Path,
        key: Path,
        client_ca: Path | None = None,
        own: Certificates | None = None,
    ) -> None:
        """Raises `BadCertificate`."""
        self.certificate = certificate
        self._key = key
        self._own = own
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        if client_ca is not None:
            try:
                self.context.load_verify_locations(client_ca)
            except (OSError, ssl.SSLError) as error:
                raise BadCertificate(f"{client_ca}: {error}", param="http.tls_client_ca") from None
            self.context.verify_mode = ssl.CERT_REQUIRED
        self._seen: tuple[int, int] | None = None
        self._warned_at = float("-inf")
        self._load()
        self._loop = Loop("certificate", self._look, tick=LOOK_SECONDS)

    @property
    def ends(self) -> float:
        """Epoch seconds. Raises `BadCertificate`."""
        return facts(self.certificate).ends

    async def run(self) -> None:
        await self._loop.run()

    async def stop(self) -> None:
        self._loop.stop()

    def look(self) -> None:
        """Now, and not within the next minute."""
        self._loop.wake()

    async def _look(self) -> None:
        left = await asyncio.to_thread(lambda: self.ends) - time.time()
        if self._own is not None and self._own.renewable and left < RENEW_SECONDS:
            try:
                await asyncio.to_thread(self._own.renew)
                logger.info("the certificate is renewed")
            except (EdgeError, OSError) as error:
                logger.error("the certificate could not be renewed: %s", error)
        elif left < WARN_SECONDS and time.monotonic() - self._warned_at > 86_400:
            self._warned_at = time.monotonic()
            logger.warning("%s ends in %.0f days", self.certificate, left / 86_400)
        if self._stamp() != self._seen:
            try:
                self._load()
                logger.info("%s is served from now on", self.certificate)
            except BadCertificate as error:
                logger.error("%s; the one before is still served", error.message)

    def _load(self) -> None:
        """New connections get it; those that are open keep what they have."""
        seen = self._stamp()
        try:
            # Apart first: a pair that does not fit must not get into what is served.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.certificate, self._key)
            self.context.load_cert_chain(self.certificate, self._key)
        except (OSError, ssl.SSLError) as error:
            raise BadCertificate(
                f"{self.certificate} with {self._key}: {error}",
                param="http.tls",
                hint="edge certs init makes both",
            ) from None
        self._seen = seen

    def _stamp(self) -> tuple[int, int] | None:
        try:
            return self.certificate.stat().st_mtime_ns, self._key.stat().st_mtime_ns
        except OSError:
            return None
