"""What machines are made and installed from: a bare Debian, and offline bundles of this tree.

Making them needs the network; the machines then have none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import debian

from edge import __version__
from edge.bundles.keys import SigningKey, make_key
from edge.updates.make import seal

TREE = Path(__file__).parents[2]
PACKAGES = "systemd,systemd-sysv,dbus,iproute2,procps"
FIRST = __version__

NEXT = "9.0.0"
CRASHES = "9.0.1"
CRASHES_AS_SERVICE = "9.0.2"

PATCHES = {
    NEXT: "",
    CRASHES: "raise SystemExit('this version is broken')\n",
    CRASHES_AS_SERVICE: (
        "import os\n"
        "if os.environ.get('NOTIFY_SOCKET'):\n"
        "    raise SystemExit('this version is broken as a service')\n"
    ),
}
"""What stands in `edge/daemon.py` of later versions, at its end."""


def bare_debian() -> Path:
    """A root file system with systemd, of the release that this machine has; made once."""
    return debian.root(PACKAGES)


def make_bundles(media: Path) -> None:
    """Bundles of this tree and of later versions of it: media/VERSION, each unpacked, and
    media/edge.tar, the first as it is carried. media/sticks/VERSION are folders with one that is
    signed, for which the first one lays down the key."""
    media.mkdir(parents=True, exist_ok=True)
    key = make_key(media / "update.key")
    make_bundle(media, "--sign", str(media / "update.key"))
    first = media / FIRST
    first.mkdir()
    unpack = ["tar", "-xf", str(media / "edge.tar"), "-C", str(first), "--strip-components=1"]
    subprocess.run(unpack, check=True)
    for version, patch in PATCHES.items():
        _later(first, media / version, version, patch)
        _sign(media / version, media / "sticks" / version, key)


def _sign(folder: Path, stick: Path, key: SigningKey) -> None:
    stick.mkdir(parents=True)
    named = stick / f"edge-{folder.name}-signed"
    shutil.copytree(folder, named, copy_function=os.link)
    seal(named, stick / f"{named.name}.tar", key)
    shutil.rmtree(named)


def make_bundle(media: Path, *options: str) -> Path:
    """media/edge.tar, of this tree."""
    packed = media / "packed"
    packed.mkdir(parents=True)
    command = [str(TREE / "scripts" / "make-offline-bundle"), *options, str(packed)]
    environment = {**os.environ, "PYTHON": _python()}
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    (made,) = packed.glob("*.tar")
    return made.rename(media / "edge.tar")


def _python() -> str:
    """The wheels are for the machine's Python, which is the release's own version."""
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


def _later(first: Path, folder: Path, version: str, patch: str) -> None:
    """Another version in the place of the first; all else is the same, by hard links."""
    shutil.copytree(first, folder, copy_function=os.link)
    tree = folder.with_suffix(".tree")
    for part in ("edge", "models", "pyproject.toml", "README.md", "LICENSE"):
        source = TREE / part
        if source.is_dir():
            shutil.copytree(source, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            tree.mkdir(exist_ok=True)
            shutil.copy(source, tree / part)
    (tree / "edge/__init__.py").write_text(f'__version__ = "{version}"\n')
    with open(tree / "edge/daemon.py", "a") as daemon:
        daemon.write(patch)
    for wheel in (folder / "wheels").glob("edge_appliance-*.whl"):
        wheel.unlink()
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    subprocess.run([*command, "--wheel-dir", str(folder / "wheels"), str(tree)], check=True)
    shutil.rmtree(tree)
    facts = (first / "bundle.env").read_text().replace(f"version={FIRST}", f"version={version}")
    for name in ("bundle.env", "SHA256SUMS"):
        (folder / name).unlink()
    (folder / "bundle.env").write_text(facts)
    sums = "find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum"
    subprocess.run(["bash", "-c", f"({sums}) >SHA256SUMS"], cwd=folder, check=True)
