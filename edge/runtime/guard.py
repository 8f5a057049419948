"""Whether a model fits into the memory that is there, asked before each load.

Owned by the `ModelRunner` that it guards. What is `auto` in the settings gives way, in this order:
slots, then the KV cache's type, then context; what somebody has set is loaded so or not at all. On
a graphics card with a memory of its own layers give way after that, and go to the main memory;
where the GPU shares the main memory, as on a Jetson, that would free nothing. The guards of one
appliance share a lock, because memory that was promised and is not taken yet cannot be seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from edge.engine.footprint import (
    AUTO_CONTEXT,
    MOST_SLOTS,
    Footprint,
    KvType,
    Plan,
    Shape,
    kv_bytes,
    predict,
)
from edge.errors import OutOfMemory
from edge.types import EngineSettings

RESERVE_SHARE = 1 / 16
"""Part of the available memory that is left to everything else on the machine."""

LEAST_CONTEXT = 512
"""Below it an automatic context is not worth a model."""

LEAST_LAYERS = 1 / 4
"""Part of the layers that is worth a graphics card: with fewer, most of the time is the CPU's."""


class Room(msgspec.Struct, frozen=True):
    """Memory that one more worker may have, in bytes; None where unknown, or unlimited.

    available: on the machine. left: of `models.memory_mb`. sharers: models that are to be loaded
    into it, this one included; each has a part of what is shared out by proportion.
    """

    available: int | None
    left: int | None = None
    sharers: int = 1

    @property
    def reserve(self) -> int:
        """For everything else on the machine."""
        return int((self.available or 0) * RESERVE_SHARE)

    @property
    def usable(self) -> int | None:
        rooms = [self.left, None if self.available is None else self.available - self.reserve]
        return min((room for room in rooms if room is not None), default=None)

    @property
    def share(self) -> int:
        """What an automatic number of slots is a part of."""
        known = [size for size in (self.available, self.left) if size is not None]
        return max(0, min(known, default=0)) // self.sharers


class MemoryRecord(msgspec.Struct):
    """What one load was predicted to take and has taken, in bytes.

    predicted_bytes: the sum of the four before it, when all is full and busy. available_bytes:
    before the load; None where unknown, and then nothing is refused. reserve_bytes: of it, for
    others and for kept prefixes, which are prefix_bytes. measured_bytes: the most that the worker
    has held so far without kept prefixes, 0 where that is not known. note: why it is smaller than
    it would be. card: it is a graphics card's memory that is meant, and nothing of the machine's.
    """

    plan: str
    weights_bytes: int
    kv_bytes: int
    buffers_bytes: int
    process_bytes: int
    predicted_bytes: int
    available_bytes: int | None
    reserve_bytes: int
    prefix_bytes: int = 0
    measured_bytes: int = 0
    note: str | None = None
    card: bool = False

    @property
    def ratio(self) -> float:
        """Measured to predicted; 0 where it was not measured."""
        return self.measured_bytes / self.predicted_bytes


class MemoryGuard:
    """Knows the sizes of one model.

    settings: what to load it with where there is so much memory, in bytes. room: asks what there
    is. squeeze: context and KV cache's type may give way too, and not the number of slots alone.
    """

    def __init__(
        self,
        name: str,
        shape: Shape,
        settings: Callable[[int], EngineSettings],
        room: Callable[[], Room],
        loading: asyncio.Lock,
        draft: Shape | None = None,
    ) -> None:
        """draft: of the model that is loaded beside it."""
        self.name = name
        self.shape = shape
        self.card = False
        """It goes to a graphics card, of whose memory nothing is known before a load."""
        self._draft = draft
        self.loading = loading
        self.squeeze = True
        self._settings = settings
        self._room = room
        self._cap: int | None = None
        self._layers: int | None = None
        self._share: int | None = None
        self._reason = "memory is short"

    @property
    def smaller(self) -> bool:
        """True after `shrink`."""
        return self._cap is not None

    async def turn(self, stop: asyncio.Event) -> bool:
        """Wait until nobody else loads, and hold `loading`. False where `stop` came first."""
        mine = asyncio.ensure_future(self.loading.acquire())
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait({mine, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return mine.done()
        finally:
            stopping.cancel()
            if not mine.done():
                mine.cancel()

    def shrink(self, failed: MemoryRecord, reason: str, *, weights: bool = False) -> bool:
        """A worker of this plan died for memory: from now on half of its KV cache has to do, or
        half of its layers. weights: there was no room for them already.

        False where the settings leave nothing to give, and nothing has changed.
        """
        share = self._room().share if self._share is None else self._share
        settings = self._settings(share)
        cap = failed.predicted_bytes - failed.kv_bytes // 2
        if not weights and self._choose(settings, cap, squeeze=True) is not None:
            self._cap = cap
        elif not self._drop_layers(settings, failed):
            return False
        self.squeeze, self._reason = True, reason
        return True

    def _drop_layers(self, settings: EngineSettings, failed: MemoryRecord) -> bool:
        """From a card only, and not where somebody has said how many."""
        if not self.card or settings.gpu_layers is not None:
            return False
        fewer = (self._layers or self.shape.layers + 1) // 2
        if fewer < LEAST_LAYERS * (self.shape.layers + 1):
            return False
        self._layers, self._cap = fewer, failed.predicted_bytes
        return True

    def fit(
        self, room: Room | None = None, *, squeeze: bool | None = None
    ) -> tuple[EngineSettings, MemoryRecord]:
        """The settings to load with, and what that takes. Raises `OutOfMemory`, with the sum.

        room, squeeze: others than there are, to ask what would be.
        """
        loads, room = room is None, self._room() if room is None else room
        # What is shared out is settled by the first load: a worker that takes the place of one
        # that died has the same slots, for which prefixes are kept.
        share = room.share if self._share is None else self._share
        settings = self._settings(share)
        if self.card:
            room = Room(None)
        reserve = room.reserve + settings.prefix_bytes
        usable = self._usable(settings, room)
        wanted = self._wanted(settings)
        plan: Plan | None = wanted
        if usable is not None:
            may_squeeze = self.squeeze if squeeze is None else squeeze
            plan = self._choose(settings, usable, squeeze=may_squeeze)
        if plan is None:
            assert usable is not None
            raise self._refusal(wanted, usable, reserve, room)
        record = _record(plan, predict(self.shape, plan, self._draft), room.available, reserve)
        record.prefix_bytes = settings.prefix_bytes
        record.card = self.card
        if loads:
            self._share = share
        return self._chosen(settings, plan, wanted, record), record

    def _chosen(
        self, settings: EngineSettings, plan: Plan, wanted: Plan, record: MemoryRecord
    ) -> EngineSettings:
        """The settings with what gave way, which is noted."""
        given_up = []
        if plan != wanted:
            given_up.append(f"{plan} in place of {wanted}")
            settings = msgspec.structs.replace(
                settings, slots=plan.slots, context=plan.context, kv_type=plan.kv_type
            )
        if self._layers is not None:
            given_up.append(f"{self._layers} of {self.shape.layers + 1} layers on the GPU")
            settings = msgspec.structs.replace(settings, gpu_layers=self._layers)
        if given_up:
            record.note = f"{', '.join(given_up)}: {self._reason}"
        return settings

    def predict(self) -> MemoryRecord:
        """What it would take as it is wanted, whether or not that fits."""
        room = self._room()
        settings = self._settings(room.share)
        plan = self._wanted(settings)
        reserve = room.reserve + settings.prefix_bytes
        return _record(plan, predict(self.shape, plan, self._draft), room.available, reserve)

    def _usable(self, settings: EngineSettings, room: Room) -> int | None:
        """What the worker itself may take; None for no bound."""
        sizes = [self._cap]
        if room.usable is not None:
            sizes.append(room.usable - settings.prefix_bytes)
        return min((size for size in sizes if size is not None), default=None)

    def _wanted(self, settings: EngineSettings) -> Plan:
        """What the worker makes of the settings where memory is no question."""
        context = settings.context or min(self.shape.trained, AUTO_CONTEXT)
        kv_type: KvType = "f16" if settings.kv_type == "auto" else settings.kv_type
        one = Plan(1, context, kv_type, settings.batch)
        each = max(1, kv_bytes(self.shape.kv_values, one))
        automatic = min(MOST_SLOTS, max(1, settings.kv_budget_bytes // each))
        return msgspec.structs.replace(one, slots=settings.slots or automatic)

    def _choose(self, settings: EngineSettings, room: int, *, squeeze: bool) -> Plan | None:
        """The best plan that the settings allow within so many bytes."""
        wanted = self._wanted(settings)
        contexts, kv_types = [wanted.context], [wanted.kv_type]
        if squeeze and not settings.context:
            contexts = _halves(wanted.context)
        if squeeze and settings.kv_type == "auto":
            kv_types = ["f16", "q8_0"]
        return self._best(room, wanted, contexts, kv_types, settings.slots or 1)

    def _best(
        self, room: int, wanted: Plan, contexts: list[int], kv_types: list[KvType], least: int
    ) -> Plan | None:
        """A long context is worth more than an exact KV cache, and that more than slots."""
        plans = (
            Plan(slots, context, kv_type, wanted.batch)
            for context in contexts
            for kv_type in kv_types
            for slots in range(wanted.slots, least - 1, -1)
        )
        return next(
            (plan for plan in plans if predict(self.shape, plan, self._draft).total <= room), None
        )

    def _refusal(self, wanted: Plan, usable: int, reserve: int, room: Room) -> OutOfMemory:
        asked = predict(self.shape, wanted, self._draft)
        kv_types: list[KvType] = ["f16", "q8_0"] if wanted.kv_type == "f16" else [wanted.kv_type]
        fitting = self._best(usable, wanted, _halves(wanted.context), kv_types, 1)
        if fitting:
            verdict = f"{fitting} would fit"
            hint = (
                f"set engine.context to {fitting.context}, engine.slots to {fitting.slots} and "
                f"engine.kv_type to {fitting.kv_type}"
            )
        else:
            verdict = "not even one slot would fit"
            hint = "free memory, or take a smaller model or quantization"
        there = f"of {_mb(room.available)} available {_mb(reserve)} are reserved"
        if room.left is not None:
            there += f", of models.memory_mb {_mb(room.left)} are left"
        return OutOfMemory(
            f"{self.name} does not fit: weights {_mb(asked.weights)} + KV cache {_mb(asked.kv)} "
            f"({wanted}) + buffers {_mb(asked.buffers)} + process {_mb(asked.process)} = "
            f"{_mb(asked.total)}, {there}; {verdict}",
            hint=hint,
        )


def _halves(context: int) -> list[int]:
    """The context, half of it, and so on down to one that is still of use."""
    found = [context]
    while found[-1] // 2 >= LEAST_CONTEXT:
        found.append(found[-1] // 2)
    return found


def _record(plan: Plan, found: Footprint, available: int | None, reserve: int) -> MemoryRecord:
    return MemoryRecord(
        plan=str(plan),
        weights_bytes=found.weights,
        kv_bytes=found.kv,
        buffers_bytes=found.buffers,
        process_bytes=found.process,
        predicted_bytes=found.total,
        available_bytes=available,
        reserve_bytes=reserve,
    )


def _mb(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:,.0f} MB"
