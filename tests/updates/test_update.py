"""From one version to another: for whom it is, how it ends, and what is told of it."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from daemon_process import poll
from software import CANNOT, DOES_NOT_ANSWER, GOOD, HERE, Box, Factory

from edge.errors import BundleRefused, UpdateFailed, UpdateRunning
from edge.host import rootslots
from edge.host.rootslots import RootSlots
from edge.updates.record import History
from edge.updates.source import FileSource
from edge.updates.trust import trusted_keys
from edge.updates.update import Rules, Updater


def test_versions_are_compared_as_numbers(box: Box, factory: Factory) -> None:
    assert box.update(factory.bundle("1.9")) == "installed"
    assert box.update(factory.bundle("1.10.1")) == "installed"
    with pytest.raises(BundleRefused, match=r"1\.9\.5 is older than 1\.10\.1"):
        box.update(factory.bundle("1.9.5"))
    assert box.update(factory.bundle("1.9.6"), downgrade=True) == "installed"


def test_another_build_of_a_version(box: Box, factory: Factory) -> None:
    """An older one is a downgrade as well, a newer one is none."""
    older = factory.bundle("1.0.0", name="old", facts={"made_at": "2026-10-31T12:00:00+00:00"})
    with pytest.raises(BundleRefused, match="older than the one in use"):
        box.plan(older)
    assert not box.plan(
        factory.bundle("1.0.0", facts={"made_at": "2026-11-02T12:00:00+00:00"})
    ).in_use


def test_the_build_in_use(box: Box, factory: Factory) -> None:
    bundle = factory.bundle("2.0.0")
    box.update(bundle)
    assert box.plan(bundle).in_use


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"machine": "riscv64"}, "for the processor riscv64"),
        ({"system": "ubuntu 22.04"}, "for the system ubuntu 22.04, and this machine has debian 12"),
        ({"python": "3.99"}, "for Python 3.99, which is neither here nor in the bundle"),
        ({"l4t": "36"}, "for the release of Jetson Linux 36, and this machine has none"),
        ({"oldest": "1.5"}, r"takes over from 1\.5 and newer, and 1\.0\.0 is in use"),
    ],
)
def test_for_another_machine(box: Box, factory: Factory, facts: dict[str, str], why: str) -> None:
    with pytest.raises(BundleRefused, match=why):
        box.plan(factory.bundle("2.0.0", facts=facts))


def test_for_a_jetson(box: Box, factory: Factory) -> None:
    """With CUDA for its own release of Jetson Linux, or without any."""
    jetson = msgspec.structs.replace(HERE, l4t=36)
    for l4t in ("36", ""):
        bundle = FileSource(factory.bundle("2.0.0", name=f"l4t{l4t}", facts={"l4t": l4t}))
        assert not box.updater(here=jetson).plan(bundle).in_use
    with pytest.raises(BundleRefused, match="Jetson Linux 38, and this machine has 36"):
        box.updater(here=jetson).plan(FileSource(factory.bundle("2.0.0", facts={"l4t": "38"})))


def test_a_version_that_does_not_answer(box: Box, factory: Factory) -> None:
    """It is not tried again and again, unless somebody says so."""
    bundle = factory.bundle("2.0.0", DOES_NOT_ANSWER)
    with pytest.raises(UpdateFailed, match=r"edge 2\.0\.0 does not answer") as error:
        box.update(bundle)
    assert error.value.hint == "the other one"
    assert box.slots.current == "1.0.0"
    assert box.staged == {}
    assert [entry.outcome for entry in History(box.slots).entries()] == ["went back"]
    with pytest.raises(BundleRefused, match="did not answer here at"):
        box.update(bundle)
    with pytest.raises(UpdateFailed):
        box.update(bundle, retry=True)
    assert box.update(factory.bundle("2.0.1")) == "installed"


def test_an_installer_that_fails_on_the_machine(box: Box, factory: Factory) -> None:
    """That is not the version's fault: it may be tried again, and need not be fetched again."""
    bundle = factory.bundle("2.0.0", CANNOT)
    for _ in range(2):
        with pytest.raises(UpdateFailed, match="dpkg was interrupted"):
            box.update(bundle)
    assert [entry.outcome for entry in History(box.slots).entries()] == ["failed", "failed"]
    assert box.plan(bundle).missing_bytes == 0


def test_all_that_is_told(box: Box, factory: Factory) -> None:
    bundle = factory.bundle("2.0.0")
    box.update(bundle)
    assert box.said == ["==> Installing 2.0.0"]
    assert (box.base / "update.log").read_text() == "==> Installing 2.0.0\n"
    entry = History(box.slots).last()
    assert entry is not None
    assert (entry.before, entry.version, entry.outcome) == ("1.0.0", "2.0.0", "installed")
    assert (entry.source, entry.key) == (str(bundle), factory.key.fingerprint)
    assert entry.ended is not None
    assert (box.base / "updates.json").stat().st_mode & 0o777 == 0o644


CHILD = """
import sys
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from software import Box, Slots

box = Box.__new__(Box)
box.base, box.keys, box.said = Path(sys.argv[2]), Path(sys.argv[3]), []
box.slots = Slots(box.base)
box.update(Path(sys.argv[4]))
"""


def killed_while_it_installs(box: Box, bundle: Path) -> None:
    """With all of its group, as a terminal does that is closed. By the installer, which goes on."""
    places = (Path(__file__).parent, box.base, box.keys, bundle)
    command = [sys.executable, "-c", CHILD, *map(str, places)]
    killed = subprocess.run(command, check=False, start_new_session=True)
    assert killed.returncode == -signal.SIGKILL


def is_idle(updater: Updater) -> bool:
    with suppress(UpdateRunning), updater.alone():
        return True
    return False


@pytest.mark.parametrize(
    ("at", "outcome"),
    [
        ("before", "interrupted"),
        ("trial", "on trial"),
        ("after", "installed"),
        ("back", "went back"),
    ],
)
def test_a_command_that_was_cut(box: Box, factory: Factory, at: str, outcome: str) -> None:
    """What became of it shows in the slots, and is written down by the next."""
    steps = {
        "before": "",
        "trial": 'touch "$base/.trial"; ln -sfn "$version" "$base/current"',
        "after": 'ln -sfn "$version" "$base/current"',
        "back": 'cp "$base/$version/.identity" "$base/.failed"',
    }
    installer = GOOD.replace('ln -sfn "$version" "$base/current"', steps[at])
    bundle = factory.bundle("2.0.0", f"{installer}kill -9 -$PPID\nsleep 0.1\n")
    killed_while_it_installs(box, bundle)
    updater = box.updater()
    poll(lambda: is_idle(updater), "the installer to end")
    assert [entry.outcome for entry in updater.history.entries()] == [outcome]
    (box.base / ".trial").unlink(missing_ok=True)
    assert box.update(factory.bundle("2.0.1")) == "installed"
    final = "installed" if outcome == "on trial" else outcome
    outcomes = [entry.outcome for entry in updater.history.entries()]
    assert outcomes == [final, "installed"]


def test_two_at_once(box: Box, factory: Factory) -> None:
    first, second = box.updater(), box.updater()
    with first.alone(), pytest.raises(UpdateRunning), second.alone():
        pass


def test_an_installer_that_outlives_its_command_keeps_others_away(
    box: Box, factory: Factory
) -> None:
    """Closing a terminal ends neither the installer nor the lock."""
    pipe = box.base / "pipe"
    subprocess.run(["mkfifo", str(pipe)], check=True)
    waiting = GOOD.replace("ln -sfn", f'kill -9 -$PPID; read -r word <"{pipe}"; ln -sfn')
    bundle = factory.bundle("2.0.0", waiting)
    killed_while_it_installs(box, bundle)
    updater = box.updater()
    with pytest.raises(UpdateRunning), updater.alone():
        pass
    assert [entry.outcome for entry in updater.history.entries()] == ["runs"]
    pipe.write_text("go on\n")
    poll(lambda: is_idle(updater), "the installer to end")
    assert [entry.outcome for entry in updater.history.entries()] == ["installed"]


def test_the_newest_of_a_stick_that_fits(box: Box, factory: Factory, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    for version, facts in (
        ("2.0.0", {}),
        ("2.10.0", {}),
        ("2.9.0", {}),
        ("3.0.0", {"machine": "riscv64"}),
    ):
        factory.bundle(version, facts=facts).rename(stick / f"edge-{version}.tar")
    (stick / "edge-half.tar").write_bytes(bytes(700))
    (stick / "holiday.tar").write_bytes(b"")
    assert box.updater().plan_newest(stick).head.software.version == "2.10.0"


def test_a_stick_with_nothing_for_this_machine(box: Box, factory: Factory, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    stick.mkdir()
    with pytest.raises(BundleRefused, match=r"there is no edge-\*\.tar"):
        box.updater().plan_newest(stick)
    factory.bundle("0.9.0").rename(stick / "edge-0.9.0.tar")
    factory.bundle("3.0.0", facts={"machine": "riscv64"}).rename(stick / "edge-3.0.0.tar")
    with pytest.raises(BundleRefused, match=r"0\.9\.0 is older .*; .* processor riscv64"):
        box.updater().plan_newest(stick)


BOTH = """\
Current rootfs slot: B
Active rootfs slot: A
num_slots: 2
slot: 0,             retry_count: 3,             status: normal
slot: 1,             retry_count: 3,             status: normal
"""


def test_root_slots_are_read() -> None:
    assert rootslots.parse(BOTH) == RootSlots("B", "A", ["normal", "normal"])
    assert rootslots.parse("RootFS AB is not enabled\n") is None
    assert rootslots.parse("num_slots: 1\nslot: 0, retry_count: 3, status: normal\n") is None


def test_the_next_boot_takes_another_root(box: Box, factory: Factory) -> None:
    """What is installed now would be left behind."""
    bundle = FileSource(factory.bundle("2.0.0"))
    keys = trusted_keys(box.keys)
    for slots, fits in ((RootSlots("B", "A", []), False), (RootSlots("B", "B", []), True)):
        updater = Updater(box.slots, keys, Rules(HERE, slots))
        if fits:
            assert not updater.plan(bundle).in_use
        else:
            with pytest.raises(UpdateFailed, match="takes the root file system A, and this is B"):
                updater.plan(bundle)


def test_back(box: Box, factory: Factory) -> None:
    """By the installer of the version in use."""
    updater = box.updater()
    with updater.alone() as lock, pytest.raises(UpdateFailed, match="no version before"):
        updater.back(lock, box.said.append)
    box.update(factory.bundle("2.0.0"))
    installer = box.slots.installer("2.0.0")
    installer.parent.mkdir(parents=True)
    installer.write_text(f'#!/bin/sh\necho "$@"; ln -sfn 1.0.0 "{box.base}/current"\n')
    installer.chmod(0o755)
    with updater.alone() as lock:
        entry = updater.back(lock, box.said.append)
    assert box.said[-1] == "back"
    assert (entry.before, entry.version, entry.outcome) == ("2.0.0", "1.0.0", "installed")
    assert box.slots.current == "1.0.0"
