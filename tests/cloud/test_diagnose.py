"""`edge doctor --upstream`: the way to a cloud model, and where it ends."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path

import pytest
from asking import TIMEOUTS
from certificates import certificate
from fake_cloud import FakeCloud

from edge.cloud.diagnose import _clock, diagnose
from edge.config import answering


async def findings(url: str, **settings: object) -> list[tuple[str, str]]:
    """Names and statuses."""
    wanted = {"base_url": url, "timeouts": answering.Timeouts(**TIMEOUTS), **settings}
    found = [f async for f in diagnose("words", answering.Upstream(**wanted))]  # type: ignore[arg-type]
    for finding in found:
        assert finding.text
        assert finding.status == "ok" or finding.fix or finding.name in ("model", "answer")
    return [(finding.name, finding.status) for finding in found]


WAY = [("name", "ok"), ("tcp", "ok")]
END = [("clock", "ok"), ("key", "ok"), ("model", "ok"), ("answer", "ok")]


async def test_all_is_well(cloud: FakeCloud, tmp_path: Path) -> None:
    """Every step, with TLS and without."""
    assert await findings(cloud.url) == [*WAY, *END]
    cert, key = certificate(tmp_path)
    with FakeCloud(tls=(cert, key)) as secure:
        found = await findings(secure.url, ca_file=str(cert))
        assert found == [*WAY, ("tls", "ok"), *END]
        assert await findings(secure.url) == [*WAY, ("tls", "fail")]
        missing = str(tmp_path / "nothing")
        assert await findings(secure.url, ca_file=missing) == [*WAY, ("tls", "fail")]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (lambda url: {"url": "http://words.invalid/v1"}, [("name", "fail")]),
        (lambda url: {"url": "http://127.0.0.1:1/v1"}, [("name", "ok"), ("tcp", "fail")]),
        (lambda url: {"url": url.replace("http:", "https:")}, [*WAY, ("tls", "fail")]),
        (lambda url: {"url": url, "api_key_file": "/nowhere"}, [("key", "fail")]),
        (
            lambda url: {"url": url, "model": "verbs"},
            [*WAY, *END[:2], ("model", "warn"), ("answer", "ok")],
        ),
    ],
)
async def test_where_it_ends(
    cloud: FakeCloud,
    setting: Callable[[str], dict[str, str]],
    expected: list[tuple[str, str]],
) -> None:
    """The first step that fails is the last one that is tried."""
    assert await findings(**setting(cloud.url)) == expected


async def test_answers_that_fail(cloud: FakeCloud) -> None:
    """All may look well until it is asked something."""
    cloud.fault("html", times=1)
    assert await findings(cloud.url) == [*WAY, *END[:3], ("answer", "fail")]


async def test_refused_key() -> None:
    """A key that is not accepted is found before anything is asked."""
    with FakeCloud(key="another") as cloud:
        assert await findings(cloud.url) == [*WAY, ("clock", "ok"), ("key", "fail")]
        assert cloud.calls() == []


@pytest.mark.parametrize(("ours", "status"), [(30, "ok"), (-30, "ok"), (90, "warn"), (-90, "warn")])
def test_clocks(ours: int, status: str) -> None:
    """A minute is too much."""
    found = _clock(formatdate(1_000_000, usegmt=True), 1_000_000 + ours)
    assert found.status == status
    assert ("behind" in found.text) == (ours < -60)
