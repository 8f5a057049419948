"""Prefixes on disk: whole or not at all, within their room, and only what was written."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake import BYTES_PER_TOKEN, FakeBackend
from stepping import Stepper, generation

from edge.engine.prefix import Prefix
from edge.engine.prefix_files import PrefixFiles
from edge.engine.prefixes import PrefixStore
from edge.types import TokenPrompt

MB = 1 << 20
Open = Callable[..., PrefixFiles]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"weights")
    return path


@pytest.fixture
def opened(tmp_path: Path, model: Path) -> Iterator[Open]:
    """Opens the files of one worker, and ends its thread."""
    running: list[PrefixFiles] = []

    def start(settings: str = "f16", budget: int = 100 * MB, path: Path = model) -> PrefixFiles:
        files = PrefixFiles(tmp_path / "prefixes", path, settings, budget)
        files.start()
        running.append(files)
        return files

    yield start
    for files in running:
        files.close(10)


def prefix(seed: int, size: int = 1000, owner: str = "key") -> Prefix:
    data = np.random.default_rng(seed).integers(0, 256, size, np.uint8)
    tokens = [seed, *range(99)]
    return Prefix(owner, tokens, data, size, len(tokens), len(tokens))


def saved(files: PrefixFiles, *prefixes: Prefix) -> list[Path]:
    """The files, when the writer has ended."""
    for one in prefixes:
        files.save(one)
    files.close(10)
    return [one.file for one in prefixes if one.file]


def found(files: PrefixFiles) -> list[Prefix]:
    """What a new worker knows of; the first one has left the model's digest."""
    assert files.folder is not None
    return list(files.found())


def test_prefix_comes_back_as_it_was(opened: Open) -> None:
    """Tokens, owner and state; and nothing but the head is read before it is used."""
    one = prefix(1)
    [path] = saved(opened(), one)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    files = opened()
    [again] = found(files)
    assert (again.owner, again.tokens, again.shared) == (one.owner, one.tokens, one.shared)
    assert again.data is None
    data = files.load(again)
    assert data is not None
    assert one.data is not None
    assert np.array_equal(data, one.data)


def test_other_model_or_settings_find_nothing(opened: Open, tmp_path: Path, model: Path) -> None:
    """Not even under the same name: what is in the file counts."""
    saved(opened(), prefix(1))
    saved(opened("q8_0"))
    assert found(opened("q8_0")) == []
    model.write_bytes(b"weighty")
    os.utime(model, ns=(1, 1))
    saved(opened())
    assert found(opened()) == []


@pytest.mark.parametrize("seed", range(30))
def test_damaged_file_is_never_used(
    opened: Open, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever byte is changed, wherever it is cut, whatever is appended: it is removed."""
    [path] = saved(opened(), prefix(1))
    pick = random.Random(seed)
    raw = bytearray(path.read_bytes())
    at = pick.randrange(len(raw))
    kind = pick.choice(["flip", "flip", "cut", "longer", "zeros"])
    if kind == "flip":
        raw[at] ^= 1 << pick.randrange(8)
    elif kind == "zeros":
        raw[at:] = bytes(len(raw) - at)
    path.write_bytes(raw[:at] if kind == "cut" else raw + b"x" * (kind == "longer"))
    same = kind == "zeros" and path.read_bytes() == bytes(raw) and not any(raw[at:])
    files = opened()
    for one in found(files):
        data = files.load(one)
        assert data is None or same
        files.remove(path)
    files.close(10)
    assert not path.exists()
    assert len(caplog.records) <= 1


def test_least_used_file_makes_room(opened: Open) -> None:
    """Of any model's; and a budget that became smaller is kept to at the next start."""
    files = opened(budget=3000)
    one, two = prefix(1), prefix(2)
    first, second = saved(files, one, two)
    os.utime(first, (1000, 1000))
    os.utime(second, (500, 500))
    files = opened(budget=3000)
    files.touch(second, 1)
    [third] = saved(files, prefix(3))
    assert (first.exists(), second.exists(), third.exists()) == (False, True, True)
    saved(opened(budget=2000))
    assert len(found(opened(budget=2000))) == 1


def test_prefix_larger_than_the_room_is_not_written(opened: Open) -> None:
    """And nothing goes for it."""
    [path] = saved(opened(budget=3000), prefix(1))
    assert saved(opened(budget=3000), prefix(2, 5000)) == []
    assert path.exists()


def test_refusing_disk_takes_nothing_else(
    opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said once, nothing half is left, and the rest goes on."""
    files = opened()
    [kept] = saved(files, prefix(1))

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    files = opened()
    monkeypatch.setattr(os, "fsync", refuse)
    assert saved(files, prefix(2), prefix(3)) == []
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 1
    assert files.load(found(files)[0]) is not None


def test_folder_that_cannot_be_made_is_no_failure(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A read-only or broken state directory costs the prefixes only."""
    (tmp_path / "file").write_text("")
    files = PrefixFiles(tmp_path / "file" / "prefixes", model, "f16", MB)
    files.start()
    assert saved(files, prefix(1)) == []
    assert list(files.found()) == []
    assert caplog.records


WRITER = """
import sys
from pathlib import Path
import numpy as np
from edge.engine.prefix import Prefix
from edge.engine.prefix_files import PrefixFiles
files = PrefixFiles(Path(sys.argv[1]), Path(sys.argv[2]), "f16", 1 << 30)
files.start()
for seed in range(1000):
    data = np.full(2_000_000, seed % 251, np.uint8)
    one = Prefix("key", [seed], data, data.size, 1, 1)
    while not one.saving and one.file is None:
        files.save(one)
    print(seed, flush=True)
"""


@pytest.mark.parametrize("lines", [1, 6, 11])
def test_killed_in_the_middle_of_a_write(
    opened: Open, tmp_path: Path, model: Path, lines: int
) -> None:
    """All that has a name is whole, and what was begun is cleared away."""
    saved(opened())
    root = tmp_path / "prefixes"
    command = [sys.executable, "-c", WRITER, str(root), str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        for _ in range(lines):
            child.stdout.readline()
        child.kill()
    files = opened()
    for one in found(files):
        data = files.load(one)
        assert data is not None
        assert set(data[::100_000]) == {one.tokens[0] % 251}
    assert list(root.glob("*/*.part")) == []


def restarted(files: PrefixFiles) -> Stepper:
    stepper = Stepper(FakeBackend(slots=2, context=300), kept_bytes=1000 * BYTES_PER_TOKEN)
    stepper.prefixes.files = files
    return stepper


def test_shared_prefix_is_not_computed_after_a_restart(opened: Open) -> None:
    """Its first prompt finds it; one that nobody shared is gone; nobody else finds it."""
    files = opened()
    stepper = restarted(files)
    shared, single = [7] * 100, [8] * 100
    for number, tokens in enumerate([[*shared, 1], [*shared, 2], [*single, 3]]):
        request = generation(TokenPrompt(tokens), f"{number}", max_tokens=2, caller="a")
        stepper.answer(request)
    files.close(10)
    stepper = restarted(opened())
    for name, tokens, caller, cached in [
        ("b", [*shared, 4], "b", 0),
        ("shared", [*shared, 4], "a", 100),
        ("single", [*single, 4], "a", 0),
    ]:
        request = generation(TokenPrompt(tokens), name, max_tokens=2, caller=caller)
        assert stepper.answer(request).cached == cached


def test_evicted_before_it_was_written(opened: Open, tmp_path: Path) -> None:
    """Until its file is there it cannot be had, and then it can."""
    store = PrefixStore(1500, files=opened())
    files = store.files
    assert files is not None
    one = prefix(1)
    held = threading.Event()
    files._work.put(lambda: bool(held.wait()))  # type: ignore[arg-type,return-value]
    assert store.add(one)
    store.pin("parked", prefix(2))
    assert (one.data, one.file) == (None, None)
    assert store.find("key", one.tokens) is None
    assert store.data(one) is None
    held.set()
    files.close(10)
    assert store.find("key", one.tokens) == (one, 100)
    assert store.data(one) is not None


def test_file_that_went_bad_is_computed_again(opened: Open) -> None:
    """The prompt is answered as ever, and the file is removed."""
    files = opened()
    stepper = restarted(files)
    for number in range(2):
        stepper.answer(generation(TokenPrompt([*[7] * 100, number]), f"{number}", max_tokens=2))
    files.close(10)
    files = opened()
    assert files.folder is not None
    [path] = files.folder.glob("*.kv")
    with open(path, "r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"\xff" * 8)
    stepper = restarted(files)
    assert stepper.answer(generation(TokenPrompt([*[7] * 100, 5]), "x", max_tokens=2)).cached == 0
    files.close(10)
    assert not path.exists()
