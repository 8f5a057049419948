"""The order in which a version takes over a name, and all the ways in which it does not."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import bert
import msgspec
import pytest
from fake_traffic import FakeRunner, FakeTraffic
from full_size import Family, Kind, write

from edge.config.models import Switching
from edge.errors import ModelLoadFailed, ModelNotFound, NotSwitchable, SwitchRunning
from edge.modelstore.catalog import FileSource, Wanted
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore
from edge.switching.switch import ENDED, Order, Progress
from edge.switching.switches import Switches

LIMITS = Switching(watch_seconds=0)
NOISE = {"nats": 3.0, "text": "a " * 32}


class Shop:
    """A name with two versions, the first of which is served."""

    def __init__(self, folder: Path, limits: Switching = LIMITS, **new: Any) -> None:
        """new: how the second version answers."""
        self.store = ModelStore(folder / "models")
        for layers in (1, 2):
            family = Family("llama", layers, 64, 4, 2, 16, 128, 300, 256)
            path = write(folder / f"{layers}.gguf", family, Kind.F16)
            pull(self.store, Wanted(name="m", source=FileSource(str(path))))
        self.files = {one.version: one.path for one in self.store.versions("m")}
        self.new = new
        self.traffic = FakeTraffic(FakeRunner(self.files[1]), self._make)
        self.switches = Switches(self.store, self.traffic, limits)  # type: ignore[arg-type]

    def _make(self, path: Path) -> FakeRunner:
        return FakeRunner(path, **(self.new if path == self.files[2] else {}))

    @property
    def active(self) -> int | None:
        return self.store.get("m").version

    @property
    def served(self) -> int:
        return next(n for n, path in self.files.items() if path == self.traffic.current.path)

    def reason(self, version: int = 2) -> str | None:
        found = self.store.known("m").get(version)
        assert found is not None
        return found.refused.reason if found.refused else None

    async def use(self, version: int = 2, **order: Any) -> Progress:
        await self.switches.use(Order("m", version, **order))
        return await self.ended()

    async def ended(self) -> Progress:
        return await self.until(lambda progress: progress.state in ENDED)

    async def until(self, condition: Callable[[Progress], bool]) -> Progress:
        while True:
            progress = self.switches.last("m")
            assert progress is not None
            if condition(progress):
                return progress
            await asyncio.sleep(0.001)


async def within(work: Awaitable[Progress]) -> Progress:
    return await asyncio.wait_for(work, 30)


async def test_a_good_version_takes_over(tmp_path: Path) -> None:
    """Loaded beside the old one, tried out, served, written down; only then the old one goes."""
    shop = Shop(tmp_path)
    progress = await within(shop.use(by="eve"))
    assert progress.state == "done"
    assert (shop.served, shop.active, progress.waited_seconds) == (2, 2, 0.0)
    assert shop.traffic.told == ["begin 2", "move", "retire", "renew"]
    version = shop.store.known("m").get(2)
    assert version is not None
    assert version.activated_by == "eve"
    assert progress.new is not None
    assert progress.new.tokens_per_second == pytest.approx(50)


async def test_noise_never_gets_a_request(tmp_path: Path) -> None:
    """The reason is told and written down, and the store means what it did."""
    shop = Shop(tmp_path, **NOISE)
    progress = await within(shop.use())
    assert progress.state == "refused"
    assert progress.reason is not None
    assert "plain text surprises it like noise: 3.00 nats" in progress.reason
    assert "4 of 4 answers" in progress.reason
    assert (shop.served, shop.active, shop.reason()) == (1, 1, progress.reason)
    assert shop.traffic.told == ["begin 2", "drop"]


async def test_a_version_that_is_wanted_anyway(tmp_path: Path) -> None:
    """What the canaries say does not count then."""
    shop = Shop(tmp_path, **NOISE)
    assert (await within(shop.use(anyway=True))).state == "done"
    assert shop.active == 2


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ({"rate": 5.0}, "too slow: 5.0 tokens per second, the old version 50.0"),
        ({"text": ""}, "4 of 4 answers are empty"),
        ({"nats": float("nan")}, "not a number of nats"),
        ({"error": ModelLoadFailed("llama.cpp says no")}, "llama.cpp says no"),
        ({"dies": True}, "the worker died twice"),
    ],
)
async def test_what_is_refused(new: dict[str, Any], said: str, tmp_path: Path) -> None:
    """Whatever is wrong, the old version goes on and the new one has ended."""
    shop = Shop(tmp_path, **new)
    progress = await within(shop.use())
    assert progress.state == "refused"
    assert said in (progress.reason or "")
    assert (shop.served, shop.active) == (1, 1)
    assert [runner.ended for runner in shop.traffic.begun] == [True]
    msgspec.json.encode(progress)


async def test_vectors_are_not_changed_under_way(tmp_path: Path) -> None:
    """Those of another version cannot be compared with what callers have kept."""
    shop = Shop(tmp_path)
    path = tmp_path / "vectors.gguf"
    bert.as_gguf(path, bert.random_bert(seed=5), bert.minilm_tokenizer())
    pull(shop.store, Wanted(name="m", source=FileSource(str(path))))
    with pytest.raises(NotSwitchable, match="vectors"):
        await shop.use(3)
    assert shop.active == shop.served == 1


async def test_a_slow_start_is_refused(tmp_path: Path) -> None:
    """One that does not come up in time is ended."""
    shop = Shop(tmp_path, Switching(ready_seconds=0.05, watch_seconds=0), slow=True)
    progress = await within(shop.use())
    assert progress.reason == "it was not loaded and tried out within 0.05 s"
    assert shop.traffic.told == ["begin 2", "drop"]


async def test_the_operators_canaries_count(tmp_path: Path) -> None:
    """A wrong answer refuses the version; the next try has the file as it is then."""
    shop = Shop(tmp_path)
    path = shop.store.canaries("m")
    path.parent.mkdir()
    path.write_text("- {prompt: x, text: 'Yes'}\n- {prompt: x, regex: a b}\n")
    progress = await within(shop.use())
    assert (progress.reason or "").startswith("canary 1: the answer is not 'Yes': 'a b c")
    path.write_text("- {prompt: x, regex: '('}\n")
    assert "`regex` is none" in ((await within(shop.use())).reason or "")
    path.write_text("- {messages: [{role: user, content: x}], regex: '^a'}\n")
    assert (await within(shop.use())).state == "done"
    assert shop.reason() is None


async def test_requests_wait_where_both_do_not_fit(tmp_path: Path) -> None:
    """The old one drains and ends before the new one is loaded; how long that took is told."""
    shop = Shop(tmp_path)
    shop.traffic.beside = False
    progress = await within(shop.use())
    assert shop.traffic.told == ["hold", "drained", "drop", "begin 2", "move", "release", "renew"]
    assert progress.state == "done"
    assert progress.beside is False
    assert progress.waited_seconds > 0


async def test_the_old_one_is_loaded_again(tmp_path: Path) -> None:
    """Where both do not fit and the new one is refused."""
    shop = Shop(tmp_path, **NOISE)
    shop.traffic.beside = False
    progress = await within(shop.use())
    steps = ["hold", "drained", "drop", "begin 2", "drop", "begin 1", "move", "release"]
    assert shop.traffic.told == steps
    assert progress.state == "refused"
    assert (shop.served, shop.active) == (1, 1)


async def test_what_fitted_and_found_no_memory(tmp_path: Path) -> None:
    """A prediction may be wrong: then there is the other way."""
    shop = Shop(tmp_path)
    shop.traffic.refuses = True
    progress = await within(shop.use())
    assert (progress.state, progress.beside) == ("done", False)
    assert shop.traffic.told[:3] == ["begin 2", "drop", "hold"]


async def test_answers_that_do_not_end_are_not_cut(tmp_path: Path) -> None:
    """Rather the switch is given up."""
    shop = Shop(tmp_path, Switching(ready_seconds=0.05, watch_seconds=0))
    shop.traffic.beside, shop.traffic.current.live = False, 1
    progress = await within(shop.use())
    assert "have not ended within" in (progress.reason or "")
    assert shop.served == 1
    assert not shop.traffic.current.ended


@pytest.mark.parametrize("beside", [True, False])
async def test_one_that_dies_twice_while_it_is_watched(beside: bool, tmp_path: Path) -> None:
    """The old version is back by itself, and the store never meant the new one."""
    shop = Shop(tmp_path, Switching(watch_seconds=60))
    shop.traffic.beside = beside
    await shop.switches.use(Order("m", 2))
    await within(shop.until(lambda progress: progress.state == "watching"))
    assert (shop.served, shop.active) == (2, 1)
    shop.traffic.current.restarts = 2
    progress = await within(shop.ended())
    assert progress.state == "rolled_back"
    assert "died 2 times" in (shop.reason() or "")
    assert (shop.served, shop.active) == (1, 1)
    assert not shop.traffic.current.ended


async def test_a_store_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the next start would not know of does not stay."""
    shop = Shop(tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shop.store, "activate", full)
    progress = await within(shop.use())
    assert progress.state == "rolled_back"
    assert "No space left" in (progress.reason or "")
    assert (shop.served, shop.active) == (1, 1)


async def test_only_one_at_a_time(tmp_path: Path) -> None:
    """A second order is refused while the first is on its way; stopping gives it up."""
    shop = Shop(tmp_path, slow=True)
    await shop.switches.use(Order("m", 2))
    with pytest.raises(SwitchRunning):
        await shop.switches.use(Order("m", 2))
    await within(shop.until(lambda progress: progress.state == "loading"))
    await shop.switches.stop()
    assert (shop.served, shop.active) == (1, 1)


async def test_back_to_what_was_before(tmp_path: Path) -> None:
    """And not to what was refused."""
    shop = Shop(tmp_path)
    assert (await within(shop.use())).state == "done"
    await shop.switches.roll_back("m", anyway=False, by=None)
    assert (await within(shop.ended())).version == 1
    assert (shop.served, shop.active) == (1, 1)
    shop.new = NOISE
    assert (await within(shop.use())).state == "refused"
    with pytest.raises(ModelNotFound):
        await shop.switches.roll_back("m", anyway=False, by=None)


async def test_the_version_that_is_served_already(tmp_path: Path) -> None:
    """Nothing is loaded."""
    shop = Shop(tmp_path)
    assert (await within(shop.use(1))).state == "done"
    assert shop.traffic.told == []


async def test_what_cannot_be_switched(tmp_path: Path) -> None:
    """A version that is not there, and a file that was copied in by hand."""
    shop = Shop(tmp_path)
    with pytest.raises(ModelNotFound, match="no version 7"):
        await shop.switches.use(Order("m", 7))
    shop.traffic.current.path = shop.store.directory / "m.gguf"
    with pytest.raises(NotSwitchable, match="copied in by hand"):
        await shop.switches.use(Order("m", 2))


async def test_a_file_that_the_disk_has_changed(tmp_path: Path) -> None:
    """It is not what was installed, and never loaded."""
    shop = Shop(tmp_path)
    shop.files[2].write_bytes(shop.files[2].read_bytes()[:-1] + b"\1")
    progress = await within(shop.use())
    assert "not what was installed" in (progress.reason or "")
    assert shop.traffic.told == []
