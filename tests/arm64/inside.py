"""What pytest has to know where it runs emulated: a plugin of its own, loaded with `-p inside`.

Leaves out what cannot work there, gives everything else more time, and writes down what came of
each test as soon as it is known.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

NO_PTRACE = "strace works by ptrace, which qemu-user does not have"
NO_MEMORY_LIMIT = "qemu-user does not set RLIMIT_AS, which would be its own limit"
NO_POWER_CUT = (
    "qemu-user does not know the ioctl by which a file system forgets what was not synced"
)
NO_NETWORK = "they run without a network, and this fetches a real model"
NO_TRAFFIC_CONTROL = "qemu-user does not know the messages by which tc makes a link narrow"
NO_SIMILAR_ANSWERS = "a text's vector takes longer there than the answer cache waits for one"

LEFT_OUT = {
    NO_PTRACE: (
        "tests/daemon/test_durable.py::test_synced_before_it_is_acknowledged",
        "tests/mqtt/test_kept_first.py::test_synced_before_it_is_acknowledged",
        "tests/store/test_ledger_faults.py::test_failing_system_calls",
        "tests/store/test_ledger_power_cut.py",
        "tests/store/test_reports_power_cut.py",
    ),
    NO_MEMORY_LIMIT: ("tests/daemon/test_memory.py::test_a_refused_allocation_is_tried_smaller",),
    NO_POWER_CUT: (
        "tests/modelstore/test_store_kill.py::test_power_cuts_while_a_bundle_is_installed",
    ),
    NO_NETWORK: (
        "tests/modelstore/test_folders.py::test_the_catalogs_model_for_real",
        "tests/modelstore/test_pull_pypi.py::test_the_default_model_for_real",
    ),
    NO_TRAFFIC_CONTROL: ("tests/failover/test_link_cut.py::test_narrow_link",),
    NO_SIMILAR_ANSWERS: (
        "tests/http/test_semantic_cache.py::test_other_words",
        "tests/http/test_semantic_cache.py::test_what_has_no_one_answer",
    ),
}
"""Tests by the beginning of their names: why they cannot pass there, whatever the product does."""

RESULTS = Path("/report/results.jsonl")
TOO_SLOW = "Failed: Timeout"
"""How pytest-timeout begins what it says of a test that it stopped."""


def why_left_out(name: str) -> str | None:
    for reason, beginnings in LEFT_OUT.items():
        if name.startswith(beginnings):
            return reason
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if reason := why_left_out(item.nodeid):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One line for each test that failed or was skipped in any of its phases, or was called; from
    the process that hears of them all."""
    if os.environ.get("PYTEST_XDIST_WORKER") or (report.passed and report.when != "call"):
        return
    said = ""
    if report.skipped:
        said = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longreprtext
    elif report.failed:
        said = report.longreprtext[-4000:]
    outcome = "too slow" if report.failed and TOO_SLOW in said else report.outcome
    line = {"test": report.nodeid, "outcome": outcome, "said": said}
    with RESULTS.open("a") as results:
        results.write(json.dumps({**line, "seconds": round(report.duration, 1)}) + "\n")
