"""The file of an operator's own questions for new versions of a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.errors import ConfigError
from edge.modelstore.canaries import load_canaries


def test_a_file_of_canaries(tmp_path: Path) -> None:
    """Texts and chats, with what is expected of the answers."""
    path = tmp_path / "m.yaml"
    path.write_text(
        "- {prompt: '2 + 2 =', max_tokens: 4, regex: '4'}\n"
        "- messages: [{role: user, content: Which part}]\n"
        "  json_schema: {type: object, properties: {part: {type: integer}}}\n"
    )
    text, chat = load_canaries(path)
    assert (text.prompt, text.max_tokens, text.regex) == ("2 + 2 =", 4, "4")
    assert chat.messages is not None
    assert chat.messages[0].content == "Which part"
    assert chat.json_schema is not None


@pytest.mark.parametrize("contents", [None, "", "# none yet\n"])
def test_no_canaries(contents: str | None, tmp_path: Path) -> None:
    """No file, or nothing in it."""
    if contents is not None:
        (tmp_path / "m.yaml").write_text(contents)
    assert load_canaries(tmp_path / "m.yaml") == []


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        ("- {prompt: x}", "expects something"),
        ("- {text: x}", "either `prompt` or `messages`"),
        ("- {prompt: x, messages: [{role: user, content: x}], text: y}", "either"),
        ("- {prompt: x, text: y, regx: z}", "regx"),
        ("- {prompt: x, text: Yes}", "got `bool`"),
        ("- {prompt: x, regex: '['}", "`regex` is none"),
        ("prompt: x", "Expected `array`"),
        ("- {prompt: x", "not valid YAML"),
        ("- {prompt: x, text: y, max_tokens: 0}", ">= 1"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(contents: str, said: str, tmp_path: Path) -> None:
    """A canary that was meant and is not understood must not be left out."""
    path = tmp_path / "m.yaml"
    path.write_text(contents)
    with pytest.raises(ConfigError, match=said) as refused:
        load_canaries(path)
    assert str(path) in refused.value.message
