"""Two processes change one store and are killed at any moment: no half model, no lost good one."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from kill_points import check
from tinymodel import write_model

from edge.modelstore.catalog import FileSource, Wanted
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore
from edge.modelstore.sweep import sweep

CHILD = Path(__file__).with_name("store_child.py")
ROUNDS = 8


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    for number in range(4):
        write_model(folder / f"{number}.gguf", numbers=100_000 + 32 * number)
    return folder


def run_and_kill(store: ModelStore, sources: Path, dice: random.Random) -> None:
    """Two children, each killed after a number of turns, somewhere in the next one."""
    command = [sys.executable, str(CHILD), str(store.directory), str(sources)]
    children = [
        subprocess.Popen([*command, str(dice.random())], stdout=subprocess.PIPE) for _ in range(2)
    ]
    try:
        for child in children:
            assert child.stdout
            assert child.stdout.readline() == b"kept\n"
        for child in children:
            assert child.stdout
            assert all(child.stdout.readline() for _ in range(dice.randrange(1, 20)))
            child.kill()
    finally:
        for child in children:
            child.kill()
            child.communicate()


def test_killed_at_any_moment(tmp_path: Path, sources: Path) -> None:
    """After each kill the store is whole, and the next try of what was cut succeeds."""
    store, dice = ModelStore(tmp_path / "models"), random.Random(6)
    kept = pull(store, Wanted(name="kept", source=FileSource(str(sources / "0.gguf"))))
    with store.hold("kept"):
        for _ in range(ROUNDS):
            run_and_kill(store, sources, dice)
            check(store)
            assert store.find("kept") == kept
            for number, name in enumerate("abc"):
                pull(store, Wanted(name=name, source=FileSource(str(sources / f"{number}.gguf"))))
            check(store)
    sweep(store)
    needed = {
        version.manifest.sha256
        for name in ("a", "b", "c", "kept")
        for version in store.known(name).versions
    }
    assert {blob.name for blob in store.blobs.iterdir()} == {
        f"sha256-{digest}.gguf" for digest in needed
    }
    assert not list(store.names.glob("*.part"))


@pytest.mark.parametrize("script", ["kill_points.py", "bundle_kill_points.py"])
def test_killed_before_each_call(tmp_path: Path, script: str) -> None:
    """At every call to the file system, one after the other: nothing is half there or lost."""
    memory = Path("/dev/shm")  # a sync costs nothing there, and SIGKILL does not ask for one
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        command = [sys.executable, str(Path(__file__).with_name(script)), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(int(points) > 10 for points in done.stdout.split())


def test_power_cuts_while_a_bundle_is_installed(tmp_path: Path) -> None:
    """What was not synced is lost, and the machine has all of the bundle or nothing of it."""
    script = Path(__file__).with_name("bundle_power_cuts.py")
    # A mount that other processes inherit, as into namespaces of theirs, outlives its end here.
    command = ["unshare", "--mount", sys.executable, str(script), str(tmp_path), "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 77 or os.geteuid() != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    assert all(int(times) > 0 for times in done.stdout.split())
