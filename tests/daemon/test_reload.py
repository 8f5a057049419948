"""The configuration read anew on SIGHUP, while everything goes on."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import DaemonProcess, poll, running
from fake_cloud import FakeCloud, text_of
from notify_socket import NotifySocket
from streams import body_for, check_complete, streaming


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NotifySocket]:
    listening = NotifySocket(tmp_path_factory.mktemp("systemd") / "notify")
    yield listening
    listening.close()


@pytest.fixture(scope="module")
def daemon(
    tmp_path_factory: pytest.TempPathFactory, quick_model_path: Path, systemd: NotifySocket
) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("reload")
    settings = {"environ": systemd.environ, "engine__context": 4096}
    with running(folder, quick_model_path, **settings) as daemon:
        yield daemon


def configuration(daemon: DaemonProcess) -> dict[str, Any]:
    found: dict[str, Any] = daemon.get("/admin/v1/status").json()["configuration"]
    return found


def reload(daemon: DaemonProcess, systemd: NotifySocket, yaml: str, outcome: str) -> None:
    """Returns when it has happened, and is told."""
    (daemon.folder / "edge.yaml").write_text(yaml)
    counted = f'edge_config_reloads_total{{outcome="{outcome}"}}'
    before = daemon.metrics().get(counted, 0)
    systemd.forget()
    daemon.process.send_signal(signal.SIGHUP)
    poll(lambda: daemon.metrics().get(counted, 0) == before + 1, outcome)
    poll(lambda: "READY=1" in systemd.lines(), "ready again")
    lines = systemd.lines()
    at = lines.index("RELOADING=1")
    assert lines[at + 1].removeprefix("MONOTONIC_USEC=").isdecimal()
    assert at < lines.index("READY=1")


def test_streams_go_on(daemon: DaemonProcess, systemd: NotifySocket) -> None:
    """What is computed is computed to its end; what comes afterwards keeps to the new limits."""
    body = body_for("The sea is", max_tokens=1000)
    with streaming(daemon, [body]) as (stream,):
        poll(lambda: stream.progressed(3), "three tokens")
        reload(daemon, systemd, "limits: {default_max_tokens: 3}", "applied")
        answer = daemon.post("/v1/completions", {"prompt": "The sky is", "ignore_eos": True})
    check_complete(stream, body)
    assert answer.json()["usage"]["completion_tokens"] == 3


def test_what_needs_a_restart_is_said(daemon: DaemonProcess, systemd: NotifySocket) -> None:
    """In the log, to systemd and in the status, until the file is as it was."""
    reload(daemon, systemd, "http: {tls_key: /k}\nlimits: {max_body_mb: 3}", "applied")
    wanted = ["http.tls_key", "limits.max_body_mb"]
    assert configuration(daemon)["needs_restart"] == wanted
    assert "needs a restart: http.tls_key, limits.max_body_mb" in daemon.log
    assert systemd.status().endswith("needs a restart: http.tls_key, limits.max_body_mb")
    reload(daemon, systemd, "", "applied")
    assert configuration(daemon)["needs_restart"] == []


@pytest.mark.parametrize(
    ("yaml", "said"),
    [
        ("http: [", "not valid YAML"),
        ("limits: {max_waitng: 3}", "unknown key"),
        ("routes: {a: [local:nothing-such]}", "which is not installed"),
        ("auth: {required: false}\nroutes: {a: [cloud:nobody]}", "there is no upstream"),
    ],
)
def test_a_broken_file_changes_nothing(
    daemon: DaemonProcess, systemd: NotifySocket, yaml: str, said: str
) -> None:
    """Not even what of it would be right."""
    reload(daemon, systemd, "limits: {default_max_tokens: 4}", "applied")
    reload(daemon, systemd, yaml + "\n", "refused")
    assert said in configuration(daemon)["error"]
    assert f"refused: {configuration(daemon)['error']}" in systemd.status()
    answer = daemon.post("/v1/completions", {"prompt": "The sky is", "ignore_eos": True})
    assert answer.json()["usage"]["completion_tokens"] == 4
    reload(daemon, systemd, "", "applied")
    assert configuration(daemon)["error"] is None


def test_the_file_is_gone(daemon: DaemonProcess, systemd: NotifySocket) -> None:
    """No file is not an empty one: it would open what was closed."""
    (daemon.folder / "edge.yaml").unlink()
    daemon.process.send_signal(signal.SIGHUP)
    poll(lambda: "no such file" in (configuration(daemon)["error"] or ""), "refused")
    reload(daemon, systemd, "", "applied")


def test_doors_are_closed_and_opened(daemon: DaemonProcess, systemd: NotifySocket) -> None:
    """Keys and networks hold from the next request on; the machine's own commands get in."""
    (daemon.folder / "edge.yaml").write_text("auth: {required: true}")
    daemon.process.send_signal(signal.SIGHUP)
    poll(lambda: daemon.get("/v1/models").status_code == 401, "closed")
    own = (daemon.folder / "state" / "keys" / "own").read_text()
    asked = {"Authorization": f"Bearer {own}"}
    assert daemon.http.get(daemon.url + "/v1/models", headers=asked).status_code == 200
    (daemon.folder / "edge.yaml").write_text("http: {allow_ips: [10.1.2.3]}")
    daemon.process.send_signal(signal.SIGHUP)
    poll(lambda: daemon.get("/v1/models").status_code == 403, "not for this address")
    (daemon.folder / "edge.yaml").write_text("")
    daemon.process.send_signal(signal.SIGHUP)
    poll(lambda: daemon.get("/v1/models").status_code == 200, "open")


def test_routes_and_upstreams(daemon: DaemonProcess, systemd: NotifySocket) -> None:
    """A stream from a cloud that is taken away ends whole, and what waited for one that comes
    begins."""
    with FakeCloud() as first, FakeCloud() as second:
        lines = "upstreams: {{one: {{base_url: {}}}}}\nroutes: {{words: [cloud:one]}}\n"
        reload(daemon, systemd, lines.format(first.url), "applied")
        first.fault("slow", delay=0.05)
        body = {"model": "words", "prompt": "x", "max_tokens": 40, "stream": True}
        with daemon.http.stream("POST", daemon.url + "/v1/completions", json=body) as answer:
            told = answer.iter_text()
            heard = next(told)
            reload(daemon, systemd, lines.format(second.url), "applied")
            heard += "".join(told)
        assert heard.rstrip().endswith("data: [DONE]")
        assert heard.count('"text":" w') == 39
        asked = daemon.post("/v1/completions", {"model": "words", "prompt": "x", "max_tokens": 3})
        assert asked.json()["choices"][0]["text"] == text_of(3)
        assert daemon.metrics()['edge_upstream_link_up{upstream="one"}'] == 1
        # Kept while its only target does not answer, and begun when another one is named.
        second.fault("refuse", seconds=600)
        kept = daemon.post(
            "/v1/chat/completions",
            {"model": "words", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3},
            Prefer="respond-async",
        )
        assert kept.status_code == 202
        reload(daemon, systemd, "routes: {words: [local:smollm2-135m-instruct]}", "applied")
        where = kept.headers["location"]
        poll(
            lambda: daemon.get(where).json()["status"] == "incomplete", "answered, up to its limit"
        )
    assert 'edge_upstream_link_up{upstream="one"}' not in daemon.metrics()
    reload(daemon, systemd, "", "applied")


def test_a_storm_of_signals(daemon: DaemonProcess, systemd: NotifySocket) -> None:
    """The last one counts, whatever else is left out."""
    systemd.forget()
    for count in range(300):
        (daemon.folder / "edge.yaml").write_text(f"limits: {{default_max_tokens: {count + 1}}}")
        daemon.process.send_signal(signal.SIGHUP)
    body = {"prompt": "The sky is", "ignore_eos": True}

    def tokens() -> int:
        return int(daemon.post("/v1/completions", body).json()["usage"]["completion_tokens"])

    poll(lambda: tokens() == 300, "the last one")
    assert systemd.lines().count("RELOADING=1") < 30
    reload(daemon, systemd, "", "applied")
