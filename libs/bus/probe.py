"""Liveness and readiness over HTTP, for whoever starts processes again: Kubernetes, Compose.

A ping over NATS is answered by any replica; a probe asks this very process. To answer it at all,
the event loop must turn: one that is frozen lets every probe time out.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from nats.aio.client import Client

LINE_BYTES = 1_024  # a probe's request line has twenty
PATIENCE = 2.0  # seconds for a request line; who sends none is let go
LIVE, READY = b"/live", b"/ready"


@asynccontextmanager
async def probed(listen: str | None, client: Client) -> AsyncIterator[None]:
    """Answer on ``host:port`` while the body runs; without an address nobody can ask.

    ``/live`` is always 200. ``/ready`` is 503 while NATS is away: the process is not at fault, and
    restarting it would not help. Raises OSError where the address can't be listened on.
    """
    if listen is None:
        yield
        return

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        refused = (OSError, TimeoutError, asyncio.LimitOverrunError, asyncio.IncompleteReadError)
        with suppress(*refused):
            async with asyncio.timeout(PATIENCE):
                request = await reader.readuntil(b"\n")
                writer.write(_answer(request, connected=client.is_connected))
                await writer.drain()
        writer.close()

    host, _, port = listen.rpartition(":")
    server = await asyncio.start_server(serve, host, int(port), limit=LINE_BYTES)
    try:
        yield
    finally:
        server.close()


def _answer(request: bytes, *, connected: bool) -> bytes:
    match request.split(b" ")[:2]:
        case [b"GET", path] if path == LIVE or (path == READY and connected):
            status = "200 OK"
        case [b"GET", path] if path == READY:
            status = "503 Service Unavailable"
        case _:
            status = "404 Not Found"
    return f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
