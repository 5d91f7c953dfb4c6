"""The sender: claims what is due, attempts it, and writes what came of it, for ever.

At least once: a delivery leaves the queue only when its outcome is durable. A process that dies
leaves claims behind that lapse. How much is in flight is bounded for each endpoint, for the failing
ones together, and for all, so that nobody waits for another's slow receiver.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from uuid import UUID

import structlog
from msgspec import Struct
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_STATUS_CODE,
)
from opentelemetry.trace import SpanKind

from libs.eventlog.connection import Pool
from libs.observability.spans import span
from libs.observability.trace import continued
from services.webhooks.claims import AT_ONCE_FAILING, Claimed, Room, claim
from services.webhooks.counting import count
from services.webhooks.model import Attempted
from services.webhooks.outbound import Client, Reply, post
from services.webhooks.outcomes import Outcome, Outcomes
from services.webhooks.signing import signed_headers

IN_FLIGHT = 1_024  # deliveries of one process, each up to 100 KB with its connection and buffers
FAILING_IN_FLIGHT = IN_FLIGHT // 2  # whoever hangs shares one half with the others who do
PINGS_IN_FLIGHT = 128  # an account has 100 at most; somebody waits for each of them
POLL = 1.0  # seconds; for what falls due, and what other replicas have recorded
BREATH = 0.01  # seconds between claims; what ends meanwhile makes room for more in one statement
AGAIN_AFTER = 1.0  # seconds, when PostgreSQL does not answer
STOP_PATIENCE = 1.0  # seconds, of the 5 a supervisor waits; what is cut off comes again

NOT_KEPT = "What happened is not kept any more."

NO_ANSWER = "no whole answer"
CONVENTIONAL = {HTTP_REQUEST_METHOD: "POST"}
"""Not the receiver's address: it is the customer's, and may hold a secret."""

logger = structlog.get_logger()


class Means(Struct, frozen=True, kw_only=True):
    """What sending needs; ``monotonic`` is in seconds, ``chance`` between 0 and 1."""

    pool: Pool
    client: Client
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    chance: Callable[[], float]


class Sender:
    """Use it in ``async with``. ``wake`` says that something may be due now; it costs nothing."""

    def __init__(self, means: Means) -> None:
        self._means = means
        self._outcomes = Outcomes(means.pool)
        self._busy: Counter[UUID] = Counter()
        self._failing = 0
        self._pings = 0
        self._attempts: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()

    def wake(self) -> None:
        self._news.set()

    async def __aenter__(self) -> "Sender":
        self._claiming = asyncio.create_task(self._claim_for_ever())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._claiming.cancel()
        with suppress(asyncio.CancelledError):
            await self._claiming
        if self._attempts:
            await asyncio.wait(self._attempts, timeout=STOP_PATIENCE)
        left = list(self._attempts)
        for attempt in left:
            attempt.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._outcomes.stop()

    async def _claim_for_ever(self) -> None:
        while True:
            try:
                await self._claim()
            except Exception as error:  # PostgreSQL is away; what is due stays due
                logger.warning("nothing claimed", error=repr(error))
                await asyncio.sleep(AGAIN_AFTER)
            await asyncio.sleep(BREATH)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL):
                    await self._news.wait()

    async def _claim(self) -> None:
        self._news.clear()
        for claimed in await claim(self._means.pool, self._busy, self._room(), self._means.now()):
            self._enter(claimed)
            task = asyncio.create_task(self._attempt(claimed))
            self._attempts.add(task)
            task.add_done_callback(self._attempts.discard)

    def _room(self) -> Room:
        return Room(
            deliveries=max(IN_FLIGHT - len(self._attempts), 0),
            failing_endpoints=max(FAILING_IN_FLIGHT - self._failing, 0) // AT_ONCE_FAILING,
            pings=max(PINGS_IN_FLIGHT - self._pings, 0),
        )

    def _enter(self, claimed: Claimed) -> None:
        if claimed.ping:
            self._pings += 1
            return
        self._failing += claimed.failing
        self._busy[claimed.endpoint_id] += 1

    def _leave(self, claimed: Claimed) -> None:
        self.wake()  # there is room for another
        if claimed.ping:
            self._pings -= 1
            return
        self._failing -= claimed.failing
        self._busy[claimed.endpoint_id] -= 1
        if not self._busy[claimed.endpoint_id]:
            del self._busy[claimed.endpoint_id]

    async def _attempt(self, claimed: Claimed) -> None:
        in_flight = True
        try:
            attempted = await self._made(claimed)
            if attempted.accepted:  # a failure makes no room before claims know of it
                in_flight = False
                self._leave(claimed)
            await self._outcomes.write(
                Outcome(
                    delivery_id=claimed.id,
                    endpoint_id=claimed.endpoint_id,
                    attempted=attempted,
                    chance=self._means.chance(),
                )
            )
            count(claimed, attempted)
        finally:
            if in_flight:
                self._leave(claimed)

    async def _made(self, claimed: Claimed) -> Attempted:
        # The receiver is not told of the trace: it is of no use to who sees none of its spans.
        with continued(claimed.traceparent), span("POST", SpanKind.CLIENT, CONVENTIONAL) as sending:
            attempted = await self._answered(claimed)
            sending.set(delivery_id=str(claimed.id), webhook_id=str(claimed.endpoint_id))
            if attempted.status_code is not None:
                sending.describe({HTTP_RESPONSE_STATUS_CODE: attempted.status_code})
            if not attempted.accepted:
                sending.fail(str(attempted.status_code or NO_ANSWER))
            return attempted

    async def _answered(self, claimed: Claimed) -> Attempted:
        started_at, began = self._means.now(), self._means.monotonic()
        reply = await self._reply_to(claimed, started_at)
        return Attempted(
            claimed_until=claimed.until,
            ping=claimed.ping,
            started_at=started_at,
            ended_at=self._means.now(),
            latency_ms=round((self._means.monotonic() - began) * 1_000),
            status_code=reply.status_code,
            error=reply.error,
            response=reply.response,
            retry_after=reply.retry_after,
            kept=claimed.payload is not None,
        )

    async def _reply_to(self, claimed: Claimed, now: datetime) -> Reply:
        if claimed.payload is None:
            return Reply(error=NOT_KEPT)
        headers = signed_headers(claimed.event_id, claimed.payload, claimed.secrets, now)
        return await post(self._means.client, claimed.url, claimed.payload, headers)
