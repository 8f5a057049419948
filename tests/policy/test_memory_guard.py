"""What the memory guard answers, from sizes and settings alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from full_size import FAMILIES, Kind, write

from edge.engine.footprint import Plan, Shape, kv_bytes, predict
from edge.errors import OutOfMemory
from edge.modelstore.gguf import read_header
from edge.modelstore.shape import shape_of
from edge.runtime.guard import MemoryGuard, Room
from edge.types import EngineSettings

GB = 10**9
SHAPE = Shape(
    weights_bytes=GB,
    kv_values=200_000,
    layers=20,
    width=2048,
    inner=5632,
    heads=32,
    vocab=32000,
    trained=4096,
)


def guard(available: int | None, **changed: Any) -> MemoryGuard:
    fields = {"slots": 0, "context": 0, "kv_type": "f16", "kv_budget_bytes": 4 * GB, **changed}
    draft = fields.pop("draft", None)
    fields = {"gpu_layers": None, **fields}
    settings = EngineSettings(backend="cpu", threads=1, batch=512, **fields)
    return MemoryGuard(
        "m", SHAPE, lambda _: settings, lambda: Room(available), asyncio.Lock(), draft
    )


def test_what_fits_is_loaded_as_it_was_asked_for() -> None:
    """The worker gets the settings unchanged, `auto` included, and nothing has to be said."""
    settings, record = guard(16 * GB).fit()
    assert (settings.slots, settings.context) == (0, 0)
    assert record.plan == "context 2048 with 4 slots in f16"
    assert record.note is None
    parts = record.weights_bytes + record.kv_bytes + record.buffers_bytes + record.process_bytes
    assert record.predicted_bytes == parts


def test_slots_give_way_before_the_context() -> None:
    """Two slots of 2048 tokens are 1.6 GB; the rest of what is there is for the weights."""
    settings, record = guard(int(3.4 * GB)).fit()
    assert (settings.slots, settings.context) == (2, 2048)
    assert record.note is not None
    assert "in place of context 2048 with 4 slots" in record.note


def test_then_the_context_does() -> None:
    """One slot of 2048 tokens is too much: half of it fits."""
    settings, _ = guard(int(1.9 * GB)).fit()
    assert (settings.slots, settings.context) == (1, 1024)


def test_kv_type_gives_way_before_the_context() -> None:
    """With `auto`: q8_0 where one slot in f16 would not fit, which is said."""
    settings, record = guard(int(2.0 * GB), kv_type="auto").fit()
    assert (settings.slots, settings.context, settings.kv_type) == (1, 2048, "q8_0")
    assert record.note is not None
    assert "in q8_0 in place of" in record.note
    settings, record = guard(16 * GB, kv_type="auto").fit()
    assert (settings.kv_type, record.note) == ("auto", None)
    assert record.plan.endswith("in f16")


def test_only_slots_give_way_where_it_is_not_to_be_squeezed() -> None:
    """Context and type are what they would be with nobody else there, or it does not fit."""
    settings, _ = guard(int(3.4 * GB), kv_type="auto").fit(squeeze=False)
    assert (settings.slots, settings.context, settings.kv_type) == (2, 2048, "f16")
    with pytest.raises(OutOfMemory):
        guard(int(2.0 * GB), kv_type="auto").fit(squeeze=False)


def test_memory_of_the_configuration_bounds_too() -> None:
    """`models.memory_mb` has no reserve, and the refusal names it."""
    asked = guard(16 * GB, slots=1, context=2048)
    need = asked.predict().predicted_bytes
    assert asked.fit(Room(16 * GB, left=need))[1].predicted_bytes == need
    with pytest.raises(OutOfMemory, match=r"of models.memory_mb [\d,]+ MB are left"):
        asked.fit(Room(16 * GB, left=need - 1))
    with pytest.raises(OutOfMemory, match="not fit"):
        asked.fit(Room(None, left=need - 1))


def test_what_is_shared_out_is_shared_by_those_to_come() -> None:
    """And stays what it was at the first load, for all workers that come after."""
    rooms = [Room(16 * GB, sharers=4), Room(2 * GB)]
    seen: list[int] = []

    def settings(share: int) -> EngineSettings:
        seen.append(share)
        return EngineSettings("cpu", 1, None, 1, 512, "f16", 512, share // 4)

    asked = MemoryGuard("m", SHAPE, settings, lambda: rooms.pop(0), asyncio.Lock())
    for _ in range(2):
        asked.fit()
    assert seen == [4 * GB, 4 * GB]


def test_model_that_drafts_counts() -> None:
    """It has as many slots, and a context no longer than it was trained for."""
    small = msgspec.structs.replace(SHAPE, weights_bytes=GB // 10, kv_values=20_000, trained=512)
    _, alone = guard(16 * GB).fit()
    _, both = guard(16 * GB, draft=small).fit()
    assert both.plan == alone.plan
    assert both.weights_bytes == alone.weights_bytes + GB // 10
    assert both.kv_bytes == alone.kv_bytes + kv_bytes(20_000, Plan(4, 512, "f16", 512))
    assert both.predicted_bytes > alone.predicted_bytes + GB // 10
    room = int((alone.predicted_bytes + both.predicted_bytes) / 2 * 16 / 15)
    _, smaller = guard(room, draft=small).fit()
    assert smaller.note is not None
    assert guard(room).fit()[1].note is None


def test_never_more_than_the_room() -> None:
    """Whatever is there: what is chosen fits into it less the reserve, or nothing is."""
    refused = 0
    for available in range(GB // 2, 8 * GB, GB // 20):
        try:
            _, record = guard(available, prefix_bytes=GB // 10).fit()
        except OutOfMemory:
            refused += 1
            assert available < 2 * GB
            continue
        assert record.predicted_bytes <= available - record.reserve_bytes
        assert record.reserve_bytes == GB // 10 + available // 16
    assert refused


def test_what_somebody_has_set_is_loaded_so_or_not_at_all() -> None:
    """The refusal shows the sum, and settings that would fit, which then do."""
    with pytest.raises(OutOfMemory) as refusal:
        guard(3 * GB, slots=8, context=2048).fit()
    message = refusal.value.message
    for part in ("weights 1,000 MB", "KV cache 6,554 MB", "buffers", "3,000 MB available"):
        assert part in message
    assert "188 MB are reserved" in message
    assert message.endswith("context 2048 with 1 slot in f16 would fit")
    settings, _ = guard(3 * GB, slots=1, context=2048).fit()
    assert settings.slots == 1


def test_a_model_that_fits_in_no_way() -> None:
    """No settings are proposed."""
    with pytest.raises(OutOfMemory, match="not even one slot would fit") as refusal:
        guard(GB).fit()
    assert refusal.value.hint == "free memory, or take a smaller model or quantization"


def test_unknown_memory_refuses_nothing() -> None:
    """Where the kernel does not say, the model is tried."""
    _, record = guard(None, slots=64).fit()
    assert (record.available_bytes, record.note) == (None, None)


def test_a_load_that_died_has_to_do_with_half_of_its_cache() -> None:
    """The next is smaller, says why, and stays so."""
    died = guard(16 * GB)
    _, first = died.fit()
    assert died.shrink(first, "a load died for memory")
    settings, second = died.fit()
    assert settings.slots == 2
    assert second.kv_bytes <= first.kv_bytes // 2
    assert second.note is not None
    assert second.note.endswith("a load died for memory")


def test_settings_that_leave_nothing_to_give_stay() -> None:
    """And the next attempt is for the same."""
    died = guard(16 * GB, slots=4, context=2048)
    _, first = died.fit()
    assert not died.shrink(first, "a load died for memory")
    _, second = died.fit()
    assert (second.plan, second.note) == (first.plan, None)


def test_on_a_card_layers_give_way_last() -> None:
    """Its memory is not known, so what is in the main memory refuses nothing; slots and context go
    first, then half of the layers, then half of these, and no more."""
    died = guard(GB // 10, kv_budget_bytes=0)
    died.card = True
    settings, record = died.fit()
    assert (settings.gpu_layers, record.note, record.card) == (None, None, True)
    seen = []
    while died.shrink(record, "a load died for memory"):
        settings, record = died.fit()
        seen.append((settings.context, settings.gpu_layers))
    assert seen == [(1024, None), (512, None), (512, 10)]
    assert record.note is not None
    assert record.note.endswith("10 of 21 layers on the GPU: a load died for memory")


def test_weights_that_do_not_fit_on_a_card() -> None:
    """A smaller KV cache would not help: layers go at once. Not where somebody said how many."""
    died = guard(16 * GB)
    died.card = True
    assert died.shrink(died.fit()[1], "a load died for memory", weights=True)
    settings, record = died.fit()
    assert (settings.slots, settings.gpu_layers) == (0, 10)
    assert record.note == "10 of 21 layers on the GPU: a load died for memory"
    exact = guard(16 * GB, gpu_layers=20)
    exact.card = True
    assert not exact.shrink(exact.fit()[1], "a load died for memory", weights=True)


def test_layers_stay_where_the_gpu_shares_the_main_memory() -> None:
    """They would take the same memory elsewhere."""
    died = guard(16 * GB)
    assert not died.shrink(died.fit()[1], "a load died for memory", weights=True)


@pytest.mark.parametrize(
    ("name", "each"),
    [
        ("tinyllama-1.1b", 22 * 4 * 64 * 2 * 2),
        ("phi-3-mini", 32 * 32 * 96 * 2 * 2),
        ("gemma-2b", 18 * 1 * 256 * 2 * 2),
        ("gemma-2-2b", 26 * 4 * 256 * 2 * 2),
    ],
)
def test_sizes_of_families(name: str, each: int, tmp_path: Path) -> None:
    """Grouped heads, wide heads and sliding windows, read from the header of a file."""
    family = FAMILIES[name]
    header = read_header(write(tmp_path / "m.gguf", family, Kind.Q8_0))
    shape = shape_of(header, amx=False)
    assert kv_bytes(shape.kv_values, Plan(1, 256, "f16", 512)) == 256 * each
    assert (shape.heads, shape.inner) == (family.heads, family.inner)
    assert shape.trained == family.context
    on_amx = shape_of(header, amx=True)
    assert on_amx.weights_bytes == round(shape.weights_bytes * 38 / 34)


def test_each_setting_costs_what_it_takes() -> None:
    """More slots, tokens, rows or exactness are never predicted to take less."""
    small = Plan(2, 1024, "q8_0", 128)
    base = predict(SHAPE, small).total
    larger = (Plan(3, 1024, "q8_0", 128), Plan(2, 2048, "q8_0", 128))
    larger += (Plan(2, 1024, "f16", 128), Plan(2, 1024, "q8_0", 512))
    for plan in larger:
        assert predict(SHAPE, plan).total > base
