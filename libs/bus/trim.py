"""Trimming the inbox: a message that can't be delivered again needs no row any more.

An event that was appended at T is in the outbox for moments, then in its stream for `EVENTS_DAYS`.
`libs.bus.republish` may put it there once more, until T + `EVENTS_DAYS`; so the last copy is gone
after twice that. Its row in the inbox is no older than T. What goes out later than that, since
there was no relay for days, holds all trimming up. A report is in its stream until it was handled,
so rows as old as the oldest report there stay. A dead letter can be handled again at any time, so
its row stays for as long as there is the letter.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

import msgspec
import structlog
from msgspec import Struct
from nats.aio.client import Client

from libs.bus.streams import DAY, EVENTS_DAYS, REPORTS
from libs.eventlog.connection import Connection, connect

MARGIN = timedelta(days=1)
"""For clocks that differ, and for a handler that was given its message at the last moment."""

STREAM_KEEPS = timedelta(seconds=EVENTS_DAYS * DAY)
LATE = STREAM_KEEPS + MARGIN
KEPT = STREAM_KEEPS + LATE + MARGIN
TRIM_EVERY = 300.0  # seconds; the rows of five minutes are few batches at any load
BATCH = 1_000  # rows a statement: some ten milliseconds, during which nobody waits
PAUSE = 0.1  # seconds between two; what a year left behind costs others a tenth of a core at most
PATIENCE = 2.0  # seconds for NATS to say what it has

TRIM_SQL = """
DELETE FROM log.inbox WHERE ctid = ANY (ARRAY(
    SELECT i.ctid FROM log.inbox i
    WHERE i.handled_at < least(now() - $1::interval, $2::timestamptz)
        AND NOT EXISTS (SELECT FROM log.inbox_hold WHERE until > now())
        AND NOT EXISTS (
            SELECT FROM log.event WHERE position = (SELECT min(position) FROM log.outbox)
                AND recorded_at < now() - $3::interval)
        AND NOT EXISTS (
            SELECT FROM log.dead_letter d
            WHERE (d.consumer, d.message_id) = (i.consumer, i.event_id))
    ORDER BY i.handled_at LIMIT $4))
"""
HOLD_SQL = "UPDATE log.inbox_hold SET until = greatest(until, now() + $1::interval)"

logger = structlog.get_logger()


class _State(Struct, frozen=True):
    messages: int
    first_ts: datetime


class _Stream(Struct, frozen=True):
    state: _State


_decode = msgspec.json.Decoder(_Stream).decode


async def hold(connection: Connection) -> None:
    """Trim nothing for as long as what is published from now on can be delivered.

    To be committed before an event is published that was recorded more than ``LATE`` ago.
    """
    await connection.execute(HOLD_SQL, LATE)


async def trim(database_url: str, oldest_report: Callable[[], Awaitable[datetime | None]]) -> int:
    """Delete what is due, in batches; how many rows. More than one at once do no harm.

    Raises as asyncpg and ``oldest_report`` do; what was deleted until then was due.
    """
    oldest = await oldest_report()
    limit = oldest - MARGIN if oldest else None
    connection = await connect(database_url)
    trimmed = 0
    try:
        while True:
            status = await connection.execute(TRIM_SQL, KEPT, limit, LATE, BATCH)
            trimmed += (rows := int(status.rpartition(" ")[2]))
            if rows < BATCH:
                break
            await asyncio.sleep(PAUSE)
    finally:
        connection.terminate()
    if trimmed:
        logger.info("inbox trimmed", rows=trimmed)
    return trimmed


async def oldest_report(client: Client) -> datetime | None:
    """When the oldest report was sent that is still in its stream; nats-py does not say it.

    Raises as nats-py does, and msgspec.ValidationError where NATS has no such stream.
    """
    answer = await client.request(f"$JS.API.STREAM.INFO.{REPORTS.name}", timeout=PATIENCE)
    state = _decode(answer.data).state
    return state.first_ts if state.messages else None
