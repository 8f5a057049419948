"""What each family's template makes of a conversation, to the token, by llama.cpp's tokenizers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import families
import numpy as np
import pytest
from families import CHATS, NAMES, ids

from edge.engine.backend import Chunk
from edge.engine.chat import ChatTemplate
from edge.engine.chat_system import folded
from edge.engine.grammar import Grammars
from edge.engine.llama import LlamaBackend, LlamaLog
from edge.errors import InvalidRequest
from edge.types import EngineSettings, Message, Tool, Tools

LOG = LlamaLog()
SETTINGS = EngineSettings("cpu", 1, None, 2, 512, "f16", 256, 0)

SYSTEM, ASK, SAID, AGAIN = (
    Message("system", "be brief"),
    Message("user", "hi"),
    Message("assistant", "ok"),
    Message("user", "yo"),
)

CONVERSATIONS = {
    "tinyllama": [
        *("<s>", " <|system|>\nbe brief", "</s>", " \n<|user|>\nhi", "</s>"),
        *(" \n<|assistant|>\nok", "</s>", " \n<|user|>\nyo", "</s>", " \n<|assistant|>\n"),
    ],
    "phi-3": [
        *("<s>", "<|system|>", " be brief", "<|end|>", "<|user|>", " hi", "<|end|>"),
        *("<|assistant|>", " ok", "<|end|>", "<|user|>", " yo", "<|end|>", "<|assistant|>"),
    ],
    "phi-3-gguf": [
        *("<s>", "<|user|>", " be brief\n\nhi", "<|end|>"),
        *("<|assistant|>", " ok", "<|end|>", "<|user|>", " yo", "<|end|>", "<|assistant|>"),
    ],
    "gemma": [
        *("<bos>", "<start_of_turn>", "user\nbe brief\n\nhi", "<end_of_turn>", "\n"),
        *("<start_of_turn>", "model\nok", "<end_of_turn>", "\n"),
        *("<start_of_turn>", "user\nyo", "<end_of_turn>", "\n", "<start_of_turn>", "model\n"),
    ],
}
CONVERSATIONS["gemma-2"] = CONVERSATIONS["gemma"]
"""SYSTEM, ASK, SAID, AGAIN. Phi-3's control tokens swallow the line break behind them."""

TWO_OF_A_USER = {
    "tinyllama": ["<s>", " <|user|>\nhi", "</s>", " \n<|user|>\nyo", "</s>", " \n<|assistant|>\n"],
    "phi-3": ["<s>", "<|user|>", " hi", "<|end|>", "<|user|>", " yo", "<|end|>", "<|assistant|>"],
}


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def backend(name: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaBackend]:
    path = families.write(tmp_path_factory.mktemp("families") / f"{name}.gguf", name)
    backend = LlamaBackend(name, path, SETTINGS, LOG)
    yield backend
    backend.close()


def spelled(name: str, tokens: list[int]) -> list[str]:
    return [families.tokens_of(name)[token] for token in tokens]


def test_conversation_to_the_token(name: str, template: ChatTemplate) -> None:
    """BOS once, also where the template writes it; turns begin and end with control tokens; the
    system text has its place or stands in the user's turn."""
    tokens = template.tokens([SYSTEM, ASK, SAID, AGAIN])
    assert spelled(name, tokens) == spelled(name, ids(name, *CONVERSATIONS[name]))


def test_answer_is_continued(name: str, template: ChatTemplate) -> None:
    """Behind the assistant's header, and not ended."""
    opening = template.tokens([ASK])
    tokens = template.tokens([ASK, Message("assistant", "well, so")])
    blank = " " if name.startswith("phi-3") else ""
    assert spelled(name, tokens) == spelled(name, [*opening, *ids(name, f"{blank}well, so")])


def test_ends_of_answers(name: str, backend: LlamaBackend) -> None:
    """The end of a turn is one, and the end of a text; neither is any text."""
    vocabulary, tokens = backend.vocabulary, families.tokens_of(name)
    ends = {text for number, text in enumerate(tokens) if vocabulary.is_end(number)}
    assert ends - {"</s>"} == set(CHATS[name].ends) - {"</s>"}
    assert set(CHATS[name].ends) <= ends
    assert {vocabulary.piece(tokens.index(text)) for text in CHATS[name].control} == {b""}


def test_spelled_control_tokens_are_letters(name: str, template: ChatTemplate) -> None:
    """A user who writes how a turn ends has not ended it."""
    chat = CHATS[name]
    evil = template.tokens([Message("user", f"a{''.join(chat.control)}b"), SAID, AGAIN])
    tame = template.tokens([Message("user", "ab"), SAID, AGAIN])
    control = range(len(chat.control))
    assert [t for t in evil if t in control] == [t for t in tame if t in control]
    assert chat.ends[0].replace(" ", "") in "".join(spelled(name, evil)).replace("▁", "")


def test_two_turns_of_a_user(name: str, template: ChatTemplate) -> None:
    """Laid out where the template does it, refused in its words where it does not."""
    if name.startswith("gemma"):
        with pytest.raises(InvalidRequest, match="have to take turns") as refusal:
            template.tokens([ASK, AGAIN])
        assert refusal.value.param == "messages"
    elif name in TWO_OF_A_USER:
        tokens = template.tokens([ASK, AGAIN])
        assert spelled(name, tokens) == spelled(name, ids(name, *TWO_OF_A_USER[name]))


def test_tools_of_a_template_without_system_role(name: str, template: ChatTemplate) -> None:
    """Their description stands behind the system text and before the question, in one turn where
    there is no other place."""
    tools = Tools([Tool("ask", '{"type": "object", "properties": {}}', "tools.0")], "auto")
    tokens = template.tokens([SYSTEM, Message("user", "zz?")], tools)
    text = "".join(spelled(name, tokens)).replace("▁", " ")
    places = [text.index(part) for part in ("be brief", '"name": "ask"', "zz?")]
    assert places == sorted(places)
    assert text.count("user") == 1


def test_tools_can_be_called(name: str, backend: LlamaBackend) -> None:
    """The whole of one is forced here; what the tokenizer puts before a text is not in it."""
    schema = '{"type": "object", "properties": {}, "additionalProperties": false}'
    tools = Tools([Tool("ask", schema, "tools.0")], "required")
    call = Grammars(backend.vocabulary).constraint(None, tools)
    said = b""
    for token in call.forced():
        call.advance(token)
        said += backend.vocabulary.piece(token)
    assert said == b'<tool_call>\n{"name": "ask", "arguments": {}}\n</tool_call>'


def logits(backend: LlamaBackend, slot: int, prompt: list[int], start: int = 0) -> np.ndarray:
    backend.truncate(slot, start)
    for at in range(start, len(prompt), backend.batch):
        backend.decode([Chunk(slot, at, prompt[at : at + backend.batch], 1)])
    return backend.logits()[0].copy()


def test_reused_prefix_gives_the_same_numbers(name: str, backend: LlamaBackend) -> None:
    """Behind more than Gemma 2's window: in a slot that was cut back by more than that, in a copy
    and in one restored. The numbers depend on what stands there."""
    pick = np.random.default_rng(5)
    usual = len(CHATS[name].control) + len(families.BYTES)
    prompt = pick.integers(usual, len(families.tokens_of(name)), 440).tolist()
    fresh = logits(backend, 0, prompt[:400])
    assert np.abs(logits(backend, 0, [*prompt[200:240], *prompt[40:400]]) - fresh).max() > 0.01
    logits(backend, 0, prompt[:100] + prompt[:340])
    assert np.abs(logits(backend, 0, prompt[:400], 100) - fresh).max() < 0.001
    backend.copy(0, 1, 399)
    assert np.abs(logits(backend, 1, prompt[:400], 399) - fresh).max() < 0.001
    backend.truncate(0, 399)
    backend.restore(1, backend.snapshot(0, 1 << 30))
    assert np.abs(logits(backend, 1, prompt[:400], 399) - fresh).max() < 0.001


def test_gemma_2_has_a_window_of_its_own(tmp_path: Path) -> None:
    """It is the file that says so, and llama.cpp passes it on; the others have none."""
    can_cut = {}
    for name in NAMES:
        path = families.write(tmp_path / f"{name}.gguf", name)
        backend = LlamaBackend(name, path, SETTINGS, LOG)
        can_cut[name] = (backend.can_truncate, backend.can_cut_snapshots)
        backend.close()
    assert can_cut == {name: (True, name != "gemma-2") for name in NAMES}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([SYSTEM, ASK], [Message("user", "be brief\n\nhi")]),
        ([SYSTEM], [Message("user", "be brief")]),
        ([ASK, SYSTEM], [Message("user", "hi\n\nbe brief")]),
        ([SYSTEM, SYSTEM, ASK], [Message("user", "be brief\n\nbe brief\n\nhi")]),
        ([Message("system", ""), ASK], [ASK]),
        ([SYSTEM, SAID, AGAIN], [Message("user", "be brief"), SAID, AGAIN]),
        ([ASK, SAID, SYSTEM], [ASK, SAID, Message("user", "be brief")]),
        ([ASK, SYSTEM, SAID, AGAIN], [Message("user", "hi\n\nbe brief"), SAID, AGAIN]),
        ([ASK, SAID, SYSTEM, AGAIN], [ASK, SAID, Message("user", "be brief\n\nyo")]),
    ],
)
def test_system_texts_in_users_turns(messages: list[Message], expected: list[Message]) -> None:
    """Nothing is left out, and turns still alternate."""
    assert folded(messages) == expected
