"""JetPack and the Jetson Linux (L4T) below it."""

from __future__ import annotations

import re
from pathlib import Path

from edge.host import kernel

# https://developer.nvidia.com/embedded/jetpack-archive
_JETPACK = {
    "35.1.0": "5.0.2",
    "35.2.1": "5.1",
    "35.3.1": "5.1.1",
    "35.4.1": "5.1.2",
    "35.5.0": "5.1.3",
    "35.6.0": "5.1.4",
    "35.6.1": "5.1.5",
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    "38.2.0": "7.0",
    "38.4.0": "7.1",
}
_GENERATION = {35: "5", 36: "6", 38: "7", 39: "7"}


def l4t(root: Path = Path("/")) -> str | None:
    """`36.4.3`, from a first line such as `# R36 (release), REVISION: 4.3, GCID: …`."""
    said = kernel.text(root / "etc/nv_tegra_release") or ""
    match = re.match(r"#\s*R(\d+) \(release\), REVISION: ([\d.]+)", said)
    return f"{match[1]}.{match[2]}" if match else None


def version(root: Path = Path("/")) -> str | None:
    """`6.2`: what is installed says, else the table; of a release that is not in it only the
    generation is known: `6`."""
    installed = _package(root)
    if installed:
        return installed
    release = l4t(root)
    if release is None:
        return None
    return _JETPACK.get(release) or _GENERATION.get(int(release.split(".")[0]))


def _package(root: Path) -> str | None:
    """The version of the package nvidia-jetpack, without its build; images for cards lack it."""
    for package in (kernel.text(root / "var/lib/dpkg/status") or "").split("\n\n"):
        if package.startswith("Package: nvidia-jetpack\n"):
            match = re.search(r"^Version: ([\d.]+)", package, re.MULTILINE)
            return match[1] if match else None
    return None
