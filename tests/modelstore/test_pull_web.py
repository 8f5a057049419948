"""Pulling from a plain address, with the faults of the child process that also plays the hub."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import types
from pathlib import Path

import pytest
from hub_client import Hub

from edge.errors import BadModelFile, PullFailed
from edge.modelstore import web, workspace
from edge.modelstore.catalog import UrlSource, Wanted
from edge.modelstore.pace import Pace
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore

CUT_AT = 12_000_000


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelStore:
    monkeypatch.setattr(web, "PAUSES", (0.0, 0.0))
    return ModelStore(tmp_path / "models")


def wanted(hub: Hub, repo: str, sha256: str | None = None) -> Wanted:
    """Addresses that are not the hub's own, so that each test counts its own requests."""
    digest = sha256 or hashlib.sha256(hub.model).hexdigest()
    return Wanted(name="tiny", source=UrlSource(f"{hub.url}/web/{repo}/model.gguf", digest))


def test_a_pull_by_address(hub: Hub, store: ModelStore) -> None:
    """The file, what is known of it, and progress up to the last byte; then it is there."""
    seen: list[tuple[int, int]] = []
    model = pull(store, wanted(hub, "good"), lambda done, total: seen.append((done, total)))
    assert model.path.read_bytes() == hub.model
    assert model.manifest
    assert model.manifest.source == f"{hub.url}/web/good/model.gguf"
    assert seen[-1] == (len(hub.model), len(hub.model))
    assert seen == sorted(seen)
    before = len(hub.downloads("good"))
    assert pull(store, wanted(hub, "good")) == model
    assert len(hub.downloads("good")) == before
    assert hub.downloads("good")[-1]["authorization"] is None  # HF_TOKEN is set


def test_a_cut_goes_on(hub: Hub, store: ModelStore) -> None:
    """At once, where it stopped."""
    model = pull(store, wanted(hub, "cut"))
    assert model.path.read_bytes() == hub.model
    ranges = [it["range"] for it in hub.downloads("cut") if "/web/" in str(it["path"])]
    assert ranges == [None, f"bytes={CUT_AT}-"]


def test_the_next_pull_by_address_goes_on(hub: Hub, store: ModelStore) -> None:
    """What was there when a process ended is not fetched again, even if that was all of it."""
    task = wanted(hub, "good")
    assert isinstance(task.source, UrlSource)
    for have in (5_000_000, len(hub.model)):
        with store.claim(f"tiny{have}") as folder:
            (folder / f"{task.source.sha256}.part").write_bytes(hub.model[:have])
        again = Wanted(name=f"tiny{have}", source=task.source)
        assert pull(store, again).path.read_bytes() == hub.model
        assert hub.downloads("good")[-1]["range"] == f"bytes={have}-"


def test_zeros_after_a_power_cut(hub: Hub, store: ModelStore) -> None:
    """A start that is not what was fetched is never installed; the next try begins anew."""
    task = wanted(hub, "good")
    assert isinstance(task.source, UrlSource)
    with store.claim("tiny") as folder:
        (folder / f"{task.source.sha256}.part").write_bytes(bytes(5_000_000))
    with pytest.raises(PullFailed, match="has the digest"):
        pull(store, task)
    assert store.installed() == []
    assert pull(store, task).path.read_bytes() == hub.model


def test_another_file_than_promised(hub: Hub, store: ModelStore) -> None:
    """Nothing is installed, and nothing of it is kept."""
    with pytest.raises(PullFailed, match="has the digest"):
        pull(store, wanted(hub, "good", "0" * 64))
    assert store.installed() == list(store.directory.rglob("*.part")) == []


def test_a_promised_page(hub: Hub, store: ModelStore) -> None:
    """The right digest of something that is no model."""
    page = b"<!DOCTYPE html><html><body>Log in to the hotel network</body></html>"
    with pytest.raises(BadModelFile, match="web page"):
        pull(store, wanted(hub, "webpage", hashlib.sha256(page).hexdigest()))
    assert store.installed() == []


@pytest.mark.parametrize(
    ("repo", "message"), [("fileless", "answered 404"), ("gated", "401"), ("ill", "answered 500")]
)
def test_an_address_refuses(hub: Hub, store: ModelStore, repo: str, message: str) -> None:
    with pytest.raises(PullFailed, match=message) as caught:
        pull(store, wanted(hub, repo))
    assert caught.value.hint


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/m.gguf", "ftp://host/m.gguf", "http://[/"])
def test_an_address_that_leads_nowhere(store: ModelStore, url: str) -> None:
    with pytest.raises(PullFailed):
        pull(store, Wanted(name="tiny", source=UrlSource(url, "0" * 64)))


def test_secrets_of_an_address_are_not_kept() -> None:
    """Neither a password nor what signs the query."""
    assert str(UrlSource("https://me:pw@host:1/a/m.gguf?sig=x#y", "")) == "https://host:1/a/m.gguf"


def test_a_pace() -> None:
    """Bytes take their time; what was slow is not made up for."""
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(8.0, clock=lambda: now[0], sleep=sleep)  # 1000 bytes a second
    pace.charge(500)
    pace.charge(250)
    now[0] += 10.0  # a stall
    pace.charge(1000)
    pace.charge(1000)
    assert slept == [0.5, 0.25, 1.0]


def test_a_pull_keeps_its_pace(hub: Hub, store: ModelStore) -> None:
    """From an address and from the hub all bytes are charged."""
    charged: list[float] = []
    now = [0.0]

    def sleep(seconds: float) -> None:
        charged.append(seconds)
        now[0] += seconds

    pull(store, wanted(hub, "good"), pace=Pace(8000.0, lambda: now[0], sleep))
    assert sum(charged) == pytest.approx(len(hub.model) / 1_000_000)


def test_the_room_on_the_disk(hub: Hub, store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is noticed before the first byte is written."""
    usage = types.SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(workspace.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(PullFailed, match="not enough room"):
        pull(store, wanted(hub, "good"))
    assert list(store.directory.rglob("*.part")) == []


def test_a_pull_that_is_killed(hub: Hub, store: ModelStore) -> None:
    """Again and again, at any byte: it is no model before it is whole, and goes on each time."""
    task, dice = wanted(hub, "good"), random.Random(6)
    assert isinstance(task.source, UrlSource)
    child = Path(__file__).with_name("pull_child.py")
    arguments = [str(store.directory), task.source.url, task.source.sha256]
    begun = []
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, str(child), *arguments], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout
            seen = [int(process.stdout.readline()) for _ in range(dice.randrange(1, 40))]
            process.kill()
        begun.append(seen[0])
        assert store.installed() == []
    assert begun == sorted(begun)
    assert begun[-1] > 0
    assert pull(store, task).path.read_bytes() == hub.model
    assert not (store.partial / "tiny").exists()
