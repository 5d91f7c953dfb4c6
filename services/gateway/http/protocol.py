"""uvicorn's HTTP, with its own answers in the platform's envelope, and limits on headers.

What is not HTTP never reaches the application: uvicorn answers it by itself, in plain text. Nor has
uvicorn a limit on what it keeps of a request line and headers that never end, or on how long it
waits for the rest of a request.
"""

import asyncio
from collections.abc import Callable

import msgspec
import structlog
from httptools import HttpParserError
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.gateway.http.errors import Error, ErrorEnvelope
from services.gateway.http.problems import PROBLEMS, Code

HEAD_LIMIT = 64 * 1024
"""Bytes of target and headers: four times what browsers and proxies let through."""

LINGER = 1.0
"""Seconds for what a refused client has sent already to arrive."""

SILENCE = 30.0
"""Seconds without a byte from a client that owes the rest of a request, or in which one that is
being answered reads nothing. Each such connection holds
an open file, so whoever opens enough of them would shut everybody out."""

NOT_HTTP = "What was sent is not an HTTP/1.1 request; check the request line, headers and chunks."
TOO_LONG = f"The request's target and headers are over {HEAD_LIMIT // 1024} KiB; send less."

logger = structlog.get_logger()


def http_protocol(
    new_request_id: Callable[[], str], *, silence: float = SILENCE
) -> type[HttpToolsProtocol]:
    """The class that ``uvicorn.Config`` takes as ``http``; it makes one of it per connection."""
    told = {"new_request_id": staticmethod(new_request_id), "silence": silence}
    return type("Protocol", (EnvelopeProtocol,), told)


class EnvelopeProtocol(HttpToolsProtocol):
    new_request_id: Callable[[], str]
    silence: float
    _head = 0  # bytes of the request's target and headers
    _held = 0  # bytes since the parser last gave something up; it keeps a value until its end
    _moved = False
    _refused = False
    _heard = False  # anything since the last look
    _unread = 0  # bytes of the answer that waited for the client at the last look
    _drained = False  # whether they became few enough for more since then
    _look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look = self.loop.call_later(self.silence, self._look_for_silence)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def _look_for_silence(self) -> None:
        if self._owed() and not self._heard:
            self.transport.close()
            return
        if self._takes_nothing():
            self.transport.abort()
            return
        self._heard = False
        self._look = self.loop.call_later(self.silence, self._look_for_silence)

    def _takes_nothing(self) -> bool:
        """While nothing drains, nothing is added, so as many bytes are the same ones."""
        before, self._unread = self._unread, self.transport.get_write_buffer_size()
        drained, self._drained = self._drained, False
        return self.flow.write_paused and not drained and self._unread == before

    def resume_writing(self) -> None:
        self._drained = True
        super().resume_writing()

    def _owed(self) -> bool:
        """Whether the next step is the client's; between requests uvicorn looks by itself."""
        if self.cycle is None:
            return True
        if self.cycle.response_complete:
            return self.timeout_keep_alive_task is None
        return self.cycle.more_body and not self.flow.read_paused

    def data_received(self, data: bytes) -> None:
        self._heard = True
        if self._refused:
            return
        self._moved = False
        super().data_received(data)
        self._held = 0 if self._moved else self._held + len(data)
        if self._held > HEAD_LIMIT and not self._refused:
            self.send_400_response(TOO_LONG)

    def on_message_begin(self) -> None:
        self._head = 0
        self._moved = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + len(": \r\n"))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._moved = True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._moved = True
        super().on_body(body)

    def _count(self, more: int) -> None:
        """Raising in a callback makes the parser fail, so the connection ends with a 400."""
        self._head += more
        if self._head > HEAD_LIMIT:
            raise HttpParserError(TOO_LONG)

    def _should_upgrade_to_ws(self) -> bool:
        return False

    def _unsupported_upgrade_warning(self) -> None:
        """The request is answered as if it had not asked. The parser reads nothing behind it,
        so the connection ends with the answer, instead of leaving a next request unread."""
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        cycle = self.cycle
        whole = cycle is None or not cycle.more_body
        if cycle is not None and whole and not cycle.response_complete:
            # The fault is behind a whole request, whose own answer is still to come.
            cycle.keep_alive = False
            return
        if cycle is None or whole or not cycle.response_started:
            message = TOO_LONG if max(self._head, self._held) > HEAD_LIMIT else NOT_HTTP
            self._refuse(refusal(message, self.new_request_id()))
        else:
            self.transport.close()

    def _refuse(self, answer: bytes) -> None:
        """Say so, and read on for a moment: a connection that is closed on data which still
        comes in is reset, and the client never sees the answer."""
        self._refused = True
        self.transport.write(answer)
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write_eof()
        self.flow.resume_reading()
        self.loop.call_later(LINGER, self.transport.close)


def refusal(message: str, request_id: str) -> bytes:
    """A whole answer, after which the connection is closed."""
    logger.info("refused what is not http", request_id=request_id, reason=message)
    code: Code = "malformed_request"
    body = msgspec.json.encode(ErrorEnvelope(Error(code, message, request_id)))
    head = (
        f"HTTP/1.1 {PROBLEMS[code].status} Bad Request\r\n"
        "content-type: application/json\r\n"
        f"content-length: {len(body)}\r\n"
        f"x-request-id: {request_id}\r\n"
        "connection: close\r\n\r\n"
    )
    return head.encode("ascii") + body
