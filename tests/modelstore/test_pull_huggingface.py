"""Pulling from a hub over real HTTP: a child process plays the hub and its faults."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from tinymodel import write_model

from edge.errors import BadModelFile, PullFailed
from edge.modelstore.catalog import Entry, HuggingFaceSource
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore

COMMIT = "c" * 40
CHUNK = 10 << 20  # the hub's client writes in pieces of this size


class Hub:
    def __init__(self, url: str, model: bytes) -> None:
        self.url = url
        self.model = model

    def downloads(self, repo: str) -> list[dict[str, str | None]]:
        """The GET requests for files of a repository so far."""
        with urllib.request.urlopen(f"{self.url}/requests") as answer:
            seen = json.load(answer)
        return [it for it in seen if it["method"] == "GET" and f"/{repo}/" in it["path"]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, bytes]]:
    path = write_model(tmp_path_factory.mktemp("hub") / "model.gguf", numbers=6_000_000)
    command = [sys.executable, str(Path(__file__).with_name("hub.py")), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", path.read_bytes()
        process.kill()


@pytest.fixture
def hub(server: tuple[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setenv("HF_ENDPOINT", server[0])
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return Hub(*server)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def entry_of(repo: str) -> Entry:
    return Entry(
        name="tiny",
        title="Tiny",
        licence="MIT",
        size_mb=24,
        context=256,
        memory_mb=50,
        source=HuggingFaceSource(f"org/{repo}", "model.gguf", "main"),
    )


def test_a_pull(hub: Hub, store: ModelStore) -> None:
    """The file, its digest and the commit it is of; progress up to the last byte."""
    seen: list[tuple[int, int]] = []
    path = pull(store, entry_of("good"), lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == hub.model
    manifest = store.installed()[0].manifest
    assert manifest
    assert (manifest.source, manifest.revision) == ("huggingface:org/good/model.gguf@main", COMMIT)
    assert seen[0][0] == 0
    assert seen[-1] == (len(hub.model), len(hub.model))
    assert seen == sorted(seen)
    assert hub.downloads("good")[-1]["path"] == f"/org/good/resolve/{COMMIT}/model.gguf"


def test_the_token_stays_with_the_hub(hub: Hub, store: ModelStore) -> None:
    """The hub gets the token; the other host that it sends us to does not."""
    assert pull(store, entry_of("redirected")).read_bytes() == hub.model
    assert hub.downloads("redirected")[-1]["authorization"] == "Bearer hf_secret"
    redirected = [seen for seen in hub.downloads("good") if str(seen["path"]).startswith("/cdn/")]
    assert redirected
    assert all(seen["authorization"] is None for seen in redirected)


def test_a_cut_is_mended_at_once(hub: Hub, store: ModelStore) -> None:
    """A connection that breaks is taken up again where it broke."""
    seen: list[tuple[int, int]] = []
    path = pull(store, entry_of("cut"), lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == hub.model
    assert [it["range"] for it in hub.downloads("cut")] == [None, f"bytes={CHUNK}-"]
    assert seen == sorted(seen)


def test_the_next_pull_goes_on(hub: Hub, store: ModelStore) -> None:
    """A pull that failed half-way keeps its bytes for the next one, and is no model."""
    with pytest.raises(PullFailed) as caught:
        pull(store, entry_of("cut-and-ill"))
    assert caught.value.hint
    assert store.installed() == []
    seen: list[tuple[int, int]] = []
    path = pull(store, entry_of("cut-and-ill"), lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == hub.model
    assert hub.downloads("cut-and-ill")[-1]["range"] == f"bytes={CHUNK}-"
    assert seen[0][0] == CHUNK


def test_a_wrong_digest(hub: Hub, store: ModelStore) -> None:
    """Bytes that are not what the hub published are neither installed nor kept."""
    with pytest.raises(PullFailed, match="has the digest"):
        pull(store, entry_of("lying"))
    assert store.installed() == []
    assert list(store.directory.rglob("*.part")) == []


def test_a_web_page_instead(hub: Hub, store: ModelStore) -> None:
    """What a hub serves faithfully and is no model is not installed."""
    with pytest.raises(BadModelFile, match=r"org/webpage.*web page"):
        pull(store, entry_of("webpage"))
    assert store.installed() == []


@pytest.mark.parametrize(
    ("repo", "message", "hint"),
    [
        ("gated", "accepted its licence", "accept the licence .* set HF_TOKEN"),
        ("private", "does not exist or is private", "HF_TOKEN"),
        ("fileless", "has no file 'model.gguf'", "catalog"),
        ("revisionless", "has no revision 'main'", "catalog"),
        ("ill", "answered 500", "network"),
    ],
)
def test_refusals(hub: Hub, store: ModelStore, repo: str, message: str, hint: str) -> None:
    """Each answer of the hub says what to do about it."""
    with pytest.raises(PullFailed, match=message) as caught:
        pull(store, entry_of(repo))
    assert re.search(hint, caught.value.hint or "")


def test_a_malformed_repository(hub: Hub, store: ModelStore) -> None:
    """A name that cannot be a repository is a fault of the catalog."""
    with pytest.raises(PullFailed, match=r"[Rr]epo id"):
        pull(store, entry_of("a/b"))


def test_no_network(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that cannot be reached is called that."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PullFailed, match="could not be reached"):
        pull(store, entry_of("good"))


def test_two_pulls_at_once(hub: Hub, store: ModelStore) -> None:
    """Both get the model; it is downloaded once."""
    before = len(hub.downloads("good"))
    together, paths = threading.Barrier(2), []

    def one() -> None:
        together.wait()
        paths.append(pull(store, entry_of("good")))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [store.path("tiny")] * 2
    assert len(hub.downloads("good")) == before + 1
