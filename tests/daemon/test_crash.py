"""The worker dies, hangs or is told to stop, and clients notice as little as can be."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from answers import Answer, ask, near_tie, stream, wait_for_pieces
from daemon_process import DaemonProcess, poll

Start = Callable[..., DaemonProcess]


@pytest.fixture
def start(tmp_path: Path, default_model_path: Path) -> Iterator[Start]:
    """Starts a daemon of the test's own; whatever is left of it is gone afterwards."""
    started: list[DaemonProcess] = []

    def begin(**settings: Any) -> DaemonProcess:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(DaemonProcess(folder, default_model_path, **settings))
        return started[-1]

    yield begin
    for process in started:
        process.end()


def question(number: int, **fields: Any) -> dict[str, Any]:
    text = f"Machine {number} stands still. What should be checked first, and why?"
    return {
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": 64,
        "ignore_eos": True,
        **fields,
    }


async def crash_during(
    daemon: DaemonProcess, bodies: list[dict[str, Any]], pieces: int = 2
) -> list[Answer]:
    """Run all requests, and kill the worker when each has brought some pieces."""
    answers = [Answer() for _ in bodies]
    pid = daemon.worker_pid
    running = [
        asyncio.create_task(stream(daemon.url, body, answer))
        for body, answer in zip(bodies, answers, strict=True)
    ]
    await wait_for_pieces(answers, pieces)
    assert not any(answer.done for answer in answers)
    os.kill(pid, signal.SIGKILL)
    return list(await asyncio.gather(*running))


def test_streams_survive_the_death_of_the_worker(start: Start) -> None:
    """kill -9 during 8 streams: all are completed, with no text lost or doubled."""
    daemon = start(engine__slots=8).wait_ready()
    bodies = [question(number) for number in range(8)]
    expected = [ask(daemon, body) for body in bodies]
    answers = asyncio.run(crash_during(daemon, bodies))
    for answer, reference in zip(answers, expected, strict=True):
        assert answer.done
        assert answer.error is None
        assert answer.reasons[0] == reference["finish_reason"]
        near_tie(reference, answer.text)
    assert daemon.status()["restarts"] == 1
    daemon.wait_idle()


def test_sampling_goes_on_with_the_same_random_numbers(start: Start) -> None:
    """A sampled answer with a seed has the same text with a crash in its middle as without."""
    daemon = start().wait_ready()
    body = question(1, temperature=0.7, top_p=0.5, seed=11, n=2, stop=["\n\n"])
    whole = asyncio.run(stream(daemon.url, body, Answer()))
    cut = asyncio.run(crash_during(daemon, [body]))[0]
    assert cut.done
    # The numbers behind the draw differ by rounding, which may tip one of them late in the text.
    for index, text in whole.texts.items():
        half = text[: len(text) // 2]
        assert half
        assert cut.texts[index].startswith(half), (text, cut.texts[index])
    daemon.wait_idle()


def test_a_request_that_kills_twice_is_given_up(start: Start) -> None:
    """A second death in the same streams ends them with an error; the next request is served."""
    daemon = start().wait_ready()

    async def kill_twice() -> list[Answer]:
        answers = [Answer() for _ in range(2)]
        bodies = [question(number, max_tokens=200) for number in range(2)]
        first = daemon.worker_pid
        running = [
            asyncio.create_task(stream(daemon.url, body, answer))
            for body, answer in zip(bodies, answers, strict=True)
        ]
        await wait_for_pieces(answers, 3)
        os.kill(first, signal.SIGKILL)
        before = min(answer.pieces for answer in answers)
        await wait_for_pieces(answers, before + 5)
        os.kill(daemon.worker_pid, signal.SIGKILL)
        return list(await asyncio.gather(*running))

    for answer in asyncio.run(kill_twice()):
        assert not answer.done
        assert answer.error is not None
        assert answer.error["code"] == "worker_crashed"
    assert ask(daemon, question(9, max_tokens=4))["message"]["content"]
    assert daemon.status()["restarts"] == 2


def test_a_request_may_ask_not_to_be_continued(start: Start) -> None:
    """With on_cut: fail a crash in the middle is an error event, and no [DONE]."""
    daemon = start().wait_ready()
    body = question(1, edge={"on_cut": "fail"})
    answer = asyncio.run(crash_during(daemon, [body]))[0]
    assert not answer.done
    assert answer.error is not None
    assert answer.error["code"] == "worker_crashed"


def test_stopping_lets_streams_finish(start: Start) -> None:
    """SIGTERM: a running answer is completed, a new request is refused with 503, exit code 0."""
    daemon = start().wait_ready()

    async def stop_during() -> tuple[Answer, int]:
        answer = Answer()
        running = asyncio.create_task(stream(daemon.url, question(1, max_tokens=60), answer))
        await wait_for_pieces([answer], 3)
        daemon.process.send_signal(signal.SIGTERM)

        def refused() -> bool:
            return "stopping" in daemon.log

        await asyncio.to_thread(poll, refused, "stopping")
        status = await asyncio.to_thread(daemon.post, "/v1/chat/completions", question(2))
        assert status.headers["retry-after"]
        return await running, status.status_code

    answer, status = asyncio.run(stop_during())
    assert answer.done
    assert status == 503
    assert daemon.process.wait(60) == 0


def test_no_worker_outlives_the_daemon(start: Start) -> None:
    """kill -9 of the daemon: its worker ends by itself."""
    daemon = start().wait_ready()
    worker = psutil.Process(daemon.worker_pid)
    daemon.process.kill()
    daemon.process.wait()
    worker.wait(30)


def test_the_worker_goes_before_the_daemon_when_memory_ends(start: Start) -> None:
    """The kernel is told to take the worker first."""
    daemon = start().wait_ready()
    score = Path(f"/proc/{daemon.worker_pid}/oom_score_adj").read_text()
    assert int(score) > int(Path(f"/proc/{daemon.pid}/oom_score_adj").read_text())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"engine__context": 65536}, "was trained for 8192"),
        ({"engine__backend": "cuda"}, "built without it"),
        ({"models__default": "no-such-model"}, "no-such-model"),
    ],
)
def test_a_model_that_cannot_be_served_ends_the_start(
    start: Start, settings: dict[str, Any], words: str
) -> None:
    """`edge serve` says what is wrong and what to try, and exits with 1."""
    daemon = start(**settings)
    assert daemon.process.wait(60) == 1
    assert "Error: " in daemon.log
    assert "Try: " in daemon.log
    assert words in daemon.log
    assert "Traceback" not in daemon.log


def test_a_taken_port_is_known_before_anything_is_loaded(start: Start) -> None:
    """A second daemon on the same port ends at once, with exit code 2."""
    first = start().wait_ready()
    second = start(http__port=first.port)
    assert second.process.wait(60) == 2
    assert "cannot listen" in second.log


def test_a_foreign_file_is_refused_by_name(tmp_path: Path) -> None:
    """A file that is no GGUF is refused before llama.cpp sees it."""
    foreign = tmp_path / "page.gguf"
    foreign.write_text("<html>not found</html>")
    daemon = DaemonProcess(tmp_path, foreign)
    try:
        assert daemon.process.wait(60) == 1
    except subprocess.TimeoutExpired:
        daemon.end()
        raise
    assert "Error: " in daemon.log
    assert "smollm2-135m-instruct.gguf" in daemon.log
