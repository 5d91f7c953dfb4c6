"""Job events for programs of the operator's own: a durable subscription in ten lines.

``tuneyard-server subscriber create NAME`` gives the address. What is promised, and how to handle
each event exactly once, is in docs/subscribers.md; what the events are, in docs/asyncapi.yaml.
"""

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from libs.bus.broker import (
    CONNECT_TIMEOUT,
    PING_INTERVAL,
    RECONNECT_WAIT,
    inbox_prefix,
    tls_options,
    user_of,
)
from libs.contracts.base import Envelope, Event
from libs.contracts.events import EVENT_CLASSES, decode_event, type_of
from libs.tls import advice, trust_anew

STREAM = "EVENTS"
API = "tuneyard"
"""What a subscriber's requests to JetStream begin with: they cross into the platform's account."""

ACK_WAIT = 10.0  # seconds until what a dead process held is delivered again
ALIVE_EVERY = 3.0  # seconds; what is held says so, three times before it would be delivered again
MAX_SIGNS = 1_200  # an hour; a handler that takes longer hangs
BATCH = 64  # events fetched at once; more only delay what is delivered again
PULL_SECONDS = 5.0  # a pull that NATS forgot in a restart is asked again then
FIRST_SECONDS = 10.0  # for a connection to a server that has just taken one
RETRY_PAUSE = 1.0  # seconds between tries while there is no NATS, or no consumer
REFUSED = "authorization violation"  # as the server says it

logger = logging.getLogger(__name__)
decode_envelope = msgspec.json.Decoder(Envelope).decode


class Refused(Exception):
    """NATS does not take this user: its password is wrong, or the subscriber was removed."""


class Received:
    """One event. ``data`` is its struct, or the JSON as it came (`msgspec.Raw`) if it is of a type
    or a version that is newer than this program. It is delivered again until it is acknowledged.
    """

    def __init__(self, message: Msg, envelope: Envelope, held: dict[str, Msg]) -> None:
        self.envelope = envelope
        self.data = _decoded(envelope)
        self._message = message
        self._held = held

    @property
    def tries(self) -> int:
        """How often it was delivered, this time included."""
        return self._message.metadata.num_delivered

    async def ack(self) -> None:
        """It is dealt with: do this when its effect is durable, and not before."""
        self._held.pop(self._message.reply, None)
        await self._message.ack()

    async def nak(self, *, delay: float = 0.0) -> None:
        """Have it delivered again, after ``delay`` seconds."""
        self._held.pop(self._message.reply, None)
        await self._message.nak(delay=delay)


class Subscriber:
    """The events of the platform, oldest first, from where this subscriber left off.

    ``url`` is the address that was printed when it was created. ``types`` are the events wanted
    (classes, or names such as ``job.completed.v1``), all if empty; others are passed over. While
    NATS is away it waits, for ever. As long as a handler works, its event stays with it: an hour
    at most. ``api`` is ``$JS.API`` on a NATS of your own without an account for subscribers. At a
    ``tls://`` address, ``ca`` is the file of the CA that signs NATS's certificate, unless the
    machine knows it. Raises SettingsError where that can't be read.
    """

    def __init__(
        self,
        url: str,
        *,
        types: Collection[type[Event] | str] = (),
        api: str = API,
        ca: Path | None = None,
    ) -> None:
        self._url = url
        self._ca = ca
        self._tls = tls_options(url, ca)
        self._name = user_of(url)
        self._types = {one if isinstance(one, str) else type_of(one) for one in types}
        self._api = api
        self._fetched: deque[Msg] = deque()
        self._held: dict[str, Msg] = {}
        self._client = Client()
        self._alive: asyncio.Task[None] | None = None
        self._refusal: Refused | None = None

    async def __aenter__(self) -> "Subscriber":
        """Waits for NATS. Raises Refused."""
        while not await self._is_connected():
            logger.warning("NATS does not answer; trying again")
            await asyncio.sleep(RETRY_PAUSE)
        self._pull = await self._jetstream().pull_subscribe_bind(self._name, STREAM)
        self._alive = asyncio.create_task(self._say_alive())
        return self

    async def __aexit__(self, *_: object) -> None:
        """What was received and not acknowledged is delivered again, at once."""
        if self._alive is not None:
            self._alive.cancel()
        with suppress(nats.errors.Error, OSError):
            for message in self._held.values():
                await message.nak()
        with suppress(nats.errors.Error, OSError):
            await self._client.close()

    def __aiter__(self) -> "Subscriber":
        return self

    async def __anext__(self) -> Received:
        """The next event. Raises Refused when the subscriber was removed."""
        while True:
            if not self._fetched:
                await self._fetch()
                continue
            message = self._fetched.popleft()
            try:
                envelope = decode_envelope(message.data)
            except (msgspec.DecodeError, UnicodeDecodeError):
                logger.exception("passed over a message on %s that is no event", message.subject)
                self._held.pop(message.reply, None)
                await message.term()
                continue
            received = Received(message, envelope, self._held)
            if not self._types or envelope.type in self._types:
                return received
            await received.ack()

    async def _fetch(self) -> None:
        try:
            fetched = await self._pull.fetch(BATCH, timeout=PULL_SECONDS)
        except TimeoutError:  # nothing happened
            pass
        except (nats.errors.Error, nats.js.errors.Error, OSError) as error:
            logger.warning("no events (%r): trying again; does the subscriber exist?", error)
            await asyncio.sleep(RETRY_PAUSE)
        else:
            self._fetched.extend(fetched)
            self._held |= {message.reply: message for message in fetched}
        if self._refusal is not None:
            raise self._refusal

    async def _say_alive(self) -> None:
        """What waits here, or is being handled, is not to be delivered to another process."""
        signs: dict[str, int] = {}
        while True:
            await asyncio.sleep(ALIVE_EVERY)
            signs = {reply: signs.get(reply, 0) + 1 for reply in self._held}
            for reply, message in list(self._held.items()):
                if signs[reply] <= MAX_SIGNS:
                    with suppress(nats.errors.Error, OSError):
                        await message.in_progress()

    async def _is_connected(self) -> bool:
        """Whether NATS answers, and from then on for good. Raises Refused."""
        try:
            await self._connect(max_reconnect_attempts=1, allow_reconnect=False)
            await self._client.close()
            # Where a handshake fails here, nats-py waits for ever.
            async with asyncio.timeout(FIRST_SECONDS):
                await self._connect(max_reconnect_attempts=-1)
        except (nats.errors.Error, OSError, TimeoutError):
            if self._refusal is not None:
                raise self._refusal from None
            return False
        return True

    async def _note(self, error: Exception) -> None:
        """nats-py itself tries a wrong password for ever."""
        logger.warning("nats: %r %s", error, advice(error) or "")
        if self._ca is not None and isinstance(error, ssl.SSLCertVerificationError):
            trust_anew(self._tls["tls"], self._ca)
        if isinstance(error, nats.errors.AuthorizationError) or REFUSED in str(error).lower():
            self._refusal = Refused(f"NATS does not take the user {self._name}: {error}")

    async def _connect(self, **options: Any) -> None:
        self._client = await nats.connect(
            self._url,
            name=self._name,
            inbox_prefix=inbox_prefix(self._name).encode(),
            connect_timeout=CONNECT_TIMEOUT,
            reconnect_time_wait=RECONNECT_WAIT,
            ping_interval=PING_INTERVAL,
            error_cb=self._note,
            **self._tls,
            **options,
        )

    def _jetstream(self) -> JetStreamContext:
        return self._client.jetstream(prefix=self._api)


def _decoded(envelope: Envelope) -> Event | msgspec.Raw:
    if envelope.type not in EVENT_CLASSES:
        return envelope.data
    try:
        event: Event = decode_event(envelope.data)
    except msgspec.DecodeError:
        return envelope.data
    return event
