"""One message to the appliance's broker, as the appliance's own user. Run by the Python of the
installed program, which has the reader of its configuration and a client of MQTT.

broker.py prompt TEXT       asks the appliance and prints its reply
broker.py publish MESSAGE   leaves a retained message on ROOT/DEVICE/firstboot

The last line on stderr says what is wrong where something is (exit code 1).
"""

from __future__ import annotations

import json
import os
import queue
import socket
import ssl
import sys
import uuid
from pathlib import Path

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from edge.config import reader
from edge.config.credentials import filled_in
from edge.config.tree import Config

CONNECT_SECONDS = 20.0
REPLY_SECONDS = 900.0
ACK_SECONDS = 30.0


def main(verb: str, text: str) -> int:
    config = filled_in(reader.load(), os.environ)
    try:
        with Broker(config) as broker:
            if verb == "publish":
                broker.publish("firstboot", text, retain=True)
            else:
                sys.stdout.write(broker.prompt(text))
    except (OSError, TimeoutError, ValueError) as error:
        where = f"{config.mqtt.host}:{config.mqtt.port}"
        sys.stderr.write(f"the broker at {where}: {error}\n")
        return 1
    return 0


class Broker:
    """Connected as long as the `with` block. Raises `OSError` and `TimeoutError`."""

    def __init__(self, config: Config) -> None:
        self._mqtt = config.mqtt
        device = (config.device.id or socket.gethostname()).replace("+", "-")
        self._topics = f"{config.mqtt.root.rstrip('/')}/{device}"
        self._heard: queue.Queue[str | Exception] = queue.Queue()
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"edge-first-boot-{uuid.uuid4().hex[:8]}",
            protocol=MQTTProtocolVersion.MQTTv311,
        )
        self._client.on_connect = lambda *of: self._heard.put(
            OSError(f"it refuses: {of[3]}") if of[3].is_failure else "connected"
        )
        self._client.on_subscribe = lambda *_: self._heard.put("subscribed")
        self._client.on_message = lambda *of: self._heard.put(of[2].payload.decode())
        if self._mqtt.username is not None:
            file = self._mqtt.password_file
            password = Path(file).read_text().rstrip("\r\n") if file else None
            self._client.username_pw_set(self._mqtt.username, password)
        if self._mqtt.tls:
            authorities = self._mqtt.tls if isinstance(self._mqtt.tls, str) else None
            self._client.tls_set_context(ssl.create_default_context(cafile=authorities))

    def __enter__(self) -> Broker:
        self._client.connect(self._mqtt.host, self._mqtt.port)
        self._client.loop_start()
        self._wait(CONNECT_SECONDS, "it does not answer")
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, name: str, text: str, *, retain: bool = False) -> None:
        sent = self._client.publish(f"{self._topics}/{name}", text, qos=1, retain=retain)
        sent.wait_for_publish(ACK_SECONDS)
        if not sent.is_published():
            raise TimeoutError("it does not acknowledge a message")

    def prompt(self, text: str) -> str:
        name = f"firstboot-{uuid.uuid4().hex[:8]}"
        reply = f"{self._topics}/reply/{name}"
        self._client.subscribe(reply, qos=1)
        self._wait(ACK_SECONDS, "it does not let us subscribe")
        asked = {"id": name, "prompt": text, "max_tokens": 8, "reply_to": reply}
        self.publish("chat", json.dumps(asked))
        return self._wait(REPLY_SECONDS, "the appliance has not replied")

    def _wait(self, seconds: float, complaint: str) -> str:
        try:
            heard = self._heard.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(complaint) from None
        if isinstance(heard, Exception):
            raise heard
        return heard


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
