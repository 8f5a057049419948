"""scripts/build-image: what is in the overlay, with a small bundle in the place of a real one."""

from __future__ import annotations

import os
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "build-image"
LONG_AGO = "1700000000"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """As make-offline-bundle leaves it, but for what is in it."""
    folder = tmp_path / "edge-1.2.3-ubuntu22.04-arm64"
    (folder / "scripts").mkdir(parents=True)
    (folder / "bundle.env").write_text("version=1.2.3\narchitecture=arm64\n")
    (folder / "scripts/install.sh").write_text("#!/bin/sh\n")
    (folder / "scripts/install.sh").chmod(0o700)
    file = tmp_path / "bundle.tar"
    subprocess.run(["tar", "-cf", str(file), "-C", str(tmp_path), folder.name], check=True)
    return file


def build(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment["SOURCE_DATE_EPOCH"] = LONG_AGO
    command = [str(SCRIPT), *options]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def members(archive: Path) -> dict[str, tarfile.TarInfo]:
    plain = subprocess.run(["zstd", "-dc", str(archive)], check=True, capture_output=True).stdout
    file = archive.with_suffix(".plain")
    file.write_bytes(plain)
    with tarfile.open(file) as opened:
        return {one.name: one for one in opened.getmembers()}


def test_overlay(bundle: Path, tmp_path: Path) -> None:
    """Root's, readable, and no folder of the system's own in it, whose mode it would set."""
    archive = tmp_path / "overlay.tar.zst"
    done = build(tmp_path, "--bundle", str(bundle), str(archive))
    assert done.returncode == 0, done.stderr
    found = members(archive)
    assert {(one.uid, one.gid, one.mtime) for one in found.values()} == {(0, 0, int(LONG_AGO))}
    assert found["usr/share/edge/bundle/scripts/install.sh"].mode == 0o755
    assert found["usr/share/edge/bundle/bundle.env"].mode == 0o644
    assert "usr/lib/edge-firstboot/__main__.py" in found
    assert "usr/lib/edge-firstboot/firstboot/first_boot.py" in found
    wants = found["etc/systemd/system/multi-user.target.wants/edge-firstboot.service"]
    assert wants.linkname.removeprefix("/") in found
    folders = {name for name, one in found.items() if one.isdir()}
    assert not folders & {"etc", "usr", "usr/lib", "etc/systemd", "etc/systemd/system"}
    assert "etc/edge/edge.yaml" not in found


def test_the_same_things_give_the_same_bytes(bundle: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.tar.zst", tmp_path / "second.tar.zst"
    assert build(tmp_path, "--bundle", str(bundle), str(first)).returncode == 0
    now = time.time()
    os.utime(bundle, (now, now))
    other = tmp_path / "elsewhere"
    other.mkdir()
    assert build(other, "--bundle", str(bundle), str(second)).returncode == 0
    assert first.read_bytes() == second.read_bytes()


def test_dry_run_shows_each_step_and_does_nothing(tmp_path: Path) -> None:
    archive = tmp_path / "overlay.tar.zst"
    done = build(tmp_path, "--dry-run", str(archive))
    assert done.returncode == 0, done.stderr
    assert "make-offline-bundle --machine aarch64 --python 3.10" in done.stderr
    assert "--system 'ubuntu 22.04'" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "where to?"),
        (["--nonsense", "x"], "build-image does not know '--nonsense'"),
        (["--config", "/nowhere/edge.yaml", "x"], "there is no file /nowhere/edge.yaml"),
        (["--bundle"], "--bundle needs a value"),
    ],
)
def test_wrong_arguments(tmp_path: Path, options: list[str], complaint: str) -> None:
    done = build(tmp_path, *options)
    assert done.returncode == 1
    assert complaint in done.stderr
