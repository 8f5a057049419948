"""The configuration after `edge tune`: the wanted keys are changed, all else is the user's."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge.config import reader
from edge.errors import ConfigError
from edge.tuning.config_edit import MARK, check_writable, edited, write

WANTED = {"threads": 4, "kv_type": "q8_0"}
COMMENT = ["threads 4: 1.4 times as fast", "measured on a Tuesday"]

FILES = {
    "nothing": "",
    "only a comment": "# ours\n",
    "without the section": "# ours\nhttp: {port: 9000}  # the door\n",
    "no newline at the end": "http:\n  port: 9000",
    "block": "http:\n  port: 9000\n\n# the engine\nengine:  # ours\n  # cores\n"
    "  threads: 2  # two\n\n  slots: 4\nmodels:\n  default: tiny\n",
    "both keys": "engine:\n    kv_type:   'f16'   # safe\n    threads: auto\n# end\n",
    "flow": "engine: {slots: 4, threads: 2}  # ours\nhttp: {port: 9000}\n",
    "empty flow": "engine: {}\nhttp: {port: 9000}\n",
    "flow over lines": "engine: {\n  slots: 4,   # few\n  threads: 2,\n}\n",
    "nothing in it": "engine:\nhttp: {port: 9000}\n",
    "nothing in it, at the end": "http: {port: 9000}\nengine:",
    "null": "engine: null  # later\nhttp: {port: 9000}\n",
    "tilde": "engine: ~\n",
    "windows": "http:\r\n  port: 9000\r\nengine:\r\n  threads: 2\r\n",
    "umlauts": "device: {site: Prüfstand Süd}\nengine: {threads: 2}\n",
    "document mark": "---\nengine:\n  threads: 2\n",
}


@pytest.mark.parametrize("name", FILES)
def test_only_the_wanted_keys_change(name: str) -> None:
    """Every line of the user's is there still, except for the values."""
    text = FILES[name]
    before, after = yaml.safe_load(text) or {}, yaml.safe_load(edited(text, WANTED, COMMENT))
    assert after == {**before, "engine": {**(before.get("engine") or {}), **WANTED}}
    comments = [line.partition("#")[2] for line in text.splitlines() if "#" in line]
    new = edited(text, WANTED, COMMENT)
    assert all(f"#{comment}" in new for comment in comments)
    assert [line for line in new.splitlines() if line.startswith(MARK)] == [
        f"{MARK}{line}" for line in COMMENT
    ]
    assert ("\r\n" in text) == ("\r\n" in new)


def test_layout_stays() -> None:
    """Byte for byte, around what was changed."""
    assert edited(FILES["block"], WANTED, COMMENT) == (
        "http:\n  port: 9000\n\n# the engine\n"
        "# tune: threads 4: 1.4 times as fast\n# tune: measured on a Tuesday\n"
        "engine:  # ours\n  # cores\n  kv_type: q8_0\n  threads: 4  # two\n\n"
        "  slots: 4\nmodels:\n  default: tiny\n"
    )


@pytest.mark.parametrize("name", FILES)
def test_measurements_of_an_earlier_run_are_replaced(name: str) -> None:
    """The file does not grow."""
    once = edited(FILES[name], WANTED, COMMENT)
    assert edited(once, WANTED, COMMENT) == once
    assert edited(once, {"threads": 1}, ["new"]).count(MARK) == 1


@pytest.mark.parametrize(
    "text",
    [
        "{engine: {threads: 2}}\n",
        "http: &a {port: 9000}\nengine: *a\n",
        "limits: {max_waiting: &n 2}\nengine: {threads: *n}\n",
        "engine: [1, 2]\n",
        "engine: {threads: }\n",
        "engine:\n  threads:\n  slots: 2\n",
    ],
)
def test_what_cannot_be_edited_safely_is_refused(text: str) -> None:
    """Rather than to guess."""
    with pytest.raises(ConfigError, match="safely"):
        edited(text, WANTED, COMMENT)


def test_write_replaces_the_file_and_keeps_a_copy(tmp_path: Path) -> None:
    """Rights stay, a link stays a link, and the old text is beside it."""
    real, link = tmp_path / "real.yaml", tmp_path / "edge.yaml"
    real.write_text(FILES["flow"])
    real.chmod(0o640)
    link.symlink_to(real)
    check_writable(link)
    backup = write(link, WANTED, COMMENT)
    assert link.is_symlink()
    assert backup.read_text() == FILES["flow"]
    assert real.stat().st_mode & 0o777 == 0o640
    assert reader.load(str(link), environ={}).engine.threads == 4
    assert sorted(os.listdir(tmp_path)) == sorted([backup.name, "edge.yaml", "real.yaml"])


def test_value_that_the_configuration_refuses_changes_nothing(tmp_path: Path) -> None:
    """The draft is read as `edge serve` would before it becomes the file."""
    path = tmp_path / "edge.yaml"
    path.write_text(FILES["block"])
    with pytest.raises(ConfigError, match="threads"):
        write(path, {"threads": 0}, [])
    assert path.read_text() == FILES["block"]


@pytest.mark.parametrize("call", ["mkstemp", "copy2", "fsync"])
def test_disk_that_refuses_leaves_the_file(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clear error that names the file; nothing is left beside it but a copy."""
    path = tmp_path / "edge.yaml"
    path.write_text(FILES["block"])

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    place = {"mkstemp": "tempfile.mkstemp", "copy2": "shutil.copy2", "fsync": "os.fsync"}[call]
    monkeypatch.setattr(place, refuse)
    with pytest.raises(ConfigError, match="No space left"):
        write(path, WANTED, COMMENT)
    assert path.read_text() == FILES["block"]
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_file_that_cannot_be_written_is_known_before(tmp_path: Path) -> None:
    """Not after minutes of measuring."""
    with pytest.raises(ConfigError, match="cannot be written"):
        check_writable(tmp_path / "missing" / "edge.yaml")
    with pytest.raises(ConfigError, match="cannot be written"):
        check_writable(tmp_path / "missing.yaml")
