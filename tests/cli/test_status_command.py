"""`edge status` against a daemon that plays its status page."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from fake_daemon import FakeDaemon

Run = Callable[..., Result]


def test_people_get_aligned_lines(run: Run, daemon: FakeDaemon, status: dict[str, Any]) -> None:
    """Device, age and address, then one line for each model."""
    daemon.serve(status)
    result = run("status", "--url", daemon.url)
    assert result.exit_code == 0
    first, heading, model = result.output.splitlines()
    assert first == f"edge 0.1.0 on press-07 (hall 2), up 2 h 3 min, {daemon.url}"
    assert (
        " ".join(heading.split()) == "MODEL STATE BACK END BUSY WAITING CONTEXT KV PREFIXES MEMORY"
    )
    assert " ".join(model.split()) == "tiny ready CPU 2 of 8 3 2048 25% 12, 150.0 MB 910.0 MB"
    assert heading.index("STATE") == model.index("ready")


@pytest.mark.parametrize(
    ("layers", "shown"), [(23, "CUDA, 23 of 23 layers"), (9, "CUDA, 9 of 23 layers"), (0, "CPU")]
)
def test_gpu_is_named_only_with_layers_on_it(
    layers: int, shown: str, run: Run, daemon: FakeDaemon, status: dict[str, Any]
) -> None:
    """A CUDA build that offloads nothing computes on the CPU, and is called so."""
    status["models"][0]["facts"] |= {"backend": "cuda", "gpu_layers": layers}
    daemon.serve(status)
    output = run("status", "--url", daemon.url).output
    assert shown in output
    assert ("CUDA" in output) == (layers > 0)


def test_failed_model_shows_why(run: Run, daemon: FakeDaemon, status: dict[str, Any]) -> None:
    """Its state and its error, with nothing that steers the terminal, and no figures."""
    failed = {"name": "big", "state": "failed", "error": "out of\x1b[2J memory", "restarts": 2}
    status["models"].append({**failed, "facts": None, "stats": None})
    daemon.serve(status)
    lines = run("status", "--url", daemon.url).output.splitlines()
    assert " ".join(lines[3].split()) == "big failed, 2 restarts - - - - - - -"
    assert lines[4] == "big: out of[2J memory"


def test_what_a_reload_could_not_apply(
    run: Run, daemon: FakeDaemon, status: dict[str, Any]
) -> None:
    """Keys that wait for a restart, and why a file was refused; nothing where all is in force."""
    keys = ["engine.slots", "http.port"]
    status["configuration"] = {"at": 1.0, "needs_restart": keys, "error": "e.yaml:3: no\x1b[2J"}
    daemon.serve(status)
    lines = run("status", "--url", daemon.url).output.splitlines()
    assert lines[-2:] == [
        "configuration: needs a restart: engine.slots, http.port",
        "configuration: refused, nothing has changed: e.yaml:3: no[2J",
    ]


def test_model_that_drafts_is_named(run: Run, daemon: FakeDaemon, status: dict[str, Any]) -> None:
    """It is not served, and so has no line in the table."""
    status["models"][0]["facts"] |= {"draft_model": "tinier"}
    daemon.serve(status)
    assert run("status", "--url", daemon.url).output.splitlines()[-1] == (
        "tiny: tinier drafts for it"
    )


def test_upstreams_have_a_table_of_their_own(
    run: Run, daemon: FakeDaemon, status: dict[str, Any]
) -> None:
    """Breaker, link, speed, and why one is not asked."""
    near = {"name": "near", "model": "m", "base_url": "http://near/v1", "state": "closed"}
    far = {**near, "name": "far", "state": "half_open", "link": "down", "reason": "failed lately"}
    status["upstreams"] = [
        {**near, "link": "up", "latency_seconds": 0.25, "reason": None},
        {**far, "latency_seconds": None},
    ]
    daemon.serve(status)
    output = run("status", "--url", daemon.url).output
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert lines[3:] == [
        "UPSTREAM MODEL BREAKER LINK FIRST TOKEN",
        "near m closed up 0.25 s",
        "far m half-open down - failed lately",
    ]


def test_programs_get_what_the_daemon_sent(
    run: Run, daemon: FakeDaemon, status: dict[str, Any]
) -> None:
    """Fields that this version does not know are kept."""
    status["later"] = {"queue": 3}
    daemon.serve(status)
    result = run("status", "--url", daemon.url, "--json")
    assert result.exit_code == 0
    assert json.loads(result.output) == status


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_foreign_page_is_an_error(flags: tuple[str, ...], run: Run, daemon: FakeDaemon) -> None:
    """Another program's page under the same address is not taken for a status."""
    daemon.pages["/admin/v1/status"] = (200, "text/html", b"<h1>Welcome</h1>")
    result = run("status", "--url", daemon.url, *flags)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: {daemon.url} answered with")


def test_nobody_at_the_address(run: Run, free_port: int) -> None:
    """The same words as everywhere."""
    result = run("status", "--url", f"http://127.0.0.1:{free_port}")
    assert result.exit_code == 1
    assert "Try: edge serve" in result.stderr


def test_port_that_only_the_daemon_knows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With http.port 0 the address has to be given."""
    monkeypatch.setenv("EDGE_HTTP__PORT", "0")
    result = run("status")
    assert result.exit_code == 2
    assert "--url" in result.stderr


def test_onnx_models_have_a_table_of_their_own(
    run: Run, daemon: FakeDaemon, status: dict[str, Any]
) -> None:
    """With what they share below it, and why one of them is failed."""
    facts = {
        "name": "cats",
        "version": 2,
        "task": "classify",
        "inputs": [],
        "outputs": [],
        "provider": "cuda",
        "max_batch": 8,
        "size_bytes": 1,
        "load_seconds": 0.1,
        "memory_bytes": 40_000_000,
    }
    loaded = [{"facts": facts, "users": 3, "predicted_bytes": 60_000_000}]
    cats = {"name": "cats", "task": "classify", "versions": [1, 2], "state": "ready"}
    bad = {"name": "bad", "task": None, "versions": [], "state": "failed"}
    status["onnx"] = {
        "worker": {
            "pid": 7,
            "restarts": 1,
            "live": 0,
            "computing": 0,
            "onnxruntime": "1.23",
            "providers": [],
            "memory_bytes": 1,
            "taken_bytes": 90_000_000,
            "promised_bytes": 124_000_000,
        },
        "models": [
            {**cats, "error": None, "loaded": loaded},
            {**bad, "error": "cut\x1b[2J file", "loaded": []},
        ],
    }
    daemon.serve(status)
    lines = [
        " ".join(line.split()) for line in run("status", "--url", daemon.url).output.split("\n")
    ]
    assert lines[3] == "ONNX MODEL TASK STATE VERSIONS PROVIDER BATCH USERS MEMORY"
    assert lines[4] == "cats classify ready 1, 2* CUDA 8 3 40.0 MB"
    assert lines[5] == "bad - failed - - - - -"
    assert lines[6] == (
        "onnxruntime 1.23, 1 restarts: predicted to take 124.0 MB, took 90.0 MB so far"
    )
    assert lines[7] == "bad: cut[2J file"


def test_machine_with_its_heat_and_power(
    run: Run, daemon: FakeDaemon, status: dict[str, Any]
) -> None:
    """Board, trip points once for all zones that share them, rails; the unknown in words."""
    trips = {"throttles_at": 99.0, "shuts_down_at": 104.5}
    status["host"] = {
        "identity": {
            "board": "NVIDIA Jetson AGX Orin Developer Kit",
            "jetson": True,
            "jetpack": "6.2",
            "l4t": "36.4.3",
            "cuda": None,
            "mode": {"id": 2, "name": "30W"},
        },
        "clocks": {"gpu": {"load": 0.43, "hertz": 1, "max_hertz": 2}},
        "temperatures": {
            "cpu-thermal": {"celsius": 51.25, **trips},
            "cv0-thermal": {"celsius": None, **trips},
            "board": {"celsius": 40.0},
        },
        "throttling": ["gpu-throttle-alert"],
        "power": {"rails": {"VDD_IN": 14.2, "VDD_SOC": None}, "total": 14.2, "joules": 1234.5},
    }
    status["energy"] = {
        "requests": 200.4,
        "unshared": 1034.1,
        "models": {
            "tiny": {"joules": 180.0, "joules_per_token": 0.3214},
            "minilm": {"joules": 20.4, "joules_per_token": None},
        },
    }
    daemon.serve(status)
    lines = run("status", "--url", daemon.url).output.splitlines()
    assert lines[1:6] == [
        "board: NVIDIA Jetson AGX Orin Developer Kit, JetPack 6.2 (L4T 36.4.3), CUDA unknown, "
        "mode 30W, GPU 43%",
        "temperatures: cpu-thermal 51.2 °C, cv0-thermal unknown (slowed down from 99.0 °C, "
        "off at 104.5 °C); board 40.0 °C",
        "power: 14.2 W (VDD_IN 14.2 W, VDD_SOC unknown); 1234 J since the start",
        "too hot: slowed down by gpu-throttle-alert",
        "energy: 200 J for requests, 1034 J beside them; tiny 0.321 J a token",
    ]


def test_machine_that_shows_nothing(run: Run, daemon: FakeDaemon, status: dict[str, Any]) -> None:
    """Says so: unknown is neither cool nor without power."""
    status["host"] = {"identity": None, "temperatures": None, "throttling": None, "power": None}
    daemon.serve(status)
    lines = run("status", "--url", daemon.url).output.splitlines()
    assert lines[1:4] == ["board: unknown", "temperatures: unknown", "power: unknown"]


def test_what_is_held_back_and_why(run: Run, daemon: FakeDaemon, status: dict[str, Any]) -> None:
    """Nothing is said while nothing is."""
    held: dict[str, Any] = {
        "level": "no_batch",
        "number": 2,
        "reason": "heat",
        "text": "the machine is at 93.5 °C and slows down at 99 °C: batch work waits",
        "since_seconds": 3.0,
        "changes": 2,
        "near": None,
        "watts": None,
        "budget_watts": None,
    }
    status["heat"] = held
    daemon.serve(status)
    lines = run("status", "--url", daemon.url).output.splitlines()
    assert f"no_batch: {held['text']}" in lines
    status["heat"] = {**held, "level": "normal", "number": 0, "text": "nothing is held back"}
    daemon.serve(status)
    assert "held back" not in run("status", "--url", daemon.url).output


def test_heat_that_is_coming(run: Run, daemon: FakeDaemon, status: dict[str, Any]) -> None:
    """One line while nothing is slowed down yet."""
    status["host"] = {"expected": {"zone": "gpu-thermal", "seconds": 84.6}}
    daemon.serve(status)
    lines = run("status", "--url", daemon.url).output.splitlines()
    assert lines[4] == "at this rate gpu-thermal is slowed down in 85 s"


def test_work_that_is_kept(run: Run, daemon: FakeDaemon, status: dict[str, Any]) -> None:
    """How much, where it waits and for how long, and what others have not got; else no line."""
    nothing = {"queued": 0, "running": 0, "max_jobs": 10, "max_bytes": 1_000_000}
    status["queue"] = nothing
    daemon.serve(status)
    assert len(run("status", "--url", daemon.url).output.splitlines()) == 3
    waiting = {"queued": 3, "lines": {"auto big": 2, "local\x1b[2J": 1}, "oldest_seconds": 61.5}
    owed = {"replies": 4, "webhooks": 0, "reports": 5, "batches": 1}
    status["queue"] = {**nothing, **waiting, **owed, "running": 1, "bytes": 20_000}
    daemon.serve(status)
    assert run("status", "--url", daemon.url).output.splitlines()[1:4] == [
        "queue: 1 running, 3 waiting (2 for auto big, 1 for local[2J), longest for 1 min 1 s; "
        "20 kB of 1.0 MB, 4 of 10 requests",
        "to be sent: 4 replies over MQTT, 5 reports of finished work",
        "batches under way: 1",
    ]
    status["queue"] = {"error": "jobs.sqlite is damaged"}
    daemon.serve(status)
    assert "queue: jobs.sqlite is damaged" in run("status", "--url", daemon.url).output


def test_the_broker(run: Run, daemon: FakeDaemon, status: dict[str, Any]) -> None:
    """Connected for how long, or why not."""
    where = {"host": "10.0.0.5", "port": 8883, "since": time.time() - 7260}
    for more, shown in (
        ({"version": "5", "connects": 1}, "MQTT 5, for 2 h 1 min"),
        ({"reason": "timed\x1b[2J out"}, "not connected for 2 h 1 min: timed[2J out"),
        ({"since": None}, "not connected"),
    ):
        status["broker"] = {**where, **more}
        daemon.serve(status)
        line = run("status", "--url", daemon.url).output.splitlines()[1]
        assert line == f"mqtt: 10.0.0.5:8883, {shown}"
