"""Installing bundles: what a machine has afterwards, and what it refuses without a trace."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import threading
from collections.abc import Callable
from pathlib import Path

import families
import msgspec
import pytest
from adapters import write_adapter
from bundling import Factory, Machine
from filled_store import add, add_as_before
from small_disk import SmallDisk

from edge.bundles import record
from edge.bundles.install import verify
from edge.bundles.keys import TrustedKeys, make_key
from edge.config import reader
from edge.errors import BundleRefused, PullFailed, StoreBroken
from edge.modelstore import workspace
from edge.modelstore.catalog import FileSource, Wanted, load_catalog
from edge.modelstore.journal import Journal, commit
from edge.modelstore.locks import turn
from edge.modelstore.pull import pull
from edge.modelstore.sweep import remove, sweep


@pytest.fixture
def factory(tmp_path: Path) -> Factory:
    return Factory(tmp_path / "factory")


@pytest.fixture
def machine(tmp_path: Path, factory: Factory) -> Machine:
    return Machine(tmp_path / "machine", factory.key)


def test_all_of_it(factory: Factory, machine: Machine) -> None:
    """The model under its name, the configuration in its place, catalog and wheels in the store."""
    outcome = machine.install(factory.bundle(1))
    original = factory.store.get("press@1")
    model = machine.store.get("press")
    assert model.path.read_bytes() == original.path.read_bytes()
    assert model.manifest
    assert original.manifest
    assert (model.manifest.source, model.manifest.licence) == ("file:x", "MIT")
    assert outcome.models == [model]
    assert reader.load(str(machine.config), {}).http.port == 9001
    assert outcome.config == machine.config
    assert "far" in load_catalog(added=machine.store.catalogs)
    assert outcome.wheels
    assert [path.name for path in outcome.wheels.iterdir()] == ["tool-1.0-py3-none-any.whl"]
    installed = record.records(machine.store)["line"]
    assert (installed.manifest.version, installed.key) == (1, factory.key.fingerprint)
    assert (outcome.previous, sweep(machine.store).removed) == (None, [])


def test_a_newer_one_follows(factory: Factory, machine: Machine) -> None:
    """Its model is used, its configuration takes the place; the old model stays for a way back."""
    machine.install(factory.bundle(1))
    outcome = machine.install(factory.bundle(2))
    assert outcome.previous == 1
    assert machine.store.get("press").version == 2
    assert reader.load(str(machine.config), {}).http.port == 9002
    wheels = machine.store.directory / "wheels"
    assert [path.name for path in wheels.iterdir()] == ["line@2"]
    assert machine.store.roll_back("press").version == 1


def test_the_same_again(factory: Factory, machine: Machine) -> None:
    """Nothing changes but when it was installed."""
    bundle = factory.bundle(1)
    machine.install(bundle)
    before = machine.files()
    assert machine.install(bundle).previous == 1
    after = machine.files()
    place = str(record.place(machine.store, "line").relative_to(machine.folder))
    assert {k: v for k, v in after.items() if k != place} == {
        k: v for k, v in before.items() if k != place
    }


def test_a_catalog_that_is_no_longer_in_it_goes(factory: Factory, machine: Machine) -> None:
    """What a bundle brought is replaced by what its next version brings."""
    machine.install(factory.bundle(1))
    machine.install(factory.bundle(2, active=("press@2",)))
    assert "far" not in load_catalog(added=machine.store.catalogs)
    assert machine.config.exists()


def test_a_model_that_waits(factory: Factory, machine: Machine) -> None:
    """It is installed, and the name goes on meaning what it did."""
    machine.install(factory.bundle(1))
    outcome = machine.install(factory.bundle(2, waiting=("press@2",)))
    assert [(one.version, one.active) for one in outcome.models] == [(2, False)]
    assert machine.store.get("press").version == 1
    assert machine.store.activate("press", 2).active


def test_what_the_store_has_is_not_written_again(factory: Factory, machine: Machine) -> None:
    """A daemon may be reading that very file."""
    add(machine.store, "other")
    path = machine.store.path("other")
    before = path.stat().st_ino
    machine.install(factory.bundle(1))
    assert machine.store.path("press") == path
    assert path.stat().st_ino == before


def refused(machine: Machine, bundle: Path, reason: str, allow_older: bool = False) -> None:
    """By `verify` and `install`, and nothing has changed."""
    before = machine.files()
    with pytest.raises(BundleRefused, match=reason):
        machine.install(bundle, allow_older)
    with pytest.raises(BundleRefused, match=reason):
        verify(bundle, machine.store, TrustedKeys(machine.keys), allow_older)
    assert machine.files() == before


def test_what_root_installs_is_the_daemons(factory: Factory, machine: Machine) -> None:
    """Its user has to be able to finish it, and to change the store afterwards."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    state = machine.store.directory.parent
    state.mkdir()
    os.chown(state, 65534, 65534)
    machine.install(factory.bundle(1))
    folders = [path for path in machine.store.directory.rglob("*") if path.is_dir()]
    assert len(folders) > 5
    assert {path.stat().st_uid for path in (machine.store.path("press"), *folders)} == {65534}
    assert machine.config.stat().st_uid == 0


def test_older_ones(factory: Factory, machine: Machine) -> None:
    """Only if somebody says so; then its model is the active one again."""
    older, newer = factory.bundle(1), factory.bundle(2)
    machine.install(newer)
    refused(machine, older, r"line@1 is older than line@2")
    verify(older, machine.store, TrustedKeys(machine.keys), allow_older=True)
    assert machine.install(older, allow_older=True).previous == 2
    model = machine.store.get("press").path
    assert model.read_bytes() == factory.store.path("press@1").read_bytes()
    assert reader.load(str(machine.config), {}).http.port == 9001


def test_two_of_one_version(factory: Factory, machine: Machine) -> None:
    """Somebody forgot to count."""
    machine.install(factory.bundle(1))
    refused(machine, factory.bundle(1, active=("press@2",)), "another line@1", allow_older=True)


def test_other_keys(factory: Factory, machine: Machine, tmp_path: Path) -> None:
    """A key that is not trusted is told by its fingerprint; once it is there, both count."""
    other = make_key(tmp_path / "other")
    bundle = factory.bundle(1, key=other)
    refused(machine, bundle, other.fingerprint)
    (machine.keys / "new.pem").write_text(other.public_pem())
    machine.install(bundle)
    machine.install(factory.bundle(2))
    (machine.keys / "new.pem").write_text("no key")
    refused(machine, bundle, "cannot be read as a public key", allow_older=True)
    (machine.keys / "new.pem").unlink()
    (machine.keys / "0.pem").unlink()
    refused(machine, factory.bundle(2), "does not have")


def test_other_machines(
    factory: Factory, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the wheels in it, or because its maker says so."""
    wheel = factory.wheel("tool-1-cp399-cp399-manylinux_2_28_x86_64.whl")
    with_wheels = factory.bundle(1, wheels=(wheel,))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    refused(machine, with_wheels, "wheels for cp399")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    refused(machine, with_wheels, "is for x86_64, and this machine is aarch64")
    refused(machine, factory.bundle(2, active=("press",), architecture="x86_64"), "is for x86_64")
    machine.install(factory.bundle(3, active=("press",), architecture="aarch64"))


def test_a_configuration_that_somebody_edited(factory: Factory, machine: Machine) -> None:
    """It stays, and the new one lies beside it until somebody takes it."""
    machine.install(factory.bundle(1))
    machine.config.write_text(machine.config.read_text() + "# mine\n")
    mine = machine.config.read_text()
    outcome = machine.install(factory.bundle(2))
    beside = machine.folder / "edge.yaml.new"
    assert (outcome.config, machine.config.read_text()) == (beside, mine)
    assert reader.load(str(beside), {}).http.port == 9002
    beside.rename(machine.config)
    assert machine.install(factory.bundle(3, config=factory.config(7))).config == machine.config


def test_a_configuration_that_sets_nothing(factory: Factory, machine: Machine) -> None:
    """Gives way, and its rights stay; such a one comes with a new machine."""
    machine.config.write_text("# device:\n#   id: press-07\n")
    machine.config.chmod(0o640)
    assert machine.install(factory.bundle(1)).config == machine.config
    assert machine.config.stat().st_mode & 0o777 == 0o640


def test_a_configuration_that_would_not_start(factory: Factory, machine: Machine) -> None:
    """Because it names a model that is neither there nor coming."""
    bundle = factory.bundle(1, config=factory.config(1))
    before = machine.files()
    with pytest.raises(BundleRefused, match="loads press, which is neither"):
        machine.install(bundle)
    assert machine.files() == before
    add(machine.store, "press")
    machine.install(bundle)


def test_adapters_come_with_their_models(factory: Factory, machine: Machine) -> None:
    """As any file that the store takes; the configuration may load both as one."""
    base = families.write(factory.folder / "base.gguf", "tinyllama")
    path = write_adapter(factory.folder / "bolts.gguf", base)
    pull(factory.store, Wanted(name="bolts", source=FileSource(str(path))))
    config = factory.folder / "adapter.yaml"
    config.write_text("models: {default: press+bolts}\n")
    with pytest.raises(BundleRefused, match=r"loads press\+bolts"):
        machine.install(factory.bundle(1, active=("press",), config=config))
    machine.install(factory.bundle(1, active=("press", "bolts"), config=config))
    manifest = machine.store.get("bolts").manifest
    assert manifest
    assert manifest.kind == "adapter"


def test_a_model_copied_in_by_hand(factory: Factory, machine: Machine) -> None:
    """It is not hidden behind somebody's back, nor replaced; one of an earlier release is taken
    over, and if it is damaged it goes."""
    machine.store.directory.mkdir(parents=True)
    by_hand = machine.store.directory / "press.gguf"
    by_hand.write_bytes(b"GGUF")
    with pytest.raises(PullFailed, match="copied in by hand"):
        machine.install(factory.bundle(1))
    by_hand.unlink()
    add_as_before(machine.store, "press")
    by_hand.write_bytes(b"GGUF")
    machine.install(factory.bundle(1))
    assert not by_hand.exists()
    assert machine.store.get("press").version == 1


def test_no_room_is_known_at_once(
    factory: Factory, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first byte is copied."""
    monkeypatch.setattr(workspace, "_MARGIN", 1 << 60)
    before = machine.files()
    with pytest.raises(PullFailed, match="not enough room"):
        machine.install(factory.bundle(1))
    assert machine.files() == before


def test_a_disk_that_fills_up_meanwhile(
    factory: Factory, disk: SmallDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it happens: nothing stays that takes room, and with room it succeeds."""
    if not disk.mounted:
        pytest.skip("needs the right to mount a tmpfs")
    monkeypatch.setattr(workspace, "_MARGIN", -1 << 60)  # it was free when it was looked at
    machine = Machine(disk.folder, factory.key)
    add(machine.store, "press", 768)
    bundle, before = factory.bundle(1), machine.files()
    failures = 0
    for free in range(0, 200_000, 4096):
        room = os.statvfs(disk.folder)
        (disk.folder / "filler").write_bytes(bytes(room.f_bavail * room.f_bsize - free))
        failed = False
        with contextlib.suppress(OSError):
            failed = True
            machine.install(bundle)
            failed = False
        (disk.folder / "filler").unlink()
        if not failed:
            break
        failures += 1
        assert machine.files() == before
    assert failures > 3
    assert machine.store.get("press").version == 2


def test_two_at_once_take_turns(factory: Factory, machine: Machine) -> None:
    """The second one finds what the first one did; here, that it is newer."""
    older, newer = factory.bundle(1), factory.bundle(2)
    lock = machine.store.draft.with_name(".bundle.lock")
    lock.parent.mkdir(parents=True)
    errors: list[BaseException] = []

    def second() -> None:
        try:
            machine.install(older)
        except BundleRefused as error:
            errors.append(error)

    thread = threading.Thread(target=second)
    with turn(lock):
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        place = record.place(machine.store, "line")
        place.parent.mkdir()
        other = Machine(machine.folder.with_name("other"), factory.key)
        other.install(newer)
        place.write_bytes(record.place(other.store, "line").read_bytes())
    thread.join()
    assert ["older than" in str(error) for error in errors] == [True]


def test_a_sweep_takes_the_draft_of_a_dead_install(factory: Factory, machine: Machine) -> None:
    """And leaves that of one which goes on."""
    machine.install(factory.bundle(1))
    machine.store.draft.mkdir()
    (machine.store.draft / "x").write_bytes(bytes(100))
    with turn(machine.store.draft.with_name(".bundle.lock")):
        assert sweep(machine.store).removed == []
    swept = sweep(machine.store)
    assert (swept.removed, swept.freed_bytes) == ([machine.store.draft], 100)


CHANGES: list[Callable[[Machine], object]] = [
    lambda machine: add(machine.store, "other", 1024),
    lambda machine: sweep(machine.store),
    lambda machine: machine.store.settle(),
    lambda machine: remove(machine.store, "press@1"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_whoever_comes_next_finishes(
    factory: Factory, machine: Machine, change: Callable[[Machine], object]
) -> None:
    """A journal that nobody carried out is, before anything else happens."""
    add(machine.store, "press")
    add(machine.store, "press", 512)
    pointer = machine.store.pointer("press")
    newer = machine.store.directory / "newer"
    machine.store.activate("press", 2)
    newer.write_bytes(pointer.read_bytes())
    machine.store.activate("press", 1)
    left = Journal("a test", [(str(newer), str(pointer))], [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edge.modelstore.journal.finish", lambda path: None)
        commit(machine.store.journal, left)
    change(machine)
    assert machine.store.get("press").version == 2
    assert not machine.store.journal.exists()


def test_what_another_user_began(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Undone if nothing was done yet, else an error that says who can finish it."""
    machine.store.directory.mkdir(parents=True)
    folder = machine.store.directory
    places = [(folder / name, folder / f"{name}.there") for name in "ab"]
    journal = Journal("a test", [(str(here), str(there)) for here, there in places], [])
    for here, _ in places:
        here.write_text("new")
    with monkeypatch.context() as patch:
        patch.setattr("edge.modelstore.journal.finish", lambda path: None)
        commit(machine.store.journal, journal)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda *_: False)
        machine.store.settle()
    assert "undone" in caplog.text
    assert [there.exists() for _, there in places] == [False, False]
    assert not machine.store.journal.exists()

    replace = os.replace

    def half(here: str, there: str) -> None:
        if there.endswith("b.there"):
            raise PermissionError(errno.EACCES, "Permission denied", there)
        replace(here, there)

    with monkeypatch.context() as patch:
        patch.setattr("edge.modelstore.journal.finish", lambda path: None)
        commit(machine.store.journal, journal)
    with monkeypatch.context() as patch:
        patch.setattr("edge.modelstore.journal.os.replace", half)
        with pytest.raises(StoreBroken, match="cannot be finished"):
            machine.store.settle()
    machine.store.settle()
    assert [there.exists() for _, there in places] == [True, True]


def test_a_journal_that_leads_elsewhere(machine: Machine) -> None:
    """Whoever may write into the store has no say about other folders when root comes by."""
    store, theirs = machine.store.directory, machine.folder / "theirs"
    (store / "names").mkdir(parents=True)
    theirs.mkdir()
    (store / "link").symlink_to(theirs)
    (store / "mine").write_text("mine")
    (theirs / "file").write_text("theirs")
    (theirs / ".file.bundle").write_text("staged by its owner")
    mine, file = str(store / "mine"), str(theirs / "file")
    for journal in (
        Journal("out", [(mine, file)], []),
        Journal("in", [(file, f"{store}/names/x.json")], []),
        Journal("dots", [(mine, f"{store}/../../theirs/file")], []),
        Journal("link", [(mine, f"{store}/link/file")], []),
        Journal("gone", [], [file]),
        Journal("gone by link", [], [f"{store}/link/file"]),
    ):
        machine.store.journal.write_bytes(msgspec.json.encode(journal))
        with pytest.raises(StoreBroken, match="no business"):
            machine.store.settle()
        assert (theirs / "file").read_text() == "theirs"
    staged = Journal("staged", [(str(theirs / ".file.bundle"), file)], [])
    machine.store.journal.write_bytes(msgspec.json.encode(staged))
    machine.store.settle()
    assert (theirs / "file").read_text() == "staged by its owner"
