"""The installed models as the fleet needs them: what can be asked for, and how it is loaded.

A name is looked up when it is asked for, so that a model which was pulled a moment ago is served.
Owns nothing but the locks on the files that it opened.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge.config.models import Engine
from edge.energy.accountant import Accountant
from edge.engine.footprint import Shape
from edge.errors import EdgeError
from edge.host import board, cpu, gpu, memory
from edge.metrics import Metrics
from edge.modelstore.gguf import GgufHeader, read_header
from edge.modelstore.served import (
    ServedFiles,
    find_served,
    hold_served,
    is_adapter,
    is_there,
)
from edge.modelstore.shape import shape_of
from edge.modelstore.store import ModelStore
from edge.runtime.guard import MemoryGuard, Room
from edge.runtime.runner import ModelRunner
from edge.runtime.settings import embedder_settings, engine_settings
from edge.types import Adapter, EngineSettings

logger = logging.getLogger(__name__)

MB = 1024 * 1024


@dataclass
class Draft:
    """A model that drafts for another."""

    name: str
    path: Path
    shape: Shape


@dataclass
class Opened:
    """A model whose file was checked and stays where it is until `held` is closed.

    draft: who drafts for it.
    """

    files: ServedFiles
    header: GgufHeader
    shape: Shape
    held: ExitStack
    draft: Draft | None = None


class InstalledModels:
    """A `Source` of the fleet. state: the folder that the models and kept prefixes are in.
    scales: strengths of adapters that are not 1, by their names. drafts: models that draft, by the
    names of those that they draft for."""

    def __init__(
        self,
        state: Path,
        engine: Engine,
        metrics: Metrics,
        scales: Mapping[str, float] | None = None,
        drafts: Mapping[str, str] | None = None,
    ) -> None:
        self.store = ModelStore(state / "models")
        self._engine = engine
        self._scales = scales or {}
        self._drafts = (drafts or {}) if engine.draft != "none" else {}
        self._metrics = metrics
        self.energy = Accountant()
        """Of those who are loaded; another one where somebody measures."""
        self._prefixes = state / "prefixes"
        self._opened: dict[str, Opened] = {}

    def names(self) -> list[str]:
        """All that a request may ask for, without those of models with adapters."""
        return [model.name for model in self.store.installed() if not is_adapter(model)]

    def path(self, name: str) -> Path | None:
        """Where the model is that a request means by this name; None for one that is not here."""
        files = self._find(name)
        return None if files is None else files.model

    def adapter(self, name: str) -> Adapter | None:
        """What the model that a request means by this name is loaded with."""
        files = self._find(name)
        return None if files is None else self._adapter(files)

    def open(self, name: str) -> None:
        """Check the file now, and keep it until it is asked for. Raises like `prepare`."""
        self._opened[name] = self._open(name)

    def close(self) -> None:
        """Let go of the files that nobody asked for."""
        for opened in self._opened.values():
            opened.held.close()
        self._opened.clear()

    def prepare(
        self, name: str, room: Callable[[], Room], loading: asyncio.Lock
    ) -> tuple[ModelRunner, ExitStack]:
        """A runner that was not started, and what keeps its file.

        Waits for the disk: not for an event loop. Raises `ModelNotFound`, `BadModelFile`,
        `StoreBroken`.
        """
        opened = self._opened.pop(name, None) or self._open(name)
        draft = opened.draft

        def settings_for(share: int) -> EngineSettings:
            found = self._settings(share)
            if opened.header.embeds:
                return embedder_settings(found, opened.header.context)
            if draft is None:
                return found
            path = str(draft.path)
            return msgspec.structs.replace(found, draft_model=draft.name, draft_path=path)

        both = f"{name} with {draft.name}, which drafts for it," if draft else name
        beside = draft.shape if draft else None
        guard = MemoryGuard(both, opened.shape, settings_for, room, loading, beside)
        guard.card = _on_card(self._engine)
        settings = settings_for(memory.available_bytes() or 0)
        files, adapter = opened.files, self._adapter(opened.files)
        runner = ModelRunner(name, files.model, settings, self._metrics, guard, adapter)
        runner.energy = self.energy
        return runner, opened.held

    def _find(self, name: str) -> ServedFiles | None:
        try:
            return find_served(self.store, name) if is_there(self.store, name) else None
        except EdgeError:  # no name at all, or the file that says what it means is damaged
            return None

    def _adapter(self, files: ServedFiles) -> Adapter | None:
        if files.adapter is None or files.adapter_name is None:
            return None
        return Adapter(str(files.adapter), self._scales.get(files.adapter_name, 1.0))

    def _open(self, name: str) -> Opened:
        with ExitStack() as held:
            files = held.enter_context(hold_served(self.store, name))
            header = read_header(files.model)
            if not header.has_chat_template and not header.embeds:
                logger.warning("%s has no chat template: it completes texts, and cannot chat", name)
            shape = _shape(header)
            if files.adapter is not None:
                weights = shape.weights_bytes + files.adapter.stat().st_size
                shape = msgspec.structs.replace(shape, weights_bytes=weights)
            draft = None if header.embeds else self._open_draft(name, held)
            return Opened(files, header, shape, held.pop_all(), draft)

    def _open_draft(self, name: str, held: ExitStack) -> Draft | None:
        draft = self._drafts.get(name)
        if draft is None:
            return None
        path = held.enter_context(self.store.hold(draft)).path
        return Draft(draft, path, _shape(read_header(path)))

    def _settings(self, share: int) -> EngineSettings:
        """What to load a model with, where there are so many bytes of memory for it."""
        found = engine_settings(self._engine, cpu.usable_cores(), share)
        return msgspec.structs.replace(
            found,
            prefix_disk_bytes=int(self._engine.prefix_disk_mb * MB),
            prefix_dir=str(self._prefixes),
        )


def guard_of(
    name: str,
    header: GgufHeader,
    engine: Engine,
    available: Callable[[], int | None] = memory.available_bytes,
) -> MemoryGuard | None:
    """To ask what a file would take, and whether it would fit. None where that is not known."""
    if _on_card(engine):
        return None
    shape = _shape(header)

    def settings(share: int) -> EngineSettings:
        found = engine_settings(engine, cpu.usable_cores(), share)
        return embedder_settings(found, header.context) if header.embeds else found

    return MemoryGuard(name, shape, settings, lambda: Room(available()), asyncio.Lock())


def _on_card(engine: Engine) -> bool:
    """Models may go to a graphics card with a memory of its own. On a Jetson both are one pool."""
    return engine.backend != "cpu" and gpu.has_nvidia_gpu() and not board.is_jetson()


def _shape(header: GgufHeader) -> Shape:
    return shape_of(header, amx="amx_int8" in (cpu.features() or ()))
