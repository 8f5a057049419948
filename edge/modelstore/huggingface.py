"""Fetch a model file from a Hugging Face hub, or a mirror of one (`HF_ENDPOINT`, `HF_TOKEN`).

The one place that imports `huggingface_hub`. Its parts are used, not `hf_hub_download`: that
throws away a download that was cut, and a gigabyte over a mobile link is not fetched in one go.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import msgspec
from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented

from edge import __version__
from edge.disk import sha256_of
from edge.errors import BadModelFile, PullFailed
from edge.modelstore.catalog import HuggingFaceSource
from edge.modelstore.parts import join, part_names
from edge.modelstore.workspace import Fetched, Workspace

# The base of all errors of the HTTP library that the hub's client happens to use: that has been
# requests, httpx and httpx2, none of which we depend on.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]

_NETWORK_HINT = "check the network; HF_ENDPOINT can name a mirror. What was fetched is kept"

logger = logging.getLogger(__name__)


class _File(NamedTuple):
    """A file of the repository, as the hub describes it. path: where its bytes are collected."""

    source: HuggingFaceSource
    etag: str
    size: int
    commit: str
    path: Path

    @property
    def have(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0


def fetch(source: HuggingFaceSource, work: Workspace) -> Fetched:
    """Download the file, or all parts of a model in parts, which are joined then, going on where an
    earlier attempt stopped.

    Raises `PullFailed`, `BadModelFile` for parts that do not belong together, and `OSError` when
    the disk fails.
    """
    folder, _, name = source.file.rpartition("/")
    files: list[_File] = []
    for part in part_names(name):
        wanted = msgspec.structs.replace(source, file=f"{folder}/{part}" if folder else part)
        if files:  # of the same commit, whatever happens to the branch meanwhile
            wanted = msgspec.structs.replace(wanted, revision=files[0].commit)
        files.append(_look_up(wanted, work))
    _prepare(files, work)
    whole = sum(file.size for file in files)
    done = 0
    for file in files:
        _download(file, work, done, whole)
        done += file.size
    work.progress(whole, whole)
    digests = [_check(file) for file in files]
    if len(files) == 1:
        return Fetched(files[0].path, digests[0], files[0].commit)
    return _joined(files, work)


def _look_up(source: HuggingFaceSource, work: Workspace) -> _File:
    with _explained(source):
        endpoint = os.environ.get("HF_ENDPOINT") or None  # the library looks only when imported
        asked = hf_hub_url(source.repo, source.file, revision=source.revision, endpoint=endpoint)
        facts = get_hf_file_metadata(asked, headers=_headers(), endpoint=endpoint)
    if facts.etag is None or facts.size is None or facts.commit_hash is None:
        raise PullFailed(
            f"the server does not say what {source} is", hint="check HF_ENDPOINT and the proxy"
        )
    # Named for its content: the start of one version is never continued with another.
    content = re.sub(r"[^A-Za-z0-9]", "", facts.etag)[:80]
    path = work.folder / f"{content}-{source.file.rpartition('/')[2][-80:]}.part"
    return _File(source, facts.etag, facts.size, facts.commit_hash, path)


def _headers() -> dict[str, str]:
    headers: dict[str, str] = build_hf_headers(
        library_name="edge-appliance", library_version=__version__
    )
    return headers


def _prepare(files: list[_File], work: Workspace) -> None:
    """Drop what belongs to other versions, and see that there is room."""
    for other in set(work.folder.glob("*.part")) - {file.path for file in files}:
        other.unlink()
    for file in files:
        if file.have > file.size:
            file.path.unlink()
    missing = sum(file.size - file.have for file in files)
    joined = sum(file.size for file in files) if len(files) > 1 else 0
    work.require(missing + joined)


def _download(file: _File, work: Workspace, before: int, whole: int) -> None:
    """before: bytes of other parts that are there; whole: bytes of all."""
    source, have = file.source, file.have
    endpoint = os.environ.get("HF_ENDPOINT") or None
    url = hf_hub_url(source.repo, source.file, revision=file.commit, endpoint=endpoint)
    with _explained(source), open(file.path, "ab") as part:
        http_get(
            url,
            part,
            resume_size=have,
            headers=_headers(),
            expected_size=file.size,
            tqdm_class=_meter(work, before, whole),
        )


def _joined(files: list[_File], work: Workspace) -> Fetched:
    target = work.folder / "model.gguf"
    try:
        digest = join([file.path for file in files], target, lambda done, whole: None)
    except BadModelFile:
        for file in files:  # these are the right bytes: to fetch them again would not help
            file.path.unlink(missing_ok=True)
        raise
    return Fetched(target, digest, files[0].commit)


def _check(file: _File) -> str:
    """The digest of the file, which must be the one that the hub published."""
    source, path, etag = file.source, file.path, file.etag
    digest = sha256_of(path)
    # Large files have their SHA-256 for an etag. A mirror may make up etags of its own.
    if not re.fullmatch("[0-9a-f]{64}", etag):
        logger.warning("%s: the server publishes no SHA-256; only the size was checked", source)
    elif digest != etag:
        path.unlink()
        raise PullFailed(
            f"what was downloaded for {source} has the digest {digest}, not {etag}",
            hint="pull it again; if it happens again, check the mirror or proxy in between",
        )
    return digest


def _meter(work: Workspace, before: int, whole: int) -> Any:
    """A stand-in for a tqdm class, which draws nothing and reports instead."""

    class Meter:
        def __init__(self, *, initial: int = 0, **_: object) -> None:
            self.done = before + initial
            work.progress(self.done, whole)

        def __enter__(self) -> Meter:
            return self

        def __exit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            trace: TracebackType | None,
        ) -> None:
            pass

        def update(self, count: int) -> None:
            """Negative when the server would not resume and the file begins anew."""
            self.done += count
            work.progress(min(self.done, whole), whole)
            work.received(max(count, 0))

    return Meter


@contextmanager
def _explained(source: HuggingFaceSource) -> Iterator[None]:
    """Turn what the hub's client raises into `PullFailed`. Faults of the disk go through."""
    try:
        yield
    except HFValidationError as error:
        raise PullFailed(f"{source}: {error}", hint="correct the entry in the catalog") from None
    except OfflineModeIsEnabled:
        raise PullFailed(f"HF_HUB_OFFLINE forbids to fetch {source}", hint="unset it") from None
    except (HfHubHTTPError, EntryNotFoundError) as error:
        raise _refused(source, error) from None
    except _HTTP_ERROR as error:
        raise PullFailed(
            f"the Hugging Face hub could not be reached, or was lost, for {source}:"
            f" {str(error) or type(error).__name__}",
            hint=_NETWORK_HINT,
        ) from None
    except OSError as error:
        if error.errno is not None:
            raise
        # The client's own complaint, that the bytes which came are not as many as announced.
        raise PullFailed(f"the download of {source} was cut", hint=_NETWORK_HINT) from None


def _refused(source: HuggingFaceSource, error: Exception) -> PullFailed:
    token = "set HF_TOKEN to an access token of an account that may read it"
    if isinstance(error, GatedRepoError):
        return PullFailed(
            f"{source.repo} is given only to those who accepted its licence",
            hint=f"accept the licence on the page of {source.repo}, then {token}",
        )
    if isinstance(error, RevisionNotFoundError):
        message = f"{source.repo} has no revision {source.revision!r}"
        return PullFailed(message, hint="correct the entry in the catalog")
    if isinstance(error, RepositoryNotFoundError):
        return PullFailed(f"{source.repo} does not exist or is private", hint=token)
    if isinstance(error, EntryNotFoundError):
        message = f"{source.repo} has no file {source.file!r}"
        return PullFailed(message, hint="correct the entry in the catalog")
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status in (401, 403):
        return PullFailed(f"access to {source.repo} was refused ({status})", hint=token)
    return PullFailed(f"the server answered {status} for {source}", hint=_NETWORK_HINT)
