"""Chains over HTTP, against the whole appliance: a picture in, a report out."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from daemon_process import MODEL, DaemonProcess, poll, running
from photographs import PLATE_TEXTS
from seeing_daemon import CHAINS, PLATE, SCENE, install_models

TEXT = base64.b64encode(SCENE).decode()


@pytest.fixture(scope="module")
def seeing(
    tmp_path_factory: pytest.TempPathFactory, default_model_path: Path
) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("chains")
    install_models(folder)
    with running(folder, default_model_path, yaml=CHAINS) as daemon:
        yield daemon


@pytest.fixture
def daemon(seeing: DaemonProcess) -> Iterator[DaemonProcess]:
    seeing.new_log()
    yield seeing
    print(seeing.new_log())  # noqa: T201 - pytest shows it when the test has failed
    seeing.wait_idle()


def post(
    daemon: DaemonProcess, name: str = "line-report", content: bytes = SCENE, **how: Any
) -> httpx.Response:
    headers = {"content-type": "image/jpeg", **how.pop("headers", {})}
    url = f"{daemon.url}/v1/chains/{name}"
    return daemon.http.post(url, content=content, headers=headers, **how)


def ok(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


def test_a_picture_as_it_is(daemon: DaemonProcess) -> None:
    """With its fields in the query; the answer tells what was seen, what was written, by whom."""
    response = post(daemon, params={"line": "A", "shift": "2"})
    answer = ok(response)
    assert (answer["object"], answer["chain"]) == ("chain.report", "line-report")
    assert [one["label"] for one in answer["sighting"]["detections"]] == ["red", "blue"]
    assert answer["text"].strip()
    assert answer["model"] == MODEL
    assert response.headers["x-edge-model"] == MODEL
    assert response.headers["x-edge-route"] == "local"
    assert answer["usage"]["completion_tokens"] <= 16
    assert ok(post(daemon, params={"line": "A", "shift": "2"}))["text"] == answer["text"]


def test_json(daemon: DaemonProcess) -> None:
    """The same picture with the same fields has the same report, byte for byte."""
    plain = ok(post(daemon, params={"line": "A"}))
    answer = ok(daemon.post("/v1/chains/line-report", {"image": TEXT, "line": "A"}))
    assert (answer["text"], answer["sighting"]) == (plain["text"], plain["sighting"])


def test_real_models(daemon: DaemonProcess) -> None:
    """A detector of texts, a reader and a language model, in one request."""
    answer = ok(post(daemon, "plate-report", PLATE))
    texts = {one["text"] for one in answer["sighting"]["detections"]}
    assert texts >= {PLATE_TEXTS[0], PLATE_TEXTS[3]}
    assert answer["text"].strip()


@pytest.mark.parametrize(
    ("name", "how", "status", "param"),
    [
        ("nothing", {}, 404, "chain"),
        ("line-report", {}, 400, "line"),
        ("line-report", {"params": {"line": "A", "lane": "1"}}, 400, "lane"),
        ("line-report", {"params": {"line": "A", "shift": "two"}}, 400, "shift"),
        ("line-report", {"params": {"line": "A"}, "content": b"no"}, 400, None),
        ("line-report", {"params": {"line": "A"}, "content": SCENE[:999]}, 400, None),
        ("line-report", {"params": {"line": "A"}, "content": b""}, 400, None),
        ("line-report", {"headers": {"content-type": "text/plain"}}, 400, "image"),
        (
            "line-report",
            {"content": b"[]", "headers": {"content-type": "application/json"}},
            400,
            None,
        ),
        (
            "line-report",
            {"params": {"line": "A"}, "headers": {"X-Edge-Priority": "high"}},
            400,
            "edge.priority",
        ),
        ("blind", {}, 400, None),
        ("nowhere", {}, 404, None),
        ("speechless", {}, 404, None),
        ("line-report", {"content": bytes(9 * 1024 * 1024)}, 413, None),
    ],
)
def test_refusals(
    daemon: DaemonProcess, name: str, how: dict[str, Any], status: int, param: str | None
) -> None:
    response = post(daemon, name, **how)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    if param is not None:
        assert error["param"] == param


def test_errors_tell_which_half(daemon: DaemonProcess) -> None:
    for name, half in (("nowhere", "looks at the picture"), ("speechless", "writes the text")):
        assert f"`gone`, which {half}: " in post(daemon, name).json()["error"]["message"]


def test_a_deadline(daemon: DaemonProcess) -> None:
    """It is the whole's: what the first half has taken, the second has not."""
    late = {"X-Edge-Deadline-Ms": "1"}
    response = post(daemon, params={"line": "A"}, headers=late)
    assert response.status_code == 408, response.text


def test_kept(daemon: DaemonProcess) -> None:
    """With `Prefer: respond-async` it is asked for as a Response, whose text is the report."""
    live = ok(post(daemon, params={"line": "B"}))
    kept = post(daemon, params={"line": "B"}, headers={"Prefer": "respond-async"})
    assert kept.status_code == 202

    def ended() -> Any:
        found = daemon.get(kept.headers["location"]).json()
        return found if found["status"] == "completed" else None

    found = poll(ended, "a report")
    assert found["output"][0]["content"][0]["text"] == live["text"]
    assert found["result"]["sighting"] == live["sighting"]
    assert found["model"] == "line-report"


def test_once(daemon: DaemonProcess) -> None:
    """With an idempotency key the same request is answered once, and another one refused."""
    key = {"Idempotency-Key": "part 7"}
    first, second = (post(daemon, params={"line": "C"}, headers=key) for _ in range(2))
    assert ok(first) == ok(second)
    assert second.headers["idempotent-replayed"] == "true"
    assert post(daemon, params={"line": "D"}, headers=key).status_code == 422


def test_a_name_that_means_two_things(tmp_path: Path, default_model_path: Path, start: Any) -> None:
    """Over MQTT a chain is asked for where a model is, so that the names have to differ."""
    install_models(tmp_path / "daemon")
    daemon = start(yaml=CHAINS.replace("plate-report", "squares"))
    assert daemon.process.wait(60) == 2
    assert "`chains.squares`: a model" in daemon.log
