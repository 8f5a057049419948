"""The configuration: one frozen tree, read and validated once, passed by section.

Sources, later ones win: the defaults below, the YAML file, `EDGE_SECTION__KEY` environment
variables. Anything unknown, of the wrong type or out of range is refused with file, line, key
and a hint; nothing is ignored.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import yaml
from msgspec import Meta

from edge.errors import ConfigError

SYSTEM_FILE = Path("/etc/edge/edge.yaml")

Auto = Literal["auto"]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+@-]{0,127}$")]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all sections: immutable, and a key that it does not have is an error."""


class Device(Section, frozen=True):
    id: Annotated[Name, Meta(description="Name of this appliance; the host name by default")] = ""
    site: Annotated[str, Meta(description="Free text: where it stands")] = ""


class Http(Section, frozen=True):
    host: Annotated[str, Meta(min_length=1, description="Address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port; 0 takes a free one")] = 8080


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
            description="Loaded at start; these are the models served. The default one if left out"
        ),
    ] = None


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
            description="Sequences computed at once; `auto`: up to 32 in a quarter of free memory"
        ),
    ] = "auto"
    context: Annotated[
        Annotated[int, Meta(ge=256, le=1048576)] | Auto,
        Meta(description="Tokens each slot holds; `auto`: the trained context, 2048 at most"),
    ] = "auto"
    kv_type: Annotated[
        Literal["f16", "q8_0", "q4_0"], Meta(description="Number format of the KV cache")
    ] = "f16"
    batch: Annotated[int, Meta(ge=32, le=8192, description="Most tokens computed in one step")] = (
        512
    )


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


class Config(Section, frozen=True):
    device: Device = Device()
    http: Http = Http()
    mqtt: Mqtt = Mqtt()
    models: Models = Models()
    engine: Engine = Engine()
    queue: Queue = Queue()
    webhooks: Webhooks = Webhooks()
    limits: Limits = Limits()


def served_models(config: Config) -> list[str]:
    """The model names that the daemon loads, the default one first."""
    names = [config.models.default, *(config.models.preload or [])]
    return list(dict.fromkeys(names))


def is_loopback(host: str) -> bool:
    """True when only this machine can reach a listener on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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


def find_file(explicit: str | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The file to read: the one asked for, `$EDGE_CONFIG`, the system's if it is there, or none."""
    if explicit:
        return Path(explicit)
    if named := environ.get("EDGE_CONFIG"):
        return Path(named)
    return SYSTEM_FILE if SYSTEM_FILE.exists() else None


def load(explicit: str | None = None, environ: Mapping[str, str] = os.environ) -> Config:
    """Read, merge and validate the configuration. Raises `ConfigError` for anything it doubts."""
    path = find_file(explicit, environ)
    tree, places = _read_file(path) if path else ({}, {})
    _merge_environment(tree, places, environ)
    config = _convert(tree, places, str(path) if path else "configuration")
    if not config.device.id:
        device_id = re.sub(r"[^A-Za-z0-9._+@-]", "-", socket.gethostname()) or "edge"
        config = msgspec.structs.replace(
            config, device=msgspec.structs.replace(config.device, id=device_id)
        )
    return config


# A place is where a key was set: "file:line" or "environment variable X".
Places = dict[tuple[str, ...], str]


def _read_file(path: Path) -> tuple[dict[str, Any], Places]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            f"{path}: no such file", hint="name an existing file with --config or $EDGE_CONFIG"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read: {error}", hint="check path and rights"
        ) from None
    places: Places = {}
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None:
            _note_places(node, path, (), places)
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(
            f"{path}{line}: not valid YAML: {problem}", hint="check the indentation"
        ) from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply", hint="the tree has two levels") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}:1: must be a mapping of sections", hint="start with `http:`")
    return tree, places


def _note_places(node: yaml.Node, path: Path, key: tuple[str, ...], places: Places) -> None:
    """Record the line of every key, and refuse a key that is written twice."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value in node.value:
        where = (*key, str(key_node.value))
        line = f"{path}:{key_node.start_mark.line + 1}"
        if where in places:
            raise ConfigError(
                f"{line}: `{'.'.join(where)}` is set twice, first at {places[where]}",
                param=".".join(where),
                hint="keep one of them",
            )
        places[where] = line
        _note_places(value, path, where, places)


def _merge_environment(tree: dict[str, Any], places: Places, environ: Mapping[str, str]) -> None:
    for variable, text in sorted(environ.items()):
        match = re.fullmatch(r"EDGE_([A-Z0-9_]+?)__([A-Z0-9_]+)", variable)
        if not match:
            continue
        section, key = match[1].lower(), match[2].lower()
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        target = tree.get(section)
        if target is None:
            target = tree[section] = {}
        if isinstance(target, dict):
            target[key] = value
            places[(section, key)] = places[(section,)] = f"environment variable {variable}"


def _convert(tree: dict[str, Any], places: Places, source: str) -> Config:
    try:
        return msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        key = tuple(part for part in re.split(r"[.\[\]]", path.rstrip("`")) if part)
        unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
        if unknown:
            key = (*key, unknown[1])
            message = "unknown key"
        known = places.get(key) or places.get(key[:2]) or places.get(key[:1]) or source
        name = ".".join(key)
        raise ConfigError(
            f"{known}: `{name}`: {message}" if name else f"{known}: {message}",
            param=name or None,
            hint=_hint(key, bool(unknown)),
        ) from None


def _hint(key: tuple[str, ...], unknown: bool) -> str:
    section = _struct_at(key[:-1])
    if unknown and section is not None:
        names = [field.name for field in msgspec.structs.fields(section)]
        close = difflib.get_close_matches(key[-1], names, n=1)
        return f"did you mean `{close[0]}`?" if close else f"known keys here: {', '.join(names)}"
    for row in reference():
        if row.key == ".".join(key[:2]):
            return f"{row.key} takes {row.type}, by default {row.default}"
    return "`edge config show` prints the whole tree"


def _struct_at(key: tuple[str, ...]) -> type[Section] | None:
    here: Any = Config
    for part in key:
        here = get_type_hints(here).get(part)
        if not (isinstance(here, type) and issubclass(here, Section)):
            return None
    return here  # type: ignore[no-any-return]


class Row(msgspec.Struct):
    """One line of the generated reference table of keys."""

    key: str
    type: str
    default: str
    description: str


def reference() -> list[Row]:
    """Every key with its type, default and meaning, in the order of the tree."""
    rows: list[Row] = []
    for section in msgspec.structs.fields(Config):
        hints = get_type_hints(section.type, include_extras=True)
        for field in msgspec.structs.fields(section.type):
            annotation = hints[field.name]
            meta = [m for m in annotation.__metadata__ if isinstance(m, Meta) and m.description]
            default = msgspec.json.encode(field.default).decode()
            rows.append(
                Row(
                    key=f"{section.name}.{field.name}",
                    type=_describe(annotation),
                    default=default,
                    description=meta[0].description or "" if meta else "",
                )
            )
    return rows


def _describe(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *metas = get_args(annotation)
        bounds = [
            f"{word} {getattr(meta, name)}"
            for meta in metas
            for name, word in (("ge", "from"), ("gt", "above"), ("le", "to"))
            if getattr(meta, name, None) is not None
        ]
        return " ".join([_describe(base), *bounds])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if origin is list:
        return f"list of {_describe(get_args(annotation)[0])}"
    if get_args(annotation):
        return " or ".join(_describe(arg) for arg in get_args(annotation))
    return {int: "integer", float: "number", str: "text", bool: "true or false"}[annotation]
