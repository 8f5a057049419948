"""The catalog: the one that ships, and what is said of a broken one."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.config.tree import Config
from edge.errors import ConfigError
from edge.modelstore.catalog import HuggingFaceSource, PypiSource, load_catalog

ENTRY = """
- name: mine
  title: Mine
  licence: MIT
  size_mb: 1
  context: 2048
  memory_mb: 10
  source: {kind: huggingface, repo: me/mine, file: mine.gguf}
"""


def written(path: Path, entries: str) -> Path:
    path.write_text("models:" + entries.replace("\n", "\n  "), encoding="utf-8")
    return path


def test_the_shipped_catalog() -> None:
    """It has the models we promise, the default one with a digest that was checked."""
    catalog = load_catalog()
    assert list(catalog) == [
        "smollm2-135m-instruct",
        "tinyllama-1.1b-chat",
        "phi-3-mini-4k-instruct",
        "gemma-2b-it",
        "gemma-2-2b-it",
        "all-minilm-l6-v2",
    ]
    default = catalog[Config().models.default]
    assert isinstance(default.source, PypiSource)
    for entry in catalog.values():
        assert entry.memory_mb > entry.size_mb


def test_an_own_entry(tmp_path: Path) -> None:
    """The shortest entry that the README shows is read."""
    catalog = load_catalog(written(tmp_path / "catalog.yaml", ENTRY))
    assert catalog["mine"].source == HuggingFaceSource("me/mine", "mine.gguf", "main")


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        (ENTRY + ENTRY, "'mine' is there twice"),
        (ENTRY.replace("licence", "license"), "model 'mine': Object "),
        (ENTRY.replace("huggingface", "ftp"), "model 'mine': Invalid value 'ftp'"),
        (ENTRY.replace("2048", "lots"), "model 'mine': Expected `int`"),
        (ENTRY.replace("name: mine", "name: ../mine"), "matching regex"),
        (" [", "not valid YAML"),
        (" 3", "Expected `array`"),
    ],
)
def test_a_broken_catalog(tmp_path: Path, entries: str, reason: str) -> None:
    """The error names the file, the model and the key."""
    path = written(tmp_path / "catalog.yaml", entries)
    with pytest.raises(ConfigError) as caught:
        load_catalog(path)
    assert str(path) in caught.value.message
    assert reason in caught.value.message


def test_a_missing_catalog(tmp_path: Path) -> None:
    """A file that cannot be read is an error of the configuration too."""
    with pytest.raises(ConfigError, match="No such file"):
        load_catalog(tmp_path / "none.yaml")
