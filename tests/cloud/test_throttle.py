"""The throttle, with a clock that moves only when somebody sleeps."""

from __future__ import annotations

import asyncio

import pytest

from edge.cloud.throttle import Throttle


class Time:
    """A clock of the test's own."""

    def __init__(self) -> None:
        self.now = 50.0

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def throttle(time: Time) -> Throttle:
    """1000 bytes a second."""
    return Throttle(8, time.clock, time.sleep)


async def test_rate(throttle: Throttle, time: Time) -> None:
    """Over a while no more goes through than allowed, and no less."""
    for _ in range(100):
        await throttle.wait(300)
        throttle.charge(700)
    assert time.now - 50 == pytest.approx(98, abs=1.5)


async def test_rest_is_not_saved_up(throttle: Throttle, time: Time) -> None:
    """After a pause there is a second's worth, however long the pause was."""
    time.now += 1000
    await throttle.wait(1000)
    await throttle.wait(500)
    began = time.now
    await throttle.wait(1)
    assert time.now - began == pytest.approx(0.5, abs=0.01)


async def test_in_order(throttle: Throttle, time: Time) -> None:
    """Those who came first go first, small or large."""
    throttle.charge(5000)
    order: list[int] = []

    async def one(number: int) -> None:
        await throttle.wait(2000 if number % 2 else 10)
        order.append(number)

    await asyncio.gather(*(one(number) for number in range(6)))
    assert order == [0, 1, 2, 3, 4, 5]


async def test_cancelled(time: Time) -> None:
    """Whoever gives up has used nothing, first in the line or not."""
    never = asyncio.Event()

    async def sleep(seconds: float) -> None:
        await asyncio.wait({asyncio.ensure_future(never.wait())}, timeout=0.01)
        time.now += seconds if never.is_set() else 0

    throttle = Throttle(8, time.clock, sleep)
    throttle.charge(3000)
    waiting = [asyncio.create_task(throttle.wait(10_000)) for _ in range(3)]
    await asyncio.sleep(0.05)
    for task in waiting[:2]:
        task.cancel()
    await asyncio.wait(waiting[:2])
    assert not waiting[2].done()
    waiting[2].cancel()
    await asyncio.wait(waiting)
    never.set()
    began = time.now
    await throttle.wait(1)
    assert time.now - began == pytest.approx(2, abs=0.01)
