"""Many clients at once get what each would get alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from answers import Answer, ask, near_tie, stream
from daemon_process import DaemonProcess

CLIENTS, SLOTS = 32, 16


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, default_model_path: Path) -> Iterator[Any]:
    process = DaemonProcess(
        tmp_path_factory.mktemp("concurrency"), default_model_path, engine__slots=SLOTS
    )
    try:
        yield process.wait_ready()
        assert process.stop() == 0
    finally:
        process.end()


def question(number: int) -> dict[str, Any]:
    topics = ("a lathe", "a pump", "a valve", "a press", "steam", "copper", "a gear", "an oven")
    text = f"Number {number}: say in one sentence what {topics[number % len(topics)]} is for."
    return {
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 16,
    }


def test_texts_do_not_depend_on_the_company(daemon: DaemonProcess) -> None:
    """32 clients over 16 slots get the texts of one client at a time, apart from near ties."""
    bodies = [question(number) for number in range(CLIENTS)]
    alone = [ask(daemon, body) for body in bodies]

    async def together() -> list[Answer]:
        return await asyncio.gather(*(stream(daemon.url, body, Answer()) for body in bodies))

    crowd = asyncio.run(together())
    assert all(answer.done and answer.error is None for answer in crowd)
    ties = [near_tie(one, answer.text) for one, answer in zip(alone, crowd, strict=True)]
    parted = [tie for tie in ties if tie]
    assert len(parted) <= CLIENTS // 2, f"so many cannot all be near ties: {parted}"
    books = daemon.wait_idle()
    assert books["free"] + books["resident"] == SLOTS
    assert books["running"] == 0
