"""Who is let in, with what; what is said to others, and how slowly."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from edge.access import keyring as keyring_module
from edge.access import signature as signature_module
from edge.access import suspects as suspects_module
from edge.access.gate import Gate, Presented, Signed
from edge.access.key import Quota, Scope, digest_of
from edge.access.keyring import Keyring
from edge.access.signature import WINDOW_SECONDS, Replays, sign
from edge.errors import Forbidden, InvalidKey, RateLimited


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    monkeypatch.setattr(keyring_module, "LOOK_SECONDS", 0.0)
    return Gate(Keyring(tmp_path / "keys"), required={"http", "mqtt"})


def at(token: str, address: str = "10.0.0.1", **more: Any) -> Presented:
    return Presented(door=more.pop("door", "http"), address=address, token=token, **more)


async def test_without_keys_everybody_is_anybody(tmp_path: Path) -> None:
    """The official SDKs send a key in any case."""
    gate = Gate(Keyring(tmp_path / "keys"), required=())
    for token in ("", "sk-whatever"):
        visitor = await gate.admit(at(token))
        assert visitor.name == "anybody"
        visitor.check("any", "critical", "cloud")
        visitor.check_admin()


async def test_keys_and_what_they_are_for(gate: Gate) -> None:
    scope = Scope(doors=["http"], models=["smol*"], priorities=["normal", "batch"], local_only=True)
    token = gate.keyring.add("press", scope, addresses=["10.0.0.0/8"])
    visitor = await gate.admit(at(token))
    assert (visitor.name, visitor.local_only) == ("press", True)
    visitor.check("smollm2", "normal", "auto")
    for refused in (
        ("gemma", "normal", "auto"),
        ("smollm2", "critical", "auto"),
        ("smollm2", "normal", "cloud"),
    ):
        with pytest.raises(Forbidden, match="press"):
            visitor.check(*refused)  # type: ignore[arg-type]
    with pytest.raises(Forbidden):
        visitor.check_admin()
    with pytest.raises(Forbidden, match="MQTT"):
        await gate.admit(at(token, door="mqtt"))
    with pytest.raises(Forbidden, match=r"192\.168"):
        await gate.admit(at(token, "192.168.0.1"))
    for bad in ("", "edge_x", token + "x"):
        with pytest.raises(InvalidKey):
            await gate.admit(at(bad))


async def test_a_flood_of_bad_keys_slows_its_sender_alone(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects_module, "LONGEST_SECONDS", 2.0)
    good = gate.keyring.add("press")

    async def bad(address: str) -> type[BaseException]:
        try:
            await gate.admit(at("edge_wrong", address))
        except (InvalidKey, RateLimited) as error:
            return type(error)
        raise AssertionError

    flood = asyncio.gather(*(bad("10.0.0.66") for _ in range(200)))
    await asyncio.sleep(0.05)
    began = time.monotonic()
    assert (await gate.admit(at(good, "10.0.0.66"))).name == "press"
    assert await bad("10.0.0.7") is InvalidKey
    assert time.monotonic() - began < 1.0  # neither waited for the flood's last 1.6 s
    answers = await flood
    assert answers.count(InvalidKey) == suspects_module.FREE + suspects_module.MOST_HELD
    assert answers.count(RateLimited) == 200 - answers.count(InvalidKey)


async def test_signed_requests(gate: Gate) -> None:
    token = gate.keyring.add("plc", signed=True)
    _, number, word = token.split("_", 2)
    body, now = b'{"prompt": "x"}', str(int(time.time()))

    def signed(timestamp: str = now, **other: Any) -> Presented:
        request = {"method": "POST", "target": "/v1/completions?x=1", "body": body}
        mark = sign(digest_of(word), timestamp=timestamp, **request)  # type: ignore[arg-type]
        parts = {"number": number, "timestamp": timestamp, "signature": mark, **request, **other}
        return Presented("http", "10.0.0.1", signed=Signed(**parts))  # type: ignore[arg-type]

    assert (await gate.admit(signed())).name == "plc"
    with pytest.raises(InvalidKey, match="before"):
        await gate.admit(signed())
    with pytest.raises(InvalidKey, match="signed requests only"):
        await gate.admit(at(token))
    late = str(int(time.time() - WINDOW_SECONDS - 5))
    with pytest.raises(InvalidKey, match="clock"):
        await gate.admit(signed(late))
    later = str(int(now) + 1)
    for field, value in (
        ("method", "GET"),
        ("target", "/v1/completions?x=2"),
        ("body", b"{}"),
        ("number", "aaaaaaaa"),
        ("signature", "sha256=" + "0" * 64),
    ):
        with pytest.raises(InvalidKey, match="not valid"):
            await gate.admit(signed(later, **{field: value}))
    assert (await gate.admit(signed(later))).name == "plc"


def test_a_replay_is_refused_however_many_came_since(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature_module, "MOST_REMEMBERED", 10)
    replays, now = Replays(), 1000.0
    replays.check("first", "1000", now)
    for number in range(30):
        replays.check(f"s{number}", str(1001 + number), now)
    with pytest.raises(InvalidKey):
        replays.check("first", "1000", now)
    with pytest.raises(InvalidKey):
        replays.check("s29", "1030", now)
    for odd in ("nan", "inf", "", "1e400", "x"):
        with pytest.raises(InvalidKey):
            replays.check(f"odd {odd}", odd, now)


async def test_quotas(gate: Gate) -> None:
    token = gate.keyring.add("press", quota=Quota(3, 2, 100))
    visitor = await gate.admit(at(token))
    with visitor.admitted(), visitor.admitted(), pytest.raises(RateLimited, match="2 requests"):
        visitor.admitted().__enter__()
    with visitor.admitted():
        pass
    with pytest.raises(RateLimited, match="3 times a minute") as refused:
        visitor.admitted().__enter__()
    assert 0 < (refused.value.retry_after or 0) <= 20
    gate.meter.spent("press", 60, 40)
    with pytest.raises(RateLimited, match="100 tokens"):
        visitor.admitted().__enter__()
    assert (visitor.account.requests, visitor.account.tokens) == (3, 100)
    assert visitor.account.running == 0
