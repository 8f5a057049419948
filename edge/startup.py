"""What has to be there before the daemon starts: model files, certificates, rules for loading."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from edge.access.certs import Certificates
from edge.access.tls import Tls
from edge.config.tree import Config, first_models, pinned_models
from edge.errors import ConfigError
from edge.fleet.installed import InstalledModels
from edge.fleet.rules import Rules
from edge.modelstore.catalog import load_catalog
from edge.modelstore.pull import pull

logger = logging.getLogger("edge")

EMBEDDED_MODEL = Config().models.default
"""The one model that is fetched by itself when it is missing."""


def open_first(config: Config, installed: InstalledModels) -> None:
    """Check and keep the files of those that load at start; fetch the embedded one if missing.

    Raises `ModelNotFound` with the command to type for any other, `BadModelFile` for a file that
    llama.cpp should never see.
    """
    store = installed.store
    try:
        store.take_over()
    except OSError as error:  # a directory that is read-only serves as it is
        logger.info("the models of an earlier release stay as they are: %s", error)
    for name in first_models(config):
        if name == EMBEDDED_MODEL and store.find(name) is None:
            logger.info("fetching the default model %s", name)
            pull(store, load_catalog()[name])
    _check_drafts(config, installed)
    for name in first_models(config):
        installed.open(name)


def _check_drafts(config: Config, installed: InstalledModels) -> None:
    """That the models which are to draft are there, and those that they draft for."""
    for model, draft in config.models.drafts.items():
        for name in (model, draft):
            if installed.path(name) is None:
                key = f"models.drafts.{model}"
                raise ConfigError(
                    f"`{key}`: the model {name!r} is not installed",
                    param=key,
                    hint=f"edge models pull {name}, or take {key} away",
                )


def check_chains(config: Config, folders: Collection[str]) -> None:
    """That nothing has a chain's name: over MQTT a chain is asked for where a model is.

    folders: the names of the ONNX models that are here. A model that is not here yet may come.
    Raises `ConfigError`.
    """
    for name, chain in config.chains.items():
        if name in folders:
            raise ConfigError(
                f"`chains.{name}`: a model is called {name} too, and nobody could tell which of"
                " them is asked",
                param=f"chains.{name}",
                hint="give the chain a name of its own",
            )
        if chain.see not in folders:
            logger.warning("chains.%s: there is no model %s yet", name, chain.see)
    embedder = config.cache.semantic.model
    if embedder is not None and embedder not in folders:
        logger.warning("cache.semantic.model: there is no model %s yet", embedder)


def rules(config: Config) -> Rules:
    """What the fleet has to keep to."""
    models = config.models
    return Rules(
        turn=models.turn_seconds,
        ttl=models.ttl_seconds,
        cap=None if models.memory_mb is None else int(models.memory_mb * 1_000_000),
        pinned=frozenset(pinned_models(config)),
        at_start=tuple(first_models(config)),
    )


def tls_of(config: Config, state: Path) -> Tls | None:
    """What the HTTP API is encrypted with. Raises `ConfigError` and `BadCertificate`."""
    http = config.http
    if not http.tls:
        return None
    client_ca = None if http.tls_client_ca is None else Path(http.tls_client_ca)
    if http.tls_certificate is None and http.tls_key is None:
        own = Certificates(state / "certs")
        return Tls(own.server, own.key, client_ca, own)
    if http.tls_certificate is None or http.tls_key is None:
        raise ConfigError(
            "`http.tls_certificate` and `http.tls_key` go together",
            param="http.tls_certificate",
            hint="set both, or none for what edge certs init made",
        )
    return Tls(Path(http.tls_certificate), Path(http.tls_key), client_ca)
