"""What webhooks does with an event: remember, once, what its account's endpoints are told of it."""

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

import msgspec
from msgspec import Struct

from libs.bus.consume import durable_name
from libs.contracts.base import Envelope, Event
from libs.contracts.events import type_of
from libs.eventlog.connection import Pool
from libs.eventlog.inbox import enter
from libs.eventlog.record import Inbox
from libs.jobstate.notice import NOTICE_TYPES, notice_of
from libs.observability.trace import traceparent_within

RECORD_SQL = """
INSERT INTO webhooks.notification
    (event_id, job_id, account_id, event_type, occurred_at, payload, traceparent)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
WHO_WANTS_SQL = """
SELECT id FROM webhooks.endpoint
WHERE account_id = $1 AND enabled AND (event_types IS NULL OR $2 = ANY (event_types))
"""
# An endpoint that was removed just now is left out by the join.
DELIVER_SQL = """
INSERT INTO webhooks.delivery
    (id, endpoint_id, event_id, event_type, job_id, status, step, attempts, next_at, created_at)
SELECT new.id, e.id, $3, $4, $5, 'pending', 0, 0, $6, $6
FROM unnest($1::uuid[], $2::uuid[]) AS new (id, endpoint_id)
JOIN webhooks.endpoint e ON e.id = new.endpoint_id
ON CONFLICT (endpoint_id, event_id) DO NOTHING
"""


class Desk(Struct, frozen=True, kw_only=True):
    """What recording needs; ``now`` is UTC, ``recorded`` is called after each commit."""

    pool: Pool
    now: Callable[[], datetime]
    new_id: Callable[[], UUID]
    recorded: Callable[[], None]


async def record(desk: Desk, envelope: Envelope, event: Event) -> None:
    """Raises AlreadyHandled for an event that was recorded before, NotInTheLog for one whose job
    the log does not have."""
    consumer = durable_name("webhooks", type_of(type(event)))
    kind = NOTICE_TYPES[type(event)]
    async with desk.pool.acquire() as connection, connection.transaction():
        await enter(connection, Inbox(consumer=consumer, event_id=envelope.event_id))
        notice = await notice_of(connection, envelope, kind)
        await connection.execute(
            RECORD_SQL,
            envelope.event_id,
            envelope.job_id,
            envelope.account_id,
            kind,
            envelope.occurred_at,
            msgspec.json.encode(notice),
            traceparent_within(envelope.traceparent),
        )
        endpoints = [
            row["id"] for row in await connection.fetch(WHO_WANTS_SQL, envelope.account_id, kind)
        ]
        if endpoints:
            await connection.execute(
                DELIVER_SQL,
                [desk.new_id() for _ in endpoints],
                endpoints,
                envelope.event_id,
                kind,
                envelope.job_id,
                desk.now(),
            )
    if endpoints:
        desk.recorded()
