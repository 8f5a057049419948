"""A server of HTTP/2 over TLS that answers with words, for as long as somebody listens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from pathlib import Path

import h2.config
import h2.connection
import h2.events

HEADERS = [(":status", "200"), ("content-type", "text/event-stream")]


class Http2Server:
    """`endless`: never finish an answer. closed: connections whose client went away."""

    def __init__(self, certificate: tuple[Path, Path]) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*certificate)
        self.context.set_alpn_protocols(["h2"])
        self.endless = False
        self.connections = self.requests = self.closed = 0

    async def __aenter__(self) -> Http2Server:
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=self.context)
        self.url = f"https://127.0.0.1:{self.server.sockets[0].getsockname()[1]}/v1"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        state.initiate_connection()
        try:
            while True:
                writer.write(state.data_to_send())
                await writer.drain()
                data = await reader.read(65536)
                if not data:
                    break
                for event in state.receive_data(data):
                    if isinstance(event, h2.events.RequestReceived):
                        self.requests += 1
                        self.answer(state, event.stream_id)
        except ConnectionError:
            pass
        finally:
            self.closed += 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def answer(self, state: h2.connection.H2Connection, stream: int) -> None:
        state.send_headers(stream, HEADERS)
        state.send_data(stream, event("one"))
        if not self.endless:
            state.send_data(stream, event(" two", "stop") + b"data: [DONE]\n\n", end_stream=True)


def event(text: str, reason: str | None = None) -> bytes:
    choice = {"delta": {"content": text}, "finish_reason": reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"
