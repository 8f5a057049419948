"""Keys in their folder: made, found, rotated, removed; what the daemon sees of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edge.access import keyring as keyring_module
from edge.access.key import TOKEN, Quota, Scope
from edge.access.keyring import Keyring
from edge.errors import InvalidRequest, KeyExists, KeyNotFound


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(keyring_module, "LOOK_SECONDS", 0.0)
    return tmp_path / "keys"


def test_a_key_opens_and_nothing_else_does(folder: Path) -> None:
    ring = Keyring(folder)
    assert ring.empty
    token = ring.add("press", Scope(models=["smol*"]), Quota(concurrent=2))
    assert TOKEN.fullmatch(token)
    found = ring.find(token)
    assert found is not None
    assert (found.name, found.quota.concurrent) == ("press", 2)
    last = "a" if token[-1] != "a" else "b"
    for wrong in ("", "x", token[:-1], token[:-1] + last, token + "a", token.upper(), "edge_" * 9):
        assert ring.find(wrong) is None, wrong


def test_the_folder_tells_no_secret(folder: Path) -> None:
    token = Keyring(folder).add("press")
    (file,) = folder.iterdir()
    assert token.rpartition("_")[2] not in file.read_text()
    assert (folder.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_running_daemon_sees_what_the_cli_does(folder: Path) -> None:
    daemon, cli = Keyring(folder), Keyring(folder)
    assert daemon.find("nothing") is None
    token = cli.add("press")
    assert daemon.find(token) is not None
    newer = cli.rotate("press", overlap=3600)
    assert daemon.find(token) is not None
    assert daemon.find(newer) is not None
    cli.remove("press")
    assert daemon.find(newer) is None
    assert daemon.empty


def test_a_key_is_there_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has waited for it to be made uses it, by its name or its token, right after the
    daemon has looked."""
    monkeypatch.setattr(keyring_module, "LOOK_SECONDS", 3600.0)
    daemon = Keyring(folder)
    assert daemon.known() == []
    token = Keyring(folder).add("press")
    assert daemon.named("press") is not None
    assert daemon.find(token) is not None


def test_secrets_end(folder: Path) -> None:
    """An overlap of nothing ends the old secret at once; a key may have an end of its own."""
    ring = Keyring(folder)
    old = ring.add("press")
    new = ring.rotate("press", overlap=0)
    assert ring.find(old) is None
    assert ring.find(new) is not None
    assert len(ring.all()[0].secrets) == 2
    ring.rotate("press", overlap=10)
    assert len(ring.all()[0].secrets) == 2
    assert ring.find(ring.add("short", expires=time.time() - 1)) is None


def test_rotating_never_makes_an_old_secret_last_longer(folder: Path) -> None:
    ring = Keyring(folder)
    ends = time.time() + 60
    ring.add("press", expires=ends)
    ring.rotate("press", overlap=3600)
    old, new = ring.all()[0].secrets
    assert (old.expires, new.expires) == (ends, None)


def test_names(folder: Path) -> None:
    ring = Keyring(folder)
    ring.add("press")
    with pytest.raises(KeyExists):
        ring.add("press")
    for bad in ("", "../x", "a/b", ".hidden", "x" * 65, "a b", "ä"):
        with pytest.raises(InvalidRequest):
            ring.add(bad)
    with pytest.raises(InvalidRequest):
        ring.add("net", addresses=["10.0.0.0/99"])
    for missing in ("other", "../press"):
        with pytest.raises(KeyNotFound):
            ring.remove(missing)
        with pytest.raises(KeyNotFound):
            ring.rotate(missing, overlap=1)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"{}", b'{"name": "other", "secrets": []}', b"\xff"]
)
def test_a_file_that_cannot_be_read_opens_nothing(
    content: bytes, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And the others still do."""
    ring = Keyring(folder)
    token = ring.add("press")
    (folder / "bad.json").write_bytes(content)
    assert [key.name for key in Keyring(folder).all()] == ["press"]
    assert Keyring(folder).find(token) is not None
    assert "bad.json" in caplog.text


def test_where_a_key_may_come_from(folder: Path) -> None:
    ring = Keyring(folder)
    ring.add("press", addresses=["10.1.0.0/16", "fd00::/8"])
    (key,) = ring.all()
    for inside in ("10.1.2.3", "fd00::1", "::ffff:10.1.2.3"):
        assert key.comes_from(inside), inside
    for outside in ("10.2.0.1", "::1", "127.0.0.1", "", "press.local"):
        assert not key.comes_from(outside), outside
