"""Energy as callers see it: a real daemon whose rails are files, and draw what the test says."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon_process import MODEL, DaemonProcess, Start, poll, running
from openai import OpenAI
from recorded_trees import lay_out

from edge.access.keyring import Keyring

BODY = {
    "messages": [{"role": "user", "content": "Say something."}],
    "max_tokens": 16,
    "ignore_eos": True,
    "temperature": 0,
}
RAILS = {"VDD_IN": 4.984 * 5.2, "VDD_CPU_GPU_CV": 4.976 * 3.504, "VDD_SOC": 4.976 * 0.848}
"""Watts of the recorded board; the first is the whole module's input."""

TOTAL = "edge_energy_joules_total"
UNSHARED = "edge_energy_unshared_joules_total"


def of_model(name: str) -> str:
    return f'{name}{{model="{MODEL}"}}'


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out("orin-nx-jetpack6", tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def daemon(
    board: Path, quick_model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DaemonProcess]:
    """One for all that is asked of a board whose power is known, and then is not."""
    folder = tmp_path_factory.mktemp("energy")
    with running(folder, quick_model_path, host_root=board, cache__enabled="true") as daemon:
        daemon.wait_ready()
        # The stretch that ends with the second sample.
        poll(lambda: daemon.metrics().get(TOTAL), "the power of a stretch")
        yield daemon


def ask(daemon: DaemonProcess, cached: bool = False, **fields: Any) -> dict[str, Any]:
    answer = daemon.post("/v1/chat/completions", {**BODY, "edge": {"cache": cached}, **fields})
    assert answer.status_code == 200, answer.text
    edge: dict[str, Any] = answer.json()["edge"]
    return edge


def billed(daemon: DaemonProcess, requests: int) -> dict[str, float]:
    """The metrics, once so many requests were billed since the start."""

    def there() -> dict[str, float] | None:
        metrics = daemon.metrics()
        name = of_model("edge_request_energy_joules_count")
        return metrics if metrics.get(name) == requests else None

    return poll(there, f"{requests} bills")


def check_rails(edge: dict[str, Any], watts: dict[str, float]) -> None:
    """Each rail took as much as it drew in the seconds that the request was computed."""
    seconds = edge["energy_joules"] / watts["VDD_IN"]
    assert 0 < seconds < 60
    assert edge["rails_joules"].keys() == watts.keys()
    for rail, joules in edge["rails_joules"].items():
        assert joules == pytest.approx(watts[rail] * seconds, rel=0.05, abs=2e-4), rail


def test_answers_tell_what_they_took_and_the_books_balance(daemon: DaemonProcess) -> None:
    """With a constant power the estimate of an answer is what is billed later; what was billed and
    what was left is what was measured."""
    edges = [ask(daemon), ask(daemon, n=2)]
    for edge in edges:
        check_rails(edge, RAILS)
    metrics = billed(daemon, 3)
    told = sum(edge["energy_joules"] for edge in edges)
    assert metrics[of_model("edge_request_energy_joules_sum")] == pytest.approx(told, abs=1e-3)
    per_token = metrics[of_model("edge_token_energy_joules_sum")]
    assert per_token == pytest.approx(told / 16, abs=1e-3)

    def balanced() -> bool:
        found = daemon.metrics()
        parts = found[of_model("edge_model_energy_joules_total")] + found[UNSHARED]
        return abs(parts - found[TOTAL]) < 1e-6 * found[TOTAL]

    poll(balanced, "books that balance")
    facts = daemon.get("/admin/v1/status").json()["energy"]
    assert facts["models"][MODEL]["joules"] == pytest.approx(told, abs=2e-3)
    assert facts["models"][MODEL]["joules_per_token"] == pytest.approx(told / 48, rel=0.01)
    rails = {
        name: joules
        for name, joules in daemon.metrics().items()
        if name.startswith("edge_rail_energy_joules_total")
    }
    assert len(rails) == 3


def test_streams_and_responses_tell_it_at_their_end(daemon: DaemonProcess) -> None:
    """In the chunk with the usage, and in the Response; the SDK leaves both alone."""
    client = OpenAI(base_url=f"{daemon.url}/v1", api_key="none")
    asked: dict[str, Any] = {"model": MODEL, "messages": BODY["messages"], "max_tokens": 8, "n": 2}
    stream = client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    last = list(stream)[-1]
    assert last.usage is not None
    assert last.model_extra is not None
    check_rails(last.model_extra["edge"], RAILS)
    response = client.responses.create(model=MODEL, input="Hello", max_output_tokens=8)
    assert response.usage is not None
    assert response.model_extra is not None
    check_rails(response.model_extra["edge"], RAILS)
    events = client.responses.create(model=MODEL, input="Hi", max_output_tokens=8, stream=True)
    end = list(events)[-1].response  # type: ignore[union-attr]
    assert end.model_extra is not None
    check_rails(end.model_extra["edge"], RAILS)


def test_kept_answer_takes_nothing(daemon: DaemonProcess) -> None:
    """It was computed for another request."""
    first = ask(daemon, cached=True)
    assert first["route"] == "local"
    check_rails(first, RAILS)
    second = ask(daemon, cached=True)
    assert (second["route"], second["energy_joules"]) == ("cache", 0.0)


def test_job_that_was_kept_tells_it_too(daemon: DaemonProcess) -> None:
    """Its answer is in the ledger with what it took."""
    body = {"model": MODEL, "input": "Hello", "max_output_tokens": 8, "background": True}
    number = daemon.post("/v1/responses", body).json()["id"]

    def done() -> dict[str, Any] | None:
        found: dict[str, Any] = daemon.get(f"/v1/responses/{number}").json()
        return found if found["status"] in ("completed", "incomplete") else None

    check_rails(poll(done, "the answer")["edge"], RAILS)


def test_power_that_changes_is_in_the_next_requests(daemon: DaemonProcess, board: Path) -> None:
    """The rails' parts are those that they drew while it was computed."""
    check_rails(ask(daemon), RAILS)
    (board / "sys/class/hwmon/hwmon1/curr3_input").write_text("3504\n")
    changed = RAILS | {"VDD_SOC": RAILS["VDD_CPU_GPU_CV"]}
    name = 'edge_power_watts{rail="VDD_SOC"}'
    poll(lambda: daemon.metrics()[name] == pytest.approx(changed["VDD_SOC"]), "the new power")

    def seen() -> dict[str, Any] | None:
        """An answer's estimate knows it once a computation was measured from end to end."""
        edge = ask(daemon)
        rails = edge["rails_joules"]
        return edge if rails["VDD_SOC"] > 0.9 * rails["VDD_CPU_GPU_CV"] else None

    check_rails(poll(seen, "the new power in an answer"), changed)


def test_unknown_power_is_null(daemon: DaemonProcess, board: Path) -> None:
    """Never 0, once nothing measures any more. The last test of this daemon."""
    shutil.rmtree(board / "sys")
    poll(lambda: TOTAL not in daemon.metrics(), "no power")
    edge = ask(daemon)
    assert (edge["energy_joules"], edge["rails_joules"]) == (None, None)
    assert UNSHARED in daemon.metrics()  # what was measured before


def test_machine_that_measures_nothing(start_quick: Start, tmp_path: Path) -> None:
    """As above from the beginning."""
    (tmp_path / "board").mkdir()
    daemon = start_quick(host_root=tmp_path / "board").wait_ready()
    assert ask(daemon)["energy_joules"] is None
    assert daemon.get("/admin/v1/status").json()["energy"] is None
    assert UNSHARED not in daemon.metrics()


def test_key_is_told_what_was_used_for_it(start_quick: Start, tmp_path: Path) -> None:
    """On this day, as soon as it is billed."""
    board = lay_out("orin-nx-jetpack6", tmp_path / "board")
    daemon = start_quick(host_root=board, auth__required="true").wait_alive()
    token = Keyring(daemon.folder / "state" / "keys").add("press")
    headers = {"Authorization": f"Bearer {token}"}

    def used() -> float | None:
        body = {"prompt": "Hello", "max_tokens": 4}
        daemon.http.post(f"{daemon.url}/v1/completions", json=body, headers=headers)
        answer = daemon.http.get(f"{daemon.url}/v1/usage", headers=headers)
        joules: float | None = answer.json().get("energy_joules")
        return joules

    assert poll(used, "energy of the key") > 0
