"""Pulling from a hub over real HTTP: a child process plays the hub and its faults."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from hub_client import Hub

from edge.errors import BadModelFile, PullFailed
from edge.modelstore.catalog import Entry, HuggingFaceSource
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore

COMMIT = "c" * 40
CHUNK = 10 << 20  # the hub's client writes in pieces of this size


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def entry_of(repo: str, file: str = "model.gguf") -> Entry:
    return Entry(
        name="tiny",
        title="Tiny",
        licence="MIT",
        size_mb=24,
        context=256,
        memory_mb=50,
        source=HuggingFaceSource(f"org/{repo}", file, "main"),
    )


def test_a_pull(hub: Hub, store: ModelStore) -> None:
    """The file, its digest and the commit it is of; progress up to the last byte."""
    seen: list[tuple[int, int]] = []
    path = pull(store, entry_of("good"), lambda done, total: seen.append((done, total))).path
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
    assert pull(store, entry_of("redirected")).path.read_bytes() == hub.model
    assert hub.downloads("redirected")[-1]["authorization"] == "Bearer hf_secret"
    redirected = [seen for seen in hub.downloads("good") if str(seen["path"]).startswith("/cdn/")]
    assert redirected
    assert all(seen["authorization"] is None for seen in redirected)


def test_a_cut_is_mended_at_once(hub: Hub, store: ModelStore) -> None:
    """A connection that breaks is taken up again where it broke."""
    seen: list[tuple[int, int]] = []
    path = pull(store, entry_of("cut"), lambda done, total: seen.append((done, total))).path
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
    path = pull(store, entry_of("cut-and-ill"), lambda done, total: seen.append((done, total))).path
    assert path.read_bytes() == hub.model
    assert hub.downloads("cut-and-ill")[-1]["range"] == f"bytes={CHUNK}-"
    assert seen[0][0] == CHUNK


def test_a_model_in_parts(hub: Hub, store: ModelStore) -> None:
    """All of them, of one commit, joined to what they were before; another pull finds it."""
    entry = entry_of("good", "q4/split-00001-of-00003.gguf")
    seen: list[tuple[int, int]] = []
    model = pull(store, entry, lambda done, total: seen.append((done, total)))
    assert model.path.read_bytes() == hub.model
    assert model.manifest
    assert (model.manifest.source, model.manifest.revision) == (str(entry.source), COMMIT)
    assert seen == sorted(seen)
    assert (seen[0][0], seen[-1][0]) == (0, seen[-1][1])
    asked = [str(it["path"]) for it in hub.downloads("good") if "split-" in str(it["path"])]
    parts = [f"q4/split-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    assert asked == [f"/org/good/resolve/{COMMIT}/{part}" for part in parts]
    assert pull(store, entry) == model


def test_the_next_pull_of_parts_goes_on(hub: Hub, store: ModelStore) -> None:
    """What is there of the parts is not fetched again."""
    entry = entry_of("cut-and-ill", "split-00001-of-00003.gguf")
    tries = 0
    while store.find("tiny") is None:
        tries += 1
        seen: list[tuple[int, int]] = []
        try:
            pull(store, entry, lambda done, total, seen=seen: seen.append((done, total)))
        except PullFailed:
            assert store.installed() == []
    assert tries > 1
    assert seen[0][0] >= CHUNK
    assert store.path("tiny").read_bytes() == hub.model


def test_a_foreign_part(hub: Hub, store: ModelStore) -> None:
    """It is named, nothing is installed, and nothing is kept that no further try could use."""
    with pytest.raises(BadModelFile, match=r"foreign-00002-of-00002\.gguf.*does not belong"):
        pull(store, entry_of("good", "foreign-00001-of-00002.gguf"))
    assert store.installed() == []
    assert list(store.partial.rglob("*.part")) == []


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
        paths.append(pull(store, entry_of("good")).path)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [store.path("tiny")] * 2
    assert len(hub.downloads("good")) == before + 1
