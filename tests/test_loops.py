"""The shape of background loops: how they wait, and how they end."""

from __future__ import annotations

import asyncio

import pytest

from edge.loops import Loop


async def test_cancelled_as_it_wakes() -> None:
    """A cancellation that comes together with the event ends the loop."""
    turned = asyncio.Event()

    async def turn() -> None:
        turned.set()

    loop = Loop("test", turn, tick=60)
    task = asyncio.create_task(loop.run())
    await turned.wait()
    await asyncio.sleep(0)
    loop.wake()
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=5)
    loop.stop()
    assert done
    assert task.cancelled()


async def test_tick_of_its_own() -> None:
    """A turn says when the next one is due; failures are tried again by a backoff instead."""
    times: list[float] = []

    async def turn() -> None:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            loop.tick = 0.05
        elif len(times) == 2:
            loop.tick = 60
            raise OSError("for the test")
        else:
            loop.stop()

    loop = Loop("test", turn, tick=60)
    await asyncio.wait_for(loop.run(), 10)
    assert times[1] - times[0] == pytest.approx(0.05, abs=1)
    assert 0.3 < times[2] - times[1] < 5
