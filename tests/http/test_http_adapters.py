"""LoRA adapters over HTTP: `model: BASE+ADAPTER` is a model of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import families
import pytest
from adapters import write_adapter, write_merged
from daemon_process import DaemonProcess, poll, running

from edge.modelstore.catalog import FileSource, Wanted
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore

QUESTION = "what does the gauge of press 7 show, and since when?"
SERVED = ("press", "press+formal", "press+quiet", "merged")
SETTINGS = "models: {adapter_scale: {quiet: 0}}"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A model; with an adapter; with one of strength 0; and the first adapter's changes in a file
    of the model's own."""
    folder = tmp_path_factory.mktemp("adapters")
    store = ModelStore(folder / "state" / "models")
    base = families.write(folder / "press.gguf", "tinyllama")
    files = {
        "press": base,
        "formal": write_adapter(folder / "formal.gguf", base),
        "quiet": write_adapter(folder / "quiet.gguf", base, 2),
        "merged": write_merged(folder / "merged.gguf", base),
    }
    for name, path in files.items():
        pull(store, Wanted(name=name, source=FileSource(str(path))))
    settings: dict[str, Any] = {
        "models__preload": "[press, merged]",
        "models__default": "press",
        "engine__slots": 2,
        "cache__enabled": "true",
        "yaml": SETTINGS,
    }
    with running(folder, base, **settings) as daemon:
        yield daemon


def ask(house: DaemonProcess, model: str, question: str = QUESTION) -> tuple[str, int]:
    """The answer, and how many tokens of its prompt were there."""
    body = {"model": model, "messages": [{"role": "user", "content": question}]}
    body |= {"temperature": 0, "max_tokens": 24, "edge": {"cache": False}}
    answer = house.post("/v1/chat/completions", body)  # loads those with adapters
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Edge-Model"] == answer.json()["model"] == model
    usage = answer.json()["usage"]["prompt_tokens_details"]
    return answer.json()["choices"][0]["message"]["content"], usage["cached_tokens"]


def test_each_answers_as_itself(house: DaemonProcess) -> None:
    """The adapter changes the answer, to that of the changed weights; at strength 0 nothing."""
    press, formal, quiet, merged = (ask(house, name)[0] for name in SERVED)
    assert formal != press
    assert formal == merged
    assert quiet == press


def test_no_prefix_is_shared(house: DaemonProcess) -> None:
    """What was computed without an adapter is of no use with one, nor with another; each has its
    own, and the folders of those that outlive the process are apart."""
    question = "a question that was never asked before: " + QUESTION
    cached = {name: ask(house, name, question)[1] for name in SERVED}
    again = {name: ask(house, name, question)[1] for name in SERVED}
    assert max(cached.values()) < 30
    assert min(again.values()) > 60
    folders = [path.name for path in (house.folder / "state" / "prefixes").glob("*-*")]
    assert len(folders) == 4
    assert len({name.partition("-")[0] for name in folders}) == 2


def test_answers_are_kept_apart(house: DaemonProcess) -> None:
    """By the cache too."""
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "how warm?"}]}
    body |= {"temperature": 0, "max_tokens": 16}

    def heard(model: str) -> tuple[str, str]:
        answer = house.post("/v1/chat/completions", {**body, "model": model})
        text = answer.json()["choices"][0]["message"]["content"]
        return text, answer.headers["X-Edge-Route"]

    press, formal = heard("press"), heard("press+formal")
    assert (press[1], formal[1]) == ("local", "local")
    assert heard("press+formal") == (formal[0], "cache")
    assert press[0] != formal[0]


def test_a_worker_that_died_comes_back_with_its_adapter(house: DaemonProcess) -> None:
    """It is told again what to load."""
    before, _ = ask(house, "press+formal")
    pid = house.status("press+formal")["pid"]
    os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        status = house.status("press+formal")
        return status["state"] == "ready" and status["pid"] not in (None, pid)

    poll(back, "a new worker")
    assert ask(house, "press+formal")[0] == before


def test_its_memory_is_counted(house: DaemonProcess) -> None:
    """With that of the model."""
    weights = [house.status(name)["memory"]["weights_bytes"] for name in SERVED[:2]]
    adapter = ModelStore(house.folder / "state" / "models").path("formal")
    assert weights[1] - weights[0] == adapter.stat().st_size


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("press+nobody", "`press` has no adapter `nobody` here"),
        ("nobody+formal", "there is no model `nobody`"),
        ("formal", "the model `formal` is not served here; these are: press, merged"),
    ],
)
def test_what_is_not_served(house: DaemonProcess, model: str, reason: str) -> None:
    """404 that says which of both is missing, and never another model's answer."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    answer = house.post("/v1/chat/completions", body)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert reason in answer.json()["error"]["message"]


def test_a_start_without_the_adapter(start: Any, tmp_path: Path) -> None:
    """It says which of both is missing."""
    base = families.write(tmp_path / "press.gguf", "tinyllama")
    daemon = start(model_file=base, preload=("press",), models__default="press+nobody")
    assert daemon.process.wait(60) == 1
    assert "the adapter 'nobody' of 'press+nobody' is not installed" in daemon.log
