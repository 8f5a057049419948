"""What has to be there before the daemon starts: model files, a port, settings for this machine."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import msgspec

from edge.config import Config, served_models, state_dir
from edge.errors import ConfigError, ModelNotFound
from edge.host import cpu, memory
from edge.modelstore import gguf
from edge.modelstore.catalog import load_catalog
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore
from edge.runtime import settings
from edge.types import EngineSettings

logger = logging.getLogger("edge")

EMBEDDED_MODEL = Config().models.default
"""The one model that is fetched by itself when it is missing."""

MB = 1024 * 1024


def model_paths(config: Config) -> dict[str, Path]:
    """Where the served models are; fetches the embedded one if it is missing.

    Raises `ModelNotFound` with the command to type for any other, `BadModelFile` for a file that
    llama.cpp should never see.
    """
    store = ModelStore(state_dir() / "models")
    paths: dict[str, Path] = {}
    for name in served_models(config):
        try:
            paths[name] = store.path(name)
        except ModelNotFound:
            if name != EMBEDDED_MODEL:
                raise
            logger.info("fetching the default model %s", name)
            paths[name] = pull(store, load_catalog()[name])
        gguf.read_header(paths[name])
    return paths


def listen(host: str, port: int) -> socket.socket:
    """Bind before anything is loaded, so that a taken port is known at once."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        return sock
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            param="http.port",
            hint="stop what holds the port, or set http.host and http.port",
        ) from None


def engine_settings(config: Config) -> EngineSettings:
    """For the worker of one of the models: memory is shared by all of them."""
    available = memory.available_bytes() or 0
    share = available / len(served_models(config))
    found = settings.engine_settings(config.engine, cpu.usable_cores(), share)
    return msgspec.structs.replace(
        found,
        prefix_disk_bytes=int(config.engine.prefix_disk_mb * MB),
        prefix_dir=str(state_dir() / "prefixes"),
    )
