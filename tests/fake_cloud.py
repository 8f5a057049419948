"""A cloud model for tests and benchmarks: an OpenAI-compatible server in a process of its own.

    python tests/fake_cloud.py --port 9000 --key secret

It prints one line of JSON with its addresses. The answer to everything is "w0 w1 w2 …", a word a
piece, `max_tokens` words (20 by default); an answer that has been begun is gone on with. Asked
with tools, it makes the calls of the setting `calls` instead, `[[name, arguments], …]`. Faults are
switched on over a second port, which works while the first refuses connections; `FakeCloud`
does so from a test.

Faults, each with `times` (how many calls; all, if left out) and, where it makes sense, `after`
(pieces): `reset`, `hang` (before the headers), `comments`, `silence` and `empty_deltas` (before
the first token), `stall`, `cut`, `broken_json`, `html`, `empty_choices`, `error_event`, `status`
(with `status`, `message`, `code`, `retry_after`, `endless`), `key_echo`, `slow` (`delay`),
`content_filter` (a 400), `filtered` (as finish_reason), `no_done`, `no_reason`, `no_usage`,
`open_end`, `whole`, `tool_call`. `refuse` closes the port and all connections for `seconds`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import socket
import ssl
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

from far_side import FarSide
from ports import free_port

WORDS = 20


def text_of(count: int, first: int = 0) -> str:
    """What the fake answers: words number `first` to `count` - 1 of the only text it knows."""
    return "".join(pieces_of(count, first))


def pieces_of(count: int, first: int = 0) -> list[str]:
    return [f"{' ' * (number > 0)}w{number}" for number in range(first, count)]


def calls_of(calls: list[list[str]]) -> list[dict[str, Any]]:
    """`tool_calls` of a whole answer."""
    return [
        {"id": f"call_{at}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for at, (name, arguments) in enumerate(calls)
    ]


def deltas_of(calls: list[list[str]]) -> list[dict[str, Any]]:
    """The same as pieces of a stream: first the id and the name, then some characters a piece."""
    deltas = []
    for at, call in enumerate(calls_of(calls)):
        function = call["function"]
        text = function["arguments"]
        begun = {**call, "index": at, "function": {**function, "arguments": ""}}
        some = [text[start : start + 4] for start in range(0, len(text), 4)]
        pieces = [{"index": at, "function": {"arguments": piece}} for piece in some]
        deltas += [{"tool_calls": [piece]} for piece in (begun, *pieces)]
    return deltas


class Gone(Exception):
    """The client closed its connection."""


class Line:
    """One connection; notices when the client leaves without reading ahead."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.gzip: Any = None

    async def request(self) -> tuple[str, str, dict[str, str], bytes] | None:
        """Method, path, headers and body of the next request; None when there is none."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            method, path, _ = first.split(" ")
            pairs = (line.partition(":") for line in lines if line)
            headers = {name.lower(): value.strip() for name, _, value in pairs}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        except (asyncio.IncompleteReadError, ConnectionError, ValueError):
            return None
        return method, path, headers, body

    def check(self) -> None:
        if self.reader.at_eof() or self.reader.exception() or self.writer.is_closing():
            raise Gone

    async def pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.check()
        while (rest := end - time.monotonic()) > 0:
            await asyncio.sleep(min(rest, 0.01))
            self.check()

    def send(self, status: int, headers: dict[str, str], body: bytes | None) -> None:
        """Headers and a whole body, or the headers of a stream if `body` is None."""
        length = {"Transfer-Encoding": "chunked"}
        if body is not None:
            length = {"Content-Length": str(len(body))}
        lines = [f"HTTP/1.1 {status} -"]
        lines += [f"{name}: {value}" for name, value in {**length, **headers}.items()]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + (body or b""))

    def json(self, status: int, body: Any, **headers: str) -> None:
        named = {"Content-Type": "application/json"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        self.send(status, named, json.dumps(body).encode())

    async def chunk(self, data: bytes) -> None:
        self.check()
        if self.gzip is not None:
            data = self.gzip.compress(data) + self.gzip.flush(zlib.Z_SYNC_FLUSH)
        self.writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def event(self, body: Any) -> None:
        await self.chunk(b"data: " + json.dumps(body).encode() + b"\n\n")

    def end_chunks(self) -> None:
        self.writer.write(b"0\r\n\r\n")

    def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


class Cloud:
    """The server's state: what it was asked, and what it is to do wrong."""

    def __init__(self, key: str | None) -> None:
        self.key = key
        self.calls: list[dict[str, Any]] = []
        self.faults: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {}
        self.lines: set[Line] = set()
        self.answers: dict[str, list[str]] = {}
        self.connections = self.computed = self.replayed = 0

    def state(self) -> dict[str, Any]:
        names = ("calls", "connections", "computed", "replayed")
        return {name: getattr(self, name) for name in names}

    def take_fault(self) -> dict[str, Any]:
        for fault in self.faults:
            if fault.get("times", 1) > 0:
                if "times" in fault:
                    fault["times"] -= 1
                return fault
        return {"name": ""}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        self.lines.add(line)
        self.connections += 1
        number = self.connections
        try:
            while request := await line.request():
                method, path, headers, body = request
                call: dict[str, Any] = {
                    "time": time.time(),
                    "method": method,
                    "path": path,
                    "headers": headers,
                    "body": json.loads(body or b"null"),
                    "connection": number,
                    "left": False,
                    "ended": False,
                    "pieces": 0,
                }
                self.calls.append(call)
                try:
                    await self.answer(line, call)
                except Gone:
                    call["left"] = True
                    break
                finally:
                    call["ended"] = True
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
                if writer.is_closing():
                    break
        finally:
            self.lines.discard(line)
            writer.close()

    async def answer(self, line: Line, call: dict[str, Any]) -> None:
        if self.key and call["headers"].get("authorization") != f"Bearer {self.key}":
            line.json(401, {"error": {"message": "who are you?", "code": "invalid_api_key"}})
        elif call["path"].endswith("/models"):
            line.json(200, {"object": "list", "data": [{"id": "words", "object": "model"}]})
        elif call["path"].endswith("/completions"):
            fault = self.take_fault()
            refused = await self.refuse(line, call, fault)
            if not refused:
                await self.speak(line, call, fault)
        else:
            line.json(404, {"error": {"message": f"no such path: {call['path']}"}})

    async def refuse(self, line: Line, call: dict[str, Any], fault: dict[str, Any]) -> bool:
        """The faults that leave nothing of an answer."""
        name = fault["name"]
        if name == "reset":
            line.reset()
        elif name == "hang":
            await line.pause(fault.get("seconds", 3600))
        elif name == "html":
            line.send(200, {"Content-Type": "text/html"}, b"<html><p>Log in to Free WiFi</html>")
        elif name == "content_filter":
            error = {"message": "not nice", "code": "content_filter", "type": None}
            line.json(400, {"error": error})
        elif name == "key_echo":
            words = call["headers"].get("authorization", "no key")
            line.json(401, {"error": {"message": f"bad credentials: {words}", "code": 401}})
        elif name == "status":
            await self.status(line, fault)
        return name in ("reset", "hang", "html", "content_filter", "key_echo", "status")

    async def status(self, line: Line, fault: dict[str, Any]) -> None:
        status = fault["status"]
        error = {"message": fault.get("message", f"status {status}"), "code": fault.get("code")}
        wait = fault.get("retry_after")
        headers = {} if wait is None else {"Retry_After": str(wait)}
        if not fault.get("endless"):
            line.json(status, {"error": error}, **headers)
            return
        line.send(status, {"Content-Type": "text/plain"}, None)
        while True:
            await line.chunk(b"no ")
            await line.pause(0.01)

    def words(self, call: dict[str, Any]) -> list[Any]:
        """The pieces to say, computed once for an idempotency key."""
        if call["body"].get("tools") and self.settings.get("calls"):
            return deltas_of(self.settings["calls"])
        key = call["headers"].get("idempotency-key")
        if key in self.answers:
            self.replayed += 1
            return self.answers[key]
        self.computed += 1
        body = call["body"]
        last = body.get("messages", [{"role": "", "content": ""}])[-1]
        said = last["content"] if last["role"] == "assistant" else ""
        if self.settings.get("start_over") or not text_of(len(said)).startswith(said):
            said = ""
        count, begun = body.get("max_tokens"), len(said.split())
        total = begun + count if count else max(WORDS, begun)
        pieces, skip = [], len(said)
        for piece in pieces_of(total):
            if piece[skip:]:
                pieces.append(piece[skip:])
            skip = max(0, skip - len(piece))
        if key:
            self.answers[key] = pieces
        return pieces

    async def speak(self, line: Line, call: dict[str, Any], fault: dict[str, Any]) -> None:
        words, body = self.words(call), call["body"]
        calling = any(isinstance(word, dict) for word in words)
        reason = "length" if body.get("max_tokens") else "tool_calls" if calling else "stop"
        reason = self.settings.get("reason", reason) if calling else reason
        if fault["name"] == "filtered":
            reason = "content_filter"
        contents = [message["content"] or "" for message in body.get("messages", [])]
        asked = " ".join(contents) or body.get("prompt", "")
        usage = {
            "prompt_tokens": len(asked.split()),
            "completion_tokens": len(words),
            "total_tokens": len(asked.split()) + len(words),
            "prompt_tokens_details": {"cached_tokens": 1},
        }
        form = Form(call["path"].endswith("/chat/completions"), body)
        if body.get("stream") and fault["name"] != "whole":
            await self.stream(line, call, fault, form, words, reason, usage)
            return
        await line.pause(fault.get("delay", 0) * len(words))
        if calling:
            whole = form.whole(None, reason, usage)
            whole["choices"][0]["message"]["tool_calls"] = calls_of(self.settings["calls"])
        else:
            whole = form.whole("".join(words), reason, usage)
        text = json.dumps(whole).encode()
        if fault["name"] == "empty_choices":
            text = json.dumps({"choices": [], "usage": None}).encode()
        cut = text[: len(text) // 2] if fault["name"] == "broken_json" else text
        line.send(200, {"Content-Type": "application/json"}, cut)

    async def stream(
        self,
        line: Line,
        call: dict[str, Any],
        fault: dict[str, Any],
        form: Form,
        words: list[Any],
        reason: str,
        usage: dict[str, Any],
    ) -> None:
        headers = {"Content-Type": "text/event-stream; charset=utf-8"}
        line.gzip = None
        if self.settings.get("gzip") and "gzip" in call["headers"].get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            line.gzip = zlib.compressobj(wbits=31)
        line.send(200, headers, None)
        if form.chat:
            await line.event(form.chunk({"role": "assistant", "content": ""}))
        name, after = fault["name"], fault.get("after", 0)
        for number, word in enumerate(words):
            if number == after and await self.stumble(line, name, form):
                return
            await line.pause(fault.get("delay", 0))
            await line.event(form.chunk(word if isinstance(word, dict) else {"content": word}))
            call["pieces"] += 1
        await self.finish(line, name, form, reason, usage)

    async def stumble(self, line: Line, name: str, form: Form) -> bool:
        """The faults in the middle of a stream. True if it is over."""
        if name == "cut":
            line.writer.close()
        elif name in ("stall", "silence"):
            await line.pause(3600)
        elif name in ("comments", "empty_deltas"):
            while True:
                await line.chunk(b": keep-alive\n\n") if name == "comments" else await line.event(
                    form.chunk({"content": ""})
                )
                await line.pause(0.02)
        elif name == "broken_json":
            await line.chunk(b'data: {"choices": [{"delta"\n\n')
        elif name == "empty_choices":
            await line.event({"object": "chat.completion.chunk", "choices": []})
        elif name == "error_event":
            await line.event({"error": {"message": "out of memory", "type": "server_error"}})
        elif name == "tool_call":
            await line.event(form.chunk({"tool_calls": [{"index": 0, "id": "1"}]}))
        return name == "cut"

    async def finish(
        self, line: Line, name: str, form: Form, reason: str, usage: dict[str, Any]
    ) -> None:
        if name != "no_reason":
            await line.event(form.chunk({}, reason))
        if name == "open_end":
            await line.pause(3600)
        if form.wants_usage and name not in ("no_usage", "no_done"):
            await line.event({**form.chunk({}), "choices": [], "usage": usage})
        if name != "no_done":
            await line.chunk(b"data: [DONE]\n\n")
        line.end_chunks()


class Form:
    """The two shapes of an answer: of a chat, or of a completion."""

    def __init__(self, chat: bool, body: dict[str, Any]) -> None:
        self.chat = chat
        self.model = body.get("model")
        self.logprobs = body.get("logprobs")
        self.top = body.get("top_logprobs", 0) if chat else (self.logprobs or 0)
        self.wants_usage = (body.get("stream_options") or {}).get("include_usage")

    def chunk(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        if self.chat:
            choice["delta"] = delta
        else:
            choice["text"] = delta.get("content", "")
        if self.logprobs and delta.get("content"):
            choice["logprobs"] = self.listed(delta["content"])
        name = "chat.completion.chunk" if self.chat else "text_completion"
        return {"id": "fake", "object": name, "model": self.model, "choices": [choice]}

    def listed(self, word: str) -> dict[str, Any]:
        others = [f"{word}{'?' * number}" for number in range(self.top)]
        if not self.chat:
            tops = {other: -0.5 - number for number, other in enumerate(others)}
            return {"tokens": [word], "token_logprobs": [-0.5], "top_logprobs": [tops]}
        entry = {"token": word, "logprob": -0.5, "bytes": list(word.encode())}
        tops = [
            {**entry, "token": o, "bytes": None, "logprob": -0.5 - n} for n, o in enumerate(others)
        ]
        return {"content": [{**entry, "top_logprobs": tops}]}

    def whole(self, text: str | None, reason: str, usage: dict[str, Any]) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "finish_reason": reason}
        if self.chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        return {"id": "fake", "model": self.model, "choices": [choice], "usage": usage}


class Program:
    """The listening sockets: that of the cloud, and that for control."""

    def __init__(self, cloud: Cloud, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        self.cloud = cloud
        self.host = host
        self.port = port
        self.tls = tls
        self.server: asyncio.Server | None = None

    async def run(self, control_port: int) -> None:
        await self.listen()
        control = await asyncio.start_server(self.control, self.host, control_port)
        scheme = "https" if self.tls else "http"
        addresses = {
            "url": f"{scheme}://{self.host}:{self.port}/v1",
            "control": control.sockets[0].getsockname()[1],
        }
        print(json.dumps(addresses), flush=True)  # noqa: T201
        await control.serve_forever()

    async def listen(self) -> None:
        self.server = await asyncio.start_server(
            self.cloud.serve, self.host, self.port, ssl=self.tls, backlog=1024
        )
        self.port = self.server.sockets[0].getsockname()[1]

    async def refuse(self, seconds: float) -> None:
        """Let nobody in, and throw everybody out."""
        assert self.server is not None
        self.server.close()
        for line in list(self.cloud.lines):
            line.reset()
        asyncio.get_running_loop().call_later(
            seconds, lambda: setattr(self, "back", asyncio.ensure_future(self.listen()))
        )

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        while request := await line.request():
            _, path, _, body = request
            order = json.loads(body or b"{}")
            if path == "/fault" and order["name"] == "refuse":
                await self.refuse(order["seconds"])
            elif path == "/fault":
                self.cloud.faults.append(order)
            elif path == "/set":
                self.cloud.settings |= order
            elif path == "/clear":
                self.cloud.faults.clear()
                self.cloud.settings.clear()
            line.json(200, self.cloud.state() if path == "/state" else {})
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        writer.close()


class FakeCloud:
    """The program as a child process. `url` is a base URL; it stays the same after a restart.

    far_side: where it is, behind a link that can be cut.
    """

    def __init__(
        self,
        key: str | None = None,
        tls: tuple[Path, Path] | None = None,
        far_side: FarSide | None = None,
    ) -> None:
        self.key = key
        self.tls = tls
        self.port = free_port()
        self.host = far_side.address if far_side else "127.0.0.1"
        self.url = ""
        self._command = far_side.command if far_side else []
        self._control = 0

    def __enter__(self) -> FakeCloud:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> FakeCloud:
        options = [
            "--host",
            self.host,
            "--port",
            str(self.port),
            *(["--key", self.key] if self.key else []),
        ]
        if self.tls:
            options += ["--tls-cert", str(self.tls[0]), "--tls-key", str(self.tls[1])]
        self.process = subprocess.Popen(
            [*self._command, sys.executable, str(Path(__file__)), *options],
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        addresses = json.loads(self.process.stdout.readline())
        self.url, self._control = addresses["url"], addresses["control"]
        return self

    def stop(self) -> None:
        """It is gone at once, with all connections and all that it knew."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)
        if self.process.stdout is not None:
            self.process.stdout.close()

    def fault(self, name: str, **options: Any) -> None:
        """Faults are used up in the order in which they were switched on."""
        self._ask("/fault", {"name": name, **options})

    def set(self, **settings: Any) -> None:
        """start_over: ignore a begun answer. gzip: compress streams. calls: of tools, to make
        instead of saying words. reason: the finish_reason of those."""
        self._ask("/set", settings)

    def clear(self) -> None:
        """No faults any more."""
        self._ask("/clear", {})

    def state(self) -> dict[str, Any]:
        """`calls`, `connections`, and how many answers were `computed` and `replayed`."""
        return self._ask("/state", {})

    def calls(self, path: str = "/completions") -> list[dict[str, Any]]:
        """What it was asked at paths that end so: `headers` (in lower case), `body`, `left` …"""
        return [call for call in self.state()["calls"] if call["path"].endswith(path)]

    def _ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self.host, self._control, timeout=30)
        try:
            connection.request("POST", path, json.dumps(body))
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found
        finally:
            connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--control-port", type=int, default=0)
    parser.add_argument("--key")
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")
    options = parser.parse_args()
    tls = None
    if options.tls_cert:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(options.tls_cert, options.tls_key)
    program = Program(Cloud(options.key), options.host, options.port, tls)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(program.run(options.control_port))


if __name__ == "__main__":
    main()
