"""Two runners of one name at once, with a machine that only counts memory."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from play import Machine, PlayRunner, Request, running, until

from edge.errors import ModelLoading
from edge.fleet import fleet as fleet_module
from edge.fleet import plan as plan_module
from edge.fleet.exchange import Exchange
from edge.modelstore.store import Installed

TWO = Installed("m", Path("/m@2"), 1, None, 2, active=False)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "LINGER_SECONDS", 0.0)
    monkeypatch.setattr(fleet_module, "TICK", 0.02)


def two_versions(memory: int, **others: int) -> Machine:
    """With `m` and another version of it, each of the same size."""
    machine = Machine(memory, m=4, **others)
    machine.sizes["m@2"] = 4
    return machine


async def loaded(exchange: Exchange) -> Any:
    runner = await exchange.begin(TWO)
    await until(runner.loaded.is_set)
    return runner


async def test_requests_move_in_one_moment() -> None:
    """What runs ends on the old runner, which stays until it is retired; new ones get the other."""
    machine = two_versions(10)
    async with running(machine) as fleet:
        exchange = Exchange(fleet)
        old = await Request(fleet, "m").begun()
        async with exchange.claim("m"):
            first: Any = exchange.runner("m")
            assert await exchange.fits(TWO, first)
            second = await loaded(exchange)
            assert exchange.runner("m") is first
            exchange.move("m", second)
            new = await Request(fleet, "m").begun()
            assert new.runner is second
            assert second.name == "m"
            exchange.retire(first)
            assert not first.stopping.is_set()
            await old.ended()
            await until(first.stopping.is_set)
            await new.ended()
    assert machine.loads() == ["m", "m@2"]


async def test_back_to_one_that_was_kept() -> None:
    """It is at hand all the while."""
    machine = two_versions(10)
    async with running(machine) as fleet:
        exchange = Exchange(fleet)
        await (await Request(fleet, "m").begun()).ended()
        async with exchange.claim("m"):
            first: Any = exchange.runner("m")
            second = await loaded(exchange)
            exchange.move("m", second)
            on_second = await Request(fleet, "m").begun()
            second.die()
            exchange.move("m", first)
            exchange.retire(second)
            again = await Request(fleet, "m").begun()
            assert again.runner is first
            await on_second.ended()
            await again.ended()
            await until(second.stopping.is_set)


async def test_requests_wait_where_both_do_not_fit() -> None:
    """The old one ends, the new one is loaded, and those that came meanwhile are given it."""
    machine = two_versions(6)
    async with running(machine) as fleet:
        exchange = Exchange(fleet)
        old = await Request(fleet, "m").begun()
        async with exchange.claim("m"):
            first: Any = exchange.runner("m")
            assert not await exchange.fits(TWO, first)
            with exchange.hold("m"):
                waits = Request(fleet, "m")
                hasty = Request(fleet, "m", patience=0.01)
                with pytest.raises(ModelLoading):
                    await hasty.begun()
                draining = asyncio.create_task(exchange.drained(first))
                await asyncio.sleep(0.1)
                assert not draining.done()
                await old.ended()
                await draining
                await exchange.drop(first)
                await asyncio.sleep(0.1)
                assert machine.taken == {}, "nobody else loads it"
                exchange.move("m", await loaded(exchange))
                assert not waits.got.is_set()
            await waits.begun()
            await waits.ended()
    assert machine.loads() == ["m", "m@2"]


async def test_what_was_loaded_from_the_old_file_is_loaded_anew() -> None:
    """A model with an adapter has its base's file: requests end on it, new ones get the new."""
    machine = two_versions(20, **{"m+a": 4, "other": 4})
    machine.files["m+a"] = Path("/m")
    async with running(machine) as fleet:
        exchange = Exchange(fleet)
        await (await Request(fleet, "other").begun()).ended()
        old = await Request(fleet, "m+a").begun()
        machine.files["m+a"] = Path("/m@2")
        await exchange.renew(Path("/m"))
        new = await Request(fleet, "m+a").begun()
        assert [old.runner.path.name, new.runner.path.name] == ["m", "m@2"]
        await old.ended()
        await until(old.runner.stopping.is_set)
        await new.ended()
    assert machine.loads() == ["other", "m+a", "m+a"]


async def test_nobody_else_takes_the_memory() -> None:
    """A model that has to make way for others does not, while a switch has it; then it does. A
    version that is tried out counts."""
    machine = two_versions(10, other=4)
    async with running(machine, turn=0.0) as fleet:
        exchange = Exchange(fleet)
        await (await Request(fleet, "m").begun()).ended()
        async with exchange.claim("m"):
            second = await loaded(exchange)
            other = Request(fleet, "other")
            await asyncio.sleep(0.1)
            assert not other.got.is_set()
            await exchange.drop(second)
            await other.begun()
            await other.ended()
        machine.sizes["big"] = 9
        await (await Request(fleet, "big").begun()).ended()


async def test_a_stop_in_the_middle() -> None:
    """No worker is left, whether it has a name or not."""
    machine = two_versions(10)
    async with running(machine) as fleet:
        exchange = Exchange(fleet)
        await (await Request(fleet, "m").begun()).ended()
        second: PlayRunner = await loaded(exchange)
    assert second.stopping.is_set()
