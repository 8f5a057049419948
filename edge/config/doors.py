"""The sections of what stands towards callers: addresses, keys, brokers, bounds."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, field

from edge.config.section import Auto, Name, Section


class Device(Section, frozen=True):
    id: Annotated[Name, Meta(description="Name of this appliance; the host name by default")] = ""
    site: Annotated[str, Meta(description="Free text: where it stands")] = ""
    power_mode: Annotated[
        str | int | None,
        Meta(
            description="Name or number of a Jetson's power mode, set by the first boot of a "
            "flashed board; null leaves it as it is"
        ),
    ] = None


class Http(Section, frozen=True):
    host: Annotated[str, Meta(min_length=1, description="Address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port; 0 takes a free one")] = 8080
    tls: Annotated[
        bool | None,
        Meta(description="Encrypt, with what `edge certs init` made or the two files below"),
    ] = None
    tls_certificate: Annotated[
        str | None, Meta(description="PEM file of a certificate from elsewhere, and its chain")
    ] = None
    tls_key: Annotated[str | None, Meta(description="PEM file of its key")] = None
    tls_client_ca: Annotated[
        str | None,
        Meta(description="Let in only who shows a certificate of the authorities in this file"),
    ] = None
    allow_ips: Annotated[
        list[Annotated[str, Meta(min_length=1)]],
        Meta(description="Addresses and networks that may come at all; empty for all"),
    ] = field(default_factory=list)


class Auth(Section, frozen=True):
    required: Annotated[
        bool | Auto,
        Meta(
            description="Whether requests need a key; `auto`: over HTTP unless `http.host` is "
            "loopback, over MQTT unless `mqtt.host` is"
        ),
    ] = "auto"


class Mqtt(Section, frozen=True):
    enabled: Annotated[
        bool, Meta(description="Take prompts from a broker; while none answers, it is asked again")
    ] = True
    host: Annotated[str, Meta(min_length=1, description="Address of the broker")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535, description="Its TCP port; with TLS often 8883")] = (
        1883
    )
    root: Annotated[
        str,
        Meta(pattern=r"^[^$+#/\x00][^+#\x00]{0,255}$", description="What all topics begin with"),
    ] = "edge"
    username: Annotated[str | None, Meta(description="For the broker")] = None
    password_file: Annotated[
        str | None, Meta(description="File with the password, read at every connection")
    ] = None
    tls: Annotated[
        bool | str | None,
        Meta(description="true: by the system's authorities; a file: by the authorities in it"),
    ] = None
    shared_group: Annotated[
        Annotated[str, Meta(pattern=r"^[^+#/\x00]+$")] | None,
        Meta(description="Share the prompts of `ROOT/any/chat` with the appliances of this group"),
    ] = None
    reply_allow: Annotated[
        list[Annotated[str, Meta(min_length=1)]] | None,
        Meta(description="Topic filters of allowed reply topics; null: `ROOT/#` and `+/reply/#`"),
    ] = None


class Webhooks(Section, frozen=True):
    secret_file: Annotated[
        str | None,
        Meta(description="File with the key that signs webhooks; unsigned without one"),
    ] = None


class Limits(Section, frozen=True):
    max_waiting: Annotated[
        int, Meta(ge=0, description="Requests that may wait for a slot, per model; more get 503")
    ] = 64
    max_wait_seconds: Annotated[
        float, Meta(gt=0, description="Longest wait for a slot before a request gets 503")
    ] = 60
    max_body_mb: Annotated[float, Meta(gt=0, le=1024, description="Largest request body")] = 8
    default_max_tokens: Annotated[
        int, Meta(ge=1, description="Answer length when the request names none")
    ] = 512
    max_connections: Annotated[
        int,
        Meta(
            ge=1,
            description="HTTP connections open at once; for one more, whoever has the most loses "
            "one that is idle, or it is closed at once",
        ),
    ] = 512
    max_connections_per_address: Annotated[
        int,
        Meta(
            ge=1,
            description="Of them from one address (of IPv6: one /64 network); more are closed at "
            "once. Behind a proxy all have the proxy's address",
        ),
    ] = 128
    max_memory_mb: Annotated[
        Annotated[float, Meta(ge=64)] | Auto,
        Meta(
            description="What the daemon may hold itself, workers not counted: from 80 % of it on "
            "batch requests get 503, from 90 % on normal ones, from 100 % on all; `auto`: an "
            "eighth of the machine's memory or of the control group's limit, 256 to 2048"
        ),
    ] = "auto"
