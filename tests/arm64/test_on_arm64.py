"""The daemon starts on ARM64, a model answers over HTTP and MQTT, and the other tests hold too.

What is too slow there (`SOAK_ARM64_SECONDS` for one test, 600) or cannot work (`inside.py`) is told
and is no failure, except of what the appliance is for.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from suite import Run

TESTS = Path(__file__).parents[1]
HOUR = 3600

SHIPPED, QUICKEST = "SOAK_WHEELS", "SOAK_QEMU_WHEELS"
"""What boards get, and what is compiled without the vector instructions that QEMU is slow with."""

ANSWERS = (
    "tests/daemon/test_start.py::test_it_answers_while_it_loads",
    "tests/daemon/test_stop.py",
    "tests/http/test_sdk_chat.py",
    "tests/mqtt/test_chat_over_mqtt.py",
)
"""The real model and mosquitto, asked by OpenAI's client and by paho."""

ELSEWHERE = {"arm64", "boot", "fuzz"}
"""Soaks of their own, which need another kind of machine or take hours as they are."""


def parts() -> list[str]:
    """Folders with tests, and the tests beside them; or what was asked for, all at once."""
    if asked := os.environ.get("SOAK_ARM64_TESTS"):
        return [asked]
    folders = {file.parent.name for file in TESTS.glob("*/test_*.py")} - ELSEWHERE
    files = [f"tests/{file.name}" for file in sorted(TESTS.glob("test_*.py"))]
    return [*files, *(f"tests/{name}" for name in sorted(folders))]


@pytest.mark.skipif(bool(os.environ.get("SOAK_ARM64_TESTS")), reason="another was asked for")
def test_a_model_answers(run: Run) -> None:
    results = run(*ANSWERS, wheel=SHIPPED, limit=HOUR)
    assert results
    assert {one.outcome for one in results} == {"passed"}


@pytest.mark.parametrize("part", parts())
def test_part(run: Run, part: str) -> None:
    assert run(*part.split(), wheel=QUICKEST)
