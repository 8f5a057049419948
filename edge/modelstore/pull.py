"""Bring a model into the store: fetch or copy, check, install.

Blocking; the daemon runs it before it serves. Two pulls of one model at once are safe: the second
waits and finds the first one's work. What an interrupted pull had fetched waits in its folder, and
is no model before all of it was checked.
"""

from __future__ import annotations

import shutil

import msgspec

from edge.errors import BadModelFile, PullFailed
from edge.modelstore import folders
from edge.modelstore.catalog import Entry, FileSource, FolderSource, HuggingFaceSource, Wanted
from edge.modelstore.fetch import fetch
from edge.modelstore.gguf import read_installable
from edge.modelstore.pace import Pace
from edge.modelstore.store import Installed, ModelStore
from edge.modelstore.versions import Manifest, manifest_of
from edge.modelstore.workspace import Fetched, Progress, Workspace, unwatched


def pull(
    store: ModelStore, wanted: Wanted, progress: Progress = unwatched, pace: Pace | None = None
) -> Installed:
    """Return the model, after fetching it if it is not there.

    Where the name stands for something else it becomes another version, which is not active.
    progress: called in this thread, now and then, with bytes fetched and bytes in all.
    Raises `PullFailed`, `ModelInUse`, and `BadModelFile` when the source has what is no model.
    """
    try:
        with store.claim(wanted.name) as folder:
            source = wanted.source
            if isinstance(source, FolderSource):
                made = folders.pull(store, wanted, source, progress, pace)
                shutil.rmtree(folder, ignore_errors=True)
                return Installed(made.name, made.path, made.size, None)
            model = _present(store, wanted)
            if model is None:
                fetched = fetch(source, Workspace(folder, progress, pace))
                model = _install(store, wanted, fetched)
            shutil.rmtree(folder, ignore_errors=True)
            return model
    except OSError as error:
        raise PullFailed(
            f"{error.filename or store.directory}: {error.strerror or error}",
            hint="check the room on the disk and the rights of the models directory",
        ) from error


def _present(store: ModelStore, wanted: Wanted) -> Installed | None:
    active = store.find(wanted.name)
    if active is not None and active.manifest is None:
        raise PullFailed(
            f"{active.path} is there already, copied in by hand",
            hint=f"move the file away, or remove it: edge models rm {wanted.name}",
        )
    for model in [active, *store.versions(wanted.name)]:
        if model is None or model.manifest is None or not _is(model.manifest, wanted):
            continue
        # A file of the wrong size is a damaged one: it is fetched again and replaced.
        if model.size == model.manifest.size:
            return model
    return None


def _is(manifest: Manifest, wanted: Wanted) -> bool:
    if isinstance(wanted.source, HuggingFaceSource):
        return manifest.source == str(wanted.source)
    # What a path has can change; the same contents are noticed when they are added.
    if isinstance(wanted.source, FileSource | FolderSource):
        return False
    return manifest.sha256 == wanted.source.sha256


def _install(store: ModelStore, wanted: Wanted, fetched: Fetched) -> Installed:
    try:
        header = read_installable(fetched.path)
    except BadModelFile as error:
        fetched.path.unlink()  # these are the right bytes: to fetch them again would not help
        raise BadModelFile(
            f"what {wanted.source} holds cannot be used: {error.message}",
            hint="name another file, or correct the entry in the catalog",
        ) from None
    manifest = manifest_of(
        header, fetched.sha256, str(wanted.source), wanted.licence, fetched.revision
    )
    if isinstance(wanted, Entry):
        memory = wanted.memory_mb * 1_000_000
        manifest = msgspec.structs.replace(manifest, memory_bytes=memory)
    return store.add(wanted.name, fetched.path, manifest)
