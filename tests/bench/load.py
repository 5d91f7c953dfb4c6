"""HTTP load from a process of its own: keep-alive connections, one request in flight on each.

Reads a `Plan` from standard input and prints a `Measured`. It understands only answers with a
Content-Length, which makes it several times faster than the servers that it loads.
"""

import asyncio
import random
import sys
import time
from functools import partial
from typing import Any
from uuid import UUID

import msgspec
import uvloop
from msgspec import Struct

from tests.bench.figures import percentile

KEY = b"{key}"
"""In a body, this is replaced by a UUID of its own for every request."""

CONNECT_SECONDS = 10.0


class Request(Struct, frozen=True, kw_only=True):
    """With a ``body`` the method is POST."""

    path: str
    headers: dict[str, str]
    body: str | None = None


class Plan(Struct, frozen=True, kw_only=True):
    """The requests are dealt out to the connections; each picks among its own at random."""

    port: int
    connections: int
    seconds: float
    requests: list[Request]


class Measured(Struct, frozen=True, kw_only=True):
    """Answers with a 2xx status a second; any other status in ``refused`` with its number."""

    rate: float
    p50_ms: float
    p99_ms: float
    refused: dict[int, int]


class Connection(asyncio.Protocol):
    def __init__(self, requests: list[Request], end: float) -> None:
        self._messages = [head_and_body(request) for request in requests]
        self._end = end
        self._received = b""
        self._asked_at = 0.0
        self._transport: Any = None
        self.seconds: list[float] = []
        self.refused: dict[int, int] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        head, body = random.choice(self._messages)
        if KEY in body:
            body = body.replace(KEY, str(UUID(int=random.getrandbits(128))).encode())
        self._asked_at = time.perf_counter()
        self._transport.write(head % len(body) + body)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._received[:head_end].lower()
        at = head.index(b"content-length:") + 15
        line_end = head.find(b"\r\n", at)
        length = int(head[at:line_end] if line_end >= 0 else head[at:])
        if len(self._received) < head_end + 4 + length:
            return
        now = time.perf_counter()
        status = int(head[9:12])
        if 200 <= status < 300:
            self.seconds.append(now - self._asked_at)
        else:
            self.refused[status] = self.refused.get(status, 0) + 1
        self._received = b""
        if now < self._end:
            self._ask()
        elif not self.done.done():
            self._transport.close()
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))


def head_and_body(request: Request) -> tuple[bytes, bytes]:
    """The head still has a ``%d`` for the length of its body."""
    method = "GET" if request.body is None else "POST"
    lines = [f"{method} {request.path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    lines += ["Content-Type: application/json", "Content-Length: %d", "", ""]
    return "\r\n".join(lines).encode(), (request.body or "").encode()


async def put_load(plan: Plan) -> Measured:
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    connections = []
    async with asyncio.timeout(CONNECT_SECONDS):
        for number in range(plan.connections):
            mine = plan.requests[number :: plan.connections]
            made = partial(Connection, mine, started + plan.seconds)
            _, connection = await loop.create_connection(made, "127.0.0.1", plan.port)
            connections.append(connection)
    await asyncio.gather(*(connection.done for connection in connections))
    elapsed = time.perf_counter() - started
    seconds = [second for connection in connections for second in connection.seconds]
    refused: dict[int, int] = {}
    for connection in connections:
        for status, count in connection.refused.items():
            refused[status] = refused.get(status, 0) + count
    return Measured(
        rate=len(seconds) / elapsed,
        p50_ms=1000 * percentile(seconds or [elapsed], 50),
        p99_ms=1000 * percentile(seconds or [elapsed], 99),
        refused=refused,
    )


async def measured(plan: Plan) -> Measured:
    """Run the plan in a process of its own. Raises RuntimeError when an answer was no 2xx."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.load"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate(msgspec.json.encode(plan))
    if process.returncode:
        raise RuntimeError(f"the load on port {plan.port} broke off")
    found = msgspec.json.decode(said, type=Measured)
    if found.refused:
        raise RuntimeError(f"port {plan.port} refused: status and number {found.refused}")
    return found


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(put_load(asked))))
