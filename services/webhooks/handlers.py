"""What webhooks does with an event: remember, once, that customers may be told of it."""

from libs.bus.consume import durable_name
from libs.contracts.base import Envelope, Event
from libs.contracts.events import type_of
from libs.eventlog.connection import Pool
from libs.eventlog.inbox import enter
from libs.eventlog.record import Inbox
from libs.jobstate.notice import NOTICE_TYPES

RECORD_SQL = """
INSERT INTO webhooks.notification (event_id, job_id, account_id, event_type, occurred_at)
VALUES ($1, $2, $3, $4, $5)
"""


async def record(pool: Pool, envelope: Envelope, event: Event) -> None:
    """Raises AlreadyHandled for an event that was recorded before."""
    consumer = durable_name("webhooks", type_of(type(event)))
    async with pool.acquire() as connection, connection.transaction():
        await enter(connection, Inbox(consumer=consumer, event_id=envelope.event_id))
        await connection.execute(
            RECORD_SQL,
            envelope.event_id,
            envelope.job_id,
            envelope.account_id,
            NOTICE_TYPES[type(event)],
            envelope.occurred_at,
        )
