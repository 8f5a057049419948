"""What scripts/run asks about ports. Standard library only: curl may not be here.

probe.py address                prints "HOST PORT" as `edge config show --json` on stdin has them;
                                exit 1 if the port is taken
probe.py broker                 prints "HOST PORT TOPICS" of the broker likewise, nothing where
                                MQTT is off; exit 1 if nothing answers there
probe.py ready HOST PORT PID    waits until the appliance answers; exit 1 if that process ends first
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import sys
import time


def address() -> int:
    http_settings = json.load(sys.stdin)["http"]
    host, port = http_settings["host"], http_settings["port"]
    taken = False
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            port = probe.getsockname()[1]  # a free one, where the configuration says 0
    except OSError as error:
        # Anything else, such as a foreign address, `edge serve` explains better.
        taken = error.errno == errno.EADDRINUSE
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    sys.stdout.write(f"{reachable} {port}\n")
    return int(taken)


def broker() -> int:
    settings = json.load(sys.stdin)
    mqtt = settings["mqtt"]
    if not mqtt["enabled"]:
        return 0
    topics = f"{mqtt['root'].rstrip('/')}/{settings['device']['id'].replace('+', '-')}"
    sys.stdout.write(f"{mqtt['host']} {mqtt['port']} {topics}\n")
    try:
        socket.create_connection((mqtt["host"], mqtt["port"]), timeout=3).close()
    except OSError:
        return 1
    return 0


def ready(host: str, port: int, pid: int) -> int:
    while True:
        connection = http.client.HTTPConnection(host, port, timeout=5)
        try:
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return 0
        except (OSError, http.client.HTTPException):
            pass  # it does not listen yet
        finally:
            connection.close()
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return 1
        time.sleep(0.2)


if __name__ == "__main__":
    if sys.argv[1] == "address":
        sys.exit(address())
    if sys.argv[1] == "broker":
        sys.exit(broker())
    sys.exit(ready(sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
