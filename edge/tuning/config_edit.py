"""Changes keys of the `engine` section in the text of a configuration file, and nothing else.

The text is edited where YAML's parser says that a value stands, so comments, order and layout are
the user's. What comes out is read again: if anything but the wanted keys means something else than
before, it is refused and the file stays as it is.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from edge.config import reader
from edge.disk import sync
from edge.errors import ConfigError

SECTION = "engine"
MARK = "# tune: "
"""What the lines with the measurements begin with; those of an earlier run are replaced."""


def check_writable(path: Path) -> None:
    """Raises `ConfigError` now for what `write` could not do later."""
    real = path.resolve()
    try:
        with tempfile.NamedTemporaryFile(dir=real.parent, prefix=f".{real.name}."):
            pass
        with open(real, "r+b"):
            pass
    except OSError as error:
        raise _unwritable(path, error) from None


def edited(text: str, values: Mapping[str, Any], comment: Sequence[str]) -> str:
    """The text with these keys of the section, and the comment lines above the section.

    Raises `ConfigError` where that cannot be done without touching anything else.
    """
    text = "".join(
        line for line in text.splitlines(keepends=True) if not line.lstrip().startswith(MARK)
    )
    before = yaml.safe_load(text) or {}
    changed = _changed(text, values, [f"{MARK}{line}".rstrip() for line in comment])
    after = yaml.safe_load(changed)
    wanted = {**before, SECTION: {**(before.get(SECTION) or {}), **values}}
    if after != wanted:
        raise _intricate()
    return changed


def write(path: Path, values: Mapping[str, Any], comment: Sequence[str]) -> Path:
    """Edit the file. Returns the copy that was made of it before, beside it.

    A power cut leaves either the old file or the new one. Raises `ConfigError`.
    """
    real = path.resolve()
    try:
        text = real.read_bytes().decode("utf-8")
        new = edited(text, values, comment)
        backup = real.with_name(f"{real.name}.before-tune")
        shutil.copy2(real, backup)
        _replace(real, new)
    except OSError as error:
        raise _unwritable(path, error) from None
    return backup


def _replace(real: Path, text: str) -> None:
    """Checked as a whole before it takes the name of the old one."""
    handle, name = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")
    draft = Path(name)
    try:
        with open(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        reader.load(str(draft), environ={})
        facts = real.stat()
        os.chmod(draft, facts.st_mode & 0o7777)
        if (facts.st_uid, facts.st_gid) != (os.geteuid(), os.getegid()):
            os.chown(draft, facts.st_uid, facts.st_gid)
        os.replace(draft, real)
    finally:
        draft.unlink(missing_ok=True)
    sync(real.parent)


def _changed(text: str, values: Mapping[str, Any], comment: list[str]) -> str:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    newline = "\r\n" if "\r\n" in text else "\n"
    entry = None
    if root is not None:
        if not isinstance(root, yaml.MappingNode) or root.flow_style:
            raise _intricate()
        entry = next((pair for pair in root.value if pair[0].value == SECTION), None)
    if entry is None:
        lines = [*comment, f"{SECTION}:", *(f"  {k}: {_plain(v)}" for k, v in values.items())]
        gap = "" if not text or text.endswith("\n") else newline
        return text + gap + newline.join(lines) + newline
    key, section = entry
    edits = _edits(text, key, section, values, newline)
    edits.append(
        (key.start_mark.index, key.start_mark.index, "".join(f"{c}{newline}" for c in comment))
    )
    # From the end, so that the places before stay where they are.
    for start, end, new in sorted(edits, key=lambda edit: edit[0], reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _edits(
    text: str, key: yaml.Node, section: yaml.Node, values: Mapping[str, Any], newline: str
) -> list[tuple[int, int, str]]:
    """Pieces of the text, from and up to, and what comes in their place."""
    if section.start_mark.index < key.end_mark.index:
        raise _intricate()  # an alias: what it stands for is used elsewhere, too
    if isinstance(section, yaml.ScalarNode):  # `engine:` with nothing, or null
        lines = "".join(f"{newline}  {k}: {_plain(v)}" for k, v in values.items())
        colon = text.index(":", key.end_mark.index) + 1
        return [(colon, max(colon, section.end_mark.index), lines)]
    if not isinstance(section, yaml.MappingNode):
        raise _intricate()
    places = {name.value: (name, value) for name, value in section.value}
    edits: list[tuple[int, int, str]] = []
    new: list[str] = []
    for name, wanted in values.items():
        if name not in places:
            new.append(f"{name}: {_plain(wanted)}")
            continue
        name_node, value = places[name]
        start, end = value.start_mark.index, value.end_mark.index
        if start < name_node.end_mark.index or not isinstance(value, yaml.ScalarNode):
            raise _intricate()
        if start == end:
            raise _intricate()
        edits.append((start, end, _plain(wanted)))
    if new:
        edits.append(_insertion(text, section, new, newline))
    return edits


def _insertion(
    text: str, section: yaml.MappingNode, new: list[str], newline: str
) -> tuple[int, int, str]:
    """New keys before the first one that is there."""
    if section.flow_style:
        brace = section.start_mark.index + 1
        gap = ", " if section.value else ""
        return (brace, brace, ", ".join(new) + gap)
    first = section.value[0][0].start_mark
    indent = " " * first.column
    return (first.index, first.index, "".join(f"{line}{newline}{indent}" for line in new))


def _plain(value: Any) -> str:
    """A number or a word as YAML writes it."""
    text = str(value)
    assert re.fullmatch(r"[A-Za-z0-9_.]+", text), text
    return text


def _intricate() -> ConfigError:
    return ConfigError(
        f"the section `{SECTION}` is written in a way that cannot be edited safely",
        param=SECTION,
        hint="change the keys by hand",
    )


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path} cannot be written: {error.strerror or error}",
        hint="run as the owner of the file, or name another one with --config",
    )
