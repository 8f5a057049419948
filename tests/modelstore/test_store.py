"""The models directory: what is in it, what is not, and who may change it."""

from __future__ import annotations

import datetime
import threading
from pathlib import Path

import pytest
from tinymodel import write_model

from edge.errors import ModelNotFound
from edge.modelstore.store import Manifest, ModelStore

MANIFEST = Manifest(
    source="pypi:x==1/y",
    sha256="0" * 64,
    size=12,
    licence="MIT",
    pulled_at=datetime.datetime(2024, 5, 1, tzinfo=datetime.timezone.utc),
)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def add(store: ModelStore, name: str) -> Path:
    with store.claim(name) as folder:
        return store.add(name, write_model(folder / "model.gguf"), MANIFEST)


def test_an_empty_store(store: ModelStore) -> None:
    """A directory that is not there yet has no models, and is not made by asking."""
    assert store.installed() == []
    assert not store.directory.exists()


def test_add_and_find(store: ModelStore) -> None:
    """A model that was added is found by name, with its manifest."""
    path = add(store, "mine")
    assert store.path("mine") == path == store.directory / "mine.gguf"
    (model,) = store.installed()
    assert (model.name, model.size, model.manifest) == ("mine", path.stat().st_size, MANIFEST)


def test_a_model_copied_in_by_hand(store: ModelStore) -> None:
    """No manifest is needed, and one that is broken does no harm."""
    add(store, "b")
    write_model(store.directory / "a.gguf")
    (store.directory / "b.json").write_text("{", encoding="utf-8")
    assert [(model.name, model.manifest) for model in store.installed()] == [
        ("a", None),
        ("b", None),
    ]


def test_partial_downloads_are_no_models(store: ModelStore) -> None:
    """What a pull is working on is neither listed nor found."""
    with store.claim("mine") as folder:
        write_model(folder / "model.gguf")
        assert store.installed() == []
        with pytest.raises(ModelNotFound):
            store.path(".partial/mine/model")


def test_odd_names_are_not_listed(store: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    """A file whose name cannot be asked for is left out, and the log says so."""
    store.directory.mkdir()
    write_model(store.directory / "my model (1).gguf")
    assert store.installed() == []
    assert "rename the file" in caplog.text


@pytest.mark.parametrize(
    "name",
    ["../secret", "a/b", "/etc/passwd", "..", ".", "", ".hidden", "a\0b", "a\n", "x" * 129, "ä"],
)
def test_names_that_lead_elsewhere(store: ModelStore, tmp_path: Path, name: str) -> None:
    """No name reaches a file outside of the directory."""
    store.directory.mkdir()
    write_model(tmp_path / "secret.gguf")
    for use in (store.path, store.find, lambda name: store.claim(name).__enter__()):
        with pytest.raises(ModelNotFound):
            use(name)


def test_the_hint_for_a_missing_model(store: ModelStore) -> None:
    """A model of the catalog can be pulled; for any other, the installed ones are named."""
    with pytest.raises(ModelNotFound) as caught:
        store.path("gemma-2b-it")
    assert caught.value.hint == "edge models pull gemma-2b-it"
    add(store, "mine")
    with pytest.raises(ModelNotFound) as caught:
        store.path("other")
    assert caught.value.hint == "installed models: mine"


def test_one_claim_at_a_time(store: ModelStore) -> None:
    """A second claim on a model waits for the first; one on another model does not."""
    order = []
    started = threading.Event()

    def second() -> None:
        started.set()
        with store.claim("mine"):
            order.append("second")

    with store.claim("mine"), store.claim("other"):
        thread = threading.Thread(target=second)
        thread.start()
        started.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
