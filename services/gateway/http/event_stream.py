"""An answer that goes on: server-sent events (WHATWG HTML, 9.2)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager

import structlog
from litestar.types import Receive, Scope, Send

from services.gateway.http.replies import Reply

logger = structlog.get_logger()

EVENT_STREAM = "text/event-stream"
HEADERS = {
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold back what it could send together
}

Pieces = AsyncIterator[bytes]


class EventStream:
    """An ASGI application that sends pieces until there are no more, or the client goes away.

    ``opened`` gives them, or None when nothing is left to come, which is a 204 and tells an
    EventSource not to ask again. What it holds is let go of in any case. It may raise ApiError.
    """

    __slots__ = ("_opened",)

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[Pieces | None]]) -> None:
        self._opened = opened

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._opened() as pieces:
            if pieces is None:
                await Reply(204, b"", HEADERS)(scope, receive, send)
                return
            headers = [(b"content-type", EVENT_STREAM.encode())]
            headers += [(name.lower().encode(), of.encode()) for name, of in HEADERS.items()]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            gone = asyncio.create_task(_client_gone(receive))
            sending = asyncio.create_task(_send_all(pieces, send))
            try:
                await asyncio.wait({gone, sending}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                gone.cancel()
                sending.cancel()
                ends = await asyncio.gather(gone, sending, return_exceptions=True)
                for error in ends:
                    # The answer has begun: its client sees it break off, and comes again.
                    if isinstance(error, Exception):
                        logger.error("stream broke off", exc_info=error)


async def _send_all(pieces: Pieces, send: Send) -> None:
    async for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
