"""The configuration's tree: every section and key with its type, bounds, default and meaning.

Frozen: made once at the start (`config_reader.py`) and passed on by section.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Auto = Literal["auto"]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+@-]{0,127}$")]

FieldName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
TargetName = Annotated[str, Meta(pattern=r"^(local|cloud):[A-Za-z0-9][A-Za-z0-9._+@-]{0,127}$")]
Route = Annotated[
    list[TargetName | Annotated[list[TargetName], Meta(min_length=1)]], Meta(min_length=1)
]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all sections: immutable, and a key that it does not have is an error."""


class Device(Section, frozen=True):
    id: Annotated[Name, Meta(description="Name of this appliance; the host name by default")] = ""
    site: Annotated[str, Meta(description="Free text: where it stands")] = ""


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
    ] = []


class Auth(Section, frozen=True):
    required: Annotated[
        bool | Auto,
        Meta(
            description="Whether requests over HTTP need a key; `auto`: unless only this machine "
            "can reach it"
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


class Models(Section, frozen=True):
    default: Annotated[
        Name, Meta(description="Answers when a request names no model, or `default`")
    ] = "smollm2-135m-instruct"
    preload: Annotated[
        list[Name] | None,
        Meta(
            description="Loaded at start, with the default one and those of routes; all others "
            "when a request asks for them"
        ),
    ] = None
    pinned: Annotated[
        list[Name] | None,
        Meta(description="Never unloaded; null: the default one"),
    ] = None
    embedding: Annotated[
        Name | None,
        Meta(
            description="Makes vectors when a request names no model; null: the only one that is "
            "installed for that"
        ),
    ] = None
    memory_mb: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Memory for all models together; null: what the machine has"),
    ] = None
    ttl_seconds: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(
            description="A model that nobody has used for so long is unloaded; null: only when "
            "its memory is wanted"
        ),
    ] = None
    turn_seconds: Annotated[
        float,
        Meta(
            ge=0,
            description="How long a busy model keeps its memory after another was asked for",
        ),
    ] = 10
    drafts: Annotated[
        dict[Name, Name],
        Meta(
            description="A model, and a much smaller one with the same vocabulary, loaded beside "
            "it, that guesses at its tokens ahead where that pays; the text is the same"
        ),
    ] = {}
    adapter_scale: Annotated[
        dict[Name, Annotated[float, Meta(ge=0)]],
        Meta(description="Strength of LoRA adapters, by their names; 1 for those left out"),
    ] = {}


class Switching(Section, frozen=True):
    ready_seconds: Annotated[
        float, Meta(gt=0, description="Longest time for it to load and to answer its canaries")
    ] = 600
    slowest: Annotated[
        float,
        Meta(ge=0, le=1, description="Part of the old version's tokens per second it has to make"),
    ] = 0.2
    watch_seconds: Annotated[
        float,
        Meta(ge=0, description="How long it is watched before it counts; two deaths end it"),
    ] = 30


class Engine(Section, frozen=True):
    backend: Annotated[
        Literal["auto", "cpu", "cuda"],
        Meta(
            description="`auto` offloads where llama.cpp has a GPU; `cuda` refuses to run without"
        ),
    ] = "auto"
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | Auto,
        Meta(
            description="Threads for llama.cpp; `auto`: the physical cores allowed to the process"
        ),
    ] = "auto"
    gpu_layers: Annotated[
        Annotated[int, Meta(ge=0)] | Auto,
        Meta(description="Layers to offload; `auto`: all where there is a GPU"),
    ] = "auto"
    slots: Annotated[
        Annotated[int, Meta(ge=1, le=256)] | Auto,
        Meta(
            description="Sequences computed at once; `auto`: up to 32 in a quarter of free memory, "
            "fewer where the model would not fit"
        ),
    ] = "auto"
    context: Annotated[
        Annotated[int, Meta(ge=256, le=1048576)] | Auto,
        Meta(
            description="Tokens each slot holds; `auto`: the trained context, 2048 at most, less "
            "where one slot would not fit"
        ),
    ] = "auto"
    kv_type: Annotated[
        Literal["auto", "f16", "q8_0", "q4_0"],
        Meta(
            description="Number format of the KV cache; `auto`: f16, or q8_0 where that "
            "would not fit"
        ),
    ] = "f16"
    batch: Annotated[int, Meta(ge=32, le=8192, description="Most tokens computed in one step")] = (
        512
    )
    inter_token_ms: Annotated[
        Annotated[float, Meta(gt=0, le=60000)] | Auto,
        Meta(
            description="Aimed-at time between two tokens of a stream while prompts are computed; "
            "`auto`: twice what it is without them"
        ),
    ] = "auto"
    draft: Annotated[
        Literal["lookup", "none"],
        Meta(
            description="`lookup` guesses at tokens ahead where an answer repeats its input, and "
            "computes several at once where that pays; the text is the same. `none`: no guesses, "
            "nor any by `models.drafts`, which are not loaded then"
        ),
    ] = "lookup"
    prefix_cache_mb: Annotated[
        Annotated[float, Meta(ge=0)] | Auto,
        Meta(
            description="Memory for computed prefixes that left their slot, per model; 0 for none; "
            "`auto`: a sixteenth of free memory, for all models together"
        ),
    ] = "auto"
    prefix_disk_mb: Annotated[
        float,
        Meta(
            ge=0,
            description="Disk for prefixes that several prompts share, so that they outlive a "
            "restart; all models together; 0 for none",
        ),
    ] = 512


class Onnx(Section, frozen=True):
    provider: Annotated[
        Literal["auto", "cpu", "cuda", "tensorrt"],
        Meta(
            description="What computes ONNX models; `auto`: the fastest that onnxruntime has here; "
            "a named one is insisted on"
        ),
    ] = "auto"
    threads: Annotated[
        Annotated[int, Meta(ge=1, le=1024)] | Auto,
        Meta(
            description="Threads of each model; `auto`: the physical cores allowed to the process"
        ),
    ] = "auto"
    max_batch: Annotated[
        int,
        Meta(
            ge=1,
            le=4096,
            description="Rows computed together at most, where neither model.yaml nor config.pbtxt "
            "says how many",
        ),
    ] = 32
    delay_ms: Annotated[
        float,
        Meta(
            ge=0,
            le=10000,
            description="How long the first of several requests waits for others to be computed "
            "with, where the model's files say nothing of it",
        ),
    ] = 2
    nice: Annotated[
        int,
        Meta(
            ge=0,
            le=19,
            description="How far ONNX models step back behind language models, as in nice(1)",
        ),
    ] = 13
    picture_hosts: Annotated[
        list[Annotated[str, Meta(pattern=r"^([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?$")]],
        Meta(
            description="Hosts, as NAME or NAME:PORT, from which pictures are fetched that a "
            "request names by their address"
        ),
    ] = []


class Queue(Section, frozen=True):
    max_jobs: Annotated[int, Meta(ge=1, description="Unfinished jobs kept at most")] = 100_000
    max_mb: Annotated[float, Meta(gt=0, description="Bytes of unfinished jobs kept at most")] = 1024
    when_full: Annotated[
        Literal["reject", "drop_oldest_batch"],
        Meta(description="What gives way to a new job: it, or the oldest of priority `batch`"),
    ] = "reject"
    result_ttl_seconds: Annotated[
        float, Meta(gt=0, description="How long a finished job, its result or a file is kept")
    ] = 604_800
    max_file_mb: Annotated[float, Meta(gt=0, description="Largest file that may be uploaded")] = 200
    max_files_mb: Annotated[
        float, Meta(gt=0, description="Bytes of all files kept; beyond it uploads are refused")
    ] = 2048


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
        int, Meta(ge=1, description="HTTP connections open at once; more are closed at once")
    ] = 512


class Timeouts(Section, frozen=True):
    connect: Annotated[
        float, Meta(gt=0, le=3600, description="Seconds to reach it: name, TCP and TLS")
    ] = 3
    first_token: Annotated[
        float, Meta(gt=0, le=3600, description="Seconds from asking to the first text of an answer")
    ] = 20
    stall: Annotated[float, Meta(gt=0, le=3600, description="Seconds between two pieces of it")] = (
        10
    )
    total: Annotated[
        float, Meta(gt=0, le=86400, description="Seconds for the request, all attempts together")
    ] = 120


class Breaker(Section, frozen=True):
    failure_ratio: Annotated[
        float, Meta(gt=0, le=1, description="Part of late requests that failed, at which it opens")
    ] = 0.3
    min_requests: Annotated[
        int, Meta(ge=1, le=10000, description="So many are needed before the ratio counts")
    ] = 20
    consecutive: Annotated[
        int, Meta(ge=1, le=10000, description="Failures in a row that open it too")
    ] = 3
    open_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="How long it stays open before one request may try")
    ] = 30


class Upstream(Section, frozen=True):
    """One model of one OpenAI-compatible server."""

    base_url: Annotated[
        str,
        Meta(
            pattern=r"^https?://[^\s/?#]+[^\s?#]*$",
            description="Up to and with `/v1`, if it has it",
        ),
    ]
    model: Annotated[
        str | None, Meta(description="What it is called there; the upstream's name if left out")
    ] = None
    api_key_file: Annotated[
        str | None, Meta(description="File with the key, read for every request")
    ] = None
    api_key_credential: Annotated[
        Name | None, Meta(description="The same as a systemd credential (`LoadCredential=`)")
    ] = None
    ca_file: Annotated[
        str | None, Meta(description="Certificate authorities; the system's if left out")
    ] = None
    proxy: Annotated[
        Annotated[str, Meta(pattern=r"^(https?|socks5h?)://")] | None,
        Meta(description="URL of a proxy; the environment's are not used"),
    ] = None
    timeouts: Timeouts = Timeouts()
    retries: Annotated[
        int, Meta(ge=0, le=10, description="Further attempts at it before the next target")
    ] = 1
    breaker: Breaker = Breaker()
    stream: Annotated[bool, Meta(description="Ask for streams; false for a server that cannot")] = (
        True
    )
    continuation: Annotated[
        Literal["assistant_prefix", "continue_final_message", "prefix", "none"],
        Meta(
            description="How it goes on with an answer: from a last message of the assistant "
            "(llama-server, edge), with vLLM's or with DeepSeek's flag for it, or not at all"
        ),
    ] = "assistant_prefix"
    max_concurrent: Annotated[
        int,
        Meta(ge=1, le=1000, description="Kept requests sent to it at once when the queue drains"),
    ] = 8


class Chain(Section, frozen=True):
    """A picture is looked at, and a text is written about what was seen."""

    see: Annotated[Name, Meta(description="The model that looks at the picture")]
    prompt: Annotated[
        str,
        Meta(
            min_length=1,
            description="Jinja template of what the language model is asked, with `detections`, "
            "`labels`, `width`, `height` and the fields",
        ),
    ]
    fields: Annotated[
        dict[FieldName, str | int | float | bool | None],
        Meta(description="What a caller may send along, with its default; null: has to be sent"),
    ] = {}
    model: Annotated[
        Name | None, Meta(description="Model or route that writes; null: the default one")
    ] = None
    system: Annotated[str | None, Meta(description="What the model is told before")] = None
    max_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Length of the text; null: `limits.default_max_tokens`"),
    ] = None
    temperature: Annotated[
        float, Meta(ge=0, le=2, description="0: the same picture has the same text")
    ] = 0
    threshold: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="Least score of what counts as seen; null: what the model's folder says"),
    ] = None


class Routing(Section, frozen=True):
    offline_first: Annotated[
        bool, Meta(description="Try the local targets of a route first, whatever its order")
    ] = False


class Semantic(Section, frozen=True):
    model: Annotated[
        Name | None,
        Meta(
            description="Embedding model by which questions in other words get a kept answer; "
            "null: only identical ones do"
        ),
    ] = None
    threshold: Annotated[
        float, Meta(ge=0.5, le=1, description="Least cosine of two such questions' vectors")
    ] = 0.95


class Cache(Section, frozen=True):
    enabled: Annotated[
        bool, Meta(description="Answer identical requests from a file, where that changes nothing")
    ] = True
    ttl_seconds: Annotated[
        float, Meta(gt=0, description="How long an answer may be used again")
    ] = 3600
    max_mb: Annotated[float, Meta(gt=0, description="Bytes of all answers kept")] = 256
    semantic: Semantic = Semantic()


class Sync(Section, frozen=True):
    report_url: Annotated[
        Annotated[str, Meta(pattern=r"^https?://[^\s/]")] | None,
        Meta(description="Where finished work is reported to, as gzipped lines of JSON"),
    ] = None
    report: Annotated[
        Literal["usage", "full", "none"],
        Meta(description="Counts and times only, or prompts and answers with them"),
    ] = "usage"
    api_key_file: Annotated[str | None, Meta(description="File with the key for it")] = None
    batch: Annotated[int, Meta(ge=1, le=10000, description="Lines in one report at most")] = 200
    interval_seconds: Annotated[float, Meta(gt=0, description="Time between two reports")] = 15
    max_kbps: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="Kilobits a second for the queue and the reports, both ways together"),
    ] = None
    max_attempts: Annotated[
        int, Meta(ge=1, le=1000, description="Tries at a kept request before it has failed")
    ] = 5


class Config(Section, frozen=True):
    device: Device = Device()
    http: Http = Http()
    auth: Auth = Auth()
    mqtt: Mqtt = Mqtt()
    models: Models = Models()
    switching: Switching = Switching()
    engine: Engine = Engine()
    onnx: Onnx = Onnx()
    routes: Annotated[
        dict[Name, Route],
        Meta(
            description="A model's name, and what answers for it: `local:MODEL` or "
            "`cloud:UPSTREAM`, in order; of a list within the list the fastest is taken"
        ),
    ] = {}
    routing: Routing = Routing()
    upstreams: dict[Name, Upstream] = {}
    chains: dict[Name, Chain] = {}
    cache: Cache = Cache()
    queue: Queue = Queue()
    sync: Sync = Sync()
    webhooks: Webhooks = Webhooks()
    limits: Limits = Limits()


def targets(config: Config, route: str) -> list[str]:
    """All targets of a route, in order."""
    found: list[str] = []
    for entry in config.routes[route]:
        found += [entry] if isinstance(entry, str) else entry
    return found


def first_models(config: Config) -> list[str]:
    """The model names that the daemon loads at start, the default one first."""
    default = config.models.default
    names = [] if default in config.routes else [default]
    names += [*pinned_models(config), *(config.models.preload or [])]
    for route in config.routes:
        names += [t.removeprefix("local:") for t in targets(config, route) if t[:6] == "local:"]
    return list(dict.fromkeys(names))


def pinned_models(config: Config) -> list[str]:
    """The model names that are never unloaded. A default that is a route pins nothing."""
    models = config.models
    if models.pinned is not None:
        return models.pinned
    return [] if models.default in config.routes else [models.default]


def is_loopback(host: str) -> bool:
    """True when only this machine can reach a listener on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def needs_keys(config: Config) -> bool:
    """Whether requests over HTTP need a key."""
    required = config.auth.required
    return not is_loopback(config.http.host) if required == "auto" else required


def state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where everything that must survive a restart lives (see the README for the order)."""
    if explicit := environ.get("EDGE_STATE_DIR"):
        return Path(explicit)
    if systemd := environ.get("STATE_DIRECTORY"):
        return Path(systemd.split(":")[0])
    if os.geteuid() == 0:
        return Path("/var/lib/edge")
    base = environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "edge"
