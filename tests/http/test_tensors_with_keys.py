"""Keys on the routes of /v2: who may ask which model, told as the protocol tells errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
from daemon_process import DaemonProcess, running
from tritonclient.http import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException


@pytest.fixture(scope="module")
def guarded_daemon(
    tmp_path_factory: pytest.TempPathFactory, default_model_path: Path
) -> Iterator[DaemonProcess]:
    folder = tmp_path_factory.mktemp("guarded-tensors")
    for name in ("adder", "other"):
        onnx_models.install(folder / "state" / "models", name, onnx_models.adder())
    with running(folder, default_model_path, auth__required="true") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def bearer(guarded_daemon: DaemonProcess) -> dict[str, str]:
    """Of a key that is for one model, and not for critical requests."""
    scope = ["--model", "adder", "--priority", "normal"]
    made = subprocess.run(
        [sys.executable, "-m", "edge", "keys", "add", "line-4", *scope, "--json"],
        env={**os.environ, "EDGE_STATE_DIR": str(guarded_daemon.folder / "state")},
        capture_output=True,
        check=True,
    )
    return {"Authorization": f"Bearer {json.loads(made.stdout)['key']}"}


@pytest.fixture
def guest(guarded_daemon: DaemonProcess) -> Iterator[InferenceServerClient]:
    with InferenceServerClient(guarded_daemon.url.removeprefix("http://")) as client:
        yield client


def infer(client: InferenceServerClient, name: str, **more: Any) -> Any:
    inputs = []
    for place in "ab":
        one = InferInput(place, [1, 4], "FP32")
        one.set_data_from_numpy(np.ones([1, 4], np.float32))
        inputs.append(one)
    return client.infer(name, inputs, **more).as_numpy("sum")


def test_only_health_without_a_key(guest: InferenceServerClient) -> None:
    """Probes need none, everything else does."""
    assert guest.is_server_live()
    guest.is_server_ready()
    for ask in (
        guest.get_server_metadata,
        guest.get_model_repository_index,
        lambda: guest.get_model_metadata("adder"),
        lambda: infer(guest, "adder"),
    ):
        with pytest.raises(InferenceServerException, match="needs a key") as failure:
            ask()
        assert failure.value.status() == "401"


def test_a_key_for_one_model(guest: InferenceServerClient, bearer: dict[str, str]) -> None:
    """Another one is neither computed with nor loaded for it."""
    assert (infer(guest, "adder", headers=dict(bearer)) == 2).all()
    assert guest.get_model_metadata("adder", headers=bearer)["name"] == "adder"
    for ask in (
        lambda: infer(guest, "other", headers=dict(bearer)),
        lambda: infer(guest, "adder", headers=dict(bearer), priority=1),
        lambda: guest.get_model_metadata("other", headers=bearer),
        lambda: guest.get_model_config("other", headers=bearer),
    ):
        with pytest.raises(InferenceServerException, match="line-4") as failure:
            ask()
        assert failure.value.status() == "403"
