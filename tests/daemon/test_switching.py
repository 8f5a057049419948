"""Versions that take over a name under load, and those that do not: a real daemon, real models.

`./scripts/soak switch` kills the daemon many times on the way.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import psutil
import pytest
from daemon_process import DaemonProcess, Start, poll
from streams import body_for, check_complete, run_streams, streaming

from edge.modelstore.catalog import FileSource, Wanted
from edge.modelstore.pull import pull
from edge.modelstore.store import ModelStore

NAME = "press"
GOOD, OTHER, NOISE = 1, 2, 3
KILLS = int(os.environ.get("SOAK_SWITCH_KILLS", "1"))


@pytest.fixture(scope="session")
def shelf(
    default_model_path: Path, coarse_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A store with three versions of a name: the default model, the same in Q4_0, and one of its
    shape with random weights."""
    folder = tmp_path_factory.mktemp("shelf")
    noise = _noise(default_model_path, folder / "noise.gguf")
    store = ModelStore(folder / "models")
    for path in (default_model_path, coarse_model_path, noise):
        pull(store, Wanted(name=NAME, source=FileSource(str(path))))
    return folder / "models"


def _noise(source: Path, path: Path) -> Path:
    """Blocks of weights as they are, in another order: numbers of the right size without sense."""
    path.write_bytes(source.read_bytes())
    chance, data = np.random.default_rng(7), np.memmap(path, np.uint8, "r+")
    for tensor in gguf.GGUFReader(source).tensors:
        if len(tensor.shape) > 1:
            begin, block = tensor.data_offset, gguf.GGML_QUANT_SIZES[tensor.tensor_type][1]
            blocks = data[begin : begin + tensor.n_bytes].reshape(-1, block)
            blocks[:] = blocks[chance.permutation(len(blocks))]
    data.flush()
    return path


@pytest.fixture
def press(tmp_path: Path, shelf: Path, start: Start) -> Callable[..., Press]:
    """Starts daemons that serve version 1 of a name with three versions, out of one folder."""
    folder = tmp_path / "daemon"
    shutil.copytree(shelf, folder / "state" / "models", copy_function=_model_by_link)
    store = ModelStore(folder / "state" / "models")

    def begin(**settings: Any) -> Press:
        wanted = {"switching__watch_seconds": 0, **settings}
        return Press(start(folder=folder, models__default=NAME, **wanted), store)

    return begin


def _model_by_link(source: str, target: str) -> None:
    """Three hundred megabytes for each test would be a lot; what says which is which is small."""
    (os.link if Path(source).stat().st_size > 1_000_000 else shutil.copy2)(source, target)


class Press:
    """A daemon with its store, and what is asked of both."""

    def __init__(self, daemon: DaemonProcess, store: ModelStore) -> None:
        self.daemon = daemon.wait_ready()
        self.store = store

    @property
    def active(self) -> int | None:
        return self.store.get(NAME).version

    def use(self, version: int) -> dict[str, Any]:
        answer = self.daemon.post(f"/admin/v1/models/{NAME}/use", {"version": version})
        assert answer.status_code == 202, answer.text
        return dict(answer.json())

    @property
    def switch(self) -> dict[str, Any]:
        return dict(self.daemon.get(f"/admin/v1/models/{NAME}/switch").json())

    def wait(self, *states: str) -> dict[str, Any]:
        return poll(lambda: (s := self.switch)["state"] in states and s, " or ".join(states))

    def ended(self) -> dict[str, Any]:
        return self.wait("done", "refused", "rolled_back")

    @property
    def file(self) -> str:
        """What the worker that answers has loaded."""
        return str(self.daemon.status()["facts"]["path"])

    def serves(self, version: int) -> bool:
        return self.file == str(self.store.numbered(NAME, version).path)


def ask_without_pause(press: Press, until: Callable[[], bool]) -> list[tuple[int, float]]:
    """Status and seconds of each of many short requests, one directly after the other."""
    heard = []
    body = {"prompt": "The press", "max_tokens": 1, "temperature": 0}
    while not until():
        began = time.monotonic()
        answer = press.daemon.post("/v1/completions", body)
        heard.append((answer.status_code, time.monotonic() - began))
    return heard


def test_a_switch_under_load(press: Callable[..., Press]) -> None:
    """8 streams and 50 requests in the queue, both versions in memory: none fails, none is cut, and
    at no time is the name not answered for."""
    shop = press(engine__slots=8)
    bodies = [body_for(f"{n}. The press", max_tokens=24 if n < 8 else 4) for n in range(58)]
    with ThreadPoolExecutor(1) as pool, streaming(shop.daemon, bodies) as streams:
        shop.daemon.wait_running(8, waiting=50)
        shop.use(OTHER)
        asking = pool.submit(ask_without_pause, shop, lambda: shop.switch["state"] == "done")
        progress = shop.ended()
        assert progress["state"] == "done", progress
        heard = asking.result()
    for stream, body in zip(streams, bodies, strict=True):
        check_complete(stream, body)
    assert progress["beside"] is True
    assert progress["waited_seconds"] == 0
    assert {status for status, _ in heard} == {200}
    assert shop.serves(OTHER)
    assert shop.active == OTHER
    poll(lambda: len(workers(shop.daemon)) == 1, "the end of the old worker")


def test_requests_wait_where_both_do_not_fit(press: Callable[..., Press]) -> None:
    """What runs ends on the old version, what comes meanwhile is answered by the new one, and how
    long that took is told."""
    shop = press(models__memory_mb=400, engine__prefix_cache_mb=0)
    bodies = [body_for(f"{n}. The press", max_tokens=12) for n in range(8)]
    with streaming(shop.daemon, bodies) as streams:
        shop.daemon.wait_running(4, waiting=4)
        shop.use(OTHER)
        shop.wait("draining", "loading", "canary")
        late = body_for("At last", max_tokens=4)
        check_complete(run_streams(shop.daemon, [late])[0], late)
        assert shop.serves(OTHER)
    for stream, body in zip(streams, bodies, strict=True):
        check_complete(stream, body)
    progress = shop.ended()
    assert (progress["state"], progress["beside"]) == ("done", False)
    assert progress["waited_seconds"] > 0


def test_random_weights_never_get_a_request(press: Callable[..., Press]) -> None:
    """The canary refuses them: the version that answers stays, and what it says."""
    shop = press()
    body = body_for("The press is", max_tokens=12)
    [before] = run_streams(shop.daemon, [body])
    pid = shop.daemon.status()["pid"]
    shop.use(NOISE)
    seen = set()
    while (state := shop.switch["state"]) not in ("refused", "done"):
        seen.add((state, shop.daemon.status()["pid"]))
        time.sleep(0.02)
    progress = shop.switch
    assert progress["state"] == "refused", progress
    assert "plain text surprises it like noise" in progress["reason"]
    assert {served for _, served in seen} == {pid}
    assert shop.active == GOOD
    assert shop.serves(GOOD)
    [after] = run_streams(shop.daemon, [body])
    assert after.first.text == before.first.text
    noise = shop.store.known(NAME).get(NOISE)
    assert noise is not None
    assert noise.refused is not None
    assert noise.refused.reason == progress["reason"]


def test_two_deaths_and_the_old_version_is_back(press: Callable[..., Press]) -> None:
    """While the new one is watched; after a restart it is still the old one."""
    shop = press(switching__watch_seconds=60)
    pid = shop.daemon.status()["pid"]
    shop.use(OTHER)
    shop.wait("watching")
    assert shop.serves(OTHER)
    for _ in range(2):
        new = shop.daemon.worker_pid
        os.kill(new, signal.SIGKILL)
        poll(lambda new=new: shop.daemon.status()["pid"] not in (None, new), "another worker")
    assert shop.ended()["state"] == "rolled_back"
    assert "died 2 times" in shop.switch["reason"]
    assert shop.daemon.status()["pid"] == pid  # it was loaded all the while
    assert shop.active == GOOD


def test_a_daemon_that_is_killed_in_a_switch(press: Callable[..., Press]) -> None:
    """In whatever state: the next one serves what the store means, and the next switch succeeds."""
    chance = random.Random(KILLS)
    for number in range(KILLS):
        shop = press(switching__watch_seconds=60)
        assert shop.serves(GOOD)
        shop.use(OTHER)
        if number:
            time.sleep(chance.uniform(0, 10))
        else:
            shop.wait("canary")
        shop.daemon.process.kill()
        shop.daemon.process.wait()
        assert shop.active == GOOD
    shop = press()
    shop.use(OTHER)
    assert shop.ended()["state"] == "done"
    assert shop.daemon.stop() == 0
    assert press().serves(OTHER)


def workers(daemon: DaemonProcess) -> list[int]:
    return [child.pid for child in psutil.Process(daemon.pid).children()]
