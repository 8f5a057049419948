"""Who is loaded, who makes way and who waits, with a machine that only counts memory."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from play import Machine, Request, running, until

from edge.errors import (
    BadModelFile,
    ModelLoadFailed,
    ModelLoading,
    ModelNotFound,
    OutOfMemory,
    Overloaded,
)
from edge.fleet import fleet as fleet_module
from edge.fleet import plan as plan_module
from edge.fleet.fleet import Fleet
from edge.fleet.memory import Claim
from edge.fleet.model import Resident

SOON = 0.02
"""Seconds of a turn: long for a loop, short for a test."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_module, "LINGER_SECONDS", 0.0)
    monkeypatch.setattr(fleet_module, "TICK", 0.02)


async def test_a_model_is_loaded_when_it_is_asked_for() -> None:
    """Once for all that ask, also for those that come while it loads."""
    machine = Machine(10, a=4, b=4)
    async with running(machine) as fleet:
        machine.gate.clear()
        first, second = Request(fleet, "a"), Request(fleet, "a")
        await until(lambda: machine.loads() == ["a"])
        late = Request(fleet, "a")
        model = fleet.find("a")
        assert model is not None
        assert model.state == "loading"
        machine.gate.set()
        for request in (first, second, late):
            await request.begun()
            await request.ended()
        assert machine.loads() == ["a"]
        assert model.state == "ready"


async def test_what_is_not_installed_is_not_found() -> None:
    """And is found as soon as it is installed."""
    machine = Machine(10, a=4)
    async with running(machine) as fleet:
        assert fleet.find("b") is None
        with pytest.raises(ModelNotFound):
            await Request(fleet, "b").begun()
        machine.sizes["b"] = 4
        await (await Request(fleet, "b").begun()).ended()
        assert fleet.names() == ["b", "a"]


async def test_the_least_recently_used_makes_way() -> None:
    """Of those that are idle, and only as many as it takes; the pinned one stays."""
    machine = Machine(10, pinned=2, a=4, b=4, c=4)
    async with running(machine, pinned=["pinned"], at_start=("pinned",)) as fleet:
        for name in ("a", "b", "a", "c"):
            await (await Request(fleet, name).begun()).ended()
        assert machine.taken.keys() == {"pinned", "a", "c"}
        assert machine.log[-2:] == [("unload", "b"), ("load", "c")]


async def test_small_ones_do_not_go_in_vain() -> None:
    """Where the memory of one would do, the others stay."""
    machine = Machine(10, small=1, big=8, other=8)
    async with running(machine) as fleet:
        for name in ("small", "big", "other"):
            await (await Request(fleet, name).begun()).ended()
        assert machine.taken.keys() == {"small", "other"}


async def test_what_answers_is_never_unloaded() -> None:
    """Whoever needs its memory waits until it has ended, in a bounded time, or gives up."""
    machine = Machine(10, a=6, b=6)
    async with running(machine, turn=SOON) as fleet:
        answering = await Request(fleet, "a").begun()
        with pytest.raises(ModelLoading, match="it is waiting"):
            await Request(fleet, "b", patience=0.1).begun()
        waits = Request(fleet, "b")
        model = fleet.find("a")
        assert model is not None
        await until(lambda: model.draining)
        assert machine.loads() == ["a"]
        await answering.ended()
        await (await waits.begun()).ended()
        assert machine.loads() == ["a", "b"]


async def test_a_turn_ends_under_continuous_load() -> None:
    """New requests wait behind the other's turn, and have theirs after it."""
    machine = Machine(10, a=6, b=6)
    async with running(machine, turn=SOON) as fleet:
        model = fleet.find("a")
        assert model is not None
        load = [await Request(fleet, "a").begun()]
        waits = Request(fleet, "b")
        # Each comes before the one before it has ended; the last one may wait already.
        while not (model.draining or waits.got.is_set()):
            load.append(Request(fleet, "a"))
            await asyncio.sleep(0.001)
            load[-2].end.set()
        behind = Request(fleet, "a")
        load[-1].end.set()
        await waits.begun()
        assert not behind.got.is_set()
        await waits.ended()
        await (await behind.begun()).ended()
        for one in load:
            await one.ended()
        assert machine.loads() == ["a", "b", "a"]


async def test_a_drain_is_called_off_when_nobody_needs_it_any_more() -> None:
    """Those that waited behind it go on."""
    machine = Machine(10, a=6, b=6)
    async with running(machine, turn=SOON) as fleet:
        answering = await Request(fleet, "a").begun()
        waits = Request(fleet, "b")
        model = fleet.find("a")
        assert model is not None
        await until(lambda: model.draining)
        behind = Request(fleet, "a")
        waits.task.cancel()
        await behind.begun()
        await asyncio.gather(answering.ended(), behind.ended())
        assert machine.loads() == ["a"]


async def test_two_that_alternate_have_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers who ask one after the other are collated, and not each loaded for."""
    monkeypatch.setattr(plan_module, "LINGER_SECONDS", 0.1)
    machine = Machine(10, a=6, b=6)
    async with running(machine, turn=0.1) as fleet:

        async def caller(name: str) -> None:
            for _ in range(100):
                await (await Request(fleet, name).begun()).ended()
                await asyncio.sleep(0.001)

        await asyncio.gather(caller("a"), caller("b"))
        assert len(machine.loads()) < 40


async def test_a_critical_request_does_not_wait_for_a_turn() -> None:
    """It waits for those that run, and for nothing else."""
    machine = Machine(10, a=6, b=6)
    async with running(machine, turn=1000.0) as fleet:
        answering = await Request(fleet, "a").begun()
        urgent = Request(fleet, "b", urgent=True)
        model = fleet.find("a")
        assert model is not None
        await until(lambda: model.draining)
        await answering.ended()
        await (await urgent.begun()).ended()


async def test_what_can_never_fit_is_refused_at_once() -> None:
    """With the arithmetic; and nobody was unloaded for it."""
    machine = Machine(10, pinned=4, a=4, huge=8)
    async with running(machine, pinned=["pinned"], at_start=("pinned",)) as fleet:
        busy = await Request(fleet, "a").begun()
        for _ in range(2):  # by the plan, and then by what is remembered of it
            with pytest.raises(OutOfMemory, match="needs 8 of 6") as refusal:
                await Request(fleet, "huge").begun()
            assert refusal.value.retry_after is not None
        await busy.ended()
        assert machine.taken.keys() == {"pinned", "a"}


async def test_others_on_the_machine_make_way_before_a_model_is_refused() -> None:
    """What they were promised is not there for it; what they give up is."""
    machine, others = Machine(10, a=8), [6]

    def leave() -> bool:
        if others[0] > 2:
            others[0] -= 1
            return True
        return False

    async with running(machine) as fleet:
        room = fleet.share(lambda: Claim(others[0], 0), leave)
        assert room().left == 4
        await (await Request(fleet, "a").begun()).ended()
        assert others == [2]
        assert room().left == 0
        machine.sizes["b"] = 9
        with pytest.raises(OutOfMemory):
            await Request(fleet, "b").begun()
        assert others == [2]


async def test_context_gives_way_only_where_unloading_others_does_not_help() -> None:
    """So that it does not depend on who else happens to be loaded."""
    machine = Machine(10, a=6, b=6, wide=12)
    machine.least |= {"b": 2, "wide": 9}
    async with running(machine) as fleet:
        for name in ("a", "b"):
            await (await Request(fleet, name).begun()).ended()
        assert machine.taken == {"b": 6}
        await (await Request(fleet, "wide").begun()).ended()
        assert machine.taken == {"wide": 10}


async def test_what_is_to_be_there_at_the_start_sends_nobody_away() -> None:
    """The one that does not fit beside the others is loaded when it is asked for."""
    machine = Machine(10, a=6, b=6)
    async with running(machine, pinned=[], at_start=("a", "b")) as fleet:
        assert fleet.refusal("a") is not None
        await asyncio.wait_for(fleet.started.wait(), 10)
        assert machine.loads() == ["a"]
        assert fleet.ready
        assert [(model.name, model.state) for model in fleet.models()] == [
            ("a", "ready"),
            ("b", "unloaded"),
        ]
        await (await Request(fleet, "b").begun()).ended()
        assert machine.taken == {"b": 6}
        assert fleet.ready


async def test_an_idle_model_is_unloaded_after_its_time() -> None:
    """Not the pinned one, and not one that answers."""
    machine = Machine(20, pinned=2, a=4, b=4)
    rules: dict[str, Any] = {"pinned": ["pinned"], "at_start": ("pinned",), "ttl": 0.05}
    async with running(machine, **rules) as fleet:
        await (await Request(fleet, "a").begun()).ended()
        answering = await Request(fleet, "b").begun()
        await until(lambda: machine.taken.keys() == {"pinned", "b"})
        await answering.ended()
        await until(lambda: machine.taken.keys() == {"pinned"})
        assert fleet.ready


async def test_memory_that_is_refused_is_not_believed_in() -> None:
    """What is available is more than what can be had, as on boards: an idle model makes way, and
    the request hears nothing of it."""
    machine = Machine(2000, a=400, b=400)
    machine.failures["b"] = [OutOfMemory("cudaMalloc failed")]
    async with running(machine, capped=False) as fleet:
        await (await Request(fleet, "a").begun()).ended()
        await (await Request(fleet, "b").begun()).ended()
        refused = [("load", "b"), ("unload", "b")]
        assert machine.log == [("load", "a"), *refused, ("unload", "a"), ("load", "b")]


async def test_memory_that_is_refused_again_and_again() -> None:
    """When nobody is left who could make way, the request hears it: no load follows the other."""
    machine = Machine(2000, a=400, b=400)
    machine.failures["b"] = [OutOfMemory("cudaMalloc failed") for _ in range(9)]
    async with running(machine, capped=False) as fleet:
        await (await Request(fleet, "a").begun()).ended()
        with pytest.raises(OutOfMemory):
            await Request(fleet, "b").begun()
        assert machine.loads().count("b") == 2


async def test_a_load_that_fails_is_the_failure_of_its_requests_alone() -> None:
    """They hear why; later ones too, until it is tried again."""
    machine = Machine(10, a=4, b=4)
    machine.failures["b"] = [BadModelFile("garbage")]
    async with running(machine) as fleet:
        other = await Request(fleet, "a").begun()
        for request in [Request(fleet, "b"), Request(fleet, "b")]:
            with pytest.raises(ModelLoadFailed, match="garbage") as failure:
                await request.begun()
            assert failure.value.retry_after is not None
        assert isinstance(fleet.refusal("b"), ModelLoadFailed)
        model = fleet.find("b")
        assert model is not None
        assert model.state == "failed"
        await until(lambda: fleet.refusal("b") is None)
        await (await Request(fleet, "b").begun()).ended()
        assert model.error is None
        await other.ended()
        assert machine.loads() == ["a", "b", "b"]


async def test_a_runner_that_is_lost_is_begun_anew() -> None:
    """Its next worker could not be loaded: requests are refused for a while and then served."""
    machine = Machine(10, a=4)
    async with running(machine, pinned=["a"], at_start=("a",)) as fleet:
        await asyncio.wait_for(fleet.started.wait(), 10)
        machine.runners[0].die()
        assert fleet.refusal("a") is not None
        await until(lambda: machine.loads() == ["a", "a"] and fleet.ready)
        await (await Request(fleet, "a").begun()).ended()


async def begun(fleet: Fleet, name: str, version: int) -> Resident:
    """That version, loaded beside what there is."""
    resident = fleet.prepare(name, version)
    fleet.extra.add(resident)
    resident.task = asyncio.create_task(resident.runner.run())
    await resident.runner.loaded.wait()
    return resident


async def test_a_name_gets_another_runner() -> None:
    """New requests go to the new one, those that run end on the old one, which is then stopped.
    Both count while they are there."""
    machine = Machine(10, **{"m": 4, "m@2": 4, "other": 4})
    async with running(machine) as fleet:
        old = await Request(fleet, "m").begun()
        model = fleet.find("m")
        assert model is not None
        model.switching = True
        new = await begun(fleet, "m", 2)
        waits = Request(fleet, "other")
        await asyncio.sleep(0.05)
        assert not waits.got.is_set()
        fleet.seat("m", new)
        answered = await Request(fleet, "m").begun()
        first, second = machine.runners[:2]
        assert (old.runner, answered.runner) == (first, second)
        assert second.name == "m"
        (left,) = fleet.extra
        fleet.retire(left)
        await asyncio.sleep(0.05)
        assert not first.stopping.is_set()
        await old.ended()
        await (await waits.begun()).ended()
        assert machine.taken.keys() == {"m@2", "other"}
        await answered.ended()


async def test_a_name_gets_its_old_runner_back() -> None:
    """It stays loaded beside the new one until it is decided which of them goes."""
    machine = Machine(10, **{"m": 4, "m@2": 4})
    async with running(machine) as fleet:
        await (await Request(fleet, "m").begun()).ended()
        new = await begun(fleet, "m", 2)
        fleet.seat("m", new)
        (old,) = fleet.extra
        fleet.seat("m", old)
        await fleet.drop(new)
        assert machine.taken.keys() == {"m"}
        answered = await Request(fleet, "m").begun()
        assert answered.runner is old.runner
        await answered.ended()


async def test_a_name_is_exchanged_where_both_do_not_fit() -> None:
    """Requests wait from the end of the old one until the new one is there; nobody else loads it
    meanwhile."""
    machine = Machine(10, **{"m": 6, "m@2": 6})
    async with running(machine) as fleet:
        await (await Request(fleet, "m").begun()).ended()
        model = fleet.find("m")
        assert model is not None
        assert model.resident is not None
        model.switching = model.held = True
        behind = Request(fleet, "m")
        await fleet.drop(model.resident)
        await asyncio.sleep(0.05)
        assert machine.taken == {}
        fleet.seat("m", await begun(fleet, "m", 2))
        assert not behind.got.is_set()
        model.switching = model.held = False
        fleet.wake()
        await behind.begun()
        assert behind.runner is machine.runners[-1]
        await behind.ended()
        assert machine.loads() == ["m", "m@2"]


async def test_one_that_is_wanted_in_the_background_waits_for_idle_memory() -> None:
    """It takes no turn from those that work."""
    machine = Machine(10, a=6, b=6)
    async with running(machine, turn=0.0) as fleet:
        busy = await Request(fleet, "a").begun()
        fleet.fetch("b")
        model = fleet.find("a")
        assert model is not None
        await asyncio.sleep(0.1)
        assert model.at_hand
        await busy.ended()
        await until(lambda: machine.taken.keys() == {"b"})


async def test_stopping_tells_those_who_wait() -> None:
    """Nobody hangs, and no worker is left."""
    machine = Machine(10, a=6, b=6)
    machine.gate.clear()
    async with running(machine) as fleet:
        waits = [Request(fleet, name) for name in "ab"]
        await until(lambda: machine.loads())
    for request in waits:
        with pytest.raises((Overloaded, ModelLoadFailed)):
            await request.begun()


@pytest.mark.parametrize("seed", range(25))
async def test_any_order_of_events(seed: int) -> None:
    """Requests of random models come, end, leave and fail at random: memory is never exceeded, no
    running request loses its model, and everybody is answered or told."""
    chance = random.Random(seed)
    sizes = {name: chance.randint(100, 700) for name in "abcde"}
    capped = chance.random() < 0.5
    machine = Machine(1000 if capped else 1070, pinned=300, **sizes)
    rules: dict[str, Any] = {"pinned": ["pinned"], "at_start": ("pinned",), "turn": 0.005}
    ttl = chance.choice([None, 0.01])
    async with running(machine, capped=capped, ttl=ttl, **rules) as fleet:
        requests: list[Request] = []
        for _ in range(150):
            event = chance.random()
            live = [request for request in requests if not request.task.done()]
            if event < 0.5:
                name = chance.choice([*sizes, "pinned"])
                requests.append(Request(fleet, name, urgent=chance.random() < 0.1))
            elif event < 0.8 and live:
                chance.choice(live).end.set()
            elif event < 0.87 and live:
                chance.choice(live).task.cancel()
            elif event < 0.92:
                name = chance.choice(list(sizes))
                machine.failures.setdefault(name, []).append(BadModelFile("garbage"))
            elif event < 0.96:
                fleet.fetch(chance.choice(list(sizes)))
            await asyncio.sleep(chance.choice([0, 0, 0, 0.001, 0.004]))
        for request in requests:
            request.end.set()
        await asyncio.wait_for(
            asyncio.gather(*(one.task for one in requests), return_exceptions=True), 30
        )
        for request in requests:
            if not request.task.cancelled() and (error := request.task.exception()):
                assert isinstance(error, ModelLoadFailed), error
        assert all(not model.waiters for model in fleet.models())
