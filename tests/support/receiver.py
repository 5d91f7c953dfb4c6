"""A customer's server: takes webhooks over plain sockets, checks them as an outside party would,
and behaves as badly as it is told to."""

import asyncio
import base64
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Literal, cast

from msgspec import Struct, field
from standardwebhooks import Webhook, WebhookVerificationError

DRIP_EVERY = 0.2  # seconds

Ends = Literal["whole", "never", "reset", "closed", "drips", "floods"]
"""How an answer ends; ``never`` does not begin, ``closed`` and ``reset`` neither."""


class Request(Struct, frozen=True, kw_only=True):
    """``number`` counts the requests to this path, from 1."""

    path: str
    headers: dict[str, str]
    body: bytes
    number: int

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


class Answer(Struct, frozen=True, kw_only=True):
    status: int = 204
    headers: dict[str, str] = {}
    body: bytes = b""
    ends: Ends = "whole"


Behave = Callable[[Request], Answer]


def always(status: int = 204, **rest: object) -> Behave:
    answer = Answer(status=status, **rest)  # type: ignore[arg-type]
    return lambda _: answer


class Endpoint(Struct, kw_only=True):
    """``accepted`` counts, by event, the requests with a valid signature that were answered 2xx;
    ``forged`` counts the others that had none. ``requests`` is only kept for few."""

    secret: bytes
    behave: Behave
    keep: bool = True
    count: int = 0
    in_flight: int = 0
    most_at_once: int = 0
    forged: int = 0
    accepted: Counter[str] = field(default_factory=Counter)
    arrived: dict[str, float] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)

    @property
    def text_secret(self) -> str:
        return "whsec_" + base64.b64encode(self.secret).decode()


class Receiver:
    """Endpoints by path. ``fresh`` says whether something was sent just now, by a sender's clock
    that a test moves."""

    def __init__(self, fresh: Callable[[datetime], bool] = lambda _: False) -> None:
        self.endpoints: dict[str, Endpoint] = {}
        self.connections = 0
        self.port = 0
        self._fresh = fresh
        self._open: set[asyncio.Transport] = set()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def add(self, path: str, secret: bytes, behave: Behave, *, keep: bool = True) -> Endpoint:
        endpoint = Endpoint(secret=secret, behave=behave, keep=keep)
        self.endpoints[path] = endpoint
        return endpoint

    def verified(self, endpoint: Endpoint, headers: dict[str, str], body: bytes) -> bool:
        """By the reference library. It only knows the clock on the wall: where the sender's was
        moved, its tolerance is checked here, and its signature by what it would have signed."""
        library = Webhook(endpoint.text_secret)
        sent = datetime.fromtimestamp(int(headers["webhook-timestamp"]), UTC)
        try:
            library.verify(body, headers, json_parse=False)
        except WebhookVerificationError:
            if abs((sent - datetime.now(UTC)).total_seconds()) < 240:
                return False
            signed = library.sign(headers["webhook-id"], sent, body.decode())
            return self._fresh(sent) and signed in headers["webhook-signature"].split(" ")
        return True

    def take(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        endpoint = self.endpoints.get(path)
        if endpoint is None:
            return Answer(status=404)
        endpoint.count += 1
        request = Request(path=path, headers=headers, body=body, number=endpoint.count)
        if endpoint.keep:
            endpoint.requests.append(request)
        if not self.verified(endpoint, headers, body):
            endpoint.forged += 1
            return Answer(status=400)
        answer = endpoint.behave(request)
        if 200 <= answer.status < 300 and answer.ends in ("whole", "floods"):
            endpoint.accepted[request.id] += 1
            endpoint.arrived.setdefault(request.id, asyncio.get_running_loop().time())
        return answer

    def break_off(self) -> None:
        """Every connection that is open, with no answer."""
        for transport in list(self._open):
            transport.abort()

    @asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator["Receiver"]:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), host, port, backlog=1_000)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self.break_off()


class _Connection(asyncio.Protocol):
    """HTTP/1.1 as far as a webhook needs it: a request at a time, with a Content-Length."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._data = bytearray()
        self._dripping: asyncio.Task[None] | None = None
        self._busy: Endpoint | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._receiver.connections += 1
        self._receiver._open.add(self._transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._receiver._open.discard(self._transport)
        self._done()
        if self._dripping is not None:
            self._dripping.cancel()

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, separator, body = bytes(self._data).partition(b"\r\n\r\n")
        if not separator:
            return
        request_line, *lines = head.decode().split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        if len(body) < int(headers.get("content-length", "0")):
            return
        self._data.clear()
        path = request_line.split(" ")[1]
        self._begin(path)
        self._answer(self._receiver.take(path, headers, body))

    def _begin(self, path: str) -> None:
        self._busy = self._receiver.endpoints.get(path)
        if self._busy is not None:
            self._busy.in_flight += 1
            self._busy.most_at_once = max(self._busy.most_at_once, self._busy.in_flight)

    def _done(self) -> None:
        if self._busy is not None:
            self._busy.in_flight -= 1
            self._busy = None

    def _answer(self, answer: Answer) -> None:
        head = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
        start = f"HTTP/1.1 {answer.status} Reason\r\n{head}".encode()
        match answer.ends:
            case "whole":
                length = (
                    b"" if answer.status == 204 else b"Content-Length: %d\r\n" % len(answer.body)
                )
                self._transport.write(start + length + b"\r\n" + answer.body)
                self._done()
            case "never":
                pass
            case "reset":
                self._transport.abort()
            case "closed":
                self._transport.close()
            case "drips":
                self._transport.write(start + b"Content-Length: 1000\r\n\r\n")
                self._dripping = asyncio.get_running_loop().create_task(self._drip())
            case "floods":
                self._transport.write(start + b"Transfer-Encoding: chunked\r\n\r\n")
                self._dripping = asyncio.get_running_loop().create_task(self._flood())

    async def _drip(self) -> None:
        with suppress(asyncio.CancelledError):
            while True:
                self._transport.write(b".")
                await asyncio.sleep(DRIP_EVERY)

    async def _flood(self) -> None:
        with suppress(asyncio.CancelledError):
            while True:
                self._transport.write(b"2000\r\n" + bytes(0x2000) + b"\r\n")
                await asyncio.sleep(0.001)
