"""NATS behind a connection that may hang."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

from tests.support.postgres_front import CHUNK, pipe


@asynccontextmanager
async def hanging(nats_url: str, flows: asyncio.Event) -> AsyncIterator[str]:
    """The same server, whose first connection takes something only while it ``flows``."""
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
                if is_first:
                    await flows.wait()
                forth.write(some)
        forth.close()
        await answers

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        yield nats_url.replace(f":{place.port}", f":{port}")
