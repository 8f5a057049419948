"""`edge models use` and `rollback` against a daemon that plays its pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from fake_daemon import FakeDaemon

Run = Callable[..., Result]
PLACE = "/admin/v1/models/m/switch"


def progress(state: str, **wanted: Any) -> dict[str, Any]:
    facts = {"name": "m", "version": 2, "previous": 1, "began": 1.0, "state": state}
    figures = {"nats_per_byte": 0.5, "answers": [], "sane": 4}
    facts["new"] = {**figures, "memory_bytes": 3_000_000, "tokens_per_second": 40.0}
    facts["old"] = {**figures, "memory_bytes": 2_000_000, "tokens_per_second": 50.0}
    return facts | wanted


def play(daemon: FakeDaemon, verb: str, begun: dict[str, Any], ended: dict[str, Any]) -> None:
    def page(status: int, facts: Any) -> tuple[int, str, bytes]:
        return (status, "application/json", json.dumps(facts).encode())

    daemon.pages[f"POST /admin/v1/models/m/{verb}"] = page(202, begun)
    daemon.pages[PLACE] = page(200, ended)


def test_the_daemon_that_is_named_is_asked(run: Run, daemon: FakeDaemon) -> None:
    """The states on the way are for whoever waits, the outcome is for programs too."""
    play(daemon, "use", progress("loading"), progress("done"))
    result = run("models", "use", "m@2", "--url", daemon.url)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == ["m@2: loading", "m@2: done"]
    assert result.stdout.splitlines() == [
        "m means version 2 now, and is answered with it.",
        "40 tokens per second, before 50; 3.0 MB, before 2.0 MB",
    ]
    shown = json.loads(run("models", "use", "m@2", "--url", daemon.url, "--json").stdout)
    assert shown["state"] == "done"


def test_waiting_is_told(run: Run, daemon: FakeDaemon) -> None:
    """Where both versions did not fit."""
    play(daemon, "rollback", progress("loading"), progress("done", waited_seconds=4.21))
    result = run("models", "rollback", "m", "--url", daemon.url)
    assert "requests waited 4.2 s" in result.stdout


@pytest.mark.parametrize(
    ("state", "said"), [("refused", "is not used"), ("rolled_back", "was given up again")]
)
def test_a_refusal_is_an_error(state: str, said: str, run: Run, daemon: FakeDaemon) -> None:
    """With the reason, which cannot steer the terminal, and what holds now."""
    play(daemon, "use", progress("canary"), progress(state, reason="it is \x1b[2Jnoise"))
    result = run("models", "use", "m@2", "--url", daemon.url)
    assert result.exit_code == 1
    assert f"Error: m@2 {said}: it is [2Jnoise" in result.stderr
    assert "Try: m is version 1 as before" in result.stderr


@pytest.mark.parametrize("mine", [True, False])
def test_another_store_is_not_this_daemons(
    mine: bool, run: Run, daemon: FakeDaemon, status: dict[str, Any], state: Path, tiny_model: Path
) -> None:
    """A daemon at the usual address is asked only if it serves out of this state directory."""
    path = tiny_model.rename(state / "m.gguf")
    assert run("models", "import", str(path)).exit_code == 0
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert run("models", "import", str(path)).exit_code == 0
    status["models"][0]["name"] = "m"
    status["state_dir"] = str(state.resolve() if mine else state.parent)
    daemon.serve(status)
    play(daemon, "use", progress("loading"), progress("done"))
    configuration = state / "edge.yaml"
    configuration.write_text(f"http: {{port: {daemon.port}}}\n")
    result = run("models", "use", "m@2", "--config", str(configuration))
    assert result.exit_code == 0
    assert ("is answered with it" in result.stdout) == mine
    assert ("from its next start on" in result.stdout) != mine


def test_a_daemon_that_is_not_there(run: Run, daemon: FakeDaemon) -> None:
    """One that was named has to answer."""
    result = run("models", "use", "m@2", "--url", "http://127.0.0.1:9")
    assert result.exit_code == 1
    assert "no answer from" in result.stderr
