"""A server on a bare socket that answers as it is told to, also with what is no answer at all."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset
HELD = 30.0  # seconds that a silent answer is held open, so that no test hangs for ever


@dataclass
class Asked:
    """A request. Names of ``headers`` are in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


@dataclass
class Answer:
    """What is written, and how the connection ends: kept, closed, reset, or held in silence."""

    head: str = "200 OK"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    missing: int = 0
    """Bytes that Content-Length promises and that never come."""
    then: str = "keep"
    measured: bool = True
    """Says how long its body is; else the end of the connection does."""

    def written(self) -> bytes:
        length = {"Content-Length": str(len(self.body) + self.missing)}
        headers = (length if self.measured else {}) | self.headers
        lines = [f"HTTP/1.1 {self.head}", *(f"{name}: {of}" for name, of in headers.items())]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


RESETS = Answer(then="reset")
SILENT = Answer(then="silence")


def says(body: Any, head: str = "200 OK", **headers: str) -> Answer:
    named = {name.replace("_", "-"): of for name, of in headers.items()}
    return Answer(head, named, msgspec.json.encode(body))


def refuses(head: str, code: str, **headers: str) -> Answer:
    error = {"code": code, "message": f"it is {code}", "request_id": "req-1"}
    return says({"error": error}, head, **headers)


def half(whole: Answer) -> Answer:
    """The same with only half of its body, and then the end of the connection."""
    cut = len(whole.body) // 2
    return Answer(whole.head, whole.headers, whole.body[:cut], len(whole.body) - cut, "close")


@dataclass
class Server:
    url: str
    asked: list[Asked]


@asynccontextmanager
async def failing_server(
    answer: Callable[[Asked], Answer | Awaitable[Answer]],
) -> AsyncIterator[Server]:
    asked: list[Asked] = []
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        try:
            while (request := await _read(reader)) is not None:
                asked.append(request)
                said = answer(request)
                told = said if isinstance(said, Answer) else await said
                if await _end(writer, told):
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writers.discard(writer)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Server(f"http://127.0.0.1:{port}", asked)
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode().rstrip("\r\n").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): of.strip() for name, _, of in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, path, headers, body)


async def _end(writer: asyncio.StreamWriter, answer: Answer) -> bool:
    """Whether the connection is over."""
    if answer.then == "reset":
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()
        return True
    if answer.then == "silence":
        await asyncio.sleep(HELD)
        return True
    writer.write(answer.written())
    await writer.drain()
    return answer.then == "close"
