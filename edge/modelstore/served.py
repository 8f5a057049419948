"""The files that a served name stands for: a model's, or with BASE+ADAPTER also an adapter's.

A model of that very name goes first, for names may have a `+` in them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from edge.errors import ModelNotFound
from edge.modelstore.adapter import KIND, check_fit
from edge.modelstore.store import Installed, ModelStore


class ServedFiles(NamedTuple):
    """adapter_name: without a version, as the configuration calls it."""

    model: Path
    adapter: Path | None = None
    adapter_name: str | None = None


def is_adapter(installed: Installed) -> bool:
    """As far as is known: of a file that was copied in by hand nothing is."""
    return installed.manifest is not None and installed.manifest.kind == KIND


def is_there(store: ModelStore, name: str) -> bool:
    """A model of that name is installed. For those who ask often: nothing is said of one that is
    not, and so no catalog is read for what could be said. Raises `StoreBroken`."""
    return store.find(_names(store, name)[0]) is not None


def find_served(store: ModelStore, name: str) -> ServedFiles:
    """What is installed under the name now; nothing is opened.

    Raises `ModelNotFound`, which says whether it is the model or the adapter that is missing or is
    not one, and `StoreBroken`.
    """
    base, adapter = _names(store, name)
    model = store.get(base)
    if is_adapter(model):
        raise ModelNotFound(
            f"{base!r} is a LoRA adapter, which is served with a model, as MODEL+{base}",
            param="model",
        )
    if adapter is None:
        return ServedFiles(model.path)
    found = _adapter(store, name, adapter)
    return ServedFiles(model.path, found.path, found.name)


@contextmanager
def hold_served(store: ModelStore, name: str) -> Iterator[ServedFiles]:
    """The files, which stay where they are until the end of the block or the process.

    An adapter is checked, and that it fits. Raises as `find_served`, and `BadModelFile`.
    """
    find_served(store, name)
    base, adapter = _names(store, name)
    with ExitStack() as held:
        model = held.enter_context(store.hold(base)).path
        if adapter is None:
            yield ServedFiles(model)
            return
        found = held.enter_context(store.hold(adapter))
        check_fit(found.path, model)
        yield ServedFiles(model, found.path, found.name)


def _names(store: ModelStore, name: str) -> tuple[str, str | None]:
    if "+" not in name or store.find(name) is not None:
        return name, None
    base, _, adapter = name.rpartition("+")
    return base, adapter


def _adapter(store: ModelStore, name: str, adapter: str) -> Installed:
    found = store.find(adapter)
    if found is None:
        raise ModelNotFound(
            f"the adapter {adapter!r} of {name!r} is not installed",
            param="model",
            hint="edge models list",
        )
    return found
