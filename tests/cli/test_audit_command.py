"""`edge audit`: looked at, checked, exported, and forgotten in part."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from edge.audit.event import Event
from edge.audit.folder import Folder
from edge.audit.log import Bounds, Log, Noted
from edge.cli.audit_check import audit_check
from edge.config.keeping import Audit

Run = Callable[..., Result]


@pytest.fixture
def folder(state: Path) -> Folder:
    """Of two days and two keys."""
    folder = Folder(state)
    log = Log(folder, Bounds())
    log.open()
    for day in ("2026-11-20", "2026-11-21"):
        for number, who in enumerate(("press", "lab")):
            time = f"{day}T08:00:00.00000{number}Z"
            event = Event(what="chat", who=who, origin="10.0.0.9", status="ok", time=time, up=1.0)
            log.append([Noted(event, json.dumps(f"{who} asks").encode(), full=True)])
    log.seal()
    log.close()
    return folder


def test_verify_tells_by_its_exit_code(run: Run, folder: Folder) -> None:
    result = run("audit", "verify")
    assert result.exit_code == 0
    assert result.stdout.startswith("intact: lines 1 to 6, 2026-11-20T08:00:00Z to 2026-11-21")
    head = next(line for line in result.stdout.splitlines() if line.startswith("head "))
    assert run("audit", "verify", "--head", head.removeprefix("head ")).exit_code == 0
    assert "NUMBER:CHAIN" in run("audit", "verify", "--head", "nonsense").stderr
    folder.files()[0].path.unlink()
    result = run("audit", "verify")
    assert result.exit_code == 1
    assert "NOT AS IT WAS WRITTEN" in result.stdout
    findings = json.loads(run("audit", "verify", "--json").stdout)["findings"]
    assert any("is gone" in finding["what"] for finding in findings)


def test_a_copy_is_checked_with_the_public_key_alone(
    run: Run, folder: Folder, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder.path, copy / "audit")
    key = tmp_path / "noted-elsewhere.pem"
    shutil.copy(folder.public, key)
    arguments = ("audit", "verify", "--state", str(copy), "--public-key", str(key))
    assert run(*arguments).exit_code == 0
    (copy / "audit" / "head").write_bytes(b"{}\n00\n")
    assert run(*arguments).exit_code == 1


def test_export_and_show(run: Run, folder: Folder) -> None:
    lines = [json.loads(line) for line in run("audit", "export").stdout.splitlines()]
    assert [line["seq"] for line in lines] == [1, 2, 3, 4, 5, 6]
    chosen = run("audit", "export", "--key", "lab", "--from", "2026-11-21", "--content").stdout
    assert [(line["who"], line["said"]) for line in map(json.loads, chosen.splitlines())] == [
        ("lab", "lab asks")
    ]
    rows = list(csv.DictReader(run("audit", "export", "--csv").stdout.splitlines()))
    assert [row["from"] for row in rows if row["what"] == "chat"] == ["10.0.0.9"] * 4
    shown = json.loads(run("audit", "show", "-n", "2", "--json").stdout)
    assert [(event["seq"], event["who"]) for event in shown] == [(5, "press"), (6, "lab")]
    assert "10.0.0.9" in run("audit", "show", "--key", "press").stdout
    assert run("audit", "export", "--from", "yesterday").exit_code == 2


def test_forget(run: Run, folder: Folder) -> None:
    result = run("audit", "forget", "press")
    assert result.exit_code == 0, result.output
    assert "2 requests" in result.stdout
    said = run("audit", "export", "--content").stdout
    assert "lab asks" in said
    assert "press asks" not in said
    assert json.loads(run("audit", "verify", "--json").stdout)["forgotten"] == 2


def test_without_a_log(run: Run, state: Path) -> None:
    """One line, and not a log that is begun by asking."""
    for arguments in (("verify",), ("forget", "press")):
        result = run("audit", *arguments)
        assert result.exit_code == 1
        assert "Try:" in result.stderr
    assert run("audit", "show", "--json").stdout.strip() == "[]"
    assert not state.exists()


def test_doctor_warns_where_the_room_is_too_small(folder: Folder) -> None:
    """Before the days are lost: by how much there is for each."""
    two_days_later = 1_795_305_600.0  # 2026-11-22
    assert audit_check(folder, Audit(), two_days_later).status == "ok"
    file = folder.files()[0].path
    file.write_bytes(file.read_bytes() + bytes(900_000))
    small = audit_check(folder, Audit(max_mb=1), two_days_later)
    assert small.status == "warn"
    assert "3 of the 180 days" in small.finding
    assert audit_check(folder, Audit(enabled=False), two_days_later).status == "ok"
