"""What is refused before anything of a bundle is unpacked or run."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest
from software import Box, Factory

from edge.bundles import archive
from edge.bundles.keys import SigningKey, make_key
from edge.bundles.manifest import BundleManifest
from edge.bundles.manifest import encode as encode_models
from edge.errors import BundleRefused
from edge.modelstore.versions import now
from edge.updates.manifest import PURPOSE
from edge.updates.source import FileSource


def refused(box: Box, bundle: Path) -> str:
    """Why, with nothing changed."""
    with pytest.raises(BundleRefused) as error:
        box.update(bundle)
    assert box.slots.current == "1.0.0"
    assert box.said == []
    # What was whole would not be read again.
    shutil.rmtree(box.base / ".update", ignore_errors=True)
    return error.value.message


def test_a_bundle_of_a_trusted_key_is_taken(box: Box, factory: Factory) -> None:
    assert box.update(factory.bundle("2.0.0")) == "installed"
    assert box.slots.current == "2.0.0"


def test_any_byte_altered(box: Box, factory: Factory, tmp_path: Path) -> None:
    """In the head, in headers of files, in files, in padding, at the end: never installed."""
    good = factory.bundle("2.0.0", ballast=2000).read_bytes()
    dice = random.Random(7)
    places = {*range(0, 1600, 31), *range(len(good) - 1500, len(good), 101)}
    places |= {dice.randrange(len(good)) for _ in range(50)}
    for place in sorted(places):
        altered = bytearray(good)
        altered[place] ^= 1 << dice.randrange(8)
        (tmp_path / "edge-altered.tar").write_bytes(altered)
        refused(box, tmp_path / "edge-altered.tar")


def test_any_length_but_the_right_one(box: Box, factory: Factory, tmp_path: Path) -> None:
    good = factory.bundle("2.0.0", ballast=2000).read_bytes()
    cut = tmp_path / "edge-cut.tar"
    for length in [0, 1, 511, 512, 1200, *range(2000, len(good), 700), len(good) - 1]:
        cut.write_bytes(good[:length])
        refused(box, cut)
    cut.write_bytes(good + b"\0")
    refused(box, cut)


def test_a_key_that_nobody_trusts(box: Box, factory: Factory, tmp_path: Path) -> None:
    bundle = factory.bundle("2.0.0", key=make_key(tmp_path / "other.key"))
    assert "is signed with the key sha256:" in refused(box, bundle)


def test_a_key_for_models_is_none_for_software(box: Box, factory: Factory, tmp_path: Path) -> None:
    """It lies where `edge bundle` looks, and is not asked for software."""
    models = make_key(tmp_path / "models.key")
    trusted = box.keys.parent / "trusted-keys.d"
    trusted.mkdir()
    (trusted / "models.pem").write_text(models.public_pem())
    assert "update-keys does not have" in refused(box, factory.bundle("2.0.0", key=models))


def test_a_signature_for_models_is_none_for_software(
    box: Box, factory: Factory, tmp_path: Path
) -> None:
    """Even of the same key: whoever has it sign a bundle of models gets no software signed."""

    class ForModels(SigningKey):
        def sign(self, message: bytes) -> bytes:
            return super().sign(message.removeprefix(PURPOSE))

    key = ForModels(factory.folder / "update.key")
    assert "signature does not fit" in refused(box, factory.bundle("2.0.0", key=key))


def test_a_bundle_of_models_is_told_from_one_of_software(
    box: Box, factory: Factory, tmp_path: Path
) -> None:
    path = tmp_path / "edge-models.tar"
    content = encode_models(BundleManifest(1, "line", 3, now(), "any", None, [], []))
    with open(path, "wb") as file:
        heads = (archive.MANIFEST, content), (archive.SIGNATURE, factory.key.sign(content))
        for name, head in heads:
            archive.write_file(file, name, len(head), iter([head]))
        archive.write_end(file)
    assert "no signed software bundle" in refused(box, path)


def test_a_bundle_without_signature(box: Box, factory: Factory, tmp_path: Path) -> None:
    factory.bundle("2.0.0")
    command = ["tar", "-cf", str(tmp_path / "edge-plain.tar"), "-C", str(factory.folder)]
    subprocess.run([*command, "edge-2.0.0"], check=True)
    assert "no signed software bundle" in refused(box, tmp_path / "edge-plain.tar")


def test_nobody_is_trusted(box: Box, factory: Factory) -> None:
    (box.keys / "factory.pem").unlink()
    assert "nobody is trusted" in refused(box, factory.bundle("2.0.0"))


@pytest.mark.parametrize("what", ["", "factory.pem"])
def test_keys_that_others_could_put_there(box: Box, factory: Factory, what: str) -> None:
    (box.keys / what).chmod(0o777)
    assert "can be written by others" in refused(box, factory.bundle("2.0.0"))


def test_it_is_a_tar_for_everybody(box: Box, factory: Factory, tmp_path: Path) -> None:
    """Unpacked by hand it is what was made; its signature is checked by openssl alone."""
    bundle = factory.bundle("2.0.0")
    subprocess.run(["tar", "-xf", str(bundle), "-C", str(tmp_path)], check=True)
    folder = tmp_path / "edge-2.0.0"
    subprocess.run(
        ["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"], cwd=folder, check=True
    )
    assert (folder / "scripts" / "install.sh").stat().st_mode & 0o777 == 0o755
    script = """
        { echo "edge software update"; cat manifest.json; } >signed
        tail -c 64 manifest.sig >seal
        openssl pkeyutl -verify -pubin -inkey "$0" -rawin -in signed -sigfile seal
    """
    command = ["bash", "-c", script, str(box.keys / "factory.pem")]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_only_reading_leaves_nothing(box: Box, factory: Factory) -> None:
    before = sorted(box.base.rglob("*"))
    plan = box.updater().plan(FileSource(factory.bundle("2.0.0")))
    assert plan.missing_bytes == plan.head.software.size > 600_000
    assert sorted(box.base.rglob("*")) == before
