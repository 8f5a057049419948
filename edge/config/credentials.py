"""Secrets that systemd hands over (`LoadCredential=`): files in `$CREDENTIALS_DIRECTORY`.

Each stands in for a key of the configuration that names a file, where that is not set.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from edge.config.tree import Config

DIRECTORY = "CREDENTIALS_DIRECTORY"

MQTT_PASSWORD, WEBHOOK_SECRET, TLS_KEY = "mqtt.password", "webhook.secret", "tls.key"


def filled_in(config: Config, environ: Mapping[str, str]) -> Config:
    """With the credentials that are there: the password for the broker where there is a user name,
    the secret that signs webhooks, the key of a certificate from elsewhere."""
    replace = msgspec.structs.replace
    mqtt, webhooks, http = config.mqtt, config.webhooks, config.http
    if mqtt.username is not None and mqtt.password_file is None:
        mqtt = replace(mqtt, password_file=_path(MQTT_PASSWORD, environ))
    if webhooks.secret_file is None:
        webhooks = replace(webhooks, secret_file=_path(WEBHOOK_SECRET, environ))
    if http.tls_certificate is not None and http.tls_key is None:
        http = replace(http, tls_key=_path(TLS_KEY, environ))
    return replace(config, mqtt=mqtt, webhooks=webhooks, http=http)


def _path(name: str, environ: Mapping[str, str]) -> str | None:
    folder = environ.get(DIRECTORY)
    if not folder or not (Path(folder) / name).is_file():
        return None
    return str(Path(folder) / name)
