"""Reads the configuration: a YAML file, overridden by the environment, into one checked tree.

Sources, later ones win: the defaults of the tree, systemd's credentials, the file,
`EDGE_SECTION__KEY` environment variables. Anything unknown, of the wrong type or out of range is
refused with file, line, key and a hint; nothing is ignored.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import yaml

from edge.config import credentials
from edge.config.section import Section
from edge.config.table import reference, section_of
from edge.config.tree import Config, targets
from edge.errors import ConfigError
from edge.report_prompt import SEEN, BadPrompt, ReportPrompt

SYSTEM_FILE = Path("/etc/edge/edge.yaml")


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
    source = str(path) if path else "configuration"
    _check_texts(tree, places, source)
    config = _convert(tree, places, source)
    if not config.device.id:
        device_id = re.sub(r"[^A-Za-z0-9._+@-]", "-", socket.gethostname()) or "edge"
        config = msgspec.structs.replace(
            config, device=msgspec.structs.replace(config.device, id=device_id)
        )
    return credentials.filled_in(config, environ)


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


def _check_texts(tree: dict[str, Any], places: Places, source: str) -> None:
    """Half of a character, as YAML may spell one, can be neither printed nor sent."""
    rest: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    known: set[int] = set()  # an alias may stand within what it stands for
    while rest:
        key, value = rest.pop()
        if isinstance(value, str) and not _is_text(value):
            name = ascii(".".join(key))[1:-1]
            raise ConfigError(
                f"{_place(places, key, source)}: `{name}`: half of a character is no text",
                param=name,
                hint="write the character itself, or both halves as one \\U escape",
            )
        if isinstance(value, dict | list) and id(value) not in known:
            known.add(id(value))
            if isinstance(value, list):
                rest += [(key, one) for one in value]
                continue
            for part, one in value.items():
                rest += [(key, part), ((*key, str(part)), one)]


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _convert(tree: dict[str, Any], places: Places, source: str) -> Config:
    try:
        config = msgspec.convert(tree, Config)
    except msgspec.ValidationError as error:
        # Of a name that the user gave, msgspec says "at `key` in" where it stands.
        message, in_key, path = str(error).partition(" - at `key` in `$")
        if in_key:
            message = f"a name in it: {message}"
        else:
            message, _, path = message.partition(" - at `$")
        key = _key(path.rstrip("`"), tree)
        unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
        if unknown:
            key = (*key, unknown[1])
            message = "unknown key"
        known = _place(places, key, source)
        name = ".".join(key)
        raise ConfigError(
            f"{known}: `{name}`: {message}" if name else f"{known}: {message}",
            param=name or None,
            hint=_hint(key, bool(unknown)),
        ) from None
    _check(config, places, source)
    return config


def _key(path: str, tree: dict[str, Any]) -> tuple[str, ...]:
    """msgspec's path as a key. It does not tell which of the user's names it means: `[...]`."""
    parts = tuple(part for part in re.split(r"(\[\.\.\.\])|[.\[\]]", path) if part)
    if parts[1:2] != ("[...]",):
        return parts
    for name, value in tree[parts[0]].items():
        try:
            msgspec.convert({parts[0]: {name: value}}, Config)
        except msgspec.ValidationError:
            return (parts[0], str(name), *parts[2:])
    return parts[:1]


def _hint(key: tuple[str, ...], unknown: bool) -> str:
    section, pattern = _struct_at(key[:-1])
    if unknown and section is not None:
        names = [field.name for field in msgspec.structs.fields(section)]
        close = difflib.get_close_matches(key[-1], names, n=1)
        return f"did you mean `{close[0]}`?" if close else f"known keys here: {', '.join(names)}"
    wanted = ".".join((*pattern, *key[-1:]))
    for row in reference():
        if row.key in (wanted, f"{'.'.join(key[:1])}.NAME"):
            return f"{row.key} takes {row.type}, by default {row.default}"
    return "`edge config show` prints the whole tree"


def _struct_at(key: tuple[str, ...]) -> tuple[type[Section] | None, list[str]]:
    """The section at a key, and the key with NAME for what the user named."""
    here: Any = Config
    pattern: list[str] = []
    for part in key:
        if get_origin(here) is dict:
            here = get_args(here)[1]
            pattern.append("NAME")
            continue
        here = get_type_hints(here).get(part) if section_of(here) else None
        pattern.append(part)
    return section_of(here), pattern


def _check(config: Config, places: Places, source: str) -> None:
    """What no single key can tell: that the names in it stand for something."""
    _check_drafts(config, places, source)
    _check_networks(config, places, source)
    _check_chains(config, places, source)
    for route in config.routes:
        for target in targets(config, route):
            kind, _, name = target.partition(":")
            if kind == "cloud" and name not in config.upstreams:
                raise ConfigError(
                    f"{_place(places, ('routes', route), source)}: `routes.{route}`: there is no"
                    f" upstream `{name}`",
                    param=f"routes.{route}",
                    hint=f"add `upstreams.{name}`, or take one of:"
                    f" {', '.join(config.upstreams) or 'none are set'}",
                )
    for model in [*(config.models.preload or []), *(config.models.pinned or [])]:
        if model in config.routes:
            raise ConfigError(
                f"{_place(places, ('routes', model), source)}: `routes.{model}`: a model that is"
                " loaded has this name too, and nobody could tell which of them answers",
                param=f"routes.{model}",
                hint="give the route a name of its own",
            )


def _check_drafts(config: Config, places: Places, source: str) -> None:
    for model, draft in config.models.drafts.items():
        if model == draft:
            key = f"models.drafts.{model}"
            place = _place(places, ("models", "drafts", model), source)
            raise ConfigError(
                f"{place}: `{key}`: a model cannot draft for itself",
                param=key,
                hint="name a much smaller one",
            )


def _check_networks(config: Config, places: Places, source: str) -> None:
    for entry in config.http.allow_ips:
        try:
            ipaddress.ip_network(entry, strict=False)
        except ValueError:
            place = _place(places, ("http", "allow_ips"), source)
            raise ConfigError(
                f"{place}: `http.allow_ips`: {entry!r} is no address and no network",
                param="http.allow_ips",
                hint="write it as 192.168.7.9 or 10.20.0.0/16",
            ) from None


def _check_chains(config: Config, places: Places, source: str) -> None:
    for name, chain in config.chains.items():
        key, problem = ("chains", name, "prompt"), ""
        if taken := sorted({"edge", "image", *SEEN}.intersection(chain.fields)):
            key, problem = ("chains", name, "fields"), f"`{taken[0]}` means something else here"
        else:
            try:
                ReportPrompt(chain.prompt, chain.fields)
            except BadPrompt as error:
                problem = f"line {error.line} of it: {error}" if error.line else str(error)
        if problem:
            raise ConfigError(
                f"{_place(places, key, source)}: `{'.'.join(key)}`: {problem}",
                param=".".join(key),
                hint="docs/onnx.md has an example",
            )


def _place(places: Places, key: tuple[str, ...], source: str) -> str:
    return next((places[key[:n]] for n in range(len(key), 0, -1) if key[:n] in places), source)
