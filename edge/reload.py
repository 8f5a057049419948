"""The configuration read anew while the daemon serves: on SIGHUP, as `systemctl reload` sends it.

What can be taken over is, between two requests and all of it at once; what cannot is named. A file
with a fault changes nothing. Owned by the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import msgspec

from edge.appliance import Appliance
from edge.audit.event import Event
from edge.config.live import Reloads, changed, is_live, merged
from edge.config.tree import Config, first_models
from edge.errors import EdgeError, ModelNotFound
from edge.notifier import Notifier
from edge.startup import check_chains

logger = logging.getLogger("edge")

PAUSE_SECONDS = 0.25
"""Between two reloads: of a storm of signals the first is answered, and the last."""


class Reload:
    """`run` it in a task, once the daemon is ready; `ask` at any time.

    read: the configuration as it is written now; raises `ConfigError`. written: what it was at the
    start, which what is in force may differ from by the sockets that systemd handed over.
    """

    def __init__(
        self,
        appliance: Appliance,
        notifier: Notifier,
        read: Callable[[], Config],
        written: Config,
    ) -> None:
        self._appliance = appliance
        self._notifier = notifier
        self._read = read
        self._written = written
        self._asked = asyncio.Event()

    def ask(self) -> None:
        self._asked.set()

    async def run(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            self._notifier.reloading()
            try:
                await self._turn()
            finally:
                self._notifier.ready()
            await asyncio.sleep(PAUSE_SECONDS)

    async def _turn(self) -> None:
        metrics, service = self._appliance.metrics, self._appliance.service
        try:
            read = await asyncio.to_thread(self._read)
            self._check(read)
            done = self._take_over(read)
        except (EdgeError, OSError) as error:
            service.reloads = msgspec.structs.replace(service.reloads, error=str(error))
            metrics.config_reloads.labels("refused").inc()
            logger.error("the configuration is refused, and nothing has changed: %s", error)
            self._note("refused", str(error))
            return
        waiting = [key for key in changed(self._written, read) if not is_live(key)]
        service.reloads = Reloads(time.time(), waiting)
        metrics.config_reloads.labels("applied").inc()
        metrics.config_needs_restart.set(len(waiting))
        logger.info("the configuration was read anew: %s", ", ".join(done) or "nothing to change")
        self._note("applied", ", ".join(done))
        if waiting:
            logger.warning("needs a restart: %s", ", ".join(waiting))

    def _note(self, status: str, detail: str) -> None:
        if self._appliance.audit is not None:
            self._appliance.audit.note(Event(what="reload", status=status, detail=detail))

    def _check(self, read: Config) -> None:
        """Raises `ConfigError` and `ModelNotFound`, as the start would."""
        appliance = self._appliance
        config = merged(appliance.config, read)
        check_chains(config, appliance.onnx.names())
        for name in first_models(config):
            if appliance.fleet.find(name) is None and name not in first_models(appliance.config):
                raise ModelNotFound(
                    f"a route names the model `{name}`, which is not installed",
                    hint=f"edge models pull {name}",
                )

    def _take_over(self, read: Config) -> list[str]:
        """Returns the keys that have changed."""
        before = self._appliance.config
        config = merged(before, read)
        self._appliance.reconfigure(config)
        return changed(before, config)
