"""Clients of bad will, for `hostile.py`: one process with some of them, from an address of its own.

    attackers.py PORT ADDRESS SECONDS KEY KIND=COUNT…

At the lowest priority, and each waits for a moment between two attempts, so that on a small
machine it is the daemon that is under load and not the processor. Prints what they were answered as
JSON: by kind, then by status; `closed` where the connection ended without one, `held` where it did
not.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress

MB = 1 << 20
PAUSE = 0.5
"""Seconds between two attempts of one client, but for those that flood."""

FLOOD_PAUSE = 0.1
PATH = "/v1/chat/completions"
LISTS = b'{"prompt":[' + b"[1]," * (2 * MB - 100) + b"[1]]}"
"""8 MB that take a parser as long as 8 MB can."""

STREAM = b'{"messages":[{"role":"user","content":"Count."}],"stream":true,"max_tokens":2000}'


class Attack:
    """One client. `answers` is shared by all of its kind."""

    def __init__(self, port: int, address: str, key: str, answers: Counter[str]) -> None:
        self.port = port
        self.address = address
        self.key = key
        self.answers = answers

    async def __call__(self, act: Callable[[Attack, Connection], Awaitable[None]]) -> None:
        """One attempt, and what came of it."""
        outcome = "closed"
        try:
            connection = await Connection.open(self.port, self.address)
        except OSError:
            self.answers["not connected"] += 1
            return
        try:
            await act(self, connection)
            outcome = await asyncio.wait_for(connection.status(), 20)
        except asyncio.TimeoutError:
            outcome = "held"
        except OSError:
            with suppress(OSError, asyncio.TimeoutError):
                outcome = await asyncio.wait_for(connection.status(), 1)
        finally:
            self.answers[outcome] += 1
            connection.writer.transport.abort()

    def head(self, length: int, key: str | None = None, path: str = PATH) -> bytes:
        return (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n"
            f"Authorization: Bearer {self.key if key is None else key}\r\n\r\n"
        ).encode()


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int, address: str) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0)))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def status(self) -> str:
        line = await self.reader.readline()
        return line.split()[1].decode() if line.startswith(b"HTTP/") else "closed"


async def slow_headers(attack: Attack, connection: Connection) -> None:
    await connection.send(b"GET / HTTP/1.1\r\n")
    for number in range(60):
        await connection.send(b"X-%d: y\r\n" % number)
        await asyncio.sleep(PAUSE)


async def slow_body(attack: Attack, connection: Connection) -> None:
    await connection.send(attack.head(100_000))
    for _ in range(100):
        await connection.send(b" ")
        await asyncio.sleep(PAUSE)


async def huge_body(attack: Attack, connection: Connection) -> None:
    """With a good key, so that it is read."""
    await connection.send(attack.head(len(LISTS), path="/v1/completions") + LISTS)


async def huge_body_of_nobody(attack: Attack, connection: Connection) -> None:
    await connection.send(attack.head(len(LISTS), "edge_nobody_xxxx") + LISTS)


async def bad_key(attack: Attack, connection: Connection) -> None:
    await connection.send(attack.head(len(STREAM), "edge_nobody_xxxx") + STREAM)


async def garbage(attack: Attack, connection: Connection) -> None:
    await connection.send(b"\x16\x03\x01 nonsense\r\n\r\n" * 20)


async def slow_reader(attack: Attack, connection: Connection) -> None:
    """It asks for a long answer and takes none of it."""
    await connection.send(attack.head(len(STREAM)) + STREAM)
    await asyncio.sleep(10)


KINDS = {
    "slow_headers": (slow_headers, PAUSE),
    "slow_body": (slow_body, PAUSE),
    "huge_body": (huge_body, 2 * PAUSE),
    "huge_body_of_nobody": (huge_body_of_nobody, 2 * PAUSE),
    "bad_key": (bad_key, FLOOD_PAUSE),
    "garbage": (garbage, FLOOD_PAUSE),
    "slow_reader": (slow_reader, PAUSE),
}


async def main(port: int, address: str, seconds: float, key: str, wanted: dict[str, int]) -> None:
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)

    async def client(kind: str) -> None:
        act, pause = KINDS[kind]
        attack = Attack(port, address, key, answers[kind])
        while True:
            await attack(act)
            await asyncio.sleep(pause)

    clients = [
        asyncio.create_task(client(kind)) for kind, count in wanted.items() for _ in range(count)
    ]
    await asyncio.wait(clients, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    json.dump({kind: dict(found) for kind, found in answers.items()}, sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # until Python 3.12 wait_for may lose a cancellation, and its task would go on


if __name__ == "__main__":
    os.nice(19)
    counts = dict(pair.split("=") for pair in sys.argv[5:])
    asyncio.run(
        main(
            int(sys.argv[1]),
            sys.argv[2],
            float(sys.argv[3]),
            sys.argv[4],
            {kind: int(count) for kind, count in counts.items()},
        )
    )
