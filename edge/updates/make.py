"""Signing a software bundle: `python -m edge.updates.make FOLDER FILE KEY`.

FOLDER is what scripts/make-offline-bundle gathered: `bundle.env` says what it is, `SHA256SUMS`
covers all of it. FILE is a tar with the same folder in it, the manifest and its signature first.
"""

from __future__ import annotations

import datetime
import os
import sys
import zipfile
from pathlib import Path

from edge.bundles import archive
from edge.bundles.keys import SigningKey
from edge.disk import sha256_of, sync
from edge.errors import EdgeError
from edge.updates.manifest import FORMAT, NAME, PURPOSE, File, Software, decode, encode

COMPILED = 1.5
"""What Python makes of its modules comes to half of them once more."""


def seal(folder: Path, path: Path, key: SigningKey) -> Software:
    """Write the bundle. Raises `BundleRefused`, `OSError`, `KeyError` for a missing fact."""
    manifest = f"{folder.name}/{archive.MANIFEST}"
    assert NAME.fullmatch(manifest), f"{folder.name} is no name for a bundle"
    content = encode(_software(folder))
    software = decode(content)
    sealed = key.sign(PURPOSE + content)
    with open(path, "wb") as file:
        for name, head in ((manifest, content), (f"{folder.name}/{archive.SIGNATURE}", sealed)):
            archive.write_file(file, name, len(head), iter([head]))
        for one in software.files:
            with open(folder / one.path, "rb") as source:
                name = f"{folder.name}/{one.path}"
                archive.write_file(file, name, one.size, archive.pieces_of(source), one.mode)
        archive.write_end(file)
    sync(path)
    return software


def _software(folder: Path) -> Software:
    facts = dict(
        line.split("=", 1) for line in (folder / "bundle.env").read_text().splitlines() if line
    )
    return Software(
        format=FORMAT,
        version=facts["version"],
        oldest=facts["oldest"],
        made_at=datetime.datetime.fromisoformat(facts["made_at"]),
        machine=facts["machine"],
        system=facts["system"],
        python=facts["python"],
        l4t=int(facts["l4t"]) if facts.get("l4t") else None,
        installed_bytes=_installed_bytes(folder),
        files=[_file(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()],
    )


def _file(folder: Path, path: Path) -> File:
    name = str(path.relative_to(folder))
    return File(name, path.stat().st_size, sha256_of(path), os.access(path, os.X_OK))


def _installed_bytes(folder: Path) -> int:
    """Of the wheels, unpacked."""
    total = 0
    for wheel in folder.glob("wheels/*.whl"):
        with zipfile.ZipFile(wheel) as archived:
            total += sum(info.file_size for info in archived.infolist())
    return int(total * COMPILED)


def main(folder: str, path: str, key: str) -> None:
    try:
        signer = SigningKey(Path(key))
        seal(Path(folder), Path(path), signer)
    except EdgeError as error:
        sys.exit(f"Error: {error.message}\nTry: {error.hint}")
    sys.stderr.write(f"signed with the key {signer.fingerprint}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
