"""A prompt for a model that is not loaded, over MQTT."""

from __future__ import annotations

from pathlib import Path

import psutil
from daemon_process import Start, poll
from factory import Join, behind
from modelstore.tinymodel import write_loadable
from mosquitto import Mosquitto


def test_a_prompt_that_waits_for_its_model_is_told_so(
    broker: Mosquitto, start: Start, join: Join, tmp_path: Path
) -> None:
    """Under the reply topic's `/status`; the answer comes when the model is there."""
    models = tmp_path / "daemon" / "state" / "models"
    models.mkdir(parents=True)
    for name in ("a", "b"):
        write_loadable(models / f"{name}.gguf")
    settings = behind(broker, models__default="a", engine__context="auto")
    daemon = start(**settings).wait_ready()
    poll(lambda: daemon.metrics()["edge_mqtt_connected"], "a subscription")
    client = join(broker, "line7/reply/#")
    known = {child.pid for child in psutil.Process(daemon.pid).children()}
    prompt = {"prompt": "abc", "max_tokens": 2, "model": "b"}
    client.ask({**prompt, "id": 7, "reply_to": "line7/reply/b"})

    def new() -> list[psutil.Process]:
        children = psutil.Process(daemon.pid).children()
        fresh = [child for child in children if child.pid not in known]
        # One that has not become a program of its own yet holds up the daemon, which waits for it.
        return [child for child in fresh if "edge.runtime.worker" in child.cmdline()]

    worker = poll(new, "its worker")[0]
    worker.suspend()
    notice = client.one("line7/reply/b/status").json
    assert notice == {"id": 7, "status": "loading", "model": "b"}
    worker.resume()
    reply = client.one("line7/reply/b").json
    assert (reply["status"], reply["model"]) == ("done", "b")
