"""What a running appliance writes into its audit log, and that a kill leaves it whole."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any

import httpx
from daemon_process import DaemonProcess, Start, poll

from edge.access.keyring import Keyring
from edge.audit.folder import Folder
from edge.audit.log import Bounds, Log
from edge.audit.verify import verify

BODY = {"prompt": "The sea is", "max_tokens": 4}
CHAT = {"messages": [{"role": "user", "content": "My secret is"}], "max_tokens": 4}


def events(daemon: DaemonProcess) -> list[dict[str, Any]]:
    files = Folder(daemon.folder / "state").files()
    return [
        json.loads(line)
        for file in files
        for line in file.path.read_bytes().splitlines(keepends=True)
        if line.endswith(b"}\n")
    ]


def one(daemon: DaemonProcess, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The one event that is wanted, once it is there."""
    found: list[dict[str, Any]] = poll(
        lambda: [event for event in events(daemon) if wanted(event)], "an event"
    )
    assert len(found) == 1, found
    return found[0]


def with_key(daemon: DaemonProcess, token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_who_asked_what_is_written_down(start_quick: Start) -> None:
    """Answers, kept ones too, refusals, administration and keys, each once and without content."""
    daemon = start_quick(auth__required="true").wait_alive()
    keyring = Keyring(daemon.folder / "state" / "keys")
    press = with_key(daemon, keyring.add("press"))
    one(daemon, lambda event: event["what"] == "key added" and event["detail"] == "press")
    poll(lambda: httpx.get(f"{daemon.url}/health/ready").status_code == 200, "ready")

    def post(path: str, body: Any, **headers: str) -> httpx.Response:
        return httpx.post(daemon.url + path, json=body, headers={**press, **headers}, timeout=90)

    assert post("/v1/chat/completions", CHAT).status_code == 200
    chat = one(daemon, lambda event: event["what"] == "chat")
    assert (chat["who"], chat["from"], chat["door"]) == ("press", "127.0.0.1", "http")
    assert (chat["status"], chat["route"], chat["completion_tokens"]) == ("ok", "local", 4)
    assert chat["answered_by"] == daemon.default
    assert "content" not in chat

    assert post("/v1/completions", BODY, Prefer="respond-async").status_code == 202
    kept = one(daemon, lambda event: event["what"] == "completion")
    assert (kept["who"], kept["status"]) == ("press", "ok")
    accepted = one(daemon, lambda event: event["what"] == "http" and event["status"] == "202")
    assert accepted["detail"] == f"POST /v1/completions /v1/responses/resp_{kept['id']}"

    assert post("/v1/chat/completions", {**CHAT, "model": "other"}).status_code == 404
    one(daemon, lambda event: event.get("status") == "model_not_found" and event["who"] == "press")
    assert post("/admin/v1/models/other/use", {"version": 1}).status_code == 403
    refused = one(daemon, lambda event: event.get("status") == "403")
    assert (refused["who"], refused["status"]) == ("press", "403")
    assert httpx.get(f"{daemon.url}/v1/models").status_code == 401
    nobody = one(daemon, lambda event: event.get("status") == "401")
    assert (nobody.get("who", ""), nobody["from"]) == ("", "127.0.0.1")
    assert httpx.get(f"{daemon.url}/v1/files", headers=press).status_code == 200
    one(daemon, lambda event: event.get("detail") == "GET /v1/files")
    daemon.process.send_signal(signal.SIGHUP)
    assert one(daemon, lambda event: event["what"] == "reload")["status"] == "applied"
    keyring.remove("press")
    one(daemon, lambda event: event["what"] == "key removed" and event["detail"] == "press")
    assert daemon.stop() == 0
    assert events(daemon)[-1]["what"] == "stop"
    assert b"secret" not in b"".join(
        path.read_bytes() for path in (daemon.folder / "state" / "audit").iterdir()
    )
    folder = Folder(daemon.folder / "state")
    assert verify(folder, folder.public_key()).findings == []


def test_a_kill_leaves_a_whole_log(start_quick: Start) -> None:
    """Lines are there before they are signed, and the next start says so. What another process has
    taken away meanwhile stays away."""
    daemon = start_quick(audit__content="full").wait_ready()
    for _ in range(3):
        assert daemon.post("/v1/chat/completions", CHAT).status_code == 200
    poll(lambda: sum(event["what"] == "chat" for event in events(daemon)) == 3, "three answers")
    beside = Log(Folder(daemon.folder / "state"), Bounds())
    beside.open()
    assert beside.forget("anybody") == 3
    beside.close()
    assert daemon.post("/v1/chat/completions", CHAT).status_code == 200
    poll(lambda: sum(event["what"] == "chat" for event in events(daemon)) == 4, "one more")
    daemon.process.kill()
    daemon.process.wait()
    file = Folder(daemon.folder / "state").files()[-1]
    with open(file.path, "ab") as torn:
        torn.write(b'{"seq":')
    again = start_quick(audit__content="full").wait_ready()
    starts = [event for event in events(again) if event["what"] == "start"]
    assert "7 bytes that are no line cut off" in starts[-1]["detail"]
    assert file.contents.read_bytes().count(b"My secret is") == 1
    assert again.stop() == 0
    folder = Folder(daemon.folder / "state")
    assert verify(folder, folder.public_key()).findings == []
    assert os.stat(file.contents).st_mode & 0o077 == 0
