"""Several models in a real daemon that has memory for some of them."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import psutil
import pytest
from daemon_process import MODEL, DaemonProcess, Start, poll
from modelstore.tinymodel import write_loadable
from test_start import remove_model

from edge.engine.footprint import Plan, predict
from edge.host import cpu
from edge.modelstore.gguf import read_header
from edge.modelstore.shape import shape_of

CONTEXT = 128
"""Of the small models."""

TWO_SLOTS = {"engine__slots": 2, "engine__context": "auto", "engine__prefix_cache_mb": 0}

Box = Callable[..., DaemonProcess]


@pytest.fixture
def box(start: Start, tmp_path: Path) -> Box:
    """Starts a daemon with small models; `a` is the default one, and memory is for so many."""

    def box(memory_for: float, names: str = "abcd", **settings: Any) -> DaemonProcess:
        models = tmp_path / "daemon" / "state" / "models"
        models.mkdir(parents=True)
        for name in names:
            write_loadable(models / f"{name}.gguf")
        budget = memory_for * needs(models / "a.gguf", CONTEXT)
        wanted = {**TWO_SLOTS, "models__default": "a", "models__memory_mb": budget}
        return start(**{**wanted, **settings}).wait_ready()

    return box


def needs(path: Path, context: int) -> float:
    """MB that a model is predicted to take with two slots."""
    amx = "amx_int8" in (cpu.features() or ())
    plan = Plan(2, context, "f16", 512)
    return predict(shape_of(read_header(path), amx), plan).total / 1e6


def ask(daemon: DaemonProcess, model: str, **fields: Any) -> httpx.Response:
    body = {"model": model, "prompt": "abc", "max_tokens": 4, **fields}
    return daemon.post("/v1/completions", body)


def states(daemon: DaemonProcess) -> dict[str, str]:
    models = daemon.get("/admin/v1/status").json()["models"]
    return {model["name"]: model["state"] for model in models}


def loaded(daemon: DaemonProcess) -> set[str]:
    return {name for name, state in states(daemon).items() if state == "ready"}


def loads(daemon: DaemonProcess, model: str) -> float:
    found = daemon.metrics().get(f'edge_model_loads_total{{model="{model}",outcome="ok"}}', 0.0)
    return float(found)


def workers(daemon: DaemonProcess) -> list[psutil.Process]:
    children = psutil.Process(daemon.pid).children()
    return [child for child in children if "edge.runtime.worker" in child.cmdline()]


@contextmanager
def next_worker(daemon: DaemonProcess) -> Iterator[Callable[[], psutil.Process]]:
    """What gives the first worker that is started inside the block."""
    before = {worker.pid for worker in workers(daemon)}

    def found() -> psutil.Process:
        def new() -> list[psutil.Process]:
            return [worker for worker in workers(daemon) if worker.pid not in before]

        return poll(new, "another worker")[0]

    yield found


def test_models_come_when_they_are_asked_for_and_the_least_used_goes(box: Box) -> None:
    """The pinned one stays; what is put there meanwhile is served without a restart."""
    daemon = box(memory_for=3.3)
    assert loaded(daemon) == {"a"}
    assert [model["id"] for model in daemon.get("/v1/models").json()["data"]][:4] == [*"abcd"]
    for model in "bcbd":
        answer = ask(daemon, model)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == answer.headers["x-edge-model"] == model
    assert loaded(daemon) == {"a", "b", "d"}
    assert daemon.get("/health/ready").status_code == 200
    assert ask(daemon, "default").headers["x-edge-model"] == "a"
    assert ask(daemon, "e").status_code == daemon.get("/v1/models/e").status_code == 404
    write_loadable(daemon.folder / "state" / "models" / "e.gguf")
    assert ask(daemon, "e").status_code == daemon.get("/v1/models/e").status_code == 200
    assert len(loaded(daemon)) == 3
    assert len(workers(daemon)) == 3
    assert daemon.stop() == 0


def test_what_answers_is_never_unloaded(
    start: Start, tmp_path: Path, default_model_path: Path
) -> None:
    """Who needs its memory waits for a bounded time, and is told when to come back; the stream runs
    to its last token, and only then the other one has its turn."""
    models = tmp_path / "daemon" / "state" / "models"
    models.mkdir(parents=True)
    write_loadable(models / "b.gguf")
    budget = needs(default_model_path, 2048) + 10
    settings = {**TWO_SLOTS, "models__pinned": "[]", "models__memory_mb": budget}
    settings |= {"models__turn_seconds": 0, "limits__max_wait_seconds": 3}
    daemon = start(**settings).wait_ready()
    body = {"prompt": "Once", "max_tokens": 100, "ignore_eos": True, "stream": True}
    url = daemon.url + "/v1/completions"
    with daemon.http.stream("POST", url, json={**body, "temperature": 1}) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith("data: {")
        (worker,) = workers(daemon)
        worker.suspend()
        refused = ask(daemon, "b")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "loading"
        assert "it is waiting" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1
        assert workers(daemon) == [worker]
        worker.resume()
        text = "".join(lines)
    assert text.endswith("data: [DONE]")
    assert json.loads(text.split("data: ")[-2])["choices"][0]["finish_reason"] == "length"
    poll(lambda: ask(daemon, "b").status_code == 200, "its turn")
    assert loaded(daemon) == {"b"}


def test_turns_under_continuous_load(box: Box) -> None:
    """A request for another model is answered though the first one is never idle; and the first one
    is served again after that."""
    daemon = box(memory_for=1.3, models__pinned="[]", models__turn_seconds=1)
    enough = Event()

    def keep_busy() -> list[int]:
        answers = []
        while not enough.is_set():
            answers.append(ask(daemon, "a", max_tokens=60, ignore_eos=True).status_code)
        return answers

    with ThreadPoolExecutor(3) as pool:
        busy = [pool.submit(keep_busy) for _ in range(3)]
        try:
            assert ask(daemon, "b").status_code == 200
            poll(lambda: loads(daemon, "a") == 2, "its next turn")
        finally:
            enough.set()
        assert {status for one in busy for status in one.result()} == {200}
    assert loads(daemon, "b") == 1


def test_an_idle_model_is_unloaded_after_its_time(box: Box) -> None:
    """But for the pinned one; it comes again when it is asked for."""
    daemon = box(memory_for=9, models__ttl_seconds=0.5)
    for _ in range(2):
        assert ask(daemon, "b").status_code == 200
        poll(lambda: states(daemon)["b"] == "unloaded", "unloaded")
    assert loaded(daemon) == {"a"}
    assert daemon.metrics()['edge_model_unloads_total{model="b",reason="ttl"}'] == 2
    assert remove_model(daemon, "b").returncode == 0
    assert ask(daemon, "b").status_code == 404


def test_a_worker_that_is_killed_while_it_loads(box: Box) -> None:
    """Its requests hear why; the others notice nothing, and the next one is served."""
    daemon = box(memory_for=9)
    with ThreadPoolExecutor(1) as pool, next_worker(daemon) as started:
        asked = pool.submit(ask, daemon, "b")
        started().send_signal(signal.SIGKILL)
        failed = asked.result()
    assert failed.status_code == 503
    assert failed.json()["error"]["code"] == "model_load_failed"
    assert "SIGKILL" in failed.json()["error"]["message"]
    assert int(failed.headers["retry-after"]) >= 1
    assert ask(daemon, "a").status_code == 200
    assert daemon.get("/health/ready").status_code == 200
    poll(lambda: ask(daemon, "b").status_code == 200, "the next load")


def test_a_bad_file_fails_its_requests_alone(box: Box) -> None:
    """By name and with the reason; replaced by a good one, it is served."""
    daemon = box(memory_for=9)
    path = daemon.folder / "state" / "models" / "bad.gguf"
    path.write_text("<html>not found</html>")
    failed = ask(daemon, "bad")
    assert failed.status_code == 503
    assert "bad.gguf" in failed.json()["error"]["message"]
    assert states(daemon)["bad"] == "failed"
    assert ask(daemon, "a").status_code == 200
    write_loadable(path)
    poll(lambda: ask(daemon, "bad").status_code == 200, "the good one")


def test_what_never_fits_is_refused_with_the_sum(box: Box) -> None:
    """At once, and nobody is unloaded for it."""
    daemon = box(memory_for=2.3)
    assert ask(daemon, "b").status_code == 200
    refused = ask(daemon, MODEL)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "out_of_memory"
    assert "of models.memory_mb" in refused.json()["error"]["message"]
    assert loaded(daemon) == {"a", "b"}


def test_kept_requests_are_collated_by_model(box: Box) -> None:
    """Those of two models that never fit together are all answered, in few loads."""
    daemon = box(memory_for=1.3, models__pinned="[]")
    body = {"prompt": "abc", "max_tokens": 8, "temperature": 0}
    places = []
    for number in range(16):
        kept = {**body, "model": "ab"[number % 2], "seed": number}
        accepted = daemon.post("/v1/completions", kept, Prefer="respond-async")
        assert accepted.status_code == 202
        places.append(accepted.headers["location"])
    for place in places:
        poll(lambda place=place: daemon.get(place).json()["output"], "an answer")
    assert loads(daemon, "a") + loads(daemon, "b") <= 4


def test_kept_prefixes_outlive_an_unload(start: Start) -> None:
    """What was computed before the model went is not computed again when it is back."""
    settings = {"models__pinned": "[]", "models__ttl_seconds": 1, "engine__context": 1024}
    daemon = start(**settings).wait_alive()
    prompt = list(range(1000, 1550))

    def cached() -> int:
        answer = ask(daemon, MODEL, prompt=[*prompt, random.randrange(2000, 9000)])
        assert answer.status_code == 200, answer.text
        return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    poll(lambda: states(daemon)[MODEL] in ("ready", "unloaded"), "loaded")
    for _ in range(2):
        cached()
    poll(lambda: states(daemon)[MODEL] == "unloaded", "unloaded")
    assert cached() == len(prompt)
