"""A connection to NATS that nobody reads from any more, whatever holds up its other end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvloop

from libs.bus.broker import make_broker
from tests.support.postgres_front import CHUNK, pipe
from tests.support.waiting import eventually

MUCH = 64  # messages; more than kernels take for a reader that does not read
LARGE = b"x" * 500_000
SILENCE = 1.0  # seconds, instead of twenty


@asynccontextmanager
async def hanging(nats_url: str, frozen: asyncio.Event) -> AsyncIterator[str]:
    """The same server, whose first connection reads nothing more once it is frozen."""
    place = urlsplit(nats_url)
    first = asyncio.Lock()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_first = not first.locked()
        if is_first:
            await first.acquire()
        back, forth = await asyncio.open_connection(place.hostname, place.port)
        answers = asyncio.create_task(pipe(back, writer))
        with suppress(OSError):
            while some := await reader.read(CHUNK):
                if is_first and frozen.is_set():
                    await asyncio.Event().wait()
                forth.write(some)
        forth.close()
        await answers

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        yield nats_url.replace(f":{place.port}", f":{port}")


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_process_leaves_a_server_that_hangs_with_what_it_was_sent(
    nats_url: str, run: Callable[[Coroutine[Any, Any, None]], None]
) -> None:
    run(left(nats_url))


async def left(nats_url: str) -> None:
    frozen = asyncio.Event()
    async with hanging(nats_url, frozen) as url:
        broker = make_broker(url, silence=SILENCE)
        client = await broker.connect()
        frozen.set()

        async def send_much() -> None:
            for _ in range(MUCH):
                await client.publish("much", LARGE)

        async def reconnects() -> int:
            return client.stats["reconnects"]

        sending = asyncio.create_task(send_much())
        await eventually(reconnects, bool)
        await client.flush()
        sending.cancel()
        await broker.stop()
