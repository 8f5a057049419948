"""Backups of a state directory and back: whole or refused, and cut off at any point all or
nothing."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edge.access.keyring import Keyring
from edge.audit.event import Event, now
from edge.audit.folder import Folder
from edge.audit.log import Bounds, Log, Noted
from edge.audit.verify import verify
from edge.backup import restore as restore_module
from edge.backup.make import make
from edge.backup.parts import place_of
from edge.backup.restore import check, restore, settle
from edge.errors import BackupRefused, StoreInUse
from edge.store.database import Database
from edge.store.intake import Bounds as QueueBounds
from edge.store.job import NewJob
from edge.store.jobs import Jobs
from edge.store.schema import MIGRATIONS


def add_job(state: Path, request: bytes) -> None:
    async def add() -> None:
        async with Database(state / "jobs.sqlite", MIGRATIONS) as database:
            ledger = Jobs(database, QueueBounds(10, 1 << 20), result_ttl=60)
            await ledger.add(NewJob(line="l", client="c", door="http", kind="k", request=request))

    asyncio.run(add())


def jobs(state: Path) -> list[bytes]:
    with closing(sqlite3.connect(f"file:{state / 'jobs.sqlite'}?mode=ro", uri=True)) as found:
        return sorted(bytes(row[0]) for row in found.execute("SELECT body FROM requests"))


def appliance(state: Path, word: str) -> None:
    """With something of all that a backup has, by which it can be told from another."""
    add_job(state, word.encode())
    Keyring(state / "keys").add(word)
    (state / "keys" / "own").write_text("never backed up")
    log = Log(Folder(state), Bounds())
    log.open()
    log.append([Noted(Event(what="chat", who=word, **now()))])
    log.seal()
    log.close()
    for place in ("files/file-1", "models/names/m.json", "certs/server.crt"):
        (state / place).parent.mkdir(parents=True, exist_ok=True)
        (state / place).write_text(word)
    (state / "files" / f"file-{word}").write_text(word)
    (state / "models" / "blobs").mkdir()
    (state / "models" / "blobs" / "sha256-1.gguf").write_text("weights")


def word_of(state: Path) -> set[str]:
    """Which appliance all parts are of; more than one where they are mixed."""
    found = {request.decode() for request in jobs(state)}
    found |= {key.name for key in Keyring(state / "keys").all()}
    found |= {path.read_text() for path in (state / "files").iterdir()}
    found |= {(state / place).read_text() for place in ("models/names/m.json", "certs/server.crt")}
    lines = b"".join(file.path.read_bytes() for file in Folder(state).files())
    return found | {word for word in ("old", "new") if f'"who":"{word}"'.encode() in lines}


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    state = tmp_path / "first"
    appliance(state, "new")
    (tmp_path / "edge.yaml").write_text("device: {id: press-07}\n")
    make(str(tmp_path / "backup"), state, tmp_path / "edge.yaml", "press-07")
    return tmp_path / "backup"


def test_there_and_back(backup: Path, tmp_path: Path) -> None:
    """To a machine that has nothing: all is there, for its owner only, and the weights are not."""
    state, config = tmp_path / "second", tmp_path / "etc" / "edge.yaml"
    assert backup.stat().st_mode & 0o777 == 0o600
    restored = restore(str(backup), state, config)
    assert word_of(state) == {"new"}
    assert restored.manifest.device == "press-07"
    assert config.read_text() == "device: {id: press-07}\n"
    assert not (state / "models" / "blobs").exists()
    assert not (state / "keys" / "own").exists()
    assert not list(tmp_path.rglob(".restore/*"))
    private = [state / "audit.key", *(state / "keys").iterdir(), state / "jobs.sqlite"]
    assert {path.stat().st_mode & 0o077 for path in private} == {0}
    folder = Folder(state)
    assert verify(folder, folder.public_key()).findings == []
    assert b'"what":"restore"' in folder.files()[-1].path.read_bytes()


def test_a_backup_is_a_plain_tar(backup: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert os.system(f"tar -C {out} -xf {backup}") == 0
    assert (out / "state" / "files" / "file-new").read_text() == "new"
    assert (out / "state" / "keys" / "new.json").stat().st_mode & 0o777 == 0o600


def test_an_appliance_is_replaced_only_where_it_is_meant(backup: Path, tmp_path: Path) -> None:
    """Weights and what is made anew stay; so does the configuration that is in force."""
    state, config = tmp_path / "second", tmp_path / "second.yaml"
    appliance(state, "old")
    config.write_text("device: {id: other}\n")
    with pytest.raises(BackupRefused, match="already"):
        restore(str(backup), state, config)
    assert word_of(state) == {"old"}
    restored = restore(str(backup), state, config, replace=True)
    assert word_of(state) == {"new"}
    assert (state / "models" / "blobs" / "sha256-1.gguf").exists()
    assert config.read_text() == "device: {id: other}\n"
    assert restored.config == tmp_path / "second.yaml.restored"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_restores_is_the_daemons(backup: Path, tmp_path: Path) -> None:
    """All of it, the locks too: the daemon's user has to go on with it."""
    state, user = tmp_path / "second", 12345
    state.mkdir()
    (state / "models").mkdir()
    for folder in (state, state / "models"):
        os.chown(folder, user, user)
    restore(str(backup), state, None)
    read_by_all = {state / ".restore.lock"}
    found = {path for path in state.rglob("*") if path.stat().st_uid != user}
    assert found == read_by_all
    assert (state / ".restore.lock").stat().st_mode & 0o044


def test_nothing_is_restored_under_a_daemon(backup: Path, tmp_path: Path) -> None:
    state = tmp_path / "second"

    async def meanwhile() -> None:
        async with Database(state / "jobs.sqlite", MIGRATIONS):
            with pytest.raises(StoreInUse):
                restore(str(backup), state, None, replace=True)

    asyncio.run(meanwhile())


def test_every_damaged_byte_and_every_cut_is_refused_whole(backup: Path, tmp_path: Path) -> None:
    """All that is in it is compared before anything is changed."""
    original = backup.read_bytes()
    state = tmp_path / "second"
    places = {*range(0, len(original), 997), *range(600), len(original) - 1}
    for place in sorted(places):
        changed = bytearray(original)
        changed[place] ^= 1 << place % 8
        backup.write_bytes(changed)
        with pytest.raises(BackupRefused):
            check(str(backup))
    for end in (0, 1, 511, 512, len(original) // 2, len(original) - 1024, len(original) - 1):
        backup.write_bytes(original[:end])
        with pytest.raises(BackupRefused):
            restore(str(backup), state, None)
        assert os.listdir(state) == [".restore.lock", "jobs.sqlite.lock"] or not (
            {"jobs.sqlite", ".restore"} & {*os.listdir(state)}
        )
    backup.write_bytes(original + b"\0")
    with pytest.raises(BackupRefused, match="its end"):
        check(str(backup))


@pytest.mark.parametrize(
    "path",
    [
        "state/../../etc/passwd",
        "state/keys/../x",
        "/etc/passwd",
        "state/models/blobs/x",
        "state/keys/own",
        "state/cache.sqlite",
        "state/keys/a/b",
        "state/.restore/plan.json",
    ],
)
def test_what_has_no_place_is_refused(path: str) -> None:
    assert place_of(path) is None


class Killed(BaseException):
    """As SIGKILL, to whoever looks at the disk afterwards."""


def test_cut_off_anywhere_it_is_the_old_or_the_new(
    backup: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each of its changes to what has a name; then the daemon starts."""
    template = tmp_path / "template"
    appliance(template, "old")
    calls, deadly = 0, 0

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if deadly and calls >= deadly:
                raise Killed
            return real(*args, **named)

        return call

    for name in ("rename", "replace", "unlink"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    outcomes: list[set[str]] = []
    while True:
        state = tmp_path / "state"
        deadly = 0
        shutil.rmtree(state, ignore_errors=True)
        shutil.copytree(template, state)
        calls, deadly = 0, len(outcomes) + 1
        try:
            restore(str(backup), state, None, replace=True)
        except Killed:
            deadly = 0
            settle(state, None)
            outcomes.append(word_of(state))
        else:
            break
        finally:
            deadly = 0
    assert {"old"} in outcomes
    assert {"new"} in outcomes
    assert all(outcome in ({"old"}, {"new"}) for outcome in outcomes)
    assert outcomes == sorted(outcomes, key=lambda words: "new" in words)
    restore(str(backup), state, None, replace=True)
    assert word_of(state) == {"new"}
    assert not (state / restore_module.DRAFT).exists()


def test_a_backup_of_a_later_version_is_refused(tmp_path: Path) -> None:
    """Before anything is changed."""
    state = tmp_path / "first"
    appliance(state, "new")
    with closing(sqlite3.connect(state / "jobs.sqlite")) as ledger:
        ledger.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
        ledger.commit()
    make(str(tmp_path / "backup"), state, None, "")
    other = tmp_path / "second"
    appliance(other, "old")
    with pytest.raises(BackupRefused, match="schema version"):
        restore(str(tmp_path / "backup"), other, None, replace=True)
    assert word_of(other) == {"old"}


def test_what_is_removed_meanwhile_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is copied after the files are held."""
    from edge.backup import make as make_module

    state = tmp_path / "first"
    appliance(state, "new")
    copy = make_module.copy_database

    def and_remove(source: Path, target: Path) -> None:
        copy(source, target)
        (state / "files" / "file-new").unlink(missing_ok=True)
        (state / "files" / "file-later").write_text("later")

    monkeypatch.setattr(make_module, "copy_database", and_remove)
    manifest = make(str(tmp_path / "backup"), state, None, "")
    assert [entry.path.rpartition("-")[2] for entry in manifest.of("files")] == [
        "1",
        "later",
        "new",
    ]
    assert not (state / ".backup").exists()


def test_a_backup_passes_through_a_pipe(tmp_path: Path) -> None:
    """To whatever encrypts it, and from there."""
    state, other = tmp_path / "first", tmp_path / "second"
    appliance(state, "new")
    (tmp_path / "edge.yaml").write_text("")
    edge, config = f"{sys.executable} -m edge", f"--config {tmp_path / 'edge.yaml'}"
    commands = (
        f"{edge} backup - --state {state} {config} | {edge} restore - --state {other} {config}"
    )
    piped = subprocess.run(["bash", "-o", "pipefail", "-c", commands], check=False)
    assert piped.returncode == 0
    assert word_of(other) == {"new"}


def test_nothing_to_back_up(tmp_path: Path) -> None:
    with pytest.raises(BackupRefused):
        make(str(tmp_path / "backup"), tmp_path / "nowhere", None, "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BackupRefused):
        make(str(tmp_path / "backup"), tmp_path / "empty", None, "")
    assert not (tmp_path / "backup").exists()
