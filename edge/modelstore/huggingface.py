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
from typing import Any

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
from edge.errors import PullFailed
from edge.modelstore.catalog import HuggingFaceSource
from edge.modelstore.workspace import Fetched, Progress, Workspace

# The base of all errors of the HTTP library that the hub's client happens to use: that has been
# requests, httpx and httpx2, none of which we depend on.
_HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]

_NETWORK_HINT = "check the network; HF_ENDPOINT can name a mirror. What was fetched is kept"

logger = logging.getLogger(__name__)


def fetch(source: HuggingFaceSource, work: Workspace) -> Fetched:
    """Download the file, going on where an earlier attempt stopped.

    Raises `PullFailed`, and `OSError` when the disk fails.
    """
    with _explained(source):
        endpoint = os.environ.get("HF_ENDPOINT") or None  # the library looks only when imported
        headers = build_hf_headers(library_name="edge-appliance", library_version=__version__)
        asked = hf_hub_url(source.repo, source.file, revision=source.revision, endpoint=endpoint)
        facts = get_hf_file_metadata(asked, headers=headers, endpoint=endpoint)
    if facts.etag is None or facts.size is None or facts.commit_hash is None:
        raise PullFailed(
            f"the server does not say what {source} is", hint="check HF_ENDPOINT and the proxy"
        )
    # Named for its content: the start of one version is never continued with another.
    path = work.folder / f"{re.sub(r'[^A-Za-z0-9]', '', facts.etag)[:80]}.part"
    _drop_others(path)
    have = path.stat().st_size if path.exists() else 0
    if have > facts.size:
        path.unlink()
        have = 0
    work.require(facts.size - have)
    url = hf_hub_url(source.repo, source.file, revision=facts.commit_hash, endpoint=endpoint)
    with _explained(source), open(path, "ab") as file:
        http_get(
            url,
            file,
            resume_size=have,
            headers=headers,
            expected_size=facts.size,
            tqdm_class=_meter(work.progress, facts.size),
        )
    work.progress(facts.size, facts.size)
    return Fetched(path, _check(source, path, facts.etag), facts.commit_hash)


def _drop_others(path: Path) -> None:
    for other in path.parent.glob("*.part"):
        if other != path:
            other.unlink()


def _check(source: HuggingFaceSource, path: Path, etag: str) -> str:
    """The digest of the file, which must be the one that the hub published."""
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


def _meter(progress: Progress, size: int) -> Any:
    """A stand-in for a tqdm class, which draws nothing and reports instead."""

    class Meter:
        def __init__(self, *, initial: int = 0, **_: object) -> None:
            self.done = initial
            progress(self.done, size)

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
            progress(min(self.done, size), size)

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
