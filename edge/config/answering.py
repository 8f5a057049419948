"""The sections of who answers what: routes, upstreams, chains, and answers used again."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from edge.config.section import Name, Section

FieldName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
TargetName = Annotated[str, Meta(pattern=r"^(local|cloud):[A-Za-z0-9][A-Za-z0-9._+@-]{0,127}$")]
Route = Annotated[
    list[TargetName | Annotated[list[TargetName], Meta(min_length=1)]], Meta(min_length=1)
]


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
    ] = field(default_factory=dict)
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
