"""Keys on the route for pictures: for which model, and how urgent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from daemon_process import running
from onnx_models import install
from photographs import encoded, squares
from seeing_models import color_classifier


def test_a_key_for_one_model(tmp_path: Path, default_model_path: Path) -> None:
    """It looks with that one; nobody looks without a key, at /v2 as little as here."""
    for name in ("colors", "others"):
        install(tmp_path / "state" / "models", name, color_classifier(), manifest="task: classify")
    data = encoded(squares((8, 8)), "PNG")
    with running(tmp_path, default_model_path, auth__required="true") as daemon:
        scope = ["--model", "colors", "--priority", "normal", "--json"]
        made = subprocess.run(
            [sys.executable, "-m", "edge", "keys", "add", "line-4", *scope],
            env={**os.environ, "EDGE_STATE_DIR": str(daemon.folder / "state")},
            capture_output=True,
            check=True,
        )
        bearer = {"authorization": f"Bearer {json.loads(made.stdout)['key']}"}

        def status(model: str, headers: dict[str, str], path: str = "/v1/vision/{}") -> int:
            url = daemon.url + path.format(model)
            headers = {"content-type": "image/png", **headers}
            return daemon.http.post(url, content=data, headers=headers).status_code

        assert status("colors", {}) == 401
        assert status("colors", bearer) == 200
        assert status("others", bearer) == 403
        assert status("others", bearer, "/v2/models/{}/infer") == 403
        assert status("colors", bearer, "/v2/models/{}/infer") == 200
        assert status("colors", {**bearer, "x-edge-priority": "critical"}) == 403
