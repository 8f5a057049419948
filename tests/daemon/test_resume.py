"""Answers that are resumed after kill -9 of the worker: to the token what they would have been."""

from __future__ import annotations

import os
import signal
from typing import Any

import psutil
from daemon_process import MODEL, DaemonProcess, Start, poll
from streams import (
    Heard,
    Stream,
    body_for,
    check_complete,
    check_same,
    run_streams,
    streaming,
    tokens_of,
)

PROMPTS = [
    "The capital of France is",
    "Once upon a time there was a robot",
    "The sky is blue because",
    "To cook rice, you",
    "The sea is",
    "A prime number is",
    "Rain comes from",
    "My three favourite animals are",
]


def kill_worker(daemon: DaemonProcess) -> None:
    """SIGKILL, and wait until there is another that is ready."""
    status = daemon.status()
    os.kill(status["pid"], signal.SIGKILL)
    poll(
        lambda: (
            (now := daemon.status())["restarts"] > status["restarts"] and now["state"] == "ready"
        ),
        "a new worker",
    )


def kill_in_the_middle(daemon: DaemonProcess, streams: list[Stream], tokens: int = 2) -> None:
    """Kill the worker when each stream has some tokens and none has ended."""
    poll(lambda: all(stream.progressed(tokens) for stream in streams), f"{tokens} tokens each")
    assert not any(stream.done for stream in streams), "too late: the generations are too short"
    kill_worker(daemon)


def run_with_a_crash(daemon: DaemonProcess, bodies: list[dict[str, Any]]) -> list[Stream]:
    with streaming(daemon, bodies) as streams:
        kill_in_the_middle(daemon, streams)
    return streams


def test_eight_streams_live_through_a_crash(daemon: DaemonProcess) -> None:
    """All complete, with no text lost or doubled, and the text that they have without it."""
    bodies = [body_for(prompt) for prompt in PROMPTS]
    expected = run_streams(daemon, bodies)
    restarts = daemon.metrics()[f'edge_worker_restarts_total{{model="{MODEL}"}}']
    streams = run_with_a_crash(daemon, bodies)
    for body, wanted, stream in zip(bodies, expected, streams, strict=True):
        check_complete(stream, body)
        check_same(wanted.first, stream.first)
    after = daemon.metrics()[f'edge_worker_restarts_total{{model="{MODEL}"}}']
    assert after == restarts + 1 == daemon.status()["restarts"]


def test_several_choices_live_through_a_crash(daemon: DaemonProcess) -> None:
    """Each choice goes on where it was."""
    bodies = [body_for(prompt, n=2) for prompt in PROMPTS[:4]]
    expected = run_streams(daemon, bodies)
    streams = run_with_a_crash(daemon, bodies)
    for body, wanted, stream in zip(bodies, expected, streams, strict=True):
        check_complete(stream, body)
        for one, other in zip(wanted.choices, stream.choices, strict=True):
            check_same(one, other)


def test_stop_strings_live_through_a_crash(daemon: DaemonProcess) -> None:
    """A stop string is found where it lies across the crash or behind it, and never sent."""
    bodies = [body_for(prompt) for prompt in PROMPTS[1:5]]
    free = [stream.first for stream in run_streams(daemon, bodies)]
    for body, heard in zip(bodies, free, strict=True):
        body["stop"] = [heard.text[-8:]]
    expected = run_streams(daemon, bodies)
    streams = run_with_a_crash(daemon, bodies)
    for body, wanted, stream in zip(bodies, expected, streams, strict=True):
        assert stream.done
        assert body["stop"][0] not in stream.first.text
        check_same(wanted.first, stream.first)


def test_a_stop_string_that_is_half_there_lives_through_a_crash(daemon: DaemonProcess) -> None:
    """Text that was held back at the crash is sent after it, once."""
    body = body_for(PROMPTS[1])
    (free,) = run_streams(daemon, [body])
    # The first tokens are held back as long as this could still come.
    body["stop"] = [free.first.text[:60] + "never"]
    with streaming(daemon, [body]) as streams:
        daemon.wait_running(1)
        steps = daemon.status()["stats"]["steps"]
        poll(lambda: daemon.status()["stats"]["steps"] > steps + 3, "a few tokens")
        assert not streams[0].first.text
        kill_worker(daemon)
    check_same(free.first, streams[0].first)
    assert streams[0].done


def test_sampled_text_lives_through_a_crash(daemon: DaemonProcess) -> None:
    """With a seed the random numbers go on where they were.

    A draw that falls on the border of two tokens may go either way, as near ties do; one in four
    is allowed for that. With other random numbers none would be the same.
    """
    bodies = [
        body_for(prompt, temperature=1, seed=number) for number, prompt in enumerate(PROMPTS[:4])
    ]
    expected = run_streams(daemon, bodies)
    streams = run_with_a_crash(daemon, bodies)
    for body, stream in zip(bodies, streams, strict=True):
        check_complete(stream, body)
    pairs = zip(expected, streams, strict=True)
    assert sum(wanted.first.text == stream.first.text for wanted, stream in pairs) >= 3


def test_a_crash_while_a_prompt_is_computed(daemon: DaemonProcess) -> None:
    """Before the first token nothing was sent, and the request is tried again."""
    body = body_for("The sea is wide and deep and cold. " * 25, max_tokens=4)
    (expected,) = run_streams(daemon, [body])
    kill_worker(daemon)  # so that the prompt is not cached
    with streaming(daemon, [body]) as streams:
        daemon.wait_running(1)
        assert not streams[0].first.tokens
        kill_worker(daemon)
    check_complete(streams[0], body)
    check_same(expected.first, streams[0].first)


def test_a_crash_before_the_first_token_of_a_whole_answer(daemon: DaemonProcess) -> None:
    """An answer that is not streamed lives through it too."""
    body = body_for(PROMPTS[0])
    (expected,) = run_streams(daemon, [body])
    plain = {k: v for k, v in body.items() if not k.startswith("stream")}
    with streaming(daemon, [body]) as streams:
        kill_in_the_middle(daemon, streams)
        answer = daemon.post("/v1/completions", plain).json()
    (choice,) = answer["choices"]
    heard = Heard(choice["text"], tokens_of(choice["logprobs"]), choice["finish_reason"])
    assert len(heard.tokens) == body["max_tokens"]
    for one in (heard, streams[0].first):
        check_same(expected.first, one)


def test_those_that_wait_have_no_part_in_a_crash(start: Start) -> None:
    """Two deaths fail the two that ran; the two that waited are answered."""
    daemon = start(engine__slots=2).wait_ready()
    bodies = [body_for(prompt, max_tokens=60) for prompt in PROMPTS[:2]]
    waiting = [body_for(prompt) for prompt in PROMPTS[2:4]]
    with streaming(daemon, bodies) as first:
        poll(lambda: all(stream.progressed(1) for stream in first), "both run")
        with streaming(daemon, waiting) as second:
            daemon.wait_running(2, waiting=2)
            kill_worker(daemon)
            daemon.wait_running(2, waiting=2)
            kill_worker(daemon)
    for stream in first:
        assert stream.error is not None
        assert stream.error["code"] == "worker_crashed"
    for body, stream in zip(waiting, second, strict=True):
        check_complete(stream, body)
    assert daemon.stop() == 0


def test_a_request_may_ask_not_to_be_continued(daemon: DaemonProcess) -> None:
    """With on_cut: fail a crash in the middle is an error event, and no [DONE]."""
    (stream,) = run_with_a_crash(daemon, [body_for(PROMPTS[0], edge={"on_cut": "fail"})])
    assert not stream.done
    assert stream.error is not None
    assert stream.error["code"] == "worker_crashed"


def test_requests_during_a_restart_wait(start_quick: Start) -> None:
    """They are answered by the new worker; the daemon answers for itself all the time."""
    daemon = start_quick().wait_ready()
    os.kill(daemon.worker_pid, signal.SIGKILL)
    poll(lambda: daemon.get("/health/ready").status_code == 503, "not ready")
    body = body_for(PROMPTS[0])
    (stream,) = run_streams(daemon, [body])
    check_complete(stream, body)
    assert daemon.get("/health/ready").status_code == 200


def test_a_request_that_cannot_be_sent_during_a_restart(start_quick: Start) -> None:
    """What no worker could read is refused at the door, and not found out by the next worker."""
    daemon = start_quick().wait_ready()
    os.kill(daemon.worker_pid, signal.SIGKILL)
    poll(lambda: daemon.get("/health/ready").status_code == 503, "not ready")
    answer = daemon.post("/v1/completions", {"prompt": [10**30]})
    assert answer.status_code == 400
    daemon.wait_ready()


def test_a_crash_of_one_model_is_none_of_another(start: Start) -> None:
    """Each has a worker of its own."""
    daemon = start(preload=("other",), engine__slots=2).wait_ready()
    pids = {name: daemon.status(name)["pid"] for name in (MODEL, "other")}
    body = body_for(PROMPTS[1], model="other")
    with streaming(daemon, [body]) as streams:
        poll(lambda: streams[0].progressed(2), "two tokens")
        kill_worker(daemon)
    check_complete(streams[0], body)
    assert daemon.status("other")["pid"] == pids["other"]
    assert daemon.status("other")["restarts"] == 0
    assert daemon.worker_pid != pids[MODEL]
    assert daemon.stop() == 0
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
