"""One request to one endpoint: bounded in time and in bytes, and never to where it must not go."""

import asyncio
import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import aiohttp
import structlog
from aiohttp.abc import AbstractResolver
from aiohttp.hdrs import RETRY_AFTER
from msgspec import Struct
from yarl import URL

from services.webhooks.guard import NOT_PUBLIC, Gate, refusal
from services.webhooks.model import response_text, retry_after

TIMEOUT = 15.0  # seconds, from the question to DNS to the answer's end; the specification: 15 to 30
MOST_READ = 64 * 1024  # bytes of an answer; what comes behind them is not waited for
READ_BUFFER = 16 * 1024  # bytes a connection; a thousand endpoints may answer at once
KEEP_ALIVE = 3.0  # seconds; common servers close after five, and what is being sent then is lost
DNS_MEMORY = 10  # seconds; the address is judged when it is dialled, so an old answer is no risk
USER_AGENT = "Tuneyard-Webhooks/1.0"

logger = structlog.get_logger()


class Reply(Struct, frozen=True, kw_only=True):
    """``error`` is null exactly when a whole answer came, or the first 64 KB of one."""

    status_code: int | None = None
    error: str | None = None
    response: str | None = None
    retry_after: timedelta | None = None


class Client(Struct, frozen=True, kw_only=True):
    """What sending needs; ``now`` is UTC, ``timeout`` in seconds over the whole request."""

    http: aiohttp.ClientSession
    gate: Gate
    now: Callable[[], datetime]
    timeout: float = TIMEOUT


@asynccontextmanager
async def outbound(
    gate: Gate, resolver: AbstractResolver, now: Callable[[], datetime], *, timeout: float = TIMEOUT
) -> AsyncIterator[Client]:
    """A connection that is kept alive was checked when it was dialled, and serves its host only."""
    connector = aiohttp.TCPConnector(
        socket_factory=gate.make_socket,
        resolver=resolver,
        ttl_dns_cache=DNS_MEMORY,
        limit=0,  # the sender bounds what is in flight
        keepalive_timeout=KEEP_ALIVE,
    )
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        trust_env=False,  # no proxy and no .netrc of this machine
        auto_decompress=False,  # 64 KB stay 64 KB
        read_bufsize=READ_BUFFER,
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
    ) as http:
        try:
            yield Client(http=http, gate=gate, now=now, timeout=timeout)
        finally:
            await resolver.close()


async def post(client: Client, url: str, payload: bytes, headers: dict[str, str]) -> Reply:
    """Never raises: whatever goes wrong is the endpoint's failure, and says why to its owner."""
    refused = refusal(url, allow_loopback=client.gate.allow_loopback)
    if refused is not None:
        return Reply(error=refused)
    status: int | None = None
    try:
        async with (
            asyncio.timeout(client.timeout),
            client.http.post(
                URL(url),
                data=payload,
                headers=headers | {"Content-Type": "application/json"},
                allow_redirects=False,
            ) as answer,
        ):
            status = answer.status
            asked_for = retry_after(answer.headers.get(RETRY_AFTER), client.now())
            body = await _beginning(answer)
            return Reply(status_code=status, response=response_text(body), retry_after=asked_for)
    except Exception as error:
        return Reply(status_code=status, error=_sentence(error, client.timeout))


async def _beginning(answer: aiohttp.ClientResponse) -> bytes:
    """Its first bytes. An answer that does not end within ``MOST_READ`` is cut off with its
    connection; one that does leaves it for the next request."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > MOST_READ:
            answer.close()
            break
    return bytes(body)


def _sentence(error: Exception, timeout: float) -> str:
    match error:
        case TimeoutError():
            return f"No complete answer within {timeout:g} seconds."
        case aiohttp.ClientConnectorDNSError():
            return "The host's name could not be resolved."
        case aiohttp.ClientConnectorCertificateError():
            return "The TLS certificate is not valid for this host."
        case aiohttp.ClientConnectorSSLError():
            return "TLS could not be agreed on."
        case OSError(errno=errno.EACCES):
            return NOT_PUBLIC
        case aiohttp.ClientConnectorError():
            return "No connection could be made."
        case aiohttp.ClientOSError() | aiohttp.ServerDisconnectedError():
            return "The connection was closed before an answer came."
        case aiohttp.ClientPayloadError():
            return "The connection was closed before the answer's end."
        case aiohttp.ClientError():
            return "The answer was not valid HTTP."
    logger.error("a webhook could not be sent", exc_info=error)
    return "The request could not be sent."
