"""The file of a bundle: what other tools read in it, and that nothing else passes for one."""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundling import Factory, Machine

from edge.bundles import archive
from edge.bundles.install import verify
from edge.bundles.keys import TrustedKeys, make_key
from edge.bundles.make import Contents, make
from edge.errors import BundleRefused, ConfigError, EdgeError, ModelNotFound


@pytest.fixture
def factory(tmp_path: Path) -> Factory:
    return Factory(tmp_path / "factory")


@pytest.fixture
def machine(tmp_path: Path, factory: Factory) -> Machine:
    return Machine(tmp_path / "machine", factory.key)


def small_bundle(factory: Factory) -> Path:
    """A few thousand bytes, for tests that try something at each of them."""
    return factory.bundle(1, catalog=factory.folder / "catalog.yaml", wheels=(factory.wheel(),))


def test_tar_reads_it(factory: Factory) -> None:
    """Also Python's, which is stricter about what a header has to be."""
    bundle = factory.bundle(1)
    digest = factory.store.get("press@1").path.name
    names = [
        *("manifest.json", "manifest.sig", f"models/{digest}"),
        *("catalog.yaml", "config.yaml", "wheels/tool-1.0-py3-none-any.whl"),
    ]
    with tarfile.open(bundle) as tar:
        assert tar.getnames() == names
        weights = tar.extractfile(f"models/{digest}")
        assert weights
        assert weights.read() == factory.store.path("press@1").read_bytes()
    listed = subprocess.run(["tar", "-tf", bundle], capture_output=True, text=True, check=True)
    assert (listed.stdout.split(), listed.stderr) == (names, "")


@pytest.mark.parametrize(("length", "size"), [(99, 5), (100, 5), (101, 5), (300, 8**11 + 7)])
def test_headers_of_long_names_and_large_files(length: int, size: int) -> None:
    """As tar(5) has them."""
    name = "wheels/" + "x" * (length - 7)
    file = io.BytesIO()
    archive.write_file(file, name, size, iter([b""]))
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        member = tar.next()
    assert member
    assert (member.name, member.size, member.mode, member.mtime) == (name, size, 0o644, 0)
    assert member.isreg()


def test_openssl_checks_the_signature(factory: Factory, tmp_path: Path) -> None:
    """Nobody depends on us to know who signed what."""
    openssl = shutil.which("openssl")
    assert openssl, "openssl is missing: ./scripts/test installs it"
    subprocess.run(["tar", "-xf", factory.bundle(1), "-C", tmp_path], check=True)
    (tmp_path / "key.pem").write_text(factory.key.public_pem())
    (tmp_path / "seal").write_bytes((tmp_path / "manifest.sig").read_bytes()[32:])
    command = [openssl, "pkeyutl", "-verify", "-pubin", "-inkey", "key.pem", "-rawin"]
    command += ["-in", "manifest.json", "-sigfile", "seal"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


def test_a_key_is_made_once_and_kept_to_oneself(tmp_path: Path) -> None:
    """And openssl's keys do as well."""
    key = make_key(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        make_key(tmp_path / "key")
    assert key.fingerprint.startswith("sha256:")
    command = ["openssl", "pkey", "-in", "key", "-pubout"]
    done = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout == key.public_pem()


def test_every_byte_counts(factory: Factory, machine: Machine, tmp_path: Path) -> None:
    """A bit that changed anywhere is noticed, in names, sizes and padding too."""
    bundle = small_bundle(factory)
    whole, path = bundle.read_bytes(), tmp_path / "altered"
    keys = TrustedKeys(machine.keys)
    assert verify(bundle, machine.store, keys).manifest.version == 1
    for at in range(len(whole)):
        altered = bytearray(whole)
        altered[at] ^= 1 << at % 8
        path.write_bytes(altered)
        with pytest.raises(BundleRefused):
            verify(path, machine.store, keys)


def test_every_length_but_one_is_wrong(factory: Factory, machine: Machine, tmp_path: Path) -> None:
    """Cut anywhere, or with anything behind its end."""
    whole, path = small_bundle(factory).read_bytes(), tmp_path / "cut"
    keys = TrustedKeys(machine.keys)
    path.write_bytes(whole)
    for length in range(len(whole) - 1, -1, -1):
        with open(path, "r+b") as file:
            file.truncate(length)
        with pytest.raises(BundleRefused):
            verify(path, machine.store, keys)
    for more in (b"\0", bytes(512), whole):
        path.write_bytes(whole + more)
        with pytest.raises(BundleRefused):
            verify(path, machine.store, keys)


def test_a_thousand_mutants(factory: Factory, machine: Machine, tmp_path: Path) -> None:
    """Pieces lost, repeated, moved and overwritten: an error in one sentence, and nothing stays."""
    whole, path = factory.bundle(1).read_bytes(), tmp_path / "mutant"
    dice, before = random.Random(8), machine.files()
    for _ in range(1000):
        mutant = bytearray(whole)
        for _ in range(dice.choice((1, 1, 2, 4))):
            here, there = (512 * dice.randrange(len(whole) // 512) for _ in "ab")
            length = dice.choice((1, 7, 512, 1024, 4096))
            match dice.randrange(4):
                case 0:
                    del mutant[here : here + length]
                case 1:
                    mutant[there:there] = mutant[here : here + length]
                case 2:
                    mutant[there : there + length] = mutant[here : here + length]
                case _:
                    at = dice.randrange(len(mutant))
                    mutant[at : at + length] = dice.randbytes(length)
        if mutant == whole:
            continue
        path.write_bytes(mutant)
        with pytest.raises(BundleRefused, match=str(path)):
            machine.install(path)
    assert machine.files() == before


SAYINGS: list[tuple[str, Callable[[Any], Any]]] = [
    ("unknown field `runs`", lambda it: it.update(runs="rm")),
    ("format 2", lambda it: it.update(format=2)),
    ("regex", lambda it: it.update(architecture="../x")),
    ("cannot be called", lambda it: it["files"][1].update(path="../catalog.yaml")),
    ("regex", lambda it: it["files"][3].update(path="wheels/../x.whl")),
    ("too large", lambda it: it["files"][2].update(size=9_999_999)),
    (">= 0", lambda it: it["files"][2].update(size=-1)),
    ("twice", lambda it: it["files"].append(it["files"][0])),
    ("twice", lambda it: it["models"].append(it["models"][0])),
    ("do not agree", lambda it: it["models"].clear()),
]


@pytest.mark.parametrize(("reason", "change"), SAYINGS)
def test_a_manifest_that_is_signed_and_wrong(
    factory: Factory, machine: Machine, reason: str, change: Callable[[Any], Any]
) -> None:
    """Whoever has the key may err, or lead elsewhere with names."""
    with tarfile.open(factory.bundle(1)) as tar:
        manifest = tar.extractfile("manifest.json")
        assert manifest
        tree = json.load(manifest)
    change(tree)
    content, path = json.dumps(tree).encode(), factory.folder / "odd"
    with open(path, "wb") as file:
        archive.write_file(file, archive.MANIFEST, len(content), iter([content]))
        seal = factory.key.sign(content)
        archive.write_file(file, archive.SIGNATURE, len(seal), iter([seal]))
    with pytest.raises(BundleRefused, match=reason):
        machine.install(path)


@pytest.mark.parametrize("length", [0, 1, 511, 512, 513, 5_000_000])
def test_what_is_no_bundle(machine: Machine, tmp_path: Path, length: int) -> None:
    """A page, a picture, an empty file, a tar of somebody else's: one sentence."""
    path = tmp_path / "other"
    path.write_bytes(random.Random(1).randbytes(length))
    with pytest.raises(BundleRefused, match="no bundle"):
        machine.install(path)
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("manifest.json"))
    with pytest.raises(BundleRefused):
        machine.install(path)


def test_what_cannot_be_put_in(factory: Factory, tmp_path: Path) -> None:
    """Known before anything is written."""
    bad = tmp_path / "bad.yaml"
    bad.write_text("http: {prot: 1}")
    no_wheel = tmp_path / "x-1-py3-none-any.whl"
    no_wheel.write_bytes(b"<html>")
    wheels = tuple(
        factory.wheel(f"tool-1-cp311-cp311-manylinux_2_28_{machine}.whl")
        for machine in ("x86_64", "aarch64")
    )
    cases: list[tuple[type[EdgeError], str, Contents]] = [
        (BundleRefused, "nothing in it", Contents("line", 1)),
        (ModelNotFound, "not installed", Contents("line", 1, active=("none",))),
        (ConfigError, "prot", Contents("line", 1, config=bad)),
        (ConfigError, "unknown", Contents("line", 1, catalog=bad)),
        (BundleRefused, "no wheel", Contents("line", 1, wheels=(no_wheel,))),
        (BundleRefused, "aarch64, x86_64", Contents("line", 1, wheels=wheels)),
        (BundleRefused, ">= 1", Contents("line", 0, active=("press",))),
        (BundleRefused, "regex", Contents("../line", 1, active=("press",))),
        (BundleRefused, "twice", Contents("line", 1, ("press@1",), ("press@2",))),
    ]
    for kind, reason, contents in cases:
        with pytest.raises(kind, match=reason):
            make(tmp_path / "out", contents, factory.key, factory.store)
    assert not list(tmp_path.glob("out*"))


def test_a_model_that_rotted_is_not_passed_on(factory: Factory, tmp_path: Path) -> None:
    """The digest of when it was installed is what counts."""
    path = factory.store.path("press")
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    with pytest.raises(BundleRefused, match="not what it was"):
        factory.bundle(1, active=("press",))
    assert not list(factory.folder.glob("*.bundle*"))
