"""Sensors that hang, fail or come back: nobody waits, and nothing old is taken for new."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from daemon_process import poll
from recorded_trees import lay_out

from edge.host import gauges, idle_gpu
from edge.host.forecast import Expected
from edge.host.power import Power
from edge.host.sensors import HostFacts, Sensors
from edge.host.thermal import Zone
from edge.host.watched import Watched, within
from edge.metrics import Metrics


@pytest.fixture(autouse=True)
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is asked by a process that would outlive these tests; a daemon's test has it."""
    monkeypatch.setattr(idle_gpu, "watch", lambda root: None)


def test_sensor_that_hangs_becomes_unknown_and_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The last reading stands for a while, then it is unknown; both ends are logged."""
    hang, reading = threading.Event(), threading.Event()
    go_on = threading.Event()

    def read() -> int:
        if hang.is_set():
            reading.set()
            go_on.wait()
        return 1

    watched = Watched("a sensor", read, tick=0.01, fresh=0.5)
    assert watched.value is None
    watched.start()
    poll(lambda: watched.value == 1, "the first reading")
    hang.set()
    assert reading.wait(60)
    poll(lambda: watched.value is None, "unknown")
    assert watched.value is None
    hang.clear()
    go_on.set()
    poll(lambda: watched.value == 1, "known again")
    watched.stop()
    assert watched.value is None
    # More than once on a machine that had no time for the thread, but always by turns.
    said = [message for message in caplog.messages if "a sensor" in message]
    assert said
    both = ["reading a sensor hangs", "reading a sensor works again"]
    assert said == both * (len(said) // 2)


def test_sensor_that_hangs_from_the_start_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Where there was no reading yet, nothing else would say why."""
    go_on = threading.Event()
    watched = Watched("a dead bus", go_on.wait, tick=0.01, fresh=0.05)
    watched.start()
    poll(lambda: watched.value is None and "reading a dead bus hangs" in caplog.messages, "told")
    go_on.set()
    poll(lambda: watched.value, "a reading")
    watched.stop()


def test_failing_reader_is_unknown_and_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    """Its surprise is logged once, with where it came from."""
    answers = iter([ValueError("once"), ValueError("twice")])

    def read() -> int:
        for error in answers:
            raise error
        return 2

    watched = Watched("odd", read, tick=0.01)
    watched.start()
    poll(lambda: watched.value == 2, "the third reading")
    watched.stop()
    assert len([one for one in caplog.records if "reading odd fails" in one.getMessage()]) == 1


def test_one_reading_within_a_time() -> None:
    """For commands: a driver that hangs leaves the fact unknown, an error is the caller's."""
    forever = threading.Event()
    assert within(0.05, lambda: forever.wait()) is None
    forever.set()
    assert within(60, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(60, lambda: 1 // 0)


async def test_all_sensors_of_a_board(tmp_path: Path) -> None:
    """Unknown before they run and after they stopped; between, what the tree says."""
    sensors = Sensors(lay_out("agx-orin-jetpack6", tmp_path))
    assert sensors.facts() == HostFacts()
    running = asyncio.create_task(sensors.run())

    facts = await known(
        sensors, lambda facts: all((facts.identity, facts.temperatures, facts.power))
    )
    assert facts.identity is not None
    assert facts.identity.board == "NVIDIA Jetson AGX Orin Developer Kit"
    assert facts.throttling == []
    assert facts.cards is None
    await sensors.stop()
    await asyncio.wait_for(running, 60)
    assert sensors.facts() == HostFacts()


async def test_zone_at_its_limit_is_expected_now(tmp_path: Path) -> None:
    """The forecasts are fed by the thread that reads the zones."""
    sensors = Sensors(lay_out("orin-nx-jetpack6", tmp_path))
    running = asyncio.create_task(sensors.run())
    facts = await known(sensors, lambda facts: facts.expected is not None)
    assert facts.expected == Expected("gpu-thermal", 0.0)
    await sensors.stop()
    await asyncio.wait_for(running, 60)


async def test_card_is_a_zone_and_a_rail(tmp_path: Path) -> None:
    """In a PC with one, beside what the machine itself has."""
    sensors = Sensors(lay_out("pc", tmp_path))
    running = asyncio.create_task(sensors.run())

    name = "NVIDIA RTX A2000 12GB"
    facts = await known(sensors, lambda facts: name in (facts.temperatures or {}))
    assert facts.temperatures is not None
    assert facts.temperatures[name] == Zone(41.0)
    assert facts.temperatures["x86_pkg_temp"] == Zone(54.0)
    await sensors.stop()
    await asyncio.wait_for(running, 60)


def test_unknown_is_no_number_in_metrics() -> None:
    """NaN for a sensor that is there, no sample for one that is not: never 0."""
    metrics = Metrics()
    gauges.measure(HostFacts(), metrics)
    assert samples(metrics) == []
    zones = {"cpu-thermal": Zone(48.5), "cv0-thermal": Zone(None)}
    power = Power({"VDD_IN": 5.5, "VDD_SOC": None}, 5.5, 120.0)
    gauges.measure(HostFacts(temperatures=zones, power=power), metrics)
    assert samples(metrics) == [
        "edge_energy_joules_total 120.0",
        'edge_power_watts{rail="VDD_IN"} 5.5',
        'edge_power_watts{rail="VDD_SOC"} NaN',
        'edge_temperature_celsius{zone="cpu-thermal"} 48.5',
        'edge_temperature_celsius{zone="cv0-thermal"} NaN',
    ]
    gauges.measure(HostFacts(), metrics)
    assert samples(metrics) == []


async def known(sensors: Sensors, there: Callable[[HostFacts], bool]) -> HostFacts:
    """The facts, once what is waited for is among them."""
    await asyncio.to_thread(poll, lambda: there(sensors.facts()), "the sensors")
    return sensors.facts()


def samples(metrics: Metrics) -> list[str]:
    """The lines about the machine, in the order of the alphabet."""
    names = ("edge_temperature", "edge_power", "edge_energy")
    lines = metrics.render().decode().splitlines()
    return sorted(line for line in lines if line.startswith(names))
