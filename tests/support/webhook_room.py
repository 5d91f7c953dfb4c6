"""The webhooks service's parts in this process: a database, a clock that tests move, a sender."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
from msgspec import Struct

from libs.contracts.base import Envelope, Event
from libs.eventlog.append import append_in
from libs.eventlog.connection import Connection, Pool, connect, create_pool
from libs.eventlog.record import AlreadyHandled, Append, Head, Record, records_after
from libs.jobstate.notice import NOTICE_TYPES
from libs.jobstate.state import JobState, fold, job_stream, row_of
from services.webhooks.guard import Gate
from services.webhooks.handlers import Desk, record
from services.webhooks.outbound import outbound
from services.webhooks.outcomes import AWAY
from services.webhooks.resolver import LookUp, Resolver, look_up
from services.webhooks.sender import Means, Sender
from tests.support.jobs import Clock, context, first_append, submission
from tests.support.receiver import Behave, Endpoint, Receiver, always
from tests.support.stack import Database
from tests.support.waiting import eventually

ENDPOINT_SQL = """
INSERT INTO webhooks.endpoint
    (id, account_id, url, event_types, enabled, secret, previous_secret, previous_until,
     created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)
"""


def delivered(record_: Record, position: int, event: Event, at: datetime) -> Envelope:
    """An event of the log as the relay brings it."""
    return Envelope(
        event_id=record_.event_id,
        position=position,
        stream=record_.stream,
        version=record_.version,
        type=record_.type,
        job_id=record_.job_id,
        account_id=record_.account_id,
        occurred_at=at,
        causation_id=None,
        traceparent=None,
        data=msgspec.Raw(msgspec.json.encode(event)),
    )


async def append_job(
    sql: Connection, account_id: UUID, at: datetime, *events: Event
) -> tuple[JobState, list[tuple[Envelope, Event]]]:
    """A job in the log that was submitted, and to which ``events`` happened."""
    event, job_id = submission(), uuid4()
    append, state = first_append(job_id, account_id, event, at)
    position = await append_in(sql, append)
    sent: list[tuple[Envelope, Event]] = [
        (delivered(append.records[0], position, event, at), event)
    ]
    head = Head(stream=job_stream(job_id), version=1, hash=append.records[0].hash)
    for later in events:
        (one,) = records_after(head, [later], context(at), job_id=job_id, account_id=account_id)
        state = fold(state, later, at)  # type: ignore[arg-type]
        position = await append_in(sql, Append(records=(one,), job=row_of(state)))
        sent.append((delivered(one, position, later, at), later))
        head = Head(stream=head.stream, version=one.version, hash=one.hash)
    return state, sent


async def _recorded(desk: Desk, envelope: Envelope, event: Event) -> None:
    """As the bus does it: what fails is tried again."""
    while True:
        try:
            await record(desk, envelope, event)
        except AlreadyHandled:
            return
        except AWAY:
            await asyncio.sleep(0.05)
        else:
            return


TOLERANCE = timedelta(minutes=5)  # the reference library's

# What the sender would take now, or has taken.
BUSY_SQL = """
SELECT count(*) FROM webhooks.delivery d JOIN webhooks.endpoint e ON e.id = d.endpoint_id
WHERE d.status = 'pending' AND (
    d.next_at = $1::timestamptz + interval '45 s' OR d.next_at <= $1 AND (
        d.payload IS NOT NULL
        OR e.enabled AND (e.held_until IS NULL OR e.held_until <= $1)))
"""


class Room(Struct, kw_only=True):
    """``sql`` may do anything; ``pool`` is what webhooks may do."""

    database: Database
    pool: Pool
    sql: Connection
    clock: Clock
    receiver: Receiver
    gate: Gate
    account_id: UUID
    look_up: LookUp = look_up
    timeout: float = 15.0
    jitter: float = 0.0
    wake: Callable[[], None] = lambda: None
    sentinel: UUID | None = None

    async def endpoint(
        self, path: str, behave: Behave, url: str | None = None, **fields: Any
    ) -> tuple[UUID, Endpoint]:
        """An endpoint of the account that leads to the receiver."""
        id_, secret = uuid4(), fields.get("secret", uuid4().bytes * 2)
        await self.sql.execute(
            ENDPOINT_SQL,
            id_,
            fields.get("account_id", self.account_id),
            url or self.receiver.url(path),
            fields.get("event_types"),
            fields.get("enabled", True),
            secret,
            fields.get("previous_secret"),
            fields.get("previous_until"),
            self.clock.now,
        )
        return id_, self.receiver.add(path, secret, behave)

    async def happen(self, *events: Event, account_id: UUID | None = None) -> list[Envelope]:
        """A new job, and what happened to it: in the log, and told to webhooks. What its owner
        is told of."""
        _, sent = await append_job(self.sql, account_id or self.account_id, self.clock.now, *events)
        desk = Desk(pool=self.pool, now=lambda: self.clock.now, new_id=uuid4, recorded=lambda: None)
        told = [(envelope, event) for envelope, event in sent if type(event) in NOTICE_TYPES]
        for envelope, event in told:
            await _recorded(desk, envelope, event)
        return [envelope for envelope, _ in told]

    @asynccontextmanager
    async def sender(self) -> AsyncIterator[Sender]:
        now = lambda: self.clock.now  # noqa: E731
        async with (
            outbound(self.gate, Resolver(self.look_up), now, timeout=self.timeout) as client,
            Sender(
                Means(
                    pool=self.pool,
                    client=client,
                    now=now,
                    monotonic=monotonic,
                    chance=lambda: self.jitter,
                )
            ) as sender,
        ):
            self.wake = sender.wake
            yield sender

    async def ping(self, endpoint: UUID, payload: bytes) -> None:
        """What a test of the endpoint puts into the queue."""
        await self.sql.execute(
            "INSERT INTO webhooks.delivery (id, endpoint_id, event_id, event_type, status, step,"
            " attempts, next_at, created_at, payload)"
            " VALUES ($1, $2, $3, 'ping', 'pending', 0, 0, $4, $4, $5)",
            uuid4(),
            endpoint,
            uuid4(),
            self.clock.now,
            payload,
        )

    async def until(self, holds: Callable[[], bool]) -> None:
        async def read() -> bool:
            return holds()

        await eventually(read, bool)

    async def settled(self) -> None:
        """Until the sender has looked for what is due now, and nothing of that is left: what it
        has not sent by then, it does not send at this time of the clock."""
        await self.ping(await self._sentinel(), b"{}")
        self.wake()
        await eventually(
            partial(self.sql.fetchval, BUSY_SQL, self.clock.now), lambda count: count == 0
        )

    async def _sentinel(self) -> UUID:
        """An endpoint of nobody's, whose ping is claimed in the same statement as what is due."""
        if self.sentinel is None:
            url = self.receiver.url("/nobody")
            self.sentinel, _ = await self.endpoint("/", always(), url=url, account_id=uuid4())
            del self.receiver.endpoints["/"]
        return self.sentinel

    async def pass_time(self, time: timedelta) -> None:
        self.clock.now += time
        await self.settled()

    async def deliveries(self, endpoint: UUID) -> list[asyncpg.Record]:
        return await self.sql.fetch(
            "SELECT * FROM webhooks.delivery WHERE endpoint_id = $1 ORDER BY created_at, id",
            endpoint,
        )

    async def health(self, endpoint: UUID) -> asyncpg.Record:
        row = await self.sql.fetchrow("SELECT * FROM webhooks.endpoint WHERE id = $1", endpoint)
        assert row is not None
        return row

    async def attempts(self, endpoint: UUID) -> list[asyncpg.Record]:
        return await self.sql.fetch(
            "SELECT a.* FROM webhooks.attempt a JOIN webhooks.delivery d ON d.id = a.delivery_id"
            " WHERE d.endpoint_id = $1 ORDER BY a.delivery_id, a.number",
            endpoint,
        )


@asynccontextmanager
async def webhook_room(database: Database) -> AsyncIterator[Room]:
    """Time stands still at the present, so that the reference library takes the signatures."""
    clock = Clock(now=datetime.now().astimezone())
    sql = await connect(database.admin_dsn)
    async with (
        create_pool(database.dsn("webhooks"), size=8) as pool,
        Receiver(lambda sent: abs(sent - clock.now) < TOLERANCE).serving() as receiver,
    ):
        yield Room(
            database=database,
            pool=pool,
            sql=sql,
            clock=clock,
            receiver=receiver,
            gate=Gate(allow_loopback=True),
            account_id=uuid4(),
        )
    await sql.close()
