"""Every route of a real appliance, asked for with each kind of key: as docs/security.md says.

The appliance is in this process and has its ledger open, but runs nothing: who is let in finds a
model that is not installed. The topics are asked in tests/mqtt/test_keys_over_mqtt.py.
"""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge.access import suspects
from edge.api.http.rights import RIGHTS, right_of
from edge.appliance import Appliance
from edge.config.answering import Chain
from edge.config.doors import Auth, Mqtt
from edge.config.tree import Config
from edge.fleet.installed import InstalledModels
from edge.metrics import Metrics

OPENS = runpy.run_path(str(Path(__file__).parents[2] / "scripts/opens.py"))
MODEL = OPENS["MODEL"]

CONFIG = Config(
    auth=Auth(required=True),
    mqtt=Mqtt(enabled=False),
    chains={MODEL: Chain(see=MODEL, model=MODEL, prompt="Say it.")},
)

TURN = {"messages": [{"role": "user", "content": "x"}]}
INPUT = {"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": TURN,
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/embeddings": {"input": "x"},
    "/v1/rerank": {"query": "x", "documents": ["y"]},
}
"""Beside `model`."""

PICTURE = b"\xff\xd8\xff\xe0 no picture, but looked at by nobody"


def request_of(path: str) -> dict[str, Any]:
    """What a route that is for a model needs, so that it looks for it."""
    if path.startswith(("/v1/vision", "/v1/chains")):
        return {"content": PICTURE, "headers": {"content-type": "image/jpeg"}}
    if path.endswith("/infer"):
        return {"json": {"inputs": [INPUT]}}
    return {"json": {"model": MODEL, **BODIES.get(path, {})}}


@pytest.fixture
async def appliance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Appliance]:
    monkeypatch.setenv("EDGE_STATE_DIR", str(tmp_path))
    monkeypatch.setattr(suspects, "FREE", 1_000_000)
    metrics = Metrics()
    with closing(InstalledModels(tmp_path, CONFIG.engine, metrics)) as installed:
        made = Appliance(CONFIG, installed, metrics)
        async with AsyncExitStack() as stack:
            await made.open_files(stack)
            yield made


@pytest.fixture
async def client(appliance: Appliance) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(appliance.http(), client=("10.0.0.9", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://press-07") as client:
        yield client


def told(answer: httpx.Response) -> str:
    """`yes` for all that comes from behind the gate."""
    return str(answer.status_code) if answer.status_code in (401, 403) else str(OPENS["YES"])


async def test_every_route_with_each_kind_of_key(
    appliance: Appliance, client: httpx.AsyncClient
) -> None:
    tokens = OPENS["tokens"](appliance.gate.keyring, "http")
    expected = OPENS["outcomes"]("http")
    app = appliance.http()
    paths = app.openapi()["paths"]
    asked = {(path, method.upper()) for path in paths for method in paths[path]}
    assert asked | {OPENS["OPENAPI"]} == set(OPENS["routes"]())
    for (path, method), right in OPENS["routes"]().items():
        assert right is not None, f"{path} has no entry in rights.py"
        place = re.sub(r"\{version\}", "1", path)
        place = re.sub(r"\{[a-z_]+\}", MODEL, place)
        for label, token in tokens.items():
            headers = {} if token is None else {"authorization": f"Bearer {token}"}
            request = request_of(path) if method == "POST" else {}
            headers |= request.pop("headers", {})
            answer = await client.request(method, place, headers=headers, **request)
            wanted = OPENS["YES"]
            if right != "nothing":
                wanted = expected[OPENS["ROUTE_ASKS"][right]][label]
            assert told(answer) == wanted, f"{method} {path}, {label}: {answer.text}"


async def test_what_models_are_asked_for(appliance: Appliance, client: httpx.AsyncClient) -> None:
    """Priorities and the cloud, of each route that has them."""
    tokens = OPENS["tokens"](appliance.gate.keyring, "http")
    expected = OPENS["outcomes"]("http")
    for path in BODIES:
        for what, option in (
            ("the same, `priority: critical`", {"priority": "critical"}),
            ("the same, `route: cloud`", {"route": "cloud"}),
        ):
            for label, token in tokens.items():
                headers = {"authorization": f"Bearer {token}"}
                body = {**request_of(path)["json"], "edge": option}
                answer = await client.post(path, json=body, headers=headers)
                if token is not None:
                    assert told(answer) == expected[what][label], f"{path} {option} {label}"


async def test_what_is_not_declared_is_there_for_nobody(
    appliance: Appliance, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = OPENS["tokens"](appliance.gate.keyring, "http")["`--admin`"]
    headers = {"authorization": f"Bearer {token}"}
    assert (await client.get("/v1/models", headers=headers)).status_code == 200
    monkeypatch.delitem(RIGHTS, "/v1/models")
    answer = await client.get("/v1/models", headers=headers)
    assert (answer.status_code, json.loads(answer.text)["error"]["code"]) == (404, "not_found")
    for odd in ("//admin/v1/status", "/admin", "/ADMIN/v1/status", "/v1", "/", "/metrics/", ""):
        assert right_of("GET", odd) is None, odd
    assert right_of("GET", "/v1/files/x/../../../admin/v1/status") == "own"  # and no such route
