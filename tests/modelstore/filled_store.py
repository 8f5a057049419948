"""Puts small models into a store, as this release does and as earlier ones did."""

from __future__ import annotations

import hashlib

import msgspec
from tinymodel import write_model

from edge.modelstore.gguf import read_header
from edge.modelstore.store import Installed, ModelStore
from edge.modelstore.versions import manifest_of


def add(store: ModelStore, name: str, numbers: int = 256) -> Installed:
    """Other numbers make another file."""
    with store.claim(name) as folder:
        path = write_model(folder / "model.gguf", numbers=numbers)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return store.add(name, path, manifest_of(read_header(path), digest, "file:x", "MIT"))


def add_as_before(store: ModelStore, name: str) -> bytes:
    """A model in the layout of earlier releases."""
    store.directory.mkdir(exist_ok=True)
    path = write_model(store.directory / f"{name}.gguf")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest = manifest_of(read_header(path), digest, "pypi:x==1/y", "MIT", "1")
    old = {"source", "sha256", "size", "licence", "pulled_at", "revision"}
    facts = {key: value for key, value in msgspec.to_builtins(manifest).items() if key in old}
    path.with_name(f"{name}.json").write_bytes(msgspec.json.encode(facts))
    return path.read_bytes()
