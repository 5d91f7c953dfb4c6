"""Clients of one event stream, in a process of their own, each with a connection.

Reads a `Watch` from standard input, says ``open`` when every client has its stream, and prints a
`Watched` at the end. A point's ``loss`` is when it was published, by the machine's clock.
"""

import asyncio
import sys
import time

import msgspec
import uvloop
from msgspec import Struct

from tests.bench.figures import percentile

END_SECONDS = 60.0


class Watch(Struct, frozen=True, kw_only=True):
    """Each client waits for so many points."""

    port: int
    path: str
    headers: dict[str, str]
    clients: int
    points: int


class Watched(Struct, frozen=True, kw_only=True):
    """Milliseconds from publication to client, over all points and clients. ``faults`` counts
    the clients to which a point came twice, out of order, or never."""

    p50_ms: float
    p99_ms: float
    worst_ms: float
    faults: int


class Metrics(Struct, frozen=True):
    points: list["Point"]


class Point(Struct, frozen=True):
    step: int
    loss: float


decode_metrics = msgspec.json.Decoder(Metrics).decode


class Client(asyncio.Protocol):
    def __init__(self, watch: Watch) -> None:
        lines = [f"GET {watch.path} HTTP/1.1", "Host: 127.0.0.1"]
        lines += [f"{name}: {value}" for name, value in watch.headers.items()]
        self._request = "\r\n".join([*lines, "", ""]).encode()
        self._points = watch.points
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self.steps: list[int] = []
        self.milliseconds: list[float] = []
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now = time.time()
        *whole, self._received = (self._received + data).split(b"\n")
        for line in whole:
            if line.startswith(b"retry:") and not self.opened.done():
                self.opened.set_result(None)
            elif line.startswith(b'data: {"job_id"'):
                for point in decode_metrics(line[6:]).points:
                    self.steps.append(point.step)
                    self.milliseconds.append(1000 * (now - point.loss))
        if len(self.steps) >= self._points and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        for future in (self.opened, self.done):
            if not future.done():
                future.set_exception(ConnectionError("the server ended the stream"))


async def watch_all(watch: Watch) -> Watched:
    loop = asyncio.get_running_loop()
    clients = []
    async with asyncio.timeout(END_SECONDS):
        for _ in range(watch.clients):
            _, client = await loop.create_connection(lambda: Client(watch), "127.0.0.1", watch.port)
            clients.append(client)
        await asyncio.gather(*(client.opened for client in clients))
        print("open", flush=True)
        await asyncio.gather(*(client.done for client in clients))
    wanted = list(range(watch.points))
    milliseconds = [each for client in clients for each in client.milliseconds]
    return Watched(
        p50_ms=percentile(milliseconds, 50),
        p99_ms=percentile(milliseconds, 99),
        worst_ms=max(milliseconds),
        faults=sum(client.steps != wanted for client in clients),
    )


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.readline(), type=Watch)
    print(msgspec.json.encode(uvloop.run(watch_all(asked))).decode())
