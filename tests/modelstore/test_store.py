"""The models directory: what is in it, what is not, and who may change it."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from filled_store import add, add_as_before
from tinymodel import write_model

from edge.errors import ModelInUse, ModelNotFound, PullFailed, StoreBroken
from edge.modelstore.store import ModelStore


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def test_an_empty_store(store: ModelStore) -> None:
    """A directory that is not there yet has no models, and is not made by asking."""
    assert store.installed() == []
    assert not store.directory.exists()


def test_add_and_find(store: ModelStore) -> None:
    """A model that was added is found by name, with what is known of it, as version 1."""
    model = add(store, "mine")
    assert store.installed() == [model] == [store.find("mine")] == [store.find("mine@1")]
    assert store.path("mine") == model.path
    assert model.path.name == f"sha256-{hashlib.sha256(model.path.read_bytes()).hexdigest()}.gguf"
    manifest = model.manifest
    assert manifest
    assert (manifest.architecture, manifest.quantization, manifest.context) == ("llama", "F32", 256)
    assert (manifest.chat_template, manifest.licence) == (True, "MIT")
    assert store.find("mine@2") is None


def test_a_second_version_waits(store: ModelStore) -> None:
    """It is there and found, but the name means the first until somebody says otherwise."""
    first, second = add(store, "mine"), add(store, "mine", numbers=512)
    assert (first.version, second.version, second.active) == (1, 2, False)
    assert store.find("mine") == first
    assert store.path("mine@2") == second.path
    store.activate("mine", 2)
    assert store.path("mine") == second.path
    (one, two) = store.known("mine").versions
    assert two.activated_by == one.activated_by != ""
    assert one.activated_at
    assert two.activated_at
    assert one.activated_at < two.activated_at
    assert store.roll_back("mine").path == first.path == store.path("mine")
    with pytest.raises(ModelNotFound, match="no version 3") as caught:
        store.activate("mine", 3)
    assert caught.value.hint == "its versions: 1, 2"


def test_no_way_back_from_the_first(store: ModelStore) -> None:
    """An error, and the name means what it did; a version that never was active is no way back."""
    add(store, "mine")
    add(store, "mine", numbers=512)
    with pytest.raises(ModelNotFound, match="no other version before"):
        store.roll_back("mine")
    with pytest.raises(ModelNotFound, match="not installed"):
        store.roll_back("other")


def test_the_same_contents_are_there_once(store: ModelStore) -> None:
    """Under the same name they are no new version, under another one they share the file."""
    assert add(store, "mine") == add(store, "mine")
    assert add(store, "yours").path == store.path("mine")
    assert len(list(store.blobs.iterdir())) == 1


def test_a_model_copied_in_by_hand(store: ModelStore) -> None:
    """No manifest is needed, and one that is broken does no harm."""
    store.directory.mkdir()
    for name in "ab":
        write_model(store.directory / f"{name}.gguf")
    (store.directory / "b.json").write_text("{", encoding="utf-8")
    assert [(model.name, model.manifest) for model in store.installed()] == [
        ("a", None),
        ("b", None),
    ]


def test_what_is_copied_in_wins(store: ModelStore) -> None:
    """Whoever copies a file over a name wants that file, and nothing is put behind it unseen."""
    add(store, "mine")
    path = write_model(store.directory / "mine.gguf", numbers=512)
    assert store.path("mine") == path
    with pytest.raises(PullFailed, match="copied in by hand"):
        add(store, "mine", numbers=1024)
    with pytest.raises(ModelNotFound):
        store.activate("mine", 1)
    path.unlink()
    assert store.find("mine@1") == store.find("mine") == store.installed()[0]


def test_an_earlier_release(store: ModelStore) -> None:
    """Its models are found as they are, and taken over without a copy."""
    content = add_as_before(store, "mine")
    inode = store.path("mine").stat().st_ino
    before = store.find("mine")
    store.take_over()
    model = store.get("mine")
    assert (model.version, model.path.parent) == (1, store.blobs)
    assert (model.path.stat().st_ino, model.path.read_bytes()) == (inode, content)
    assert before
    assert model.manifest == before.manifest
    assert list(store.directory.glob("mine*")) == []
    store.take_over()
    assert store.get("mine") == model


def test_an_earlier_release_that_is_served(store: ModelStore) -> None:
    """A file in use stays where it is; a new version has to wait."""
    add_as_before(store, "mine")
    with store.hold("mine") as model:
        store.take_over()
        assert store.find("mine") == model
        with pytest.raises(ModelInUse):
            add(store, "mine", numbers=512)
        assert model.path.exists()
    assert add(store, "mine", numbers=512).version == 2
    assert store.get("mine").version == 1


def test_a_broken_name(store: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    """It is named, and the others are found nevertheless."""
    add(store, "mine")
    other = add(store, "other", numbers=512)
    (store.names / "mine.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreBroken, match=r"mine\.json"):
        store.find("mine")
    assert store.installed() == [other]
    assert "mine.json" in caplog.text


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


def test_a_version_is_no_name(store: ModelStore) -> None:
    """Nothing new can be called what means a version of something else."""
    with pytest.raises(ModelNotFound, match="mine@2"):
        add(store, "mine@2")


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
