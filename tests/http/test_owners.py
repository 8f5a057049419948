"""What is kept is its key's own: files, batches, Responses; and batches keep to the key's scope."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from daemon_process import MODEL, PATIENCE, DaemonProcess, Start, poll, running

from edge.access.meter import day_of
from edge.store.usage import usage_in

TEXT = {"prompt": "The sea is", "max_tokens": 4, "temperature": 0}
BATCH = {"endpoint": "/v1/completions", "completion_window": "24h"}
ENDED = ("completed", "failed", "expired", "cancelled")

MakeKey = Callable[..., "Caller"]


class Caller:
    """One program with one key, or with none."""

    def __init__(self, daemon: DaemonProcess, token: str | None) -> None:
        self._daemon = daemon
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = self._headers | more.pop("headers", {})
        url = self._daemon.url + path
        return self._daemon.http.request(method, url, headers=headers, **more)

    def get(self, path: str) -> httpx.Response:
        return self.send("GET", path)

    def json(self, method: str, path: str, **more: Any) -> Any:
        answer = self.send(method, path, **more)
        assert answer.status_code in (200, 202), answer.text
        return answer.json()

    def upload(self, *bodies: dict[str, Any]) -> str:
        lines = [
            {"custom_id": str(number), "method": "POST", "url": BATCH["endpoint"], "body": body}
            for number, body in enumerate(bodies)
        ]
        data = "\n".join(json.dumps(line) for line in lines)
        files = {"file": ("input.jsonl", data)}
        form = {"purpose": "batch"}
        return str(self.json("POST", "/v1/files", files=files, data=form)["id"])

    def batch(self, *bodies: dict[str, Any], **headers: str) -> Any:
        body = {**BATCH, "input_file_id": self.upload(*bodies)}
        return self.json("POST", "/v1/batches", json=body, headers=headers)

    def ended(self, batch: Any) -> Any:
        path = f"/v1/batches/{batch['id']}"
        return poll(lambda: (b := self.get(path).json())["status"] in ENDED and b, "a batch")

    def lines(self, file_id: str) -> list[Any]:
        text = self.get(f"/v1/files/{file_id}/content").text
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("owners")


@pytest.fixture(scope="module")
def before(state: Path, quick_model_path: Path) -> dict[str, str]:
    """What was made by the same appliance while no keys were needed: ids by what they are of."""
    with running(state, quick_model_path) as daemon:
        caller = Caller(daemon, "whatever an SDK sends")
        batch = caller.batch(TEXT)
        kept = caller.json(
            "POST", "/v1/completions", json=TEXT, headers={"Prefer": "respond-async"}
        )
        caller.ended(batch)
        return {
            "files": batch["input_file_id"],
            "batches": batch["id"],
            "responses": kept["id"],
        }


@pytest.fixture(scope="module")
def guarded(state: Path, before: dict[str, str], quick_model_path: Path) -> Iterator[DaemonProcess]:
    with running(state, quick_model_path, auth__required="true") as daemon:
        yield daemon


def edge(folder: Path, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "edge", *arguments, "--json"],
        env={**os.environ, "EDGE_STATE_DIR": str(folder / "state")},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def make(guarded: DaemonProcess) -> MakeKey:
    def make(name: str, *arguments: str) -> Caller:
        return Caller(guarded, edge(guarded.folder, "keys", "add", name, *arguments)["key"])

    return make


@pytest.fixture(scope="module")
def mine(make: MakeKey) -> Caller:
    return make("mine")


@pytest.fixture(scope="module")
def other(make: MakeKey) -> Caller:
    return make("other")


@pytest.fixture(scope="module")
def boss(make: MakeKey) -> Caller:
    return make("boss", "--admin")


def test_another_key_finds_nothing_of_it(mine: Caller, other: Caller, boss: Caller) -> None:
    """Not to read, not to list, not to cancel, not to use; an administrator's no more."""
    batch = mine.ended(mine.batch(TEXT))
    kept = mine.json("POST", "/v1/completions", json=TEXT, headers={"Prefer": "respond-async"})
    file, output = batch["input_file_id"], batch["output_file_id"]
    routes = [
        *(("GET", f"/v1/files/{one}{end}") for one in (file, output) for end in ("", "/content")),
        *(("DELETE", f"/v1/files/{one}") for one in (file, output)),
        ("GET", f"/v1/batches/{batch['id']}"),
        ("POST", f"/v1/batches/{batch['id']}/cancel"),
        ("GET", f"/v1/responses/{kept['id']}"),
        ("POST", f"/v1/responses/{kept['id']}/cancel"),
    ]
    for stranger in (other, boss):
        for method, path in routes:
            answer = stranger.send(method, path)
            never = path.replace(path.split("/")[3][-8:], "00000000")
            absent = stranger.send(method, never)
            assert answer.status_code == absent.status_code == 404, path
            assert answer.json()["error"]["code"] == absent.json()["error"]["code"]
        assert stranger.json(
            "POST", "/v1/files", files={"file": ("x", "{}")}, data={"purpose": "batch"}
        )
        seen = stranger.get("/v1/files").text + stranger.get("/v1/batches").text
        assert not [one for one in (file, output, batch["id"]) if one in seen]
        theirs = {**BATCH, "input_file_id": file}
        assert stranger.send("POST", "/v1/batches", json=theirs).status_code == 404
    assert {one["id"] for one in mine.get("/v1/files").json()["data"]} == {file, output}
    assert [one["id"] for one in mine.get("/v1/batches").json()["data"]] == [batch["id"]]
    for method, path in routes[:2] + routes[6:7] + routes[8:9]:
        assert mine.send(method, path).status_code == 200, path


def test_an_administrator_looks_after_all(mine: Caller, boss: Caller) -> None:
    kept = mine.json("POST", "/v1/completions", json=TEXT, headers={"Prefer": "respond-async"})
    batch = mine.batch(TEXT)
    jobs = boss.json("GET", "/admin/v1/jobs")["jobs"]
    assert kept["id"] in {f"resp_{job['id']}" for job in jobs}
    owners = {
        kind: {one["id"]: one["owner"] for one in boss.json("GET", f"/admin/v1/{kind}")[kind]}
        for kind in ("batches", "files")
    }
    file = batch["input_file_id"]
    assert (owners["batches"][batch["id"]], owners["files"][file]) == ("mine", "mine")
    boss.json("POST", f"/admin/v1/batches/{batch['id']}/cancel")
    mine.ended(batch)
    boss.json("DELETE", f"/admin/v1/files/{file}")
    assert mine.get(f"/v1/files/{file}").status_code == 404


def test_keys_of_idempotency_are_each_callers_own(mine: Caller, other: Caller) -> None:
    named = {"Idempotency-Key": "monday"}
    first, second = mine.batch(TEXT, **named), other.batch(TEXT, **named)
    assert first["id"] != second["id"]
    body = {**BATCH, "input_file_id": first["input_file_id"]}
    again = mine.json("POST", "/v1/batches", json=body, headers=named)
    assert again["id"] == first["id"]


def test_what_was_made_without_keys_is_the_administrators(
    before: dict[str, str], mine: Caller, boss: Caller
) -> None:
    for kind, number in before.items():
        assert mine.get(f"/v1/{kind}/{number}").status_code == 404
        assert boss.get(f"/v1/{kind}/{number}").status_code == 200


def test_a_batch_keeps_to_the_scope_of_its_key(make: MakeKey) -> None:
    """Line by line; what it may is answered, and its tokens are counted."""
    narrow = make("narrow", "--model", MODEL, "--local-only")
    good, other = {**TEXT, "model": MODEL}, {**TEXT, "model": "gemma"}
    cloud = {**TEXT, "edge": {"route": "cloud"}}
    batch = narrow.ended(narrow.batch(good, other, cloud))
    assert (batch["request_counts"]["completed"], batch["request_counts"]["failed"]) == (1, 2)
    (answered,) = narrow.lines(batch["output_file_id"])
    refused = [line["response"] for line in narrow.lines(batch["error_file_id"])]
    codes = [(one["status_code"], one["body"]["error"]["code"]) for one in refused]
    assert codes == [(403, "permission_denied")] * 2
    used, usage = narrow.get("/v1/usage").json(), answered["response"]["body"]["usage"]
    assert used["prompt_tokens"] + used["completion_tokens"] == usage["total_tokens"]
    urgent = make("urgent", "--priority", "normal")
    body = {**BATCH, "input_file_id": urgent.upload(TEXT)}
    assert urgent.send("POST", "/v1/batches", json=body).status_code == 403


def test_a_batch_waits_while_its_key_has_no_tokens_left(
    make: MakeKey, guarded: DaemonProcess
) -> None:
    """And fails when the key is taken away: nothing more is answered in its name."""
    poor = make("poor", "--tokens-per-day", "1")
    number = poor.upload(*[TEXT] * 80)
    batch = poor.json("POST", "/v1/batches", json={**BATCH, "input_file_id": number})
    path = f"/v1/batches/{batch['id']}"

    def done() -> int:
        return int(poor.get(path).json()["request_counts"]["completed"])

    poll(lambda: done() >= 64, "the first window of it")
    time.sleep(2.5)  # more than two of the batcher's ticks
    assert (done(), poor.get(path).json()["status"]) == (64, "in_progress")
    edge(guarded.folder, "keys", "rm", "poor")
    poll(lambda: "no key 'poor'" in guarded.log, "a batch without a key")
    again = Caller(guarded, edge(guarded.folder, "keys", "add", "poor")["key"])
    failed = again.ended(batch)
    assert (failed["status"], failed["request_counts"]["completed"]) == ("failed", 64)
    assert failed["errors"]["data"][0]["code"] == "invalid_api_key"


def test_what_was_used_outlives_a_kill(start_quick: Start) -> None:
    """But for what was used in the last seconds before it; the command reads it from the file."""
    daemon = start_quick(auth__required="true").wait_ready()
    made = edge(daemon.folder, "keys", "add", "line1", "--expires", "1h")
    caller = Caller(daemon, made["key"])
    used = caller.json("POST", "/v1/completions", json=TEXT)["usage"]

    ledger, today = daemon.folder / "state" / "jobs.sqlite", day_of(time.time())
    poll(lambda: usage_in(ledger, today), "what was used, on disk")
    daemon.process.kill()
    daemon.process.wait(PATIENCE)
    (key,) = edge(daemon.folder, "keys", "list")
    assert key["today"]["completion_tokens"] == used["completion_tokens"]
    caller = Caller(start_quick(auth__required="true").wait_ready(), made["key"])
    found = caller.json("GET", "/v1/usage")
    assert (found["requests"], found["prompt_tokens"]) == (1, used["prompt_tokens"])
    assert (found["running"], found["days"]) == (0, [])
