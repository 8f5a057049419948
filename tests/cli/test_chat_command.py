"""`edge chat` against a daemon that plays good and bad streams."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
from click.testing import Result
from fake_daemon import DONE, FakeDaemon, answer, event, text
from pseudo_terminal import Terminal

from edge.cli.chat import Conversation, talk
from edge.cli.client import Client

Run = Callable[..., Result]


def test_answer_is_printed_as_it_is(run: Run, daemon: FakeDaemon) -> None:
    """Off a terminal there is the answer, a last newline, and nothing else."""
    result = run("chat", "hello", "--url", daemon.url)
    assert (result.exit_code, result.output) == (0, "Hello.\n")


def test_options_become_request_fields(run: Run, daemon: FakeDaemon) -> None:
    """What was not asked for is not sent, so that the daemon's defaults hold."""
    run("chat", "hi", "--url", daemon.url)
    options = [
        "--model",
        "tiny",
        "--temperature",
        "0",
        "--max-tokens",
        "9",
        "--system",
        "Be brief.",
    ]
    run("chat", "hi", "--url", daemon.url, *options)
    plain = {"stream": True, "stream_options": {"include_usage": True}}
    question = {"role": "user", "content": "hi"}
    assert daemon.requests[0] == {**plain, "messages": [question]}
    assert daemon.requests[1] == {
        **plain,
        "model": "tiny",
        "temperature": 0,
        "max_tokens": 9,
        "messages": [{"role": "system", "content": "Be brief."}, question],
    }


def test_input_of_a_pipe_is_the_prompt(run: Run, daemon: FakeDaemon) -> None:
    """All of it, lines and all."""
    result = run("chat", "--url", daemon.url, stdin="two\nlines\n")
    assert result.exit_code == 0
    assert daemon.requests[0]["messages"] == [{"role": "user", "content": "two\nlines\n"}]


def test_empty_prompt_is_bad_usage(run: Run, daemon: FakeDaemon) -> None:
    """There is nothing to ask."""
    result = run("chat", "--url", daemon.url, stdin="")
    assert result.exit_code == 2
    assert result.stderr == "Error: the prompt is empty\nTry: edge chat --help\n"
    assert daemon.requests == []


def test_address_comes_from_the_configuration(
    run: Run, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without --url, http.host and http.port say where the daemon is; a proxy is not asked."""
    monkeypatch.setenv("EDGE_HTTP__PORT", str(daemon.port))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert run("chat", "hi").output == "Hello.\n"


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([text("Hel"), text("lo", "stop")], "without [DONE]"),
        ([text("Hel"), text("lo"), DONE], "no finish_reason"),
        ([text("Hello"), b"data: {broken\n\n", DONE], "an event that cannot be read"),
        ([text("Hello"), event(error={"message": "the worker died"})], "the worker died"),
        ([text("Hello"), b'event: error\ndata: {"message": "it broke"}\n\n'], "it broke"),
        ([text("Hello"), event(error={"message": "late", "code": "overloaded"}), DONE], "late"),
    ],
)
def test_unfinished_answer_is_an_error(
    events: list[bytes | None], why: str, run: Run, daemon: FakeDaemon
) -> None:
    """What came is printed, and never as if it were all."""
    daemon.script = [events]
    result = run("chat", "hi", "--url", daemon.url)
    assert result.exit_code == 1
    assert result.stdout == "Hello\n"
    assert result.stderr.startswith("Error: ")
    assert why in result.stderr


def test_connection_cut_inside_the_body_is_an_error(run: Run, daemon: FakeDaemon) -> None:
    """The server promised more bytes than it sent."""
    daemon.promise_more = True
    daemon.script = [[text("Hel"), text("lo", "stop")]]
    result = run("chat", "hi", "--url", daemon.url)
    assert result.exit_code == 1
    assert result.stdout == "Hello\n"
    assert "the answer was cut" in result.stderr


def test_refusal_is_shown_with_what_to_try(run: Run, daemon: FakeDaemon) -> None:
    """The daemon's message, and the command that helps."""
    body = b'{"error": {"message": "no model \'x\'", "type": "t", "code": "model_not_found"}}'
    daemon.refusal = (404, "application/json", body)
    result = run("chat", "hi", "--url", daemon.url, "--model", "x")
    assert result.exit_code == 1
    assert (
        result.stderr == "Error: no model 'x'\nTry: edge status shows the models that are served\n"
    )


@pytest.mark.parametrize(
    "refusal",
    [(502, "text/html", b"<h1>Bad gateway</h1>"), (200, "text/html", b"<h1>Welcome</h1>")],
)
def test_foreign_server_is_recognised(
    refusal: tuple[int, str, bytes], run: Run, daemon: FakeDaemon
) -> None:
    """A web page is no answer, whatever its status says."""
    daemon.refusal = refusal
    result = run("chat", "hi", "--url", daemon.url)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert f"Error: {daemon.url} answered with" in result.stderr


def test_nobody_at_the_address(run: Run, free_port: int) -> None:
    """The address that was tried is named, and how to get a daemon there."""
    result = run("chat", "hi", "--url", f"http://127.0.0.1:{free_port}")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: no answer from http://127.0.0.1:{free_port}\n"
        "Try: edge serve, or name another daemon with --url\n"
    )


@pytest.mark.parametrize(
    "url", ["localhost:8080", "ftp://host", "http://", "http://[::1", "http://[::zz]:1"]
)
def test_bad_address_is_bad_usage(url: str, run: Run) -> None:
    """Refused before anything is sent."""
    result = run("chat", "hi", "--url", url)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")


def test_unicode_line_separators_do_not_split_events(run: Run, daemon: FakeDaemon) -> None:
    """JSON may hold U+2028 and U+0085 as they are; only the newline ends an event."""
    daemon.script = [list(answer("one\u2028two", "\u0085three"))]
    result = run("chat", "hi", "--url", daemon.url)
    assert (result.exit_code, result.stdout) == (0, "one\u2028two\u0085three\n")


def test_ctrl_c_ends_a_single_answer_with_130(daemon: FakeDaemon, state: object) -> None:
    """The daemon sees the connection close, the shell that it was interrupted."""
    daemon.script = [[text("Hel"), None]]
    args = [sys.executable, "-m", "edge", "chat", "hi", "--url", daemon.url]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 3) == b"Hel"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert out == b"\n"
    assert b"Traceback" not in err
    assert daemon.left.wait(20)


def test_conversation_sends_its_history(
    terminal: Callable[..., Terminal], daemon: FakeDaemon
) -> None:
    """Each question goes with all turns before it; Ctrl-D leaves."""
    daemon.script = [list(answer("Hel", "lo.")), list(answer("Ada."))]
    screen = terminal("chat", "--url", daemon.url)
    screen.expect("> ")
    screen.type("hi\n")
    screen.expect("Hello.")
    screen.expect("2 tokens, 31.2 tokens/s, prompt 20, 16 of it cached")
    screen.expect("> ")
    screen.type("who?\n")
    screen.expect("Ada.")
    screen.expect("> ")
    screen.type("\x04")
    screen.rest()
    assert screen.process.wait() == 0
    assert daemon.requests[1]["messages"] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "who?"},
    ]


def test_ctrl_c_stops_the_answer(terminal: Callable[..., Terminal], daemon: FakeDaemon) -> None:
    """What came of the stopped answer stays in the conversation."""
    daemon.script = [[text("Hel"), None], list(answer("Ada."))]
    screen = terminal("chat", "--url", daemon.url)
    screen.expect("> ")
    screen.type("hi\n")
    screen.expect("Hel")
    screen.type("\x03")
    screen.expect("(Ctrl-C again leaves)")
    assert daemon.left.wait(20)
    screen.expect("> ")
    screen.type("who?\n")
    screen.expect("Ada.")
    assert daemon.requests[1]["messages"][1] == {"role": "assistant", "content": "Hel"}


def test_ctrl_c_twice_leaves(
    daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One alone does not, nor do two with a question between them.

    Without a terminal: a signal in the instant before readline waits is seen at the next key only.
    """
    keys: list[str | type[BaseException]] = [KeyboardInterrupt, "hi", *[KeyboardInterrupt] * 2]

    def typed(prompt: str) -> str:
        key = keys.pop(0)
        if isinstance(key, str):
            return key
        raise key

    monkeypatch.setattr("builtins.input", typed)
    with Client(daemon.url) as client:
        talk(Conversation(client, None, {}))
    assert keys == []
    assert capsys.readouterr().out.count("(Ctrl-C again leaves)") == 2


def test_conversation_survives_a_failed_answer(
    terminal: Callable[..., Terminal], daemon: FakeDaemon
) -> None:
    """The error is shown, and the failed turn is not part of the history."""
    daemon.script = [[text("Hel")], list(answer("Ada.", finish_reason="length"))]
    screen = terminal("chat", "--url", daemon.url)
    screen.expect("> ")
    screen.type("hi\n")
    screen.expect("Error: the answer was cut")
    screen.expect("> ")
    screen.type("who?\n")
    screen.expect("stopped at the token limit")
    assert daemon.requests[1]["messages"] == [{"role": "user", "content": "who?"}]


def test_answer_cannot_steer_the_terminal(
    terminal: Callable[..., Terminal], daemon: FakeDaemon
) -> None:
    """Escape sequences in a model's text are shown without their escape."""
    daemon.script = [list(answer("a\x1b]0;owned\x07b\tc"))]
    screen = terminal("chat", "hi", "--url", daemon.url)
    assert "a]0;ownedb" in screen.rest()
    assert screen.process.wait() == 0
