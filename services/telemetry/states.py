"""Changes of a job's state on its account's stream: the notices that webhooks deliver, in order."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from uuid import UUID

import msgspec
import nats.errors
import nats.js.errors
from faststream.nats import NatsBroker
from msgspec import Struct
from nats.js import JetStreamContext

from libs.bus.consume import durable_name
from libs.bus.relay import envelope_of
from libs.bus.streams import TELEMETRY, logs_subject, metrics_subject
from libs.contracts.base import Envelope, Event
from libs.contracts.events import EVENT_CLASSES, type_of
from libs.eventlog.connection import Connection, Pool
from libs.jobstate.notice import NOTICE_TYPES, notice_of
from libs.jobstate.state import ENDED
from services.telemetry.sequence import Told, add, publish

SETTLE_PATIENCE = 5.0
"""Seconds that the end of a job waits for what its trainer has said before; usually it is there."""

SETTLE_PAUSE = 0.02  # seconds between two looks; nobody sees the end later than that

TYPES = [type_of(event_class) for event_class in NOTICE_TYPES]

# Of the account, so that whoever else would tell the same waits, and then sees that it was told.
LOCK_SQL = """
INSERT INTO telemetry.sequence AS known (account_id, last) VALUES ($1, 0)
ON CONFLICT (account_id) DO UPDATE SET last = known.last
"""

UNTOLD_SQL = """
SELECT e.position, e.event_id, e.stream, e.version, e.type, e.job_id, e.account_id, e.data, e.meta
FROM log.event e
WHERE e.stream = $1 AND e.version <= $2 AND e.type = ANY($3)
  AND NOT EXISTS (SELECT FROM telemetry.message m
                  WHERE m.event_id = e.event_id AND m.kind = 'state')
ORDER BY e.version
"""


class Teller(Struct, frozen=True):
    pool: Pool
    broker: NatsBroker


async def tell_state(teller: Teller, envelope: Envelope, event: Event) -> None:
    """Tell of the event, and of those before it that nobody has told: events of different types
    reach us in any order. Told twice, it changes nothing."""
    kind = NOTICE_TYPES[type(event)]
    if kind.removeprefix("job.") in ENDED:
        await settle(teller.broker, envelope.job_id)
    await tell_until(teller, envelope.account_id, envelope.stream, envelope.version)


async def tell_until(teller: Teller, account_id: UUID, stream: str, version: int) -> None:
    """Tell of every change of the job's state up to this version that was not told."""
    async with teller.pool.acquire() as connection, connection.transaction():
        await connection.execute(LOCK_SQL, account_id)
        rows = await connection.fetch(UNTOLD_SQL, stream, version, TYPES)
        placed = await add(connection, await _notices(connection, [envelope_of(r) for r in rows]))
    await publish(teller.broker, placed)


async def _notices(connection: Connection, envelopes: Sequence[Envelope]) -> list[Told]:
    told = []
    for envelope in envelopes:
        notice = await notice_of(connection, envelope, NOTICE_TYPES[EVENT_CLASSES[envelope.type]])
        state = Told(
            account_id=envelope.account_id,
            job_id=envelope.job_id,
            kind="state",
            payload=msgspec.json.encode(notice),
            event_id=envelope.event_id,
        )
        told.append(state)
        if notice.data.status in ENDED:
            told.append(msgspec.structs.replace(state, kind="done"))
    return told


async def settle(broker: NatsBroker, job_id: UUID) -> None:
    """Wait until what the job's trainer has published is stored, or for as long as is reasonable:
    then something is wrong with telemetry's own consumers, and the end of a job is told anyway."""
    with suppress(TimeoutError, nats.errors.Error, nats.js.errors.Error):
        async with asyncio.timeout(SETTLE_PATIENCE) as patience:
            jetstream = (await broker.connect()).jetstream()
            for subject in (metrics_subject(job_id), logs_subject(job_id)):
                await _stored(jetstream, subject, patience)


async def _stored(jetstream: JetStreamContext, subject: str, patience: asyncio.Timeout) -> None:
    stream = TELEMETRY.name
    assert stream is not None
    try:
        last = await jetstream.get_last_msg(stream, subject)
    except nats.js.errors.NotFoundError:
        return
    durable = durable_name("telemetry", subject.split(".")[1])

    async def passed() -> bool:
        floor = (await jetstream.consumer_info(stream, durable)).ack_floor
        return floor is not None and last.seq is not None and floor.stream_seq >= last.seq

    await look_until(passed, patience)


async def look_until(holds: Callable[[], Awaitable[bool]], patience: asyncio.Timeout) -> None:
    """Look again and again, within the timeout that this runs in.

    That says by itself when it is over: NATS's client waits with asyncio.wait_for, which on Python
    3.11 gives an answer that comes with a cancellation, and forgets the latter (gh-86296).
    """
    while not patience.expired() and not await holds():  # noqa: ASYNC110 (NATS sets no Event)
        await asyncio.sleep(SETTLE_PAUSE)
