"""What an inference took, as the worker tells it and the accountant shares it out."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest
from onnx_models import install, patient
from onnx_serving import PATIENCE, inference, serving, tensors

from edge.energy.accountant import Accountant, Bill, Stretch
from edge.types import Energy

WATTS = 20.0


class Power:
    """A constant power, told until now."""

    def __init__(self, accountant: Accountant) -> None:
        self.accountant = accountant
        self.last = time.monotonic() - 1
        self.joules = 0.0
        self.tell()

    def tell(self) -> None:
        began, self.last = self.last, time.monotonic()
        energy = Energy(WATTS, {"VDD_IN": WATTS}).times(self.last - began)
        self.joules += energy.joules or 0
        self.accountant.measured(Stretch(began, self.last, energy))


async def test_inferences_are_billed_for_their_batches(tmp_path: Path) -> None:
    """The estimate of an answer is what is billed, with a power that does not change; one that was
    given up pays as well."""
    install(tmp_path, "slow", patient(), manifest="batch: {max: 4}")
    bills: list[Bill] = []
    x = np.ones((1, 4), np.float32)
    work = tensors(x=x, rounds=np.array([[20_000]], np.int64))
    async with serving(tmp_path) as models:
        accountant = models.runner.energy
        accountant.ended = bills.append
        await models.facts("slow")
        power = Power(accountant)
        asked = [models.infer(inference("slow", work, caller=f"{n}")) for n in range(6)]
        answers = await asyncio.wait_for(asyncio.gather(*asked), PATIENCE)
        for answer in answers:
            assert answer.energy.joules is not None
            assert 0 < answer.energy.joules <= WATTS * answer.seconds * 1.01
            assert answer.energy.rails == pytest.approx({"VDD_IN": answer.energy.joules})
        longer = tensors(x=x, rounds=np.array([[10**9]], np.int64))
        given_up = asyncio.create_task(models.infer(inference("slow", longer, caller="left")))
        while not models.worker.computing:  # noqa: ASYNC110 - it is another process that changes
            await asyncio.sleep(0.005)
        given_up.cancel()
        power.tell()
        while len(bills) < 7:  # by a beat of the worker's at the latest
            await asyncio.sleep(0.01)
            power.tell()
    billed = {bill.caller: bill for bill in bills}
    for number, answer in enumerate(answers):
        energy = billed[f"{number}"].energy
        assert energy is not None
        assert energy.joules == pytest.approx(answer.energy.joules)
    left = billed["left"].energy
    assert left is not None
    assert left.joules is not None
    assert left.joules > 0
    assert accountant.shared + accountant.unshared == pytest.approx(power.joules)
    assert accountant.models["slow"].joules == pytest.approx(accountant.shared)
