"""Answers to questions in other words, against the whole appliance with a real MiniLM."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bert
import onnx_models
import pytest
from daemon_process import DaemonProcess, running


@pytest.fixture(scope="module")
def daemon(
    tmp_path_factory: pytest.TempPathFactory, default_model_path: Path
) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("semantic")
    onnx_models.install(
        folder / "state" / "models",
        "minilm",
        onnx_models.fetched(onnx_models.MINILM_INT8, "model.onnx"),
        manifest="task: embed\ntext: {max_tokens: 256}\n",
        tokenizer__json=bert.minilm_tokenizer(),
    )
    yaml = "cache: {enabled: true, semantic: {model: minilm}}"
    settings = {"cache__enabled": "true"}
    with running(folder, default_model_path, yaml=yaml, **settings) as daemon:
        # A vector is waited for no longer than an answer would take: the model is there first.
        assert daemon.post("/v1/embeddings", {"input": "Hi"}).status_code == 200
        yield daemon


def ask(daemon: DaemonProcess, text: str, **fields: Any) -> tuple[str, str]:
    """The answer and its route."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 8, **fields}
    answer = daemon.post("/v1/chat/completions", {"temperature": 0, **body})
    assert answer.status_code == 200, answer.text
    found = answer.json()["choices"][0]["message"]["content"]
    return found, answer.headers["x-edge-route"]


def test_other_words(daemon: DaemonProcess) -> None:
    """The kept answer, with the route that says so; also as a stream's text."""
    first, route = ask(daemon, "What does a pressure of 3 bar mean for the press?")
    assert route == "local"
    again = ask(daemon, "Please tell me what a pressure of 3 bar means for the press.")
    assert again == (first, "cache")
    assert daemon.metrics()["edge_answer_cache_similar_total"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "What does a pressure of 9 bar mean for the press?",
        "What does a pressure of 3 psi mean for the press?",
        "What does a pressure of -3 bar mean for the press?",
        "What does no pressure of 3 bar mean for the press?",
        "How is a lathe oiled?",
    ],
)
def test_other_questions(daemon: DaemonProcess, text: str) -> None:
    """However near their vectors are."""
    ask(daemon, "What does a pressure of 3 bar mean for the press?")
    assert ask(daemon, text)[1] == "local"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Why does the red lamp blink?", "Why does the green lamp blink?"),
        ("Who repaired the pump?", "Who broke the pump?"),
        ("Which oil does the gearbox need?", "Which grease does the gearbox need?"),
        ("How do I change the filter?", "How do I clean the filter?"),
    ],
)
def test_one_word_makes_another_question(daemon: DaemonProcess, one: str, other: str) -> None:
    """By the threshold that the appliance has of itself: their cosines are 0.7 to 0.86."""
    ask(daemon, one)
    assert ask(daemon, other)[1] == "local"


def test_what_has_no_one_answer(daemon: DaemonProcess) -> None:
    """Where an identical request would be computed again, so is a like one."""
    one, other = "Why does the motor get hot?", "What is the reason that the motor gets hot?"
    for text in (one, other):
        assert ask(daemon, text, temperature=0.8)[1] == "local"
    ask(daemon, one)
    assert ask(daemon, other, edge={"cache": False})[1] == "local"
    assert ask(daemon, other, max_tokens=9)[1] == "local"
    assert ask(daemon, other)[1] == "cache"
