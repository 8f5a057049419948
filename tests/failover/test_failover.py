"""A table of everything that can happen to a route, each with the answer that has to come of it."""

from __future__ import annotations

import pytest
from daemon_process import DaemonProcess
from fake_cloud import FakeCloud
from scenarios import SCENARIOS, Scenario


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.title)
def test_scenario(scenario: Scenario, appliance: DaemonProcess, primary: FakeCloud) -> None:
    """One coherent answer or an error, in the time that was promised; never a false end."""
    outcome = scenario.run(appliance, primary)
    assert scenario.wrong(outcome) is None
