"""A table of everything that can happen to a route, each with the answer that has to come of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from daemon_process import DaemonProcess
from fake_cloud import FakeCloud
from scenarios import SCENARIOS, Outcome, Scenario, broken


@pytest.fixture(scope="module")
def run(appliance: DaemonProcess, primary: FakeCloud) -> Callable[[Scenario], Outcome]:
    """What comes of a scenario. Those of a fault that takes time are run at once; the others, which
    may keep the primary from being asked again, one after the other."""
    found: dict[int, Outcome] = {}

    def run(scenario: Scenario) -> Outcome:
        fault, number = scenario.fault, SCENARIOS.index(scenario)
        if not fault.waits:
            return scenario.run(appliance, primary)
        if number not in found:
            same = [at for at, one in enumerate(SCENARIOS) if one.fault == fault]
            with broken(fault, appliance, primary), ThreadPoolExecutor(len(same)) as pool:
                outcomes = pool.map(lambda at: SCENARIOS[at].ask(appliance), same)
                found.update(zip(same, outcomes, strict=True))
        return found[number]

    return run


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.title)
def test_scenario(scenario: Scenario, run: Callable[[Scenario], Outcome]) -> None:
    """One coherent answer or an error, in the time that was promised; never a false end."""
    assert scenario.wrong(run(scenario)) is None
