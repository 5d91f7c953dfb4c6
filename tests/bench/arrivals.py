"""HTTP load that does not wait for its answers: every request has its moment, fixed in advance.

The moments are those of a Poisson process (Wrk2 and "coordinated omission": Gil Tene, 2013): a
request's time counts from its moment, also when the server, or this process, was behind by then.
Reads `Arrivals` from standard input, and prints an `Arrived`.
"""

import asyncio
import random
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from typing import Any
from uuid import UUID

import msgspec
import uvloop
from msgspec import Struct

from tests.bench.figures import percentile
from tests.bench.load import KEY, Request, head_and_body

SEED = 20_240
END_SECONDS = 60.0  # for the last answers
MOST_CONNECTIONS = 1_000  # in flight at once; a server that is so far behind has failed anyway


class Arrivals(Struct, frozen=True, kw_only=True):
    """``count`` requests within ``seconds``, which take turns."""

    port: int
    count: int
    seconds: float
    requests: list[Request]


class Arrived(Struct, frozen=True, kw_only=True):
    """Milliseconds from each request's moment to its answer. ``late_p99_ms``: how far this process
    itself was behind. ``repeated``: how often a connection broke. ``refused``: the statuses that
    were no 2xx, with their number."""

    accepted: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    late_p99_ms: float
    connections: int
    repeated: int
    refused: dict[int, int]


def moments(arrivals: Arrivals) -> list[float]:
    """Seconds from the beginning, in order: a Poisson process of which the number is known."""
    chance = random.Random(SEED)
    return sorted(chance.uniform(0, arrivals.seconds) for _ in range(arrivals.count))


class Client(asyncio.Protocol):
    """A kept-alive connection; one request in flight."""

    def __init__(self, load: "Load") -> None:
        self._load = load
        self._received = b""
        self.message = b""
        self.due = 0.0
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def ask(self, message: bytes, due: float) -> None:
        self.message, self.due = message, due
        self.transport.write(message)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._received[:head_end].lower()
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self._received) < head_end + 4 + length:
            return
        self._received = b""
        self._load.answered(self, int(head.split(b" ", 2)[1]))

    def connection_lost(self, error: Exception | None) -> None:
        self._load.lost(self)


class Load:
    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._idle: list[Client] = []
        self._left = arrivals.count
        self._chance = random.Random(SEED)
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = self.most_connections = 0
        self.seconds: list[float] = []
        self.repeated = 0
        self.late: list[float] = []
        self.refused: dict[int, int] = {}

    async def run(self) -> None:
        messages = cycle([head_and_body(request) for request in self._arrivals.requests])
        began = time.perf_counter()
        for moment in moments(self._arrivals):
            due = began + moment
            if (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            self.late.append(time.perf_counter() - due)
            self._send(self._message(messages), due)
        async with asyncio.timeout(END_SECONDS):
            await self._done

    def _message(self, messages: Iterator[tuple[bytes, bytes]]) -> bytes:
        head, body = next(messages)
        body = body.replace(KEY, str(UUID(int=self._chance.getrandbits(128))).encode())
        return head % len(body) + body

    def _send(self, message: bytes, due: float) -> None:
        if self._idle:
            self._idle.pop().ask(message, due)
            return
        if self.connections >= MOST_CONNECTIONS:
            raise RuntimeError(f"{MOST_CONNECTIONS} requests have no answer")
        self.connections += 1
        self.most_connections = max(self.most_connections, self.connections)
        task = asyncio.create_task(self._send_anew(message, due))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send_anew(self, message: bytes, due: float) -> None:
        loop = asyncio.get_running_loop()
        _, client = await loop.create_connection(
            lambda: Client(self), "127.0.0.1", self._arrivals.port
        )
        client.ask(message, due)

    def answered(self, client: Client, status: int) -> None:
        if 200 <= status < 300:
            self.seconds.append(time.perf_counter() - client.due)
        else:
            self.refused[status] = self.refused.get(status, 0) + 1
        self._idle.append(client)
        self._left -= 1
        if not self._left:
            self._done.set_result(None)

    def lost(self, client: Client) -> None:
        """A server may close what nobody uses, also just when somebody does: then it has not read
        the request, and whoever it came from sends it again, under the same idempotency key."""
        self.connections -= 1
        if client in self._idle:
            self._idle.remove(client)
        elif not self._done.done():
            self.repeated += 1
            self._send(client.message, client.due)


async def put_load(arrivals: Arrivals) -> Arrived:
    load = Load(arrivals)
    await load.run()
    seconds = load.seconds or [0.0]
    return Arrived(
        accepted=len(load.seconds),
        p50_ms=1000 * percentile(seconds, 50),
        p99_ms=1000 * percentile(seconds, 99),
        worst_ms=1000 * max(seconds),
        late_p99_ms=1000 * percentile(load.late, 99),
        connections=load.most_connections,
        repeated=load.repeated,
        refused=load.refused,
    )


async def arrived(arrivals: Arrivals) -> Arrived:
    """Run it in a process of its own. Raises RuntimeError when an answer was no 2xx."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.arrivals"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await process.communicate(msgspec.json.encode(arrivals))
    if process.returncode:
        raise RuntimeError("the load broke off")
    found = msgspec.json.decode(said, type=Arrived)
    if found.refused:
        raise RuntimeError(f"submissions were refused: status and number {found.refused}")
    return found


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Arrivals)
    sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(put_load(asked))))
